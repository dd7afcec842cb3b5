"""One step of the filter, as the sequential driver and the adjoint run it.

With z = A h the step needs the products of P with z and with the columns u of A alone:
s = zᵀPz + (hᵀQh + r) and P⁻h = Aᵀ(Pz) + Qh. The rest does not depend on P and is computed for all
steps at once.
"""

from typing import NamedTuple

from jaxtyping import Array, Float

from ssmlin.inference._batch_last import (
    columns,
    drift_times,
    inner,
    noise_times,
    outer,
    times,
    transition_times,
)
from ssmlin.inference.matrix._axes import (
    at_every_step,
    batch_to_end,
    is_batched,
    swap_batch_and_time,
)
from ssmlin.inference.matrix._covariance import Carry, CovarianceForm, Step, Update, carry_rows
from ssmlin.inference.matrix._elements import Law
from ssmlin.lgssm import DPLR, DiagPlusLowRank, LowRank, MatrixLGSSM


class Inputs(NamedTuple):
    """What a step of the forward scan is given."""

    covariance: Step
    drift: LowRank
    emission: Array  # y less the drift's part B h


def forward_inputs(
    lgssm: MatrixLGSSM, emissions: Float[Array, "*B T m"], observed: Float[Array, "*B T"]
) -> tuple[Inputs, Float[Array, "T *B m"]]:
    """What all steps are given, and B_t h_t; time first."""

    def prepare(
        transition: DPLR,
        drift: LowRank,
        noise: DiagPlusLowRank,
        h: Array,
        r: Array,
        y: Array,
        seen: Array,
    ) -> tuple[Inputs, Array]:
        noise_h = noise_times(noise, h)
        written = drift_times(drift, h)
        step = Step(
            transition=transition,
            noise=noise,
            readout=h,
            carried_readout=transition_times(transition, h),
            noise_readout=noise_h,
            noise_scale=inner(h, noise_h) + r,
            emission_noise=r,
            observed=seen,
        )
        return Inputs(step, drift, y - written), written

    batched = is_batched(lgssm)
    given = (
        lgssm.transition,
        lgssm.drift,
        lgssm.process_noise,
        lgssm.readout,
        lgssm.emission_noise,
        emissions,
        observed,
    )
    return swap_batch_and_time(at_every_step(prepare, batched)(*given), batched)


def carried_readout(lgssm: MatrixLGSSM) -> Float[Array, "*B T d"]:
    """z_t = A_t h_t: the readout as the state before the transition sees it."""
    return at_every_step(transition_times, is_batched(lgssm))(lgssm.transition, lgssm.readout)


def model_start(lgssm: MatrixLGSSM, form: CovarianceForm) -> Law:
    """The law of S_0, stored in the form; batch last."""
    law = Law(lgssm.initial_mean, lgssm.initial_cov)
    mean, cov = batch_to_end(law, is_batched(lgssm))
    return Law(mean, form.store(cov))


class State(NamedTuple):
    """What the forward scan carries."""

    mean: Float[Array, " m d *batch"]
    cov: Carry


class StepResult(NamedTuple):
    """What the forward scan computes at a step beside the new state.

    Attributes:
        mean_z: M_{t-1} z_t, the predicted emission less the drift's part.
        update: the scale, the gain, and products of the covariance.
    """

    mean_z: Float[Array, " m *batch"]
    update: Update


def forward_step(form: CovarianceForm, state: State, inputs: Inputs) -> tuple[State, StepResult]:
    """Filter one step."""
    mean, cov = state
    transition, drift = inputs.covariance.transition, inputs.drift
    new_cov, update = form.advance(cov, inputs.covariance)
    mean_z, *mean_us = [
        times(mean, x) for x in (inputs.covariance.carried_readout, *columns(transition.left))
    ]
    new = carry_rows(mean, transition.diag, mean_us, columns(transition.right))
    new = new + outer(inputs.emission - mean_z, update.gain)
    for left, right in zip(columns(drift.left), columns(drift.right), strict=True):
        new = new + outer(left, right)
    return State(new, new_cov), StepResult(mean_z, update)
