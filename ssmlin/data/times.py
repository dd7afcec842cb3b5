"""Times of steps: how they are written, and the regular grid they are on."""

import datetime
import re
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float, Int

from ssmlin.data.texts import MISSING, to_numbers

if TYPE_CHECKING:
    import pandas

#: Labels of steps: numbers, or dates as a pandas DatetimeIndex.
Times = Any
#: Date formats that are not strptime's.
NUMBER, ISO = "number", "ISO8601"
_YEARS = (1800, 2100)  # what a date that is written as a number may lie in
_FIRST_DOUBTFUL_YEAR, _LAST_DOUBTFUL_YEAR = 2050, 2068  # of two digits, 60 may be 1960
_MOST_GAPS = 3  # a row, on the grid
_CLOSE = 1e-3  # steps are equal to this share

# Integers of so many digits that are dates in every row are dates.
_DIGITS = {6: "%Y%m", 8: "%Y%m%d", 10: "%Y%m%d%H", 12: "%Y%m%d%H%M", 14: "%Y%m%d%H%M%S"}
# If these read every row, nobody can tell.
_DOUBTFUL_DIGITS = {5: ("%Y%q",), 6: ("%y%m%d",), 7: ("%Y%j",), 8: ("%d%m%Y", "%m%d%Y")}
_SEPARATED = ("%d{0}%m{0}%Y", "%m{0}%d{0}%Y", "%d{0}%m{0}%y", "%m{0}%d{0}%y", "%Y{0}%m{0}%d",
              "%m{0}%Y", "%Y{0}%m", "%d{0}%b{0}%Y", "%d{0}%b{0}%y", "%b{0}%d{0}%Y", "%Y{0}%b{0}%d",
              "%b{0}%Y", "%b{0}%y", "%Y{0}%b", "Q%q{0}%Y", "%Y{0}Q%q")  # fmt: skip
_WRITTEN = ("%d%b%Y", "%d%b%y", "%b%Y", "%b%y", "%b %d, %Y", "%d. %b %Y", "%a, %d %b %Y", "%YQ%q",
            "Q%q%Y", "%y-%m-%d")  # fmt: skip
_CLOCK_WORDS = {"now", "today"}  # pandas reads them, whatever the format
_CLOCKS = ("%H:%M", "%H:%M:%S", "%H:%M:%S.%f", "%I:%M %p", "%I:%M:%S %p", "%H:%M%z", "%H:%M:%S%z")


def _formats(first: str) -> list[str]:
    """Date formats that can read a text."""
    whole = re.fullmatch(r"(.+?)([ T])(\d{1,2}:.+)", first)
    date, gap, clock = (first, "", "") if whole is None else whole.groups()
    formats = [one.format(mark) for one in _SEPARATED for mark in "-/. " if mark in date]
    formats += _WRITTEN
    if re.search("[a-zA-Z]", date):
        formats += [one.replace("%b", "%B") for one in formats if "%b" in one]
    else:
        formats = [one for one in formats if "%b" not in one and "Q" not in one]
    dates = [one for one in formats if _reads(date, one)]
    clocks = [one for one in _CLOCKS if _reads(clock, one)] if clock else [""]
    return [f"{one}{gap}{hour}" for one in dates for hour in clocks]


def _reads(text: str, date_format: str) -> bool:
    (text,), date_format = _without_quarters([text], date_format)
    try:
        datetime.datetime.strptime(text, date_format)
    except ValueError:
        return False
    return True


def _without_quarters(texts: Sequence[str], date_format: str) -> tuple[Sequence[str], str]:
    """Quarters (%q), which strptime does not know, as their first months."""
    if "%q" not in date_format:
        return texts, date_format
    pieces = [piece for piece in re.split("(%.)", date_format) if piece]
    shapes = {piece: ".+?" if piece.startswith("%") else re.escape(piece) for piece in pieces}
    shapes["%q"] = "[1-4]"
    shape = re.compile("".join(f"({shapes[piece]})" for piece in pieces))
    place = pieces.index("%q")
    # Marks keep the month apart from the digits of a year.
    return [_with_month(text, shape, place) for text in texts], date_format.replace("%q", "|%m|")


