"""Places in a month, at which the dates of months, quarters and years are."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Shaped

Days = Shaped[np.ndarray, " T"]


def place_in_month(days: Days) -> Callable[[Days], Days] | None:
    """The place in the month that all days have: from months to days, or None.

    It is a day of the month, such as the first; the last day; or the first or the last business
    day. Of a month that is too short for a day of the month the last day is taken.

    Args:
        days: M8[D].

    Examples:
        >>> import numpy as np
        >>> from ssmlin.data._months import place_in_month
        >>> ends = np.array(["2024-01-31", "2024-02-29"], "M8[D]")
        >>> str(place_in_month(ends)(np.array(["2024-04"], "M8[M]"))[0])
        '2024-04-30'
    """
    months = days.astype("M8[M]")
    day_of_month = days - months.astype("M8[D]")

    def same_day(months: Days) -> Days:
        latest = months.astype("M8[D]") + day_of_month.max()
        found: Days = np.minimum(latest, _last_day(months))
        return found

    # The ends of February and April may be the 30th, but rather are the last days.
    one_day = day_of_month.min() == day_of_month.max()
    places = (same_day, _last_day) if one_day else (_last_day, same_day)
    for place in (*places, _first_business_day, _last_business_day):
        if (place(months) == days).all():
            return place
    return None


def _last_day(months: Days) -> Days:
    following: Days = (months + np.timedelta64(1, "M")).astype("M8[D]")
    return following - np.timedelta64(1, "D")


def _first_business_day(months: Days) -> Days:
    found: Days = np.busday_offset(months.astype("M8[D]"), 0, "forward")
    return found


def _last_business_day(months: Days) -> Days:
    found: Days = np.busday_offset(_last_day(months), 0, "backward")
    return found
