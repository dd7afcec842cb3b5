r"""Linear autoregression with missing values, exactly: what is missing is integrated out.

$$y_t = \sum_{l=1}^{L} A_l y_{t-l} + E x_t + d + \varepsilon_t, \quad
  \varepsilon_t \sim N(0, \Sigma)$$

The last L + 1 values are the state of a dense linear Gaussian model that is observed without
noise. The first L values are free: normal about the mean of their column. Computed in double
precision, whatever JAX's default is; the setting holds inside a context only.

Source: Shumway and Stoffer (1982), Journal of Time Series Analysis 3.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from dynamax.linear_gaussian_ssm import ParamsLGSSM
from dynamax.linear_gaussian_ssm.inference import make_lgssm_params
from jaxtyping import Array, Float

from ssmlin._typing import AnyArray
from ssmlin.data import carried_forward, lagged
from ssmlin.inference import lgssm_filter, lgssm_smoother

_LEAST_GAIN = 1e-3  # nats an iteration
_RIDGE = 1e-2
_FLOOR = 1e-9  # of the noise, relative to the variance of a column


class Autoregression(NamedTuple):
    """Parameters of a linear autoregression with inputs.

    Attributes:
        weights: of the lagged values, the latest first, and of the inputs, (m, L·m + k).
        bias: d, (m,).
        covariance: Σ, (m, m).
    """

    weights: Float[AnyArray, "m p"]
    bias: Float[AnyArray, " m"]
    covariance: Float[AnyArray, "m m"]


#: Parameters, their log likelihood, its gain, and the number of iterations.
_Carry = tuple[Autoregression, Array, Array, Array]


class Predictions(NamedTuple):
    """What is known before and after every step.

    Attributes:
        means: E[y_t | y_{1:t-1}], (T, m).
        covariances: its covariance, (T, m, m).
        lag_means: E[(y_t, ..., y_{t-L}) | y_{1:t}], (T, (L + 1)·m).
        lag_covariances: its covariance.
    """

    means: Float[np.ndarray, "T m"]
    covariances: Float[np.ndarray, "T m m"]
    lag_means: Float[np.ndarray, "T n"]
    lag_covariances: Float[np.ndarray, "T n n"]


def _companion(
    parameters: Autoregression,
    values: Float[Array, "T m"],
    inputs: Float[Array, "T k"],
    centre: Float[Array, " m"],
    spread: Float[Array, " m"],
    num_lags: int,
) -> tuple[ParamsLGSSM, Array, Array, Array]:
    """The dense model of one series; its transitions, biases and noises."""
    steps, m = values.shape
    size = m * (num_lags + 1)
    is_free = jnp.arange(steps) < num_lags
    shift = jnp.eye(size, k=-m)
    weights = jnp.pad(parameters.weights[:, : m * num_lags], ((0, 0), (0, m)))
    first = jnp.where(is_free[:, None, None], 0.0, weights)
    transitions = jnp.broadcast_to(shift, (steps, size, size)).at[:, :m].set(first)
    driven = inputs @ parameters.weights[:, m * num_lags :].T + parameters.bias
    biases = jnp.pad(jnp.where(is_free[:, None], centre, driven), ((0, 0), (0, size - m)))
    noise = jnp.where(is_free[:, None, None], jnp.diag(spread), parameters.covariance)
    noises = jnp.pad(noise, ((0, 0), (0, size - m), (0, size - m)))
    model = make_lgssm_params(
        biases[0],
        noises[0],
        transitions,
        noises,
        jnp.eye(m, size),
        jnp.zeros(m),
        dynamics_bias=biases,
    )
    return model, transitions, biases, noises


@partial(jax.jit, static_argnames=("num_lags", "has_bias"))
def _maximise(
    start: Autoregression,
    values: Float[Array, "B T m"],
    inputs: Float[Array, "B T k"],
    centre: Float[Array, " m"],
    spread: Float[Array, " m"],
    active: Float[Array, " p"],
    max_iterations: Array,
    num_lags: int,
    has_bias: bool,
) -> Autoregression:
    """Expectation maximisation until it gains hardly anything; inactive weights stay zero."""
    m = values.shape[-1]
    width = m * num_lags
    seen = ~jnp.isnan(values).all(axis=-1)
    steps = jnp.arange(values.shape[1])
    end = jnp.where(seen, steps + 1, 0).max(axis=1)
    # What comes after the last observation says nothing.
    used = ((steps >= num_lags) & (steps < end[:, None])).astype(values.dtype)

    def moments(
        parameters: Autoregression, y: Array, x: Array, weight: Array
    ) -> tuple[Array, Array]:
        model = _companion(parameters, y, x, centre, spread, num_lags)[0]
        posterior = lgssm_smoother(model, y)
        # Everything in one vector: y_t, its lags, the inputs and a one.
        z = jnp.concatenate([posterior.smoothed_means, x, jnp.ones((len(y), 1))], axis=1)
        products = jnp.einsum("t,ti,tj->ij", weight, z, z)
        spreads = jnp.einsum("t,tij->ij", weight, posterior.smoothed_covariances)
        extra = z.shape[1] - len(spreads)
        return products + jnp.pad(spreads, ((0, extra), (0, extra))), posterior.marginal_loglik

    def body(carry: _Carry) -> _Carry:
        parameters, before, _, count = carry
        sums, log_likelihoods = jax.vmap(partial(moments, parameters))(values, inputs, used)
        total, log_likelihood = sums.sum(axis=0), log_likelihoods.sum()
        last = len(total) if has_bias else len(total) - 1
        used_here = jnp.concatenate([active, jnp.ones(int(has_bias))])
        gram = total[m:last, m:last] * used_here[:, None] * used_here
        cross = total[:m, m:last] * used_here
        ridge = jnp.diag(jnp.where(used_here > 0, _RIDGE, 1.0))
        coefficients = jnp.linalg.solve(gram + ridge, cross.T).T
        n = used.sum()
        residual = total[:m, :m] - coefficients @ cross.T
        residual = residual - cross @ coefficients.T + coefficients @ gram @ coefficients.T
        covariance = 0.5 * (residual + residual.T) / jnp.maximum(n, 1.0)
        covariance = covariance + jnp.diag(_FLOOR * spread)
        rest = width + inputs.shape[-1]
        bias = coefficients[:, -1] if has_bias else jnp.zeros(m)
        new = Autoregression(coefficients[:, :rest], bias, covariance)
        return new, log_likelihood, log_likelihood - before, count + 1

    def goes_on(carry: _Carry) -> Array:
        _, _, gain, count = carry
        return (count < max_iterations) & ((gain > _LEAST_GAIN) | (count < 2))

    before: Any = (start, -jnp.inf, jnp.inf, 0)
    last: Autoregression = jax.lax.while_loop(goes_on, body, before)[0]
    return last


def estimate_autoregression(
    values: Float[np.ndarray, "B T m"],
    inputs: Float[np.ndarray, "B T k"],
    num_lags: int,
    has_bias: bool = True,
    order: int | None = None,
    max_iterations: int = 300,
) -> Autoregression:
    """Maximise the likelihood of what was observed, from values carried forward over the gaps.

    Args:
        values: y of one or several series; NaN means missing.
        inputs: x, known everywhere.
        num_lags: L.
        has_bias: whether there is a d.
        order: the weights of lags above it are zero; default L.
        max_iterations: of expectation maximisation.

    Returns:
        The parameters; Σ is divided by the degrees of freedom left.

    Raises:
        ValueError: a column without any value.
    """
    _, steps, m = values.shape
    flat = values.reshape(-1, m)
    for column in range(m):
        if np.isnan(flat[:, column]).all():
            raise ValueError(f"emissions: expected values in column {column}, got none")
    centre, spread = np.nanmean(flat, axis=0), np.maximum(np.nanvar(flat, axis=0), 1e-12)
    designs, targets = [], []
    for y, x in zip(values, inputs, strict=True):
        known = carried_forward(np.asarray(y, float), centre)
        lags = lagged(known, num_lags)[num_lags:-1].reshape(steps - num_lags, num_lags * m)
        one = np.ones((steps - num_lags, 1))
        designs.append(np.concatenate([lags, x[num_lags:], one], axis=1))
        targets.append(known[num_lags:])
    design, target = np.concatenate(designs), np.concatenate(targets)
    design = design if has_bias else design[:, :-1]
    width = num_lags * m + inputs.shape[-1]
    active = np.ones(width)
    if order is not None:
        active[order * m : num_lags * m] = 0.0
    design[:, :width] *= active
    gram = design.T @ design + _RIDGE * np.eye(design.shape[1])
    coefficients = np.linalg.solve(gram, design.T @ target).T
    residuals = target - design @ coefficients.T
    covariance = residuals.T @ residuals / max(len(target), 1) + 1e-6 * np.diag(spread)
    bias = coefficients[:, -1] if has_bias else np.zeros(m)
    start = Autoregression(coefficients[:, :width], bias, covariance)
    with jax.enable_x64(True):
        found = _maximise(
            jax.tree.map(jnp.asarray, start),
            jnp.asarray(values, float),
            jnp.asarray(inputs, float),
            jnp.asarray(centre),
            jnp.asarray(spread),
            jnp.asarray(active),
            max_iterations,
            num_lags,
            has_bias,
        )
        weights, bias, covariance = (np.asarray(x) for x in found)
    observed = (~np.isnan(values[:, num_lags:])).any(axis=-1).sum()
    left = observed / max(observed - active.sum() - has_bias, 1)
    return Autoregression(weights, bias, covariance * left)


def predict_autoregression(
    parameters: Autoregression,
    values: Float[np.ndarray, "T m"],
    inputs: Float[np.ndarray, "T k"],
    num_lags: int,
    centre: Float[np.ndarray, " m"],
    spread: Float[np.ndarray, " m"],
) -> Predictions:
    """The exact laws of every value given those observed before it.

    Args:
        parameters: of the autoregression.
        values: y; NaN means missing, single entries too.
        inputs: x, known everywhere.
        num_lags: L.
        centre: the mean of the first L values, which are free.
        spread: their variances.

    Returns:
        The laws.
    """
    with jax.enable_x64(True):
        y, x = jnp.asarray(values, float), jnp.asarray(inputs, float)
        given = jax.tree.map(jnp.asarray, (parameters, centre, spread))
        return Predictions(*(np.asarray(a) for a in _predict(given[0], y, x, *given[1:], num_lags)))


@partial(jax.jit, static_argnames="num_lags")
def _predict(
    parameters: Autoregression, y: Array, x: Array, centre: Array, spread: Array, num_lags: int
) -> tuple[Array, Array, Array, Array]:
    """The filter, and its predictions."""
    m = y.shape[1]
    model, f, b, q = _companion(parameters, y, x, centre, spread, num_lags)
    posterior = lgssm_filter(model, y)
    filtered, covariances = posterior.filtered_means, posterior.filtered_covariances
    means = b.at[1:].add(jnp.einsum("tij,tj->ti", f[1:], filtered[:-1]))
    carried = jnp.einsum("tij,tjk,tlk->til", f[1:], covariances[:-1], f[1:])
    predicted = q.at[1:].add(carried)
    return means[:, :m], predicted[:, :m, :m], filtered, covariances
