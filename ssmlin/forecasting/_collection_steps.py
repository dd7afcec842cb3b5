"""A series of a population step by step, in memory that does not grow."""

from collections.abc import Sequence
from functools import cached_property, partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from ssmlin._buckets import bucket
from ssmlin._typing import AnyArray
from ssmlin.data import Columns, box_cox
from ssmlin.forecasting._collection_fit import Population, conditioned, padded_length
from ssmlin.forecasting._collection_laws import MixtureLaw, PathsLaw
from ssmlin.forecasting._collection_members import (
    LEAST_VALUES,
    Extent,
    InputScale,
    Member,
    inputs_beside,
    whole_members,
)
from ssmlin.forecasting._collection_paths import Known, mixed_paths, mixture_weights
from ssmlin.forecasting._history import History
from ssmlin.inference import RowCovLaw
from ssmlin.models import (
    HierarchicalRegression,
    NextTarget,
    ParamsHierarchicalRegression,
    RegressionStates,
)

#: Steps, at least, before the unit of a new series stays: that of fewer changes is rough.
_LEAST_STEPS = 64
#: Paths that the law of a value after a missing one is told by.
_NUM_PATHS = 1000


class MemberState(NamedTuple):
    """All that is known of one column of a series after some steps; a pytree.

    Attributes:
        states: of each of the K models after the last observed step.
        scores: log likelihoods of each, (K,); -inf where one cannot be used for the series.
        recent: the last values of each model, the latest first, in its units, (K, L).
        units: what the transformed values of each are divided by, (K,).
        extent: of the values that were observed, arrays (1,).
        num_missing: steps after the last observed one.
        inputs: standardised, (S, k), of the steps since the last observed one; while the series is
            short, of all.
        values: of all steps while the series is short, then none.
    """

    states: RegressionStates
    scores: Float[np.ndarray, " K"]
    recent: Float[np.ndarray, "K L"]
    units: Float[np.ndarray, " K"]
    extent: Extent
    num_missing: int
    inputs: Float[np.ndarray, "S k"]
    values: Float[np.ndarray, " T"]

    @property
    def has_begun(self) -> bool:
        """Whether a value was observed."""
        return bool(self.extent.counts[0])

    @property
    def is_short(self) -> bool:
        """Whether all values are kept."""
        return len(self.values) > 0 or not self.has_begun

    def inputs_after(self, inputs: Float[np.ndarray, "H k"]) -> Float[np.ndarray, "M q"]:
        """Regressors by inputs from the step after the last observed one on."""
        since = self.inputs[len(self.inputs) - 1 - self.num_missing :]
        return inputs_beside(np.concatenate([since, inputs]))


