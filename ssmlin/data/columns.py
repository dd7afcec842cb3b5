"""Choosing columns of a table and checking what is in them."""

import difflib
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float

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
    """

    values: Float[np.ndarray, "T m"]
    inputs: Float[np.ndarray, "T k"]
    times: Any
    targets: tuple[str, ...]
    input_names: tuple[str, ...]


def select_columns(
    frame: "pandas.DataFrame",
    targets: Sequence[str],
    inputs: Sequence[str] = (),
    time: str | None = None,
    *,
    to_fit: bool = True,
) -> Columns:
    """Take targets, inputs and times from a table, and check them.

    Numbers written as text are read, booleans are 0 and 1, empty cells are missing. With a time
    column rows are brought in order, and steps that are missing from a regular grid become missing
    values; both are told by warnings.

    Args:
        frame: the table.
        targets: names of the columns to predict.
        inputs: names of columns that are known before each step.
        time: name of a column of numbers or dates; without it the rows are the steps.
        to_fit: whether a model is to be fitted to them; one that is fitted already goes on from a
            single row or from values that do not vary.

    Returns:
        Arrays.

    Raises:
        ValueError: a column that is not there, is named twice, is not of numbers, holds infinite
            values, is empty, or is an input with missing values; to fit, a column that does not
            vary or fewer than two rows; times that cannot be read, occur twice or are irregular.
            Messages name column and data row, counted from 1.

    Warns:
        RuntimeWarning: rows were brought in order, or steps are missing.

    Example:
        >>> import pandas as pd
        >>> from ssmlin.data import select_columns
        >>> frame = pd.DataFrame({"day": ["2024-01-01", "2024-01-02"], "y": ["1.5", "2"]})
        >>> select_columns(frame, ["y"], time="day").values.tolist()
        [[1.5], [2.0]]
    """
    targets, inputs = tuple(targets), tuple(inputs)
    if not targets:
        raise ValueError("targets: expected at least one column, got none")
    chosen = [*targets, *inputs, *([] if time is None else [time])]
    for name in chosen:
        if name not in frame.columns:
            near = difflib.get_close_matches(name, list(frame.columns), n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            known = ", ".join(map(str, frame.columns[:20]))
            raise ValueError(f"columns: expected names among {known}; got {name!r}{hint}")
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
        times, table = _regular(parse_times(frame[time]), table, time)
        if inputs and np.isnan(table[:, len(targets) :]).any():
            step = int(np.isnan(table[:, len(targets) :]).any(axis=1).argmax())
            raise ValueError(
                f"time: expected a row at {times[step]} in column {time!r}, since inputs must be "
                "known at all steps; got none"
            )
    return Columns(table[:, : len(targets)], table[:, len(targets) :], times, targets, inputs)


def select_panel(
    frame: "pandas.DataFrame",
    series: str,
    targets: Sequence[str],
    inputs: Sequence[str] = (),
    time: str | None = None,
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
        to_fit: whether a model is to be fitted to them.

    Returns:
        For each name, in the order of the table, what :func:`select_columns` returns.

    Raises:
        ValueError: a column that is not there, a row without a series, or a series that
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
    if series not in frame.columns or series in (*targets, *inputs, time):
        known = ", ".join(map(str, frame.columns[:20]))
        raise ValueError(f"series: expected a column of its own among {known}; got {series!r}")
    if frame[series].isna().any():
        row = int(frame[series].isna().to_numpy().argmax()) + 1
        raise ValueError(f"series: expected a name in every row of {series!r}, got none in data "
                         f"row {row}")  # fmt: skip
    panel = {}
    for name, rows in frame.groupby(series, sort=False):
        try:
            panel[str(name)] = select_columns(rows, targets, inputs, time, to_fit=to_fit)
        except ValueError as error:
            raise ValueError(f"series {name!r}: {error}") from error
    return panel


def numbers(column: "pandas.Series", offset: int = 0) -> Float[np.ndarray, " T"]:
    """A column as numbers; `offset` rows were before it."""
    import pandas as pd

    if pd.api.types.is_datetime64_any_dtype(column):
        raise ValueError(f"columns: expected numbers in column {column.name!r}, got dates")
    parsed = pd.to_numeric(column.replace("", None), errors="coerce").astype("float64").to_numpy()
    bad = (np.isnan(parsed) & column.notna().to_numpy() & (column != "").to_numpy(bool)) | np.isinf(
        parsed
    )
    if bad.any():
        row = int(bad.argmax())
        raise ValueError(
            f"columns: expected finite numbers in column {column.name!r}, got "
            f"{column.iloc[[row]].tolist()[0]!r} in data row {offset + row + 1}"
        )
    return parsed


def parse_times(column: "pandas.Series") -> Any:
    """A column as numbers or dates."""
    import pandas as pd

    if column.isna().any():
        row = int(column.isna().to_numpy().argmax()) + 1
        raise ValueError(f"time: expected no missing times in {column.name!r}, got one in data row "
                         f"{row}")  # fmt: skip
    if pd.api.types.is_numeric_dtype(column):
        return column.to_numpy(np.float64)
    try:
        parsed = pd.to_datetime(column, errors="coerce", format="ISO8601")
        if parsed.isna().any():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about guessing; what is not read is an error
                parsed = pd.to_datetime(column, errors="coerce")
    except (ValueError, TypeError) as error:  # mixed time zones
        raise ValueError(
            f"time: expected dates of one time zone in {column.name!r}, got: {error}"
        ) from error
    if parsed.isna().any():
        row = int(parsed.isna().to_numpy().argmax())
        raise ValueError(
            f"time: expected numbers or dates in column {column.name!r}, got "
            f"{column.iloc[row]!r} in data row {row + 1}"
        )
    return pd.DatetimeIndex(parsed)


def _regular(times: Any, table: np.ndarray, name: str) -> tuple[Any, np.ndarray]:
    """In order, and on a regular grid, missing where there was no row."""
    order = np.argsort(np.asarray(times), kind="stable")
    if (np.diff(order) < 0).any():
        warnings.warn(f"time: rows were brought in the order of {name!r}", RuntimeWarning, 3)
        times, table = times[order], table[order]
    twice = np.flatnonzero(np.asarray(times)[1:] == np.asarray(times)[:-1])
    if len(twice):
        rows = sorted(int(order[i]) + 1 for i in (twice[0], twice[0] + 1))
        raise ValueError(
            f"time: expected each time once in column {name!r}, got {times[twice[0]]} in data rows "
            f"{rows[0]} and {rows[1]}"
        )
    if len(times) == 1:
        return times, table
    position = _positions(times, name)
    if position[-1] + 1 == len(position):
        return times, table
    missing = position[-1] + 1 - len(position)
    warnings.warn(
        f"time: {missing} steps are missing in column {name!r}; they are missing values now",
        RuntimeWarning,
        3,
    )
    whole = np.full((position[-1] + 1, table.shape[1]), np.nan)
    whole[position] = table
    return _continue(times, position, position[-1] + 1), whole


def _months(times: Any) -> np.ndarray | None:
    """Numbers of months, if all dates have the same place in their month."""
    if not hasattr(times, "month"):
        return None
    at_end = bool(np.asarray(times.is_month_end).all())
    clock = np.asarray(times - times.normalize())
    months = np.asarray(times.year * 12 + times.month)
    same = (len(set(times.day)) == 1 or at_end) and (clock == clock[0]).all()
    return months if same and (np.diff(months) > 0).all() else None


def _positions(times: Any, name: str) -> np.ndarray:
    """Each time's place on a grid whose step is the greatest common one, at most the smallest."""
    months = _months(times)
    ticks = np.asarray(times) if months is None else months
    steps = np.diff(ticks)
    smallest = steps.min()
    ratio = steps / smallest
    if np.abs(ratio - np.round(ratio)).max() > 1e-3 or ratio.sum() > 100 * len(ratio) + 100:
        worst = int(np.abs(ratio - np.round(ratio)).argmax())
        raise ValueError(
            f"time: expected regular steps in column {name!r}, got {times[worst]} followed by "
            f"{times[worst + 1]} where the smallest step is {smallest}; without a time column the "
            "rows are the steps"
        )
    return np.concatenate([[0], np.cumsum(np.round(ratio)).astype(int)])


