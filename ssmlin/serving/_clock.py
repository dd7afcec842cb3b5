"""The times of a series that goes on: which is next, and how many steps away another one is."""

from typing import Any

import numpy as np

from ssmlin.data import Times, future_times, is_dates

#: Times that are made at once.
_BLOCK = 256
#: A time further away than so many steps is taken for an error.
_MOST_STEPS = 10_000


class Clock:
    """The regular grid of a history, continued; place 0 is the first step after it.

    Args:
        times: of the history, at least two.

    Examples:
        >>> import numpy as np
        >>> from ssmlin.serving._clock import Clock
        >>> clock = Clock(np.array([1990.0, 1992.0]))
        >>> clock.time(0), clock.find(1998.0, 0)
        (1994.0, 2)
    """

    def __init__(self, times: Times) -> None:
        self._history = times
        self._start = 0
        self._block = future_times(times, _BLOCK)

    def time(self, place: int) -> Any:
        """The time of a step: a number, or a pandas Timestamp."""
        if not self._start <= place < self._start + _BLOCK:
            self._start = place
            self._block = future_times(self._history, _BLOCK, place)
        found = self._block[place - self._start]
        return found if is_dates(self._block) else float(found)

    def find(self, time: Any, place: int) -> int:
        """The place of a time, looked for from `place` on.

        Raises:
            ValueError: a time before that of `place`, between two steps, of another kind or
                another time zone, or very far away.
        """
        expected = self.time(place)
        if is_dates(self._block) != hasattr(time, "value"):
            raise ValueError(f"time: expected one like {expected}, as the history has, got {time}")
        try:
            if time < expected and not self._is_same(time, expected):
                raise ValueError(f"time: expected {expected} or later, got {time}")
        except TypeError as error:
            raise ValueError(f"time: expected the time zone of {expected}, got {time}") from error
        for other in range(place, place + _MOST_STEPS):
            here = self.time(other)
            if self._is_same(time, here):
                return other
            if here > time:
                raise ValueError(
                    f"time: expected one of the regular steps, got {time} before {here}"
                )
        raise ValueError(
            f"time: expected at most {_MOST_STEPS} missing steps after {expected}, got {time}"
        )

    def _is_same(self, one: Any, other: Any) -> bool:
        if is_dates(self._block):
            return bool(one == other)
        step = float(self._history[-1] - self._history[-2])
        return bool(np.abs(one - other) <= 1e-3 * abs(step))
