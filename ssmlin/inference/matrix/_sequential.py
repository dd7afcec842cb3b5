r"""The sequential driver: scans over time whose bodies hold no matrix-matrix product.

Every step takes a few matrix-vector products of the covariance and writes it once, as a scaled copy
less a few symmetric rank-1 terms: O(d² + m d) a step. On a CPU one tiny matrix-matrix product costs
more than all of that, so the columns of the low-rank parts are processed one by one.

Conventions: M is m × d with the state's rows. A missing emission has ``observed`` = 0, which turns
the update off, so the filtered law is the predicted one. Every function takes one sequence or a
batch of them, whose axis leads every array of the model and the data; inside a step it is last.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from ssmlin.inference._batch_last import (
    columns,
    inner,
    left_times,
    outer,
    symmetric_times,
    times,
)
from ssmlin.inference._roots import masked_rsqrt
from ssmlin.inference.matrix._axes import (
    batch_to_end,
    batch_to_front,
    is_batched,
    scan_steps,
    swap_batch_and_time,
)
from ssmlin.inference.matrix._covariance import (
    Carry,
    CovarianceForm,
    append,
    carry_rows,
    congruence_pairs,
    potter,
    scaled_less,
    with_spare,
)
from ssmlin.inference.matrix._driver import (
    KEEP_NOTHING,
    Backward,
    Forward,
    Keep,
    Predictions,
    RootBackward,
    kept,
)
from ssmlin.inference.matrix._elements import Law
from ssmlin.inference.matrix._steps import (
    Inputs,
    State,
    carried_readout,
    forward_inputs,
    forward_step,
    model_start,
)
from ssmlin.lgssm import DPLR, DiagPlusLowRank, LowRank, MatrixLGSSM


class _Kept(NamedTuple):
    """What the forward scan keeps of a step."""

    emission_mean: Array
    scale: Array
    gain: Array | None
    mean: Array | None
    stored: Array | None


def forward(
    lgssm: MatrixLGSSM,
    emissions: Float[Array, "*B T m"],
    observed: Float[Array, "*B T"],
    *,
    form: CovarianceForm,
    keep: Keep = KEEP_NOTHING,
    start: Law | None = None,
) -> Forward:
    r"""Kalman filter from t = 1 to T.

    Args:
        lgssm: the model; its emission bias is not used here.
        emissions: y_t less the bias, finite also where nothing was observed.
        observed: 1.0 where y_t was observed, 0.0 where not.
        form: how the covariance is carried.
        keep: what to keep over time.
        start: the law to start from, stored in the form; the model's if None.

    Returns:
        The predicted moments of the emissions, the last law, and what was asked for.
    """
    batched = is_batched(lgssm)

    def step(state: State, inputs: Inputs) -> tuple[State, _Kept]:
        state, (mean_z, update) = forward_step(form, state, inputs)
        return state, _Kept(
            mean_z,
            update.scale,
            update.gain if keep.gains else None,
            state.mean if keep.means else None,
            state.cov.matrix if keep.covariances else None,
        )

    law = batch_to_end(start, batched) if start is not None else model_start(lgssm, form)
    inputs, written = forward_inputs(lgssm, emissions, observed)
    state = State(law.mean, form.start(law.stored, lgssm.process_noise))
    last, over_time = scan_steps(step, state, inputs, batched)
    last_law = batch_to_front(Law(last.mean, last.cov.matrix), batched)
    over_time = over_time._replace(emission_mean=over_time.emission_mean + written)
    over_time = swap_batch_and_time(over_time, batched)
    return Forward(
        emission_means=over_time.emission_mean,
        scales=over_time.scale,
        last_mean=last_law.mean,
        last_cov=form.to_dense(last_law.stored),
        gains=over_time.gain,
        means=over_time.mean,
        stored=over_time.stored,
        last_stored=last_law.stored,
    )


class BackwardState(NamedTuple):
    """What the backward scan carries: the adjoint of the mean and the information."""

    adjoint: Float[Array, "*B m d"]
    information: Float[Array, "*B d d"] | None


class _BackwardInputs(NamedTuple):
    """What a step of the backward scan is given."""

    transition: DPLR
    carried_readout: Array
    gain: Array
    precision: Array
    white: Array  # e/s


class _BackwardKept(NamedTuple):
    """What the backward scan keeps of a step."""

    adjoint: Array
    write: Array  # λ̂ g + e/s
    information: Array | None


def backward(
    lgssm: MatrixLGSSM,
    gains: Float[Array, "*B T d"],
    precisions: Float[Array, "*B T"],
    residuals: Float[Array, "*B T m"],
    *,
    keep_information: bool = False,
    end: BackwardState | None = None,
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
        keep_information: whether to run and keep the covariance part. The smoothed means follow
            from the predicted adjoints without it.
        end: the adjoint and the information at t = T; zero if None.

    Returns:
        The adjoints and, if asked for, the information matrices.

    Source: Bierman (1973); Durbin and Koopman, Time Series Analysis by State Space Methods (2012).
    """
    batched = is_batched(lgssm)
    if end is None:
        rows = (*residuals.shape[:-2], residuals.shape[-1], lgssm.key_dim)
        information = jnp.zeros_like(lgssm.initial_cov) if keep_information else None
        end = BackwardState(jnp.zeros(rows, lgssm.dtype), information)

    def step(state: BackwardState, inputs: _BackwardInputs) -> tuple[BackwardState, _BackwardKept]:
        adjoint, information = state
        transition, z, g, precision, white = inputs
        w, us, vs = transition.diag, columns(transition.left), columns(transition.right)

        adjoint_g, *adjoint_vs = [times(adjoint, x) for x in (g, *vs)]
        write = adjoint_g + white
        new_adjoint = carry_rows(adjoint, w, adjoint_vs, us) - outer(write, z)

        new_information = None
        if information is not None:
            info_g, *info_vs = [symmetric_times(information, x) for x in (g, *vs)]
            # A (Λ g) − ½ (gᵀΛg + 1/s) z, the partner of z.
            partner = w * info_g - 0.5 * (inner(g, info_g) + precision) * z
            for u, v in zip(us, vs, strict=True):
                partner = partner - inner(v, info_g) * u
            pairs = [*congruence_pairs(info_vs, w, vs, us), (partner, z)]
            new_information = scaled_less(information, w, pairs)
        return BackwardState(new_adjoint, new_information), _BackwardKept(
            adjoint, write, information
        )

    white = residuals * precisions[..., None]
    inputs = _BackwardInputs(lgssm.transition, carried_readout(lgssm), gains, precisions, white)
    inputs = swap_batch_and_time(inputs, batched)
    start, over_time = scan_steps(step, batch_to_end(end, batched), inputs, batched, reverse=True)
    start = batch_to_front(start, batched)
    adjoints, writes, information = swap_batch_and_time(over_time, batched)
    # C_tᵀ is applied here and not in the scan; the compiler drops it where it is not used.
    predicted = adjoints - writes[..., :, None] * lgssm.readout[..., None, :]
    return Backward(adjoints, predicted, start.adjoint, information, start.information)


