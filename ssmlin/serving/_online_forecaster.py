"""A fitted forecaster that is fed step by step, in the units of its series."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from ssmlin._files import read_arrays, write_arrays
from ssmlin._typing import AnyArray
from ssmlin.data import Columns, first_place
from ssmlin.forecasting import CollectionState, Forecaster, SeriesForecast, check_forecast
from ssmlin.serving._attention_series import AttentionSeries
from ssmlin.serving._clock import Clock
from ssmlin.serving._population_series import PopulationSeries
from ssmlin.serving._series import SeriesFilter, SeriesLaw, SeriesPrediction, SeriesState

_KIND = "state of an online forecaster"


class OnlineForecaster:
    """A fitted forecaster that goes on from its data step by step, in constant memory.

    Values go in and predictions come out in the units of the series; scaling, transformation,
    differences, lags and season are those of the fit. The predictions are those of a
    :class:`ssmlin.Forecaster` that is updated with all steps. A streamed fit keeps no data: then
    the stream begins a new series, whose steps are numbered.

    A population (``pooling="hierarchical"``) also takes a series that the fit did not know, which
    begins with the stream; of its first three values nothing is predicted. Of a series that it
    knows the size of the changes, which an update would measure anew, stays that of the fit.

    Args:
        forecaster: fitted, or read by :func:`ssmlin.load`.
        series: which of several series.
        num_particles: draws of what is missing, once a lag is; a population has none.

    Raises:
        ValueError: nothing is fitted; or a series that the fit did not know, and no population.

    Examples:
        >>> import numpy as np, pandas as pd, ssmlin
        >>> months = pd.date_range("2020-01-01", periods=36, freq="MS", name="month")
        >>> sales = pd.Series(10 + np.sin(np.arange(36) * np.pi / 6), months, name="sales")
        >>> online = ssmlin.OnlineForecaster(ssmlin.Forecaster().fit(sales))
        >>> state, prediction = online.step(online.init(), [10.0])
        >>> lower, upper = online.predict(state).intervals([80, 95])
        >>> prediction.time.strftime("%Y-%m"), lower.shape
        ('2023-01', (2, 1))
    """

    def __init__(
        self, forecaster: Forecaster, series: str | None = None, *, num_particles: int = 200
    ) -> None:
        state = forecaster.state_
        if state is None:
            raise ValueError("forecaster: expected a fitted one, call fit first")
        self.layout = state.layout
        known: Mapping[str, object] = (
            state.panel if isinstance(state, CollectionState) else state.scalings
        )
        takes_new = isinstance(state, CollectionState) and self.layout.series is not None
        self.name = next(iter(known)) if series is None else series
        if (self.name not in known and not takes_new) or (series is None and len(known) > 1):
            raise ValueError(
                f"series: expected one of {', '.join(list(known)[:20])}, got {series!r}"
            )
        self.columns: Columns | None = state.history.get(self.name)
        # A new series goes on from the times of another one.
        self._times = None if self.columns is None else self.columns.times
        self.series: SeriesFilter
        if isinstance(state, CollectionState):
            if self._times is None and self.layout.time is not None:
                self._times = state.first_to_end.times
            first = 0 if self._times is None else first_place(self._times) + len(self._times)
            self.series = PopulationSeries(state, self.name, first)
        else:
            self.series = AttentionSeries(state, self.name, num_particles)

    @property
    def num_observed(self) -> int:
        """How many steps the forecaster's data have."""
        return 0 if self.columns is None else len(self.columns.values)

    @cached_property
    def clock(self) -> Clock | None:
        """The times of the steps to come; None where steps are numbered."""
        if self.layout.time is None or self._times is None or len(self._times) < 2:
            return None
        return Clock(self._times)

    def init(self) -> SeriesState:
        """The state after the forecaster's data."""
        return self.series.init()

    def step(
        self,
        state: SeriesState,
        values: Sequence[float] | Float[AnyArray, " m"],
        inputs: Sequence[float] | Float[AnyArray, " k"] = (),
        time: Any = None,
    ) -> tuple[SeriesState, SeriesPrediction]:
        """Take one step.

        Args:
            state: before the step.
            values: of the targets, (m,); NaN means missing.
            inputs: known before the step, (k,).
            time: of the step; steps between the last one and this are missing. Default the next.

        Returns:
            The state after the step, and the law of its values before they were seen.

        Raises:
            ValueError: values or inputs of the wrong number, infinite, or outside of the range of
                the transformation; or a time that is not one of the steps to come.
        """
        y, u = self._checked(values, inputs)
        place = state.place
        if time is not None and self.clock is not None:
            place = self.clock.find(time, place)
        if place > state.place and self.layout.inputs and self.series.has_begun(state):
            assert self.clock is not None
            raise ValueError(
                f"time: expected a step at {self.clock.time(state.place)}, since inputs must be "
                f"known at all steps; got {time}"
            )
        while state.place < place:
            state = self.series.skip(state)
        after, law, log_density = self.series.step(state, y, u)
        return after, self._prediction(state, law, log_density)

    def predict(
        self, state: SeriesState, inputs: Sequence[float] | Float[AnyArray, " k"] = ()
    ) -> SeriesPrediction:
        """The law of the values of the next step, given its inputs."""
        _, u = self._checked(np.full(len(self.layout.targets), np.nan), inputs)
        return self._prediction(state, self.series.predict(state, u))

    def forecast(
        self,
        state: SeriesState,
        horizon: int,
        levels: Sequence[float | int] = (50, 80, 95),
        future_inputs: Float[AnyArray, "H k"] | None = None,
        *,
        num_samples: int = 1000,
        seed: int = 0,
    ) -> SeriesForecast:
        """Forecast the next steps, as :meth:`ssmlin.Forecaster.forecasts` does.

        Args:
            state: after the last step.
            horizon: H.
            levels: percentages of the central intervals.
            future_inputs: of the steps to come, (H, k).
            num_samples: sampled paths.
            seed: of the paths.

        Raises:
            ValueError: an argument out of range, or missing inputs.
        """
        check_forecast(horizon, levels, num_samples)
        given = np.zeros((horizon, 0)) if future_inputs is None else np.asarray(future_inputs)
        if given.shape != (horizon, len(self.layout.inputs)):
            raise ValueError(
                f"future_inputs: expected shape {(horizon, len(self.layout.inputs))}, got "
                f"{given.shape}"
            )
        found = self.series.forecast(state, horizon, levels, given, num_samples, seed)
        times = [self.time(place) for place in range(state.place, state.place + horizon)]
        return SeriesForecast(
            self.name, np.array(times), self.layout.targets, found.means, tuple(levels),
            found.lower, found.upper, found.paths,
        )  # fmt: skip

    def time(self, place: int) -> Any:
        """The time of a step after the data; without times its number."""
        return self.num_observed + place if self.clock is None else self.clock.time(place)

    # ------------------------------------------------------------------------- files

    def save(self, path: str | Path, state: SeriesState) -> None:
        """Write a state to a safetensors file; an older one stays whole if writing fails.

        Raises:
            OSError: the file cannot be written.
        """
        write_arrays(Path(path), _KIND, *self.to_arrays(state))

    def load(self, path: str | Path) -> SeriesState:
        """Read a state that :meth:`save` wrote, of the same forecaster.

        Raises:
            OSError: the file cannot be read.
            ValueError: it is damaged, or of another forecaster.
        """
        return self.from_arrays(*read_arrays("path", Path(path), _KIND))

    def to_arrays(self, state: SeriesState) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """A state as arrays by name, and what tells which forecaster it is of."""
        arrays, description = self.series.to_arrays(state)
        return arrays, description | {
            "place": state.place, "series": self.name, "after": self.num_observed,
        }  # fmt: skip

    def from_arrays(
        self, arrays: dict[str, np.ndarray], description: dict[str, Any]
    ) -> SeriesState:
        """The inverse of :meth:`to_arrays`."""
        for what, own in (("series", self.name), ("after", self.num_observed)):
            if description.get(what) != own:
                raise ValueError(
                    f"state: expected one of the forecaster with {what} {own!r}, got "
                    f"{description.get(what)!r}"
                )
        return self.series.from_arrays(arrays, description)

    # ------------------------------------------------------------------------- one step

    def _checked(self, values: Any, inputs: Any) -> tuple[np.ndarray, np.ndarray]:
        """Values and inputs in the units of the series, in float64."""
        y, u = np.asarray(values, np.float64), np.asarray(inputs, np.float64)
        for name, x, wanted in (
            ("values", y, self.layout.targets),
            ("inputs", u, self.layout.inputs),
        ):
            if x.shape != (len(wanted),):
                raise ValueError(
                    f"{name}: expected shape {(len(wanted),)}, for {', '.join(wanted) or 'none'}, "
                    f"got {x.shape}"
                )
        if np.isinf(y).any() or not np.isfinite(u).all():
            raise ValueError("values, inputs: expected finite numbers, got others")
        low = (y <= 0) & np.array(self.series.needs_positive())
        if low.any():
            column = int(low.argmax())
            raise ValueError(
                f"values: expected a positive number in {self.layout.targets[column]!r}, since the "
                f"model sees a power or the logarithm of it, got {y[column]}"
            )
        return y, u

    def _prediction(
        self, state: SeriesState, law: SeriesLaw, log_density: float = 0.0
    ) -> SeriesPrediction:
        return SeriesPrediction(self.time(state.place), self.layout.targets, law, log_density)
