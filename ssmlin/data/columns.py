"""Choosing columns of a table and checking what is in them."""

import difflib
from collections.abc import Sequence
from decimal import Decimal
from numbers import Real
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float

from ssmlin.data.texts import PLAIN, Marks, is_like_a_number, to_numbers
from ssmlin.data.times import find_date_format, parse_times, regular

if TYPE_CHECKING:
    import pandas


class Columns(NamedTuple):
    """What :func:`select_columns` returns; times are equally spaced.

    Attributes:
        values: the targets, (T, m); NaN means missing.
        inputs: (T, k); k may be 0.
        times: labels of the steps: numbers, or dates as a pandas DatetimeIndex.
        targets: names of the m columns.
        input_names: names of the k columns.
        date_format: how the times are written, by :func:`find_date_format`; None for dates that are
            not text, or without a time column.
    """

    values: Float[np.ndarray, "T m"]
    inputs: Float[np.ndarray, "T k"]
    times: Any
    targets: tuple[str, ...]
    input_names: tuple[str, ...]
    date_format: str | None = None


def select_columns(
    frame: "pandas.DataFrame",
    targets: Sequence[str],
    inputs: Sequence[str] = (),
    time: str | None = None,
    date_format: str | None = None,
    *,
    to_fit: bool = True,
) -> Columns:
    """Take targets, inputs and times from a table, and check them.

    Numbers written as text are read, booleans are 0 and 1, empty cells are missing. With a time
    column rows are brought in order, and steps that are missing from a regular grid become missing
    values; both are told by warnings. Of dates with a time zone and one time of day, such as
    midnights, the steps are days there, also when the clocks change; of others what has passed.

    Args:
        frame: the table; columns that are named by numbers have these as text.
        targets: names of the columns to predict.
        inputs: names of columns that are known before each step.
        time: name of a column of numbers or dates; without it the rows are the steps.
        date_format: how dates are written as text: a format of strptime (with %q for a quarter),
            "ISO8601", or "number"; default found in all rows.
        to_fit: whether a model is to be fitted to them; one that is fitted already goes on from a
            single row or from values that do not vary.

    Returns:
        Arrays.

    Raises:
        ValueError: a column that is not there, is named twice, is not of numbers, holds infinite
            values, is empty, or is an input with missing values; to fit, a column that does not
            vary or fewer than two rows; times that cannot be read in one way, occur twice, are
            irregular, or leave more than three steps out for each row. Messages name column and
            data row, counted from 1.

    Warns:
        RuntimeWarning: rows were brought in order, or steps are missing.

    Example:
        >>> import pandas as pd
        >>> from ssmlin.data import select_columns
        >>> frame = pd.DataFrame({"day": ["2024-01-01", "2024-01-02"], "y": ["1.5", "2"]})
        >>> select_columns(frame, ["y"], time="day").values.tolist()
        [[1.5], [2.0]]
    """
    targets, inputs = tuple(map(str, targets)), tuple(map(str, inputs))
    time = None if time is None else str(time)
    frame = frame.rename(columns=str)
    if not targets:
        raise ValueError("targets: expected at least one column, got none")
    chosen = [*targets, *inputs, *([] if time is None else [time])]
    check_names(chosen, list(frame.columns))
    for name in chosen:
        if chosen.count(name) > 1:
            raise ValueError(f"columns: expected each column once, got {name!r} twice")
    least = 2 if to_fit else 1
    if len(frame) < least:
        raise ValueError(f"rows: expected at least {least}, got {len(frame)}")
    values = np.column_stack([numbers(frame[name]) for name in targets])
    outside = [numbers(frame[name]) for name in inputs]
    for name, column in zip(inputs, outside, strict=True):
        if np.isnan(column).any():
            raise ValueError(
                f"inputs: expected no missing values in column {name!r}, got one in data row "
                f"{int(np.isnan(column).argmax()) + 1}"
            )
    for name, column in zip(targets, values.T, strict=True):
        seen = column[~np.isnan(column)]
        if len(seen) == 0:
            raise ValueError(f"targets: expected values in column {name!r}, got none")
        if to_fit and np.ptp(seen) == 0:
            raise ValueError(f"targets: expected varying values in column {name!r}, got a constant")
    table = np.column_stack([values, *outside])
    times: Any = np.arange(len(table))
    if time is not None:
        date_format = date_format or find_date_format(frame[time])
        times, table = regular(parse_times(frame[time], date_format), table, time)
        if inputs and np.isnan(table[:, len(targets) :]).any():
            step = int(np.isnan(table[:, len(targets) :]).any(axis=1).argmax())
            raise ValueError(
                f"time: expected a row at {times[step]} in column {time!r}, since inputs must be "
                "known at all steps; got none"
            )
    return Columns(
        table[:, : len(targets)],
        table[:, len(targets) :],
        times,
        targets,
        inputs,
        None if time is None else date_format,
    )


