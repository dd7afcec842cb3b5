"""Filters that keep less than the covariance, as faster attention mechanisms do."""

from functools import partial
from typing import Literal, NamedTuple, Protocol, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ssmlin import _checks
from ssmlin._precision import in_full_precision
from ssmlin._typing import AnyArray
from ssmlin.inference._missing import observed_entries
from ssmlin.inference._results import PosteriorMatrixLGSSM
from ssmlin.lgssm import DPLR, LowRank, MatrixLGSSM

Covariance = Literal["diagonal", "isotropic", "reset"]
Store = Literal["filtered", "last", "loglik"]


class _Projection(Protocol):
    """What a filter keeps of the covariance: a diagonal."""

    def start(self, variances: Array) -> Array:
        """The diagonal before the first step, from that of P_0."""

    def predicted(self, variances: Array, initial: Array) -> Array:
        """The diagonal before an update, from the predicted one and that of P_0."""

    def updated(self, variances: Array) -> Array:
        """The diagonal after an update."""


def _uniform(variances: Float[Array, " d"]) -> Float[Array, " d"]:
    """The mean of the variances, for all of them."""
    return jnp.full_like(variances, jnp.mean(variances))


class _Diagonal:
    """Keep a variance for every key channel."""

    def start(self, variances: Array) -> Array:
        return variances

    def predicted(self, variances: Array, initial: Array) -> Array:
        return variances

    def updated(self, variances: Array) -> Array:
        return variances


class _Isotropic(_Diagonal):
    """Keep one variance."""

    def start(self, variances: Array) -> Array:
        return _uniform(variances)

    def predicted(self, variances: Array, initial: Array) -> Array:
        return _uniform(variances)

    def updated(self, variances: Array) -> Array:
        return _uniform(variances)


class _Reset(_Diagonal):
    """Keep nothing: every update starts from the mean variance of P_0."""

    def predicted(self, variances: Array, initial: Array) -> Array:
        return _uniform(initial)


_PROJECTIONS: dict[Covariance, _Projection] = {
    "diagonal": _Diagonal(),
    "isotropic": _Isotropic(),
    "reset": _Reset(),
}


class _Inputs(NamedTuple):
    """What a step is given."""

    transition: DPLR
    drift: LowRank
    noise: Array  # the diagonal of Q
    readout: Array
    emission_noise: Array
    emission: Array
    observed: Array


class _State(NamedTuple):
    """A mean and the variances of the key channels."""

    mean: Array
    variances: Array


