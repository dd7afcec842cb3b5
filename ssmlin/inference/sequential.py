r"""The sequential driver: scans over time whose bodies hold no matrix-matrix product.

Every step takes a few matrix-vector products of the covariance and writes it once, as a scaled copy
less a few symmetric rank-1 terms: O(d² + m d) a step. On a CPU one tiny matrix-matrix product costs
more than all of that, so the low-rank parts are worked off column by column.

Conventions: M is m × d with the state's rows; a missing emission has ``observed`` = 0, which turns
the update off and leaves the prediction as the filtered law.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from ssmlin.lgssm import DPLR, MatrixLGSSM


class Forward(NamedTuple):
    """What the forward scan leaves, leading axis T; None where it was not to be kept."""

    emission_means: Float[Array, "T m"]
    scales: Float[Array, " T"]
    gains: Float[Array, "T d"]
    means: Float[Array, "T m d"]
    covariances: Float[Array, "T d d"]
    last_mean: Float[Array, "m d"]
    last_cov: Float[Array, "d d"]


class Backward(NamedTuple):
    """What the backward scan leaves: the adjoint of the filtered and of the predicted mean.

    ``E[S_t | y_{1:T}] = M_t − filtered_adjoints_t P_t = M⁻_t − predicted_adjoints_t P⁻_t`` and
    ``Cov = P_t − P_t information_t P_t``; the initial entries belong to S_0.
    """

    filtered_adjoints: Float[Array, "T m d"]
    predicted_adjoints: Float[Array, "T m d"]
    information: Float[Array, "T d d"]
    initial_adjoint: Float[Array, "m d"]


def _columns(x: Float[Array, "d k"]) -> list[Float[Array, " d"]]:
    """The columns of a matrix of few columns."""
    return [x[:, j] for j in range(x.shape[1])]


def _symmetric(
    products: list[Float[Array, " d"]],
    scale: Float[Array, " d"],
    left: list[Float[Array, " d"]],
    right: list[Float[Array, " d"]],
) -> list[tuple[Float[Array, " d"], Float[Array, " d"]]]:
    r"""Pairs (x, v) with $A^\top P A = w w^\top \odot P - \sum_j (x_j v_j^\top + v_j x_j^\top)$.

    For A = diag(w) − U Vᵀ: x_j = w ⊙ P u_j − ½ Σ_i (u_iᵀ P u_j) v_i, where `products` holds P u_j.
    """
    pairs = []
    for product, v in zip(products, right, strict=True):
        x = scale * product
        for u_other, v_other in zip(left, right, strict=True):
            x = x - 0.5 * jnp.sum(u_other * product) * v_other
        pairs.append((x, v))
    return pairs


def _scaled_less(
    matrix: Float[Array, "d d"],
    scale: Float[Array, " d"],
    pairs: list[tuple[Float[Array, " d"], Float[Array, " d"]]],
) -> Float[Array, "d d"]:
    """W wᵀ ⊙ matrix − Σ (x vᵀ + v xᵀ), symmetric term by term."""
    out = (scale[:, None] * scale) * matrix
    for x, v in pairs:
        out = out - (x[:, None] * v + v[:, None] * x)
    return out


def _carry_rows(
    rows: Float[Array, "n d"],
    scale: Float[Array, " d"],
    products: list[Float[Array, " n"]],
    right: list[Float[Array, " d"]],
) -> Float[Array, "n d"]:
    """S A for rows S, where `products` holds S u_j."""
    out = rows * scale
    for product, v in zip(products, right, strict=True):
        out = out - product[:, None] * v
    return out


def _read(transition: DPLR, h: Float[Array, "T d"]) -> Float[Array, "T d"]:
    """z_t = A_t h_t: the readout as the state before the transition sees it."""
    return transition.T.apply(h[:, None, :])[:, 0]


def forward(
    lgssm: MatrixLGSSM,
    emissions: Float[Array, "T m"],
    observed: Float[Array, " T"],
    *,
    keep_gains: bool = False,
    keep_means: bool = False,
    keep_covariances: bool = False,
) -> Forward:
    r"""Kalman filter from t = 1 to T.

    With z = A h the step needs the products of P with z and with the columns u of A alone:
    s = zᵀPz + (hᵀQh + r) and P⁻h = Aᵀ(Pz) + Qh, where all that does not depend on P is computed
    for all steps at once.

    Args:
        lgssm: the model; its emission bias is not used here.
        emissions: y_t less the bias, finite also where nothing was observed.
        observed: 1.0 where y_t was observed, 0.0 where not.
        keep_gains: whether to keep the gains.
        keep_means: whether to keep the filtered means.
        keep_covariances: whether to keep the filtered covariances.

    Returns:
        The predicted moments of the emissions and what was asked for.
    """
    h = lgssm.readout
    noise_h = lgssm.process_noise.apply(h[:, None, :])[:, 0]
    noise_scale = jnp.sum(h * noise_h, axis=1) + lgssm.emission_noise
    written = jnp.einsum("tmk,tdk,td->tm", lgssm.drift.left, lgssm.drift.right, h)
    eye = jnp.eye(lgssm.key_dim, dtype=lgssm.dtype)

    def step(carry: Any, inputs: Any) -> tuple[Any, Any]:
        mean, cov = carry
        transition, drift, noise, z, qh, c, y, seen = inputs
        w, us, vs = transition.diag, _columns(transition.left), _columns(transition.right)

        cov_z, *cov_us = [cov @ x for x in (z, *us)]
        cov_h = w * cov_z + qh
        for u, v in zip(us, vs, strict=True):
            cov_h = cov_h - jnp.sum(u * cov_z) * v
        scale = jnp.sum(z * cov_z) + c
        # Masked before the division: a zero scale at a missing step must not reach gradients.
        root = seen * lax.rsqrt(jnp.where(seen > 0, scale, 1.0))
        f = cov_h * root
        gain = f * root
        new_cov = _scaled_less(cov, w, _symmetric(cov_us, w, us, vs))
        new_cov = new_cov + eye * noise.diag - f[:, None] * f
        for column in _columns(noise.factor):
            new_cov = new_cov + column[:, None] * column

        mean_z, *mean_us = [mean @ x for x in (z, *us)]
        mean = _carry_rows(mean, w, mean_us, vs) + (y - mean_z)[:, None] * gain
        for left, right in zip(_columns(drift.left), _columns(drift.right), strict=True):
            mean = mean + left[:, None] * right
        kept = (
            mean_z,
            scale,
            gain if keep_gains else None,
            mean if keep_means else None,
            new_cov if keep_covariances else None,
        )
        return (mean, new_cov), kept

    inputs = (
        lgssm.transition,
        lgssm.drift,
        lgssm.process_noise,
        _read(lgssm.transition, h),
        noise_h,
        noise_scale,
        emissions - written,
        observed,
    )
    (last_mean, last_cov), (read, scales, gains, means, covariances) = lax.scan(
        step, (lgssm.initial_mean, lgssm.initial_cov), inputs
    )
    return Forward(read + written, scales, gains, means, covariances, last_mean, last_cov)


def backward(
    lgssm: MatrixLGSSM,
    gains: Float[Array, "T d"],
    precisions: Float[Array, " T"],
    residuals: Float[Array, "T m"],
    *,
    keep_information: bool = False,
) -> Backward:
    r"""Modified Bryson-Frazier recursion from t = T to 1; no inverse, right also at Q = 0.

    With $C = I - g h^\top$ and z = A h,

    $$\tilde\lambda_t = \hat\lambda_t C_t - e_t h_t^\top / s_t, \quad
      \hat\lambda_{t-1} = \tilde\lambda_t A_t^\top
        = \hat\lambda_t A_t^\top - (\hat\lambda_t g_t + e_t / s_t) z_t^\top$$
    $$\hat\Lambda_{t-1} = A_t (C_t^\top \hat\Lambda_t C_t + h_t h_t^\top / s_t) A_t^\top$$

    Args:
        lgssm: the model.
        gains: g_t, zero where nothing was observed.
        precisions: 1/s_t, zero where nothing was observed.
        residuals: e_t = y_t − E[y_t | y_{1:t-1}], zero where nothing was observed.
        keep_information: whether to run and keep the covariance part; the smoothed means follow
            from the predicted adjoints without it.

    Returns:
        The adjoints and, if asked for, the information matrices.

    Source: Bierman (1973); Durbin and Koopman, Time Series Analysis by State Space Methods (2012).
    """
    zero_adjoint = jnp.zeros((residuals.shape[1], lgssm.key_dim), lgssm.dtype)
    zero_information = jnp.zeros_like(lgssm.initial_cov) if keep_information else None

    def step(carry: Any, inputs: Any) -> tuple[Any, Any]:
        adjoint, information = carry
        transition, z, g, precision, white = inputs
        w, us, vs = transition.diag, _columns(transition.left), _columns(transition.right)

        adjoint_g, *adjoint_vs = [adjoint @ x for x in (g, *vs)]
        write = adjoint_g + white
        new_adjoint = _carry_rows(adjoint, w, adjoint_vs, us) - write[:, None] * z

        new_information = None
        if information is not None:
            info_g, *info_vs = [information @ x for x in (g, *vs)]
            # A (Λ g) − ½ (gᵀΛg + 1/s) z, the partner of z.
            partner = w * info_g - 0.5 * (jnp.sum(g * info_g) + precision) * z
            for u, v in zip(us, vs, strict=True):
                partner = partner - jnp.sum(v * info_g) * u
            pairs = [*_symmetric(info_vs, w, vs, us), (partner, z)]
            new_information = _scaled_less(information, w, pairs)
        return (new_adjoint, new_information), (adjoint, write, information)

    white = residuals * precisions[:, None]
    inputs = (lgssm.transition, _read(lgssm.transition, lgssm.readout), gains, precisions, white)
    (initial_adjoint, _), (adjoints, writes, information) = lax.scan(
        step, (zero_adjoint, zero_information), inputs, reverse=True
    )
    # C_tᵀ acts here and not in the scan; dropped by the compiler where nobody asks for it.
    predicted = adjoints - writes[:, :, None] * lgssm.readout[:, None, :]
    return Backward(adjoints, predicted, information, initial_adjoint)


def forward_means(
    lgssm: MatrixLGSSM, emissions: Float[Array, "T n"], gains: Float[Array, "T d"]
) -> Float[Array, "T n"]:
    """Predicted emission means of a model with zero initial mean and drift, for known gains.

    Any number n of rows, so that many data sets can be filtered with one set of gains.
    """

    def step(mean: Any, inputs: Any) -> tuple[Any, Any]:
        transition, z, gain, y = inputs
        us, vs = _columns(transition.left), _columns(transition.right)
        mean_z, *mean_us = [mean @ x for x in (z, *us)]
        carried = _carry_rows(mean, transition.diag, mean_us, vs)
        return carried + (y - mean_z)[:, None] * gain, mean_z

    start = jnp.zeros((emissions.shape[1], lgssm.key_dim), lgssm.dtype)
    inputs = (lgssm.transition, _read(lgssm.transition, lgssm.readout), gains, emissions)
    return lax.scan(step, start, inputs)[1]


def smoothed_means(
    lgssm: MatrixLGSSM,
    initial_mean: Float[Array, "n d"],
    result: Backward,
    *,
    with_drift: bool = True,
) -> Float[Array, "T n d"]:
    r"""Smoothed means from the adjoints alone, forward in time, without any covariance P_t.

    $\hat S_t = \hat S_{t-1} A_t + B_t - \tilde\lambda_t Q_t$, from
    $\hat S_0 = M_0 - \hat\lambda_0 P_0$.

    Source: fast state smoothing, Koopman (1993).
    """

    def step(mean: Any, inputs: Any) -> tuple[Any, Any]:
        transition, drift, shift = inputs
        mean = transition.apply(mean) - shift
        if with_drift:
            for left, right in zip(_columns(drift.left), _columns(drift.right), strict=True):
                mean = mean + left[:, None] * right
        return mean, mean

    start = initial_mean - result.initial_adjoint @ lgssm.initial_cov
    shifts = lgssm.process_noise.apply(result.predicted_adjoints)
    return lax.scan(step, start, (lgssm.transition, lgssm.drift, shifts))[1]
