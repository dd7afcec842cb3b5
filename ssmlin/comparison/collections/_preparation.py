"""What models of stationary series are fitted to: differences, standardised, and the way back.

M1 preferred, for all models that use it, differences over a step without the means of the season
to differences over a season, and values to logarithms.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from ssmlin.comparison.collections._collection import CollectionSeries


class Prepared(NamedTuple):
    """The differences of a series, with mean zero and variance one.

    Attributes:
        values: (T - 1, 1).
        means: of the differences at each place in the season, or a single one; the first is that
            of the first step to come.
        deviation: the standard deviation around them.
        last: the last value of the series.
    """

    values: Float[np.ndarray, "n 1"]
    means: Float[np.ndarray, " period"]
    deviation: float
    last: float

    def back(self, paths: Float[np.ndarray, "n H"]) -> Float[np.ndarray, "n H"]:
        """Paths of the series itself from paths of the prepared differences."""
        places = np.arange(paths.shape[1]) % len(self.means)
        levels: np.ndarray = self.last + np.cumsum(
            self.means[places] + self.deviation * paths, axis=1
        )
        return levels


def prepare(one: CollectionSeries) -> Prepared:
    """Take differences over a step, and standardise them.

    There is a mean for each place in the season where the corrected Akaike criterion prefers that
    to one. Gaps are bridged by straight lines.

    Args:
        one: the series.

    Returns:
        The differences.

    Raises:
        ValueError: too few steps, or differences that are all alike.
    """
    train = one.bridged()
    if len(train) < 4:
        raise ValueError(f"train: expected at least 4 steps, got {len(train)}")
    changes = np.diff(train)
    means = np.array([changes.mean()])
    if one.period > 1 and len(changes) > one.period + 2:
        # Counted back from the end, so that the first is that of the step to come.
        by_place = [
            changes[place - one.period :: -one.period].mean() for place in range(one.period)
        ]
        means = min(means, np.array(by_place), key=lambda x: _criterion(changes, x))
    residuals = changes - _repeated(means, len(changes))
    deviation = float(residuals.std())
    if deviation <= 1e-9 * np.abs(train).max():
        raise ValueError("train: expected differences that are not all alike")
    return Prepared(residuals[:, None] / deviation, means, deviation, float(train[-1]))


def _repeated(means: Float[np.ndarray, " k"], n: int) -> Float[np.ndarray, " n"]:
    """The means of the places of n steps, of which the last is at the last place."""
    return means[np.arange(-n, 0) % len(means)]


def _criterion(changes: Float[np.ndarray, " n"], means: Float[np.ndarray, " k"]) -> float:
    """The corrected Akaike criterion of the means."""
    n, k = len(changes), len(means)
    squares = np.mean((changes - _repeated(means, n)) ** 2)
    return float(np.log(max(squares, np.finfo(float).tiny)) + (n + k) / (n - k - 2))
