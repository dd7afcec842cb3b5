"""Choosing columns of a table and checking what is in them."""

import difflib
from collections.abc import Sequence
from decimal import Decimal
from numbers import Real
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from ssmlin._optional import require
from ssmlin.data._calendar import Calendar
from ssmlin.data._grids import regular_steps
from ssmlin.data._lags import carried_forward
from ssmlin.data._texts import PLAIN, Marks, is_like_a_number, to_numbers
from ssmlin.data._times import Times, find_date_format, listed, parse_times

if TYPE_CHECKING:
    import pandas

#: What can be done about inputs that are missing.
FILL = "fill_inputs= (--fill-inputs) takes the last known ones"


class Columns(NamedTuple):
    """What :func:`select_columns` returns; times are equally spaced.

    Attributes:
        values: the targets, (T, m); NaN means missing.
        inputs: (T, k); k may be 0.
        times: the times of the steps: numbers, or dates as a pandas DatetimeIndex.
        targets: the names of the m columns.
        input_names: the names of the k columns.
        date_format: how the times are written, see :func:`find_date_format`; None for dates that
            are not text, or without a time column.
    """

    values: Float[np.ndarray, "T m"]
    inputs: Float[np.ndarray, "T k"]
    times: Times
    targets: tuple[str, ...]
    input_names: tuple[str, ...]
    date_format: str | None = None


def select_columns(
    frame: "pandas.DataFrame",
    targets: Sequence[str | int],
    inputs: Sequence[str | int] = (),
    time: str | int | None = None,
    date_format: str | None = None,
    *,
    to_fit: bool = True,
    calendar: Calendar | None = None,
    fill_inputs: bool = False,
) -> Columns:
    """Take targets, inputs and times from a table, and check them.

    Numbers written as text are read, booleans are 0 and 1, and empty cells are missing. With a
    time column the rows are sorted, and gaps in the regular grid of the times become missing
    values; a warning tells of either. If dates have a time zone and one time of day, such as
    midnight, steps are counted in local days, which may have 23 or 25 hours; with other dates they
    are counted in elapsed time. Dates on business days alone, most of which are there, with a
    weekend between them that is not, are steps of business days.

    Args:
        frame: the table. Columns whose names are numbers are known by these as text.
        targets: the names of the columns to predict.
        inputs: the names of columns that are known before each step.
        time: the name of a column of numbers or dates; without it the rows are the steps.
        date_format: how dates are written as text: a format of strptime (with %q for a quarter),
            "ISO8601", or "number". By default it is inferred from all rows.
        to_fit: whether a model is to be fitted to the data. A model that is fitted already can
            continue from a single row or from values that do not vary.
        calendar: what a step is and which days are none; by default the dates say it.
        fill_inputs: an input that is missing takes its last value before, in the order of the
            times; otherwise it is refused.

    Returns:
        The arrays, the times and the names.

    Raises:
        ValueError: a column that does not exist, is named twice, does not hold numbers, holds
            infinite values, is empty, or is an input with missing values; to fit, a column that
            does not vary or fewer than two rows; times that cannot be read in one way, occur twice,
            are irregular or not what the calendar says, or have more than three missing steps for
            each row. Messages name the column and the data row, counted from 1.

    Warns:
        RuntimeWarning: the rows were not sorted, or steps are missing.

    Examples:
        >>> import pandas as pd
        >>> from ssmlin.data import select_columns
        >>> frame = pd.DataFrame({"day": ["2024-01-01", "2024-01-02"], "y": ["1.5", "2"]})
        >>> select_columns(frame, ["y"], time="day").values.tolist()
        [[1.5], [2.0]]
    """
    names, input_names = tuple(map(str, targets)), tuple(map(str, inputs))
    clock = None if time is None else str(time)
    frame = frame.rename(columns=str)
    if not names:
        raise ValueError("targets: expected at least one column, got none")
    check_calendar(calendar, clock)
    chosen = [*names, *input_names, *([] if clock is None else [clock])]
    check_names(chosen, list(frame.columns))
    for name in chosen:
        if chosen.count(name) > 1:
            raise ValueError(f"columns: expected each column once, got {name!r} twice")
    least = 2 if to_fit else 1
    if len(frame) < least:
        raise ValueError(f"rows: expected at least {least}, got {len(frame)}")
    values = np.column_stack([numbers(frame[name]) for name in names])
    outside = [numbers(frame[name]) for name in input_names]
    for name, column in zip(input_names, outside, strict=True):
        if np.isnan(column).any() and not fill_inputs:
            raise ValueError(
                f"inputs: expected no missing values in column {name!r}, got "
                f"{missing_rows(np.flatnonzero(np.isnan(column)))}; {FILL}"
            )
    for name, column in zip(names, values.T, strict=True):
        seen = column[~np.isnan(column)]
        if len(seen) == 0:
            raise ValueError(f"targets: expected values in column {name!r}, got none")
        if to_fit and np.ptp(seen) == 0:
            raise ValueError(f"targets: expected varying values in column {name!r}, got a constant")
    table = np.column_stack([values, *outside])
    times: Times = np.arange(len(table))
    if clock is not None:
        date_format = date_format or find_date_format(frame[clock])
        steps = regular_steps(parse_times(frame[clock], date_format), clock, calendar)
        times, table = steps.times, steps.arrange(table)
    known = table[:, len(names) :]
    if fill_inputs:
        known = carried_forward(known)
    unknown = np.isnan(known).any(axis=1)
    if unknown.any():
        first = input_names[int(np.isnan(known[unknown][0]).argmax())]
        raise ValueError(
            f"inputs: expected a first value of {first!r} to go on from, got none at "
            f"{listed(times[unknown])}"
            if fill_inputs
            else f"time: expected a row at {listed(times[unknown])} in column {clock!r}, since "
            f"inputs must be known at all steps; got none; {FILL}"
        )
    return Columns(
        table[:, : len(names)],
        known,
        times,
        names,
        input_names,
        None if clock is None else date_format,
    )


