"""Epochs of a fit: their gradient steps, what they carry along, and when to stop."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from dynamax.parameters import from_unconstrained, to_unconstrained
from jaxtyping import Array, Bool, Float, Int, PyTree

from ssmlin._batch_options import batch_options
from ssmlin._typing import AnyArray
from ssmlin.learning._flat import Flat
from ssmlin.learning._log_posterior import strong
from ssmlin.learning._loss import (
    Batch,
    FitData,
    LossTerms,
    Objective,
    Window,
    Windows,
    count_values,
    loss,
    no_laws,
)
from ssmlin.learning._quasi_newton import QuasiNewton

EPOCHS_PER_CALL = 20
#: Sequences and starts computed at once from which on XLA's options for batches pay: a gradient of
#: 64 sequences takes a quarter of the time with 14 columns, and a fifth with 24.
MANY_AT_ONCE = 8
#: A fit has converged when so many epochs together lower its loss by less than so many nats a
#: value.
CONVERGED_EPOCHS, CONVERGED_GAIN = 10, 1e-5
#: How many standard errors a line search's parameters must predict better by to count as better.
#: They are the best of a few long steps, so that one would be too few.
_ERRORS = 2.0
#: Where the lowest loss predicts worse by so many nats a step one standard error is enough to say
#: that it overfits: a few terrible predictions make the standard error large, too.
_SIZEABLE = 0.2


class Candidate(NamedTuple):
    """Parameters that may be returned.

    Attributes:
        params: unconstrained, as one vector.
        terms: log predictive densities of all steps.
        loss: training loss; infinite if there is no candidate yet.
        epoch: how many epochs they have seen.
    """

    params: Flat
    terms: Float[Array, "*R B T"]
    loss: Float[Array, "*R"]
    epoch: Int[AnyArray, "*R"]


class FitState(NamedTuple):
    """Everything that the next epoch needs; of several fits every array has a leading axis.

    Attributes:
        params: unconstrained parameters, as one vector.
        optimizer_state: of optax.
        best: by the validation part, see :func:`fit_sgd`, or by the loss.
        lowest: of the lowest training loss.
        least_score: the lowest score, and at which epoch it was.
        least_epoch: that epoch.
        last_gain: the loss when it last fell by more than the limit of convergence.
        idle: epochs since.
        epoch: epochs run.
        bad_steps: steps that were not taken since they were not finite.
        overfits: whether the lowest loss predicts clearly worse than the best.
    """

    params: Flat
    optimizer_state: optax.OptState
    best: Candidate
    lowest: Candidate
    least_score: Float[Array, "*R"]
    least_epoch: Int[AnyArray, "*R"]
    last_gain: Float[Array, "*R"]
    idle: Int[AnyArray, "*R"]
    epoch: Int[AnyArray, "*R"]
    bad_steps: Int[AnyArray, "*R"]
    overfits: Bool[AnyArray, "*R"]


class FitCheckpoint(NamedTuple):
    """All that a checkpoint of a fit holds."""

    state: FitState
    losses: Float[Array | np.ndarray, "*R epochs"]
    scores: Float[Array | np.ndarray, "*R epochs"]


def counters(state: FitState) -> FitState:
    """The state with its counts in NumPy, where looking at them compiles nothing."""
    least_epoch, idle, epoch, bad_steps, overfits = jax.device_get(
        (state.least_epoch, state.idle, state.epoch, state.bad_steps, state.overfits)
    )
    return state._replace(
        least_epoch=least_epoch, idle=idle, epoch=epoch, bad_steps=bad_steps, overfits=overfits
    )


class EpochSettings(NamedTuple):
    """What a compiled epoch depends on besides its arrays; hashable.

    Attributes:
        objective: the model, and how its sequences are cut.
        optimizer: of optax.
        batch_size: sequences a step.
        shuffle: whether their order is random.
        num_fits: how many fits advance together: from several starts to the same data, or each to
            data of its own, which then have one more leading axis.
    """

    objective: Objective
    optimizer: optax.GradientTransformationExtraArgs
    batch_size: int
    shuffle: bool
    num_fits: int

    @property
    def searches(self) -> bool:
        """Whether parameters are the trial points of a line search."""
        return isinstance(self.optimizer, QuasiNewton)

    def seen(self, x: Flat) -> PyTree:
        """What the optimiser sees: arrays by name, as optax's may ask, or the vector."""
        return x.vector if self.searches else x.tree


