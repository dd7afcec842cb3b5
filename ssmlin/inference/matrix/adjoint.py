r"""The exact gradient of the filter by its adjoint recursion, in place of autodiff's.

The filter maps the model to the predictive moments of the emissions (ŷ_t, s_t) and the last
filtered law. Given the cotangents of these, one backward scan carries G = ∂L/∂M_t and N = ∂L/∂P_t
and leaves the gradient of every input of every step. For the log-likelihood G and N are the
smoother's adjoints, G = −Σ⁻¹ λ̂ and N = ½ (λ̂ᵀ Σ⁻¹ λ̂ − m Λ̂), so a gradient costs about as much as
smoothing. As in the filter there is no matrix-matrix product in the scan.

The filter keeps its state at the start of every stretch of about √T steps only; the backward scan
recomputes the states of a stretch when it comes to it. So memory is O(T d + √T d²), not O(T d²).

Source: Koopman and Shephard (1992), Biometrika 79, for the score of every time-varying parameter.
"""

import math
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from ssmlin.inference.matrix import sequential
from ssmlin.inference.matrix.batch_last import (
    columns,
    diagonal_of,
    drift_times,
    hadamard_times,
    inner,
    left_times,
    noise_times,
    outer,
    symmetric_times,
    times,
    transition_times,
)
from ssmlin.inference.matrix.covariance import CovarianceForm, congruence_pairs, scaled_less
from ssmlin.inference.matrix.sequential import (
    Forward,
    Inputs,
    at_every_step,
    batch_first,
    batch_last,
    carry_rows,
    forward_inputs,
    forward_step,
    is_batched,
    model_start,
    pad_time,
    scan_steps,
    time_first,
)
from ssmlin.lgssm import DPLR, DiagPlusLowRank, LowRank, MatrixLGSSM


class _Residuals(NamedTuple):
    """What the forward pass keeps for the backward pass."""

    lgssm: MatrixLGSSM
    emissions: Array
    observed: Array
    starts: Any  # (mean, carried covariance) at the start of every stretch
    kept: Any  # E[y_t] less the drift's part, s_t and g_t, by stretch


class _Cotangents(NamedTuple):
    """∂L/∂ŷ_t and ∂L/∂s_t."""

    emission_mean: Array
    scale: Array


class _Gradient(NamedTuple):
    """The gradient with respect to the inputs of a step."""

    transition: DPLR
    drift: LowRank
    process_noise: DiagPlusLowRank
    readout: Array
    emission_noise: Array
    emission: Array


def forward(
    lgssm: MatrixLGSSM,
    emissions: Float[Array, "T m"],
    observed: Float[Array, " T"],
    form: CovarianceForm,
) -> tuple[Forward, Float[Array, "d d"]]:
    """The sequential filter, keeping nothing over time but ŷ_t and s_t; and P_T beside it."""
    steps = lgssm.num_timesteps
    length = _stretch_length(steps, lgssm.key_dim)
    extra = -steps % length
    data = pad_time(lgssm, extra), _pad(emissions, extra, -2), _pad(observed, extra, -1)
    emission_means, scales, last_mean, last_cov = _predictive(form, length, *data)
    return Forward(emission_means[..., :steps, :], scales[..., :steps], last_mean), last_cov


def _pad(x: Array, extra: int, axis: int) -> Array:
    """Zeros after the end of an axis."""
    widths = [(0, 0)] * x.ndim
    widths[axis] = (0, extra)
    return jnp.pad(x, widths) if extra else x


