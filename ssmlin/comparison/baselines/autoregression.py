"""Baselines in closed form: the last value, the last season, and least-squares autoregression."""

from typing import Any

import numpy as np
from jaxtyping import Float

from ssmlin.forecasting import (
    Ahead,
    Fit,
    Fitted,
    Observed,
    Predictive,
    draw_lags,
    exact_predictions,
    lags_and_inputs,
    last_values,
    least_squares,
    moments_of,
    with_season,
)
from ssmlin.models.autoregression import Autoregression, Predictions, estimate_autoregression


def fit_seasonal(
    train: Observed, seed: int, *, fit: Fit, seasonal: int | None = None, **setting: Any
) -> Fitted:
    """Any fit, with the harmonics of a season among its inputs."""
    fitted = fit(with_season(train, seasonal), seed, **setting)

    def predict(observed: Observed) -> Predictive:
        return fitted.predict(with_season(observed, seasonal))

    def simulate(observed: Observed, ahead: Ahead) -> np.ndarray:
        assert fitted.simulate is not None
        return fitted.simulate(with_season(observed, seasonal), ahead)

    details = fitted.details
    if hasattr(details, "seasonal"):
        details = details._replace(seasonal=seasonal)
    known = None if fitted.simulate is None else simulate
    return fitted._replace(predict=predict, simulate=known, details=details)


def residual_covariance(
    coefficients: Float[np.ndarray, "k m"], residuals: Float[np.ndarray, "n m"]
) -> Float[np.ndarray, "m m"]:
    """Residual covariance, divided by the degrees of freedom left."""
    return residuals.T @ residuals / (len(residuals) - len(coefficients))


