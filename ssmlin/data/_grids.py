"""The regular grid that times are on, its gaps, and its continuation."""

import warnings
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from ssmlin._optional import require
from ssmlin.data._calendar import BUSINESS_DAYS, MONTHS, SECONDS, Calendar
from ssmlin.data._months import place_in_month
from ssmlin.data._times import Times, is_dates, listed

_MOST_GAPS = 3  # missing steps for each row
#: Steps are equal if they differ by no more than this share of a step.
TOLERANCE = 1e-3
#: Business days are counted from here, a Monday before all dates that pandas knows.
_FIRST_DAY = np.datetime64("1600-01-03", "D")
#: Of the first month that NumPy counts from: the year times 12 and the month.
_FIRST_MONTH = 12 * 1970 + 1
#: The ticks that are counted in the units of the dates, in which a step is some seconds.
_CLOCKS = ("wall", "passed")


def in_order(times: Times) -> Int[np.ndarray, " T"]:
    """The indices that sort numbers or dates."""
    return np.argsort(_numbers(times), kind="stable")


def _numbers(times: Times) -> Shaped[np.ndarray, " T"]:
    """Numbers that are ordered as the times are."""
    numbers: Shaped[np.ndarray, " T"] = times.asi8 if is_dates(times) else np.asarray(times)
    return numbers


def ticks(times: Times, calendar: Calendar | None = None) -> dict[str, Shaped[np.ndarray, " T"]]:
    """Times as numbers, in each of the ways in which their steps may be equal, the likeliest first.

    Numbers are taken as they are. Dates are counted in months, if all are at the same place in
    their month (:func:`place_in_month`); in business days, if all are some; in local time ("wall"),
    where a day may have 23 or 25 hours, if they have a time zone and one time of day; in elapsed
    time ("passed"); and, with any time zone, in local time as well, for steps such as half a day.
    """
    if not is_dates(times):
        return {"numbers": np.asarray(times)}
    wall = times if times.tz is None else times.tz_localize(None)
    counted: dict[str, np.ndarray] = {}
    clock = (wall - wall.normalize()).asi8
    if (clock == clock[0]).all():
        days = wall.to_numpy().astype("M8[D]")
        months = days.astype("M8[M]").astype(int) + _FIRST_MONTH
        if (np.diff(months) > 0).all() and place_in_month(days) is not None:
            counted[MONTHS] = months
        business = Calendar.of(times).days if calendar is None else calendar.days
        if np.is_busday(days, busdaycal=business).all():
            counted[BUSINESS_DAYS] = np.busday_count(_FIRST_DAY, days, busdaycal=business)
        if times.tz is not None:
            counted["wall"] = wall.asi8
    counted["passed"] = times.asi8
    if times.tz is not None:
        counted.setdefault("wall", wall.asi8)
    return counted


class _Grid(NamedTuple):
    """A regular grid.

    Attributes:
        kind: what is counted, a key of :func:`ticks`.
        counted: the times, counted so.
        step: how far apart two steps are.
        calendar: what is known of the steps.
    """

    kind: str
    counted: Shaped[np.ndarray, " T"]
    step: float
    calendar: Calendar

    @property
    def places(self) -> Int[np.ndarray, " T"]:
        """The number of each time on the grid, 0 for the first."""
        ratio = np.round(np.diff(self.counted) / self.step)
        return np.concatenate([[0], np.cumsum(ratio).astype(int)])


def _grid(times: Times, calendar: Calendar | None = None) -> _Grid | None:
    """The grid that times are on, or None.

    Its step is the one that is said, else the smallest step between two times.
    """
    calendar = Calendar.of(times) if calendar is None else calendar
    said = _said_steps(times, calendar)
    for kind, counted in ticks(times, calendar).items():
        if calendar.step is not None:
            if kind not in said:
                continue
            step = said[kind]
        elif kind == BUSINESS_DAYS and not _show_business_days(times, counted):
            continue
        else:
            step = float(np.diff(counted).min())
        ratio = np.diff(counted) / step
        is_whole = kind == "numbers" or float(step).is_integer()
        if is_whole and np.abs(ratio - np.round(ratio)).max(initial=0.0) <= TOLERANCE:
            known = Calendar("B") if kind == BUSINESS_DAYS and not said else calendar
            return _Grid(kind, counted, step, known)
    return None


