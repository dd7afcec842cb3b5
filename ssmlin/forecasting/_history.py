"""What of the past of a series predicts its next change: regressors linear in past values."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float, Int

#: Rates of the exponentially weighted averages.
_RATES = (0.03, 0.1, 0.2, 0.4, 0.7)
#: Latest changes.
_CHANGES = 3
#: Seasons back from which changes are taken.
_SEASONS = 2
_MAX_HARMONICS = 4
#: Steps at the start of a series without a season whose past says too little: five averages of
#: fewer changes than that are hardly more than noise.
_LEAST_PAST = 5


@dataclass(frozen=True)
class History:
    """Regressors of the change $z_t - z_{t-1}$, each a linear function of the past.

    They are the latest changes; the distances of exponentially weighted averages from the last
    value; with a season the changes of the same step one and two seasons ago, of the steps beside
    it, the distance of the value a season ago and of the last season's mean; harmonics of long
    seasons; and one. All but the last two kinds are zero for a series that is constant, so nothing
    depends on a series' level.

    Args:
        period: steps a season; None for none.
        num_lags: use so many latest changes, and no averages; None for the above.

    Examples:
        >>> import numpy as np
        >>> from ssmlin.forecasting._history import History
        >>> history = History(num_lags=2)
        >>> history.regressors(np.array([1.0, 2.0, 4.0])).tolist()
        [[0.0, 0.0, 1.0], [0.0, 0.0, 1.0], [1.0, 0.0, 1.0]]
    """

    period: int | None = None
    num_lags: int | None = None

    @cached_property
    def weights(self) -> Float[np.ndarray, "k L"]:
        """Of the last L values, the latest first; rows sum to zero."""
        period = self.period or 0
        seasons = _SEASONS if period else 0
        changes = _CHANGES if self.num_lags is None else self.num_lags
        length = max(changes + 1, seasons * period + 2, 0 if self.num_lags is not None else 8)
        eye = np.eye(length)
        rows = [eye[j] - eye[j + 1] for j in range(changes)]
        if self.num_lags is None:
            for rate in _RATES:
                decay = rate * (1 - rate) ** np.arange(length)
                decay[-1] += 1 - decay.sum()
                rows.append(decay - eye[0])
        if period:
            same = [eye[s * period - 1] - eye[s * period] for s in range(1, seasons + 1)]
            beside = [eye[period - 1 + j] - eye[period + j] for j in (-1, 1) if period + j > 1]
            season = np.zeros(length)
            season[:period] = 1 / period
            rows += [*same, *beside, eye[period - 1] - eye[0], season - eye[0]]
        return np.stack(rows) if rows else np.zeros((0, length))

    @property
    def length(self) -> int:
        """L, how many past values are needed."""
        return int(self.weights.shape[1])

    @property
    def num_regressors(self) -> int:
        """How many regressors there are, the harmonics and one included."""
        return len(self.weights) + 1 + 2 * self._num_harmonics

    @property
    def _num_harmonics(self) -> int:
        """Short seasons have none: their steps' own changes say the same."""
        period = self.period or 0
        return min(_MAX_HARMONICS, (period - 1) // 2) if period > _MAX_HARMONICS else 0

    def places(self, steps: Int[np.ndarray, "*T"]) -> Float[np.ndarray, "*T k"]:
        """What depends on the number of a step alone: one, and the harmonics."""
        order = np.arange(1, self._num_harmonics + 1)
        # Steps at the same place in a season have the same.
        season = np.arange(self.period or 1)
        angle = 2 * np.pi * season[:, None] * order / len(season)
        table = np.concatenate([np.ones((len(season), 1)), np.cos(angle), np.sin(angle)], axis=1)
        found: Float[np.ndarray, "*T k"] = table[np.asarray(steps) % len(season)]
        return found

    def before(
        self, values: Float[np.ndarray, "*B T"], step: Int[np.ndarray, "*B"] | int
    ) -> Float[np.ndarray, "*B L"]:
        """The last L values before a step, the latest first; the first value stands for earlier."""
        places = np.maximum(np.asarray(step)[..., None] - 1 - np.arange(self.length), 0)
        return np.take_along_axis(values, places, axis=-1)

    def regressors(
        self, values: Float[np.ndarray, "*B T"], start: Int[np.ndarray, "*B"] | int = 0
    ) -> Float[np.ndarray, "*B T k"]:
        """The regressors of every step.

        Args:
            values: series without gaps.
            start: the number of the first step of each, which says where in the season it begins.
        """
        early = np.broadcast_to(values[..., :1], (*values.shape[:-1], self.length))
        windows = np.lib.stride_tricks.sliding_window_view(
            np.concatenate([early, values[..., :-1]], axis=-1), self.length, axis=-1
        )
        past = windows @ self.weights[:, ::-1].T
        first = np.broadcast_to(start, values.shape[:-1])
        steps = first[..., None] + np.arange(values.shape[-1])
        return np.concatenate([past, self.places(steps)], axis=-1)

    def first_step(self, steps: Int[np.ndarray, " B"]) -> Int[np.ndarray, " B"]:
        """The first step of series of these lengths that is predicted, after a season or so."""
        first: Int[np.ndarray, " B"] = np.minimum(
            self.period or _LEAST_PAST, np.maximum(1, steps - 3)
        )
        return first
