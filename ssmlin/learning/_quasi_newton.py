r"""L-BFGS as an optax optimiser that needs one value and gradient a step, and a minimiser with it.

optax's own line search evaluates the loss inside of the update, so that a program holds the loss
three times and takes three times as long to compile. Here the line search goes on from one update
to the next: every update moves the parameters to the next point to be tried.
"""

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, Float, Int, PyTree

#: Of the weak Wolfe conditions: the decrease and the slope that an accepted step must reach.
_DECREASE, _SLOPE = 1e-4, 0.9
#: A line search that has tried so many points starts again along the gradient.
_MAX_TRIALS = 8


class LineSearch(NamedTuple):
    """State of :func:`lbfgs`: the accepted point, the search that began there, and the memory.

    Numbers stand together in few arrays, which takes less time to compile than many.

    Attributes:
        point: the accepted parameters, as one vector.
        grad: the gradient of the loss there.
        direction: where the search goes.
        numbers: the loss at `point`, infinite before the first update; its derivative along
            `direction`; the step, whose trial is `point` + step · `direction`; the longest step
            known to be too short; the shortest one known to be too long, or infinity.
        counts: how many steps along `direction` were tried and not accepted; how many steps were
            accepted in all, the start included; how many searches in a row accepted no step; how
            many pairs are remembered.
        steps: of the last accepted points, the latest last.
        changes: of their gradients.
    """

    point: Float[Array, "*R n"]
    grad: Float[Array, "*R n"]
    direction: Float[Array, "*R n"]
    numbers: Float[Array, "*R 5"]
    counts: Int[Array, "*R 4"]
    steps: Float[Array, "*R k n"]
    changes: Float[Array, "*R k n"]


class QuasiNewton(optax.GradientTransformationExtraArgs):  # type: ignore[misc]  # optax is untyped
    """An optimiser that is told of losses which are not finite, and then tries a shorter step."""


@cache
def lbfgs(memory_size: int = 10) -> QuasiNewton:
    r"""L-BFGS whose parameters are the points that a line search tries.

    A step is accepted when it satisfies the weak Wolfe conditions; until then the interval of
    steps is doubled or bisected. The loss must not be random, and ``update`` needs its `value`.
    The parameters of an update may be worse than those before: keep the best that were seen.

    Args:
        memory_size: how many past steps the curvature is estimated from.

    Returns:
        An optimiser of optax.

    Examples:
        >>> import jax, jax.numpy as jnp, optax
        >>> from ssmlin.learning import lbfgs
        >>> optimizer, x = lbfgs(), jnp.array([3.0, -2.0])
        >>> loss = lambda x: jnp.sum(jnp.array([1.0, 10.0]) * x**2)
        >>> state = optimizer.init(x)
        >>> for _ in range(12):
        ...     value, grad = jax.value_and_grad(loss)(x)
        ...     updates, state = optimizer.update(grad, state, x, value=value)
        ...     x = optax.apply_updates(x, updates)
        >>> bool(loss(x) < 1e-6)
        True

    Source: Nocedal and Wright (2006), Numerical Optimization, chapter 7; Lewis and Overton (2013),
    Mathematical Programming 141, for the line search.
    """
    k = memory_size

    def init(params: PyTree) -> LineSearch:
        point, _ = ravel_pytree(params)
        none, nothing = jnp.zeros_like(point), jnp.zeros((k, *point.shape), point.dtype)
        numbers = jnp.asarray([np.inf, 0.0, 0.0, 0.0, np.inf], point.dtype)
        counts = jnp.zeros(4, jnp.int32)
        return LineSearch(point, none, none, numbers, counts, nothing, nothing)

    def update(
        updates: PyTree,
        state: LineSearch,
        params: PyTree | None = None,
        *,
        value: Float[Array, ""],
        **extra_args: object,
    ) -> tuple[PyTree, LineSearch]:
        new_grad, _ = ravel_pytree(updates)
        here, unravel = ravel_pytree(params)
        dtype = here.dtype
        new_grad, trial = new_grad.astype(dtype), value.astype(dtype)
        before, descent, step, low, high = state.numbers
        trials, num_accepted, failures, num_pairs = state.counts
        slope = jnp.vdot(new_grad, state.direction)
        finite = jnp.isfinite(trial) & jnp.isfinite(new_grad).all()
        # What rounding may add to a loss.
        slack = 4 * np.finfo(dtype).eps * jnp.abs(before)
        bound = before + _DECREASE * step * descent
        decreased = finite & ((trial <= bound + slack) | jnp.isinf(before))
        accepted = decreased & (slope >= _SLOPE * descent)
        # A search that tried enough starts again from its point, without what was remembered.
        stuck = ~accepted & (trials + 1 >= _MAX_TRIALS)

        moved, change = here - state.point, new_grad - state.grad
        is_pair = accepted & (num_accepted > 0) & (jnp.vdot(moved, change) > 0)
        steps = jnp.where(is_pair, _appended(state.steps, moved), state.steps)
        changes = jnp.where(is_pair, _appended(state.changes, change), state.changes)
        kept = jnp.where(accepted, jnp.minimum(num_pairs + is_pair, k), 0)
        point = jnp.where(accepted, here, state.point)
        grad = jnp.where(accepted, new_grad, state.grad)
        ascent = _ascent(steps, changes, kept, grad)
        # Rounding can spoil the memory: forget it, and go along the gradient.
        spoilt = ~(jnp.vdot(grad, ascent) > 0)
        ascent = jnp.where(spoilt, grad / jnp.maximum(1.0, jnp.linalg.norm(grad)), ascent)
        kept = jnp.where(spoilt, 0, kept)
        reached = jnp.where(accepted, trial, before)
        failed = jnp.where(accepted, 0, failures + 1)
        numbers = jnp.stack([reached, -jnp.vdot(grad, ascent), 1.0, 0.0, jnp.inf])
        counts = jnp.stack([0, num_accepted + accepted, failed, kept])
        begun = LineSearch(point, grad, -ascent, numbers.astype(dtype), counts, steps, changes)

        # Or another step along the same direction.
        low = jnp.where(decreased, step, low)
        high = jnp.where(decreased, high, step)
        # Longer by the secant of the slopes; shorter by the parabola through both values.
        growth = descent / jnp.minimum(descent - slope, 0.1 * descent)
        longer = jnp.clip(growth, 2.0, 10.0) * low
        excess = trial - before - step * descent
        parabola = -0.5 * descent * step**2 / jnp.maximum(excess, 1e-30)
        middle = jnp.where(finite & ~decreased, parabola, 0.5 * (low + high))
        shorter = jnp.clip(middle, 0.9 * low + 0.1 * high, 0.1 * low + 0.9 * high)
        next_step = jnp.where(jnp.isinf(high), longer, shorter)
        again = state._replace(
            numbers=jnp.stack([before, descent, next_step, low, high]).astype(dtype),
            counts=jnp.stack([trials + 1, num_accepted, failures, num_pairs]),
        )
        new: LineSearch = jax.tree.map(
            lambda x, y: jnp.where(accepted | stuck, x, y).astype(y.dtype), begun, again
        )
        return unravel(new.point + new.numbers[2] * new.direction - here), new

    return QuasiNewton(init, update)