def _stretch_length(steps: int, dim: int) -> int:
    """About √T steps, or more while the states of a stretch are few enough for the cache.

    A divisor of T if there is one near, so that nothing need be padded.
    """
    length = max(1, math.isqrt(steps), _CACHED_ELEMENTS // dim**2)
    if length >= steps:
        return max(1, steps)
    divisors = [n for n in range(max(1, length // 2), 2 * length + 1) if steps % n == 0]
    return min(divisors or [length], key=lambda n: abs(n - length))


_CACHED_ELEMENTS = 2**15


def _stretches(tree: Any, length: int) -> Any:
    """Split the leading time axis of every array into stretches."""
    return jax.tree.map(lambda x: x.reshape(x.shape[0] // length, length, *x.shape[1:]), tree)


def _join(tree: Any) -> Any:
    """Undo :func:`_stretches`."""
    return jax.tree.map(lambda x: x.reshape(x.shape[0] * x.shape[1], *x.shape[2:]), tree)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _predictive(
    form: CovarianceForm, length: int, lgssm: MatrixLGSSM, emissions: Array, observed: Array
) -> tuple[Array, Array, Array, Array]:
    """(ŷ, s, M_T, P_T); T is a multiple of `length`."""
    run = sequential.forward(lgssm, emissions, observed, form=form)
    last_cov = form.to_dense(run.last_stored)
    return _lead_vmap_axis((run.emission_means, run.scales, run.last_mean, last_cov))


def _lead_vmap_axis(tree: Any) -> Any:
    """The same arrays, with the axis that an enclosing vmap adds brought to the front.

    JAX takes it to be in the same place whether or not the function is differentiated; scans that
    are nested differently leave it in different ones, and a reshape brings it to the front.
    """
    return jax.tree.map(lambda x: x[None].reshape(x.shape), tree)


def _predictive_forward(
    form: CovarianceForm, length: int, lgssm: MatrixLGSSM, emissions: Array, observed: Array
) -> tuple[tuple[Array, Array, Array, Array], _Residuals]:
    batched = is_batched(lgssm)

    def step(carry: Any, inputs: Inputs) -> tuple[Any, Any]:
        carry, (mean_z, update) = forward_step(form, carry, inputs)
        return carry, (mean_z, update.scale, update.gain)

    def stretch(carry: Any, inputs: Inputs) -> tuple[Any, Any]:
        last, kept = scan_steps(step, carry, inputs, batched)
        return last, (carry, kept)

    mean, stored = model_start(lgssm, form)
    start = mean, form.start(stored, lgssm.process_noise)
    inputs, written = forward_inputs(lgssm, emissions, observed)
    (last_mean, last_cov), (starts, kept) = lax.scan(stretch, start, _stretches(inputs, length))
    last_mean, stored = batch_first((last_mean, form.stored(last_cov)), batched)
    means_z, scales = _join(kept[:2])
    emission_means, scales = time_first((means_z + written, scales), batched)
    result = _lead_vmap_axis((emission_means, scales, last_mean, form.to_dense(stored)))
    return result, _Residuals(lgssm, emissions, observed, starts, kept)


def _predictive_backward(
    form: CovarianceForm, length: int, residuals: _Residuals, cotangents: Any
) -> tuple[MatrixLGSSM, Array, Array]:
    lgssm, emissions, observed, starts, (means_z, scales, gains) = residuals
    batched = is_batched(lgssm)
    emission_mean, scale, mean, cov = cotangents
    inputs = _stretches(forward_inputs(lgssm, emissions, observed)[0], length)
    # As in the filter: a scale of zero, and a missing emission, have no update.
    updated = (inputs.covariance.observed > 0) & (scales > 0)
    precisions = jnp.where(updated, 1 / jnp.where(updated, scales, 1.0), 0.0)
    errors = (inputs.emission - means_z) * inputs.covariance.observed[..., None]
    given = _stretches(time_first(_Cotangents(emission_mean, scale), batched), length)

    def recompute(carry: Any, inputs: Inputs) -> tuple[Any, Any]:
        mean, cov = carry
        new, (_, update) = forward_step(form, carry, inputs)
        return new, (mean, form.stored(cov), update.cov_z, update.cov_us)

    def stretch(carry: Any, data: Any) -> tuple[Any, _Gradient]:
        start, inputs, *rest = data
        means, stored, cov_z, cov_us = scan_steps(recompute, start, inputs, batched)[1]
        carried_us = at_every_step(_carried, batched)(inputs.covariance.transition, cov_us)
        data = inputs, form.to_dense(stored), carried_us, *rest
        carry, adjoints = scan_steps(_adjoint_step, carry, data, batched, reverse=True)
        gradient = at_every_step(_gradient, batched)
        return carry, gradient(inputs, means, cov_z, cov_us, carried_us, adjoints)

    end = batch_last((mean, 0.5 * (cov + cov.mT)), batched)
    data = (starts, inputs, gains, precisions, errors, given)
    start, gradient = lax.scan(stretch, end, data, reverse=True)
    initial_mean, initial_cov = batch_first(start, batched)
    by_step: _Gradient = time_first(_join(gradient), batched)
    return (
        replace(
            lgssm,
            initial_mean=initial_mean,
            initial_cov=initial_cov,
            transition=by_step.transition,
            drift=by_step.drift,
            process_noise=by_step.process_noise,
            readout=by_step.readout,
            emission_noise=by_step.emission_noise,
            row_cov=jnp.zeros_like(lgssm.row_cov),
            emission_bias=jnp.zeros_like(lgssm.emission_bias),
        ),
        by_step.emission,
        jnp.zeros_like(observed),
    )


class _Adjoints(NamedTuple):
    """What the adjoint scan leaves of a step; with the names of :func:`_adjoint_step`.

    Lists have one entry for every column u or v of A, or for every column of the noise's factor.
    """

    predicted: Array  # G̃
    info_diag: Array | None  # the diagonal of N
    to_emission: Array  # G g
    to_error: Array  # ē
    to_scale: Array  # s̄
    to_p: Array  # p̄
    cov_p: Array  # P A p̄
    cov_info: Array  # the diagonal of P W N
    cov_vs: list[Array]  # P A N v
    info_vs: list[Array]  # N v
    info_us: list[Array]  # N Aᵀ P u
    info_columns: list[Array]  # N times the columns of the noise's factor
    predicted_vs: list[Array]  # G̃ v


def _carried(transition: DPLR, vectors: list[Array]) -> list[Array]:
    """Aᵀ x for every x."""
    return [transition_times(transition.T, x) for x in vectors]


def _stack(vectors: list[Array], like: Array) -> Array:
    """A matrix from its columns, of which there may be none."""
    return jnp.stack(vectors, axis=1) if vectors else jnp.zeros_like(like)


def _adjoint_step(carry: Any, data: Any) -> tuple[Any, _Adjoints]:
    r"""From (G, N) at t to (G, N) at t − 1.

    With e the innovation, the incoming cotangents a of ŷ and c of s, and p = P⁻h:

    $$\bar e = G g - a,\quad \bar s = c + g^\top N g - g^\top G^\top e / s,\quad
      \bar p = \bar s h - 2 N g + G^\top e / s$$
    $$\tilde G = G - \bar e h^\top,\quad
      \tilde N = N + \tfrac12 (\bar p h^\top + h \bar p^\top),\quad
      G' = \tilde G A^\top,\quad N' = A \tilde N A^\top$$
    """
    adjoint, information = carry
    inputs, cov, carried_us, gain, precision, error, cotangent = data
    transition, noise = inputs.covariance.transition, inputs.covariance.noise
    h, z = inputs.covariance.readout, inputs.covariance.carried_readout
    w, us, vs = transition.diag, columns(transition.left), columns(transition.right)

    info_g, *info_vs = [symmetric_times(information, x) for x in (gain, *vs)]
    pull = left_times(error, adjoint) * precision  # Gᵀe/s
    to_emission = times(adjoint, gain)
    to_error = to_emission - cotangent.emission_mean
    to_scale = cotangent.scale + inner(gain, info_g - pull)
    to_p = to_scale * h - 2 * info_g + pull
    before_p = transition_times(transition, to_p)
    predicted = adjoint - outer(to_error, h)
    predicted_vs = [times(predicted, v) for v in vs]

    new_adjoint = carry_rows(predicted, w, predicted_vs, us)
    pairs = [*congruence_pairs(info_vs, w, vs, us), (-0.5 * before_p, z)]
    return (new_adjoint, scaled_less(information, w, pairs)), _Adjoints(
        predicted=predicted,
        info_diag=None if noise.diag is None else diagonal_of(information),
        to_emission=to_emission,
        to_error=to_error,
        to_scale=to_scale,
        to_p=to_p,
        cov_p=symmetric_times(cov, before_p),
        cov_info=hadamard_times(cov, information, w),
        cov_vs=[symmetric_times(cov, transition_times(transition, x)) for x in info_vs],
        info_vs=info_vs,
        info_us=[symmetric_times(information, x) for x in carried_us],
        info_columns=[symmetric_times(information, x) for x in columns(noise.factor)],
        predicted_vs=predicted_vs,
    )


def _gradient(
    inputs: Inputs,
    mean: Array,
    cov_z: Array,
    cov_us: list[Array],
    carried_us: list[Array],
    adjoints: _Adjoints,
) -> _Gradient:
    r"""The gradient of the inputs of a step, for all steps of a stretch at once.

    What takes a product with P or N has been done in the scan, where it costs less.

    With M and P the law before the step,

    $$\bar A = M^\top \tilde G + 2 P A \tilde N,\quad \bar B = \tilde G,\quad
      \bar Q = \tilde N,\quad \bar r = \bar s,\quad
      \bar h = P^- (\bar p + \bar s h) - (M^-)^\top \bar e$$
    """
    step, drift = inputs.covariance, inputs.drift
    transition, noise, h = step.transition, step.noise, step.readout
    cov_p, to_p, to_scale = adjoints.cov_p, adjoints.to_p, adjoints.to_scale
    us, vs = columns(transition.left), columns(transition.right)

    def predicted_information(x: Array, info_x: Array) -> Array:
        """Ñ x, from N x."""
        return info_x + 0.5 * (inner(h, x) * to_p + inner(to_p, x) * h)

    to_h = cov_p + to_scale * cov_z - left_times(adjoints.to_error, mean)
    to_h = transition_times(transition.T, to_h) + noise_times(noise, to_p + to_scale * h)
    to_h = to_h - drift_times(LowRank(drift.right, drift.left), adjoints.to_error)

    to_left, to_right = [], []
    # The diagonal of P A Ñ, where A Ñ = W N − Σ u (N v)ᵀ and the part with p̄.
    diagonal = adjoints.cov_info + 0.5 * (cov_p * h + cov_z * to_p)
    for j, (u, v) in enumerate(zip(us, vs, strict=True)):
        cov_v = adjoints.cov_vs[j] + 0.5 * (inner(h, v) * cov_p + inner(to_p, v) * cov_z)
        to_left.append(-left_times(adjoints.predicted_vs[j], mean) - 2 * cov_v)
        info_u = predicted_information(carried_us[j], adjoints.info_us[j])
        to_right.append(-left_times(times(mean, u), adjoints.predicted) - 2 * info_u)
        diagonal = diagonal - cov_us[j] * adjoints.info_vs[j]
    to_columns = [
        2 * predicted_information(x, info_x)
        for x, info_x in zip(columns(noise.factor), adjoints.info_columns, strict=True)
    ]
    to_diag = None if adjoints.info_diag is None else adjoints.info_diag + to_p * h
    return _Gradient(
        transition=DPLR(
            jnp.sum(mean * adjoints.predicted, axis=0) + 2 * diagonal,
            _stack(to_left, transition.left),
            _stack(to_right, transition.right),
        ),
        drift=LowRank(
            _stack([times(adjoints.predicted, x) for x in columns(drift.right)], drift.left),
            _stack([left_times(x, adjoints.predicted) for x in columns(drift.left)], drift.right),
        ),
        process_noise=DiagPlusLowRank(to_diag, _stack(to_columns, noise.factor)),
        readout=to_h,
        emission_noise=to_scale,
        emission=adjoints.to_emission,
    )


_predictive.defvjp(_predictive_forward, _predictive_backward)
