r"""The sequential driver: scans over time whose bodies hold no matrix-matrix product.

Every step reads the covariance once, for all the matrix-vector products that it needs, and writes
it once, as a scaled copy plus a few symmetric rank-1 terms: O(d² + m d) a step. On a CPU a tiny
matrix product costs more than all of that, hence products written as sums.

Conventions: M is m × d with the state's rows; a missing emission has ``observed`` = 0, which turns
the update off and leaves the prediction as the filtered law.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from ssmlin.lgssm import DPLR, MatrixLGSSM


class Forward(NamedTuple):
    """What the forward scan leaves, leading axis T; None where it was not to be kept."""

    emission_means: Float[Array, "T m"]
    scales: Float[Array, " T"]
    gains: Float[Array, "T d"] | None
    means: Float[Array, "T m d"] | None
    covariances: Float[Array, "T d d"] | None
    last_mean: Float[Array, "m d"]
    last_cov: Float[Array, "d d"]


class Backward(NamedTuple):
    """What the backward scan leaves: the adjoint of the filtered and of the predicted mean.

    ``E[S_t | y_{1:T}] = M_t − filtered_adjoints_t P_t = M⁻_t − predicted_adjoints_t P⁻_t`` and
    ``Cov = P_t − P_t information_t P_t``; the initial entries belong to S_0.
    """

    filtered_adjoints: Float[Array, "T m d"] | None
    predicted_adjoints: Float[Array, "T m d"] | None
    information: Float[Array, "T d d"] | None
    initial_adjoint: Float[Array, "m d"]


def _columns(x: Float[Array, "d k"]) -> list[Float[Array, " d"]]:
    """The columns of a matrix of few columns."""
    return [x[:, j] for j in range(x.shape[1])]


def _times(a: Float[Array, "n d"], x: Float[Array, " d"]) -> Float[Array, " n"]:
    """Matrix-vector product as a sum, which fuses with its neighbours."""
    return jnp.sum(a * x, axis=-1)


def _congruence(
    cov: Float[Array, "d d"], transition: DPLR
) -> list[tuple[Float[Array, " d"], Float[Array, " d"]]]:
    r"""Pairs (x, v) with $A^\top P A = w w^\top \odot P - \sum (x v^\top + v x^\top)$."""
    us, vs = _columns(transition.left), _columns(transition.right)
    products = [_times(cov, u) for u in us]
    pairs = []
    for product, v in zip(products, vs, strict=True):
        x = transition.diag * product
        for u_other, v_other in zip(us, vs, strict=True):
            x = x - 0.5 * jnp.sum(u_other * product) * v_other
        pairs.append((x, v))
    return pairs


def _predict_mean(
    mean: Float[Array, "m d"], transition: DPLR
) -> Float[Array, "m d"]:
    """M A."""
    out = mean * transition.diag
    for u, v in zip(_columns(transition.left), _columns(transition.right), strict=True):
        out = out - _times(mean, u)[:, None] * v
    return out


def forward(
    lgssm: MatrixLGSSM,
    emissions: Float[Array, "T m"],
    observed: Float[Array, " T"],
    *,
    keep_gains: bool = False,
    keep_means: bool = False,
    keep_covariances: bool = False,
) -> Forward:
    """Kalman filter from t = 1 to T.

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
    eye = jnp.eye(lgssm.key_dim, dtype=lgssm.dtype)

    def step(carry, inputs):
        mean, cov = carry
        transition, drift, noise, h, r, y, seen = inputs
        w = transition.diag

        # Predicted covariance times h, from the previous covariance in one pass over it.
        pairs = _congruence(cov, transition)
        ls = _columns(noise.factor)
        cov_h = w * _times(cov, w * h) + noise.diag * h
        for x, v in pairs:
            cov_h = cov_h - x * jnp.sum(v * h) - v * jnp.sum(x * h)
        for column in ls:
            cov_h = cov_h + column * jnp.sum(column * h)
        scale = jnp.sum(h * cov_h) + r
        # Masked before the division: a zero scale at a missing step must not reach gradients.
        root = seen * lax.rsqrt(jnp.where(seen > 0, scale, 1.0))
        f = cov_h * root
        gain = f * root

        new_cov = (w[:, None] * w) * cov + eye * noise.diag - f[:, None] * f
        for x, v in pairs:
            new_cov = new_cov - (x[:, None] * v + v[:, None] * x)
        for column in ls:
            new_cov = new_cov + column[:, None] * column

        mean = _predict_mean(mean, transition)
        for left, right in zip(_columns(drift.left), _columns(drift.right), strict=True):
            mean = mean + left[:, None] * right
        emission_mean = _times(mean, h)
        mean = mean + (y - emission_mean)[:, None] * gain
        kept = (
            emission_mean,
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
        lgssm.readout,
        lgssm.emission_noise,
        emissions,
        observed,
    )
    (last_mean, last_cov), kept = lax.scan(step, (lgssm.initial_mean, lgssm.initial_cov), inputs)
    return Forward(*kept, last_mean, last_cov)


