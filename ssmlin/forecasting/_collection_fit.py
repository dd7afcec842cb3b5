"""The fit of a hierarchical regression to the series of a collection, in batches of like length."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from ssmlin._buckets import bucket
from ssmlin.forecasting._collection_members import Member
from ssmlin.inference import batch_options
from ssmlin.learning import BatchFit, fit_batches, loss_curvature
from ssmlin.models import HierarchicalRegression, ParamsHierarchicalRegression, RegressionStates

#: Series that a device fits at once, whose covariances should stay in its cache.
_BATCH = 64
#: From so many observed values on the fit begins with some batches: every third, or about so many
#: of many. It then ends deeper, too; with fewer values the plain fit stops before it follows
#: directions that the data hardly tell, and forecasts better.
_LEAST_VALUES, _SOME = 100_000, 8
#: How often, and the L-BFGS steps of each time.
_BEGINNINGS, _FIRST_STEPS = 2, 30


class Population(NamedTuple):
    """One fitted model, of all series under one transformation.

    Attributes:
        power: λ of the Box-Cox transformation.
        model: the model of the transformed changes.
        params: its parameters.
    """

    power: float
    model: HierarchicalRegression
    params: ParamsHierarchicalRegression


def fit_population(
    members: Sequence[Member],
    *,
    seed: int,
    num_steps: int,
    folder: Path | None,
    progress: bool,
) -> tuple[HierarchicalRegression, ParamsHierarchicalRegression, BatchFit]:
    """Fit the parameters that all series share.

    Where there are many values, L-BFGS takes its first steps with some batches, and measures the
    curvature of the loss there: the parameters are hundreds and differ in scale by orders, and in
    coordinates that know it a third of the passes over all series is enough.

    Args:
        members: the series, transformed.
        seed: of the order of the series.
        num_steps: L-BFGS steps with all series, at most.
        folder: where the states of the fit are kept, if anywhere.
        progress: show what is done.

    Returns:
        The model, its parameters, and how the fit to all series went.
    """
    model = HierarchicalRegression(members[0].regressors.shape[1])
    params, props = model.initialize()
    order = np.random.default_rng(seed).permutation(len(members))
    batches = batches_of([members[i] for i in order])
    options, curvature = batch_options(), None

    def fit(
        batches: Sequence[tuple[np.ndarray, np.ndarray]], steps: int, name: str
    ) -> tuple[ParamsHierarchicalRegression, BatchFit]:
        return fit_batches(
            model, params, props, batches, _num_values(batches), num_steps=min(steps, num_steps),
            curvature=curvature, compiler_options=options,
            checkpoint_dir=None if folder is None else folder / name, progress=progress,
        )  # fmt: skip

    if _num_values(batches) >= _LEAST_VALUES:
        some = batches[:: max(3, len(batches) // _SOME)]
        one = [max(some, key=lambda batch: _num_values([batch]))]
        for number in range(_BEGINNINGS):
            params, _ = fit(some, _FIRST_STEPS, f"beginning-{number}")
            curvature = loss_curvature(
                model, params, props, one, _num_values(one), compiler_options=options
            )
    params, found = fit(batches, num_steps, "all")
    return model, params, found


def _num_values(batches: Sequence[tuple[np.ndarray, np.ndarray]]) -> int:
    """How many values were observed."""
    return sum(int(np.count_nonzero(~np.isnan(targets))) for targets, _ in batches)


def stacked(
    members: Sequence[Member], size: int, steps: int
) -> tuple[Float[np.ndarray, "B T"], Float[np.ndarray, "B T d"]]:
    """Targets and regressors of a batch, padded at the ends and with empty series."""
    targets = np.full((size, steps), np.nan, np.float32)
    regressors = np.zeros((size, steps, members[0].regressors.shape[1]), np.float32)
    for i, one in enumerate(members):
        targets[i, : len(one.targets)] = one.targets
        regressors[i, : len(one.targets)] = one.regressors
    return targets, regressors


def conditioned(
    population: Population, members: Sequence[Member], size: int, steps: int
) -> RegressionStates:
    """What the model knows after each series of a batch, which is padded to this shape."""
    targets, regressors = stacked(members, size, steps)
    lengths = np.array([len(one.targets) for one in members])
    lengths = np.pad(lengths, (0, len(targets) - len(lengths)), constant_values=1)
    found = _condition()(population.model, population.params, targets, regressors, lengths)
    cut: RegressionStates = jax.tree.map(lambda x: np.asarray(x)[: len(members)], found)
    return cut


@cache
def _condition() -> Any:
    """One program for each shape of a batch."""
    return jax.jit(
        HierarchicalRegression.condition, static_argnums=0, compiler_options=batch_options()
    )


def padded_length(steps: int) -> int:
    """The next of 2 and 3 times a power of two: few lengths, so that there are few programs."""
    power = max(16, 1 << (steps - 1).bit_length())
    return 3 * power // 4 if steps <= 3 * power // 4 and power > 16 else power


def batches_of(members: Sequence[Member]) -> list[tuple[np.ndarray, np.ndarray]]:
    """All members in batches, those of like length together: arrays (1, B, T) and (1, B, T, d).

    Each is a group of its own for :func:`fit_batches`, so that the programs do not depend on how
    many there are.
    """
    by_length: dict[int, list[Member]] = {}
    for one in members:
        by_length.setdefault(padded_length(len(one.targets)), []).append(one)
    found, most = [], _BATCH * jax.local_device_count()
    for steps, group in sorted(by_length.items()):
        size = min(most, bucket(len(group)))
        for start in range(0, len(group), size):
            targets, regressors = stacked(group[start : start + size], size, steps)
            found.append((targets[None], regressors[None]))
    return found