def fit_autoregression(train: Observed, seed: int, *, num_lags: int) -> Fitted:
    """Vector autoregression with inputs and intercept by least squares, plug-in Gaussian laws.

    Where values are missing it is fitted by maximum likelihood and predicts exactly, what is
    missing integrated out.
    """
    del seed  # nothing is random here
    m = train.values.shape[1]
    if np.isnan(train.values).any():
        parameters = estimate_autoregression(train.values[None], train.inputs[None], num_lags)
    else:
        coefficients, residuals = least_squares(train, num_lags)
        covariance = residual_covariance(coefficients, residuals)
        parameters = Autoregression(coefficients[:-1].T, coefficients[-1], covariance)
    weights, bias, covariance = parameters
    moments = moments_of(train.values)

    def predict(observed: Observed) -> Predictive:
        if np.isnan(observed.values).any():
            laws = exact_predictions(parameters, observed, num_lags, moments)
            return Predictive.gaussian(laws.means, laws.covariances)
        means = lags_and_inputs(observed, num_lags) @ weights.T + bias
        return Predictive.gaussian(means, covariance)

    def simulate(observed: Observed, ahead: Ahead) -> np.ndarray:
        lags = last_values(observed.values, ahead, num_lags)[:, None]
        if np.isnan(observed.values).any():
            laws = exact_predictions(parameters, observed, num_lags, moments)
            lags = draw_lags(laws, ahead, num_lags, m)
        return simulate_switching(
            np.ones((1, 1)),
            np.ones((len(ahead.origins), 1)),
            weights[None],
            bias[None],
            covariance[None],
            lags,
            observed,
            ahead,
        )

    return Fitted(predict, weights.size + m + m * (m + 1) // 2, simulate)


def simulate_switching(
    transition: Float[np.ndarray, "K K"],
    probs: Float[np.ndarray, "N K"],
    weights: Float[np.ndarray, "K m p"],
    biases: Float[np.ndarray, "K m"],
    covariances: Float[np.ndarray, "K m m"],
    lags: Float[np.ndarray, "N n num_lags m"],
    observed: Observed,
    ahead: Ahead,
) -> Float[np.ndarray, "N n H m"]:
    """Paths of autoregressions whose coefficients a Markov chain chooses; one state is none.

    Args:
        transition: row k holds the probabilities of the state after k.
        probs: of the state of the first step of the paths.
        weights: of lagged values, the latest first, then inputs; in each state.
        biases: intercepts.
        covariances: of the noise.
        lags: the values before each origin, the latest first; for each path, or n = 1 for all.
        observed: holds the inputs.
        ahead: the paths wanted.

    Returns:
        The paths.
    """
    rng, n = np.random.default_rng(ahead.seed), ahead.num_samples
    future = ahead.future(observed.inputs)
    roots = np.linalg.cholesky(covariances)
    num_origins, _, num_lags, m = lags.shape
    history = np.broadcast_to(lags, (num_origins, n, num_lags, m))
    probs = np.broadcast_to(probs[:, None], (num_origins, n, len(transition)))
    path = []
    for step in range(ahead.horizon):
        bounds = np.cumsum(probs, axis=-1)
        u = rng.uniform(size=(num_origins, n, 1)) * bounds[..., -1:]
        state = np.minimum((u > bounds).sum(axis=-1), len(transition) - 1)
        inputs = np.broadcast_to(future[:, step, None], (num_origins, n, future.shape[-1]))
        design = np.concatenate([history.reshape(num_origins, n, -1), inputs], axis=-1)
        mean = np.einsum("snp,snmp->snm", design, weights[state]) + biases[state]
        noise = rng.normal(size=(num_origins, n, m))
        value = mean + np.einsum("snij,snj->sni", roots[state], noise)
        path.append(value)
        history = np.concatenate([value[:, :, None], history], axis=2)[:, :, :num_lags]
        probs = transition[state]
    return np.stack(path, axis=2)


def fit_naive(train: Observed, seed: int, *, period: int = 1) -> Fitted:
    """The value one period before, with Gaussian changes; a period of 1 is a random walk.

    A value that is missing counts as another change to make.
    """
    del seed
    values = train.values
    changes = values[period:] - values[:-period]
    changes = changes[np.isfinite(changes).all(axis=1)]
    if len(changes) <= values.shape[1]:
        raise ValueError(f"period: expected several periods of training steps, got {period}")
    covariance = changes.T @ changes / len(changes)
    m = values.shape[1]
    walk, moments = Autoregression(np.eye(m), np.zeros(m), covariance), moments_of(values)

    def phases(observed: Observed) -> Predictions:
        """The exact laws: the steps of each place in the period are a random walk."""
        steps = len(observed.values)
        several = [
            exact_predictions(walk, _every(observed, place, period), 1, moments)
            for place in range(period)
        ]
        return Predictions(
            *(_interleaved(list(parts), steps) for parts in zip(*several, strict=True))
        )

    def predict(observed: Observed) -> Predictive:
        if np.isnan(observed.values).any():
            laws = phases(observed)
            return Predictive.gaussian(laws.means, laws.covariances)
        before = last_values(observed.values, Ahead(np.arange(len(observed.values)), 1), period)
        return Predictive.gaussian(before[:, -1], covariance)

    def simulate(observed: Observed, ahead: Ahead) -> np.ndarray:
        # An autoregression on the value one period before.
        weights = np.concatenate([np.zeros((m, m * (period - 1))), np.eye(m)], axis=1)
        lags = last_values(observed.values, ahead, period)[:, None]
        if np.isnan(observed.values).any():
            laws = phases(observed)
            places = [
                draw_lags(
                    laws, ahead._replace(origins=ahead.origins - back, seed=ahead.seed + back), 1, m
                )
                for back in range(period)
            ]
            lags = np.concatenate(places, axis=2)
        return simulate_switching(
            np.ones((1, 1)),
            np.ones((len(ahead.origins), 1)),
            weights[None],
            np.zeros((1, m)),
            covariance[None],
            lags,
            Observed.of(observed.values),
            ahead,
        )

    return Fitted(predict, m * (m + 1) // 2, simulate)


def _every(observed: Observed, place: int, period: int) -> Observed:
    """Every step with one place in the period, missing ones added so that all are as long."""
    values = observed.values[place::period]
    length = -(-len(observed.values) // period)
    extra = np.full((length - len(values), values.shape[1]), np.nan)
    return Observed.of(np.concatenate([values, extra]))


def _interleaved(parts: list[np.ndarray], steps: int) -> np.ndarray:
    """Arrays of every place in the period as one of all steps."""
    return np.stack(parts, axis=1).reshape(-1, *parts[0].shape[1:])[:steps]
