"""Times of steps: how they are written in a table, and how they are read."""

import datetime
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeGuard, Union

import numpy as np
from jaxtyping import Bool, Float

from ssmlin._optional import require
from ssmlin.data._texts import MISSING, to_numbers

if TYPE_CHECKING:
    import pandas

#: Times of steps: numbers, or dates.
Times = Union[np.ndarray, "pandas.DatetimeIndex"]  # noqa: UP007 (pandas is not imported yet)

#: Date formats that are not strptime's.
NUMBER, ISO = "number", "ISO8601"
_YEARS = (1800, 2100)  # a number is a date only if its year is in this range
_FIRST_DOUBTFUL_YEAR, _LAST_DOUBTFUL_YEAR = 2050, 2068  # with two digits, 60 may mean 1960

# Integers with this number of digits are dates if they are valid dates in every row.
_DIGITS = {6: "%Y%m", 8: "%Y%m%d", 10: "%Y%m%d%H", 12: "%Y%m%d%H%M", 14: "%Y%m%d%H%M%S"}
# If one of these reads every row, numbers and dates cannot be told apart.
_DOUBTFUL_DIGITS = {5: ("%Y%q",), 6: ("%y%m%d",), 7: ("%Y%j",), 8: ("%d%m%Y", "%m%d%Y")}
_SEPARATED = ("%d{0}%m{0}%Y", "%m{0}%d{0}%Y", "%d{0}%m{0}%y", "%m{0}%d{0}%y", "%Y{0}%m{0}%d",
              "%m{0}%Y", "%Y{0}%m", "%d{0}%b{0}%Y", "%d{0}%b{0}%y", "%b{0}%d{0}%Y", "%Y{0}%b{0}%d",
              "%b{0}%Y", "%b{0}%y", "%Y{0}%b", "Q%q{0}%Y", "%Y{0}Q%q")  # fmt: skip
_WRITTEN = ("%d%b%Y", "%d%b%y", "%b%Y", "%b%y", "%b %d, %Y", "%d. %b %Y", "%a, %d %b %Y", "%YQ%q",
            "Q%q%Y", "%y-%m-%d")  # fmt: skip
_CLOCK_WORDS = {"now", "today"}  # pandas reads them with any format
_CLOCKS = ("%H:%M", "%H:%M:%S", "%H:%M:%S.%f", "%I:%M %p", "%I:%M:%S %p", "%H:%M%z", "%H:%M:%S%z")


def is_dates(times: Times) -> "TypeGuard[pandas.DatetimeIndex]":
    """Whether times are dates rather than numbers."""
    return hasattr(times, "asi8")


def _formats(first: str) -> list[str]:
    """The date formats that can read a text."""
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
    """Whether a text is of a format."""
    (text,), date_format = _without_quarters([text], date_format)
    try:
        datetime.datetime.strptime(text, date_format)
    except ValueError:
        return False
    return True


def _without_quarters(texts: Sequence[str], date_format: str) -> tuple[Sequence[str], str]:
    """Replace quarters (%q), which strptime does not know, by their first months."""
    if "%q" not in date_format:
        return texts, date_format
    pieces = [piece for piece in re.split("(%.)", date_format) if piece]
    shapes = {piece: ".+?" if piece.startswith("%") else re.escape(piece) for piece in pieces}
    shapes["%q"] = "[1-4]"
    shape = re.compile("".join(f"({shapes[piece]})" for piece in pieces))
    place = pieces.index("%q")
    # The marks separate the month from the digits of a year.
    return [_with_month(text, shape, place) for text in texts], date_format.replace("%q", "|%m|")


def _with_month(text: str, shape: re.Pattern[str], place: int) -> str:
    """A text with the month of its quarter instead of the quarter."""
    match = shape.fullmatch(text)
    if match is None:
        return "no quarter"
    parts = list(match.groups())
    parts[place] = f"|{3 * int(parts[place]) - 2:02d}|"
    return "".join(parts)


def _parse(texts: Sequence[str], date_format: str, offset: int = 0) -> "pandas.Series":
    """Texts as dates, NaT where a text is not of the format; `offset` rows precede them."""
    require("pandas")
    import pandas as pd

    if not _CLOCK_WORDS.isdisjoint(texts):
        texts = ["" if text in _CLOCK_WORDS else text for text in texts]
    texts, date_format = _without_quarters(texts, date_format)
    cause: Exception | None = None
    try:
        dates = pd.to_datetime(pd.Series(texts, dtype=object), errors="coerce", format=date_format)
        if dates.dtype != object:  # pandas 2 returns objects for mixed time zones
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
    """Which dates are in years in which a number is taken for a date."""
    inside: Bool[np.ndarray, " T"] = dates.dt.year.between(*_YEARS).to_numpy(bool)
    return inside


