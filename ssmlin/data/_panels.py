"""Several series from one long table, as arrays of all of them together.

A table of a hundred thousand series has ten million rows, so whatever can be is done once for all
rows, or once for each distinct name or time. What is wrong with a series is found by reading it
alone, see :func:`select_columns`, which knows the words for it.
"""

import contextlib
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from ssmlin._optional import require
from ssmlin.data._calendar import Calendar
from ssmlin.data._columns import (
    Columns,
    check_calendar,
    check_names,
    known_names,
    numbers,
    select_columns,
)
from ssmlin.data._grids import Steps, regular_steps
from ssmlin.data._times import NUMBER, Times, find_date_format, is_dates, parse_times

if TYPE_CHECKING:
    import pandas


def select_panel(
    frame: "pandas.DataFrame",
    series: str | int,
    targets: Sequence[str | int],
    inputs: Sequence[str | int] = (),
    time: str | int | None = None,
    date_format: str | None = None,
    *,
    to_fit: bool = True,
    calendar: Calendar | None = None,
    fill_inputs: bool = False,
) -> dict[str, Columns]:
    """Take several series, which may differ in length, from one table.

    Args:
        frame: the table, with the rows of all series.
        series: the name of the column that tells which series a row belongs to.
        targets: the names of the columns to predict.
        inputs: the names of columns that are known before each step.
        time: the name of a column of numbers or dates.
        date_format: as in :func:`select_columns`, but inferred from the rows of all series.
        to_fit: as in :func:`select_columns`.
        calendar: likewise.
        fill_inputs: likewise.

    Returns:
        For each series what :func:`select_columns` returns, by its name (see :func:`series_ids`)
        and in the order of the table. Series of the same times share them, and all arrays are parts
        of one.

    Raises:
        ValueError: a column that does not exist, a row without a series, names that are numbers
            with decimals, or a series that :func:`select_columns` refuses. The message then names
            the series, and data rows are counted within it.

    Warns:
        RuntimeWarning: as :func:`select_columns`.

    Examples:
        >>> import pandas as pd
        >>> from ssmlin.data import select_panel
        >>> frame = pd.DataFrame({"shop": ["a", "b", "a", "b", "b"], "y": [1, 5, 2, 4, 3]})
        >>> {name: len(one.values) for name, one in select_panel(frame, "shop", ["y"]).items()}
        {'a': 2, 'b': 3}
    """
    frame, key = frame.rename(columns=str), str(series)
    names, input_names = tuple(map(str, targets)), tuple(map(str, inputs))
    clock = None if time is None else str(time)
    if list(frame.columns).count(key) != 1 or key in (*names, *input_names, clock):
        raise ValueError(
            f"series: expected a column of its own among {known_names(list(frame.columns))}; got "
            f"{key!r}"
        )
    check_calendar(calendar, clock)
    if clock is not None and date_format is None:
        # Of all series together, since the dates of one alone may be read in two ways.
        check_names([clock], list(frame.columns))
        date_format = common_date_format(frame[clock])
    codes, called = series_of_rows(frame[key])
    counts = np.bincount(codes, minlength=len(called))
    whole = _whole(frame, names, input_names, clock, date_format, codes, counts, to_fit=to_fit)
    rows, split = np.argsort(codes, kind="stable"), len(names)
    panel: dict[str, Columns] = {}
    known: dict[bytes, Steps] = {}
    end = 0
    for number, (name, count) in enumerate(zip(called, counts.tolist(), strict=True)):
        part = slice(end, end + count)
        end += count
        try:
            if whole is not None and not whole.is_doubtful[number]:
                steps = whole.steps(part, clock, calendar, known)
                if steps.places is None or not input_names:
                    table = steps.arrange(whole.table[part])
                    panel[name] = Columns(
                        table[:, :split], table[:, split:], steps.times, names, input_names,
                        None if clock is None else date_format,
                    )  # fmt: skip
                    continue
            panel[name] = select_columns(
                frame.iloc[rows[part]], names, input_names, clock, date_format, to_fit=to_fit,
                calendar=calendar, fill_inputs=fill_inputs,
            )  # fmt: skip
        except ValueError as error:
            raise ValueError(f"series {name!r}: {error}") from error
    return panel


class _Whole(NamedTuple):
    """The columns of all series, one series after another, in the order of their times.

    Attributes:
        table: targets and inputs.
        times: of the rows; None where the rows are the steps.
        ticks: the times as numbers.
        is_doubtful: which series may be refused.
    """

    table: Float[np.ndarray, "N m"]
    times: Times | None
    ticks: np.ndarray
    is_doubtful: Bool[np.ndarray, " n"]

    def steps(
        self, part: slice, clock: str | None, calendar: Calendar | None, known: dict[bytes, Steps]
    ) -> Steps:
        """The steps of a series, those of series with the same times once.

        Args:
            part: its rows.
            clock: the name of the column of times.
            calendar: what is said of them.
            known: the steps of times that came before, which are added to.
        """
        key = self.ticks[part].tobytes()
        if key not in known:
            known[key] = (
                Steps(self.ticks[part], None, None)
                if self.times is None or clock is None
                else regular_steps(self.times[part], clock, calendar)
            )
        return known[key]