def _with_month(text: str, shape: re.Pattern[str], place: int) -> str:
    match = shape.fullmatch(text)
    if match is None:
        return "no quarter"
    parts = list(match.groups())
    parts[place] = f"|{3 * int(parts[place]) - 2:02d}|"
    return "".join(parts)


def _parse(texts: Sequence[str], date_format: str, offset: int = 0) -> "pandas.Series":
    """Dates, NaT where a text is not of the format; `offset` rows were before them."""
    import pandas as pd

    if not _CLOCK_WORDS.isdisjoint(texts):
        texts = ["" if text in _CLOCK_WORDS else text for text in texts]
    texts, date_format = _without_quarters(texts, date_format)
    cause: Exception | None = None
    try:
        dates = pd.to_datetime(pd.Series(texts, dtype=object), errors="coerce", format=date_format)
        if dates.dtype != object:  # which pandas 2 gives for mixed zones
            return dates
    except (ValueError, TypeError) as error:
        cause = error
    first, *others = (re.findall(r"Z|[+-]\d\d:?\d*$", text)[-1:] for text in texts)
    if others.count(first) < len(others):
        row = next(row for row, zone in enumerate(others, 1) if zone != first)
        raise ValueError(
            f"expected dates of one time zone, got {texts[0]!r} in data row {offset + 1} and "
            f"{texts[row]!r} in data row {offset + row + 1}; write all of them in UTC"
        ) from cause
    raise ValueError(
        f"date_format: expected a format of strptime, got {date_format!r}: {cause}"
    ) from cause


def _within_years(dates: "pandas.Series") -> Bool[np.ndarray, " T"]:
    return dates.dt.year.between(*_YEARS).to_numpy(bool)


def _typed_dates(column: "pandas.Series") -> "pandas.DatetimeIndex | None":
    """Times that are dates already, not text."""
    import pandas as pd

    kind = getattr(column.dtype, "kind", "O")
    if isinstance(column.dtype, pd.PeriodDtype):
        return pd.DatetimeIndex(column.dt.to_timestamp())
    if kind == "m":
        raise ValueError(f"time: expected numbers or dates in column {column.name!r}, got "
                         "durations")  # fmt: skip
    if kind == "M":
        return pd.DatetimeIndex(pd.to_datetime(column))
    if kind != "O" or pd.api.types.infer_dtype(column) == "string":
        return None
    is_date = np.array([isinstance(x, datetime.date | np.datetime64) for x in column])
    is_period = np.array([isinstance(x, pd.Period) for x in column])
    if is_period.all():
        return pd.PeriodIndex(column).to_timestamp()
    if not is_date.any():
        return None
    if not is_date.all():
        row = int((~is_date).argmax())
        raise ValueError(f"time: expected dates in all rows of column {column.name!r}, got "
                         f"{column.iloc[row]!r} in data row {row + 1}")  # fmt: skip
    try:
        return pd.DatetimeIndex(pd.to_datetime(column))
    except (ValueError, TypeError) as error:
        raise ValueError(f"time: expected dates of one time zone in {column.name!r}, got: "
                         f"{error}") from error  # fmt: skip


def _texts(column: "pandas.Series") -> list[str]:
    """Times as text; whole numbers without a point."""
    import pandas as pd

    values = column.tolist()
    if pd.api.types.infer_dtype(column) == "string":
        return [value.strip() for value in values]

    def text(x: Any) -> str:
        is_whole = isinstance(x, float | np.floating) and float(x).is_integer()
        return str(int(x)) if is_whole else str(x).strip()

    return [text(value) for value in values]