class Limits(NamedTuple):
    """Where to stop.

    Attributes:
        last_epoch: in any case.
        patience: after so many epochs without a lower score.
        until_converged: for line searches: go on until the fit has converged, unless patience ran
            out and the fit overfits.
    """

    last_epoch: int | Int[AnyArray, "*R"]
    patience: int | Int[AnyArray, "*R"]
    until_converged: bool | Bool[AnyArray, "*R"]

    def allow(self, state: FitState) -> Bool[AnyArray, "*R"]:
        """Whether to go on."""
        xp = state.epoch.__array_namespace__()
        waits = state.epoch - state.least_epoch <= self.patience
        moves = (state.idle < CONVERGED_EPOCHS) & (waits | ~state.overfits)
        going = xp.where(self.until_converged, moves, waits)
        allowed: AnyArray = xp.asarray((state.epoch < self.last_epoch) & going)
        return allowed


class Gain(NamedTuple):
    """How much better one candidate predicts the held-out steps than another.

    Attributes:
        mean: nats a step.
        error: standard error of the mean, that of the paired differences of steps.
    """

    mean: Float[Array, ""]
    error: Float[Array, ""]


def _gain(new: Candidate, old: Candidate, data: FitData) -> Gain:
    """How much better the first predicts than the second."""
    counted = ~data.in_train & ~jnp.isnan(data.emissions).all(axis=-1)
    gains = jnp.where(counted, new.terms - old.terms, 0.0)
    n = jnp.maximum(counted.sum(), 1)
    mean = gains.sum() / n
    variance = jnp.sum(jnp.where(counted, (gains - mean) ** 2, 0.0)) / n
    return Gain(mean, jnp.sqrt(variance / n))


def is_better(
    new: Candidate, old: Candidate, data: FitData, num_errors: float = 1.0
) -> Bool[Array, ""]:
    """Whether the held-out steps are predicted better by more than so many standard errors.

    With nothing held out the smaller loss is better.
    """
    gain = _gain(new, old, data)
    better = gain.mean > num_errors * gain.error
    return jnp.where(_holds_out(data), better, new.loss < old.loss)


def _overfits(lowest: Candidate, best: Candidate, data: FitData) -> Bool[Array, ""]:
    """Whether the lowest loss predicts the held-out steps clearly worse than the best."""
    gain = _gain(best, lowest, data)
    clear = gain.mean > _ERRORS * gain.error
    sizeable = (gain.mean > gain.error) & (gain.mean > _SIZEABLE)
    # Infinitely bad predictions have no standard error.
    return _holds_out(data) & (clear | sizeable | ~jnp.isfinite(gain.mean))


def _holds_out(data: FitData) -> Bool[Array, ""]:
    """Whether there is a value to judge by; of a few steps the share to hold out is none."""
    return count_values(data.emissions, ~data.in_train) > 0


# ------------------------------------------------------------------------------------- the steps


def _step(
    state: FitState,
    settings: EpochSettings,
    props: PyTree,
    data: FitData,
    batch: Batch,
    window: Window | None,
) -> tuple[FitState, Float[Array, ""], LossTerms]:
    """One gradient step; not taken where the loss or the gradient is not finite."""
    arguments = (settings.objective, props, data, batch, window)

    def loss_of(params: Flat) -> tuple[Float[Array, ""], LossTerms]:
        return loss(params.tree, *arguments)

    (value, terms), grad = jax.value_and_grad(loss_of, has_aux=True)(state.params)

    def move(state: FitState) -> FitState:
        updates, optimizer_state = settings.optimizer.update(
            settings.seen(grad),
            state.optimizer_state,
            settings.seen(state.params),
            value=value,
            grad=settings.seen(grad),
            value_fn=lambda params: loss(params, *arguments)[0],
        )
        step = updates if settings.searches else Flat.of(updates).vector
        params = replace(state.params, vector=state.params.vector + step.astype(grad.vector.dtype))
        return state._replace(params=params, optimizer_state=optimizer_state)

    def stay(state: FitState) -> FitState:
        return state._replace(bad_steps=state.bad_steps + 1)

    if settings.searches:  # a step that is not finite is tried again, shorter
        return move(state), value, terms
    finite = jnp.isfinite(value) & jnp.isfinite(jnp.linalg.norm(grad.vector))
    state = jax.lax.cond(finite, move, stay, state)
    return state, value, terms


