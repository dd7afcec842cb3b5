"""What following a series needs of any model: its state, its laws, and the filter behind them."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from ssmlin.forecasting import MemberState
from ssmlin.serving._online_state import OnlineState


class SeriesState(NamedTuple):
    """What is known after some steps of a series.

    Attributes:
        filter: of the model; of a population, one for each column.
        place: how many steps came after the forecaster's data.
        last: the last values that differences go back to, transformed, (ℓ, m).
    """

    filter: OnlineState | tuple[MemberState, ...]
    place: int
    last: Float[np.ndarray, "lag m"]


@runtime_checkable
class SeriesLaw(Protocol):
    """The law of the values of one step in the units of the series."""

    @property
    def mean(self) -> Float[np.ndarray, " m"]:
        """The mean."""
        ...

    def quantiles(self, levels: Float[np.ndarray, " Q"]) -> Float[np.ndarray, "Q m"]:
        """The quantiles of each column."""
        ...


class SeriesPrediction(NamedTuple):
    """The law of the values of one step, given those before, in the units of the series.

    Attributes:
        time: of the step: a number or a date; without times the number of the step.
        targets: names of the m columns.
        law: of the values.
        log_density: of what was observed; 0 where nothing was, and in a population where the value
            before is missing.
    """

    time: Any
    targets: tuple[str, ...]
    law: SeriesLaw
    log_density: float = 0.0

    @property
    def mean(self) -> Float[np.ndarray, " m"]:
        """The mean, (m,)."""
        return self.law.mean

    def intervals(
        self, levels: Sequence[float | int]
    ) -> tuple[Float[np.ndarray, "L m"], Float[np.ndarray, "L m"]]:
        """The lower and the upper ends of central intervals with these percentages."""
        half = 0.5 * np.asarray(levels, float) / 100
        ends = self.law.quantiles(np.concatenate([0.5 - half, 0.5 + half]))
        return ends[: len(half)], ends[len(half) :]


class PathsOfSeries(NamedTuple):
    """A forecast of a series in its own units, as :class:`ssmlin.forecasting.SeriesForecast`."""

    means: Float[np.ndarray, "H m"]
    lower: Float[np.ndarray, "levels H m"]
    upper: Float[np.ndarray, "levels H m"]
    paths: Float[np.ndarray, "num_samples H m"]


@runtime_checkable
class SeriesFilter(Protocol):
    """The filter of one series in its own units; inputs are those of the step."""

    def init(self) -> SeriesState:
        """The state after the forecaster's data."""
        ...

    def needs_positive(self) -> Sequence[bool]:
        """Which columns must be positive."""
        ...

    def has_begun(self, state: SeriesState) -> bool:
        """Whether a value was observed."""
        ...

    def predict(self, state: SeriesState, inputs: Float[np.ndarray, " k"]) -> SeriesLaw:
        """The law of the values of the next step."""
        ...

    def step(
        self, state: SeriesState, values: Float[np.ndarray, " m"], inputs: Float[np.ndarray, " k"]
    ) -> tuple[SeriesState, SeriesLaw, float]:
        """The state after a step, the law of its values, and their log density."""
        ...

    def skip(self, state: SeriesState) -> SeriesState:
        """The state after a step whose values are missing, and which has no inputs."""
        ...

    def forecast(
        self,
        state: SeriesState,
        horizon: int,
        levels: Sequence[float | int],
        inputs: Float[np.ndarray, "H k"],
        num_samples: int,
        seed: int,
    ) -> PathsOfSeries:
        """The next steps."""
        ...

    def to_arrays(self, state: SeriesState) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """A state as arrays by name, and what tells which filter it is of."""
        ...

    def from_arrays(
        self, arrays: dict[str, np.ndarray], description: dict[str, Any]
    ) -> SeriesState:
        """The inverse of :meth:`to_arrays`."""
        ...