def find_date_format(column: "pandas.Series") -> str | None:
    """How the times of a column are written; one format must read all rows.

    ISO 8601 comes first. Otherwise, among the usual formats, those that read every row must agree.
    Integers that are months (202001), days (20200120) or later hours, minutes and seconds in every
    row, of 1800 to 2100, are dates; others, such as years, are numbers.

    Returns:
        A format of strptime (with %q for a quarter), "ISO8601" or "number"; None for dates that are
        not text.

    Raises:
        ValueError: times that can be read in two ways, or in none.

    Example:
        >>> import pandas as pd
        >>> from ssmlin.data.times import find_date_format
        >>> find_date_format(pd.Series(["30/01/2020", "31/01/2020"]))
        '%d/%m/%Y'
    """
    _require_times(column)
    if _typed_dates(column) is not None:
        return None
    import pandas as pd

    if pd.api.types.is_bool_dtype(column):
        raise ValueError(f"time: expected numbers or dates in column {column.name!r}, got booleans")
    if pd.api.types.is_numeric_dtype(column):
        values = column.to_numpy("float64")
        if (values != np.round(values)).any():
            _refuse_months_as_numbers(values, column)
            return NUMBER
        lengths = {len(str(int(abs(x)))) for x in (values.min(), values.max()) if np.isfinite(x)}
        if values.min() < 0 or len(lengths) != 1 or max(lengths) not in range(5, 15):
            return NUMBER
        return _find_for_digits(_texts(column), column.name)
    texts = _texts(column)
    if "".join(texts).isascii() and all(map(str.isdigit, texts)):
        return _find_for_digits(texts, column.name)
    dates = _parse_in(column, texts, ISO)
    if dates.notna().all():
        return ISO
    read = {one: _parse_in(column, texts, one) for one in _formats(texts[0])}
    whole = {one: x for one, x in read.items() if x.notna().all()}
    if not whole:
        if not to_numbers(texts)[1].any():
            return NUMBER
        bad = max((int(x.isna().to_numpy().argmax()) for x in [dates, *read.values()]), default=0)
        raise ValueError(
            f"time: expected numbers or dates of one format in column {column.name!r}, got "
            f"{texts[bad]!r} in data row {bad + 1}; date_format= (--date-format) says another one"
        )
    (one, first), *others = whole.items()
    for other, dates in others:
        differs = (dates != first).to_numpy(bool)
        if differs.any():
            row = int(differs.argmax())
            raise ValueError(
                f"time: expected dates that can be read in one way in column {column.name!r}, got "
                f"{texts[row]!r} in data row {row + 1}, which is {first[row].date()} by {one!r} "
                f"and {dates[row].date()} by {other!r}; say date_format= (--date-format)"
            )
    return one


def _require_times(column: "pandas.Series") -> None:
    missing = column.isna().to_numpy(bool)
    if getattr(column.dtype, "kind", "O") == "O":
        missing = missing | column.isin(MISSING).to_numpy(bool)
    if missing.any():
        raise ValueError(f"time: expected no missing times in {column.name!r}, got one in data row "
                         f"{int(missing.argmax()) + 1}")  # fmt: skip


def _parse_in(
    column: "pandas.Series", texts: Sequence[str], date_format: str, offset: int = 0
) -> "pandas.Series":
    try:
        return _parse(texts, date_format, offset)
    except ValueError as error:
        if str(error).startswith("date_format"):
            raise
        raise ValueError(f"time: column {column.name!r}: {error}") from error


