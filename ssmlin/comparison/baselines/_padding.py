"""Arrays and loops of fixed sizes, so that fits of many sizes share one compiled program."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Int, Shaped

from ssmlin._buckets import bucket

#: Shorter series share one length, since for them compiling takes longer than running.
_SHORTEST = 256
#: Up to so many steps models of several sizes share one.
_FEW_STEPS = 2048


def padded_length(num_steps: int) -> int:
    """The length to which a series is padded."""
    return max(_SHORTEST, bucket(num_steps))


def shared_size(size: int, largest: int, num_steps: int) -> int:
    """The size to which one of several is padded: the largest, for series that are not long."""
    return max(size, largest) if num_steps <= _FEW_STEPS else size


def padded(x: Shaped[np.ndarray, "..."], *shape: int) -> Shaped[np.ndarray, "..."]:
    """The array with zeros behind it on its last axes, up to the given lengths."""
    missing = [size - n for n, size in zip(x.shape[x.ndim - len(shape) :], shape, strict=True)]
    return np.pad(x, [(0, 0)] * (x.ndim - len(shape)) + [(0, n) for n in missing])


def run_steps[C, X, Y](
    step: Callable[[C, X], tuple[C, Y]],
    carry: C,
    xs: X,
    num_steps: Int[Array, ""],
    *,
    reverse: bool = False,
) -> tuple[C, Y]:
    """`lax.scan` over the first steps of `xs`, whose number is data; the others cost no time.

    Args:
        step: from what is carried and the entries of a step to what is carried on and a result.
        carry: what is carried to the first step that is run.
        xs: arrays with a leading time axis.
        num_steps: how many steps there are.
        reverse: whether to begin with the last of them.

    Returns:
        What the last step that is run carried on, and the results of all steps, zeros where there
        is no step.
    """
    length = jax.tree.leaves(xs)[0].shape[0]

    def at(t: Array) -> X:
        here: X = jax.tree.map(lambda x: lax.dynamic_index_in_dim(x, t, keepdims=False), xs)
        return here

    def body(i: Array, state: tuple[C, Y]) -> tuple[C, Y]:
        t = num_steps - 1 - i if reverse else i
        carry, y = step(state[0], at(t))
        return carry, jax.tree.map(
            lambda out, new: lax.dynamic_update_index_in_dim(out, new, t, 0), state[1], y
        )

    shapes = jax.eval_shape(lambda carry: step(carry, at(num_steps))[1], carry)
    ys = jax.tree.map(lambda y: jnp.zeros((length, *y.shape), y.dtype), shapes)
    done: tuple[C, Y] = lax.fori_loop(0, num_steps, body, (carry, ys))
    return done
