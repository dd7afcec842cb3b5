"""The recipe: its settings, and how it turns series into a fitted model."""

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, fields
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ssmlin import _checks
from ssmlin.data import Calendar, Columns, Scaling, first_place
from ssmlin.forecasting._discount import DISCOUNTS
from ssmlin.forecasting._fitting import (
    FittedAttention,
    Room,
    plan_sequences,
    recommended_for,
)
from ssmlin.forecasting._interface import Observed
from ssmlin.forecasting._orders import choose_regression
from ssmlin.forecasting._powers import choose_powers
from ssmlin.forecasting._season import season_of, with_season
from ssmlin.forecasting._sequences import padded
from ssmlin.forecasting._settings import Recommendation
from ssmlin.learning import Plan
from ssmlin.mechanisms import Mechanism, get_mechanism

#: From so many series on "auto" pools them hierarchically.
MANY_SERIES = 10


@dataclass(eq=False, repr=False)
class Recipe:
    """The settings of a :class:`ssmlin.Forecaster`, which documents them."""

    mechanism: str | Mechanism = "bayesian_memory"
    lags: int | str = "auto"
    season: int | str | None = "auto"
    transform: str | float | int = "auto"
    pooling: str = "auto"
    _: KW_ONLY
    key_dim: int = 4
    difference: int = 0
    discounts: Sequence[float] = DISCOUNTS
    num_epochs: int | None = None
    seed: int = 0
    progress: bool = False
    checkpoint_dir: str | Path | None = None
    freq: str | None = None
    holidays: Sequence[str] = ()
    fill_inputs: bool = False

    def __post_init__(self) -> None:
        get_mechanism(self.mechanism)
        _auto_or_int("lags", self.lags, 0)
        if self.season is not None:
            _auto_or_int("season", self.season, 2)
        _checks.one_of("pooling", self.pooling, ("auto", "separate", "shared", "hierarchical"))
        if self.pooling == "hierarchical" and self.writes_values:
            raise ValueError(
                "pooling: expected 'auto', 'separate' or 'shared' for a mechanism that writes "
                "values, since hierarchical regressions are of 'bayesian_memory'; got "
                f"'hierarchical' for {get_mechanism(self.mechanism).name!r}"
            )
        if self.pooling == "hierarchical" and self.difference:
            raise ValueError(
                "difference: expected 0 with hierarchical pooling, which models changes by "
                f"itself, got {self.difference}"
            )
        _checks.positive_int("key_dim", self.key_dim)
        _checks.positive_int("difference", self.difference, minimum=0)
        if self.num_epochs is not None:
            _checks.positive_int("num_epochs", self.num_epochs)
        self.holidays = self.calendar.holidays  # what is no frequency or no date is told now
        if len(self.discounts) == 0:
            raise ValueError("discounts: expected at least one number in [0.75, 1], got none")

    def __repr__(self) -> str:
        changed = {x.name: getattr(self, x.name) for x in fields(self)
                   if getattr(self, x.name) != x.default}  # fmt: skip
        arguments = ", ".join(f"{name}={value!r}" for name, value in changed.items())
        return f"{type(self).__name__}({arguments})"

    @property
    def calendar(self) -> Calendar:
        """What is said of the steps."""
        return Calendar(self.freq, self.holidays)

    @property
    def writes_values(self) -> bool:
        """Whether the mechanism writes values, as all but `bayesian_memory` do."""
        return get_mechanism(self.mechanism).writes_values

    def pooling_of(self, num_series: int) -> str:
        """How so many series are pooled: what is asked for, or what "auto" makes of it."""
        if self.pooling != "auto":
            return self.pooling
        is_regression = not (self.writes_values or self.difference)
        many = is_regression and num_series >= MANY_SERIES
        return "hierarchical" if many else "shared"

    def may_fail(self, num_series: int) -> bool:
        """Whether one of so many series may be of no use and harm no other."""
        pooling = self.pooling_of(num_series)
        return pooling == "hierarchical" or (pooling == "separate" and num_series > 1)

    @property
    def used_key_dim(self) -> int | None:
        """d, or None where the keys are the inputs themselves, as of `bayesian_memory`."""
        return self.key_dim if self.writes_values else None

    @property
    def folder(self) -> Path | None:
        """Where the states of the fits are kept."""
        return None if self.checkpoint_dir is None else Path(self.checkpoint_dir)


def _auto_or_int(name: str, value: object, minimum: int) -> None:
    """Raise ValueError unless this is "auto" or an integer of at least so much."""
    is_number = isinstance(value, int) and not isinstance(value, bool) and value >= minimum
    if value != "auto" and not is_number:
        raise ValueError(f"{name}: expected 'auto' or an integer >= {minimum}, got {value!r}")


class GroupFit(NamedTuple):
    """One fitted model and what belongs to it.

    Attributes:
        attention: the model, its parameters, and its season.
        scalings: of each series that it was fitted to.
        validation: the mean log density a step at the end of the series, fitted before it.
        num_parameters: how many numbers were fitted.
    """

    attention: FittedAttention
    scalings: dict[str, Scaling]
    validation: float
    num_parameters: int