def _find_for_digits(texts: Sequence[str], name: Any) -> str:
    """The format of times of digits alone."""
    lengths = set(map(len, texts))
    if len(lengths) != 1:
        return NUMBER
    (length,) = lengths
    date_format = _DIGITS.get(length)
    if date_format is not None:
        is_date = _within_years(_parse(texts, date_format))
        if is_date.all():
            return date_format
        if 2 * is_date.sum() > len(texts):
            row = int((~is_date).argmax())
            raise ValueError(
                f"time: expected dates of the format {date_format!r} in column {name!r}, as most "
                f"rows are, got {texts[row]!r} in data row {row + 1}; date_format={NUMBER!r} "
                "(--date-format) says that all are numbers"
            )
    for doubtful in _DOUBTFUL_DIGITS.get(length, ()):
        dates = _parse(texts, doubtful)
        if _within_years(dates).all():
            raise ValueError(
                f"time: expected times that can be read in one way in column {name!r}, got "
                f"{texts[0]!r} in data row 1, which is a number or {dates[0].date()} by "
                f"{doubtful!r}; say date_format={NUMBER!r} or {doubtful!r} (--date-format)"
            )
    return NUMBER


def _refuse_months_as_numbers(values: Float[np.ndarray, " T"], column: "pandas.Series") -> None:
    """Raise ValueError for 2020.01 ... 2020.12, where 2020.1 may be October."""
    hundreds = values * 100
    months = np.round(hundreds)
    year, month = np.divmod(months, 100)
    is_month = (month >= 1) & (month <= 12) & (year >= _YEARS[0]) & (year <= _YEARS[1])
    if (np.abs(hundreds - months) < 1e-6).all() and is_month.all() and (month % 10 != 0).any():
        raise ValueError(
            f"time: expected times that can be read in one way in column {column.name!r}, got "
            f"{values[0]} in data row 1, which is a number or a month; write dates as text, or say "
            f"date_format={NUMBER!r} (--date-format)"
        )


def parse_times(column: "pandas.Series", date_format: str | None = None, offset: int = 0) -> Any:
    """A column as numbers or dates.

    Args:
        column: numbers, dates or text.
        date_format: a format of strptime (with %q for a quarter), "ISO8601" or "number"; default as
            :func:`find_date_format` finds. Dates that are not text need none.
        offset: so many rows were before it, for messages.

    Returns:
        An array of numbers, or a DatetimeIndex.

    Raises:
        ValueError: times that are missing or cannot be read in one way.

    Example:
        >>> import pandas as pd
        >>> from ssmlin.data import parse_times
        >>> parse_times(pd.Series([202001, 202002])).month.tolist()
        [1, 2]
    """
    import pandas as pd

    _require_times(column)
    dates = _typed_dates(column)
    if dates is not None:
        return dates
    date_format = date_format or find_date_format(column)
    if date_format == NUMBER and pd.api.types.is_numeric_dtype(column):
        values = column.to_numpy("float64")
        bad = ~np.isfinite(values)
    elif date_format == NUMBER:
        values, bad = to_numbers(_texts(column))
        bad |= np.isinf(values)
    else:
        texts = _texts(column)
        if pd.api.types.is_numeric_dtype(column):  # of a month 2020.10 only 2020.1 is left
            texts = [text if text.isdigit() else "" for text in texts]
        parsed = _parse_in(column, texts, str(date_format), offset)
        bad = parsed.isna().to_numpy(bool)
        values = pd.DatetimeIndex(parsed)
    if bad.any():
        row = int(bad.argmax())
        wanted = "numbers" if date_format == NUMBER else f"dates of the format {date_format!r}"
        raise ValueError(
            f"time: expected {wanted} in column {column.name!r}, got "
            f"{column.iloc[[row]].tolist()[0]!r} in data row {offset + row + 1}; date_format= "
            "(--date-format) says another one"
        )
    if "%y" in str(date_format):
        years = np.asarray(values.year)
        doubtful = (years >= _FIRST_DOUBTFUL_YEAR) & (years <= _LAST_DOUBTFUL_YEAR)
        if doubtful.any():
            row = int(doubtful.argmax())
            raise ValueError(
                f"time: expected years of four digits in column {column.name!r}, got "
                f"{column.iloc[row]!r} in data row {offset + row + 1}, which may be "
                f"{years[row] - 100} or {years[row]}"
            )
    return values


# ------------------------------------------------------------------------------------------ grids


