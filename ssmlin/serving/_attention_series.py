"""One series of a forecaster with a model of its own or a shared one, step by step."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float
from scipy import special

from ssmlin.data import Columns, Scaling, box_cox, first_place, inverse_box_cox
from ssmlin.forecasting import ForecasterState, Observed, in_units, with_lags, with_season
from ssmlin.models import StepPrediction
from ssmlin.serving._online_filter import OnlineFilter
from ssmlin.serving._online_state import OnlineState
from ssmlin.serving._series import PathsOfSeries, SeriesState

#: Steps of the history that are filtered in one program.
_WINDOW = 4096
#: Values that the mean of a transformed law is taken over.
_NODES = 1000


class ScaledLaw(NamedTuple):
    """A law of standardised values, in the units of the series.

    Attributes:
        standard: the law.
        scaling: of the series.
        before: transformed values that differences are added to, (m,); zeros without differences.
    """

    standard: StepPrediction
    scaling: Scaling
    before: Float[np.ndarray, " m"]

    @property
    def mean(self) -> Float[np.ndarray, " m"]:
        """The mean; of transformed values over 1000 quantiles that are evenly spaced."""
        law = self.standard
        if not self.scaling.is_transformed:
            return self._in_units(law.mean)
        means, weights = np.asarray(law.means, np.float64), np.exp(law.log_weights)
        count = max(20, _NODES // len(means))
        levels = ((np.arange(count) + 0.5) / count)[:, None, None]
        df = law.student_df
        z = special.ndtri(levels) if df is None else special.stdtrit(np.asarray(df), levels)
        spread = np.sqrt(np.diagonal(np.asarray(law.scales), axis1=1, axis2=2))
        each = self._in_units(means + z * spread).mean(axis=0)
        mean: Float[np.ndarray, " m"] = weights @ each / weights.sum()
        return mean

    def quantiles(self, levels: Float[np.ndarray, " Q"]) -> Float[np.ndarray, "Q m"]:
        """The quantiles of each column."""
        return self._in_units(self.standard.quantiles(levels))

    def _in_units(self, values: Float[np.ndarray, "... m"]) -> Float[np.ndarray, "... m"]:
        """Standardised values converted back; this never decreases."""
        scaling = self.scaling
        steps = np.asarray(values, np.float64) * np.array(scaling.scale) + np.array(scaling.mean)
        return inverse_box_cox(steps + self.before, scaling.power)


class AttentionSeries:
    """One series of a forecaster with an online filter of its model.

    Args:
        state: what is fitted.
        name: the series.
        num_particles: draws of what is missing, once a lag is.
    """

    def __init__(self, state: ForecasterState, name: str, num_particles: int) -> None:
        self.layout, self.scaling = state.layout, state.scalings[name]
        self.attention = state.fit_of(name)
        self.model, params, self._seasonal = self.attention
        self.filter = OnlineFilter(self.model, params, num_particles=num_particles)
        self.columns: Columns | None = state.history.get(name)
        self._name, self._state = name, state
        self._num_observed = 0 if self.columns is None else len(self.columns.values)
        self._first = 0
        if self.columns is not None:
            self._first = first_place(self.columns.times) + self._num_observed

    @property
    def observed(self) -> Observed:
        """The forecaster's data as the model sees them."""
        return self._state.observed()[self._name]

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

    def needs_positive(self) -> Sequence[bool]:
        """The columns of which the model sees a power or the logarithm."""
        return [power != 1 for power in self.scaling.power]

    def has_begun(self, state: SeriesState) -> bool:
        """It goes on from the data of the fit."""
        return True

    def predict(self, state: SeriesState, inputs: Float[np.ndarray, " k"]) -> ScaledLaw:
        """The law of the values of the next step."""
        law = self.filter.predict(belief_of(state), self._outside(inputs[None], state.place)[0])
        return self._law(state, jax.tree.map(np.asarray, law))

    def step(
        self, state: SeriesState, values: Float[np.ndarray, " m"], inputs: Float[np.ndarray, " k"]
    ) -> tuple[SeriesState, ScaledLaw, float]:
        """The state after a step, the law of its values, and their log density."""
        scaling = self.scaling
        seen = box_cox(values, scaling.power)
        change = seen - state.last[0] if len(state.last) else seen
        z = (change - np.array(scaling.mean)) / np.array(scaling.scale)
        if self.model.num_lags == 0 and self.model.row_cov.structure == "full":
            z = np.where(np.isnan(z).any(), np.nan, z)  # rows share a covariance
        mask = self._num_observed + state.place >= self.model.num_lags
        outside = self._outside(inputs[None], state.place)[0]
        after, law = self.filter.step(belief_of(state), z, outside, mask=mask)
        law = jax.tree.map(np.asarray, law)
        known = ~np.isnan(z) if mask else np.zeros(len(z), bool)
        slopes = (np.array(scaling.power) - 1) * np.log(np.where(values > 0, values, 1.0))
        slopes = np.where(known, slopes - np.log(scaling.scale), 0.0)
        last = np.concatenate([state.last, seen[None]])[1:] if len(state.last) else state.last
        log_density = float(law.log_density) + float(slopes.sum())
        return SeriesState(after, state.place + 1, last), self._law(state, law), log_density

    def skip(self, state: SeriesState) -> SeriesState:
        """The state after a step whose values are missing, and which has no inputs."""
        return self.step(state, np.full(len(self.layout.targets), np.nan), np.zeros(0))[0]

    def forecast(
        self,
        state: SeriesState,
        horizon: int,
        levels: Sequence[float | int],
        inputs: Float[np.ndarray, "H k"],
        num_samples: int,
        seed: int,
    ) -> PathsOfSeries:
        """The next steps, as :meth:`ssmlin.Forecaster.forecasts` has them."""
        found = self.filter.forecast(
            belief_of(state), horizon, future_inputs=self._outside(inputs, state.place),
            key=jax.random.key(seed), num_samples=num_samples,
            levels=tuple(level / 100 for level in levels),
        )  # fmt: skip
        before = inverse_box_cox(state.last, self.scaling.power)
        targets, names = self.layout.targets, self.layout.inputs
        columns = Columns(
            before, np.zeros((len(before), 0)), np.arange(len(before)), targets, names
        )
        return PathsOfSeries(*in_units(found, self.scaling, columns, levels))

    def to_arrays(self, state: SeriesState) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """A state as arrays by name, and what tells which filter it is of."""
        arrays, description = self.filter.to_arrays(belief_of(state))
        return arrays | {"last": state.last}, description

    def from_arrays(
        self, arrays: dict[str, np.ndarray], description: dict[str, Any]
    ) -> SeriesState:
        """The inverse of :meth:`to_arrays`."""
        rest = {name: x for name, x in arrays.items() if name != "last"}
        state = self.filter.from_arrays(rest, description)
        return SeriesState(state, int(description["place"]), arrays["last"])

    def _outside(self, inputs: Float[np.ndarray, "H k"], place: int) -> Float[np.ndarray, "H p"]:
        """Exogenous inputs as the model sees them, with the harmonics of the season."""
        values = np.zeros((len(inputs), len(self.layout.targets)))
        outside = Observed(values, self.scaling.apply_inputs(inputs))
        return with_season(outside, self._seasonal, self._first + place).inputs

    def _law(self, state: SeriesState, law: StepPrediction) -> ScaledLaw:
        before = state.last[0] if len(state.last) else np.zeros(len(self.layout.targets))
        return ScaledLaw(law, self.scaling, before)


def belief_of(state: SeriesState) -> OnlineState:
    """The state of the model's own filter."""
    assert isinstance(state.filter, OnlineState)
    return state.filter
