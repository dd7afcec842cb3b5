"""Cutting time into chunks, and composing the maps of neighbouring chunks.

Chunks of equal length are processed side by side as a batch. The adjoint recursion cuts time in the
same way, to recompute one chunk at a time.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from ssmlin.inference._roots import symmetric_part


def pad_end(
    x: Shaped[Array, "..."], extra: int, axis: int = 0, value: float = 0.0
) -> Shaped[Array, "..."]:
    """Append `extra` entries of a constant value to an axis."""
    if extra == 0:
        return x
    widths = [(0, 0)] * x.ndim
    widths[axis] = (0, extra)
    return jnp.pad(x, widths, constant_values=value)


@dataclass(frozen=True)
class Cut:
    """How `num_timesteps` steps are cut into chunks of `length` steps."""

    num_timesteps: int
    length: int

    @property
    def num(self) -> int:
        """The number of chunks."""
        return -(-self.num_timesteps // self.length)

    @property
    def extra(self) -> int:
        """The number of steps that the last chunk is padded with."""
        return -self.num_timesteps % self.length

    def split[T](self, tree: T) -> T:
        """Cut the leading time axis of every array; the last chunk is padded with zeros."""

        def one(x: Array) -> Array:
            return pad_end(x, self.extra).reshape(self.num, self.length, *x.shape[1:])

        chunks: T = jax.tree.map(one, tree)
        return chunks

    def join[T](self, tree: T) -> T:
        """Undo :meth:`split`."""

        def one(x: Array) -> Array:
            return x.reshape(self.num * self.length, *x.shape[2:])[: self.num_timesteps]

        joined: T = jax.tree.map(one, tree)
        return joined


def cut_time(num_timesteps: int, length: int | None = None) -> Cut:
    """Cut into chunks of `length` steps, or of about √T steps if None, but at most T."""
    length = length or math.isqrt(max(num_timesteps - 1, 0)) + 1
    return Cut(num_timesteps, min(length, max(num_timesteps, 1)))


def starting_with(
    start: Float[Array, "..."], ends: Float[Array, "before ..."]
) -> Float[Array, "chunks ..."]:
    """Where every chunk starts: the first at `start`, each later one at the end of the last."""
    return jnp.concatenate([start[None], ends], axis=0)


class ChunkMap(NamedTuple):
    """How chunks carry rows, x ↦ x A + b, and symmetric matrices, X ↦ Aᵀ X A + C.

    Attributes:
        transition: A.
        offset: b, any number of rows.
        quadratic: C, or None where no matrices are carried.
    """

    transition: Float[Array, "... d d"]
    offset: Float[Array, "... n d"]
    quadratic: Float[Array, "... d d"] | None = None


def compose(first: ChunkMap, second: ChunkMap) -> ChunkMap:
    """The map of two neighbouring chunks; associative."""
    transition = first.transition @ second.transition
    offset = first.offset @ second.transition + second.offset
    if first.quadratic is None or second.quadratic is None:
        return ChunkMap(transition, offset)
    carried = second.transition.mT @ first.quadratic @ second.transition
    return ChunkMap(transition, offset, symmetric_part(carried) + second.quadratic)
