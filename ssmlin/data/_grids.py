"""The regular grid that times are on, its gaps, and its continuation."""

import warnings
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from ssmlin._optional import require
from ssmlin.data._times import Times, is_dates

_MOST_GAPS = 3  # missing steps for each row
#: Steps are equal if they differ by no more than this share of a step.
TOLERANCE = 1e-3


def in_order(times: Times) -> Int[np.ndarray, " T"]:
    """The indices that sort numbers or dates."""
    return np.argsort(_numbers(times), kind="stable")


def _numbers(times: Times) -> Shaped[np.ndarray, " T"]:
    """Numbers that are ordered as the times are."""
    numbers: Shaped[np.ndarray, " T"] = times.asi8 if is_dates(times) else np.asarray(times)
    return numbers


def ticks(times: Times) -> dict[str, Shaped[np.ndarray, " T"]]:
    """Times as numbers, in each of the ways in which their steps may be equal, the likeliest first.

    Numbers are taken as they are. Dates are counted in months ("months"), if all are at the same
    place in their month; in local time ("wall"), where a day may have 23 or 25 hours, if they have
    a time zone and one time of day; in elapsed time ("passed"); and, with any time zone, in local
    time as well, for steps such as half a day.
    """
    if not is_dates(times):
        return {"numbers": np.asarray(times)}
    wall = times if times.tz is None else times.tz_localize(None)
    counted: dict[str, np.ndarray] = {}
    clock = (wall - wall.normalize()).asi8
    same_clock = bool((clock == clock[0]).all())
    months = np.asarray(wall.year * 12 + wall.month)
    one_place = len(set(wall.day)) == 1 or bool(np.asarray(wall.is_month_end).all())
    if one_place and same_clock and (np.diff(months) > 0).all():
        counted["months"] = months
    if times.tz is not None and same_clock:
        counted["wall"] = wall.asi8
    counted["passed"] = times.asi8
    if times.tz is not None:
        counted.setdefault("wall", wall.asi8)
    return counted


def _grid(times: Times) -> tuple[str, Int[np.ndarray, " T"]] | None:
    """The kind of ticks in which times are on a regular grid, and their places on it.

    The step of the grid is the smallest step between two times. None if there is no grid.
    """
    for kind, counted in ticks(times).items():
        ratio = np.diff(counted) / np.diff(counted).min()
        if np.abs(ratio - np.round(ratio)).max() <= TOLERANCE:
            return kind, np.concatenate([[0], np.cumsum(np.round(ratio)).astype(int)])
    return None


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


def regular_steps(times: Times, name: str) -> Steps:
    """The steps that rows are: sorted by time, with those that a regular grid has between them.

    Args:
        times: the times of the rows.
        name: the name of the column of times, for messages.

    Returns:
        The times of all steps, and which rows they are.

    Raises:
        ValueError: times that occur twice or are irregular, or more than three missing steps for
            each row.

    Warns:
        RuntimeWarning: the rows were not sorted, or steps are missing.
    """
    order = in_order(times)
    moved = order if (np.diff(order) < 0).any() else None
    if moved is not None:
        warnings.warn(f"time: rows were brought in the order of {name!r}", RuntimeWarning, 3)
        times = times[order]
    twice = np.flatnonzero(np.diff(_numbers(times)) == 0)
    if len(twice):
        rows = sorted(int(order[i]) + 1 for i in (twice[0], twice[0] + 1))
        raise ValueError(
            f"time: expected each time once in column {name!r}, got {times[twice[0]]} in data rows "
            f"{rows[0]} and {rows[1]}"
        )
    if len(times) == 1:
        return Steps(times, moved, None)
    grid = _grid(times)
    if grid is None:
        counted = next(iter(ticks(times).values()))
        ratio = np.diff(counted) / np.diff(counted).min()
        worst = int(np.abs(ratio - np.round(ratio)).argmax())
        least = int(ratio.argmin())
        raise ValueError(
            f"time: expected regular steps in column {name!r}, got {times[worst]} followed by "
            f"{times[worst + 1]} where the smallest step is from {times[least]} to "
            f"{times[least + 1]}; without a time column the rows are the steps"
        )
    kind, position = grid
    count = int(position[-1]) + 1
    missing = count - len(position)
    if missing == 0:
        return Steps(times, moved, None)
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
    return Steps(_on_grid(times, kind, np.arange(count)), moved, position)