def backward(
    lgssm: MatrixLGSSM,
    gains: Float[Array, "T d"],
    precisions: Float[Array, " T"],
    residuals: Float[Array, "T m"],
    *,
    keep_information: bool = False,
) -> Backward:
    r"""Modified Bryson-Frazier recursion from t = T to 1; no inverse, right also at Q = 0.

    $$\tilde\Lambda_t = C_t^\top \hat\Lambda_t C_t + h h^\top / s, \quad
      \tilde\lambda_t = \hat\lambda_t C_t - e h^\top / s, \quad C_t = I - g h^\top$$
    $$\hat\Lambda_{t-1} = A_t \tilde\Lambda_t A_t^\top, \quad
      \hat\lambda_{t-1} = \tilde\lambda_t A_t^\top$$

    Args:
        lgssm: the model.
        gains: g_t, zero where nothing was observed.
        precisions: 1/s_t, zero where nothing was observed.
        residuals: e_t = y_t − E[y_t | y_{1:t-1}], zero where nothing was observed.
        keep_information: whether to run and keep the covariance part. If not, the predicted
            adjoints are kept instead of the filtered ones.

    Returns:
        The adjoints and, if asked for, the information matrices.

    Source: Bierman (1973); Durbin and Koopman, Time Series Analysis by State Space Methods (2012).
    """
    m, d = lgssm.value_dim, lgssm.key_dim
    zero_adjoint = jnp.zeros((m, d), lgssm.dtype)
    zero_information = jnp.zeros((d, d), lgssm.dtype) if keep_information else None

    def step(carry, inputs):
        adjoint, information = carry
        transition, h, g, precision, e = inputs
        w = transition.diag
        us, vs = _columns(transition.left), _columns(transition.right)

        predicted = adjoint - (_times(adjoint, g) + e * precision)[:, None] * h
        new_adjoint = _predict_mean(predicted, transition.T)

        new_information = None
        if information is not None:
            info_g = _times(information, g)
            y = info_g - 0.5 * (jnp.sum(g * info_g) + precision) * h
            # Predicted information = information − h yᵀ − y hᵀ; its products with the columns v.
            products = [
                _times(information, v) - h * jnp.sum(y * v) - y * jnp.sum(h * v) for v in vs
            ]
            wh, wy = w * h, w * y
            new_information = (w[:, None] * w) * information - (
                wh[:, None] * wy + wy[:, None] * wh
            )
            for product, u in zip(products, us, strict=True):
                x = w * product
                for u_other, v_other in zip(us, vs, strict=True):
                    x = x - 0.5 * jnp.sum(v_other * product) * u_other
                new_information = new_information - (x[:, None] * u + u[:, None] * x)

        kept = (
            adjoint if keep_information else None,
            None if keep_information else predicted,
            information,
        )
        return (new_adjoint, new_information), kept

    inputs = (lgssm.transition, lgssm.readout, gains, precisions, residuals)
    (initial_adjoint, _), kept = lax.scan(
        step, (zero_adjoint, zero_information), inputs, reverse=True
    )
    return Backward(*kept, initial_adjoint)


def forward_means(
    lgssm: MatrixLGSSM, emissions: Float[Array, "T n"], gains: Float[Array, "T d"]
) -> Float[Array, "T n"]:
    """Predicted emission means of a model with zero initial mean and drift, for known gains.

    Any number n of rows, so that many data sets can be filtered with one set of gains.
    """

    def step(mean, inputs):
        transition, h, gain, y = inputs
        mean = _predict_mean(mean, transition)
        emission_mean = _times(mean, h)
        return mean + (y - emission_mean)[:, None] * gain, emission_mean

    start = jnp.zeros((emissions.shape[1], lgssm.key_dim), lgssm.dtype)
    return lax.scan(step, start, (lgssm.transition, lgssm.readout, gains, emissions))[1]


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

    def step(mean, inputs):
        transition, drift, shift = inputs
        mean = _predict_mean(mean, transition) - shift
        if with_drift:
            for left, right in zip(_columns(drift.left), _columns(drift.right), strict=True):
                mean = mean + left[:, None] * right
        return mean, mean

    start = initial_mean - result.initial_adjoint @ lgssm.initial_cov
    shifts = lgssm.process_noise.apply(result.predicted_adjoints)
    return lax.scan(step, start, (lgssm.transition, lgssm.drift, shifts))[1]