def _typed_dates(column: "pandas.Series") -> "pandas.DatetimeIndex | None":
    """The times of a column that holds dates, not text; None for other columns."""
    require("pandas")
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
    require("pandas")
    import pandas as pd

    values = column.tolist()
    if pd.api.types.infer_dtype(column) == "string":
        return [value.strip() for value in values]

    def text(x: object) -> str:
        if isinstance(x, float | np.floating) and float(x).is_integer():
            return str(int(x))
        return str(x).strip()

    return [text(value) for value in values]


def find_date_format(column: "pandas.Series") -> str | None:
    """Find how the times of a column are written: one format must read all rows.

    ISO 8601 is tried first. Otherwise all usual formats that read every row must agree.
    Integers are dates if they are valid months (202001), days (20200120), hours, minutes or
    seconds of the years 1800 to 2100 in every row. Other integers, such as years, are numbers.

    Args:
        column: numbers, dates or text.

    Returns:
        A format of strptime (with %q for a quarter), "ISO8601" or "number"; None for dates that
        are not text.

    Raises:
        ValueError: times that can be read in two ways, or in no way.

    Examples:
        >>> import pandas as pd
        >>> from ssmlin.data._times import find_date_format
        >>> find_date_format(pd.Series(["30/01/2020", "31/01/2020"]))
        '%d/%m/%Y'
    """
    _require_times(column)
    if _typed_dates(column) is not None:
        return None
    require("pandas")
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


def columns_of_dates(frame: "pandas.DataFrame", besides: Sequence[str] = ()) -> list[str]:
    """Names of columns that hold dates, by the first rows; numbers such as 202001 are not taken so.

    Args:
        frame: the table.
        besides: names of columns that are not looked at.
    """
    require("pandas")
    import pandas as pd

    found = []
    for name, column in frame.head(100).items():
        if str(name) in besides or pd.api.types.is_numeric_dtype(column):
            continue
        try:
            if find_date_format(column) != NUMBER:
                found.append(str(name))
        except ValueError:
            pass  # no dates, or such as can be read in two ways
    return found


def _require_times(column: "pandas.Series", offset: int = 0) -> None:
    """Raise ValueError if a time is missing; `offset` rows precede the column."""
    missing = column.isna().to_numpy(bool)
    if getattr(column.dtype, "kind", "O") == "O":
        missing = missing | column.isin(MISSING).to_numpy(bool)
    if missing.any():
        raise ValueError(f"time: expected no missing times in {column.name!r}, got one in data row "
                         f"{offset + int(missing.argmax()) + 1}")  # fmt: skip


def _parse_in(
    column: "pandas.Series", texts: Sequence[str], date_format: str, offset: int = 0
) -> "pandas.Series":
    """As :func:`_parse`, with the column's name in messages."""
    try:
        return _parse(texts, date_format, offset)
    except ValueError as error:
        if str(error).startswith("date_format"):
            raise
        raise ValueError(f"time: column {column.name!r}: {error}") from error


def _find_for_digits(texts: Sequence[str], name: object) -> str:
    """The format of times that consist of digits."""
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
    """Raise ValueError for the numbers 2020.01 ... 2020.12, where 2020.1 may mean October."""
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


def parse_times(column: "pandas.Series", date_format: str | None = None, offset: int = 0) -> Times:
    """Read a column as numbers or dates.

    Args:
        column: numbers, dates or text.
        date_format: a format of strptime (with %q for a quarter), "ISO8601" or "number"; by default
            that of :func:`find_date_format`. Dates that are not text need none.
        offset: the number of rows before the column, for messages.

    Returns:
        An array of numbers, or a DatetimeIndex.

    Raises:
        ValueError: times that are missing or cannot be read in one way.

    Examples:
        >>> import pandas as pd
        >>> from ssmlin.data import parse_times
        >>> parse_times(pd.Series([202001, 202002])).month.tolist()
        [1, 2]
    """
    require("pandas")
    import pandas as pd

    _require_times(column, offset)
    dates = _typed_dates(column)
    if dates is not None:
        return dates
    values: Times
    date_format = date_format or find_date_format(column)
    if date_format == NUMBER and pd.api.types.is_numeric_dtype(column):
        values = column.to_numpy("float64")
        bad = ~np.isfinite(values)
    elif date_format == NUMBER:
        values, bad = to_numbers(_texts(column))
        bad |= np.isinf(values)
    else:
        texts = _texts(column)
        if pd.api.types.is_numeric_dtype(column):  # the number 2020.1 may have been 2020.10
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
    if "%y" in str(date_format) and is_dates(values):
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


