"""Fits of many series at once: those of one length side by side in one compiled program.

The loops over time of :mod:`ssmlin.comparison.baselines` run as many steps as a series has. Mapped
over series of different lengths they would run the most steps and look at every array in each, so
series of one length share a call. All calls have the same shapes: time is padded to the longest
series and a batch to 16 series, by repeating one.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from ssmlin._buckets import bucket
from ssmlin.comparison.collections._collection import Collection
from ssmlin.comparison.collections._model import Attempt, Outcome
from ssmlin.comparison.collections._preparation import Prepared, prepare
from ssmlin.comparison.collections._simulation import simulated_quantiles
from ssmlin.forecasting import Fitted, Observed

_BATCH = 16


@dataclass(frozen=True)
class Problem:
    """How one series is fitted.

    Args:
        num_steps: over which the program loops; the same argument is among `arguments`.
        arguments: of the program, a pytree; of all series with the same shapes.
        finish: makes the forecaster from what the program found.
    """

    num_steps: int
    arguments: Any
    finish: Callable[[Any], Fitted]


@dataclass(frozen=True)
class BatchedFit:
    """A fit by one compiled program, which batches of series share.

    Args:
        problem: from a series, the seed and the padded length to its problem.
        program: fits one series.
        axes: of its arguments, as for `jax.vmap`: None for what is the same for all series with
            as many steps.
    """

    problem: Callable[[Observed, int, int], Problem]
    program: Callable[[Any], Any]
    axes: object


def fit_by_batches(
    fit: BatchedFit, series: Sequence[Observed], seed: int
) -> tuple[list[Fitted | Exception], float]:
    """Fit many series.

    Args:
        fit: the fit.
        series: the series.
        seed: of the starts.

    Returns:
        The forecaster of each series or why there is none, and the seconds that the program
        compiled.
    """
    found: list[Fitted | Exception] = [ValueError("not fitted")] * len(series)
    length = bucket(max((len(one.values) for one in series), default=1))
    by_steps: dict[int, list[tuple[int, Problem]]] = defaultdict(list)
    for place, one in enumerate(series):
        try:
            made = fit.problem(one, seed, length)
        except (ValueError, np.linalg.LinAlgError) as error:
            found[place] = error
        else:
            by_steps[made.num_steps].append((place, made))

    compiled, compiling = None, 0.0
    for same in by_steps.values():
        for begin in range(0, len(same), _BATCH):
            batch = same[begin : begin + _BATCH]
            stacked = _stacked([made.arguments for _, made in batch], fit.axes)
            with jax.enable_x64(True):
                if compiled is None:
                    start = time.perf_counter()
                    batched = jax.jit(jax.vmap(fit.program, in_axes=(fit.axes,)))
                    compiled = batched.lower(stacked).compile()
                    compiling = time.perf_counter() - start
                results = jax.tree.map(np.asarray, compiled(stacked))
            for number, (place, made) in enumerate(batch):
                try:
                    found[place] = made.finish(
                        jax.tree.map(lambda x, number=number: x[number], results)
                    )
                except ArithmeticError as error:
                    found[place] = error
    return found, compiling


def forecast_by_batches(collection: Collection, seed: int, *, fit: BatchedFit) -> Attempt:
    """Fit the differences of every series of a collection, and simulate.

    Args:
        collection: the series.
        seed: of starts and paths.
        fit: the fit.

    Returns:
        The attempt.
    """
    outcomes: list[Outcome] = [ValueError("not fitted")] * len(collection)
    prepared: dict[int, Prepared] = {}
    for place, one in enumerate(collection):
        try:
            prepared[place] = prepare(one)
        except ValueError as error:
            outcomes[place] = error
    differences = [Observed.of(found.values) for found in prepared.values()]
    fits, compiling = fit_by_batches(fit, differences, seed)
    for (place, found), fitted in zip(prepared.items(), fits, strict=True):
        if isinstance(fitted, Exception):
            outcomes[place] = fitted
            continue
        try:
            outcomes[place] = simulated_quantiles(fitted, found, collection.series[place], seed)
        except (ArithmeticError, ValueError, np.linalg.LinAlgError) as error:
            outcomes[place] = error
    return Attempt(outcomes, compiling)


def _stacked(made: Sequence[Any], axes: object) -> Any:
    """The arguments of a batch: stacked where they are mapped over, else those of the first."""
    whole = [*made, *[made[0]] * (_BATCH - len(made))]

    def stack(axis: int | None, *leaves: object) -> object:
        if axis is None:
            return leaves[0]
        return jax.tree.map(lambda *x: np.stack(x), *leaves)

    return jax.tree.map(stack, axes, *whole, is_leaf=lambda x: x is None)