def matrix_lgssm_approximate_filter(
    lgssm: MatrixLGSSM,
    emissions: Float[AnyArray, "T m"],
    covariance: Covariance = "diagonal",
    *,
    store: Store = "filtered",
) -> PosteriorMatrixLGSSM:
    r"""Filter with a covariance that is projected after every step, at O(m d) a step.

    The steps are those of :func:`ssmlin.matrix_lgssm_filter`, with P_t replaced by

    * "diagonal": its diagonal, a variance for each key channel, as in Kalman linear attention and
      Kalman delta networks;
    * "isotropic": tr(P_t) / d times the identity, one number;
    * "reset": tr(P_0) / d times the identity *before* every write. No uncertainty is learned, and
      the gain is that of the delta rule, $\beta = \sigma^2 / (\sigma^2 \|h\|^2 + r)$. So with
      `bayesian_memory` this is DeltaNet, or with a decay Gated DeltaNet.

    The densities are those of the approximation. They are overconfident where correlations matter.

    Args:
        lgssm: the model.
        emissions: y, (T, m); NaN means missing. A partly missing emission counts as wholly missing.
        covariance: what to keep.
        store: "filtered": filtered means and covariances; "last": the last ones (time axis of
            length 1); "loglik": neither.

    Returns:
        The approximate posterior.

    Raises:
        ValueError: an argument of the wrong shape or value.
        TypeError: an argument that is not of the expected type.

    Examples:
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
    _checks.one_of("covariance", covariance, get_args(Covariance))
    _checks.one_of("store", store, get_args(Store))
    y = _checks.float_array("emissions", emissions)
    sizes = {"T": lgssm.num_timesteps, "m": lgssm.value_dim}
    _checks.shaped("emissions", y, ("T", "m"), sizes)
    _checks.no_infinity("emissions", y)
    y = y.astype(lgssm.dtype)
    observed = observed_entries(y, None, None, sizes).all(axis=1)
    posterior: PosteriorMatrixLGSSM = _filter(lgssm, y, observed, covariance, store)
    return posterior


def _predicted_variances(
    variances: Float[Array, " d"], transition: DPLR, noise: Float[Array, " d"]
) -> Float[Array, " d"]:
    """The diagonal of AᵀPA + Q for P = diag(variances)."""
    w, left, right = transition.diag, transition.left, transition.right
    inner = left.T @ (variances[:, None] * left)
    moved = w**2 * variances - 2 * w * variances * jnp.sum(left * right, axis=1)
    return moved + jnp.sum((right @ inner) * right, axis=1) + noise


@partial(jax.jit, static_argnames=("covariance", "store"))
@in_full_precision
def _filter(
    lgssm: MatrixLGSSM,
    emissions: Float[Array, "T m"],
    observed: Bool[Array, " T"],
    covariance: Covariance,
    store: Store,
) -> PosteriorMatrixLGSSM:
    m, projection = lgssm.value_dim, _PROJECTIONS[covariance]
    y = jnp.where(observed[:, None], emissions - lgssm.emission_bias, 0.0)
    initial = jnp.diag(lgssm.initial_cov)

    def step(state: _State, inputs: _Inputs) -> tuple[_State, tuple[Array, Array, _State | None]]:
        transition, drift, noise, h, r, value, seen = inputs
        mean = transition.apply(state.mean) + drift.to_dense()
        p = projection.predicted(_predicted_variances(state.variances, transition, noise), initial)
        scale = jnp.sum(h * p * h) + r
        prediction = mean @ h
        gain = jnp.where(seen, p * h / scale, 0.0)
        mean = mean + (value - prediction)[:, None] * gain
        new = _State(mean, projection.updated(p - scale * gain**2))
        return new, (prediction, scale, new if store == "filtered" else None)

    noise = jnp.sum(lgssm.process_noise.factor**2, axis=-1)
    if lgssm.process_noise.diag is not None:
        noise = noise + lgssm.process_noise.diag
    inputs = _Inputs(
        lgssm.transition, lgssm.drift, noise, lgssm.readout, lgssm.emission_noise, y, observed
    )
    start = _State(lgssm.initial_mean, projection.start(initial))
    last, (predictions, scales, states) = jax.lax.scan(step, start, inputs)
    # Missing steps have the error zero, so that they contribute nothing to the gradient.
    errors = jnp.where(observed[:, None], y - predictions, 0.0)
    row_root = jnp.linalg.cholesky(lgssm.row_cov)
    white = jax.scipy.linalg.solve_triangular(row_root, errors.T, lower=True)
    log_det = 2 * jnp.sum(jnp.log(jnp.diag(row_root)))
    terms = jnp.sum(white**2, axis=0) / scales + m * jnp.log(2 * jnp.pi * scales) + log_det
    log_predictive = jnp.where(observed, -0.5 * terms, 0.0)
    if store == "last":
        states = _State(last.mean[None], last.variances[None])
    eye = jnp.eye(lgssm.key_dim, dtype=lgssm.dtype)
    return PosteriorMatrixLGSSM(
        marginal_loglik=log_predictive.sum(),
        log_predictive=log_predictive,
        emission_means=predictions + lgssm.emission_bias,
        emission_scales=scales,
        row_cov=lgssm.row_cov,
        filtered_means=None if states is None else states.mean,
        filtered_covariances=None if states is None else states.variances[..., None] * eye,
    )