class Chosen(NamedTuple):
    """Series that share their parameters, and what was chosen for them before the fit.

    Attributes:
        scalings: of each series.
        seasonal: the period of the harmonics among their inputs, or None.
        several: the series as the model sees them.
        wanted: what the model depends on.
    """

    scalings: dict[str, Scaling]
    seasonal: int | None
    several: list[Observed]
    wanted: Recommendation

    @property
    def num_steps(self) -> int:
        """Of the longest series."""
        return max(len(one.values) for one in self.several)


def choose(panel: Mapping[str, Columns], recipe: Recipe) -> Chosen:
    """Choose transformation, lags and season for series that share them.

    Args:
        panel: the series by name.
        recipe: the settings.

    Raises:
        ValueError: data that the recipe cannot use, with the column and the step.
    """
    for name, one in panel.items():
        if isinstance(recipe.lags, int) and recipe.lags >= len(one.values):
            raise ValueError(
                f"{_of(name)}lags: expected fewer than the {len(one.values)} steps, got "
                f"{recipe.lags}"
            )
    period = period_of(panel, recipe)
    given = [Observed(one.values, one.inputs) for one in panel.values()]
    power = choose_powers(given, recipe.transform, period, recipe.difference)
    scalings = {}
    for name, one in panel.items():
        try:
            scalings[name] = Scaling.fit(one, power, recipe.difference)
        except ValueError as error:
            raise ValueError(f"{_of(name)}{error}") from error
    plain = [scaled(one, scalings[name], None) for name, one in panel.items()]
    longest = max(plain, key=lambda one: len(one.values))
    num_lags = recipe.lags if isinstance(recipe.lags, int) else None
    num_lags, seasonal = choose_regression(longest, period, num_lags=num_lags)
    several = [scaled(one, scalings[name], seasonal) for name, one in panel.items()]
    wanted = recommended_for(several, recipe.mechanism, num_lags, recipe.used_key_dim)
    return Chosen(scalings, seasonal, several, wanted)


def plan_group(
    chosen: Chosen, recipe: Recipe, folder: Path | None, room: Room | None = None
) -> Plan[GroupFit]:
    """Fit one model to series that share its parameters, as a plan.

    Args:
        chosen: the series.
        recipe: the settings.
        folder: where the states of the fits are kept, if anywhere.
        room: the size of the arrays; default as the series need it.

    Returns:
        The plan; its result is the fitted model, and the scaling of each series.
    """
    length, input_dim = (None, None) if room is None else room
    fitted = yield from plan_sequences(
        chosen.wanted,
        *padded(chosen.wanted.model(), chosen.several, length),
        recipe.seed,
        num_epochs=recipe.num_epochs,
        discounts=recipe.discounts,
        checkpoint_dir=folder,
        input_dim=input_dim,
    )
    attention = FittedAttention(fitted.model, fitted.params, chosen.seasonal)
    return GroupFit(attention, chosen.scalings, fitted.validation, fitted.num_parameters)


def scaled(columns: Columns, scaling: Scaling, seasonal: int | None) -> Observed:
    """A series as a model sees it: standardised, with the harmonics of the season as inputs.

    Args:
        columns: the series in its own units.
        scaling: its scaling.
        seasonal: steps a season, or None.

    Raises:
        ValueError: a value that is not positive where the transformation needs it.
    """
    observed = Observed(*scaling.apply(columns))
    return with_season(observed, seasonal, first_place(columns.times) if seasonal else 0)


def scaling_of_new(name: str, columns: Columns, like: Scaling) -> Scaling:
    """The scaling of a series that the fit did not know, by its own values.

    Args:
        name: the series, for messages.
        columns: its values.
        like: the scaling of another series, which has the same transformation.

    Raises:
        ValueError: values that do not vary.
    """
    for target, column in zip(columns.targets, columns.values.T, strict=True):
        seen = column[~np.isnan(column)]
        if len(seen) == 0 or np.ptp(seen) == 0:
            got = f"{len(seen)} values" if len(seen) < 2 else f"{seen[0]} alone"
            raise ValueError(
                f"{_of(name)}the model was fitted without it, so its scale is taken from these "
                f"rows: expected varying values in column {target!r}, got {got}"
            )
    return Scaling.fit(columns, like.power, like.difference)


def period_of(panel: Mapping[str, Columns], recipe: Recipe) -> int | None:
    """Steps a season: what is asked for, or what the times of all series say."""
    if recipe.season is None or isinstance(recipe.season, int):
        return recipe.season
    periods = {season_of(one.times) for one in panel.values()}
    return periods.pop() if len(periods) == 1 else None


def _of(name: str) -> str:
    """Which series a message is about; "" where there is one."""
    return f"series {name!r}: " if name else ""