def _whole(
    frame: "pandas.DataFrame",
    targets: tuple[str, ...],
    inputs: tuple[str, ...],
    clock: str | None,
    date_format: str | None,
    codes: Int[np.ndarray, " N"],
    counts: Int[np.ndarray, " n"],
    *,
    to_fit: bool,
) -> _Whole | None:
    """All columns; None where some row of some column is no good.

    Args:
        frame: the table.
        targets: names.
        inputs: names.
        clock: the name of the column of times.
        date_format: of these.
        codes: which series each row is of.
        counts: rows of each series.
        to_fit: as in :func:`select_columns`.
    """
    chosen = [*targets, *inputs, *([] if clock is None else [clock])]
    if not targets or len(set(chosen)) < len(chosen):
        return None
    try:
        check_names(chosen, list(frame.columns))
        columns = [numbers(frame[name]) for name in (*targets, *inputs)]
        times = None if clock is None else parse_distinct(frame[clock], date_format)
    except ValueError:
        return None
    starts, is_doubtful = np.cumsum(counts) - counts, counts < (2 if to_fit else 1)
    rows = np.argsort(codes, kind="stable")
    if times is None:
        ticks = np.arange(len(rows)) - np.repeat(starts, counts)
    else:
        ticks = times.asi8 if is_dates(times) else np.asarray(times)
        ticks, by_series = ticks[rows], codes[rows]
        follows, step = by_series[1:] == by_series[:-1], np.diff(ticks)
        if (follows & (step < 0)).any():
            warnings.warn(f"time: rows were brought in the order of {clock!r}", RuntimeWarning, 3)
            order = np.lexsort((ticks, by_series))
            rows, ticks = rows[order], ticks[order]
            step = np.diff(ticks)
        is_doubtful[by_series[1:][follows & (step == 0)]] = True
        times = times[rows]
    table = np.empty((len(rows), len(columns)))
    for place, column in enumerate(columns):
        table[:, place] = column[rows]
    missing = np.isnan(table[:, len(targets) :])
    if missing.any():
        is_doubtful |= np.logical_or.reduceat(missing.any(axis=1), starts)
    low, high = (reduce.reduceat(table[:, : len(targets)], starts) for reduce in (np.fmin, np.fmax))
    # Not a number where nothing was observed.
    is_doubtful |= ~((high > low) if to_fit else (high >= low)).all(axis=1)
    return _Whole(table, times, ticks, is_doubtful)


def _distinct(
    column: "pandas.Series",
) -> tuple[Int[np.ndarray, " N"], "pandas.Series"] | None:
    """Which distinct value each row has, and these in the order of the rows.

    None where a value is missing or values of several types may be equal, such as 1 and True.
    """
    require("pandas")
    import pandas as pd

    if column.dtype == object and pd.api.types.infer_dtype(column, skipna=False) not in (
        "string", "date", "datetime",
    ):  # fmt: skip
        return None
    codes, values = pd.factorize(column)
    if (codes < 0).any():
        return None
    return codes, pd.Series(values, name=column.name)


def common_date_format(column: "pandas.Series") -> str | None:
    """As :func:`find_date_format`, by the distinct times where they decide it."""
    found = None if getattr(column.dtype, "kind", "O") in "fM" else _distinct(column)
    if found is not None:
        try:
            date_format = find_date_format(found[1])
        except ValueError:
            date_format = NUMBER
        # Whether a few words among numbers are a mistake depends on how many rows have them.
        if date_format != NUMBER:
            return date_format
    return find_date_format(column)


def parse_distinct(column: "pandas.Series", date_format: str | None) -> Times:
    """As :func:`parse_times`, each distinct time once."""
    found = None if getattr(column.dtype, "kind", "O") in "iufM" and (
        date_format in (None, NUMBER)) else _distinct(column)  # fmt: skip
    if found is None:
        return parse_times(column, date_format)
    codes, values = found
    return parse_times(values, date_format)[codes]


def series_of_rows(
    column: "pandas.Series", first: int = 0
) -> tuple[Int[np.ndarray, " N"], list[str]]:
    """Which series each row is of, and the names of the series in the order of the rows.

    Args:
        column: of names.
        first: the number of rows before it, for messages.
    """
    require("pandas")
    import pandas as pd

    found = None if getattr(column.dtype, "kind", "O") == "f" else _distinct(column)
    if found is not None:
        codes, values = found
        with contextlib.suppress(ValueError):  # which is told with the row of the table
            names = _names(values)
            if len(set(names)) == len(names):
                return codes, names
    codes, called = pd.factorize(np.array(_names(column, first), dtype=object))
    return codes, list(called)


def series_ids(column: "pandas.Series") -> list[str]:
    """The name of the series that each row belongs to.

    Args:
        column: of text, whole numbers, booleans or dates.

    Returns:
        A text for each row: the text as it is written, or the whole number.

    Raises:
        ValueError: a missing name, or a number with decimals, which may have been written in
            several ways.

    Examples:
        >>> import pandas as pd
        >>> from ssmlin.data import series_ids
        >>> series_ids(pd.Series(["007", "7", 7]))
        ['007', '7', '7']
    """
    codes, names = series_of_rows(column)
    return [names[code] for code in codes]


def _names(column: "pandas.Series", first: int = 0) -> list[str]:
    """Names as texts, of every row."""
    names = column.tolist()
    missing = column.isna().to_numpy(bool) | np.array([name == "" for name in names], bool)
    if missing.any():
        raise ValueError(f"series: expected a name in every row of {column.name!r}, got none in "
                         f"data row {first + int(missing.argmax()) + 1}")  # fmt: skip
    for row, name in enumerate(names):
        if isinstance(name, float | np.floating):
            raise ValueError(
                f"series: expected text or whole numbers in column {column.name!r}, got {name!r} "
                f"in data row {first + row + 1}, of which nobody knows how it was written; of a "
                f"text file read_table(..., text=[{column.name!r}]) keeps that"
            )
    return [str(name) for name in names]
