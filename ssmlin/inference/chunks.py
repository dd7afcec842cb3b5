"""Cutting time into chunks, and composing the maps of neighbouring chunks.

Chunks of equal length are processed side by side as a batch. The adjoint recursion cuts time in the
same way, to recompute one chunk at a time.
"""

import math
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from ssmlin.inference.roots import symmetric_part


def chunk_length(num_timesteps: int, length: int | None = None) -> int:
    """The number of steps of a chunk: `length`, about √T if None, and between 1 and T."""
    length = length or math.isqrt(max(num_timesteps - 1, 0)) + 1
    return min(length, max(num_timesteps, 1))


def pad_end(
    x: Shaped[Array, "..."], extra: int, axis: int = 0, value: float = 0.0
) -> Shaped[Array, "..."]:
    """Append `extra` entries of a constant value to an axis."""
    if extra == 0:
        return x
    widths = [(0, 0)] * x.ndim
    widths[axis] = (0, extra)
    return jnp.pad(x, widths, constant_values=value)


def split(x: Shaped[Array, "T ..."], length: int) -> Shaped[Array, "chunks length ..."]:
    """Cut the leading time axis into chunks; the last chunk is padded with zeros."""
    x = pad_end(x, -x.shape[0] % length)
    return x.reshape(x.shape[0] // length, length, *x.shape[1:])


def join(x: Shaped[Array, "chunks length ..."], num_timesteps: int) -> Shaped[Array, "T ..."]:
    """Undo :func:`split`."""
    return x.reshape(x.shape[0] * x.shape[1], *x.shape[2:])[:num_timesteps]


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
