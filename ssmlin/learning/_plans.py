"""Plans: work that asks for fits and goes on with their results; one by itself, or many at once.

A plan is a generator. It yields a :class:`ssmlin.learning.Fit`, is sent the fitted parameters and
the history, and returns its result. So a recipe is written as if for one series, and who carries it
out decides how many fits advance together: those of many plans whose arrays have the same shapes
are lanes of one program. A fit that has ended makes room for the next one.
"""

import time
from collections import deque
from collections.abc import Generator, Hashable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ssmlin._progress import progress_bar, waiting
from ssmlin.learning._epochs import (
    EPOCHS_PER_CALL,
    MANY_AT_ONCE,
    FitState,
    Limits,
    run_epochs,
    run_epochs_of_many,
)
from ssmlin.learning._loss import FitData
from ssmlin.learning._runs import Fit, FitHistory, Run

#: Work that asks for fits; R is its result.
type Plan[R] = Generator[Fit[Any], tuple[Any, FitHistory], R]

_SECONDS_PER_CALL = 2.0
#: Fits that advance together, at most: memory grows with them.
_LANES = 16


def carry_out[R](plan: Plan[R], name: str, *, progress: bool = True) -> R:
    """Carry out one plan, each fit by itself.

    Args:
        plan: the plan.
        name: of the model, to be shown.
        progress: show a line while there is no fit, and a bar for each fit.

    Returns:
        What the plan returns.

    Raises:
        ValueError: as :func:`ssmlin.learning.fit_sgd`, or by the plan.
        TypeError: likewise.
    """
    answer: Any = None
    while True:
        with waiting(f"compiling {name}", progress):
            try:
                run = Run(plan.send(answer))
            except StopIteration as end:
                result: R = end.value
                return result
        run_alone(run, progress=progress)
        answer = run.result()


def run_alone(run: Run[Any], *, progress: bool) -> None:
    """Let a fit go on to its end."""
    pace = _Pace()
    with progress_bar(progress) as bar:
        task = bar.add_task(
            f"fit {run.name}", total=run.num_epochs, completed=run.num_done, note="compiling"
        )
        while run.goes_on:
            _advance_one(run, pace)
            bar.update(task, completed=run.num_done, note=f"loss {run.last_loss:.4f}")
        if run.num_done < run.num_epochs:
            bar.update(task, total=run.num_done, note="stopped early")


def carry_out_together[R](
    plans: Sequence[Plan[R]], name: str, *, progress: bool = True
) -> list[R | ValueError]:
    """Carry out many plans, whose fits advance together wherever they can share a program.

    Each fit has its own parameters, optimiser and end, and its result is that of the fit by itself
    but for rounding. What fails by a ValueError fails by itself.

    Args:
        plans: the plans.
        name: of the model, to be shown.
        progress: show a bar with the number of plans that are done.

    Returns:
        For each plan its result, or the error that ended it.

    Examples:
        >>> import numpy as np, ssmlin
        >>> from ssmlin.learning import carry_out_together
        >>> from ssmlin.models import plan_fit
        >>> model = ssmlin.LinearAttentionSSM("bayesian_memory", 1, 0, 1)
        >>> walks = np.random.default_rng(0).normal(size=(3, 20, 1)).cumsum(axis=1)
        >>> plans = [plan_fit(model, walk.astype(np.float32), None) for walk in walks]
        >>> found = carry_out_together(plans, "bayesian_memory", progress=False)
        >>> [history.converged for params, history in found]
        [True, True, True]
    """
    results: dict[int, R | ValueError] = {}
    waiting_for: dict[Hashable, deque[tuple[int, Run[Any]]]] = {}
    with progress_bar(progress) as bar:
        task = bar.add_task(f"fit {name}", total=len(plans), note="series")

        def go_on(number: int, answer: Any) -> None:
            """Let a plan go on to the next fit that has to be run, or to its end."""
            plan = plans[number]
            while number not in results:
                try:
                    failed = isinstance(answer, ValueError)
                    fit = plan.throw(answer) if failed else plan.send(answer)
                except StopIteration as end:
                    results[number] = end.value
                except ValueError as error:
                    results[number] = error
                else:
                    answer = _started(fit)
                    if isinstance(answer, Run):
                        waiting_for.setdefault(answer.program, deque()).append((number, answer))
                        return
            bar.update(task, completed=len(results))

        for number in range(len(plans)):
            go_on(number, None)
        while waiting_for:
            program, queue = next(iter(waiting_for.items()))
            # The number of lanes is a power of two, so that there are few programs.
            lanes = _Lanes(1 << (min(len(queue), _LANES) - 1).bit_length())
            while queue or lanes.runs:
                while queue and not lanes.are_full:
                    lanes.runs.append(queue.popleft())
                for number, answer in lanes.advance():
                    go_on(number, answer)
            del waiting_for[program]
    return [results[number] for number in range(len(plans))]


