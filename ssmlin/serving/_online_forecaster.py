"""A fitted forecaster that is fed step by step, in the units of its series."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float
from scipy import special

from ssmlin._files import read_arrays, write_arrays
from ssmlin._typing import AnyArray
from ssmlin.data import Columns, Scaling, box_cox, first_place, inverse_box_cox
from ssmlin.forecasting import (
    Forecaster,
    ForecasterState,
    Observed,
    SeriesForecast,
    check_forecast,
    in_units,
    with_lags,
    with_season,
)
from ssmlin.models import StepPrediction
from ssmlin.serving._clock import Clock
from ssmlin.serving._online_filter import OnlineFilter
from ssmlin.serving._online_state import OnlineState

_KIND = "state of an online forecaster"
#: Steps of the history that are filtered in one program.
_WINDOW = 4096
#: Values that the mean of a transformed law is taken over.
_NODES = 1000


class SeriesState(NamedTuple):
    """What is known after some steps of a series.

    Attributes:
        filter: of the model.
        place: how many steps came after the forecaster's data.
        last: the last values that differences go back to, transformed, (ℓ, m).
    """

    filter: OnlineState
    place: int
    last: Float[np.ndarray, "lag m"]


class SeriesPrediction(NamedTuple):
    """The law of the values of one step, given those before, in the units of the series.

    Attributes:
        time: of the step: a number or a date; without times the number of the step.
        targets: names of the m columns.
        law: of the standardised values.
        scaling: of the series.
        before: transformed values that differences are added to, (m,); zeros without differences.
        log_density: of what was observed, in the units of the series; 0 where nothing was.
    """

    time: Any
    targets: tuple[str, ...]
    law: StepPrediction
    scaling: Scaling
    before: Float[np.ndarray, " m"]
    log_density: float = 0.0

    @property
    def mean(self) -> Float[np.ndarray, " m"]:
        """The mean, (m,); of transformed values over 1000 quantiles that are evenly spaced."""
        if not self.scaling.is_transformed:
            return self._in_units(self.law.mean)
        means, weights = np.asarray(self.law.means, np.float64), np.exp(self.law.log_weights)
        count = max(20, _NODES // len(means))
        levels = ((np.arange(count) + 0.5) / count)[:, None, None]
        df = self.law.student_df
        z = special.ndtri(levels) if df is None else special.stdtrit(np.asarray(df), levels)
        spread = np.sqrt(np.diagonal(np.asarray(self.law.scales), axis1=1, axis2=2))
        each = self._in_units(means + z * spread).mean(axis=0)
        mean: Float[np.ndarray, " m"] = weights @ each / weights.sum()
        return mean

    def intervals(
        self, levels: Sequence[float | int]
    ) -> tuple[Float[np.ndarray, "L m"], Float[np.ndarray, "L m"]]:
        """The lower and the upper ends of central intervals with these percentages."""
        lower, upper = self.law.intervals(np.asarray(levels, float) / 100)
        return self._in_units(lower), self._in_units(upper)

    def _in_units(self, values: Float[np.ndarray, "... m"]) -> Float[np.ndarray, "... m"]:
        """Standardised values converted back; this never decreases."""
        scaling = self.scaling
        steps = np.asarray(values, np.float64) * np.array(scaling.scale) + np.array(scaling.mean)
        return inverse_box_cox(steps + self.before, scaling.power)


class OnlineForecaster:
    """A fitted forecaster that goes on from its data step by step, in constant memory.

    Values go in and predictions come out in the units of the series; scaling, transformation,
    differences, lags and season are those of the fit. The predictions are those of a
    :class:`ssmlin.Forecaster` that is updated with all steps. A streamed fit keeps no data: then
    the stream begins a new series, whose steps are numbered.

    Args:
        forecaster: fitted, or read by :func:`ssmlin.load`.
        series: which of several series.
        num_particles: draws of what is missing, once a lag is.

    Raises:
        ValueError: nothing is fitted; a population (``pooling="hierarchical"``), which has another
            filter; or a series that the fit did not know.

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
        if not isinstance(state, ForecasterState):
            raise ValueError(
                "forecaster: expected pooling='separate' or 'shared', got a population "
                "(pooling='hierarchical'), whose series are not filtered one by one; fit with "
                "another pooling, or call update and predict"
            )
        names = list(state.scalings)
        self.name = names[0] if series is None else series
        if self.name not in names or (series is None and len(names) > 1):
            raise ValueError(f"series: expected one of {', '.join(names[:20])}, got {series!r}")
        self.layout = state.layout
        self.scaling = state.scalings[self.name]
        self.attention = state.fit_of(self.name)
        self.model, params, self._seasonal = self.attention
        self.filter = OnlineFilter(self.model, params, num_particles=num_particles)
        self.columns = state.history.get(self.name)
        self._state = state

    @property
    def num_observed(self) -> int:
        """How many steps the forecaster's data have."""
        return 0 if self.columns is None else len(self.columns.values)

    @property
    def observed(self) -> Observed:
        """The forecaster's data as the model sees them."""
        return self._state.observed()[self.name]

    @cached_property
    def clock(self) -> Clock | None:
        """The times of the steps to come; None where steps are numbered."""
        if self.layout.time is None or self.columns is None or self.num_observed < 2:
            return None
        return Clock(self.columns.times)

    @cached_property
    def _first_place(self) -> int:
        """Where in the season the first step after the data is."""
        if self.columns is None:
            return 0
        return first_place(self.columns.times) + self.num_observed

    def init(self) -> SeriesState:
        """The state after the forecaster's data."""
        lag, m = self.scaling.difference, len(self.layout.targets)
        last, state = np.full((lag, m), np.nan), self.filter.init()
        if self.columns is None:
            return SeriesState(state, 0, last)
        observed = self.observed
        # What is missing of a lag is drawn; without lags a step may be left out.
        y = observed.values if self.model.num_lags else with_lags(self.model, observed)[0]
        mask = np.arange(len(y)) >= self.model.num_lags
        for start in range(0, len(y), _WINDOW):
            part = slice(start, start + _WINDOW)
            state, _ = self.filter.steps(state, y[part], observed.inputs[part], mask=mask[part])
        if lag:
            last = box_cox(self.columns.values[-lag:], self.scaling.power)
        return SeriesState(state, 0, last)

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
        if place > state.place and self.layout.inputs:
            assert self.clock is not None
            raise ValueError(
                f"time: expected a step at {self.clock.time(state.place)}, since inputs must be "
                f"known at all steps; got {time}"
            )
        nothing = np.full(len(y), np.nan)
        while state.place < place:
            state, _ = self._step(state, nothing, u)
        return self._step(state, y, u)

    def predict(
        self, state: SeriesState, inputs: Sequence[float] | Float[AnyArray, " k"] = ()
    ) -> SeriesPrediction:
        """The law of the values of the next step, given its inputs."""
        _, u = self._checked(np.full(len(self.layout.targets), np.nan), inputs)
        law = self.filter.predict(state.filter, self._outside(u[None], state.place)[0])
        return self._prediction(state, jax.tree.map(np.asarray, law))

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
        found = self.filter.forecast(
            state.filter, horizon, future_inputs=self._outside(given, state.place),
            key=jax.random.key(seed), num_samples=num_samples,
            levels=tuple(level / 100 for level in levels),
        )  # fmt: skip
        before = inverse_box_cox(state.last, self.scaling.power)
        targets, names = self.layout.targets, self.layout.inputs
        columns = Columns(
            before, np.zeros((len(before), 0)), np.arange(len(before)), targets, names
        )
        means, lower, upper, paths = in_units(found, self.scaling, columns, levels)
        times = [self.time(place) for place in range(state.place, state.place + horizon)]
        return SeriesForecast(
            self.name, np.array(times), targets, means, tuple(levels), lower, upper, paths
        )

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
        arrays, description = self.filter.to_arrays(state.filter)
        return arrays | {"last": state.last}, description | {
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
        rest = {name: x for name, x in arrays.items() if name != "last"}
        state = self.filter.from_arrays(rest, description)
        return SeriesState(state, int(description["place"]), arrays["last"])

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
        low = (y <= 0) & (np.array(self.scaling.power) != 1)
        if low.any():
            column = int(low.argmax())
            raise ValueError(
                f"values: expected a positive number in {self.layout.targets[column]!r}, since the "
                f"model sees a power or the logarithm of it, got {y[column]}"
            )
        return y, u

    def _outside(self, inputs: Float[np.ndarray, "H k"], place: int) -> Float[np.ndarray, "H p"]:
        """Exogenous inputs as the model sees them, with the harmonics of the season."""
        values = np.zeros((len(inputs), len(self.layout.targets)))
        outside = Observed(values, self.scaling.apply_inputs(inputs))
        return with_season(outside, self._seasonal, self._first_place + place).inputs

    def _prediction(self, state: SeriesState, law: StepPrediction) -> SeriesPrediction:
        before = state.last[0] if len(state.last) else np.zeros(len(self.layout.targets))
        return SeriesPrediction(
            self.time(state.place), self.layout.targets, law, self.scaling, before
        )

    def _step(
        self, state: SeriesState, values: np.ndarray, inputs: np.ndarray
    ) -> tuple[SeriesState, SeriesPrediction]:
        """The next step."""
        scaling = self.scaling
        seen = box_cox(values, scaling.power)
        change = seen - state.last[0] if len(state.last) else seen
        z = (change - np.array(scaling.mean)) / np.array(scaling.scale)
        if self.model.num_lags == 0 and self.model.row_cov.structure == "full":
            z = np.where(np.isnan(z).any(), np.nan, z)  # rows share a covariance
        mask = self.num_observed + state.place >= self.model.num_lags
        outside = self._outside(inputs[None], state.place)[0]
        after, law = self.filter.step(state.filter, z, outside, mask=mask)
        law = jax.tree.map(np.asarray, law)
        prediction = self._prediction(state, law)
        known = ~np.isnan(z) if mask else np.zeros(len(z), bool)
        slopes = (np.array(scaling.power) - 1) * np.log(np.where(values > 0, values, 1.0))
        slopes = np.where(known, slopes - np.log(scaling.scale), 0.0)
        last = np.concatenate([state.last, seen[None]])[1:] if len(state.last) else state.last
        return (
            SeriesState(after, state.place + 1, last),
            prediction._replace(log_density=float(law.log_density) + float(slopes.sum())),
        )