def in_order(times: Any) -> Int[np.ndarray, " T"]:
    """The order of numbers or dates."""
    return np.argsort(_numbers(times), kind="stable")


def _numbers(times: Any) -> np.ndarray:
    """Numbers in the order of the times."""
    return times.asi8 if hasattr(times, "asi8") else np.asarray(times)


def ticks(times: Any) -> dict[str, np.ndarray]:
    """Times counted in the ways in which steps may be equal, the likeliest first.

    Numbers count themselves. Dates count months, if all have the same place in their month; days of
    the clock on the wall, which have 23 hours when it is set forward, if they have a zone and one
    time of day; what has passed; and the clock on the wall, for two a day and the like.
    """
    if not hasattr(times, "asi8"):
        return {"numbers": np.asarray(times)}
    wall = times if times.tz is None else times.tz_localize(None)
    found = {}
    clock = (wall - wall.normalize()).asi8
    same_clock = bool((clock == clock[0]).all())
    months = np.asarray(wall.year * 12 + wall.month)
    one_place = len(set(wall.day)) == 1 or bool(np.asarray(wall.is_month_end).all())
    if one_place and same_clock and (np.diff(months) > 0).all():
        found["months"] = months
    if times.tz is not None and same_clock:
        found["wall"] = wall.asi8
    found["passed"] = times.asi8
    if times.tz is not None:
        found.setdefault("wall", wall.asi8)
    return found


def _grid(times: Any) -> tuple[str, Int[np.ndarray, " T"]] | None:
    """In which ticks the times are on a grid, and their places on it.

    The grid's step is the smallest one.
    """
    for kind, counted in ticks(times).items():
        ratio = np.diff(counted) / np.diff(counted).min()
        if np.abs(ratio - np.round(ratio)).max() <= _CLOSE:
            return kind, np.concatenate([[0], np.cumsum(np.round(ratio)).astype(int)])
    return None


def regular(times: Any, table: np.ndarray, name: str) -> tuple[Any, np.ndarray]:
    """In order, and on a regular grid, missing where there was no row.

    Raises:
        ValueError: times that occur twice or are irregular, or a grid with far more gaps than rows.
    """
    order = in_order(times)
    if (np.diff(order) < 0).any():
        warnings.warn(f"time: rows were brought in the order of {name!r}", RuntimeWarning, 3)
        times, table = times[order], table[order]
    twice = np.flatnonzero(np.diff(_numbers(times)) == 0)
    if len(twice):
        rows = sorted(int(order[i]) + 1 for i in (twice[0], twice[0] + 1))
        raise ValueError(
            f"time: expected each time once in column {name!r}, got {times[twice[0]]} in data rows "
            f"{rows[0]} and {rows[1]}"
        )
    if len(times) == 1:
        return times, table
    found = _grid(times)
    if found is None:
        counted = next(iter(ticks(times).values()))
        ratio = np.diff(counted) / np.diff(counted).min()
        worst = int(np.abs(ratio - np.round(ratio)).argmax())
        least = int(ratio.argmin())
        raise ValueError(
            f"time: expected regular steps in column {name!r}, got {times[worst]} followed by "
            f"{times[worst + 1]} where the smallest step is from {times[least]} to "
            f"{times[least + 1]}; without a time column the rows are the steps"
        )
    kind, position = found
    count = int(position[-1]) + 1
    missing = count - len(position)
    if missing == 0:
        return times, table
    if missing > _MOST_GAPS * len(position):
        worst = int(np.diff(position).argmax())
        raise ValueError(
            f"time: expected at most {_MOST_GAPS} missing steps for each row in column {name!r}, "
            f"got {missing} for {len(position)} rows, {position[worst + 1] - position[worst] - 1} "
            f"of them between {times[worst]} and {times[worst + 1]}; without a time column the "
            "rows are the steps, and date_format= (--date-format) says how dates are written"
        )
    warnings.warn(
        f"time: {missing} steps are missing in column {name!r}; they are missing values now",
        RuntimeWarning,
        3,
    )
    whole = np.full((count, table.shape[1]), np.nan)
    whole[position] = table
    return _on_grid(times, kind, np.arange(count)), whole


