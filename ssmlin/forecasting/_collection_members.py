"""Series of a collection as a hierarchical regression sees them: scaled changes and their past."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from ssmlin.data import Columns, box_cox, first_place
from ssmlin.forecasting._history import History

#: Observed values that a series needs.
LEAST_VALUES = 4


class InputScale(NamedTuple):
    """Mean and standard deviation of each input over all series, which static ones differ by."""

    mean: Float[np.ndarray, " p"]
    deviation: Float[np.ndarray, " p"]

    @classmethod
    def of(cls, panel: Mapping[str, Columns]) -> "InputScale":
        """Those of a panel; an input that never varies has the deviation 1."""
        inputs = np.concatenate([one.inputs for one in panel.values()])
        deviation = inputs.std(axis=0)
        return cls(inputs.mean(axis=0), np.where(deviation > 0, deviation, 1.0))

    def apply(self, inputs: Float[np.ndarray, "T p"]) -> Float[np.ndarray, "T p"]:
        """Standardised inputs."""
        scaled: Float[np.ndarray, "T p"] = (inputs - self.mean) / self.deviation
        return scaled


class Member(NamedTuple):
    """One column of one series, as one transformation shows it.

    Attributes:
        targets: the changes to predict, from the first predicted step to the last observed one.
        regressors: of these steps.
        last: the last L values before the next step, the latest first, in units of `scale`.
        scale: the root mean square of the changes.
        bounds: within which sampled paths are kept, in these units.
        log_slope: log |dz/dy| summed over the observed targets.
        num_missing: steps after the last observed one.
        next_step: the number of the step after the last observed one.
    """

    targets: Float[np.ndarray, " T"]
    regressors: Float[np.ndarray, "T d"]
    last: Float[np.ndarray, " L"]
    scale: float
    bounds: tuple[float, float]
    log_slope: float
    num_missing: int
    next_step: int


def _made(
    values: Float[np.ndarray, " T"],
    inputs: Float[np.ndarray, "T p"],
    start: int,
    power: float,
    history: History,
) -> Member:
    """A series from its first observed value on; gaps in its past are filled by straight lines."""
    there = np.flatnonzero(~np.isnan(values))
    first, end = int(there[0]), int(there[-1]) + 1
    seen = ~np.isnan(values[first:end])
    y = values[first:end]
    z = box_cox(y[:, None], (power,))[:, 0]
    steps = np.arange(len(z))
    z = np.interp(steps, steps[seen], z[seen])
    # A change over a gap is no change over a step, and its line knows the value it leads to.
    both = seen & np.concatenate([[False], seen[:-1]])
    changes = np.diff(z)[both[1:]] if both.any() else np.diff(z)
    size = float(np.sqrt(np.mean(changes**2)))
    # A series that hardly changes is not blown up to rounding errors.
    scale = max(size, 1e-3 * float(np.sqrt(np.mean(z**2))), 1e-12)
    z = z / scale
    u = inputs[first:end]
    regressors = np.concatenate(
        [history.regressors(z, start + first), u, np.diff(u, axis=0, prepend=u[:1])], axis=1
    )
    begin = history.first_step(len(z))
    targets = np.where(both, np.diff(z, prepend=z[:1]), np.nan)[begin:]
    kept = y[begin:][both[begin:]]
    slope = (power - 1) * float(np.log(kept).sum()) if power != 1 else 0.0
    return Member(
        targets, regressors[begin:], history.before(z, len(z)), scale,
        _bounds(y[seen], z, scale, power),
        slope - len(kept) * float(np.log(scale)), len(values) - end, start + end,
    )  # fmt: skip


def _bounds(
    values: Float[np.ndarray, " n"], z: Float[np.ndarray, " T"], scale: float, power: float
) -> tuple[float, float]:
    """Far from what was seen: three ranges beyond it and thirty times the usual change."""
    low = float(z.min()) - 3 * float(np.ptp(z)) - 30.0
    if power == 1:
        return low, float(z.max()) + 3 * float(np.ptp(z)) + 30.0
    usual = float(np.sqrt(np.mean(np.diff(values) ** 2))) if len(values) > 1 else 0.0
    highest = float(values.max()) + 3 * float(np.ptp(values)) + 30 * usual
    return low, float(box_cox(np.array([[highest]]), (power,))[0, 0]) / scale


def member_of(
    columns: Columns, target: int, power: float, history: History, scale: InputScale
) -> Member | None:
    """A column of a series under a transformation, or None where it cannot be used so."""
    values = columns.values[:, target]
    seen = values[~np.isnan(values)]
    if len(seen) < LEAST_VALUES or (power != 1 and seen.min() <= 0):
        return None
    inputs = scale.apply(columns.inputs)
    return _made(values, inputs, first_place(columns.times), power, history)
