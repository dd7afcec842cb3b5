"""The least-squares regression of emissions on inputs, where a model starts."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ssmlin.models._autoregression import estimate_autoregression
from ssmlin.models._missing_lags import lagged_values
from ssmlin.models._parts import LeastSquares, Sizes, settled
from ssmlin.models._regression import Regression
from ssmlin.models._row_covariance import RowCov


def least_squares(
    emissions: Float[Array, "... m"] | None,
    inputs: Float[Array, "... p"] | None,
    sizes: Sizes,
    regression: Regression,
    row_cov: RowCov,
) -> LeastSquares:
    """Ridge regression of emissions on inputs; zero, with the series' variance, without data.

    Args:
        emissions: y, of one or several series; NaN means missing.
        inputs: u.
        sizes: of the model.
        regression: says which coefficients there are.
        row_cov: says the least variance of the residuals, and the variance of the series.

    Returns:
        D, d and the covariance of the residuals.
    """
    m, p = sizes.emission_dim, sizes.input_dim
    series_variance = settled(row_cov.series_variance)
    if emissions is None or inputs is None:
        return LeastSquares(jnp.zeros((m, p)), jnp.zeros(m), jnp.eye(m) * series_variance)
    y = emissions.reshape(-1, m)
    u = inputs.reshape(len(y), p)
    has_weights = regression.weights and p > 0
    design = u if has_weights else jnp.zeros((len(u), 0), y.dtype)
    if regression.bias:
        design = jnp.concatenate([design, jnp.ones((len(u), 1), y.dtype)], axis=1)
    k = design.shape[1]
    seen = jnp.isfinite(y).astype(y.dtype)

    def one(target: Array, weight: Array) -> tuple[Array, Array]:
        x = design * weight[:, None]
        target = jnp.where(weight > 0, target, 0.0)
        ridge = 1e-2 * jnp.eye(k, dtype=y.dtype)
        coefficients = jnp.linalg.solve(x.T @ x + ridge, x.T @ target)
        return coefficients, (target - x @ coefficients) * weight

    coefficients, residuals = jax.vmap(one, in_axes=1)(y, seen)
    pairs = jnp.einsum("ti,tj->ij", seen, seen)
    cov = residuals @ residuals.T / jnp.maximum(pairs - k, 1.0)
    weights = coefficients[:, :p] if has_weights else jnp.zeros((m, p), y.dtype)
    bias = coefficients[:, -1] if regression.bias else jnp.zeros(m, y.dtype)
    # As many coefficients as values leave no residuals, whose variance is not known.
    unknown = jnp.where(seen.sum(axis=0) > k, 0.0, series_variance)
    cov = cov + jnp.diag(unknown).astype(y.dtype)
    # Pairwise deletion can leave an indefinite matrix, and short series a singular one.
    values, vectors = jnp.linalg.eigh(cov)
    return LeastSquares(
        weights, bias, (vectors * jnp.maximum(values, 1e-3 * row_cov.floor)) @ vectors.T
    )


def autoregression_over_gaps(
    emissions: Float[Array, "... m"],
    inputs: Float[Array, "... p"],
    num_lags: int,
    regression: Regression,
    row_cov: RowCov,
) -> LeastSquares | None:
    """The regression where lags are missing, which are integrated out; None without data for it.

    Args:
        emissions: y, of one or several series of known values; NaN means missing.
        inputs: u, whose first num_lags·m columns are lags; NaN where they are missing.
        num_lags: how many.
        regression: says whether there is a bias.
        row_cov: says the least variance of the residuals.

    Returns:
        D, d and the covariance of the residuals.
    """
    y = lagged_values(emissions, inputs, num_lags)
    y = y.reshape(-1, *y.shape[-2:])
    if y.shape[1] <= num_lags or np.isnan(y).all(axis=(0, 1)).any():
        return None
    u = np.asarray(inputs, float).reshape(*y.shape[:2], -1)
    outside = u[..., num_lags * y.shape[-1] :]
    fitted = estimate_autoregression(y, outside, num_lags, regression.bias)
    values, vectors = np.linalg.eigh(fitted.covariance)
    cov = (vectors * np.maximum(values, 1e-3 * row_cov.floor)) @ vectors.T
    dtype = emissions.dtype
    return LeastSquares(*(jnp.asarray(x, dtype) for x in (fitted.weights, fitted.bias, cov)))
