"""What is said of the steps of a series: how long one is, and which days are none."""

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from ssmlin._optional import require
from ssmlin.data._times import Times, is_dates

if TYPE_CHECKING:
    import pandas

#: What steps of dates are counted in.
MONTHS, BUSINESS_DAYS, SECONDS = "months", "business days", "seconds"
_DAY = 86_400.0
#: Names that pandas has for periods alone or has given up.
_OLD_NAMES = {"M": "ME", "Q": "QE", "Y": "YE", "A": "YE", "H": "h", "T": "min", "S": "s"}
#: Months of the offsets of pandas, whose names go on with Begin or End.
_MONTHS_OF = {"Month": 1, "BusinessMonth": 1, "Quarter": 3, "BQuarter": 3, "Year": 12, "BYear": 12}


@dataclass(frozen=True)
class Calendar:
    """How long a step is, and which days are no steps.

    Args:
        freq: a frequency of pandas: "B" for business days, "D", "W", "MS", "QS", "YS", "h", "min"
            or "s", also with a number before it. Where in its week or month a step is, the dates
            say. None: a step is the shortest distance of two times, and a business day where the
            dates show it, see :func:`ssmlin.data.select_columns`.
        holidays: business days that are no steps, such as "2024-12-25"; with them a step is a
            business day.

    Raises:
        ValueError: an unknown frequency, holidays that are no dates, or holidays of other steps
            than business days.

    Examples:
        >>> from ssmlin.data import Calendar
        >>> Calendar("2h").step
        ('seconds', 7200.0)
        >>> Calendar(holidays=("2024-12-25",)).step
        ('business days', 1.0)
    """

    freq: str | None = None
    holidays: Sequence[str] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "holidays", tuple(map(str, self.holidays)))
        for day in self.holidays:
            if not re.fullmatch(r"\d{4}-\d\d-\d\d", day):
                raise ValueError(f"holidays: expected dates such as 2024-12-25, got {day!r}")
        try:
            _ = self.days
        except ValueError as error:
            raise ValueError(f"holidays: expected dates such as 2024-12-25: {error}") from error
        if self.freq is None and self.holidays:
            object.__setattr__(self, "freq", "B")
        if self.holidays and self.step is not None and self.step[0] != BUSINESS_DAYS:
            raise ValueError(
                "holidays: expected none unless a step is a business day, freq='B', got them with "
                f"freq={self.freq!r}"
            )
        _ = self.step  # an unknown frequency is told now

    def __reduce__(self) -> tuple[object, ...]:
        # Copied and pickled by what was said: NumPy's calendar of the days can be neither.
        return type(self), (self.freq, self.holidays)

    @cached_property
    def days(self) -> np.busdaycalendar:
        """The business days, for the functions of NumPy."""
        return np.busdaycalendar(holidays=np.array(self.holidays, "M8[D]"))

    @cached_property
    def step(self) -> tuple[str, float] | None:
        """What a step is counted in and how many of these it has; None where nothing is said."""
        if self.freq is None:
            return None
        require("pandas")
        import pandas as pd
        from pandas.tseries.frequencies import to_offset

        known = re.fullmatch(r"(\d*)([A-Z])(-[A-Z]+)?", self.freq)
        freq = self.freq
        if known is not None and known[2] in _OLD_NAMES:
            freq = f"{known[1]}{_OLD_NAMES[known[2]]}"
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                offset = to_offset(freq)
        except ValueError:
            offset = None
        if offset is not None and offset.n > 0:
            name = type(offset).__name__
            if name in ("BusinessDay", "CustomBusinessDay"):
                return BUSINESS_DAYS, float(offset.n)
            if name in ("Day", "Week"):
                return SECONDS, offset.n * _DAY * (7 if name == "Week" else 1)
            if isinstance(offset, pd.offsets.Tick):
                return SECONDS, pd.Timedelta(offset).total_seconds()
            months = _MONTHS_OF.get(re.sub("(Begin|End)$", "", name))
            if months is not None:
                return MONTHS, float(offset.n * months)
        raise ValueError(
            "freq: expected B (business days), D, W, MS, QS, YS, h, min or s, perhaps with a "
            f"number before it, got {self.freq!r}"
        )

    @classmethod
    def of(cls, times: object) -> "Calendar":
        """The business days that dates carry as their pandas frequency; else nothing is said."""
        freq = getattr(times, "freq", None)
        if type(freq).__name__ not in ("BusinessDay", "CustomBusinessDay"):
            return cls()
        assert freq is not None
        holidays = getattr(freq, "holidays", None) or ()  # of plain business days None
        return cls(f"{freq.n}B", tuple(str(np.datetime64(day, "D")) for day in holidays))

    def mark(self, times: Times) -> Times:
        """The same dates, which carry it if their steps are business days.

        A date says so little of the days that are no steps that these go with the dates, from the
        table to the forecast.
        """
        if not is_dates(times) or self.step is None or self.step[0] != BUSINESS_DAYS:
            return times
        require("pandas")
        import pandas as pd

        number = int(self.step[1])
        offset: pandas.offsets.BusinessDay = pd.offsets.BusinessDay(number)
        if self.holidays:
            offset = pd.offsets.CustomBusinessDay(number, holidays=list(self.holidays))
        try:
            return pd.DatetimeIndex(times, freq=offset)
        except ValueError:  # a local time that the change of clocks skips
            return times
