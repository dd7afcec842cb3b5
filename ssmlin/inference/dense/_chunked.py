"""The drivers that run over time in parallel, over chunks of time side by side.

The elements of the chunks (see :mod:`ssmlin.inference.matrix._elements`, with the state as one row)
are combined by a parallel scan into the law at the start of every chunk, and every chunk is
filtered from there. The backward pass is affine in what it starts from and is run in the same way.
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from ssmlin.inference._chunks import ChunkMap, Cut, compose, cut_time
from ssmlin.inference.dense._driver import Backward, Forward
from ssmlin.inference.dense._model import (
    STEP_AXES,
    Model,
    earlier,
    later,
    over_entries,
    over_time,
)
from ssmlin.inference.dense._sequential import (
    Adjoints,
    Entry,
    Law,
    backward,
    entries,
    forward,
    predict,
    zero_law,
)
from ssmlin.inference.matrix._elements import Element, combine


@dataclass(frozen=True)
class Chunked:
    """The driver that runs chunks of time side by side.

    Args:
        length: the number of steps of a chunk; None for about √T.
    """

    length: int | None = None

    def forward(self, model: Model) -> Forward:
        """Kalman filter."""
        cut = cut_time(len(model.seen), self.length)
        # The state before the first step is certainly zero, so the offset and the covariance of an
        # element that starts there are the law at its end.
        reached = lax.associative_scan(combine, _over_chunks(_element, model, cut))
        starts = Law(later(reached.offset[:, 0]), later(reached.cov))
        return cut.join(_over_chunks(forward, model, cut, starts))

    def backward(self, model: Model, run: Forward) -> Backward:
        """Modified Bryson-Frazier recursion."""
        cut, (zero, zeros) = cut_time(len(model.seen), self.length), zero_law(model)
        runs = cut.split(run)

        def summary(model: Model, run: Forward) -> ChunkMap:
            """How a chunk carries an adjoint and an information, backward in time."""
            (offset, quadratic), _ = backward(model, run, Adjoints(zero, zeros))

            def carry(unit: Array) -> Array:
                return backward(model, run, Adjoints(unit, zeros))[0].adjoint - offset

            units = jnp.eye(len(zero), dtype=zero.dtype)
            return ChunkMap(jax.vmap(carry)(units), offset[None], quadratic)

        done = lax.associative_scan(compose, _over_chunks(summary, model, cut, runs), reverse=True)
        assert done.quadratic is not None
        ends = Adjoints(earlier(done.offset[:, 0]), earlier(done.quadratic))
        return cut.join(_over_chunks(backward, model, cut, runs, ends)[1])

    def states(self, model: Model, shocks: Float[Array, "T D"]) -> Float[Array, "T D"]:
        """The states from z_0 = 0, by an associative scan over all steps."""
        dim = shocks.shape[1]
        transitions = jnp.broadcast_to(model.transition.mT, (*shocks.shape, dim))
        done = lax.associative_scan(compose, ChunkMap(transitions, shocks[:, None]))
        states: Array = done.offset[:, 0]
        return states


def _over_chunks[R](
    function: Callable[..., R], model: Model, cut: Cut, *data: Law | Forward | Adjoints
) -> R:
    """function(model, *data) for every chunk; steps that fill the last one are not observed."""

    def one(fields: dict[str, Array], *data: Law | Forward | Adjoints) -> R:
        return function(Model(**fields, initial_cov=model.initial_cov), *data)

    fields = model._asdict()
    del fields["initial_cov"]
    for name, x in fields.items():
        varies = x.ndim > STEP_AXES[name]
        fields[name] = x if varies else jnp.broadcast_to(x, (cut.num_timesteps, *x.shape))
    return jax.vmap(one)(cut.split(fields), *data)


def _element(model: Model) -> Element:
    """The element of one chunk, for the state as a row."""
    zero, zeros = zero_law(model)
    start = Element(jnp.eye(len(zero), dtype=zero.dtype), zero[None], zeros, zero[None], zeros)

    def update(element: Element, entry: Entry) -> tuple[Element, None]:
        transition, offset, cov, shift, information = element
        h, variance, value, seen = entry
        cov_h, read = cov @ h, transition @ h
        scale = h @ cov_h + variance
        # An observed entry of variance zero is an exact constraint, which no element can hold.
        # The division gives an infinity then, which is better than a wrong answer.
        precision = jnp.where(seen, 1.0 / jnp.where(seen, scale, 1.0), 0.0)
        gain, residual = cov_h * precision, value - offset[0] @ h
        return Element(
            transition - read[:, None] * gain,
            offset + residual * gain,
            cov - gain[:, None] * (h @ cov),
            shift + precision * residual * read,
            information + precision * read[:, None] * read,
        ), None

    def step(element: Element, model: Model, _: None) -> tuple[Element, None]:
        law = predict(model, element.offset[0], element.cov)
        transition = element.transition @ model.transition.T
        moved = element._replace(transition=transition, offset=law.mean[None], cov=law.cov)
        return over_entries(update, moved, entries(model))[0], None

    return over_time(step, start, model, None)[0]
