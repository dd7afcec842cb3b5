"""Forecasts as pandas frames and xarray datasets, with the times that follow those of the data."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from ssmlin._optional import require
from ssmlin._typing import AnyArray
from ssmlin.data import future_times

if TYPE_CHECKING:
    import pandas
    import xarray


def index_after(index: "pandas.Index | None", horizon: int) -> "pandas.Index":
    """The index of the steps after the data, of the same kind and name.

    Args:
        index: of the data; None numbers the steps to come from 1.
        horizon: how many steps.

    Raises:
        ValueError: an index of dates or numbers that is not regular.
    """
    require("pandas")
    import pandas as pd

    if index is None:
        return pd.RangeIndex(1, horizon + 1, name="step")
    if isinstance(index, pd.RangeIndex):
        end = index.start + len(index) * index.step
        return pd.RangeIndex(end, end + horizon * index.step, index.step, name=index.name)
    if isinstance(index, pd.PeriodIndex):
        return pd.period_range(index[-1] + 1, periods=horizon, name=index.name)
    if isinstance(index, pd.DatetimeIndex) and index.freq is not None:
        ahead = pd.date_range(index[-1], periods=horizon + 1, freq=index.freq, name=index.name)
        return ahead[1:]
    times: Any = index if isinstance(index, pd.DatetimeIndex) else np.asarray(index)
    return pd.Index(future_times(times, horizon), dtype=index.dtype, name=index.name)


def forecast_frame(
    index: "pandas.Index",
    columns: Sequence[str],
    means: Float[AnyArray, "horizon m"],
    levels: Sequence[float],
    lower: Float[AnyArray, "num_levels horizon m"],
    upper: Float[AnyArray, "num_levels horizon m"],
) -> "pandas.DataFrame":
    """A row for each step: `mean`, then the ends `lo-95`, ..., `hi-95`, the widest outside.

    Args:
        index: of the steps.
        columns: names of the m columns; of several, the first level of the frame's columns.
        means: (horizon, m).
        levels: percentages of the central intervals.
        lower: lower ends.
        upper: upper ends.
    """
    require("pandas")
    import pandas as pd

    order = np.argsort(levels)
    tables = {}
    for i, name in enumerate(columns):
        table = {"mean": np.asarray(means)[:, i]}
        table |= {f"lo-{levels[j]:g}": np.asarray(lower[j])[:, i] for j in order[::-1]}
        table |= {f"hi-{levels[j]:g}": np.asarray(upper[j])[:, i] for j in order}
        tables[name] = pd.DataFrame(table, index=index)
    return tables[columns[0]] if len(tables) == 1 else pd.concat(tables, axis=1)


def forecast_dataset(
    index: Any,
    columns: Sequence[str],
    means: Float[AnyArray, "horizon m"],
    levels: Sequence[float],
    lower: Float[AnyArray, "num_levels horizon m"],
    upper: Float[AnyArray, "num_levels horizon m"],
    paths: Float[AnyArray, "num_samples horizon m"] | None,
) -> "xarray.Dataset":
    """A dataset of `mean`, `lower`, `upper` and, if there are any, `paths`.

    The dimensions are `time`, `column`, `level` and `sample`; the other arguments are those of
    :func:`forecast_frame`.
    """
    require("xarray")
    import xarray

    variables = {
        "mean": (("time", "column"), np.asarray(means)),
        "lower": (("level", "time", "column"), np.asarray(lower)),
        "upper": (("level", "time", "column"), np.asarray(upper)),
    }
    if paths is not None:
        variables["paths"] = (("sample", "time", "column"), np.asarray(paths))
    coordinates = {"time": index, "column": list(columns), "level": list(levels)}
    return xarray.Dataset(variables, coords=coordinates)
