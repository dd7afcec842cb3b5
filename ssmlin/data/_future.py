"""The inputs of future steps, joined by time and series."""

import contextlib
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float, Int

from ssmlin.data._columns import FILL, missing_rows, numbers
from ssmlin.data._grids import TOLERANCE, future_times
from ssmlin.data._lags import carried_forward
from ssmlin.data._panels import parse_distinct, series_of_rows
from ssmlin.data._times import NUMBER, Times, is_dates, listed, parse_times

if TYPE_CHECKING:
    import pandas


def future_inputs(
    table: "pandas.DataFrame",
    times: Times,
    horizon: int,
    inputs: Sequence[str],
    time: str | None = None,
    series: str | None = None,
    name: str = "",
    date_format: str | None = None,
    *,
    last: Float[np.ndarray, " k"] | None = None,
) -> Float[np.ndarray, "horizon k"]:
    """Take the inputs of the steps after a history, in the order of the steps.

    With a time column each step takes the row of its own time, so the order of the rows does not
    matter, and rows of the history or after the last step are ignored. Without a time column the
    rows are the future steps, in order.

    Args:
        table: the rows of the future steps; it may hold other rows.
        times: the times of the history, see :class:`ssmlin.data.Columns`.
        horizon: the number of future steps.
        inputs: the names of the k columns.
        time: the name of the column of times, if the history has one.
        series: the name of the column that tells which series a row belongs to, if there are
            several.
        name: the name of the series; rows of other series are ignored.
        date_format: how dates are written, as in :func:`ssmlin.data.select_columns`.
        last: the inputs of the last step of the history, for an input that is missing to take the
            last value before; None refuses what is missing.

    Returns:
        The inputs, (horizon, k), in the units of the table.

    Raises:
        ValueError: a column that does not exist; no row of the series; times of another kind or
            another time zone than those of the history; a step with two rows, or a row between two
            steps; an input that is not a finite number; unless there is `last`, a step without a
            row, or an input that is missing; without a time column, fewer rows than steps, or so
            many that they may include the history. Messages name the time or the data row, counted
            from 1 among the rows of the series.

    Warns:
        RuntimeWarning: inputs are missing and take their last values.

    Examples:
        >>> import pandas as pd
        >>> from ssmlin.data import future_inputs
        >>> days = pd.DatetimeIndex(["2024-01-01", "2024-01-02"])
        >>> plan = pd.DataFrame({"day": ["2024-01-04", "2024-01-03"], "price": [8.0, 5.0]})
        >>> future_inputs(plan, days, 2, ["price"], time="day").tolist()
        [[5.0], [8.0]]
    """
    plan = FutureTable(table, inputs, time, series, date_format)
    return plan.inputs(times, horizon, name, last=last)


class FutureTable:
    """The rows of the steps to come of many series, brought together once.

    Args:
        table: as in :func:`future_inputs`, like all that follow.
        inputs: likewise.
        time: likewise.
        series: likewise.
        date_format: likewise.

    Raises:
        ValueError: a column that does not exist, or a row without a series.
    """

    def __init__(
        self,
        table: "pandas.DataFrame",
        inputs: Sequence[str],
        time: str | None = None,
        series: str | None = None,
        date_format: str | None = None,
    ) -> None:
        for column in (*inputs, *(one for one in (time, series) if one is not None)):
            if column not in table.columns:
                known = ", ".join(map(str, table.columns[:20]))
                raise ValueError(f"columns: expected a column {column!r}, got {known}")
        self._table, self._names, self._time, self._series = table, inputs, time, series
        self._date_format = date_format
        self._rows: dict[str, Int[np.ndarray, " n"]] = {}
        if series is None:
            return
        codes, names = series_of_rows(table[series])
        ends = np.cumsum(np.bincount(codes))
        together = np.split(np.argsort(codes, kind="stable"), ends[:-1])
        self._rows = dict(zip(names, together, strict=True))
        if time is not None:
            # Rows of no interest may hold anything; of the others it is told what is wrong.
            with contextlib.suppress(ValueError):
                times = parse_distinct(table[time], date_format)
                self._table = table.assign(**{time: times})
                self._date_format = None if is_dates(times) else NUMBER

    def inputs(
        self,
        times: Times,
        horizon: int,
        name: str = "",
        *,
        last: Float[np.ndarray, " k"] | None = None,
    ) -> Float[np.ndarray, "horizon k"]:
        """The inputs of the steps after a history, see :func:`future_inputs`."""
        how = (times, horizon, self._names, self._time, self._date_format, last)
        if self._series is None:
            return _inputs(self._table, *how)
        if name not in self._rows:
            raise ValueError(
                f"series: expected rows of {name!r} in column {self._series!r}, got none"
            )
        try:
            return _inputs(self._table.iloc[self._rows[name]], *how)
        except ValueError as error:
            raise ValueError(f"series {name!r}: {error}") from error