def _on_grid(times: Any, kind: str, places: Int[np.ndarray, " n"]) -> Any:
    """The times at some places of a grid; place 0 is the first time."""
    import pandas as pd

    counted = ticks(times)[kind]
    if kind == "numbers":
        place = int(np.diff(counted).argmin())
        return counted[0] + places * (counted[place + 1] - counted[place])
    step = int(np.diff(counted).min())
    if kind == "passed":
        passed = (counted[0] + step * places).view(f"M8[{times.unit}]")
        utc = pd.DatetimeIndex(passed)
        return utc if times.tz is None else utc.tz_localize("UTC").tz_convert(times.tz)
    wall = times if times.tz is None else times.tz_localize(None)
    if kind == "months":
        at_end = bool(np.asarray(wall.is_month_end).all()) and len(set(wall.day)) > 1
        offset: Callable[[int], Any] = (
            pd.offsets.MonthEnd if at_end else lambda n: pd.DateOffset(months=n)
        )
        dates = pd.DatetimeIndex([wall[0] + offset(step * int(i)) for i in places])
    else:
        dates = pd.DatetimeIndex((counted[0] + step * places).view(f"M8[{times.unit}]"))
    if times.tz is None:
        return dates
    # An hour that the clock skips is the next one, and of an hour it repeats the first is meant.
    first: Bool[np.ndarray, " n"] = np.ones(len(dates), bool)
    return dates.tz_localize(times.tz, ambiguous=first, nonexistent="shift_forward")


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
    if len(times) < 2:
        raise ValueError(
            f"times: expected at least 2, which say how long a step is, got {len(times)}"
        )
    found = _grid(times)
    if found is None:
        raise ValueError("times: expected regular steps, got others")
    kind, position = found
    return _on_grid(times, kind, position[-1] + 1 + np.arange(horizon))


def grid_step(times: Times) -> tuple[str, float] | None:
    """How far apart the steps of a regular grid are.

    Args:
        times: numbers or dates.

    Returns:
        ("months", how many), ("seconds", how many) or ("numbers", their distance); None for fewer
        than two times or irregular ones.

    Example:
        >>> import pandas as pd
        >>> from ssmlin.data.times import grid_step
        >>> grid_step(pd.date_range("2024-01-01", periods=4, freq="QS"))
        ('months', 3.0)
    """
    found = _counted_grid(times)
    if found is None:
        return None
    kind, counted, step = found
    if kind in ("numbers", "months"):
        return kind, float(step)
    return "seconds", float(step / _ticks_a_second(times))


def first_place(times: Times) -> int:
    """The number of the first step on the grid of all steps of this distance; 0 if it is not known.

    Two tables of the same series, of which one begins later, have numbers as far apart as their
    first steps are.

    Args:
        times: numbers or dates on a regular grid.

    Example:
        >>> import pandas as pd
        >>> from ssmlin.data.times import first_place
        >>> months = pd.date_range("2024-01-01", periods=9, freq="MS")
        >>> first_place(months[5:]) - first_place(months)
        5
    """
    found = _counted_grid(times)
    if found is None:
        return 0
    kind, counted, step = found
    if kind == "numbers":
        return int(np.floor(counted[0] / step + _CLOSE))
    return int(counted[0] // step)


def _counted_grid(times: Times) -> tuple[str, np.ndarray, float] | None:
    """In which ticks the times are on a grid, these ticks, and the step in them."""
    found = _grid(times) if len(times) > 1 else None
    if found is None:
        return None
    counted = ticks(times)[found[0]]
    return found[0], counted, float(np.diff(counted).min())


def _ticks_a_second(times: Times) -> int:
    return {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[times.unit]
