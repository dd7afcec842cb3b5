"""Numbers as people and programs write them."""

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

#: What files write where a number is missing.
MISSING = frozenset(
    ["", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN",
     "<NA>", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null"]
)  # fmt: skip
_BOOLEANS = {"True": "1", "TRUE": "1", "true": "1", "False": "0", "FALSE": "0", "false": "0"}
# Spaces (plain, no-break, thin, narrow) and apostrophes part thousands and nothing else.
_SPACES = " \u00a0\u2009\u202f'\u2019"


class Marks(NamedTuple):
    """How the numbers of a column are written.

    Attributes:
        decimal: the mark before the decimals.
        thousands: the marks that may part groups of three digits.
    """

    decimal: str = "."
    thousands: str = _SPACES


PLAIN = Marks()


def _decimal_shapes(point: str, other: str) -> str:
    """Texts in which `point` can only be the decimal mark."""
    p, o = re.escape(point), re.escape(other)
    exponent = r"(?:[eE][+-]?\d+)?"
    return "|".join(
        [
            # 12,5; also 0,123 and 1234,567, as groups of three digits begin otherwise.
            rf"(?:\d*{p}(?:\d{{0,2}}|\d{{4,}})|(?:0\d*|\d{{4,}}|){p}\d+){exponent}",
            rf"\d+{p}\d*[eE][+-]?\d+",
            # 1.234,567, where another mark parts the thousands.
            rf"\d{{1,3}}(?:[{o}{_SPACES}]\d{{3}})+{p}\d*",
            # 1.234.567, where no mark is left for the decimals but this one.
            rf"\d{{1,3}}(?:{o}\d{{3}}){{2,}}",
        ]
    )


_OTHER = {".": ",", ",": "."}
_SIGN = r"^\s*[+-]?"
_DECIDED = {
    mark: re.compile(rf"{_SIGN}(?=.*\d)(?:{_decimal_shapes(mark, other)})\s*$", re.M)
    for mark, other in _OTHER.items()
}
# 12.05 may be a day or an hour, and 2020.05 or 5.2020 a month: no sign of how numbers are written
# in other columns.
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
# What a name may be but no program writes as a number, of whole ones: 007, 12E3, 20 digits.
_NAME = re.compile(r"^\s*(?:[+-]?0\d|\d+[eE]\d+\s*$|[+-]?\d{19})", re.M)
# And of all values: months as 2020.10, which the number 2020.1 is not.
_MONTHS = re.compile(r"(?:[12]\d{3}\.(?:0?[1-9]|1[0-2])\n)+|(?:(?:0?[1-9]|1[0-2])\.[12]\d{3}\n)+")
_INTEGERS = re.compile(r"(?:(?:0|-?[1-9]\d*)\n)+")


def given_marks(decimal: str | None, thousands: str | None) -> Marks | None:
    """The marks that a person names; a mark that is not named is what the other leaves.

    Raises:
        ValueError: marks that cannot be.
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
    """How numbers are written in each column, from all that is there.

    A column's own values decide: 2,5 and 0,250 and 1.234,5 can be read in one way only. Where all
    of them are like 1,234, what can be read in one way in other columns decides.

    Args:
        columns: names and texts.
        points_are_decimal: 1.234 is not in doubt, since commas separate the file's columns.
        decided: decimal marks of columns that are no longer in doubt.
        first_row: number of the first row, for messages.

    Returns:
        For each column its marks, or None where no value has any.

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
        if own:  # if both, no number is written as the other
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
    """Numbers, NaN where they are missing, and which texts are none."""
    import pandas as pd

    joined = "\n".join(texts)
    if any(mark in joined for mark in " \t" + _SPACES):
        texts = [text.strip() for text in texts]
    missing = pd.Series(texts, dtype=object).isin(MISSING).to_numpy(bool)
    is_parted = any(mark in joined for mark in marks.thousands)
    if marks.decimal != "." and not is_parted and "." not in joined and "\n" not in "".join(texts):
        texts = "\n".join(texts).replace(marks.decimal, ".").split("\n")
    elif marks.decimal != "." or is_parted:
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
    """A number as programs write it."""
    match = shape.fullmatch(text)
    if match is None:
        return "no number" if "." in text else text
    sign, whole, mark, decimals, exponent = match.groups()
    whole = whole if mark is None else whole.replace(mark, "")
    return f"{sign}{whole}.{decimals or ''}{exponent}"


def is_like_a_number(value: Any) -> bool:
    """Whether a value is a text that may be a number by some marks."""
    return isinstance(value, str) and bool(re.fullmatch(rf"[\deE.,+{_SPACES}-]*", value.strip()))


def _parsed(texts: Sequence[str]) -> Float[np.ndarray, " n"]:
    import pandas as pd

    return pd.to_numeric(pd.Series(texts, dtype=object), errors="coerce").to_numpy("float64")


def convert(texts: Sequence[str], marks: Marks | None) -> Any:
    """A column of a text file: integers, numbers or booleans where all values are, else texts.

    Texts stay as they are written, 007 and 12E3 and months as 2020.10 too, since each may be a name
    or a date; :func:`ssmlin.data.columns.numbers` reads them where numbers are asked for.
    """
    marks = marks or PLAIN
    first = next((text for text in texts if text.strip() not in MISSING), "")
    if to_numbers([first], marks)[1].any():
        return as_written(texts)  # words, which need not be tried in full
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
    """Whether what pandas has read as numbers may be names, months or parted thousands.

    All of these are whole, or have few decimals and are small.
    """
    seen = values[np.isfinite(values)]
    if (seen == np.round(seen)).all():
        return True
    few = np.abs(1e4 * seen - np.round(1e4 * seen)) <= 1e-6
    return bool((few & (np.abs(seen) <= _YEARS[1] + 1)).all())


def as_written(texts: Sequence[str]) -> Any:
    """Texts as they are; an empty one is missing."""
    return np.array([text or None for text in texts], dtype=object)