def _inputs(
    rows: "pandas.DataFrame",
    times: Times,
    horizon: int,
    inputs: Sequence[str],
    time: str | None,
    date_format: str | None,
    last: Float[np.ndarray, " k"] | None,
) -> Float[np.ndarray, "horizon k"]:
    """The inputs of one series, from its rows."""
    if time is None:
        if last is None or len(rows) >= horizon:
            _check_count(len(rows), len(times), horizon)
        place = np.arange(min(horizon, len(rows)))
        steps = place
    else:
        ahead = future_times(times, horizon)
        place, steps = _places(parse_times(rows[time], date_format), times, ahead, time)
        unsaid = np.setdiff1d(np.arange(horizon), steps)
        if len(unsaid) and last is None:
            raise ValueError(
                f"time: expected a row for each step to come in column {time!r}, got none for "
                f"{listed(ahead[unsaid])}; {FILL}"
            )
    needed = np.zeros(len(rows), bool)
    needed[place] = True
    found = np.full((horizon, len(inputs)), np.nan)
    for i, name in enumerate(inputs):
        # The other rows may hold anything.
        column = numbers(rows[name].where(needed))
        bad = np.flatnonzero(needed & np.isnan(column))
        if len(bad) and last is None:
            raise ValueError(
                f"inputs: expected no missing values in column {name!r} of the steps to come, got "
                f"{missing_rows(bad)}; {FILL}"
            )
        found[steps, i] = column[place]
    if last is None:
        return found
    tell_of_filled(np.isnan(found), inputs)
    return carried_forward(found, last)


def tell_of_filled(missing: Bool[np.ndarray, "horizon k"], inputs: Sequence[str]) -> None:
    """Warn of inputs of the steps to come that are not known, but filled."""
    if missing.any():
        names = ", ".join(np.array(inputs)[missing.any(axis=0)])
        warnings.warn(
            f"inputs: {missing.any(axis=1).sum()} of {len(missing)} steps to come are without "
            f"{names}; they take the last known values",
            RuntimeWarning,
            stacklevel=2,
        )


def _check_count(rows: int, steps: int, horizon: int) -> None:
    """Raise ValueError if the rows cannot be the future steps; there are no times to tell."""
    if rows < horizon:
        raise ValueError(f"rows: expected {horizon}, one for each step to come, got {rows}")
    if rows > horizon and rows >= steps:
        raise ValueError(
            f"rows: expected the {horizon} steps to come and nothing else, got {rows}, among which "
            f"the {steps} steps of the history may be too; a model without a time column cannot "
            "tell"
        )


def _places(
    given: Times, times: Times, ahead: Times, name: str
) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    """The rows that are future steps, and which ones; `given` are the times of the rows."""
    kinds = ["dates" if is_dates(x) else "numbers" for x in (given, times)]
    if kinds[0] != kinds[1]:
        raise ValueError(
            f"time: expected {kinds[1]} in column {name!r}, as the history has, got {kinds[0]}"
        )
    zones = [str(getattr(x, "tz", None) or "no time zone") for x in (given, times)]
    if zones[0] != zones[1]:
        raise ValueError(
            f"time: expected times of the history's zone in column {name!r}, {zones[1]}, got "
            f"{zones[0]}"
        )
    last = times[-1]
    step = ahead[0] - last
    # Counted in steps, so that numbers and dates are compared alike, and 0.1 + 0.2 equals 0.3.
    grid = np.asarray((ahead - last) / step, float)
    place = np.asarray((given - last) / step, float)
    inside = np.flatnonzero((place > TOLERANCE) & (place < grid[-1] + TOLERANCE))
    nearest = np.searchsorted((grid[1:] + grid[:-1]) / 2, place[inside])
    unknown = inside[np.abs(place[inside] - grid[nearest]) > TOLERANCE]
    if len(unknown):
        raise ValueError(
            f"time: expected the times of the steps to come in column {name!r}, "
            f"{listed(ahead)}; got {listed(given[unknown])} between them"
        )
    counts = np.bincount(nearest, minlength=len(ahead))
    if (counts > 1).any():
        twice = int((counts > 1).argmax())
        rows = inside[nearest == twice] + 1
        raise ValueError(
            f"time: expected each time once in column {name!r}, got {ahead[twice]} in data rows "
            f"{rows[0]} and {rows[1]}"
        )
    return inside, nearest
