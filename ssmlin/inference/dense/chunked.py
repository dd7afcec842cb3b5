"""The drivers that run over time in parallel, over chunks of time side by side.

The elements of the chunks (see :mod:`ssmlin.inference.matrix.elements`, with the state as one row)
are combined by a parallel scan into the law at the start of every chunk, and every chunk is
filtered from there. The backward pass is affine in what it starts from and is run in the same way.
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from ssmlin.inference.chunks import ChunkMap, chunk_length, compose, join, split
from ssmlin.inference.dense.driver import Backward, Forward
from ssmlin.inference.dense.model import (
    STEP_AXES,
    Model,
    earlier,
    later,
    over_entries,
    over_time,
)
from ssmlin.inference.dense.sequential import (
    Adjoints,
    Entry,
    Law,
    backward,
    entries,
    forward,
    predict,
    zero_law,
)
from ssmlin.inference.matrix.elements import Element, combine


@dataclass(frozen=True)
class Chunked:
    """The driver that runs chunks of time side by side.

    Args:
        length: the number of steps of a chunk; None for about √T.
    """

    length: int | None = None

    def forward(self, model: Model) -> Forward:
        """Kalman filter."""
        cut = self._cut(model)
        # The state before the first step is certainly zero, so the offset and the covariance of an
        # element that starts there are the law at its end.
        reached = lax.associative_scan(combine, cut.map(_element))
        starts = Law(later(reached.offset[:, 0]), later(reached.cov))
        return cut.join(cut.map(forward, starts))

    def backward(self, model: Model, run: Forward) -> Backward:
        """Modified Bryson-Frazier recursion."""
        cut, (zero, zeros) = self._cut(model), zero_law(model)
        runs = cut.split(run)

        def summary(model: Model, run: Forward) -> ChunkMap:
            """How a chunk carries an adjoint and an information, backward in time."""
            (offset, quadratic), _ = backward(model, run, Adjoints(zero, zeros))

            def carry(unit: Array) -> Array:
                return backward(model, run, Adjoints(unit, zeros))[0].adjoint - offset

            units = jnp.eye(len(zero), dtype=zero.dtype)
            return ChunkMap(jax.vmap(carry)(units), offset[None], quadratic)

        done = lax.associative_scan(compose, cut.map(summary, runs), reverse=True)
        assert done.quadratic is not None
        ends = Adjoints(earlier(done.offset[:, 0]), earlier(done.quadratic))
        return cut.join(cut.map(backward, runs, ends)[1])

    def states(self, model: Model, shocks: Float[Array, "T D"]) -> Float[Array, "T D"]:
        """The states from z_0 = 0, by an associative scan over all steps."""
        dim = shocks.shape[1]
        transitions = jnp.broadcast_to(model.transition.mT, (*shocks.shape, dim))
        done = lax.associative_scan(compose, ChunkMap(transitions, shocks[:, None]))
        states: Array = done.offset[:, 0]
        return states

    def _cut(self, model: Model) -> "_Cut":
        """Cut a model; the steps that fill the last chunk are not observed."""
        steps = model.seen.shape[0]
        length = chunk_length(steps, self.length)
        fields = model._asdict()
        cov = fields.pop("initial_cov")
        for name, x in fields.items():
            varies = x.ndim > STEP_AXES[name]
            fields[name] = split(x if varies else jnp.broadcast_to(x, (steps, *x.shape)), length)
        return _Cut(fields, cov, steps, length)


@dataclass(frozen=True)
class _Cut:
    """A model cut into chunks of `length` steps, and how data are cut with it."""

    fields: dict[str, Array]  # by chunk
    initial_cov: Array
    num_timesteps: int
    length: int

    def map[R](self, function: Callable[..., R], *data: tuple[object, ...]) -> R:
        """function(model, *data) for every chunk."""

        def one(fields: dict[str, Array], *data: tuple[object, ...]) -> R:
            return function(Model(**fields, initial_cov=self.initial_cov), *data)

        return jax.vmap(one)(self.fields, *data)

    def split[T](self, tree: T) -> T:
        """Cut every array."""
        cut: T = jax.tree.map(lambda x: split(x, self.length), tree)
        return cut

    def join[T](self, tree: T) -> T:
        """Undo `split`."""
        joined: T = jax.tree.map(lambda x: join(x, self.num_timesteps), tree)
        return joined


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
