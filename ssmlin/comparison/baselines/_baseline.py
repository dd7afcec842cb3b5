"""What a baseline declares: its name, its fit, and its settings."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from ssmlin.comparison._candidate import Candidate, Setting, SettingValue, grid
from ssmlin.forecasting import Ahead, Fit, Fitted, Observed, Predictive, with_season


class SharedRegression(NamedTuple):
    """What all models that regress on lagged values share, chosen on the training part.

    Attributes:
        num_lags: the number of lags.
        period: steps per season, as the caller gave it, or None.
        seasonal: the period if harmonics of the season are inputs, else None.
    """

    num_lags: int
    period: int | None
    seasonal: int | None

    def grid(self, **choices: Sequence[SettingValue]) -> tuple[Setting, ...]:
        """Combinations of the choices with the shared lags and season; a choice of lags counts."""
        shared: dict[str, Sequence[SettingValue]] = {"num_lags": (self.num_lags,)}
        if self.seasonal is not None:
            shared["seasonal"] = (self.seasonal,)
        return grid(**choices, **{name: x for name, x in shared.items() if name not in choices})


def _one_setting(shared: SharedRegression) -> tuple[Setting, ...]:
    """A fit without arguments."""
    del shared
    return ({},)


@dataclass(frozen=True)
class Baseline:
    """A baseline by its name.

    Args:
        name: the name in tables and figures, and the one that `compare` knows it by.
        fit: fits one setting, ``fit(train, seed, **setting)``.
        settings: returns the settings to choose among, none where the baseline does not apply.
        by_default: whether it is compared unless models are named.
    """

    name: str
    fit: Fit
    settings: Callable[[SharedRegression], tuple[Setting, ...]] = _one_setting
    by_default: bool = True

    def candidate(self, shared: SharedRegression) -> Candidate | None:
        """The baseline for one series; None where it does not apply."""
        settings = self.settings(shared)
        return Candidate(self.name, self.fit, settings) if settings else None


def regression(fit: Fit) -> Fit:
    """A fit that takes the setting `seasonal`: harmonics of that period are among its inputs."""
    return partial(fit_seasonal, fit=fit)


@runtime_checkable
class _Seasonal(Protocol):
    """Details of a fit that say the period of its harmonics."""

    @property
    def seasonal(self) -> int | None: ...

    def _replace(self, *, seasonal: int | None) -> object: ...


def fit_seasonal(
    train: Observed, seed: int, *, fit: Fit, seasonal: int | None = None, **setting: SettingValue
) -> Fitted:
    """Fit any forecaster with the harmonics of a season among its inputs.

    Args:
        train: the training series.
        seed: for random starts.
        fit: the fit of the forecaster.
        seasonal: steps per season; None for no harmonics.
        **setting: further arguments of `fit`.

    Returns:
        The fitted forecaster, which adds the harmonics to every series by itself.
    """
    if seasonal is None:
        return fit(train, seed, **setting)
    fitted = fit(with_season(train, seasonal), seed, **setting)
    simulate_fitted = fitted.simulate

    def predict(observed: Observed) -> Predictive:
        return fitted.predict(with_season(observed, seasonal))

    def simulate(observed: Observed, ahead: Ahead) -> Float[np.ndarray, "N n H m"]:
        assert simulate_fitted is not None
        return simulate_fitted(with_season(observed, seasonal), ahead)

    details = fitted.details
    if isinstance(details, _Seasonal):
        details = details._replace(seasonal=seasonal)
    return fitted._replace(
        predict=predict, simulate=simulate if simulate_fitted is not None else None, details=details
    )