def _over_windows(
    state: FitState,
    settings: EpochSettings,
    props: PyTree,
    data: FitData,
    batch: Batch,
    windows: Windows,
) -> tuple[FitState, Float[Array, " windows"]]:
    """One gradient step on every window of a minibatch, in order."""

    def step(
        carry: tuple[FitState, PyTree], number: Array
    ) -> tuple[tuple[FitState, PyTree], Array]:
        state, laws = carry
        state, value, terms = _step(state, settings, props, data, batch, Window(number, laws))
        return (state, terms.laws), value

    params = from_unconstrained(state.params.tree, props)
    laws = no_laws(params, settings.objective, len(batch.which))
    (state, _), losses = jax.lax.scan(step, (state, laws), jnp.arange(windows.number))
    return state, losses


def _epoch(
    state: FitState, key: Array, settings: EpochSettings, props: PyTree, data: FitData
) -> tuple[FitState, tuple[Float[Array, ""], Float[Array, ""]]]:
    """One pass over all sequences; the parameters at its start are judged."""
    start, size, total = state.params, settings.batch_size, len(data.emissions)
    windows = settings.objective.windows
    key = jax.random.fold_in(key, state.epoch)
    num_batches = -(-total // size)
    order = jax.random.permutation(key, total) if settings.shuffle else jnp.arange(total)
    # The last minibatch is filled up with sequences of weight zero.
    order = jnp.pad(order, (0, num_batches * size - total))
    weights = (jnp.arange(num_batches * size) < total).astype(data.emissions.dtype)
    batches = Batch(order.reshape(num_batches, size), weights.reshape(num_batches, size))

    def step(state: FitState, batch: Batch) -> tuple[FitState, tuple[Array, Array | None]]:
        if windows is not None:
            state, losses = _over_windows(state, settings, props, data, batch, windows)
            return state, (losses, None)
        state, value, terms = _step(state, settings, props, data, batch, None)
        return state, (value[None], terms.terms)

    state, (losses, all_terms) = jax.lax.scan(step, state, batches)
    if num_batches == 1 and all_terms is not None:
        value, terms = losses[0, 0], all_terms[0]
    else:
        everything = Batch(jnp.arange(total), jnp.ones(total, data.emissions.dtype))
        value, (terms, _) = loss(start.tree, settings.objective, props, data, everything, None)
    new = Candidate(start, terms, value, state.epoch)
    state, score = _judge(state, new, settings, data)
    return state, (jnp.mean(losses), score)


def _judge(
    state: FitState, new: Candidate, settings: EpochSettings, data: FitData
) -> tuple[FitState, Float[Array, ""]]:
    """Compare the parameters of an epoch's start with the best so far; and their score."""

    def either(first: Array, one: Candidate, other: Candidate) -> Candidate:
        chosen: Candidate = jax.tree.map(lambda x, y: jnp.where(first, x, y), one, other)
        return chosen

    finite = jnp.isfinite(new.loss)
    falls = finite & (new.loss < state.lowest.loss)
    lowest = either(falls, new, state.lowest)
    num_errors = _ERRORS if settings.searches else 1.0
    better = jnp.isinf(state.best.loss) | is_better(new, state.best, data, num_errors)
    # A trial point of a line search that raises the loss is not on the path of the fit.
    better &= falls if settings.searches else finite
    best = either(better, new, state.best)
    gains = finite & ~(new.loss > state.last_gain - CONVERGED_GAIN)
    held_out = ~data.in_train
    num_held_out = jnp.maximum(count_values(data.emissions, held_out), 1)
    unseen = -jnp.sum(jnp.where(held_out, new.terms, 0.0)) / num_held_out
    score = jnp.where(_holds_out(data), unseen, new.loss)
    is_least = score < state.least_score
    state = state._replace(
        best=best,
        lowest=lowest,
        overfits=_overfits(lowest, best, data),
        least_score=jnp.where(is_least, score, state.least_score),
        least_epoch=jnp.where(is_least, state.epoch, state.least_epoch),
        last_gain=jnp.where(gains, new.loss, state.last_gain),
        idle=jnp.where(gains, 0, state.idle + 1),
        epoch=state.epoch + 1,
    )
    return state, score


@partial(jax.jit, static_argnames=("settings",))
def start_fit(params: PyTree, settings: EpochSettings, props: PyTree, data: FitData) -> FitState:
    """The state before the first epoch."""

    def one(params: PyTree) -> FitState:
        unconstrained = Flat.of(to_unconstrained(params, props))
        zero = jnp.zeros((), int)
        infinite = jnp.asarray(jnp.inf, data.emissions.dtype)
        none = jnp.zeros(data.emissions.shape[:2], data.emissions.dtype)
        nothing = Candidate(unconstrained, none, infinite, zero)
        return FitState(
            params=unconstrained,
            optimizer_state=settings.optimizer.init(settings.seen(unconstrained)),
            best=nothing,
            lowest=nothing,
            least_score=infinite,
            least_epoch=zero,
            last_gain=infinite,
            idle=zero,
            epoch=zero,
            bad_steps=zero,
            overfits=jnp.asarray(False),
        )

    state: FitState = strong(jax.vmap(one)(params) if settings.num_fits > 1 else one(params))
    return state


@partial(jax.jit, static_argnames=("settings",))
def run_epochs(
    state: FitState,
    key: Array,
    limits: Limits,
    settings: EpochSettings,
    props: PyTree,
    data: FitData,
) -> tuple[FitState, tuple[Array, Array]]:
    """A block of epochs; those past the limits are left out, so all blocks share a program.

    Of several fits, each to data of its own, `key`, `limits` and `data` have a leading axis, too.
    """
    nothing = (jnp.zeros(state.epoch.shape, data.emissions.dtype),) * 2
    own = 0 if data.emissions.ndim > 3 else None

    def advance(
        state: FitState, key: Array, limits: Limits, data: FitData
    ) -> tuple[FitState, tuple[Array, Array]]:
        advanced: tuple[FitState, tuple[Array, Array]] = jax.lax.cond(
            limits.allow(state),
            lambda state: _epoch(state, key, settings, props, data),
            lambda state: (state, jax.tree.map(lambda x: jnp.zeros((), x.dtype), nothing)),
            state,
        )
        return advanced

    def advance_all(states: FitState) -> tuple[FitState, tuple[Array, Array]]:
        # Mapped over, a condition saves no work; so it is asked for all of them, too.
        each = jax.vmap(advance, (0, own, own, own))
        advanced: tuple[FitState, tuple[Array, Array]] = jax.lax.cond(
            limits.allow(states).any(),
            lambda states: each(states, key, limits, data),
            lambda states: (states, nothing),
            states,
        )
        return advanced

    def body(state: FitState, _: None) -> tuple[FitState, tuple[Array, Array]]:
        return advance_all(state) if settings.num_fits > 1 else advance(state, key, limits, data)

    return jax.lax.scan(body, state, None, length=EPOCHS_PER_CALL)


@cache
def run_epochs_of_many() -> Callable[..., tuple[FitState, tuple[Array, Array]]]:
    """:func:`run_epochs` with XLA's options for batches."""
    jitted: Any = run_epochs
    options = batch_options()
    return jax.jit(jitted.__wrapped__, static_argnames=("settings",), compiler_options=options)
