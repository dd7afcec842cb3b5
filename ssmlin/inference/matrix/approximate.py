"""Filters whose covariance is replaced at every step: what faster attention mechanisms do."""

from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ssmlin import _checks
from ssmlin.inference.results import PosteriorMatrixLGSSM
from ssmlin.lgssm import MatrixLGSSM

Covariance = Literal["diagonal", "isotropic", "reset"]


def matrix_lgssm_approximate_filter(
    lgssm: MatrixLGSSM,
    emissions: Float[Array, "T m"],
    covariance: Covariance = "diagonal",
    *,
    store: Literal["filtered", "last", "loglik"] = "filtered",
) -> PosteriorMatrixLGSSM:
    r"""Filter with a covariance that is projected after every step, at O(m d) a step.

    The steps are those of :func:`ssmlin.matrix_lgssm_filter`, with P_t replaced by

    * "diagonal": its diagonal, an uncertainty for each key channel (as Kalman linear attention and
      Kalman delta networks keep it);
    * "isotropic": tr(P_t) / d times the identity, one number;
    * "reset": tr(P_0) / d times the identity *before* every write. Nothing is learned of the
      uncertainty, and the gain is that of the delta rule, $\beta = \sigma^2 / (\sigma^2 \|h\|^2 +
      r)$, so with `bayesian_memory` this is DeltaNet, Gated DeltaNet with a decay.

    The densities are those of the approximation: overconfident where it forgets correlations.

    Args:
        lgssm: the model.
        emissions: y, (T, m); NaN means missing, and a step counts as missing as a whole.
        covariance: what to keep.
        store: "filtered": filtered means and covariances; "last": the last ones (time axis of
            length 1); "loglik": neither.

    Returns:
        The approximate posterior.

    Raises:
        ValueError: an argument of the wrong shape or value.
        TypeError: an argument that is not of the expected type.

    Example:
        >>> import jax.numpy as jnp, ssmlin
        >>> lgssm = ssmlin.matrix_lgssm("bayesian_memory", keys=jnp.ones((2, 1)), alpha=1.0,
        ...     value_dim=1, emission_noise=1.0)
        >>> posterior = ssmlin.matrix_lgssm_approximate_filter(lgssm, jnp.array([[3.0], [3.0]]))
        >>> posterior.filtered_means.ravel().tolist()  # in one dimension it is exact
        [1.5, 2.0]

    Source: arXiv 2602.10743 and 2609.07816 (diagonal); arXiv 2501.12352 (reset).
    """
    if not isinstance(lgssm, MatrixLGSSM):
        raise TypeError(f"lgssm: expected a MatrixLGSSM, got {type(lgssm).__name__}")
    _checks.one_of("covariance", covariance, ("diagonal", "isotropic", "reset"))
    _checks.one_of("store", store, ("filtered", "last", "loglik"))
    y = _checks.float_array("emissions", emissions)
    _checks.shaped("emissions", y, ("T", "m"), {"T": lgssm.num_timesteps, "m": lgssm.value_dim})
    return _filter(lgssm, y.astype(lgssm.dtype), covariance, store)


@partial(jax.jit, static_argnames=("covariance", "store"))
def _filter(
    lgssm: MatrixLGSSM, emissions: Array, covariance: Covariance, store: str
) -> PosteriorMatrixLGSSM:
    """One scan."""
    m, d = lgssm.value_dim, lgssm.key_dim
    seen = jnp.isfinite(emissions).all(axis=1)
    y = jnp.where(seen[:, None], emissions - lgssm.emission_bias, 0.0)
    row_root = jnp.linalg.cholesky(lgssm.row_cov)
    start = jnp.diag(lgssm.initial_cov)
    uniform = jnp.full(d, jnp.mean(start))

    def predict(p: Array, transition: Any, noise: Any) -> Array:
        """The diagonal of AᵀPA + Q for P = diag(p)."""
        w, left, right = transition.diag, transition.left, transition.right
        inner = left.T @ (p[:, None] * left)
        moved = w**2 * p - 2 * w * p * jnp.sum(left * right, axis=1)
        return moved + jnp.sum((right @ inner) * right, axis=1) + noise

    def step(carry: tuple[Array, Array], inputs: Any) -> tuple[tuple[Array, Array], Any]:
        mean, p = carry
        transition, drift, noise, h, r, value, is_seen = inputs
        mean = transition.apply(mean) + drift.to_dense()
        p = uniform if covariance == "reset" else predict(p, transition, noise)
        if covariance == "isotropic":
            p = jnp.full(d, jnp.mean(p))
        scale = jnp.sum(h * p * h) + r
        prediction = mean @ h
        gain = jnp.where(is_seen, p * h / scale, 0.0)
        error = value - prediction
        mean = mean + error[:, None] * gain
        p = p - scale * gain**2
        if covariance == "isotropic":
            p = jnp.full(d, jnp.mean(p))
        kept = (mean, p) if store == "filtered" else None
        return (mean, p), (prediction, scale, kept)

    noise = jnp.sum(lgssm.process_noise.factor**2, axis=-1)
    if lgssm.process_noise.diag is not None:
        noise = noise + lgssm.process_noise.diag
    p = uniform if covariance == "isotropic" else start
    last, (predictions, scales, kept) = jax.lax.scan(
        step,
        (lgssm.initial_mean, p),
        (
            lgssm.transition,
            lgssm.drift,
            noise,
            lgssm.readout,
            lgssm.emission_noise,
            y,
            seen,
        ),
    )
    # Missing steps have the error zero, so that no gradient comes from them.
    errors = jnp.where(seen[:, None], y - predictions, 0.0)
    white = jax.scipy.linalg.solve_triangular(row_root, errors.T, lower=True)
    log_det = 2 * jnp.sum(jnp.log(jnp.diag(row_root)))
    terms = jnp.sum(white**2, axis=0) / scales + m * jnp.log(2 * jnp.pi * scales) + log_det
    log_predictive = jnp.where(seen, -0.5 * terms, 0.0)
    if store == "last":
        kept = jax.tree.map(lambda x: x[None], last)
    means, variances = (None, None) if kept is None else kept
    return PosteriorMatrixLGSSM(
        marginal_loglik=log_predictive.sum(),
        log_predictive=log_predictive,
        emission_means=predictions + lgssm.emission_bias,
        emission_scales=scales,
        row_cov=lgssm.row_cov,
        filtered_means=means,
        filtered_covariances=None if variances is None else variances[..., None] * jnp.eye(d),
    )
