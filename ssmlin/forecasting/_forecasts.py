"""What a fitted forecaster answers: frames, arrays, paths and pictures of the steps to come."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import batched
from typing import TYPE_CHECKING

from ssmlin import _checks
from ssmlin.forecasting._ahead import SeriesForecast
from ssmlin.forecasting._collection import CollectionState
from ssmlin.forecasting._plot import forecast_figure
from ssmlin.forecasting._recipe import Recipe
from ssmlin.forecasting._state import ForecasterState
from ssmlin.forecasting._tables import forecast_table, paths_table
from ssmlin.models import (
    HierarchicalRegression,
    LinearAttentionSSM,
    ParamsHierarchicalRegression,
    ParamsLinearAttentionSSM,
)

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

#: Percentages of the central intervals.
LEVELS = (50, 80, 95)


class Forecasts(Recipe):
    """The forecasts of a :class:`ssmlin.Forecaster`, which documents the settings.

    Attributes:
        state_: what is fitted; None before.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        self.state_: ForecasterState | CollectionState | None = None

    @property
    def model_(self) -> LinearAttentionSSM | HierarchicalRegression:
        """The fitted model; ValueError if there are several, or nothing is fitted."""
        return self._fitted.only_fit.model

    @property
    def params_(self) -> ParamsLinearAttentionSSM | ParamsHierarchicalRegression:
        """Its parameters; ValueError if there are several models, or nothing is fitted."""
        return self._fitted.only_fit.params

    @property
    def _fitted(self) -> ForecasterState | CollectionState:
        if self.state_ is None:
            raise ValueError("forecaster: expected a fitted one, call fit first")
        return self.state_

    def forecasts(
        self,
        horizon: int,
        levels: Sequence[float | int] = LEVELS,
        future_inputs: object = None,
        *,
        num_samples: int = 1000,
        seed: int | None = None,
    ) -> list[SeriesForecast]:
        """Forecast each series, as arrays with paths; see :meth:`predict`."""
        return list(_each(self, horizon, levels, future_inputs, num_samples, seed))

    def predict(
        self,
        horizon: int,
        levels: Sequence[float | int] = LEVELS,
        future_inputs: object = None,
        *,
        num_samples: int = 1000,
        seed: int | None = None,
    ) -> "pandas.DataFrame":
        """Forecast the steps after the data, in their units.

        Args:
            horizon: how many steps.
            levels: percentages of the central intervals, in [1, 100).
            future_inputs: the inputs of the steps to come: a frame with their columns and those of
                the times and the series; an array with the rows in order; or a list of these, one
                for each series.
            num_samples: sampled paths, which give what is not known exactly.
            seed: of the paths; default that of the forecaster.

        Returns:
            A row for each series, target and step: the series if there are several, the time, the
            target (`column`) if there are several, `mean`, and the ends of the intervals `lo-95`,
            ..., `hi-95`. One of our names that is yours has an underscore after it.

        Raises:
            ValueError: an argument out of range, future inputs that are missing, or data that are
                too short to go on from.
        """
        found = _each(self, horizon, levels, future_inputs, num_samples, seed)
        return forecast_table(found, self._fitted.layout)

    def predict_batches(
        self,
        horizon: int,
        levels: Sequence[float | int] = LEVELS,
        future_inputs: object = None,
        *,
        size: int = 1000,
        num_samples: int = 1000,
        seed: int | None = None,
    ) -> "Iterator[pandas.DataFrame]":
        """Forecast some series at a time, which is all that is kept in memory.

        Args:
            horizon: as in :meth:`predict`, like all but `size`.
            levels: likewise.
            future_inputs: likewise.
            size: how many series.
            num_samples: likewise.
            seed: likewise.

        Yields:
            The rows of :meth:`predict` of these series; all of them together are those of all.

        Raises:
            ValueError: as :meth:`predict`.

        Examples:
            >>> import numpy as np, ssmlin
            >>> forecaster = ssmlin.Forecaster(lags=1).fit(np.sin(np.arange(30.0)))
            >>> [len(frame) for frame in forecaster.predict_batches(3, size=100)]  # of one series
            [3]
        """
        _checks.positive_int("size", size)
        found = _each(self, horizon, levels, future_inputs, num_samples, seed)
        for some in batched(found, size):
            yield forecast_table(some, self._fitted.layout)

    def sample_paths(
        self,
        horizon: int,
        num_samples: int = 200,
        future_inputs: object = None,
        *,
        seed: int | None = None,
    ) -> "pandas.DataFrame":
        """Sample paths of the steps after the data, in their units.

        Args:
            horizon: how many steps.
            num_samples: how many paths of each series.
            future_inputs: as in :meth:`predict`.
            seed: likewise.

        Returns:
            A row for each series, path and step: the series if there are several, `path`, the time,
            and a column for each target.
        """
        found = list(_each(self, horizon, (), future_inputs, num_samples, seed))
        return paths_table(found, self._fitted.layout)

    def plot(
        self,
        horizon: int,
        levels: Sequence[float | int] = (50, 95),
        future_inputs: object = None,
        *,
        num_steps: int | None = None,
    ) -> "Figure":
        """Draw the end of each series and its forecast with intervals.

        Args:
            horizon: how many steps to forecast.
            levels: as in :meth:`predict`.
            future_inputs: as there.
            num_steps: how many observed steps to show; default four times the horizon, at least 50.

        Returns:
            A matplotlib figure, a panel for each series and target, at most twelve.
        """
        state, found = self._fitted, self.forecasts(horizon, levels, future_inputs)
        shown = max(4 * horizon, 50) if num_steps is None else num_steps
        return forecast_figure(found, state.panel, state.layout, shown)


def _each(
    forecaster: Forecasts, horizon: int, levels: Sequence[float | int], future: object, num: int,
    seed: int | None,
) -> Iterable[SeriesForecast]:  # fmt: skip
    """Forecasts one after another, so that the paths of all series need not be held at once."""
    state, used = forecaster._fitted, forecaster.seed if seed is None else seed
    return state.forecasts(horizon, levels, future, num_samples=num, seed=used)