class RootState(NamedTuple):
    """What the backward scan in factors carries: ζ, and W or a factor with spare columns."""

    shift: Float[Array, "*B m d"]
    future: Carry


class _RootInputs(NamedTuple):
    """What a step of the backward scan in factors is given."""

    transition: DPLR
    noise: DiagPlusLowRank
    readout: Array
    inverse_root: Array  # 1/√r, zero where nothing was observed
    gain: Array
    residual: Array
    root: Array  # L


def root_backward(
    lgssm: MatrixLGSSM,
    emissions: Float[Array, "*B T m"],
    observed: Float[Array, "*B T"],
    run: Forward,
    residuals: Float[Array, "*B T m"],
    *,
    end: Law | None = None,
) -> RootBackward:
    r"""Smooth in factors from t = T to 1, by the likelihood of the later emissions.

    $$p(y_{t+1:T} \mid S_t = M_t + X) \propto
      \exp \mathrm{tr}\, \Sigma^{-1} (X \zeta^\top - \tfrac12 X J X^\top), \quad J = W W^\top$$
    $$P_{t \mid T} = (P_t^{-1} + J)^{-1}, \quad E[S_t \mid y_{1:T}] = M_t + \zeta P_{t \mid T}$$

    Every column of W is a measurement of the state with noise of variance one, so the smoothed
    factor comes from L by Potter updates; the process noise acts on W in the same way. No
    difference of covariances is taken, so no digits are lost where P_t is large beside the smoothed
    covariance. Right for singular P and Q, but not for r = 0.

    Args:
        lgssm: the model.
        emissions: y_t less the bias; not used here, but where time is cut into chunks.
        observed: 1.0 where y_t was observed, 0.0 where not.
        run: the forward pass in square-root form, with everything kept.
        residuals: e_t, zero where nothing was observed.
        end: ζ and W at t = T; zero if None.

    Returns:
        ζ and a factor of the smoothed covariance, for every step.
    """
    batched, dim = is_batched(lgssm), lgssm.key_dim
    if end is None:
        rows = (*residuals.shape[:-2], residuals.shape[-1], dim)
        end = Law(jnp.zeros(rows, lgssm.dtype), jnp.zeros_like(lgssm.initial_cov))

    def measure(root: Array, direction: Array) -> tuple[Array, None]:
        return potter(root, left_times(direction, root), 1.0).factor, None

    def blur(past: Law, direction: Array, f: Array) -> Law:
        """The likelihood of x + ξ direction, with ξ ~ N(0, 1) integrated out."""
        matrix, gain, _ = potter(past.stored, f, 1.0)
        return Law(past.mean - outer(times(past.mean, direction), gain), matrix)

    def blur_entry(past: Law, data: tuple[Array, Array]) -> tuple[Law, None]:
        unit, q = data
        direction = unit.reshape(dim, *(1,) * q.ndim) * jnp.sqrt(q)
        return blur(past, direction, left_times(direction, past.stored)), None

    def step(state: RootState, inputs: _RootInputs) -> tuple[RootState, RootBackward]:
        shift, future = state
        transition, noise, h, inverse_root, gain, error, root = inputs
        w, us, vs = transition.diag, columns(transition.left), columns(transition.right)

        smoothed = lax.scan(measure, root, jnp.moveaxis(future.matrix, 1, 0))[0]
        result = RootBackward(shift, smoothed)

        # The emission; from here on the shift is about the predicted mean.
        future_g = times(future.matrix, left_times(gain, future.matrix))
        shift = shift + outer(error, future_g + inverse_root * inverse_root * h)
        future = append(future, (inverse_root * h)[:, None])

        blurred = Law(shift, future.matrix)
        if noise.diag is not None:
            eye = jnp.eye(dim, dtype=lgssm.dtype)
            blurred = lax.scan(blur_entry, blurred, (eye, noise.diag))[0]
        for column in columns(noise.factor):
            blurred = blur(blurred, column, left_times(column, blurred.stored))
        shift, matrix = blurred

        new_shift = carry_rows(shift, w, [times(shift, v) for v in vs], us)
        new_matrix = w[:, None] * matrix
        for u, v in zip(us, vs, strict=True):
            new_matrix = new_matrix - outer(u, left_times(v, matrix))
        return RootState(new_shift, Carry(new_matrix, future.taken)), result

    inputs = _RootInputs(
        lgssm.transition,
        lgssm.process_noise,
        lgssm.readout,
        masked_rsqrt(lgssm.emission_noise, observed),
        kept(run.gains),
        residuals,
        kept(run.stored),
    )
    law = batch_to_end(end, batched)
    start = RootState(law.mean, with_spare(law.stored, dim))
    inputs = swap_batch_and_time(inputs, batched)
    over_time = scan_steps(step, start, inputs, batched, reverse=True)[1]
    return swap_batch_and_time(over_time, batched)


