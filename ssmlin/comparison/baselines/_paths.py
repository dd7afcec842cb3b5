"""Sampled paths of models that regress on the values before: one loop for all of them."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from ssmlin.forecasting import Ahead, Observed


def draw_paths[State](
    step: Callable[
        [int, Float[np.ndarray, "N n p"], State], tuple[Float[np.ndarray, "N n m"], State]
    ],
    state: State,
    lags: Float[np.ndarray, "N n num_lags m"],
    future: Float[np.ndarray, "N H k"],
) -> Float[np.ndarray, "N n H m"]:
    """Draw paths step by step; each value is a lag of the next ones.

    Args:
        step: from the number of the step, its regressors (lags, the latest first, then inputs;
            p = num_lags m + k) and the state of the paths to a draw of the value and the next
            state.
        state: the state before the first step.
        lags: the values before each of N origins, the latest first, for each of n paths.
        future: inputs of the steps to come.

    Returns:
        The paths.
    """
    num_origins, n, num_lags, _ = lags.shape
    path = []
    for number in range(future.shape[1]):
        inputs = np.broadcast_to(future[:, number, None], (num_origins, n, future.shape[-1]))
        regressors = np.concatenate([lags.reshape(num_origins, n, -1), inputs], axis=-1)
        value, state = step(number, regressors, state)
        path.append(value)
        lags = np.concatenate([value[:, :, None], lags], axis=2)[:, :, :num_lags]
    return np.stack(path, axis=2)


def simulate_switching(
    transition: Float[np.ndarray, "K K"],
    probs: Float[np.ndarray, "N K"],
    weights: Float[np.ndarray, "K m p"],
    biases: Float[np.ndarray, "K m"],
    covariances: Float[np.ndarray, "K m m"],
    lags: Float[np.ndarray, "N paths num_lags m"],
    observed: Observed,
    ahead: Ahead,
) -> Float[np.ndarray, "N n H m"]:
    """Draw paths of autoregressions whose coefficients follow a Markov chain of K states.

    Args:
        transition: row k holds the probabilities of the state after k.
        probs: probabilities of the state at the first step of the paths.
        weights: of lagged values, the latest first, then inputs; in each state.
        biases: intercepts.
        covariances: covariances of the noise.
        lags: the values before each origin, the latest first; for each path, or n = 1 for all.
        observed: holds the inputs.
        ahead: the paths wanted.

    Returns:
        The paths.
    """
    rng, n = np.random.default_rng(ahead.seed), ahead.num_samples
    roots = np.linalg.cholesky(covariances)
    num_origins, _, num_lags, m = lags.shape

    def step(
        number: int, regressors: Float[np.ndarray, "N n p"], probs: Float[np.ndarray, "N n K"]
    ) -> tuple[Float[np.ndarray, "N n m"], Float[np.ndarray, "N n K"]]:
        del number
        bounds = np.cumsum(probs, axis=-1)
        u = rng.uniform(size=(num_origins, n, 1)) * bounds[..., -1:]
        state = np.minimum((u > bounds).sum(axis=-1), len(transition) - 1)
        mean = np.einsum("snp,snmp->snm", regressors, weights[state]) + biases[state]
        noise = rng.normal(size=(num_origins, n, m))
        return mean + np.einsum("snij,snj->sni", roots[state], noise), transition[state]

    return draw_paths(
        step,
        np.broadcast_to(probs[:, None], (num_origins, n, len(transition))),
        np.broadcast_to(lags, (num_origins, n, num_lags, m)),
        ahead.future(observed.inputs),
    )


def simulate_autoregression(
    weights: Float[np.ndarray, "m p"],
    bias: Float[np.ndarray, " m"],
    covariance: Float[np.ndarray, "m m"],
    lags: Float[np.ndarray, "N paths num_lags m"],
    observed: Observed,
    ahead: Ahead,
) -> Float[np.ndarray, "N n H m"]:
    """Draw paths of one autoregression, see :func:`simulate_switching`."""
    return simulate_switching(
        np.ones((1, 1)), np.ones((len(ahead.origins), 1)), weights[None], bias[None],
        covariance[None], lags, observed, ahead,
    )  # fmt: skip
