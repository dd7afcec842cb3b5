"""Numbers as people and programs write them."""

import re
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Shaped

from ssmlin._optional import require

#: Texts that mean a missing number.
MISSING = frozenset(
    ["", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN",
     "<NA>", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null"]
)  # fmt: skip
_BOOLEANS = {"True": "1", "TRUE": "1", "true": "1", "False": "0", "FALSE": "0", "false": "0"}
# Spaces (plain, no-break, thin, narrow) and apostrophes only ever separate thousands.
_SPACES = " \u00a0\u2009\u202f'\u2019"


class Marks(NamedTuple):
    """How the numbers of a column are written.

    Attributes:
        decimal: the decimal mark.
        thousands: the marks that may separate groups of three digits.
    """

    decimal: str = "."
    thousands: str = _SPACES


PLAIN = Marks()


def _decimal_shapes(point: str, other: str) -> str:
    """A pattern of texts in which `point` can only be the decimal mark."""
    p, o = re.escape(point), re.escape(other)
    exponent = r"(?:[eE][+-]?\d+)?"
    return "|".join(
        [
            # 12,5; also 0,123 and 1234,567, which cannot be groups of three digits.
            rf"(?:\d*{p}(?:\d{{0,2}}|\d{{4,}})|(?:0\d*|\d{{4,}}|){p}\d+){exponent}",
            rf"\d+{p}\d*[eE][+-]?\d+",
            # 1.234,567, where another mark separates the thousands.
            rf"\d{{1,3}}(?:[{o}{_SPACES}]\d{{3}})+{p}\d*",
            # 1.234.567, where only this mark is left for the decimals.
            rf"\d{{1,3}}(?:{o}\d{{3}}){{2,}}",
        ]
    )


_OTHER = {".": ",", ",": "."}
_SIGN = r"^\s*[+-]?"
_DECIDED = {
    mark: re.compile(rf"{_SIGN}(?=.*\d)(?:{_decimal_shapes(mark, other)})\s*$", re.M)
    for mark, other in _OTHER.items()
}
# 12.05 may be a day or an hour, and 2020.05 or 5.2020 a month. They do not tell how the numbers of
# other columns are written.
_DECIDED_FOR_ALL = _DECIDED | {
    ".": re.compile(
        _DECIDED["."].pattern.replace(
            _SIGN,
            rf"{_SIGN}(?!(?:\d{{1,2}}\.\d{{1,2}}|\d{{4}}\.\d{{1,2}}|\d{{1,2}}\.\d{{4}})\s*$)",
            1,
        ),
        re.M,
    )
}
_DOUBTFUL = re.compile(rf"{_SIGN}[1-9]\d{{0,2}}([.,])\d{{3}}\s*$", re.M)
_YEARS = (1000, 2999)
# Whole numbers as no program writes them, which may be names: 007, 12E3, 20 digits.
_NAME = re.compile(r"^\s*(?:[+-]?0\d|\d+[eE]\d+\s*$|[+-]?\d{19})", re.M)
# Columns of months such as 2020.10, which as a number would be 2020.1.
_MONTHS = re.compile(r"(?:[12]\d{3}\.(?:0?[1-9]|1[0-2])\n)+|(?:(?:0?[1-9]|1[0-2])\.[12]\d{3}\n)+")
_INTEGERS = re.compile(r"(?:(?:0|-?[1-9]\d*)\n)+")


def given_marks(decimal: str | None, thousands: str | None) -> Marks | None:
    """The marks that a user gives; if only one is given, the other follows from it.

    Args:
        decimal: the decimal mark, or None.
        thousands: the mark that separates thousands, or None.

    Returns:
        The marks, or None if neither is given.

    Raises:
        ValueError: not a mark, or the same mark twice.
    """
    if decimal is not None and decimal not in _OTHER:
        raise ValueError(f"decimal: expected '.' or ',', got {decimal!r}")
    if thousands is not None and (len(thousands) != 1 or thousands.isalnum() or thousands in "+-"):
        raise ValueError(f"thousands: expected one mark, such as ',', got {thousands!r}")
    if thousands is not None and thousands == decimal:
        raise ValueError(f"thousands: expected another mark than decimal, got {thousands!r} twice")
    if decimal is None and thousands is None:
        return None
    decimal = decimal or _OTHER.get(thousands or "", ".")
    return Marks(decimal, thousands or _OTHER[decimal] + _SPACES)


def find_marks(
    columns: Mapping[str, Sequence[str]],
    points_are_decimal: bool,
    decided: Collection[str] = (),
    first_row: int = 1,
) -> dict[str, Marks | None]:
    """Infer how numbers are written in each column, from all values.

    A column's own values decide: 2,5 and 0,250 and 1.234,5 can be read in one way only. If all
    values of a column are like 1,234, other columns decide that can be read in one way.

    Args:
        columns: names and texts.
        points_are_decimal: whether 1.234 is clear, since commas separate the file's columns.
        decided: the decimal marks of columns that are already clear.
        first_row: the number of the first row, for messages.

    Returns:
        For each column its marks, or None if no value has a mark.

    Raises:
        ValueError: numbers that can be read in two ways.
    """
    found: dict[str, Marks | None] = {}
    doubts, of_all = {}, set(decided)
    for name, texts in columns.items():
        joined = "\n".join(texts)
        marks = list(_OTHER) if any(mark in joined for mark in _OTHER) else []
        of_all |= {mark for mark in marks if _DECIDED_FOR_ALL[mark].search(joined)}
        own = [mark for mark in marks if _DECIDED[mark].search(joined)]
        found[name] = None
        if own:  # with both marks, to_numbers refuses the values of one of them
            found[name] = Marks(own[0], _OTHER[own[0]] + _SPACES)
        elif marks and (doubt := _DOUBTFUL.search(joined)):
            doubts[name] = doubt
    for name, doubt in doubts.items():
        if len(of_all) == 1:
            (decimal,) = of_all
            found[name] = Marks(decimal, _OTHER[decimal] + _SPACES)
        elif points_are_decimal and "," not in "\n".join(columns[name]):
            found[name] = PLAIN
        else:
            text, mark = doubt.group().strip(), doubt.group(1)
            row = doubt.string.count("\n", 0, doubt.start(1)) + first_row
            raise ValueError(
                f"decimal: expected numbers that can be read in one way, got {text!r} in column "
                f"{name!r}, data row {row}, which is {text.replace(mark, '')} or "
                f"{text.replace(mark, '.')}; say decimal={_OTHER[mark]!r} or decimal={mark!r} "
                "(--decimal, --thousands)"
            )
    return found


def to_numbers(
    texts: Sequence[str], marks: Marks = PLAIN
) -> tuple[Float[np.ndarray, " n"], Bool[np.ndarray, " n"]]:
    """Read texts as numbers.

    Args:
        texts: the texts.
        marks: how numbers are written.

    Returns:
        The numbers, NaN where they are missing, and which texts are not numbers.
    """
    require("pandas")
    import pandas as pd

    joined = "\n".join(texts)
    if any(mark in joined for mark in " \t" + _SPACES):
        texts = [text.strip() for text in texts]
    missing = pd.Series(texts, dtype=object).isin(MISSING).to_numpy(bool)
    is_grouped = any(mark in joined for mark in marks.thousands)
    if marks.decimal != "." and not is_grouped and "." not in joined and "\n" not in "".join(texts):
        texts = "\n".join(texts).replace(marks.decimal, ".").split("\n")
    elif marks.decimal != "." or is_grouped:
        t, d = re.escape(marks.thousands), re.escape(marks.decimal)
        shape = re.compile(
            rf"([+-]?)([1-9]\d{{0,2}}(?:([{t}])\d{{3}}(?:\3\d{{3}})*)|\d*)"
            rf"(?:{d}(\d*))?((?:[eE][+-]?\d+)?)"
        )
        texts = [_plain(text, shape) for text in texts]
    parsed = _parsed(texts)
    bad = np.isnan(parsed) & ~missing
    if bad.any():
        parsed = _parsed([_BOOLEANS.get(text, text) for text in texts])
        bad = np.isnan(parsed) & ~missing
    return parsed, bad


def _plain(text: str, shape: re.Pattern[str]) -> str:
    """A number in Python's notation."""
    match = shape.fullmatch(text)
    if match is None:
        return "no number" if "." in text else text
    sign, whole, mark, decimals, exponent = match.groups()
    whole = whole if mark is None else whole.replace(mark, "")
    return f"{sign}{whole}.{decimals or ''}{exponent}"


def is_like_a_number(value: object) -> bool:
    """Whether a value is a text that is a number with some choice of marks."""
    return isinstance(value, str) and bool(re.fullmatch(rf"[\deE.,+{_SPACES}-]*", value.strip()))


def _parsed(texts: Sequence[str]) -> Float[np.ndarray, " n"]:
    """Texts in Python's notation as numbers, NaN for other texts."""
    require("pandas")
    import pandas as pd

    numbers = pd.to_numeric(pd.Series(texts, dtype=object), errors="coerce")
    parsed: Float[np.ndarray, " n"] = numbers.to_numpy("float64")
    return parsed


def convert(texts: Sequence[str], marks: Marks | None) -> Shaped[np.ndarray, " n"]:
    """Convert a column of a text file to integers, floats or booleans if all its values are.

    Other columns stay texts. So do 007, 12E3 and months such as 2020.10, which may be names or
    dates; :func:`ssmlin.data._columns.numbers` reads them as numbers.
    """
    marks = marks or PLAIN
    first = next((text for text in texts if text.strip() not in MISSING), "")
    if to_numbers([first], marks)[1].any():
        return as_written(texts)  # the column holds words
    joined = "\n".join([*texts, ""])
    is_whole = "." not in joined and "," not in joined
    if not (is_whole and _NAME.search(joined)) and not _MONTHS.fullmatch(joined):
        if _INTEGERS.fullmatch(joined):
            return np.array(list(map(int, texts)))
        if set(texts) <= _BOOLEANS.keys():
            return np.array([_BOOLEANS[text] == "1" for text in texts])
        parsed, bad = to_numbers(texts, marks)
        if not bad.any():
            return parsed
    return as_written(texts)


def may_be_misread(values: Float[np.ndarray, " n"]) -> bool:
    """Whether numbers that pandas has read may be names, months or groups of thousands.

    All of these are whole numbers, or small ones with few decimals.
    """
    seen = values[np.isfinite(values)]
    if (seen == np.round(seen)).all():
        return True
    few = np.abs(1e4 * seen - np.round(1e4 * seen)) <= 1e-6
    return bool((few & (np.abs(seen) <= _YEARS[1] + 1)).all())


def as_written(texts: Sequence[str]) -> Shaped[np.ndarray, " n"]:
    """Texts as an array of objects, None where they are empty."""
    return np.array([text or None for text in texts], dtype=object)
