r"""Scores of the forecasts of a collection, one number a series and measure.

All come from the quantiles alone, so that one rule holds for all models. The median is the point
forecast. A series' scale is that of MASE: the mean absolute change over a season of its training
part. Where that is zero, or the training part is no longer than a season, it is the mean absolute
change over a step; where that is zero or unknown, too, scaled scores of the series are NaN, and
means leave it out for all models alike.

With y the value, q_p the quantile at level p, s the scale, and means over the steps ahead:

- MASE: $|y - q_{0.5}| / s$;
- sMAPE, in percent: $200\,|y - q_{0.5}| / (|y| + |q_{0.5}|)$, and 0 where both are zero;
- CRPS, scaled: $2 \sum_p w_p (1\{y < q_p\} - p)(q_p - y) / s$, where $w_p$ is the share of (0, 1)
  that is nearest to p;
- MSIS: $(u - l + 40 (l - y)_+ + 40 (y - u)_+) / s$ of the central 95 % interval (l, u);
- coverage: the share of values in the central 50, 80 and 95 % intervals, ends included;
- log density of y / s, see :func:`log_densities`.

Source: Hyndman and Koehler (2006), International Journal of Forecasting 22; Gneiting and Raftery
(2007), JASA 102; Makridakis, Spiliotis and Assimakopoulos (2020), International Journal of
Forecasting 36.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import special

from ssmlin.comparison.collections._collection import Collection
from ssmlin.comparison.collections._naive import season_changes
from ssmlin.comparison.collections._quantiles import QUANTILE_LEVELS, index_of

#: Of the central interval whose width and misses MSIS counts.
_ALPHA = 0.05
_EDGES = np.concatenate([[0.0], (QUANTILE_LEVELS[1:] + QUANTILE_LEVELS[:-1]) / 2, [1.0]])
#: The share of (0, 1) that is nearest to each level.
WEIGHTS = np.diff(_EDGES)
#: Levels between which the density is interpolated; few, as neighbouring quantiles of sampled
#: paths are too near to each other to say how dense it is between them.
_KNOTS = np.array(
    [index_of(p) for p in (0.005, 0.025, 0.05, *(np.arange(1, 10) / 10), 0.95, 0.975, 0.995)]
)
#: Beyond the outermost levels the density is that of the normal law with these two quantiles.
_TAIL = index_of(0.9), index_of(0.995)
#: The least standard deviation of a piece, in units of the scale.
_NARROWEST = 0.01


class CollectionScores(NamedTuple):
    """Scores of n series, see the module; scaled ones are NaN where a series has no scale.

    Attributes:
        mase: mean absolute scaled error.
        smape: symmetric mean absolute percentage error.
        crps: scaled continuous ranked probability score.
        msis: mean scaled interval score at 95 %.
        log_density: of the values in units of the scale, on average over the steps.
        coverage_50: share of values in the central 50 % interval.
        coverage_80: of 80 %.
        coverage_95: of 95 %.
    """

    mase: Float[np.ndarray, " n"]
    smape: Float[np.ndarray, " n"]
    crps: Float[np.ndarray, " n"]
    msis: Float[np.ndarray, " n"]
    log_density: Float[np.ndarray, " n"]
    coverage_50: Float[np.ndarray, " n"]
    coverage_80: Float[np.ndarray, " n"]
    coverage_95: Float[np.ndarray, " n"]


def season_scale(train: Float[np.ndarray, " T"], period: int) -> float:
    """The scale of a series, see the module; NaN where there is none.

    Args:
        train: the training part.
        period: steps per season.

    Returns:
        The scale.
    """
    for lag in (period, 1):
        changes = np.abs(season_changes(train, lag))
        if len(changes) and changes.mean() > 0:
            return float(changes.mean())
    return float("nan")


def log_densities(
    quantiles: Float[np.ndarray, "H K"], values: Float[np.ndarray, " H"], scale: float
) -> Float[np.ndarray, " H"]:
    """Log densities of values in units of the scale, by what quantiles say of the law.

    The law is that of g(z), z standard normal: g takes the normal quantiles at the levels 0.5 %,
    2.5 %, 5 %, 10 %, 20 %, ..., 99.5 % to those of the forecast and is linear between them. Beyond
    them its slope is that from 90 % to 99.5 %, and on the other side likewise. So the density of a
    normal law is exact. No slope is less than 0.01 scales, which moves the quantiles outside of
    such a piece: a forecast without spread has a density, too.

    Args:
        quantiles: at `QUANTILE_LEVELS`.
        values: what happened.
        scale: of the series.

    Returns:
        The log densities, NaN where a value is.
    """
    z = special.ndtri(QUANTILE_LEVELS)
    knots, normal = quantiles[:, _KNOTS] / scale, z[_KNOTS]
    slopes = np.maximum(np.diff(knots) / np.diff(normal), _NARROWEST)
    middle = len(_KNOTS) // 2
    rises = np.pad(np.cumsum(slopes * np.diff(normal), axis=1), ((0, 0), (1, 0)))
    knots = knots[:, [middle]] + rises - rises[:, [middle]]
    inner, outer = _TAIL
    ends = (len(QUANTILE_LEVELS) - 1 - outer, len(QUANTILE_LEVELS) - 1 - inner), (inner, outer)
    low, high = (
        np.maximum(
            (quantiles[:, [b]] - quantiles[:, [a]]) / scale / (z[b] - z[a]), _NARROWEST
        ) for a, b in ends
    )  # fmt: skip
    # Pieces 0 and -1 are the tails; each other piece begins at its lower knot.
    slopes = np.concatenate([low, slopes, high], axis=1)
    y = values[:, None] / scale
    piece = (y >= knots).sum(axis=1, keepdims=True)
    near = np.maximum(piece - 1, 0)
    slope = np.take_along_axis(slopes, piece, axis=1)
    score = normal[near] + (y - np.take_along_axis(knots, near, axis=1)) / slope
    found: np.ndarray = -0.5 * (score**2 + np.log(2 * np.pi)) - np.log(slope)
    return found[:, 0]


def score_collection(
    collection: Collection, quantiles: Sequence[Float[np.ndarray, "H K"]]
) -> CollectionScores:
    """Score the forecasts of a collection.

    Args:
        collection: the series, with their test values; NaN means missing, and such a step does not
            count.
        quantiles: of each series, at `QUANTILE_LEVELS`.

    Returns:
        The scores of every series.

    Raises:
        ValueError: a series without observed test values, or another number of forecasts.
    """
    if len(quantiles) != len(collection):
        raise ValueError(f"quantiles: expected {len(collection)} series, got {len(quantiles)}")
    rows = []
    for one, forecast in zip(collection, quantiles, strict=True):
        seen = np.zeros(0, bool) if one.test is None else np.isfinite(one.test)
        if one.test is None or not seen.any():
            raise ValueError(f"series {one.name!r}: expected observed test values, got none")
        rows.append(
            _score(forecast[seen], one.test[seen], season_scale(one.train, one.period))
        )  # fmt: skip
    return CollectionScores(*(np.array(column) for column in zip(*rows, strict=True)))


def _score(
    quantiles: Float[np.ndarray, "H K"], values: Float[np.ndarray, " H"], scale: float
) -> tuple[float, ...]:
    """The scores of one series, in the order of :class:`CollectionScores`."""
    point = quantiles[:, index_of(0.5)]
    error, size = np.abs(values - point), np.abs(values) + np.abs(point)
    smape = 200 * error / np.where(size > 0, size, 1.0)
    above = quantiles - values[:, None]
    losses = ((above > 0) - QUANTILE_LEVELS) * above

    def central(level: float) -> tuple[Float[np.ndarray, " H"], Float[np.ndarray, " H"]]:
        half = (1 - level) / 2
        return quantiles[:, index_of(half)], quantiles[:, index_of(1 - half)]

    low, high = central(1 - _ALPHA)
    misses = np.maximum(low - values, 0) + np.maximum(values - high, 0)
    inside = [
        float(np.mean((values >= a) & (values <= b))) for a, b in map(central, (0.5, 0.8, 0.95))
    ]
    return (
        float(error.mean() / scale),
        float(smape.mean()),
        float(2 * (losses @ WEIGHTS).mean() / scale),
        float((high - low + 2 / _ALPHA * misses).mean() / scale),
        float(log_densities(quantiles, values, scale).mean()),
        *inside,
    )
