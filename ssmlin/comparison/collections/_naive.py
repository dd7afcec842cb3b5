"""Seasonal naive: the last season again. What all scores and failures are measured by."""

import numpy as np
from jaxtyping import Float

from ssmlin.comparison.collections._collection import CollectionSeries
from ssmlin.comparison.collections._quantiles import normal_quantiles


def season_changes(train: Float[np.ndarray, " T"], period: int) -> Float[np.ndarray, " n"]:
    """The observed changes over a season; over a step where the series has none over a season."""
    for lag in (period, 1):
        changes = train[lag:] - train[:-lag] if len(train) > lag else np.empty(0)
        if np.isfinite(changes).any():
            return changes[np.isfinite(changes)]
    return np.empty(0)


def seasonal_naive(one: CollectionSeries) -> Float[np.ndarray, "H K"]:
    """The value of the same place in the last season, with normal changes over every season.

    In season k ahead the variance is k times the mean square of the changes over a season. A
    missing value is replaced by the last observed one of its place; a series without a whole
    season is forecast by its last value.

    Args:
        one: the series.

    Returns:
        The quantiles.
    """
    train = one.train
    observed = np.isfinite(train)
    places = [np.flatnonzero(observed[-place - 1 :: -one.period]) for place in range(one.period)]
    period = one.period if len(train) > one.period and all(len(x) for x in places) else 1
    steps = np.arange(one.horizon)
    if period == 1:
        last = np.full(one.horizon, train[observed][-1])
    else:
        of_places = [train[-place - 1 :: -period][found[0]] for place, found in enumerate(places)]
        last = np.array(of_places[::-1])[steps % period]
    changes = season_changes(train, period)
    spread = float(np.sqrt(np.mean(changes**2))) if len(changes) else 0.0
    return normal_quantiles(last, spread * np.sqrt(steps // period + 1.0))
