r"""The sequential driver with the exact gradient of the filter by its adjoint recursion.

The filter maps the model to the predictive moments of the emissions (ŷ_t, s_t) and the last
filtered law. Given the cotangents of these, one backward scan carries G = ∂L/∂M_t and N = ∂L/∂P_t
and returns the gradient of every input of every step. For the log-likelihood G and N are the
smoother's adjoints, G = −Σ⁻¹ λ̂ and N = ½ (λ̂ᵀ Σ⁻¹ λ̂ − m Λ̂), so a gradient costs about as much as
smoothing. As in the filter there is no matrix-matrix product in the scan.

The filter keeps its state only at the start of every chunk of about √T steps. The backward scan
computes the states of a chunk again when it comes to it. So memory is O(T d + √T d²), not O(T d²).
Where all steps are one chunk its states are kept, and nothing is computed twice.

Source: Koopman and Shephard (1992), Biometrika 79, for the score of every time-varying parameter.
"""

import math
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from ssmlin._precision import in_full_precision
from ssmlin.inference._batch_last import (
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
from ssmlin.inference._chunks import Cut, pad_end
from ssmlin.inference._roots import symmetric_part
from ssmlin.inference.matrix import _sequential as sequential
from ssmlin.inference.matrix._axes import (
    at_every_step,
    batch_to_end,
    batch_to_front,
    is_batched,
    pad_time,
    scan_steps,
    swap_batch_and_time,
)
from ssmlin.inference.matrix._covariance import (
    CovarianceForm,
    carry_rows,
    congruence_pairs,
    scaled_less,
)
from ssmlin.inference.matrix._driver import KEEP_NOTHING, Forward, Keep
from ssmlin.inference.matrix._elements import Law
from ssmlin.inference.matrix._steps import (
    Inputs,
    State,
    forward_inputs,
    forward_step,
    model_start,
)
from ssmlin.lgssm import DPLR, DiagPlusLowRank, LowRank, MatrixLGSSM


class _Predictive(NamedTuple):
    """The predictive moments ŷ and s, and the last filtered law; or their cotangents."""

    emission_means: Array
    scales: Array
    last_mean: Array
    last_cov: Array


class _Emission(NamedTuple):
    """What the filter says of an emission: E[y_t] less the drift's part, s_t and g_t."""

    mean_z: Array
    scale: Array
    gain: Array


class _Residuals(NamedTuple):
    """What the forward pass keeps for the backward pass."""

    lgssm: MatrixLGSSM
    emissions: Array
    observed: Array
    starts: State  # at the start of every chunk
    kept: _Emission  # by chunk
    before: "_Before | None"  # by chunk, if there is one only


class _Cotangents(NamedTuple):
    """The cotangents ∂L/∂ŷ_t and ∂L/∂s_t."""

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
    emissions: Float[Array, "*B T m"],
    observed: Float[Array, "*B T"],
    *,
    form: CovarianceForm,
    keep: Keep = KEEP_NOTHING,
) -> Forward:
    """Kalman filter; if nothing is kept over time, with the adjoint recursion as its gradient."""
    if any(keep):
        return sequential.forward(lgssm, emissions, observed, form=form, keep=keep)
    steps = lgssm.num_timesteps
    extra = Cut(steps, length := _chunk_length(steps, lgssm.key_dim)).extra
    data = pad_time(lgssm, extra), pad_end(emissions, extra, -2), pad_end(observed, extra, -1)
    run = _Predictive(*_predictive(form, length, *data))
    return Forward(
        emission_means=run.emission_means[..., :steps, :],
        scales=run.scales[..., :steps],
        last_mean=run.last_mean,
        last_cov=run.last_cov,
    )


