"""`ssmlin.Forecaster`, or whatever has its methods, as a model of collections."""

import warnings
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from jaxtyping import Float

from ssmlin._optional import require
from ssmlin.comparison.collections._collection import Collection
from ssmlin.comparison.collections._model import Attempt, CollectionModel, Outcome
from ssmlin.comparison.collections._quantiles import (
    INTERVALS,
    interval_quantiles,
    path_quantiles,
)

if TYPE_CHECKING:
    import pandas

_ID, _TIME, _TARGET = "unique_id", "ds", "y"
#: The percentage of the interval whose middle serves as median.
_NARROW = 1


class ForecastsFrames(Protocol):
    """What a forecaster must be able to do, as :class:`ssmlin.Forecaster` is."""

    def fit(self, data: Any, /) -> Any:
        """Fit to a long frame with the columns unique_id, ds (a number) and y."""

    def predict(self, horizon: int, /, *, levels: Any, seed: int) -> Any:
        """A frame with the columns `lo-95`, `hi-95`, ... of central intervals."""

    def sample_paths(self, horizon: int, /, *, num_samples: int, seed: int) -> Any:
        """A frame with the columns `path` and y."""


def forecaster_model(
    make: Callable[[int | None], ForecastsFrames], name: str, *, num_paths: int | None = None
) -> CollectionModel:
    """A forecaster that is fitted to all series of a group together.

    Args:
        make: from the steps per season, None for none, to a forecaster that is not fitted.
        name: of the model.
        num_paths: forecast by so many sampled paths; default by the intervals of `predict`.

    Returns:
        The model. A group whose series differ in period or horizon fails as a whole. Series that
        do not vary fail, and are not fitted to.

    Examples:
        >>> import ssmlin
        >>> from ssmlin.comparison.collections import forecaster_model
        >>> model = forecaster_model(lambda season: ssmlin.Forecaster(season=season), "ssmlin")
    """
    return CollectionModel(name, partial(_forecast, make=make, num_paths=num_paths))


def _forecast(
    collection: Collection,
    seed: int,
    *,
    make: Callable[[int | None], ForecastsFrames],
    num_paths: int | None,
) -> Attempt:
    kinds = {(one.period, one.horizon) for one in collection}
    if len(kinds) > 1:
        raise ValueError(f"collection: expected one period and horizon, got {sorted(kinds)}")
    ((period, horizon),) = kinds
    varying = [place for place, one in enumerate(collection) if np.nanstd(one.train) > 0]
    outcomes: list[Outcome] = [ValueError("train: expected values that vary")] * len(collection)
    if not varying:
        return Attempt(outcomes)
    fitted_to = Collection(collection.name, tuple(collection.series[place] for place in varying))
    forecaster = make(None if period == 1 else period)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of series that then fail
        forecaster.fit(_long_frame(fitted_to))
    made: list[Float[np.ndarray, "H K"]]
    if num_paths is not None:
        found = forecaster.sample_paths(horizon, num_samples=num_paths, seed=seed)
        made = [
            path_quantiles(rows[_TARGET].to_numpy(float).reshape(-1, horizon))
            for rows in _by_series(found, fitted_to)
        ]
    else:
        found = forecaster.predict(horizon, levels=(_NARROW, *INTERVALS), seed=seed)
        made = [_quantiles(rows) for rows in _by_series(found, fitted_to)]
    for place, quantiles in zip(varying, made, strict=True):
        outcomes[place] = quantiles
    return Attempt(outcomes)


def _long_frame(collection: Collection) -> "pandas.DataFrame":
    """A row for each series and step; names are numbers, so that sorting keeps their order."""
    require("pandas")
    import pandas

    lengths = [len(one.train) for one in collection]
    return pandas.DataFrame(
        {
            _ID: np.repeat(np.arange(len(collection)), lengths),
            _TIME: np.concatenate([np.arange(n) for n in lengths]),
            _TARGET: np.concatenate([one.train for one in collection]),
        }
    )


def _by_series(frame: "pandas.DataFrame", collection: Collection) -> list["pandas.DataFrame"]:
    """The rows of each series; a frame of a single one does not name it."""
    if _ID not in frame.columns:
        return [frame]
    rows = {str(key): found for key, found in frame.groupby(_ID, sort=False)}
    return [rows.get(str(number), frame.iloc[:0]) for number in range(len(collection))]


def _quantiles(rows: "pandas.DataFrame") -> Float[np.ndarray, "H K"]:
    """Quantiles from the ends of intervals."""
    low, high = (
        {p: rows[f"{end}-{p}"].to_numpy(float) for p in (_NARROW, *INTERVALS)}
        for end in ("lo", "hi")
    )
    return interval_quantiles((low[_NARROW] + high[_NARROW]) / 2, low, high)
