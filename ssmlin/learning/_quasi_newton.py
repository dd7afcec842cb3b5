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
from jaxtyping import Array, Float, Int, PyTree

#: Of the weak Wolfe conditions: the decrease and the slope that an accepted step must reach.
_DECREASE, _SLOPE = 1e-4, 0.9
#: A line search that has tried so many points starts again along the gradient.
_MAX_TRIALS = 8


class LineSearch(NamedTuple):
    """State of :func:`lbfgs`: the accepted point, and the search that began there.

    Parameters are kept as one vector, which takes less time to compile than many small arrays.

    Attributes:
        point: the accepted parameters.
        value: the loss there; infinite before the first update.
        grad: its gradient there.
        direction: where the search goes.
        slope: the derivative of the loss along `direction` at `point`.
        step: the trial is `point` + `step` · `direction`.
        low: the longest step known to be too short.
        high: the shortest step known to be too long; infinite if there is none.
        trials: how many steps along `direction` were tried and not accepted.
        accepted: how many steps were accepted, the start included.
        failures: how many searches in a row accepted no step.
        memory: of ``optax.scale_by_lbfgs``.
    """

    point: Float[Array, "*R n"]
    value: Float[Array, "*R"]
    grad: Float[Array, "*R n"]
    direction: Float[Array, "*R n"]
    slope: Float[Array, "*R"]
    step: Float[Array, "*R"]
    low: Float[Array, "*R"]
    high: Float[Array, "*R"]
    trials: Int[Array, "*R"]
    accepted: Int[Array, "*R"]
    failures: Int[Array, "*R"]
    memory: optax.ScaleByLBFGSState


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

    Example:
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
    directions = optax.scale_by_lbfgs(memory_size)

    def init(params: PyTree) -> LineSearch:
        point, _ = ravel_pytree(params)
        zero, none = jnp.zeros((), point.dtype), jnp.zeros((), jnp.int32)
        infinite = jnp.full((), jnp.inf, point.dtype)
        return LineSearch(
            point=point,
            value=infinite,
            grad=jnp.zeros_like(point),
            direction=jnp.zeros_like(point),
            slope=zero,
            step=zero,
            low=zero,
            high=infinite,
            trials=none,
            accepted=none,
            failures=none,
            memory=directions.init(point),
        )

    def update(
        updates: PyTree,
        state: LineSearch,
        params: PyTree | None = None,
        *,
        value: Float[Array, ""],
        **extra_args: object,
    ) -> tuple[PyTree, LineSearch]:
        grad, _ = ravel_pytree(updates)
        here, unravel = ravel_pytree(params)
        dtype = here.dtype
        grad, trial_value = grad.astype(dtype), value.astype(dtype)
        slope = jnp.vdot(grad, state.direction)
        finite = jnp.isfinite(trial_value) & jnp.isfinite(grad).all()
        # What rounding may add to a loss.
        slack = 4 * np.finfo(dtype).eps * jnp.abs(state.value)
        bound = state.value + _DECREASE * state.step * state.slope
        decreased = finite & ((trial_value <= bound + slack) | jnp.isinf(state.value))
        accepted = decreased & (slope >= _SLOPE * state.slope)

        # A search that tried enough starts again from its point, without what was remembered.
        stuck = ~accepted & (state.trials + 1 >= _MAX_TRIALS)
        point, value, grad = _where(
            accepted, (here, trial_value, grad), (state.point, state.value, state.grad)
        )
        ascent, memory = directions.update(grad, _forget(state.memory, ~accepted), point)
        # Rounding can spoil the memory: forget it, and go along the gradient.
        spoilt = ~(jnp.vdot(grad, ascent) > 0)
        capped = grad / jnp.maximum(1.0, jnp.linalg.norm(grad))
        ascent, memory = jnp.where(spoilt, capped, ascent), _forget(memory, spoilt)
        begun = LineSearch(
            point=point,
            value=value,
            grad=grad,
            direction=-ascent,
            slope=-jnp.vdot(grad, ascent),
            step=jnp.ones((), dtype),
            low=jnp.zeros((), dtype),
            high=jnp.full((), jnp.inf, dtype),
            trials=jnp.zeros((), jnp.int32),
            accepted=state.accepted + accepted,
            failures=jnp.where(accepted, 0, state.failures + 1),
            memory=memory,
        )
        # Or another step along the same direction.
        low = jnp.where(decreased, state.step, state.low)
        high = jnp.where(decreased, state.high, state.step)
        # Longer by the secant of the slopes; shorter by the parabola through both values.
        growth = state.slope / jnp.minimum(state.slope - slope, 0.1 * state.slope)
        longer = jnp.clip(growth, 2.0, 10.0) * low
        excess = trial_value - state.value - state.step * state.slope
        parabola = -0.5 * state.slope * state.step**2 / jnp.maximum(excess, 1e-30)
        middle = jnp.where(finite & ~decreased, parabola, 0.5 * (low + high))
        shorter = jnp.clip(middle, 0.9 * low + 0.1 * high, 0.1 * low + 0.9 * high)
        step = jnp.where(jnp.isinf(high), longer, shorter)
        again = state._replace(step=step, low=low, high=high, trials=state.trials + 1)
        new = _where(accepted | stuck, begun, again)
        new = jax.tree.map(lambda x, old: x.astype(old.dtype), new, state)
        return unravel(new.point + new.step * new.direction - here), new

    return QuasiNewton(init, update)


def _forget(memory: optax.ScaleByLBFGSState, condition: Array) -> optax.ScaleByLBFGSState:
    """The memory, or one that begins anew: what has no weight is as if it were not there."""
    return memory._replace(
        count=jnp.where(condition, 0, memory.count),
        weights_memory=jnp.where(condition, 0.0, memory.weights_memory),
    )


def _where[T: PyTree](condition: Array, one: T, other: T) -> T:
    """One of two trees."""
    chosen: T = jax.tree.map(lambda x, y: jnp.where(condition, x, y), one, other)
    return chosen


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

    Example:
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
        # The first acceptance is that of the start.
        tries = (count <= 4 * num_steps) & (state.accepted <= num_steps)
        falls = (jnp.linalg.norm(state.grad) > tolerance) & (state.failures < 2)
        more: Array = (count == 0) | (tries & falls)
        return more

    first = (start, optimizer.init(start), jnp.zeros((), jnp.int32))
    _, state, _ = jax.lax.while_loop(go_on, body, first)
    lowest: X = ravel_pytree(start)[1](state.point)
    return lowest
