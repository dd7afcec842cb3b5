"""The law of regression coefficients that are integrated out, and where it starts."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from dynamax.parameters import ParameterProperties
from jaxtyping import Array, Float

from ssmlin.inference import matrix_lgssm_filter
from ssmlin.mechanisms import matrix_lgssm

_NOISES = (1e-7, 1e-5, 3e-5, 1e-4, 2e-4, 4e-4, 1e-3)
#: What a drift must add to the log likelihood: chance adds that much once in twenty times.
GAIN = 2.0


class ParamsIntegratedRegression(NamedTuple):
    """The law of D and d where they are integrated out: that of C_t = [D_t, d_t] W⁻¹.

    Attributes:
        basis: W, (k, k), so that W (u_t, 1) has unit second moments; fixed.
        variance: τ², scalar, of the entries of C_0 relative to Σ; fixed.
        noise: q, scalar, of their changes at every step.
    """

    basis: Float[Array, "k k"] | ParameterProperties
    variance: Float[Array, ""] | ParameterProperties
    noise: Float[Array, ""] | ParameterProperties


def initial_coefficients(
    emissions: Float[Array, "B T m"] | None,
    regressors: Float[Array, "B T k"],
    coefficients: Float[Array, "m k"],
    row_cov: Float[Array, "m m"],
) -> ParamsIntegratedRegression:
    r"""Whiten the regressors, match τ² to least squares, and choose q by the likelihood.

    $W = G^{-1/2}$ with $G = E[x_t x_t^\top]$, so that the prior of the coefficients of
    $x_t = (u_t, 1)$ has the covariance $\tau^2 G^{-1}$, and their changes $q \, G^{-1}$. τ² is the
    mean square of the coefficients relative to Σ, less what n steps leave uncertain. The
    likelihood is that of the regression by itself, of whose Σ the best value is inserted, over a
    grid of q; a drift must gain two nats.

    Args:
        emissions: y; NaN means missing. Without, W = I and τ² = 1.
        regressors: x; zero where the series is padded.
        coefficients: of the least-squares regression of y on x.
        row_cov: Σ, the covariance of its residuals.

    Source: the empirical Bayes g-prior of George and Foster (2000); a drift that is scaled likewise
    acts in the long run as the discount factor 1 − √q of West and Harrison (1997).
    """
    k, dtype = regressors.shape[-1], regressors.dtype
    if emissions is None:
        one = jnp.ones((), dtype)
        return ParamsIntegratedRegression(jnp.eye(k, dtype=dtype), one, one * _NOISES[0])
    x = regressors.reshape(-1, k)
    used = jnp.isfinite(emissions).any(axis=-1).reshape(-1, 1)
    x = jnp.where(used, x, 0.0)
    n = jnp.maximum(used.sum(), 1).astype(dtype)
    values, vectors = jnp.linalg.eigh(x.T @ x / n)
    # A direction that hardly varies is not blown up, and where there is nothing, nothing is.
    least = 1e-4 * jnp.maximum(values.max(), 1e-4)
    values = jnp.where(values.max() > 0, jnp.maximum(values, least), 1.0)
    basis = (vectors / jnp.sqrt(values)) @ vectors.T
    features = regressors @ basis.T
    whitened = coefficients @ vectors * jnp.sqrt(values)
    square = jnp.trace(jnp.linalg.solve(row_cov, whitened @ whitened.T)) / coefficients.size
    variance = jnp.maximum(square - 1 / n, 1 / n)

    def log_likelihood(noise: Array) -> Array:
        errors, scales = jax.vmap(_predict, (0, 0, None, None))(
            emissions, features, variance, noise
        )
        m = errors.shape[-1]
        # A step that is partly missing counts as missing here.
        n = jnp.maximum(jnp.isfinite(emissions).all(axis=-1).sum(), 1)
        sums = jnp.einsum("bti,btj,bt->ij", errors, errors, 1 / scales) / n
        floor = 1e-6 * jnp.eye(m, dtype=dtype)
        log_det: Array = jnp.linalg.slogdet(sums + floor)[1]
        return -0.5 * (n * log_det + m * jnp.log(scales).sum())

    noises = jnp.asarray(_NOISES, dtype)
    scores = jax.lax.map(log_likelihood, noises) - jnp.where(noises > noises[0], GAIN, 0.0)
    best = jnp.argmax(jnp.where(jnp.isfinite(scores), scores, -jnp.inf))
    return ParamsIntegratedRegression(basis, variance, noises[best])


def _predict(
    emissions: Float[Array, "T m"], features: Float[Array, "T k"], variance: Array, noise: Array
) -> tuple[Float[Array, "T m"], Float[Array, " T"]]:
    """One-step errors, and their variances relative to Σ; 0 and 1 where nothing is observed."""
    m, k = emissions.shape[-1], features.shape[-1]
    lgssm = matrix_lgssm(
        "bayesian_memory",
        keys=features,
        alpha=1.0,
        process_noise=noise,
        emission_noise=1.0,
        initial_cov=variance * jnp.eye(k, dtype=features.dtype),
        value_dim=m,
    )
    posterior = matrix_lgssm_filter(lgssm, emissions, missing="rows", store="loglik")
    seen = jnp.isfinite(emissions).all(axis=-1)
    errors = (
        jnp.where(seen[:, None], emissions, posterior.emission_means) - posterior.emission_means
    )
    return errors, jnp.where(seen, posterior.emission_scales, 1.0)
