"""The sequential driver: scans over time, and inside a step over the entries of the emission."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ssmlin.inference.dense._driver import Backward, Forward
from ssmlin.inference.dense._model import Model, over_entries, over_time, product


class Law(NamedTuple):
    """A law of the state."""

    mean: Float[Array, " D"]
    cov: Float[Array, "D D"]


class Adjoints(NamedTuple):
    """What the backward scan carries: the adjoint of the mean and the information."""

    adjoint: Float[Array, " D"]
    information: Float[Array, "D D"]


class Entry(NamedTuple):
    """One entry of an emission."""

    row: Float[Array, " *N D"]
    variance: Float[Array, " *N"]
    value: Float[Array, " *N"]
    seen: Bool[Array, " *N"]


def entries(model: Model) -> Entry:
    """The entries of the emission of a step."""
    return Entry(model.rows, model.variances, model.values, model.seen)


def zero_law(model: Model) -> Law:
    """A state that is certainly zero."""
    return Law(jnp.zeros_like(model.initial_cov[0]), jnp.zeros_like(model.initial_cov))


def predict(model: Model, mean: Float[Array, " D"], cov: Float[Array, "D D"]) -> Law:
    """The law before the emission of this step."""
    f = model.transition
    noise = jnp.where(model.first, model.initial_cov, model.noise)
    return Law(f @ mean + model.drift, product(product(f, cov), f.T) + noise)


def precision_of(scales: Array, seen: Array) -> Array:
    """1/s; zero where an entry is missing or certain, without a division by zero."""
    ok = seen & ~(scales <= 0)  # a NaN stays one
    return jnp.where(ok, 1.0 / jnp.where(ok, scales, 1.0), 0.0)


class _Update(NamedTuple):
    """A scalar update: the residual, its scale and the gain."""

    residual: Float[Array, ""]
    scale: Float[Array, ""]
    gain: Float[Array, " D"]


def forward(model: Model, start: Law) -> Forward:
    """Filter from the law before the first step.

    The update computes P h and hᵀP separately, although they should be equal. So it contracts the
    asymmetry that rounding causes, as it does any error in P, and P stays symmetric enough.
    """

    def update(law: Law, entry: Entry) -> tuple[Law, _Update]:
        mean, cov = law
        h, variance, value, seen = entry
        cov_h = cov @ h
        scale = h @ cov_h + variance
        gain = cov_h * precision_of(scale, seen)
        residual = value - h @ mean
        law = Law(mean + gain * residual, cov - gain[:, None] * (h @ cov))
        return law, _Update(residual, scale, gain)

    def step(law: Law, model: Model, _: None) -> tuple[Law, tuple[Law, _Update]]:
        law, updates = over_entries(update, predict(model, *law), entries(model))
        return law, (law, updates)

    laws, updates = over_time(step, start, model, None)[1]
    return Forward(*laws, *updates)


def backward(model: Model, run: Forward, end: Adjoints) -> tuple[Adjoints, Backward]:
    r"""Modified Bryson-Frazier recursion from the adjoint and information after the last step.

    Through an update, with C = I − g hᵀ: λ ← Cᵀλ − h e/s and Λ ← CᵀΛC + h hᵀ/s; through a
    transition, λ ← Fᵀλ and Λ ← FᵀΛF.
    """
    precision = precision_of(run.scales, model.seen)

    def update(carry: Adjoints, entry: tuple[Array, Array, Array, Array]) -> tuple[Adjoints, None]:
        adjoint, information = carry
        h, gain, white, precision = entry
        info_g = information @ gain
        left = info_g - (gain @ info_g + precision) * h
        return Adjoints(
            adjoint - (gain @ adjoint + white) * h,
            information - left[:, None] * h - h[:, None] * (gain @ information),
        ), None

    def step(
        carry: Adjoints, model: Model, updates: tuple[Array, Array, Array]
    ) -> tuple[Adjoints, Backward]:
        adjoint, information = over_entries(update, carry, (model.rows, *updates), reverse=True)[0]
        f = model.transition
        carried = product(f.T, information)
        return Adjoints(f.T @ adjoint, product(carried, f)), Backward(carry.adjoint, carried)

    updates = (run.gains, run.residuals * precision, precision)
    return over_time(step, end, model, updates, reverse=True)


class Sequential:
    """The driver that runs one step after the other."""

    def forward(self, model: Model) -> Forward:
        """Kalman filter."""
        return forward(model, zero_law(model))

    def backward(self, model: Model, run: Forward) -> Backward:
        """Modified Bryson-Frazier recursion."""
        return backward(model, run, Adjoints(*zero_law(model)))[1]

    def states(self, model: Model, shocks: Float[Array, "T D"]) -> Float[Array, "T D"]:
        """The states from z_0 = 0."""

        def step(state: Array, model: Model, shock: Array) -> tuple[Array, Array]:
            state = model.transition @ state + shock
            return state, state

        return over_time(step, jnp.zeros_like(shocks[0]), model, shocks)[1]