def _started(fit: Fit[Any]) -> Run[Any] | tuple[Any, FitHistory] | ValueError:
    """A fit that has to be run, its result where a checkpoint has it, or what is wrong with it."""
    try:
        run = Run(fit)
    except ValueError as error:
        return error
    return run if run.goes_on else run.result()


class _Pace:
    """How many epochs a call runs.

    Short blocks come first, so that of slow epochs a checkpoint misses no more than a few.
    """

    def __init__(self) -> None:
        self.block = 1
        self._began = time.monotonic()

    def begin(self) -> int:
        """The epochs of the next call."""
        self._began = time.monotonic()
        return self.block

    def end(self) -> None:
        """Learn from the time of a call."""
        quick = time.monotonic() - self._began < _SECONDS_PER_CALL
        self.block = min(2 * self.block, EPOCHS_PER_CALL) if quick else max(self.block // 2, 1)


def _advance_one(run: Run[Any], pace: _Pace) -> None:
    """A block of epochs of a fit by itself."""
    settings = run.settings
    many = settings.batch_size * settings.num_fits >= MANY_AT_ONCE
    epochs = run_epochs_of_many() if many else run_epochs
    limits = run.until(pace.begin())
    run.take(*epochs(run.state, run.key, limits, settings, run.props, run.data))
    pace.end()


class _Shared(NamedTuple):
    """What the fits of some lanes are given, and what does not change from block to block."""

    runs: tuple[Run[Any], ...]
    keys: jax.Array
    data: FitData


class _Lanes:
    """A program of several fits, each to data of its own; those that have ended make room.

    Attributes:
        runs: the fits that are going on, each with the number of its plan.
    """

    def __init__(self, width: int) -> None:
        self.runs: list[tuple[int, Run[Any]]] = []
        self._width = width
        self._pace = _Pace()
        self._shared: _Shared | None = None

    @property
    def are_full(self) -> bool:
        """Whether there is no room."""
        return len(self.runs) == self._width

    def advance(self) -> list[tuple[int, tuple[Any, FitHistory] | ValueError]]:
        """A block of epochs of all of them; the results of those that have ended."""
        failed = self._advance([run for _, run in self.runs])
        ended = [(number, failed.get(run) or run.result()) for number, run in self.runs
                 if run in failed or not run.goes_on]  # fmt: skip
        numbers = {number for number, _ in ended}
        self.runs = [one for one in self.runs if one[0] not in numbers]
        return ended

    def _advance(self, runs: list[Run[Any]]) -> dict[Run[Any], ValueError]:
        """A block of epochs; and the fits that cannot go on."""
        if self._width == 1:
            try:
                _advance_one(runs[0], self._pace)
            except ValueError as error:
                return {runs[0]: error}
            return {}
        block = self._pace.begin()
        # Lanes that are free repeat a fit, and stand still.
        idle = [runs[0]] * (self._width - len(runs))
        limits = [run.until(block) for run in runs] + [run.until(0) for run in idle]
        shared = self._given(tuple(runs + idle))
        settings = runs[0].settings._replace(num_fits=self._width)
        states: FitState = _stacked([run.state for run in shared.runs])
        many: Limits = jax.tree.map(lambda *x: np.stack(x), *limits)
        enough = settings.batch_size * self._width >= MANY_AT_ONCE
        epochs = run_epochs_of_many() if enough else run_epochs
        new, record = jax.device_get(
            epochs(states, shared.keys, many, settings, runs[0].props, shared.data)
        )
        failed = {}
        for lane, run in enumerate(runs):
            state, own = jax.tree.map(lambda x, i=lane: x[i], new), [x[:, lane] for x in record]
            try:
                run.take(state, (own[0], own[1]))
            except ValueError as error:
                failed[run] = error
        self._pace.end()
        return failed

    def _given(self, runs: tuple[Run[Any], ...]) -> _Shared:
        """The data of the lanes, on the device as long as the fits are the same."""
        if self._shared is None or self._shared.runs != runs:
            data: FitData = jax.device_put(_stacked([run.data for run in runs]))
            keys = jnp.stack([run.key for run in runs])
            self._shared = _Shared(runs, keys, data)
        return self._shared


def _stacked[T](trees: Sequence[T]) -> T:
    """Trees of arrays with one more leading axis, in NumPy, where nothing is compiled."""
    stacked: T = jax.tree.map(lambda *x: np.stack([np.asarray(one) for one in x]), *trees)
    return stacked