class PopulationFilter:
    """The filter of a population, one step of one series at a time.

    The numbers are those of the population that is given all values at once, but for one: it
    divides the changes of a series by their size, which all values tell. Here the size is that of
    the first steps: of the fit's data, or of the first 64 or two seasons of a new series, whose
    values are kept until then. It must stay, since a filter cannot change its units afterwards.

    Args:
        populations: the fitted models.
        history: what they see of the past.
        input_scale: of the inputs.
    """

    def __init__(
        self, populations: Sequence[Population], history: History, input_scale: InputScale
    ) -> None:
        self._populations, self._history = populations, history
        self._input_scale = input_scale
        self._powers = np.array([one.power for one in self._populations])
        self._model: HierarchicalRegression = self._populations[0].model
        self._least_steps = max(_LEAST_STEPS, self._history.length)

    @property
    def needs_positive(self) -> bool:
        """Whether no model takes values that are not positive."""
        return 1 not in self._powers

    @cached_property
    def params(self) -> ParamsHierarchicalRegression:
        """The parameters of all models, with a leading axis K."""
        each = [one.params for one in self._populations]
        stacked: ParamsHierarchicalRegression = jax.tree.map(_stacked, *each)
        return stacked

    def begin(self) -> MemberState:
        """The state before the first value."""
        count, d = len(self._populations), self._model.num_regressors
        dtype = self.params.spread.dtype

        def zeros(*shape: int) -> Any:
            return np.zeros((count, *shape), dtype)

        variance, nothing = RowCovLaw(zeros(), zeros()), np.zeros(1)
        return MemberState(
            RegressionStates(zeros(d), zeros(d, d), variance, zeros()),
            np.full(count, -np.inf), np.zeros((count, self._history.length)), np.ones(count),
            Extent(nothing, nothing, nothing, np.zeros(1, int), nothing), 0,
            np.zeros((0, len(self._input_scale.mean))), np.zeros(0),
        )  # fmt: skip

    def after(self, columns: Columns, target: int, number: int) -> MemberState:
        """The state after a column of a series.

        Args:
            columns: the series.
            target: the number of the column.
            number: of its first step, which says where in the season it is.
        """
        values = columns.values[:, target]
        seen = np.flatnonzero(~np.isnan(values))
        if not len(seen):
            return self.begin()
        inputs = self._input_scale.apply(columns.inputs[seen[0] :])
        return self._whole(values[seen[0] :], inputs, number + int(seen[0]))

    def step(
        self, state: MemberState, number: int, value: float, inputs: Float[np.ndarray, " k"]
    ) -> MemberState:
        """The state after one more step.

        Args:
            state: before the step.
            number: of the step.
            value: NaN means missing.
            inputs: known before the step.
        """
        known = np.concatenate([state.inputs, self._input_scale.apply(inputs[None])])
        if state.is_short:
            if not state.has_begun and np.isnan(value):
                return state
            values = np.append(state.values, value)
            return self._whole(values, known, number + 1 - len(values))
        missing = state.num_missing
        if np.isnan(value):
            return state._replace(num_missing=missing + 1, inputs=known)
        usable = (self._powers == 1) | (value > 0)
        seen = np.where(usable, value, 1.0)
        z = box_cox(seen, tuple(self._powers)) / state.units
        scores = np.where(usable, state.scores, -np.inf)
        if missing:
            states = _drifted(self._model, self.params, state.states, np.int32(missing + 1))
        else:
            # The likelihoods are summed up in double precision.
            zeros: Any = np.zeros_like(self.params.df)
            fresh = state.states._replace(log_likelihoods=zeros)
            h = self._regressors(state, number, inputs)
            changes = (z - state.recent[:, 0]).astype(h.dtype)
            states, _ = _advanced(self._model, self.params, fresh, changes, h)
            slopes = (self._powers - 1) * np.log(np.where(self._powers == 1, 1.0, seen))
            slopes -= np.log(state.units)
            scores = scores + slopes + np.asarray(states.log_likelihoods, np.float64)
        # Gaps are filled by straight lines, of which the last L values are needed.
        back = np.arange(min(missing, self._history.length)) + 1
        line = z[:, None] + (state.recent[:, :1] - z[:, None]) * (back / (missing + 1))
        recent = np.concatenate([z[:, None], line, state.recent], axis=1)
        return MemberState(
            states, scores, recent[:, : self._history.length], state.units,
            state.extent.after(np.array([value])), 0, known[-1:], state.values,
        )  # fmt: skip

    def law(
        self, state: MemberState, number: int, inputs: Float[np.ndarray, " k"]
    ) -> MixtureLaw | PathsLaw:
        """The law of the next value.

        Args:
            state: before it.
            number: of its step.
            inputs: of its step.
        """
        if not np.isfinite(state.scores).any():
            return PathsLaw(np.full(1, np.nan))
        if state.num_missing:
            paths = self.paths([state], number, 1, inputs[None], _NUM_PATHS, number)
            return PathsLaw(paths[0, :, 0])
        h = self._regressors(state, number, inputs)
        nothing = np.full(len(h), np.nan, h.dtype)
        _, change = _advanced(self._model, self.params, state.states, nothing, h)
        mean, scale, df = (np.asarray(x, np.float64) for x in change)
        weights = mixture_weights(state.scores[:, None])[:, 0]
        whole = MixtureLaw(
            weights, self._powers, state.units, state.recent[:, 0] + mean, scale, df,
            self._bounds(state),
        )  # fmt: skip
        return MixtureLaw(*(x[weights > 0] for x in whole))

    def paths(
        self,
        states: Sequence[MemberState],
        number: int,
        horizon: int,
        inputs: Float[np.ndarray, "H k"],
        num_samples: int,
        seed: int,
    ) -> Float[np.ndarray, "B n H"]:
        """Paths of the next values of the columns of a series, as the population draws them.

        Args:
            states: of the columns.
            number: of the first step to come.
            horizon: H.
            inputs: of the steps to come.
            num_samples: n.
            seed: of the draws.
        """
        known: list[Known | None] = []
        inputs = self._input_scale.apply(inputs)
        beside = [one.inputs_after(inputs) if one.has_begun else None for one in states]
        for k in range(len(self._populations)):
            places = [j for j, one in enumerate(states) if np.isfinite(one.scores[k])]
            chosen = [states[j] for j in places]
            if not chosen:
                known.append(None)
                continue
            members = [self._member(one, k, number) for one in chosen]
            laws = jax.tree.map(_stacked, *(_at(one.states, k) for one in chosen))
            scores = np.array([one.scores[k] for one in chosen])
            own = [x for j, x in enumerate(beside) if j in places and x is not None]
            known.append(Known(places, members, laws, scores, own))
        return mixed_paths(
            self._populations, self._history, known, len(states), horizon, num_samples,
            np.random.default_rng(seed), bucket(len(states)),
        )  # fmt: skip

    # ------------------------------------------------------------------------- of all steps

    def _whole(
        self, values: Float[np.ndarray, " T"], inputs: Float[np.ndarray, "T k"], number: int
    ) -> MemberState:
        """The state after all steps so far, of which the first was observed."""
        seen = np.flatnonzero(~np.isnan(values))
        state, end = self.begin(), int(seen[-1]) + 1
        made, units = [_at(state.states, 0)] * len(self._populations), []
        scores, recent = state.scores, state.recent
        for k, population in enumerate(self._populations):
            units.append(1.0)
            if len(seen) < LEAST_VALUES or (population.power != 1 and values[seen].min() <= 0):
                continue
            (member,) = whole_members(
                values[None, :end], inputs[None, :end], np.array([end]), np.array([number]),
                population.power, self._history,
            )  # fmt: skip
            length = padded_length(max(end, self._least_steps))
            found = conditioned(population, [member], bucket(1), length)
            scores[k] = float(found.log_likelihoods[0]) + member.log_slope
            recent[k], units[k] = member.last, member.scale
            made[k] = _at(found, 0)
        states = jax.tree.map(_stacked, *made)
        missing = len(values) - end
        is_long = len(values) >= self._least_steps and len(seen) >= LEAST_VALUES
        return MemberState(
            states, scores, recent, np.array(units),
            Extent.of(values[None, seen], np.array([len(seen)])), missing,
            inputs[end - 1 :] if is_long else inputs, values[:0] if is_long else values,
        )  # fmt: skip

    # ------------------------------------------------------------------------- of one step

    def _regressors(
        self, state: MemberState, number: int, inputs: Float[np.ndarray, " k"]
    ) -> Float[np.ndarray, "K d"]:
        """The regressors of the next step, for each model."""
        past = state.recent @ self._history.weights.T
        beside = state.inputs_after(self._input_scale.apply(inputs[None]))[0]
        others = np.concatenate([self._history.places(np.array([number]))[0], beside])
        rows = np.broadcast_to(others, (len(past), len(others)))
        return np.concatenate([past, rows], axis=1).astype(self.params.spread.dtype)

    def _bounds(self, state: MemberState) -> Float[np.ndarray, "K 2"]:
        """Within which each model keeps values, in its units."""
        return np.concatenate([
            state.extent.bounds(unit[None], power)
            if np.isfinite(score) else np.array([[-np.inf, np.inf]])
            for unit, power, score in zip(state.units, self._powers, state.scores, strict=True)
        ])  # fmt: skip

    def _member(self, state: MemberState, k: int, number: int) -> Member:
        """A column as paths of one model start from it; what it was made of is gone."""
        return Member(
            np.zeros(0), np.zeros((0, self._model.num_regressors)), state.recent[k],
            float(state.units[k]), tuple(self._bounds(state)[k]), 0.0, state.num_missing,
            number - state.num_missing,
        )  # fmt: skip