def check_calendar(calendar: Calendar | None, time: str | None) -> None:
    """Raise ValueError if something is said of the steps, but there is no column of times."""
    if calendar is not None and calendar.freq is not None and time is None:
        raise ValueError("freq: expected a column of times (--time) with it, got none")


def missing_rows(places: Int[np.ndarray, " n"]) -> str:
    """The first rows of data, and their number."""
    rows = [str(place + 1) for place in places[:5]]
    if len(places) == 1:
        return f"one in data row {rows[0]}"
    more = ", ..." if len(places) > len(rows) else ""
    return f"{len(places)} in data rows {', '.join(rows)}{more}"


def check_names(names: Sequence[str], known: Sequence[str]) -> None:
    """Raise ValueError if a column does not exist, or more than one has its name."""
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(
                f"columns: expected names among {known_names(known)}; got {name!r}{hint}"
            )
        if known.count(name) > 1:
            raise ValueError(f"columns: expected columns of different names, got {name!r} twice")


def known_names(names: Sequence[str]) -> str:
    """The first names, for a message."""
    return ", ".join(names[:20])


def numbers(
    column: "pandas.Series", offset: int = 0, marks: Marks = PLAIN
) -> Float[np.ndarray, " T"]:
    """Read a column as numbers, NaN where they are missing.

    Args:
        column: of numbers or booleans of any type, or text.
        offset: the number of rows before the column, for messages.
        marks: how numbers are written in text.

    Raises:
        ValueError: a value that is not a finite number; the message names its row.
    """
    require("pandas")
    import pandas as pd

    kind = getattr(column.dtype, "kind", "O")
    if kind in "mM" or isinstance(column.dtype, pd.PeriodDtype):
        got = "durations" if kind == "m" else "dates"
        raise ValueError(f"columns: expected numbers in column {column.name!r}, got {got}")
    if kind in "biuf" or (kind != "c" and pd.api.types.is_numeric_dtype(column)):
        parsed: Float[np.ndarray, " T"] = column.to_numpy("float64", na_value=np.nan)
        bad = np.isinf(parsed)
    else:
        values, missing = column.tolist(), column.isna().to_numpy(bool)
        is_text = np.array([isinstance(value, str) for value in values], bool)
        parsed, bad = np.full(len(values), np.nan), ~missing
        texts = [value for value in values if isinstance(value, str)]
        parsed[is_text], bad[is_text] = to_numbers(texts, marks)
        for place in np.flatnonzero(~is_text & ~missing):
            if isinstance(values[place], Real | Decimal | np.bool_):
                parsed[place], bad[place] = float(values[place]), False
        bad |= np.isinf(parsed)
    if bad.any():
        rows = np.flatnonzero(bad)
        refused = column.iloc[rows].tolist()
        # In a column that holds a word, the numbers of a text file are texts, too.
        worst = next((i for i, value in enumerate(refused) if not is_like_a_number(value)), 0)
        row, value = int(rows[worst]), refused[worst]
        hint = "; --decimal and --thousands say how numbers are written"
        hint = hint if is_like_a_number(value) and ("," in value or "." in value) else ""
        raise ValueError(
            f"columns: expected finite numbers in column {column.name!r}, got {value!r} in data "
            f"row {offset + row + 1}{hint}"
        )
    return parsed
