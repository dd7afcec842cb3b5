"""The batch axis: first outside the scans, last inside them.

A model, or a batch of models, is one :class:`ssmlin.lgssm.MatrixLGSSM`. Every array of a batch has
one more axis in front. Where `batched` is False these functions change nothing.
"""

from collections.abc import Callable
from dataclasses import replace

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from ssmlin.inference._chunks import pad_end
from ssmlin.lgssm import MatrixLGSSM


def is_batched(lgssm: MatrixLGSSM) -> bool:
    """Whether the arrays of the model have a leading batch axis."""
    return lgssm.initial_mean.ndim == 3


def batch_to_end[T](tree: T, batched: bool) -> T:
    """Move the leading batch axis of every array to the end."""
    if not batched:
        return tree
    moved: T = jax.tree.map(lambda x: jnp.moveaxis(x, 0, -1), tree)
    return moved


def batch_to_front[T](tree: T, batched: bool) -> T:
    """Undo :func:`batch_to_end`."""
    if not batched:
        return tree
    moved: T = jax.tree.map(lambda x: jnp.moveaxis(x, -1, 0), tree)
    return moved


def swap_batch_and_time[T](tree: T, batched: bool) -> T:
    """Swap the two leading axes of every array, batch and time."""
    if not batched:
        return tree
    moved: T = jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), tree)
    return moved


def scan_steps[C, X, Y](
    step: Callable[[C, X], tuple[C, Y]],
    carry: C,
    inputs: X,
    batched: bool,
    *,
    reverse: bool = False,
) -> tuple[C, Y]:
    """Scan over the leading axis, time; the batch axis is second outside and last in the step."""
    if not batched:
        return lax.scan(step, carry, inputs, reverse=reverse)
    inputs = jax.tree.map(lambda x: jnp.moveaxis(x, 1, -1), inputs)
    carry, kept = lax.scan(step, carry, inputs, reverse=reverse)
    moved: Y = jax.tree.map(lambda x: jnp.moveaxis(x, -1, 1), kept)
    return carry, moved


def at_every_step[**P, R](function: Callable[P, R], batched: bool) -> Callable[P, R]:
    """Map a function of one step's arrays over all steps, and over the batch."""
    return jax.vmap(jax.vmap(function)) if batched else jax.vmap(function)


def pad_time(lgssm: MatrixLGSSM, extra: int) -> MatrixLGSSM:
    """Append steps that leave the state unchanged; nothing may be observed there."""
    if extra == 0:
        return lgssm
    axis = lgssm.initial_mean.ndim - 2

    def pad(x: Array) -> Array:
        return pad_end(x, extra, axis)

    padded = lgssm.map_time(pad)
    diag = pad_end(lgssm.transition.diag, extra, axis, 1.0)
    return replace(padded, transition=replace(padded.transition, diag=diag))