def _at(states: RegressionStates, place: int) -> RegressionStates:
    """The states at one place of the first axis."""
    one: RegressionStates = jax.tree.map(lambda x: np.asarray(x)[place, ...], states)
    return one


def _stacked(*arrays: Float[AnyArray, "..."]) -> Float[np.ndarray, "..."]:
    return np.stack([np.asarray(x) for x in arrays])


@partial(jax.jit, static_argnums=0)
def _advanced(
    model: HierarchicalRegression,
    params: ParamsHierarchicalRegression,
    states: RegressionStates,
    targets: Float[Array, " K"],
    regressors: Float[Array, "K d"],
) -> tuple[RegressionStates, NextTarget]:
    """One step of one series under every model."""

    def one(params: ParamsHierarchicalRegression, *given: Any) -> Any:
        found = model.step(params, *jax.tree.map(lambda x: x[None], given))
        return jax.tree.map(lambda x: x[0], found)

    found: tuple[RegressionStates, NextTarget] = jax.vmap(one)(params, states, targets, regressors)
    return found


@partial(jax.jit, static_argnums=0)
def _drifted(
    model: HierarchicalRegression,
    params: ParamsHierarchicalRegression,
    states: RegressionStates,
    num_steps: Int[Array, ""],
) -> RegressionStates:
    """What is known under every model after steps that are missing."""

    def one(params: ParamsHierarchicalRegression, states: RegressionStates) -> RegressionStates:
        return model.drift(params, states, num_steps)

    found: RegressionStates = jax.vmap(one)(params, states)
    return found
