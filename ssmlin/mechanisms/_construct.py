r"""From a mechanism's tokens to the matrix-state linear Gaussian state space model."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ssmlin import _checks
from ssmlin._typing import AnyArray, Broadcastable, Scalar
from ssmlin.lgssm import DiagPlusLowRank, MatrixLGSSM
from ssmlin.mechanisms._base import Mechanism, make_tokens
from ssmlin.mechanisms._recurrence import token_operators
from ssmlin.mechanisms._registry import get_mechanism


def matrix_lgssm(
    mechanism: str | Mechanism,
    *,
    keys: Float[AnyArray, "T *n_h d"],
    values: Float[AnyArray, "T *n_h m"] | None = None,
    queries: Float[AnyArray, "T d"] | None = None,
    process_noise: Broadcastable | DiagPlusLowRank = 0.0,
    write_noise: Float[AnyArray, " T"] | Scalar | None = None,
    emission_noise: Float[AnyArray, " T"] | Scalar = 1.0,
    initial_mean: Float[AnyArray, "m d"] | None = None,
    initial_cov: Float[AnyArray, "d d"] | None = None,
    row_cov: Float[AnyArray, "m m"] | Float[AnyArray, " m"] | None = None,
    emission_bias: Float[AnyArray, "T m"] | Float[AnyArray, " m"] | None = None,
    value_dim: int | None = None,
    negative_eigenvalues: bool = False,
    **gates: Broadcastable | None,
) -> MatrixLGSSM:
    r"""Build the state space model of a linear attention whose memory is noisy.

    $$S_t = S_{t-1} A_t + B_t + W_t,\ W_t \sim \mathrm{MN}(0, \Sigma, Q_t); \qquad
      y_t = S_t h_t + c_t + \varepsilon_t,\ \varepsilon_t \sim N(0, r_t \Sigma)$$

    Here h_t is the query. For ``bayesian_memory`` h_t is the key (unless queries are given) and
    the emissions y_t are the values: only the shape of `values` is used, which tells m.

    Args:
        mechanism: a name in ``ssmlin.MECHANISMS``, or an instance.
        keys: k_t, (T, d), or (T, n_h, d) for a mechanism of several steps a token; see
            :func:`ssmlin.linear_attention` for all tokens and gates.
        values: v_t, (T, m) or (T, n_h, m).
        queries: q_t, (T, d).
        process_noise: q >= 0, the diagonal of Q_t: a scalar, (T,) per step, (d,) per column or
            (T, d). If T = d, write (T, 1) or (1, d) to say which is meant. Or a
            :class:`ssmlin.lgssm.DiagPlusLowRank` with leading axis T.
        write_noise: σ² >= 0, scalar or (T,): every value that is written has an independent error
            of this variance. This adds σ² R_t R_tᵀ to Q_t, where B_t = L_t R_tᵀ.
        emission_noise: r >= 0, scalar or (T,). Where it is zero, the predictive variance
            hᵀP⁻h must be positive.
        initial_mean: M_0, (m, d), of the state before the first transition; default 0.
        initial_cov: P_0, (d, d); default the identity. It may be singular or zero.
        row_cov: Σ, (m, m) or its diagonal (m,); default the identity.
        emission_bias: c_t, (T, m) or (m,); default none.
        value_dim: m, for ``bayesian_memory`` if no other argument gives it.
        negative_eigenvalues: widen the gates' ranges, see :func:`ssmlin.linear_attention`.
        **gates: the gates of the mechanism by name, see :func:`ssmlin.linear_attention`.

    Returns:
        The model, time-varying, of length T.

    Raises:
        ValueError: an unknown mechanism; an argument that is missing, superfluous, out of range,
            not finite, not a covariance, or of the wrong shape.
        TypeError: an argument that is not a float32 or float64 array.

    Examples:
        >>> import jax.numpy as jnp, ssmlin
        >>> lgssm = ssmlin.matrix_lgssm("gated_deltanet", keys=jnp.ones((5, 2)),
        ...     values=jnp.ones((5, 1)), queries=jnp.ones((5, 2)), alpha=0.9, beta=0.5,
        ...     process_noise=0.01, emission_noise=0.1)
        >>> lgssm.num_timesteps, lgssm.value_dim, lgssm.key_dim
        (5, 1, 2)

    Source: the matrix-variate dynamic linear model of Quintana and West (1987).
    """
    mech = get_mechanism(mechanism, negative_eigenvalues)
    mean = None
    if initial_mean is not None:
        mean = _checks.finite("initial_mean", _checks.float_array("initial_mean", initial_mean))
        if value_dim is None and values is None and mean.ndim == 2:
            value_dim = mean.shape[0]
    tokens, sizes = make_tokens(
        mech,
        gates,
        keys=keys,
        values=values,
        queries=queries,
        value_dim=value_dim,
    )
    dtype = tokens.keys.dtype
    m, d = sizes["m"], sizes["d"]
    if mean is None:
        mean = jnp.zeros((m, d), dtype)
    _checks.shaped("initial_mean", mean, ("m", "d"), sizes)
    if initial_cov is None:
        cov = jnp.eye(d, dtype=dtype)
    else:
        cov = _checks.float_array("initial_cov", initial_cov)
        _checks.covariance("initial_cov", _checks.shaped("initial_cov", cov, ("d", "d"), sizes))
    rows, independent = _row_covariance(row_cov, sizes, dtype)
    if emission_bias is None:
        bias = jnp.zeros((sizes["T"], m), dtype)
    else:
        bias = _checks.finite("emission_bias", _checks.float_array("emission_bias", emission_bias))
        bias = _checks.broadcast(
            "emission_bias", bias[None] if bias.ndim == 1 else bias, ("T", "m"), sizes
        )

    transition, drift = token_operators(mech, tokens)
    noise = _process_noise(process_noise, sizes, dtype)
    if write_noise is not None:
        variance = _nonnegative("write_noise", write_noise, ("T",), sizes)
        factor = jnp.sqrt(variance)[:, None, None] * drift.right
        noise = DiagPlusLowRank(noise.diag, jnp.concatenate([noise.factor, factor], axis=-1))
    lgssm = MatrixLGSSM(
        initial_mean=mean,
        initial_cov=cov,
        transition=transition,
        drift=drift,
        process_noise=noise,
        readout=tokens.keys if tokens.queries is None else tokens.queries,
        emission_noise=_nonnegative("emission_noise", emission_noise, ("T",), sizes),
        row_cov=rows,
        emission_bias=bias,
        independent_rows=independent,
    )
    common = jnp.result_type(*jax.tree.leaves(lgssm))
    same: MatrixLGSSM = jax.tree.map(lambda x: x.astype(common), lgssm)
    return same


def _nonnegative(name: str, x: object, dims: tuple[str, ...], sizes: dict[str, int]) -> Array:
    """Check and broadcast a variance."""
    array = _checks.finite(name, _checks.float_array(name, x))
    return _checks.between(name, _checks.broadcast(name, array, dims, sizes), 0.0, np.inf)


def _process_noise(
    x: Broadcastable | DiagPlusLowRank, sizes: dict[str, int], dtype: np.dtype
) -> DiagPlusLowRank:
    """Q_t from the forms that :func:`matrix_lgssm` takes."""
    steps, d = sizes["T"], sizes["d"]
    if isinstance(x, DiagPlusLowRank):
        diag = x.diag
        if diag is not None:
            _checks.shaped("process_noise.diag", diag, ("T", "d"), sizes)
            diag = _nonnegative("process_noise.diag", diag, ("T", "d"), sizes)
        _checks.shaped("process_noise.factor", x.factor, ("T", "d", "k"), dict(sizes))
        _checks.finite("process_noise.factor", x.factor)
        return DiagPlusLowRank(diag, x.factor)
    no_factor = jnp.zeros((steps, d, 0), dtype)
    if isinstance(x, (int, float)) and x == 0:
        return DiagPlusLowRank(None, no_factor)
    q = _checks.float_array("process_noise", x)
    if q.ndim == 1:
        if q.shape[0] == steps == d:
            raise ValueError(
                f"process_noise: expected shape (T, 1) or (1, d) where T = d = {d}, since (T,) "
                f"and (d,) cannot be told apart; got {tuple(q.shape)}"
            )
        if q.shape[0] not in (steps, d):
            raise ValueError(
                f"process_noise: expected a scalar or shape (T,) = ({steps},), (d,) = ({d},) or "
                f"(T, d) = ({steps}, {d}), got {tuple(q.shape)}"
            )
        q = q[:, None] if q.shape[0] == steps else q[None, :]
    diag = _nonnegative("process_noise", q, ("T", "d"), sizes)
    return DiagPlusLowRank(diag, no_factor)


def _row_covariance(
    x: Float[AnyArray, "..."] | None, sizes: dict[str, int], dtype: np.dtype
) -> tuple[Float[Array, "m m"], bool]:
    """Σ as a matrix, and whether it is known to be diagonal."""
    if x is None:
        return jnp.eye(sizes["m"], dtype=dtype), True
    rows = _checks.float_array("row_cov", x)
    if rows.ndim == 1:
        rows = jnp.diag(_nonnegative("row_cov", rows, ("m",), sizes))
        independent = True
    else:
        rows = _checks.covariance("row_cov", _checks.shaped("row_cov", rows, ("m", "m"), sizes))
        independent = _checks.is_concrete(rows) and not np.any(
            np.asarray(rows) * (1 - np.eye(sizes["m"]))
        )
    if _checks.is_concrete(rows) and np.linalg.eigvalsh(np.asarray(rows)).min() <= 0:
        raise ValueError("row_cov: expected a positive definite matrix, got a singular one")
    return rows, bool(independent)
