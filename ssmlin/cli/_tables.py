"""The tables that `ssmlin forecast` writes."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ssmlin._optional import require
from ssmlin.data import free_name

if TYPE_CHECKING:
    import pandas

    from ssmlin.forecasting import Layout, SeriesForecast


def forecast_file(forecasts: Sequence["SeriesForecast"], layout: "Layout") -> "pandas.DataFrame":
    """A row for each series, target and step, with the mean and the ends of the intervals.

    The user's columns keep their names; ours give way.
    """
    require("pandas")
    import pandas as pd

    keys = (layout.series, layout.time)
    parts = []
    for one in forecasts:
        for i, target in enumerate(one.targets):
            table: dict[str, Any] = {}
            if layout.series is not None:
                table[layout.series] = one.name
            table |= {
                _time_name(layout): _labels(one, layout),
                free_name("column", keys): target,
                free_name("mean", keys): one.means[:, i],
            }
            for level, low, high in zip(one.levels, one.lower, one.upper, strict=True):
                table[free_name(f"lower_{level:g}", keys)] = low[:, i]
                table[free_name(f"upper_{level:g}", keys)] = high[:, i]
            parts.append(pd.DataFrame(table))
    return pd.concat(parts)


def paths_file(forecasts: Sequence["SeriesForecast"], layout: "Layout") -> "pandas.DataFrame":
    """A row for each series, path and step, with a column for each target."""
    require("pandas")
    import pandas as pd

    parts = []
    for one in forecasts:
        path, step = (index.ravel() for index in np.indices(one.paths.shape[:2]))
        table: dict[str, Any] = {}
        if layout.series is not None:
            table[layout.series] = one.name
        table[free_name("path", (layout.series, layout.time, *one.targets))] = path
        table[_time_name(layout, one.targets)] = _labels(one, layout)[step]
        table |= {name: one.paths[:, :, i].ravel() for i, name in enumerate(one.targets)}
        parts.append(pd.DataFrame(table))
    return pd.concat(parts)


def _labels(forecast: "SeriesForecast", layout: "Layout") -> Any:
    """The times as the user writes them; steps that are counted need no more than that."""
    return forecast.times if layout.time is None else layout.times(forecast.times)


def _time_name(layout: "Layout", taken: Sequence[str] = ()) -> str:
    """The user's column of times, or one of our own that counts the steps."""
    if layout.time is not None:
        return layout.time
    return free_name("step", (layout.series, *taken))