#: How ISO 8601 may be written, and the bare clocks that follow a date.
_ISO_DATES, _ISO_CLOCKS = ("%Y-%m-%d", "%Y-%m", "%Y/%m/%d", "%Y%m%d"), (
    "", " %H:%M:%S", " %H:%M", "T%H:%M:%S", "T%H:%M", " %H", "T%H")  # fmt: skip
#: So many of the first and of the last texts show how all are written.
_SHOWN = 100


def label_format(
    column: "pandas.Series", date_format: str | None, like: str | None = None
) -> str | None:
    """How to write further dates like those of a column of text or of digits.

    Args:
        column: as it came.
        date_format: how it is read, see :func:`find_date_format`.
        like: a format that is taken if it gives the texts back, such as that of a longer column.

    Returns:
        A format for :func:`written_as`; None for what is no text, for local times and where no
        format gives the texts back.

    Examples:
        >>> import pandas as pd
        >>> from ssmlin.data import label_format
        >>> label_format(pd.Series(["9.12.2012", "10.12.2012"]), "%d.%m.%Y")
        '%-d.%m.%Y'
    """
    if date_format in (None, NUMBER) or _typed_dates(column) is not None:
        return None
    require("pandas")
    import pandas as pd

    shown = column if len(column) <= 2 * _SHOWN else pd.concat(
        [column[:_SHOWN], column[-_SHOWN:]])  # fmt: skip
    texts = _texts(shown)
    dates = pd.DatetimeIndex(_parse_in(shown, texts, str(date_format)))
    if dates.tz is not None:
        return None
    forms = [str(date_format)]
    if date_format == ISO:
        forms = [date + clock for clock in _ISO_CLOCKS for date in _ISO_DATES]
    for bare in ("%d", "%m", "%H", "%I"):
        forms += [form.replace(bare, f"%-{bare[1]}") for form in forms if bare in form]
    if like is not None:
        forms.insert(0, like)
    return next((form for form in forms if written_as(dates, form) == texts), None)


def written_as(dates: "pandas.DatetimeIndex", form: str) -> list[str]:
    """Write dates in a format of strftime, with %q for a quarter and %-d, %-m, %-H without zeros.

    Examples:
        >>> import pandas as pd
        >>> from ssmlin.data import written_as
        >>> written_as(pd.DatetimeIndex(["2000-04-01"]), "%YQ%q")
        ['2000Q2']
    """
    return [_written(date, form) for date in dates]


@lru_cache(4096)
def _written(date: "pandas.Timestamp", form: str) -> str:
    """One date; strftime knows no quarters, and numbers without zeros not everywhere."""
    own = {"%q": date.quarter, "%-d": date.day, "%-m": date.month, "%-H": date.hour,
           "%-I": (date.hour - 1) % 12 + 1}  # fmt: skip
    for sign, value in own.items():
        form = form.replace(sign, str(value))
    return str(date.strftime(form))


def listed(times: Times, most: int = 5) -> str:
    """The first times and their number, for a message; midnights as days.

    Examples:
        >>> import numpy as np
        >>> from ssmlin.data._times import listed
        >>> listed(np.arange(9), most=2)
        '0, 1, ... (9 in all)'
    """
    shown = times[:most]
    if is_dates(shown) and shown.tz is None and (shown == shown.normalize()).all():
        shown = shown.strftime("%Y-%m-%d")
    text = ", ".join(str(one) for one in shown)
    return text if len(times) <= most else f"{text}, ... ({len(times)} in all)"


def numbers_of_times(times: Times) -> tuple[np.ndarray, dict[str, Any]]:
    """Times as numbers, for a file, and what else says what they are."""
    if not is_dates(times):
        return np.asarray(times), {}
    return times.asi8, {"unit": times.unit, "zone": None if times.tz is None else str(times.tz)}


def times_of_numbers(numbers: np.ndarray, label: Mapping[str, Any]) -> Times:
    """The inverse of :func:`numbers_of_times`."""
    if "unit" not in label:
        return numbers
    require("pandas")
    import pandas as pd

    dates = pd.DatetimeIndex(numbers.view(f"M8[{label['unit']}]"))
    return dates if label["zone"] is None else dates.tz_localize("UTC").tz_convert(label["zone"])
