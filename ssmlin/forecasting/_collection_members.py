"""Series of a collection as a hierarchical regression sees them: scaled changes and their past."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

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
        width = next(iter(panel.values())).inputs.shape[1]
        mean, square, count = np.zeros(width), np.zeros(width), 0
        if not width:
            return cls(mean, np.ones(0))
        # Twice over all series, which need not be in memory together.
        for one in panel.values():
            count += len(one.inputs)
            mean += one.inputs.sum(axis=0)
        mean /= count
        for one in panel.values():
            square += ((one.inputs - mean) ** 2).sum(axis=0)
        deviation = np.sqrt(square / count)
        return cls(mean, np.where(deviation > 1e-12 * np.abs(mean), deviation, 1.0))

    def apply(self, inputs: Float[np.ndarray, "T p"]) -> Float[np.ndarray, "T p"]:
        """Standardised inputs."""
        scaled: Float[np.ndarray, "T p"] = (inputs - self.mean) / self.deviation
        return scaled


class Extent(NamedTuple):
    """What was seen of series in their own units, which bounds sampled paths.

    Attributes:
        lowest: the smallest values, (B,).
        highest: the largest.
        squares: of the changes from one observed value to the next, summed up.
        counts: of observed values.
        latest: the last values.
    """

    lowest: Float[np.ndarray, " B"]
    highest: Float[np.ndarray, " B"]
    squares: Float[np.ndarray, " B"]
    counts: Int[np.ndarray, " B"]
    latest: Float[np.ndarray, " B"]

    @classmethod
    def of(cls, values: Float[np.ndarray, "B T"], counts: Int[np.ndarray, " B"]) -> "Extent":
        """That of values where the last one stands for each that is missing."""
        squares = (np.diff(values, axis=1) ** 2).sum(axis=1)
        return cls(values.min(axis=1), values.max(axis=1), squares, counts, values[:, -1])

    def after(self, values: Float[np.ndarray, " B"]) -> "Extent":
        """That with one more value of each series."""
        return Extent(
            np.minimum(self.lowest, values), np.maximum(self.highest, values),
            self.squares + (values - self.latest) ** 2, self.counts + 1, values,
        )  # fmt: skip

    def bounds(self, scale: Float[np.ndarray, " B"], power: float) -> Float[np.ndarray, "B 2"]:
        """Far from what was seen: three ranges beyond it and thirty times the usual change."""
        ends = box_cox(np.stack([self.lowest, self.highest])[..., None], (power,))[..., 0]
        least, most = ends / scale
        low = least - 3 * (most - least) - 30.0
        if power == 1:
            return np.stack([low, most + 3 * (most - least) + 30.0], axis=1)
        usual = np.sqrt(self.squares / np.maximum(self.counts - 1, 1))
        highest = self.highest + 3 * (self.highest - self.lowest) + 30 * usual
        return np.stack([low, box_cox(highest[:, None], (power,))[:, 0] / scale], axis=1)


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


def members_of(
    parts: Sequence[tuple[Columns, int]], power: float, history: History, scale: InputScale
) -> list[Member | None]:
    """Columns of series under a transformation, or None where one cannot be used so.

    All are computed together, and their arrays are parts of those of all.

    Args:
        parts: series, and the number of a column of each.
        power: λ of the transformation.
        history: what is made of the past.
        scale: of the inputs.
    """
    found: list[Member | None] = [None] * len(parts)
    columns = [one.values[:, target] for one, target in parts]
    seen = [np.flatnonzero(~np.isnan(values)) for values in columns]
    usable = [
        i for i, (values, there) in enumerate(zip(columns, seen, strict=True))
        if len(there) >= LEAST_VALUES and (power == 1 or values[there].min() > 0)
    ]  # fmt: skip
    if not usable:
        return found
    spans = [slice(int(seen[i][0]), int(seen[i][-1]) + 1) for i in usable]
    lengths = np.array([span.stop - span.start for span in spans])
    starts = np.array([first_place(parts[i][0].times) for i in usable])
    starts += np.array([span.start for span in spans])
    num_inputs = parts[0][0].inputs.shape[1]
    y = np.full((len(usable), lengths.max()), np.nan)
    inputs = np.zeros((*y.shape, num_inputs))
    for row, (i, span, length) in enumerate(zip(usable, spans, lengths, strict=True)):
        y[row, :length] = columns[i][span]
        if num_inputs:
            inputs[row, :length] = scale.apply(parts[i][0].inputs[span])
    made = whole_members(y, inputs, lengths, starts, power, history)
    for i, span, one in zip(usable, spans, made, strict=True):
        found[i] = one._replace(num_missing=len(columns[i]) - span.stop)
    return found


def whole_members(
    y: Float[np.ndarray, "B T"],
    inputs: Float[np.ndarray, "B T p"],
    lengths: Int[np.ndarray, " B"],
    starts: Int[np.ndarray, " B"],
    power: float,
    history: History,
) -> list[Member]:
    """Series from their first observed values to their last ones, padded to the longest.

    Gaps in their past are filled by straight lines.
    """
    seen = ~np.isnan(y)
    z, y = box_cox(y.reshape(-1, 1), (power,)).reshape(y.shape), carried(y, seen)
    steps = np.arange(y.shape[1])
    inside = steps < lengths[:, None]
    for row in np.flatnonzero((seen != inside).any(axis=1)):
        z[row] = np.interp(steps, steps[seen[row]], z[row, seen[row]])
    z = carried(z, inside)
    # A change over a gap is no change over a step, and its line knows the value it leads to.
    both = seen & np.pad(seen, ((0, 0), (1, 0)))[:, :-1]
    changes = np.diff(z, axis=1, prepend=z[:, :1])
    count = both.sum(axis=1)
    usual = np.where(
        count > 0,
        np.where(both, changes**2, 0.0).sum(axis=1) / np.maximum(count, 1),
        (changes**2).sum(axis=1) / (lengths - 1),
    )
    level = np.where(inside, z**2, 0.0).sum(axis=1) / lengths
    # A series that hardly changes is not blown up to rounding errors.
    scale = np.maximum(np.sqrt(usual), np.maximum(1e-3 * np.sqrt(level), 1e-12))
    z, targets = z / scale[:, None], np.where(both, changes / scale[:, None], np.nan)
    regressors = np.concatenate(
        [history.regressors(z, starts), inputs, np.diff(inputs, axis=1, prepend=inputs[:, :1])],
        axis=2,
    )
    last = history.before(z, lengths)
    bounds = Extent.of(y, seen.sum(axis=1)).bounds(scale, power)
    begins = history.first_step(lengths)
    kept = both & (steps >= begins[:, None])
    slopes = -kept.sum(axis=1) * np.log(scale)
    if power != 1:
        slopes += (power - 1) * np.log(np.where(kept, y, 1.0)).sum(axis=1)
    return [
        Member(
            targets[i, begin:length], regressors[i, begin:length], last[i], float(scale[i]),
            (float(bounds[i, 0]), float(bounds[i, 1])), float(slopes[i]), 0,
            int(starts[i] + length),
        )
        for i, (begin, length) in enumerate(zip(begins, lengths, strict=True))
    ]  # fmt: skip


def inputs_beside(inputs: Float[np.ndarray, "T p"]) -> Float[np.ndarray, "S q"]:
    """Regressors of the second step and later: standardised inputs, and their changes."""
    return np.concatenate([inputs[1:], np.diff(inputs, axis=0)], axis=1)


def carried(
    values: Float[np.ndarray, "B T"], known: Bool[np.ndarray, "B T"]
) -> Float[np.ndarray, "B T"]:
    """The last known value in the place of what is not known; the first ones are."""
    latest = np.maximum.accumulate(np.where(known, np.arange(values.shape[1]), 0), axis=1)
    carried: Float[np.ndarray, "B T"] = np.take_along_axis(values, latest, axis=1)
    return carried