def _appended(memory: Float[Array, "k n"], new: Float[Array, " n"]) -> Float[Array, "k n"]:
    """The memory with a new row, and without the oldest."""
    return jnp.concatenate([memory[1:], new[None]])


def _ascent(
    steps: Float[Array, "k n"],
    changes: Float[Array, "k n"],
    num_pairs: Int[Array, ""],
    grad: Float[Array, " n"],
) -> Float[Array, " n"]:
    r"""H g, with H the inverse Hessian that the last pairs (s, y) say, in its compact form.

    With R the upper triangle of $S Y^\top$ and D its diagonal, rows being pairs,

    $$H = \gamma I + [S^\top, \gamma Y^\top] \begin{bmatrix} R^{-\top} (D + \gamma Y Y^\top) R^{-1}
      & -R^{-\top} \\ -R^{-1} & 0 \end{bmatrix} \begin{bmatrix} S \\ \gamma Y \end{bmatrix}$$

    so all long sums are one matrix product.

    Source: Byrd, Nocedal and Schnabel (1994), Mathematical Programming 63.
    """
    k = len(steps)
    valid = jnp.arange(k) >= k - num_pairs
    pairs = jnp.where(jnp.tile(valid, 2)[:, None], jnp.concatenate([steps, changes]), 0.0)
    products = jnp.matmul(
        jnp.concatenate([pairs, grad[None]]), pairs.T, precision=jax.lax.Precision.HIGHEST
    )
    cross, squares = products[:k, k:], products[k : 2 * k, k:]
    along_steps, along_changes = products[-1, :k], products[-1, k:]
    curvatures = jnp.diag(cross)
    # Of no pairs nothing is known but that the first step should not be long.
    cautious = 1 / jnp.maximum(1.0, jnp.linalg.norm(grad))
    last = jnp.where(num_pairs > 0, squares[-1, -1], 1.0)
    scale = jnp.where(num_pairs > 0, curvatures[-1] / last, cautious)
    triangle = jnp.triu(cross) + jnp.diag(jnp.where(valid, 0.0, 1.0)).astype(cross.dtype)
    inner = solve_triangular(triangle, along_steps)
    outer = curvatures * inner + scale * (squares @ inner - along_changes)
    outer = solve_triangular(triangle, outer, trans=1)
    return scale * grad + jnp.concatenate([outer, -scale * inner]) @ pairs


def minimise[X: PyTree](
    loss: Callable[[X], Float[Array, ""]],
    start: X,
    *,
    num_steps: int,
    tolerance: Float[Array, ""] | float = 0.0,
) -> X:
    """The lowest point that L-BFGS reaches; works inside `jit`, `vmap` and `scan`.

    Args:
        loss: what to minimise.
        start: where to start; if the loss is not finite there, it is what is returned.
        num_steps: at most so many steps are taken, and at most four times as many are tried.
        tolerance: stop where the norm of the gradient is not above this.

    Returns:
        A point whose loss is not above that of the start, apart from rounding.

    Examples:
        >>> import jax.numpy as jnp
        >>> from ssmlin.learning import minimise
        >>> x = minimise(lambda x: jnp.sum((x - 1) ** 2), jnp.zeros(2), num_steps=5)
        >>> bool(jnp.allclose(x, 1.0, atol=1e-3))
        True
    """
    optimizer = lbfgs()

    def body(carry: tuple[X, LineSearch, Array]) -> tuple[X, LineSearch, Array]:
        x, state, count = carry
        value, grad = jax.value_and_grad(loss)(x)
        updates, state = optimizer.update(grad, state, x, value=value)
        return optax.apply_updates(x, updates), state, count + 1

    def go_on(carry: tuple[X, LineSearch, Array]) -> Array:
        _, state, count = carry
        _, num_accepted, failures, _ = state.counts
        # The first acceptance is that of the start.
        tries = (count <= 4 * num_steps) & (num_accepted <= num_steps)
        falls = (jnp.linalg.norm(state.grad) > tolerance) & (failures < 2)
        more: Array = (count == 0) | (tries & falls)
        return more

    first = (start, optimizer.init(start), jnp.zeros((), jnp.int32))
    _, state, _ = jax.lax.while_loop(go_on, body, first)
    lowest: X = ravel_pytree(start)[1](state.point)
    return lowest
