r"""Forecasts of many series by one hierarchical regression, fitted to all of them.

The change of each series, transformed and divided by the size of its changes, is regressed on its
own past, see :class:`History`, by a :class:`ssmlin.models.HierarchicalRegression`. Where all values
are positive there are two: of the values and of their logarithms. Each series mixes them, with
weights proportional to the square roots of their likelihoods.
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import batched
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from ssmlin._buckets import bucket
from ssmlin._display import one_line, small_table
from ssmlin._progress import waiting
from ssmlin.data import Columns, Times, future_times
from ssmlin.forecasting._ahead import SeriesForecast, check_forecast
from ssmlin.forecasting._collection_fit import (
    Population,
    conditioned,
    fit_population,
    padded_length,
)
from ssmlin.forecasting._collection_members import (
    LEAST_VALUES,
    InputScale,
    inputs_beside,
    members_of,
)
from ssmlin.forecasting._collection_paths import Known, mixed_paths
from ssmlin.forecasting._collection_steps import PopulationFilter
from ssmlin.forecasting._future import future_panel
from ssmlin.forecasting._history import History
from ssmlin.forecasting._layout import Layout
from ssmlin.forecasting._powers import fixed_power

#: Series that are forecast at once.
_BATCH = 128
#: Series that the parameters are fitted to, at most: many more than there are parameters.
_MOST_FITTED = 4096
#: Fewer positive series than this have no model of their logarithms.
_LEAST_SERIES = 5
#: L-BFGS steps of a fit, at most.
MOST_STEPS = 1000


def powers_to_mix(transform: str | float | int) -> tuple[float, ...]:
    """The powers of the transformations that series mix, by the setting of a recipe."""
    fixed = fixed_power(transform)
    if fixed is not None:
        return (fixed,)
    return (1.0, 0.5, 0.0) if transform == "box-cox" else (1.0, 0.0)


def sizes(panel: Mapping[str, Columns]) -> dict[str, object]:
    """How many series there are and of how many steps, to be shown."""
    steps = sorted(len(one.values) for one in panel.values())
    if not steps:
        return {"num_series": 0}
    same = steps[0] == steps[-1]
    return {"num_series": len(steps), "num_steps": steps[0] if same else (steps[0], steps[-1])}


@dataclass(frozen=True)
class CollectionState:
    """What a forecaster of many series knows; see :class:`ssmlin.forecasting.ForecasterState`.

    Args:
        layout: the caller's names.
        history: the series that forecasts go on from.
        populations: the fitted models, one for each transformation.
        regressors: what is made of the past.
        input_scale: of the inputs.
        converged: whether all fits had converged.
        notes: further notes of the caller, which a file keeps.
    """

    layout: Layout
    history: Mapping[str, Columns]
    populations: tuple[Population, ...]
    regressors: History
    input_scale: InputScale
    converged: bool = True
    notes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def panel(self) -> Mapping[str, Columns]:
        """The series that forecasts go on from.

        Raises:
            ValueError: there are none, after a fit to files that was saved.
        """
        if not self.history:
            raise ValueError(
                "data: expected the series that forecasts go on from, since a model's file keeps "
                "none that lie in files; call update first, as forecast and --after do on the "
                "command line"
            )
        return self.history

    @cached_property
    def filter(self) -> PopulationFilter:
        """The same models one step at a time."""
        return PopulationFilter(self.populations, self.regressors, self.input_scale)

    @cached_property
    def first_to_end(self) -> Columns:
        """The series that ends first; on its times a series goes on that is not known."""
        return min(self.history.values(), key=lambda one: one.times[-1])

    @property
    def only_fit(self) -> Population:
        """The model, where there is one.

        Raises:
            ValueError: there are several.
        """
        if len(self.populations) > 1:
            raise ValueError(
                "transform: expected one model, got one of the values and one of their "
                "logarithms; state_.populations has both"
            )
        return self.populations[0]

    @property
    def summary(self) -> dict[str, Any]:
        """What was chosen and fitted."""
        params = self.populations[0].params
        return {
            "mechanism": "bayesian_memory",
            "pooling": "hierarchical",
            "num_series": len(self.history),
            "powers": [one.power for one in self.populations],
            "period": self.regressors.period,
            "num_parameters": sum(x.size for x in params) * len(self.populations),
            "alpha": float(params.decay),
            "converged": self.converged,
        }

    def __repr__(self) -> str:
        return one_line(self, sizes(self.history) | self.summary)

    def _repr_html_(self) -> str:
        return small_table(type(self).__name__, sizes(self.history) | self.summary)

    def describe(self, *, was_chosen: bool = True) -> list[str]:
        """The summary as sentences."""
        said, seen = self.summary, ["the values as they are"] * (1.0 in self.summary["powers"])
        seen += ["their logarithms"] * (0.0 in said["powers"])
        seen += [f"their power {p:g}" for p in said["powers"] if p not in (0.0, 1.0)]
        return [
            f"bayesian_memory, a population of {said['num_series']} series, "
            f"{said['num_parameters']} parameters; α = {said['alpha']:.3f}",
            f"the models see {' and '.join(seen)}, mixed for each series by their likelihoods",
        ]

    def with_panel(self, panel: Mapping[str, Columns], layout: Layout) -> "CollectionState":
        """The same models after other data, of series that the fit need not have known."""
        return replace(self, layout=layout, history=panel)

    def forecasts(
        self,
        horizon: int,
        levels: Sequence[float | int],
        future: Mapping[str, Float[np.ndarray, "H k"] | None] | object = None,
        *,
        num_samples: int,
        seed: int,
    ) -> Iterator[SeriesForecast]:
        """Forecast each series, a batch at a time, as ``ForecasterState.forecasts`` does."""
        check_forecast(horizon, levels, num_samples)
        known = future_panel(future, self.layout, self.panel, horizon)
        parts = [(name, i) for name, one in self.panel.items() for i in range(len(one.targets))]
        rng = np.random.default_rng(seed)
        shares = np.array(levels, float) / 100
        ends = np.concatenate([0.5 - shares / 2, 0.5 + shares / 2])
        waiting_for: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        for start in range(0, len(parts), _BATCH):
            batch = parts[start : start + _BATCH]
            paths = self._paths(batch, horizon, known, num_samples, rng)
            # Of all series at once, which takes a tenth of the time.
            means, quantiles = paths.mean(axis=1), np.quantile(paths, ends, axis=1)
            for j, (name, i) in enumerate(batch):
                waiting_for.append((means[j], quantiles[:, j], paths[j]))
                if i + 1 == len(self.panel[name].targets):
                    mean, found, drawn = (
                        np.stack(x, axis=-1) for x in zip(*waiting_for, strict=True)
                    )
                    yield SeriesForecast(
                        name, self._times(name, horizon), self.panel[name].targets, mean,
                        tuple(levels), found[: len(levels)], found[len(levels) :], drawn,
                    )  # fmt: skip
                    waiting_for = []

    def _times(self, name: str, horizon: int) -> Times:
        """The steps to come of a series."""
        columns = self.panel[name]
        if self.layout.time is not None:
            return future_times(columns.times, horizon)
        return len(columns.values) + np.arange(horizon)

    def _paths(
        self,
        parts: Sequence[tuple[str, int]],
        horizon: int,
        future: Mapping[str, Float[np.ndarray, "H k"] | None],
        num_samples: int,
        rng: np.random.Generator,
    ) -> Float[np.ndarray, "B n H"]:
        """Paths of a batch of columns, each a mixture over the transformations."""
        if 1 not in [one.power for one in self.populations]:
            for name, i in parts:
                _check_positive(name, self.panel[name].values[:, i])
        known: list[Known | None] = []
        for population in self.populations:
            members = members_of(
                [(self.panel[name], i) for name, i in parts],
                population.power, self.regressors, self.input_scale,
            )  # fmt: skip
            places = [j for j, one in enumerate(members) if one is not None]
            usable = [one for one in members if one is not None]
            if not usable:
                known.append(None)
                continue
            states = conditioned(population, usable, *self._batch_shape)
            likelihoods = np.asarray(states.log_likelihoods, np.float64)
            scores = likelihoods + [one.log_slope for one in usable]
            beside = [self._future_inputs(parts[j][0], future, horizon, one.num_missing)
                      for j, one in zip(places, usable, strict=True)]  # fmt: skip
            known.append(Known(places, usable, states, scores, beside))
        return mixed_paths(
            self.populations, self.regressors, known, len(parts), horizon, num_samples, rng,
            self._batch_shape[0],
        )  # fmt: skip

    @cached_property
    def _batch_shape(self) -> tuple[int, int]:
        """Series and steps of a batch, the same for all batches, so that they share programs."""
        count = sum(len(one.targets) for one in self.panel.values())
        longest = max(len(one.values) for one in self.panel.values())
        return bucket(min(count, _BATCH)), padded_length(longest)

    def _future_inputs(
        self,
        name: str,
        future: Mapping[str, Float[np.ndarray, "H k"] | None],
        horizon: int,
        num_missing: int,
    ) -> Float[np.ndarray, "M _"]:
        """Regressors by inputs of the steps after the last observed one."""
        past = self.input_scale.apply(self.panel[name].inputs)
        ahead = future[name]
        if ahead is None:
            ahead = np.zeros((horizon, past.shape[1]))
        else:
            ahead = self.input_scale.apply(np.asarray(ahead, np.float64))
        return inputs_beside(np.concatenate([past, ahead])[len(past) - num_missing - 1 :])


def _check_positive(name: str, values: Float[np.ndarray, " T"]) -> None:
    """Raise ValueError if a value is not positive."""
    if (values <= 0).any():
        raise ValueError(
            f"series {name!r}: transform: expected positive values where the values themselves "
            f"are not modelled, got {np.nanmin(values):g}"
        )


def fit_collection(
    panel: Mapping[str, Columns],
    layout: Layout,
    *,
    period: int | None,
    num_lags: int | None,
    powers: Sequence[float],
    seed: int,
    num_steps: int,
    folder: Path | None,
    progress: bool,
) -> CollectionState:
    """Fit the parameters that all series share.

    Args:
        panel: the series by name.
        layout: the caller's names.
        period: steps a season.
        num_lags: see :class:`History`.
        powers: transformations to mix; one that is not 1 is left out where few series are positive.
        seed: of the choice of series, where there are more than are fitted.
        num_steps: of each fit, at most.
        folder: where the states of the fits are kept, if anywhere.
        progress: show what is done.

    Raises:
        ValueError: no series can be used, or a value is not positive where it must be.

    Warns:
        RuntimeWarning: series that are too short, for which there are no forecasts; or a fit that
            was still improving when it ended.
    """
    history, scale = History(period, num_lags), InputScale.of(panel)
    parts = [(name, i) for name, one in panel.items() for i in range(len(one.targets))]
    short = [
        name for name, i in parts
        if np.count_nonzero(~np.isnan(panel[name].values[:, i])) < LEAST_VALUES
    ]  # fmt: skip
    if len(short) == len(parts):
        raise ValueError(
            f"data: expected a series of at least {LEAST_VALUES} observed values, got none"
        )
    if short:
        warnings.warn(
            f"{len(short)} of {len(parts)} series have fewer than {LEAST_VALUES} observed values "
            f"and are not forecast: {', '.join(map(repr, short[:5]))}"
            + (", ..." if len(short) > 5 else ""),
            RuntimeWarning,
            stacklevel=4,
        )
    if 1 not in powers:
        for name, i in parts:
            _check_positive(name, panel[name].values[:, i])
    if len(parts) > _MOST_FITTED:
        chosen = np.random.default_rng(seed).choice(len(parts), _MOST_FITTED, replace=False)
        parts = [parts[i] for i in np.sort(chosen)]
    populations, converged = [], True
    for power in powers:
        with waiting(f"reading {len(parts)} series", progress):
            # A batch at a time, since what is read of a panel in files may keep all around it.
            members = [
                one
                for some in batched(parts, _BATCH)
                for one in members_of([(panel[x], i) for x, i in some], power, history, scale)
                if one is not None
            ]
        if len(members) < (1 if len(powers) == 1 else _LEAST_SERIES) and power != 1:
            continue
        model, params, fit = fit_population(
            members, seed=seed, num_steps=num_steps, progress=progress,
            folder=None if folder is None else folder / f"power-{power:g}",
        )  # fmt: skip
        if not fit.converged:
            warnings.warn(
                f"num_epochs: the fit was still improving when it stopped after {num_steps} "
                "epochs; give a larger num_epochs",
                RuntimeWarning,
                stacklevel=4,
            )
        converged = converged and fit.converged
        populations.append(Population(power, model, params))
    return CollectionState(layout, panel, tuple(populations), history, scale, converged)
