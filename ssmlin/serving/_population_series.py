"""One series of a population, step by step; the fit need not have known it."""

import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from ssmlin.forecasting import CollectionState, MemberState, MixtureLaw, PathsLaw
from ssmlin.learning import paths
from ssmlin.serving._series import PathsOfSeries, SeriesState


class ColumnLaws(NamedTuple):
    """The laws of the columns of a series, which are independent.

    Attributes:
        columns: the law of each.
    """

    columns: tuple[MixtureLaw | PathsLaw, ...]

    @property
    def mean(self) -> Float[np.ndarray, " m"]:
        """The means."""
        return np.array([one.expectation() for one in self.columns])

    def quantiles(self, levels: Float[np.ndarray, " Q"]) -> Float[np.ndarray, "Q m"]:
        """The quantiles of each column."""
        return np.stack([one.quantiles(levels) for one in self.columns], axis=1)


class PopulationSeries:
    """One series of a population.

    Args:
        state: what is fitted.
        name: the series.
        first: the number of the first step after the forecaster's data.
    """

    def __init__(self, state: CollectionState, name: str, first: int) -> None:
        self.layout, self._filter, self._first = state.layout, state.filter, first
        self._columns = state.history.get(name)
        self._num_targets = len(self.layout.targets)

    def init(self) -> SeriesState:
        """The state after the forecaster's data; a new series has none."""
        last, columns = np.zeros((0, self._num_targets)), self._columns
        if columns is None:
            return SeriesState((self._filter.begin(),) * self._num_targets, 0, last)
        start = self._first - len(columns.values)
        each = [self._filter.after(columns, i, start) for i in range(self._num_targets)]
        return SeriesState(tuple(each), 0, last)

    def needs_positive(self) -> Sequence[bool]:
        """All columns, where no model sees the values themselves."""
        return [self._filter.needs_positive] * self._num_targets

    def has_begun(self, state: SeriesState) -> bool:
        """Whether a value was observed."""
        return any(one.has_begun for one in _members(state))

    def predict(self, state: SeriesState, inputs: Float[np.ndarray, " k"]) -> ColumnLaws:
        """The law of the values of the next step."""
        number = self._first + state.place
        return ColumnLaws(tuple(self._filter.law(x, number, inputs) for x in _members(state)))

    def step(
        self, state: SeriesState, values: Float[np.ndarray, " m"], inputs: Float[np.ndarray, " k"]
    ) -> tuple[SeriesState, ColumnLaws, float]:
        """The state after a step, the law of its values, and their log density."""
        law = self.predict(state, inputs)
        terms = [
            one.log_density(value) for one, value in zip(law.columns, values, strict=True)
            if not np.isnan(value)
        ]  # fmt: skip
        return self._after(state, values, inputs), law, float(sum(terms))

    def skip(self, state: SeriesState) -> SeriesState:
        """The state after a step whose values are missing."""
        nothing = np.full(self._num_targets, np.nan)
        return self._after(state, nothing, np.zeros(len(self.layout.inputs)))

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
        number = self._first + state.place
        drawn = self._filter.paths(_members(state), number, horizon, inputs, num_samples, seed)
        shares = np.array(levels, float) / 100
        ends = [np.quantile(drawn, 0.5 + side * shares / 2, axis=1) for side in (-1, 1)]
        lower, upper = (np.moveaxis(x, 1, 2) for x in ends)
        return PathsOfSeries(drawn.mean(axis=1).T, lower, upper, np.transpose(drawn, (1, 2, 0)))

    def to_arrays(self, state: SeriesState) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """A state as arrays by name, and what tells which filter it is of."""
        leaves = map(np.asarray, jax.tree.leaves(state.filter))
        arrays = dict(zip(paths(state.filter), leaves, strict=True))
        return arrays, {"filter": self._described()}

    def from_arrays(
        self, arrays: dict[str, np.ndarray], description: dict[str, Any]
    ) -> SeriesState:
        """The inverse of :meth:`to_arrays`."""
        own, got = self._described(), description.get("filter")
        if got != own:
            raise ValueError(f"state: expected one of the population {own}, got one of {got}")
        empty = (self._filter.begin(),) * self._num_targets
        names = paths(empty)
        if set(names) != set(arrays):
            raise ValueError("state: expected the arrays of this population, got others")
        found = jax.tree.unflatten(jax.tree.structure(empty), [arrays[name] for name in names])
        last = np.zeros((0, self._num_targets))
        return SeriesState(found, int(description["place"]), last)

    def _described(self) -> str:
        """The checksum of what a state depends on."""
        digest = hashlib.sha256(repr(self.layout.targets + self.layout.inputs).encode())
        for x in self._filter.params:
            digest.update(np.asarray(x).tobytes())
        return digest.hexdigest()

    def _after(
        self, state: SeriesState, values: Float[np.ndarray, " m"], inputs: Float[np.ndarray, " k"]
    ) -> SeriesState:
        number = self._first + state.place
        each = zip(_members(state), values, strict=True)
        after = tuple(self._filter.step(one, number, y, inputs) for one, y in each)
        return state._replace(filter=after, place=state.place + 1)


def _members(state: SeriesState) -> tuple[MemberState, ...]:
    assert isinstance(state.filter, tuple) and all(isinstance(x, MemberState) for x in state.filter)
    return state.filter  # type: ignore[return-value]
