"""Cutting time into chunks, and composing the maps of neighbouring chunks.

Chunks of equal length are processed side by side as a batch. The adjoint recursion cuts time in the
same way, to recompute one chunk at a time. The chunks may lie on the devices of an axis of a mesh,
the first ones on the first device.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
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


def over_devices[E, S](
    starts: Callable[[E, S], S],
    combine: Callable[[E, E], E],
    elements: E,
    initial: S,
    axis: str | None,
    *,
    reverse: bool = False,
) -> S:
    """Where every chunk starts, if earlier chunks may lie on other devices.

    Every device combines its chunks to one element. One message brings the elements of all devices
    together, and each device finds from them where its own first chunk starts.

    Args:
        starts: maps elements, and where the first of them starts, to where all of them start.
        combine: the associative operator of the elements.
        elements: of the chunks of this device, in the order of time.
        initial: where the first chunk of all starts.
        axis: of the mesh whose devices hold the chunks; None if this device holds all.
        reverse: whether time runs backward; `initial` is then where the last chunk starts.
    """

    def ordered[X](tree: X) -> X:
        flipped: X = jax.tree.map(lambda x: x[::-1], tree) if reverse else tree
        return flipped

    elements = ordered(elements)
    if axis is not None:
        whole = jax.tree.map(lambda x: x[-1], lax.associative_scan(combine, elements))
        place = lax.axis_index(axis)
        if reverse:
            place = lax.axis_size(axis) - 1 - place
        by_device = starts(ordered(lax.all_gather(whole, axis)), initial)
        initial = jax.tree.map(lambda x: x[place], by_device)
    return ordered(starts(elements, initial))


def from_device[T](tree: T, place: int, axis: str | None) -> T:
    """The values that the first (0) or the last device (-1) of an axis holds, on all of them."""
    if axis is None:
        return tree
    mine = lax.axis_index(axis) == place % lax.axis_size(axis)

    def one(x: Array) -> Array:
        value: Array = lax.psum(jnp.where(mine, x, jnp.zeros_like(x)), axis)  # type: ignore[no-untyped-call]
        return value

    values: T = jax.tree.map(one, tree)
    return values


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


class Carried(NamedTuple):
    """What a :class:`ChunkMap` carries.

    Attributes:
        rows: x.
        quadratic: X, or None where no matrices are carried.
    """

    rows: Float[Array, "*chunks n d"]
    quadratic: Float[Array, "*chunks d d"] | None = None


def affine_starts(
    maps: ChunkMap, initial: Carried, axis: str | None = None, *, reverse: bool = False
) -> Carried:
    """What every chunk starts with; see :func:`over_devices`."""

    def starts(maps: ChunkMap, initial: Carried) -> Carried:
        done = lax.associative_scan(compose, jax.tree.map(lambda x: x[:-1], maps))
        rows = starting_with(initial.rows, initial.rows @ done.transition + done.offset)
        if initial.quadratic is None:
            return Carried(rows)
        moved = done.transition.mT @ initial.quadratic @ done.transition
        later = symmetric_part(moved) + done.quadratic
        return Carried(rows, starting_with(initial.quadratic, later))

    return over_devices(starts, compose, maps, initial, axis, reverse=reverse)