def _continue(times: Any, position: np.ndarray, count: int) -> Any:
    """The first `count` times of the grid."""
    import pandas as pd

    months = _months(times)
    grid = np.arange(count)
    if months is not None:
        step = int(np.diff(months).min())
        start = pd.Timestamp(times[0])
        at_end = bool(np.asarray(times.is_month_end).all()) and len(set(times.day)) > 1
        offset = pd.offsets.MonthEnd if at_end else pd.DateOffset
        dates = [
            start + (offset(step * int(i)) if at_end else offset(months=step * int(i)))
            for i in grid
        ]
        return pd.DatetimeIndex(dates)
    place = int(np.diff(np.asarray(times)).argmin())
    return times[0] + grid * (times[place + 1] - times[place])


def future_times(times: Any, horizon: int) -> Any:
    """The times of the next steps of a regular grid, as :class:`Columns` has.

    Raises:
        ValueError: fewer than two times, which do not say how long a step is.

    Example:
        >>> import numpy as np
        >>> from ssmlin.data import future_times
        >>> future_times(np.array([1990.0, 1991.0]), 2).tolist()
        [1992.0, 1993.0]
    """
    steps = len(times)
    if steps < 2:
        raise ValueError(f"times: expected at least 2, which say how long a step is, got {steps}")
    return _continue(times, np.arange(steps), steps + horizon)[steps:]
