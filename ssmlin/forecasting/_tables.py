"""Frames of forecasts, of sampled paths and of cross-validation, with the caller's names."""

from collections.abc import Hashable, Iterable, Sequence
from itertools import batched
from typing import TYPE_CHECKING, Any

import numpy as np

from ssmlin._optional import require
from ssmlin.data import Columns, free_name
from ssmlin.forecasting._ahead import SeriesForecast
from ssmlin.forecasting._layout import Layout

if TYPE_CHECKING:
    import pandas

#: Series whose rows are joined at once.
_SERIES = 256


def forecast_table(forecasts: Iterable[SeriesForecast], layout: Layout) -> "pandas.DataFrame":
    """A row for each series, target and step: names, time, mean, and ends of the intervals."""
    require("pandas")
    import pandas as pd

    # A frame for each series would take longer than the forecasts of thousands, and the arrays of
    # each more memory than what is in them.
    tables = [
        _joined([_rows(one, layout, i) for one in some for i in range(len(one.targets))])
        for some in batched(forecasts, _SERIES)
    ]
    return pd.DataFrame(_joined(tables))


def _joined(tables: Sequence[dict[Hashable, Any]]) -> dict[Hashable, Any]:
    """Tables one below another."""
    return {name: _appended([one[name] for one in tables]) for name in tables[0]}


def _appended(columns: Sequence[Any]) -> Any:
    """Columns of the same kind, one after another."""
    first = columns[0]
    if isinstance(first, list):
        return [x for column in columns for x in column]
    if isinstance(first, np.ndarray):
        return np.concatenate(columns)
    return first.append(list(columns[1:]))


def _rows(forecast: SeriesForecast, layout: Layout, target: int) -> dict[Hashable, Any]:
    """The columns of one target of one series."""
    table: dict[Hashable, Any] = {}
    if layout.series is not None:
        table[layout.series] = [layout.label(forecast.name)] * len(forecast.means)
    table[layout.time_name] = layout.times(forecast.times)
    if len(forecast.targets) > 1:
        name = layout.label(forecast.targets[target])
        table[layout.free("column")] = [name] * len(forecast.means)
    table[layout.free("mean")] = forecast.means[:, target]
    order = np.argsort(forecast.levels)
    for i in order[::-1]:
        table[layout.free(f"lo-{forecast.levels[i]:g}")] = forecast.lower[i][:, target]
    for i in order:
        table[layout.free(f"hi-{forecast.levels[i]:g}")] = forecast.upper[i][:, target]
    return table


def paths_table(forecasts: Sequence[SeriesForecast], layout: Layout) -> "pandas.DataFrame":
    """A row for each series, path and step: names, number of the path, time, and the targets."""
    require("pandas")
    import pandas as pd

    parts = []
    for one in forecasts:
        path, step = (index.ravel() for index in np.indices(one.paths.shape[:2]))
        table: dict[Hashable, Any] = {}
        if layout.series is not None:
            table[layout.series] = [layout.label(one.name)] * len(path)
        table[free_name("path", (layout.series, layout.time, *one.targets))] = path
        time = layout.times(one.times)
        table[layout.time_name] = time[step]
        for i, name in enumerate(one.targets):
            table[layout.label(name)] = one.paths[:, :, i].ravel()
        parts.append(pd.DataFrame(table))
    return pd.concat(parts, ignore_index=True)


def cutoff_rows(
    forecast: SeriesForecast, cutoff: int, columns: Columns, layout: Layout
) -> "pandas.DataFrame":
    """The forecast of a series from a cutoff beside what was observed: the columns cutoff and y.

    Args:
        forecast: of the steps after the cutoff.
        cutoff: how many steps were known.
        columns: the whole series.
        layout: the caller's names.
    """
    require("pandas")
    import pandas as pd

    times = columns.times
    if layout.time is None:
        times = np.arange(len(columns.values))
    last = layout.times(times[cutoff - 1 : cutoff])[0]
    parts = []
    for i in range(len(forecast.targets)):
        rows = pd.DataFrame(_rows(forecast, layout, i))
        place = list(rows.columns).index(layout.free("mean"))
        rows.insert(place, layout.free("cutoff"), [last] * len(rows))
        observed = columns.values[cutoff : cutoff + len(forecast.means), i]
        rows.insert(place + 1, layout.free("y"), observed)
        parts.append(rows)
    return pd.concat(parts, ignore_index=True)