def select_panel(
    frame: "pandas.DataFrame",
    series: str,
    targets: Sequence[str],
    inputs: Sequence[str] = (),
    time: str | None = None,
    date_format: str | None = None,
    *,
    to_fit: bool = True,
) -> dict[str, Columns]:
    """Take several series, which may differ in length, from one table.

    Args:
        frame: the table, with the rows of all series.
        series: name of the column that says which series a row is of.
        targets: as in :func:`select_columns`, as are all further arguments.
        inputs: names of columns that are known before each step.
        time: name of a column of numbers or dates.
        date_format: as in :func:`select_columns`, and found in the rows of all series.
        to_fit: whether a model is to be fitted to them.

    Returns:
        For each name, by :func:`series_ids` and in the order of the table, what
        :func:`select_columns` returns.

    Raises:
        ValueError: a column that is not there, a row without a series, names that are numbers with
            decimals, or a series that
            :func:`select_columns` refuses, with its name; rows are then those of the series.

    Warns:
        RuntimeWarning: as :func:`select_columns`.

    Example:
        >>> import pandas as pd
        >>> from ssmlin.data import select_panel
        >>> frame = pd.DataFrame({"shop": ["a", "b", "a", "b", "b"], "y": [1, 5, 2, 4, 3]})
        >>> {name: len(one.values) for name, one in select_panel(frame, "shop", ["y"]).items()}
        {'a': 2, 'b': 3}
    """
    frame, series = frame.rename(columns=str), str(series)
    if list(frame.columns).count(series) != 1 or series in (*targets, *inputs, time):
        raise ValueError(f"series: expected a column of its own among {_known(frame.columns)}; got "
                         f"{series!r}")  # fmt: skip
    if time is not None and date_format is None:
        # Of all series together, since one alone may be read in two ways.
        check_names([time], list(frame.columns))
        date_format = find_date_format(frame[time])
    panel = {}
    for name, rows in frame.groupby(series_ids(frame[series]), sort=False):
        try:
            panel[str(name)] = select_columns(
                rows, targets, inputs, time, date_format, to_fit=to_fit
            )
        except ValueError as error:
            raise ValueError(f"series {name!r}: {error}") from error
    return panel


def check_names(names: Sequence[str], known: Sequence[str]) -> None:
    """Raise ValueError about a column that is not there once."""
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"columns: expected names among {_known(known)}; got {name!r}{hint}")
        if known.count(name) > 1:
            raise ValueError(f"columns: expected columns of different names, got {name!r} twice")


def _known(names: Sequence[str]) -> str:
    return ", ".join(names[:20])


def series_ids(column: "pandas.Series") -> list[str]:
    """Which series each row is of: text as it is written, or whole numbers.

    Args:
        column: of text, whole numbers, booleans or dates.

    Returns:
        A text for each row.

    Raises:
        ValueError: a missing name, or a number with decimals, of which nobody knows how it was
            written.

    Raises:
        ValueError: fewer than two times, which do not say how long a step is.

    Example:
        >>> import pandas as pd
        >>> from ssmlin.data import series_ids
        >>> series_ids(pd.Series(["007", "7", 7]))
        ['007', '7', '7']
    """
    names = column.tolist()
    missing = column.isna().to_numpy(bool) | np.array([name == "" for name in names], bool)
    if missing.any():
        raise ValueError(f"series: expected a name in every row of {column.name!r}, got none in "
                         f"data row {int(missing.argmax()) + 1}")  # fmt: skip
    for row, name in enumerate(names):
        if isinstance(name, float | np.floating):
            raise ValueError(
                f"series: expected text or whole numbers in column {column.name!r}, got {name!r} "
                f"in data row {row + 1}, of which nobody knows how it was written; of a text file "
                f"read_table(..., text=[{column.name!r}]) keeps that"
            )
    return [str(name) for name in names]


def numbers(
    column: "pandas.Series", offset: int = 0, marks: Marks = PLAIN
) -> Float[np.ndarray, " T"]:
    """A column as numbers, NaN where they are missing.

    Args:
        column: of numbers or booleans of any type, or text.
        offset: so many rows were before it, for messages.
        marks: how numbers are written in text.

    Raises:
        ValueError: what is no finite number, with its row.
    """
    import pandas as pd

    kind = getattr(column.dtype, "kind", "O")
    if kind in "mM" or isinstance(column.dtype, pd.PeriodDtype):
        got = "durations" if kind == "m" else "dates"
        raise ValueError(f"columns: expected numbers in column {column.name!r}, got {got}")
    if kind in "biuf" or (kind != "c" and pd.api.types.is_numeric_dtype(column)):
        parsed = column.to_numpy("float64", na_value=np.nan)
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
        found = column.iloc[rows].tolist()
        # Of a text file's column that holds a word all numbers are text still, as they are written.
        worst = next((i for i, value in enumerate(found) if not is_like_a_number(value)), 0)
        row, value = int(rows[worst]), found[worst]
        hint = "; --decimal and --thousands say how numbers are written"
        hint = hint if is_like_a_number(value) and ("," in value or "." in value) else ""
        raise ValueError(
            f"columns: expected finite numbers in column {column.name!r}, got {value!r} in data "
            f"row {offset + row + 1}{hint}"
        )
    return parsed