def _chunk_length(steps: int, dim: int) -> int:
    """About √T steps, or more while the states of a chunk are few enough for the cache.

    A divisor of T if there is one near, which needs no padding.
    """
    length = max(1, math.isqrt(steps), _CACHED_ELEMENTS // dim**2)
    if length >= steps:
        return max(1, steps)
    divisors = [n for n in range(max(1, length // 2), 2 * length + 1) if steps % n == 0]
    return min(divisors or [length], key=lambda n: abs(n - length))


_CACHED_ELEMENTS = 2**15


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _predictive(
    form: CovarianceForm, length: int, lgssm: MatrixLGSSM, emissions: Array, observed: Array
) -> _Predictive:
    """The filter without anything kept; T is a multiple of `length`."""
    run = sequential.forward(lgssm, emissions, observed, form=form)
    return _lead_vmap_axis(_Predictive(run.emission_means, run.scales, run.last_mean, run.last_cov))


def _lead_vmap_axis(predictive: _Predictive) -> _Predictive:
    """The same arrays, with the axis that an enclosing vmap adds moved to the front.

    JAX expects it at the same place whether or not the function is differentiated. Scans that are
    nested differently leave it at different places, and a reshape moves it to the front.
    """
    return _Predictive(*(x[None].reshape(x.shape) for x in predictive))


@in_full_precision
def _predictive_forward(
    form: CovarianceForm, length: int, lgssm: MatrixLGSSM, emissions: Array, observed: Array
) -> tuple[_Predictive, _Residuals]:
    batched, cut = is_batched(lgssm), Cut(lgssm.num_timesteps, length)

    def step(state: State, inputs: Inputs) -> tuple[State, tuple[_Emission, _Before | None]]:
        new, (mean_z, update) = forward_step(form, state, inputs)
        before = _Before(state.mean, state.cov.matrix, update.cov_z, update.cov_us)
        emission = _Emission(mean_z, update.scale, update.gain)
        return new, (emission, before if cut.num == 1 else None)

    def chunk(
        state: State, inputs: Inputs
    ) -> tuple[State, tuple[State, tuple[_Emission, _Before | None]]]:
        last, kept = scan_steps(step, state, inputs, batched)
        return last, (state, kept)

    mean, stored = model_start(lgssm, form)
    start = State(mean, form.start(stored, lgssm.process_noise))
    inputs, written = forward_inputs(lgssm, emissions, observed)
    last, (starts, (kept, before)) = lax.scan(chunk, start, cut.split(inputs))
    last_mean, stored = batch_to_front(Law(last.mean, last.cov.matrix), batched)
    means_z, scales = cut.join((kept.mean_z, kept.scale))
    emission_means, scales = swap_batch_and_time((means_z + written, scales), batched)
    result = _Predictive(emission_means, scales, last_mean, form.to_dense(stored))
    return _lead_vmap_axis(result), _Residuals(lgssm, emissions, observed, starts, kept, before)


class _Before(NamedTuple):
    """The law before a step, and products of its covariance."""

    mean: Array
    stored: Array
    cov_z: Array
    cov_us: list[Array]


class _ChunkInputs(NamedTuple):
    """What a chunk of the backward scan is given."""

    start: State
    before: _Before | None
    inputs: Inputs
    gain: Array
    precision: Array
    error: Array
    cotangent: "_Cotangents"


class _AdjointInputs(NamedTuple):
    """What a step of the backward scan is given."""

    inputs: Inputs
    cov: Array
    carried_us: list[Array]
    gain: Array
    precision: Array
    error: Array
    cotangent: "_Cotangents"


class _AdjointState(NamedTuple):
    """What the backward scan carries: G and N."""

    adjoint: Array
    information: Array


@in_full_precision
def _predictive_backward(
    form: CovarianceForm, length: int, residuals: _Residuals, cotangents: _Predictive
) -> tuple[MatrixLGSSM, Array, Array]:
    lgssm, emissions, observed, starts, (means_z, scales, gains), kept = residuals
    batched, cut = is_batched(lgssm), Cut(lgssm.num_timesteps, length)
    inputs = cut.split(forward_inputs(lgssm, emissions, observed)[0])
    # As in the filter: a scale of zero, and a missing emission, have no update.
    updated = (inputs.covariance.observed > 0) & (scales > 0)
    precisions = jnp.where(updated, 1 / jnp.where(updated, scales, 1.0), 0.0)
    errors = (inputs.emission - means_z) * inputs.covariance.observed[..., None]
    given = _Cotangents(cotangents.emission_means, cotangents.scales)
    given = cut.split(swap_batch_and_time(given, batched))

    def recompute(state: State, inputs: Inputs) -> tuple[State, _Before]:
        new, (_, update) = forward_step(form, state, inputs)
        return new, _Before(state.mean, state.cov.matrix, update.cov_z, update.cov_us)

    def chunk(state: _AdjointState, data: _ChunkInputs) -> tuple[_AdjointState, _Gradient]:
        start, before, inputs, gain, precision, error, cotangent = data
        if before is None:
            before = scan_steps(recompute, start, inputs, batched)[1]
        carried = at_every_step(_carried, batched)
        carried_us = carried(inputs.covariance.transition, before.cov_us)
        cov = form.to_dense(before.stored)
        steps = _AdjointInputs(inputs, cov, carried_us, gain, precision, error, cotangent)
        state, adjoints = scan_steps(_adjoint_step, state, steps, batched, reverse=True)
        gradient = at_every_step(_gradient, batched)
        return state, gradient(inputs, before, carried_us, adjoints)

    cov = cotangents.last_cov
    end = batch_to_end(_AdjointState(cotangents.last_mean, symmetric_part(cov)), batched)
    data = _ChunkInputs(starts, kept, inputs, gains, precisions, errors, given)
    start, gradient = lax.scan(chunk, end, data, reverse=True)
    initial_mean, initial_cov = batch_to_front(start, batched)
    by_step = swap_batch_and_time(cut.join(gradient), batched)
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
    """What the backward scan keeps of a step, with the names of :func:`_adjoint_step`.

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
    """A matrix of these columns, or an empty one."""
    return jnp.stack(vectors, axis=1) if vectors else jnp.zeros_like(like)


def _adjoint_step(state: _AdjointState, data: _AdjointInputs) -> tuple[_AdjointState, _Adjoints]:
    r"""From (G, N) at t to (G, N) at t − 1.

    With e the innovation, the incoming cotangents a of ŷ and c of s, and p = P⁻h:

    $$\bar e = G g - a,\quad \bar s = c + g^\top N g - g^\top G^\top e / s,\quad
      \bar p = \bar s h - 2 N g + G^\top e / s$$
    $$\tilde G = G - \bar e h^\top,\quad
      \tilde N = N + \tfrac12 (\bar p h^\top + h \bar p^\top),\quad
      G' = \tilde G A^\top,\quad N' = A \tilde N A^\top$$
    """
    adjoint, information = state
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
    new_information = scaled_less(information, w, pairs)
    return _AdjointState(new_adjoint, new_information), _Adjoints(
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
    inputs: Inputs, before: _Before, carried_us: list[Array], adjoints: _Adjoints
) -> _Gradient:
    r"""The gradient of the inputs of a step.

    Products with P or N were computed in the scan, where they cost less.

    With M and P the law before the step,

    $$\bar A = M^\top \tilde G + 2 P A \tilde N,\quad \bar B = \tilde G,\quad
      \bar Q = \tilde N,\quad \bar r = \bar s,\quad
      \bar h = P^- (\bar p + \bar s h) - (M^-)^\top \bar e$$
    """
    step, drift = inputs.covariance, inputs.drift
    mean, _, cov_z, cov_us = before
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


class Adjoint:
    """The sequential driver with :func:`forward` in place of its own."""

    takes_batches = True
    forward = staticmethod(forward)
    backward = staticmethod(sequential.backward)
    root_backward = staticmethod(sequential.root_backward)
    forward_means = staticmethod(sequential.forward_means)
    carried_means = staticmethod(sequential.carried_means)


ADJOINT = Adjoint()