def _on_grid(times: Times, kind: str, places: Int[np.ndarray, " n"]) -> Times:
    """The times at the given places of a grid; place 0 is the first time."""
    require("pandas")
    import pandas as pd

    counted = ticks(times)[kind]
    if not is_dates(times):
        place = int(np.diff(counted).argmin())
        ahead: Times = counted[0] + places * (counted[place + 1] - counted[place])
        return ahead
    step = int(np.diff(counted).min())
    if kind == "passed":
        passed = (counted[0] + step * places).view(f"M8[{times.unit}]")
        utc = pd.DatetimeIndex(passed)
        return utc if times.tz is None else utc.tz_localize("UTC").tz_convert(times.tz)
    wall = times if times.tz is None else times.tz_localize(None)
    if kind == "months":
        at_end = bool(np.asarray(wall.is_month_end).all()) and len(set(wall.day)) > 1
        offset: Callable[[int], pd.DateOffset] = (
            pd.offsets.MonthEnd if at_end else lambda n: pd.DateOffset(months=n)
        )
        dates = pd.DatetimeIndex([wall[0] + offset(step * int(i)) for i in places])
    else:
        dates = pd.DatetimeIndex((counted[0] + step * places).view(f"M8[{times.unit}]"))
    if times.tz is None:
        return dates
    # A local time that is skipped becomes the next one; of a repeated one the first is meant.
    first: Bool[np.ndarray, " n"] = np.ones(len(dates), bool)
    return dates.tz_localize(times.tz, ambiguous=first, nonexistent="shift_forward")


class _Same:
    """Times for a cache: those of thousands of series that share them are counted once."""

    def __init__(self, times: Times) -> None:
        self.times = times
        self._key = _numbers(times).tobytes(), str(times.dtype)

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
        ValueError: fewer than two times, which do not tell the length of a step, or times that are
            not on a regular grid.

    Example:
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
    if len(times) < 2:
        raise ValueError(
            f"times: expected at least 2, which say how long a step is, got {len(times)}"
        )
    grid = _grid(times)
    if grid is None:
        raise ValueError("times: expected regular steps, got others")
    kind, position = grid
    return _on_grid(times, kind, position[-1] + 1 + skip + np.arange(horizon))


def grid_step(times: Times) -> tuple[str, float] | None:
    """How far apart the steps of a regular grid are.

    Args:
        times: numbers or dates.

    Returns:
        ("months", how many), ("seconds", how many) or ("numbers", their distance); None for fewer
        than two times or irregular ones.

    Example:
        >>> import pandas as pd
        >>> from ssmlin.data._grids import grid_step
        >>> grid_step(pd.date_range("2024-01-01", periods=4, freq="QS"))
        ('months', 3.0)
    """
    found = _counted_grid(times)
    if found is None:
        return None
    kind, _, step = found
    if kind in ("numbers", "months") or not is_dates(times):
        return kind, step
    return "seconds", step / {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[times.unit]


def first_place(times: Times) -> int:
    """The number of the first step on the grid of all steps of this distance; 0 if it is not known.

    Two tables of the same series, of which one begins later, have numbers as far apart as their
    first steps are.

    Args:
        times: numbers or dates on a regular grid.

    Example:
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
    found = _counted_grid(same.times)
    if found is None:
        return 0
    kind, counted, step = found
    if kind == "numbers":
        return int(np.floor(counted[0] / step + TOLERANCE))
    return int(counted[0] // step)


def _counted_grid(times: Times) -> tuple[str, np.ndarray, float] | None:
    """In which ticks the times are on a grid, these ticks, and the step in them."""
    found = _grid(times) if len(times) > 1 else None
    if found is None:
        return None
    counted = ticks(times)[found[0]]
    return found[0], counted, float(np.diff(counted).min())
