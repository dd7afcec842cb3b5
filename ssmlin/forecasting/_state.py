"""What a fitted forecaster knows, and the forecasts that follow from it."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from jaxtyping import Float

from ssmlin._display import one_line, small_table
from ssmlin._progress import waiting
from ssmlin.data import Columns, Scaling, TableStream, describe_powers
from ssmlin.forecasting._ahead import (
    SeriesForecast,
    check_forecast,
    forecast_series,
    no_forecast,
)
from ssmlin.forecasting._collection import (
    MOST_STEPS,
    CollectionState,
    fit_collection,
    powers_to_mix,
    sizes,
)
from ssmlin.forecasting._fitting import FittedAttention
from ssmlin.forecasting._future import future_panel
from ssmlin.forecasting._interface import Observed
from ssmlin.forecasting._layout import Layout
from ssmlin.forecasting._recipe import (
    GroupFit,
    Recipe,
    choose,
    period_of,
    plan_group,
    scaled,
    scaling_of_new,
)
from ssmlin.forecasting._separate import fit_separately
from ssmlin.forecasting._streams import ROWS_TO_CHOOSE, choose_stream_powers, fit_table_stream
from ssmlin.learning import carry_out
from ssmlin.mechanisms import get_mechanism

#: The name of the one model that all series share.
_ALL = ""


@dataclass(frozen=True)
class ForecasterState:
    """What a fitted forecaster knows.

    Args:
        layout: the caller's names.
        fits: the models by series, or one under the name "" for all series. A series that is not
            among them could not be fitted, and is not forecast.
        scalings: of each series.
        history: the series that forecasts go on from.
        validation: the mean log density a step at the end of the series, fitted before it, of each
            model, in the units that the model sees.
        num_parameters: how many numbers were fitted, of each model.
        chosen_on: the rows that the transformation and the lags were chosen on.
        notes: further notes of the caller, which a file keeps.
    """

    layout: Layout
    fits: Mapping[str, FittedAttention]
    scalings: Mapping[str, Scaling]
    history: Mapping[str, Columns]
    validation: Mapping[str, float]
    num_parameters: Mapping[str, int]
    chosen_on: str = ""
    notes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def only_fit(self) -> FittedAttention:
        """The model, where there is one.

        Raises:
            ValueError: there are several.
        """
        if len(self.fits) > 1:
            raise ValueError(f"pooling: expected one model, got {len(self.fits)}, one for each "
                             "series; state_.fits has them by series")  # fmt: skip
        return next(iter(self.fits.values()))

    @property
    def summary(self) -> dict[str, Any]:
        """What was chosen and fitted, of the first model."""
        model, power = (
            next(iter(self.fits.values())).model,
            next(iter(self.scalings.values())).power,
        )
        return {
            "mechanism": model.mechanism.name,
            "num_lags": model.num_lags,
            "power": dict(zip(self.layout.targets, power, strict=True)),
            "num_parameters": next(iter(self.num_parameters.values()), None),
            "validation_log_density": next(iter(self.validation.values()), None),
        }

    def __repr__(self) -> str:
        return one_line(self, sizes(self.history) | self.summary)

    def _repr_html_(self) -> str:
        return small_table(type(self).__name__, sizes(self.history) | self.summary)

    def describe(self, *, was_chosen: bool = True) -> list[str]:
        """The summary as sentences.

        Args:
            was_chosen: whether the transformation was chosen, so that it matters on what.
        """
        said = self.summary
        seen = describe_powers(self.layout.targets, tuple(said["power"].values()))
        by = f", chosen on {self.chosen_on}" if was_chosen else ""
        return [
            f"{said['mechanism']}, {said['num_lags']} lags, {said['num_parameters']} parameters; "
            "log density a step of what the model sees, at the end of the series, fitted before "
            f"it: {said['validation_log_density']:.3f}",
            f"the model sees {seen or 'the values as they are'}{by}",
        ]

    def fit_of(self, name: str) -> FittedAttention:
        """The model of a series.

        Raises:
            ValueError: a series that the fit did not know, where each has its own model.
        """
        if _ALL in self.fits:
            return self.fits[_ALL]
        if name not in self.fits:
            raise ValueError(f"series {name!r}: expected one of the fitted series, which have a "
                             f"model each: {', '.join(list(self.fits)[:20])}")  # fmt: skip
        return self.fits[name]

    def _failed(self, name: str) -> bool:
        """Whether the fit knew a series but has no model of it."""
        return _ALL not in self.fits and name not in self.fits and name in self.history

    @property
    def panel(self) -> Mapping[str, Columns]:
        """The series that forecasts go on from.

        Raises:
            ValueError: there are none, after a streamed fit.
        """
        if not self.history:
            raise ValueError(
                "data: expected the series that forecasts go on from, since a streamed fit keeps "
                "none; call update first"
            )
        return self.history

    def observed(self) -> dict[str, Observed]:
        """The series as the models see them: standardised, with the harmonics of the season.

        Raises:
            ValueError: a value that the transformation does not take.
        """
        return {name: scaled(one, self.scalings[name], self.fit_of(name).seasonal)
                for name, one in self.panel.items() if not self._failed(name)}  # fmt: skip

    def with_panel(self, panel: Mapping[str, Columns], layout: Layout) -> "ForecasterState":
        """The same models after other data.

        Raises:
            ValueError: a series that the fit did not know and that gives no scale.
        """
        scalings = dict(self.scalings)
        for name, columns in panel.items():
            if self._failed(name):
                continue
            self.fit_of(name)
            if name not in scalings:
                like = next(iter(scalings.values()))
                scalings[name] = scaling_of_new(name, columns, like)
        return replace(self, layout=layout, history=dict(panel), scalings=scalings)

    def forecasts(
        self,
        horizon: int,
        levels: Sequence[float | int],
        future: Mapping[str, Float[np.ndarray, "H k"] | None] | object = None,
        *,
        num_samples: int,
        seed: int,
    ) -> list[SeriesForecast]:
        """Forecast each series.

        Args:
            horizon: H.
            levels: percentages of the central intervals, in [1, 100).
            future: the inputs of the steps to come, as :meth:`ssmlin.Forecaster.predict` takes
                them; or for each series an array (H, k), in a mapping.
            num_samples: how many paths of each series.
            seed: of the paths.

        Raises:
            ValueError: as :meth:`ssmlin.Forecaster.predict`.
        """
        check_forecast(horizon, levels, num_samples)
        known = future_panel(future, self.layout, self.panel, horizon)
        has_times = self.layout.time is not None
        return [
            no_forecast(name, columns, horizon, has_times, levels, num_samples)
            if self._failed(name)
            else forecast_series(
                name, columns, self.fit_of(name), self.scalings[name], horizon,
                has_times=has_times, future=known[name], levels=levels, num_samples=num_samples,
                seed=seed,
            )
            for name, columns in self.panel.items()
        ]  # fmt: skip


def fit_panel(
    recipe: Recipe, panel: Mapping[str, Columns], layout: Layout
) -> ForecasterState | CollectionState:
    """Fit series in memory: one model for all, one for each, or a population.

    Args:
        recipe: the settings.
        panel: the series by name.
        layout: the caller's names.

    Raises:
        ValueError: data that the recipe cannot use.
    """
    pooling = recipe.pooling_of(len(panel))
    if pooling == "hierarchical":
        return fit_collection(
            panel, layout,
            period=period_of(panel, recipe),
            num_lags=recipe.lags if isinstance(recipe.lags, int) else None,
            powers=powers_to_mix(recipe.transform), seed=recipe.seed,
            num_steps=recipe.num_epochs or MOST_STEPS, folder=recipe.folder,
            progress=recipe.progress,
        )  # fmt: skip
    if pooling == "separate" and len(panel) > 1:
        found = fit_separately(panel, recipe)
    else:
        with _fitting(recipe):
            plan = plan_group(choose(panel, recipe), recipe, recipe.folder)
            name = get_mechanism(recipe.mechanism).name
            found = {_ALL: carry_out(plan, name, progress=recipe.progress)}
    return _state(found, layout, panel, "all of the data")


def fit_stream(recipe: Recipe, stream: TableStream, window: int) -> ForecasterState:
    """Fit one long series that is read window by window.

    Args:
        recipe: the settings.
        stream: the table, not transformed.
        window: steps of a window.

    Raises:
        ValueError: a table that cannot be used, or a setting that a streamed fit cannot have.
    """
    with _fitting(recipe):
        power = choose_stream_powers(stream, recipe.transform)
        stream = stream.with_power(power)
        found = fit_table_stream(stream, recipe, window)
    layout = Layout(stream.targets, stream.inputs, stream.time, date_format=stream.date_format)
    return _state({_ALL: found}, layout, {}, f"the first {ROWS_TO_CHOOSE} rows")


def _fitting(recipe: Recipe) -> AbstractContextManager[None]:
    """Says what is fitted, while it is."""
    return waiting(f"fitting {get_mechanism(recipe.mechanism).name}", recipe.progress)


def _state(
    found: Mapping[str, GroupFit], layout: Layout, panel: Mapping[str, Columns], chosen_on: str
) -> ForecasterState:
    return ForecasterState(
        layout,
        {name: one.attention for name, one in found.items()},
        {name: x for one in found.values() for name, x in one.scalings.items()},
        dict(panel),
        {name: one.validation for name, one in found.items()},
        {name: one.num_parameters for name, one in found.items()},
        chosen_on,
    )
