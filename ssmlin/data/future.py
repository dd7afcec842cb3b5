"""Inputs of the steps to come, joined by time and series."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from ssmlin.data.columns import numbers, series_ids
from ssmlin.data.times import future_times, parse_times

if TYPE_CHECKING:
    import pandas

_NAMED = 5  # times that a message names, at most
_TOLERANCE = 1e-3  # of a step, as for the times of the history


def future_inputs(
    table: "pandas.DataFrame",
    times: Any,
    horizon: int,
    inputs: Sequence[str],
    time: str | None = None,
    series: str | None = None,
    name: str = "",
    date_format: str | None = None,
) -> Float[np.ndarray, "horizon k"]:
    """Inputs of the steps after a history, in the order of these steps.

    With a time column each step takes the row of its own time, in whatever order the rows come.
    Rows of the history and rows after the last step are left out, so a table of everything will
    do. Without a time column the rows are the steps to come, in order.

    Args:
        table: the rows to come, and others.
        times: of the history, as :class:`ssmlin.data.Columns` has them.
        horizon: how many steps.
        inputs: names of the k columns.
        time: name of the column of times, if the history has one.
        series: name of the column that says which series a row is of, if there are several.
        name: of the series that is asked for; rows of others are left out.
        date_format: how dates are written, as in :func:`ssmlin.data.select_columns`.

    Returns:
        The inputs, in the units of the table.

    Raises:
        ValueError: a column that is not there; no row of the series; times of another kind or
            another time zone than those of the history; a step without a row, a step with two, a
            row between two steps; an input that is missing or no finite number; without a time
            column fewer rows than steps, or so many that they may hold the history. Messages name
            the time or the data row, counted from 1 among the rows of the series.

    Example:
        >>> import pandas as pd
        >>> from ssmlin.data import future_inputs
        >>> days = pd.DatetimeIndex(["2024-01-01", "2024-01-02"])
        >>> plan = pd.DataFrame({"day": ["2024-01-04", "2024-01-03"], "price": [8.0, 5.0]})
        >>> future_inputs(plan, days, 2, ["price"], time="day").tolist()
        [[5.0], [8.0]]
    """
    wanted = [*inputs, *(one for one in (time, series) if one is not None)]
    for column in wanted:
        if column not in table.columns:
            known = ", ".join(map(str, table.columns[:20]))
            raise ValueError(f"columns: expected names among {known}; got {column!r}")
    if series is None:
        return _inputs(table, times, horizon, inputs, time, date_format)
    rows = table[np.array(series_ids(table[series])) == name]
    if len(rows) == 0:
        raise ValueError(f"series: expected rows of {name!r} in column {series!r}, got none")
    try:
        return _inputs(rows, times, horizon, inputs, time, date_format)
    except ValueError as error:
        raise ValueError(f"series {name!r}: {error}") from error


def _inputs(
    rows: "pandas.DataFrame",
    times: Any,
    horizon: int,
    inputs: Sequence[str],
    time: str | None,
    date_format: str | None,
) -> Float[np.ndarray, "horizon k"]:
    """Inputs of one series from its rows."""
    if time is None:
        _check_count(len(rows), len(times), horizon)
        place = np.arange(horizon)
    else:
        place = _places(parse_times(rows[time], date_format), times, horizon, time)
    needed = np.zeros(len(rows), bool)
    needed[place] = True
    found = []
    for name in inputs:
        # What is in the other rows does not matter.
        column = numbers(rows[name].where(needed))
        bad = needed & np.isnan(column)
        if bad.any():
            raise ValueError(
                f"inputs: expected no missing values in column {name!r} of the steps to come, got "
                f"one in data row {int(bad.argmax()) + 1}"
            )
        found.append(column[place])
    return np.column_stack(found) if found else np.zeros((horizon, 0))


def _check_count(rows: int, steps: int, horizon: int) -> None:
    """Without times only the number of rows says what they are."""
    if rows < horizon:
        raise ValueError(f"rows: expected {horizon}, one for each step to come, got {rows}")
    if rows > horizon and rows >= steps:
        raise ValueError(
            f"rows: expected the {horizon} steps to come and nothing else, got {rows}, among which "
            f"the {steps} steps of the history may be too; a model without a time column cannot "
            "tell"
        )


def _places(found: Any, times: Any, horizon: int, name: str) -> np.ndarray:
    """The row of each step to come."""
    import pandas as pd

    kinds = ["dates" if isinstance(x, pd.DatetimeIndex) else "numbers" for x in (found, times)]
    if kinds[0] != kinds[1]:
        raise ValueError(
            f"time: expected {kinds[1]} in column {name!r}, as the history has, got {kinds[0]}"
        )
    zones = [str(getattr(x, "tz", None) or "no time zone") for x in (found, times)]
    if zones[0] != zones[1]:
        raise ValueError(
            f"time: expected times of the history's zone in column {name!r}, {zones[1]}, got "
            f"{zones[0]}"
        )
    ahead = future_times(times, horizon)
    if kinds[1] == "dates":
        ahead = pd.DatetimeIndex(ahead)
    last = times[-1]
    step = ahead[0] - last
    # In steps, so that numbers and dates are compared alike, and 0.1 + 0.2 is 0.3.
    grid = np.asarray((ahead - last) / step, float)
    place = np.asarray((found - last) / step, float)
    inside = np.flatnonzero((place > _TOLERANCE) & (place < grid[-1] + _TOLERANCE))
    nearest = np.searchsorted((grid[1:] + grid[:-1]) / 2, place[inside])
    unknown = inside[np.abs(place[inside] - grid[nearest]) > _TOLERANCE]
    if len(unknown):
        raise ValueError(
            f"time: expected the times of the steps to come in column {name!r}, "
            f"{_listed(ahead)}; got {_listed(found[unknown])} between them"
        )
    counts = np.bincount(nearest, minlength=horizon)
    if (counts > 1).any():
        twice = int((counts > 1).argmax())
        rows = inside[nearest == twice] + 1
        raise ValueError(
            f"time: expected each time once in column {name!r}, got {ahead[twice]} in data rows "
            f"{rows[0]} and {rows[1]}"
        )
    if (counts == 0).any():
        raise ValueError(
            f"time: expected a row for each step to come in column {name!r}, got none for "
            f"{_listed(ahead[counts == 0])}"
        )
    place = np.empty(horizon, int)
    place[nearest] = inside
    return place


def _listed(times: Any) -> str:
    """The first times, and how many there are."""
    text = ", ".join(str(one) for one in times[:_NAMED])
    return text if len(times) <= _NAMED else f"{text}, ... ({len(times)} in all)"
