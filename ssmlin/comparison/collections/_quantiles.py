"""How every forecast is represented: quantiles of each step at one grid of levels."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float
from scipy import special

#: The levels: every 2.5 %, and 0.5 %, 1 %, 99 % and 99.5 %. Central intervals of 50, 80 and 95 %
#: end at some of them.
QUANTILE_LEVELS = np.concatenate([[0.005, 0.01], np.arange(1, 40) / 40, [0.99, 0.995]])
QUANTILE_LEVELS.flags.writeable = False
#: Percentages of the central intervals between them, the narrowest first.
INTERVALS = tuple(round(200 * level - 100) for level in QUANTILE_LEVELS if level > 0.5)


def index_of(level: float) -> int:
    """Where a level stands in the grid."""
    (found,) = np.flatnonzero(np.isclose(QUANTILE_LEVELS, level))
    return int(found)


def path_quantiles(paths: Float[np.ndarray, "n H"]) -> Float[np.ndarray, "H K"]:
    """Quantiles of each step of sampled paths.

    Args:
        paths: n paths.

    Returns:
        The quantiles at the levels of the grid.
    """
    found: np.ndarray = np.quantile(paths, QUANTILE_LEVELS, axis=0).T
    return found


def normal_quantiles(
    means: Float[np.ndarray, " H"], deviations: Float[np.ndarray, " H"]
) -> Float[np.ndarray, "H K"]:
    """Quantiles of normal laws.

    Args:
        means: of the steps.
        deviations: their standard deviations.

    Returns:
        The quantiles at the levels of the grid.
    """
    found: np.ndarray = means[:, None] + deviations[:, None] * special.ndtri(QUANTILE_LEVELS)
    return found


def interval_quantiles(
    middle: Float[np.ndarray, " H"],
    low: Mapping[int, Float[np.ndarray, " H"]],
    high: Mapping[int, Float[np.ndarray, " H"]],
) -> Float[np.ndarray, "H K"]:
    """Quantiles from the ends of central intervals.

    Args:
        middle: the point forecast, which serves as median; ends on the wrong side of it, as they
            come from samples, are moved to it.
        low: lower ends, by the percentages of `INTERVALS`.
        high: upper ends.

    Returns:
        The quantiles at the levels of the grid, brought in order where the ends are not.
    """
    below = np.stack([low[level] for level in INTERVALS[::-1]], axis=1)
    above = np.stack([high[level] for level in INTERVALS], axis=1)
    centre = middle[:, None]
    below, above = np.minimum(np.sort(below, axis=1), centre), np.maximum(np.sort(above), centre)
    return np.concatenate([below, centre, above], axis=1)