def forward_means(
    lgssm: MatrixLGSSM,
    initial_mean: Float[Array, "*B n d"],
    emissions: Float[Array, "*B T n"],
    gains: Float[Array, "*B T d"],
) -> Predictions:
    """Filter any number n of rows with known gains and without drift.

    So many data sets can be filtered with one set of gains.
    """
    batched = is_batched(lgssm)

    def step(mean: Array, inputs: tuple[DPLR, Array, Array, Array]) -> tuple[Array, Array]:
        transition, z, gain, y = inputs
        mean_z, *mean_us = [times(mean, x) for x in (z, *columns(transition.left))]
        carried = carry_rows(mean, transition.diag, mean_us, columns(transition.right))
        return carried + outer(y - mean_z, gain), mean_z

    inputs = (lgssm.transition, carried_readout(lgssm), gains, emissions)
    inputs = swap_batch_and_time(inputs, batched)
    last, read = scan_steps(step, batch_to_end(initial_mean, batched), inputs, batched)
    return Predictions(swap_batch_and_time(read, batched), batch_to_front(last, batched))


def carried_means(
    lgssm: MatrixLGSSM,
    initial_mean: Float[Array, "*B n d"],
    shifts: Float[Array, "*B T n d"],
    *,
    with_drift: bool = True,
) -> Float[Array, "*B T n d"]:
    r"""The states $S_t = S_{t-1} A_t + B_t + X_t$ from S_0, with the shifts X_t."""
    batched = is_batched(lgssm)

    def step(mean: Array, inputs: tuple[DPLR, LowRank, Array]) -> tuple[Array, Array]:
        transition, drift, shift = inputs
        products = [times(mean, u) for u in columns(transition.left)]
        mean = carry_rows(mean, transition.diag, products, columns(transition.right)) + shift
        if with_drift:
            for left, right in zip(columns(drift.left), columns(drift.right), strict=True):
                mean = mean + outer(left, right)
        return mean, mean

    inputs = swap_batch_and_time((lgssm.transition, lgssm.drift, shifts), batched)
    states = scan_steps(step, batch_to_end(initial_mean, batched), inputs, batched)[1]
    return swap_batch_and_time(states, batched)


class Sequential:
    """The driver that runs one step after the other, for one sequence or a batch."""

    takes_batches = True
    forward = staticmethod(forward)
    backward = staticmethod(backward)
    root_backward = staticmethod(root_backward)
    forward_means = staticmethod(forward_means)
    carried_means = staticmethod(carried_means)


SEQUENTIAL = Sequential()