def _said_steps(times: Times, calendar: Calendar) -> dict[str, float]:
    """The step that is said, in each kind of ticks that it may be counted in."""
    if calendar.step is None:
        return {}
    kind, step = calendar.step
    return dict.fromkeys(_CLOCKS, step * _a_second(times)) if kind == SECONDS else {kind: step}


def _a_second(times: Times) -> int:
    """How many ticks of elapsed time a second has."""
    return {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[times.unit] if is_dates(times) else 1


def _show_business_days(times: Times, counted: Int[np.ndarray, " T"]) -> bool:
    """Whether dates that are all business days show that these are the steps.

    Two of them follow one another, a weekend lies between two of them, and most business days are
    there.
    """
    distances = np.diff(_numbers(times)) / (86_400 * _a_second(times))
    span = counted[-1] - counted[0]
    has_weekend = distances.sum() > span + 1
    return bool(distances.min() < 1.5 and has_weekend and 2 * len(counted) > span + 1)


class Steps(NamedTuple):
    """The steps that the rows of a series are, by their times.

    Attributes:
        times: of all steps.
        order: of the rows; None where they are in order.
        places: of the rows in order among the steps; None where no step is missing.
    """

    times: Times
    order: Int[np.ndarray, " T"] | None
    places: Int[np.ndarray, " T"] | None

    def arrange(self, table: Float[np.ndarray, "T m"]) -> Float[np.ndarray, "n m"]:
        """The rows of a table as steps; NaN where one is missing."""
        table = table if self.order is None else table[self.order]
        if self.places is None:
            return table
        whole = np.full((len(self.times), table.shape[1]), np.nan)
        whole[self.places] = table
        return whole


def regular_steps(times: Times, name: str, calendar: Calendar | None = None) -> Steps:
    """The steps that rows are: sorted by time, with those that a regular grid has between them.

    Args:
        times: the times of the rows.
        name: the name of the column of times, for messages.
        calendar: what is said of the steps.

    Returns:
        The times of all steps, and which rows they are.

    Raises:
        ValueError: times that occur twice, are irregular or are not what is said of them, or more
            than three missing steps for each row.

    Warns:
        RuntimeWarning: the rows were not sorted, or steps are missing.
    """
    calendar = Calendar() if calendar is None else calendar
    order = in_order(times)
    moved = order if (np.diff(order) < 0).any() else None
    if moved is not None:
        warnings.warn(f"time: rows were brought in the order of {name!r}", RuntimeWarning, 3)
        times = times[order]
    twice = np.flatnonzero(np.diff(_numbers(times)) == 0)
    if len(twice):
        rows = sorted(int(order[i]) + 1 for i in (twice[0], twice[0] + 1))
        raise ValueError(
            f"time: expected each time once in column {name!r}, got {listed(times[twice[:1]])} in "
            f"data rows {rows[0]} and {rows[1]}; series= (--series) names the column that tells "
            "several series apart"
        )
    if len(times) == 1 and calendar.step is None:
        return Steps(times, moved, None)
    grid = _grid(times, calendar)
    if grid is None:
        raise ValueError(_irregular(times, name, calendar))
    position = grid.places
    count = int(position[-1]) + 1
    missing = count - len(position)
    if missing == 0:
        return Steps(grid.calendar.mark(times), moved, None)
    if missing > _MOST_GAPS * len(position):
        worst = int(np.diff(position).argmax())
        raise ValueError(
            f"time: expected at most {_MOST_GAPS} missing steps for each row in column {name!r}, "
            f"got {missing} for {len(position)} rows, {position[worst + 1] - position[worst] - 1} "
            f"of them between {times[worst]} and {times[worst + 1]}; without a time column the "
            "rows are the steps, and date_format= (--date-format) says how dates are written"
        )
    every = _on_grid(times, grid, np.arange(count))
    _warn_of_gaps(every[np.setdiff1d(np.arange(count), position)], name, grid.kind)
    return Steps(grid.calendar.mark(every), moved, position)


def _warn_of_gaps(missing: Times, name: str, kind: str) -> None:
    """Say how many steps are missing; of business days, which may be holidays, the first ones."""
    steps, days, hint = "steps", "", ""
    if kind == BUSINESS_DAYS:
        steps, days = "business days", f": {listed(missing, 3)}"
        hint = "; holidays= (--holidays) leaves out days that are none"
    warnings.warn(
        f"time: {len(missing)} {steps} are missing in column {name!r}{days}; they are missing "
        f"values now{hint}",
        RuntimeWarning,
        4,
    )


def _irregular(times: Times, name: str, calendar: Calendar) -> str:
    """Why times are on no grid."""
    if calendar.step is not None:
        return _not_as_said(times, name, calendar)
    counted = next(x for kind, x in ticks(times).items() if kind != BUSINESS_DAYS)
    ratio = np.diff(counted) / np.diff(counted).min()
    worst = int(np.abs(ratio - np.round(ratio)).argmax())
    least = int(ratio.argmin())
    return (
        f"time: expected regular steps in column {name!r}, got {times[worst]} followed by "
        f"{times[worst + 1]} where the smallest step is from {times[least]} to "
        f"{times[least + 1]}; without a time column the rows are the steps"
    )


def _not_as_said(times: Times, name: str, calendar: Calendar) -> str:
    """Why times are not on the grid that is said."""
    if not is_dates(times):
        return f"freq: expected dates in column {name!r}, got numbers"
    assert calendar.step is not None
    if calendar.step[0] == BUSINESS_DAYS:
        wall = times if times.tz is None else times.tz_localize(None)
        is_none = ~np.is_busday(wall.to_numpy().astype("M8[D]"), busdaycal=calendar.days)
        if is_none.any():
            bad = times[[int(is_none.argmax())]]
            why = f"a {bad[0].day_name()}" if bad[0].weekday() > 4 else "a holiday"
            return f"freq: expected business days in column {name!r}, got {listed(bad)}, {why}"
    # The first rows that are on no such grid show where it ends.
    end = next(end for end in range(2, len(times) + 1) if _grid(times[:end], calendar) is None)
    return (
        f"freq: expected steps of {calendar.freq!r} in column {name!r}, got {times[end - 2]} "
        f"followed by {times[end - 1]}"
    )


def _on_grid(times: Times, grid: _Grid, places: Int[np.ndarray, " n"]) -> Times:
    """The times at the given places of a grid; place 0 is the first time."""
    require("pandas")
    import pandas as pd

    kind, counted, step, calendar = grid
    if not is_dates(times):
        ahead: Times = counted[0] + places * step
        return ahead
    reached = counted[0] + int(step) * places
    if kind == "passed":
        utc = pd.DatetimeIndex(reached.view(f"M8[{times.unit}]"))
        return utc if times.tz is None else utc.tz_localize("UTC").tz_convert(times.tz)
    wall = times if times.tz is None else times.tz_localize(None)
    if kind == "wall":
        dates = pd.DatetimeIndex(reached.view(f"M8[{times.unit}]"))
    else:
        if kind == MONTHS:
            place = place_in_month(wall.to_numpy().astype("M8[D]"))
            assert place is not None
            days = place((reached - _FIRST_MONTH).astype("M8[M]"))
        else:
            days = np.busday_offset(_FIRST_DAY, reached, "forward", busdaycal=calendar.days)
        dates = pd.DatetimeIndex(days.astype(f"M8[{times.unit}]")) + (wall[0] - wall[0].normalize())
    if times.tz is None:
        return dates
    # A local time that is skipped becomes the next one; of a repeated one the first is meant.
    first: Bool[np.ndarray, " n"] = np.ones(len(dates), bool)
    return dates.tz_localize(times.tz, ambiguous=first, nonexistent="shift_forward")


class _Same:
    """Times for a cache: those of thousands of series that share them are counted once."""

    def __init__(self, times: Times) -> None:
        self.times = times
        self._key = _numbers(times).tobytes(), str(times.dtype), Calendar.of(times)

    def __hash__(self) -> int:
        return hash(self._key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self._key == other._key


def future_times(times: Times, horizon: int, skip: int = 0) -> Times:
    """The times of the next steps of a regular grid.

    Args:
        times: of the steps so far, see :class:`ssmlin.data.Columns`.
        horizon: the number of steps to come.
        skip: how many steps are between those so far and these.

    Returns:
        Numbers or dates, as `times`.

    Raises:
        ValueError: fewer than two times, which do not tell the length of a step unless they are
            known as business days, or times that are not on a regular grid.

    Examples:
        >>> import numpy as np
        >>> from ssmlin.data import future_times
        >>> future_times(np.array([1990.0, 1991.0]), 2).tolist()
        [1992.0, 1993.0]
    """
    if skip:  # a stream, which goes on and asks for each once
        return _continued(times, horizon, skip)
    return _future_times(_Same(times), horizon)


@lru_cache(1024)
def _future_times(same: _Same, horizon: int) -> Times:
    """The same, remembered."""
    return _continued(same.times, horizon, 0)


def _continued(times: Times, horizon: int, skip: int) -> Times:
    """The times of so many steps, after those that are skipped."""
    if len(times) < 2 and Calendar.of(times).step is None:
        raise ValueError(
            f"times: expected at least 2, which say how long a step is, got {len(times)}"
        )
    grid = _grid(times)
    if grid is None:
        raise ValueError("times: expected regular steps, got others")
    places = grid.places[-1] + 1 + skip + np.arange(horizon)
    return grid.calendar.mark(_on_grid(times, grid, places))


def grid_step(times: Times) -> tuple[str, float] | None:
    """How far apart the steps of a regular grid are.

    Args:
        times: numbers or dates.

    Returns:
        ("months", how many), ("business days", how many), ("seconds", how many) or ("numbers",
        their distance); None for fewer than two times or irregular ones.

    Examples:
        >>> import pandas as pd
        >>> from ssmlin.data._grids import grid_step
        >>> grid_step(pd.date_range("2024-01-01", periods=4, freq="QS"))
        ('months', 3.0)
    """
    return _grid_step(_Same(times))


@lru_cache(1024)
def _grid_step(same: _Same) -> tuple[str, float] | None:
    """The same, remembered."""
    times = same.times
    found = _grid(times) if len(times) > 1 else None
    if found is None:
        return None
    if found.kind in _CLOCKS:
        return SECONDS, found.step / _a_second(times)
    return found.kind, found.step


def first_place(times: Times) -> int:
    """The number of the first step on the grid of all steps of this distance; 0 if it is not known.

    Two tables of the same series, of which one begins later, have numbers as far apart as their
    first steps are.

    Args:
        times: numbers or dates on a regular grid.

    Examples:
        >>> import pandas as pd
        >>> from ssmlin.data._grids import first_place
        >>> months = pd.date_range("2024-01-01", periods=9, freq="MS")
        >>> first_place(months[5:]) - first_place(months)
        5
    """
    return _first_place(_Same(times))


@lru_cache(1024)
def _first_place(same: _Same) -> int:
    """The same, remembered."""
    times = same.times
    found = _grid(times) if len(times) > 1 else None
    if found is None:
        return 0
    if found.kind == "numbers":
        return int(np.floor(found.counted[0] / found.step + TOLERANCE))
    return int(found.counted[0] // found.step)
