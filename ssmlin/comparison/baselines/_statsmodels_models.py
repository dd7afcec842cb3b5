"""Baselines from statsmodels: SARIMAX and structural time series, one model per column."""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from ssmlin._optional import require
from ssmlin.comparison._candidate import Setting, grid
from ssmlin.comparison.baselines._baseline import Baseline, SharedRegression, regression
from ssmlin.forecasting import Ahead, Fitted, Observed, Predictive


@runtime_checkable
class _FilterResults(Protocol):
    """What a filter of statsmodels returns."""

    forecasts: np.ndarray
    forecasts_error_cov: np.ndarray


@runtime_checkable
class _Results(Protocol):
    """A model of statsmodels at given parameters."""

    params: np.ndarray
    filter_results: _FilterResults

    def simulate(
        self, nsimulations: int, *, anchor: int, repetitions: int, rng: np.random.Generator
    ) -> np.ndarray: ...


@runtime_checkable
class _Model(Protocol):
    """A state space model of statsmodels with its data."""

    def fit(self, *, disp: int, maxiter: int) -> _Results: ...

    def filter(self, params: np.ndarray) -> _Results: ...


#: A season of more steps would have as many states, and a fit take minutes: it has harmonics.
_LONGEST_SEASON, _HARMONICS = 24, 6

#: Makes the model of one column from its values and inputs, if there are any.
_MakeModel = Callable[[np.ndarray, np.ndarray | None], _Model]


def fit_sarimax(
    train: Observed,
    seed: int,
    *,
    order: tuple[int, int, int],
    seasonal_order: tuple[int, int, int, int] = (0, 0, 0, 0),
) -> Fitted:
    """Fit a seasonal ARIMA model with inputs by maximum likelihood.

    Args:
        train: the training series.
        seed: not used, since nothing is random here.
        order: orders of autoregression, differences and moving average.
        seasonal_order: the same for the season, then its period.

    Returns:
        The fitted forecaster.

    Raises:
        ArithmeticError: an estimate is not finite.
    """
    require("statsmodels")
    from statsmodels.tsa.api import SARIMAX

    del seed
    trend = "n" if order[1] + seasonal_order[1] > 0 else "c"  # none where values are differenced

    def make(values: np.ndarray, inputs: np.ndarray | None) -> _Model:
        model: _Model = SARIMAX(
            values, exog=inputs, order=order, seasonal_order=seasonal_order, trend=trend
        )
        return model

    return _fit_columns(make, train)


def fit_unobserved_components(
    train: Observed,
    seed: int,
    *,
    level: str = "llevel",
    autoregressive: int | None = None,
    cycle: bool = False,
    seasonal: int | None = None,
) -> Fitted:
    """Fit a structural time series model with inputs by maximum likelihood.

    Args:
        train: the training series.
        seed: not used, since nothing is random here.
        level: the level and trend, by statsmodels' names.
        autoregressive: the order of an autoregressive component, or None.
        cycle: whether there is a damped stochastic cycle.
        seasonal: steps per season, or None; a state for each, of more than 24 six harmonics.

    Returns:
        The fitted forecaster.

    Raises:
        ArithmeticError: an estimate is not finite.
    """
    require("statsmodels")
    from statsmodels.tsa.api import UnobservedComponents

    del seed
    season: dict[str, object] = {"seasonal": seasonal}
    if seasonal is not None and seasonal > _LONGEST_SEASON:
        season = {"freq_seasonal": [{"period": seasonal, "harmonics": _HARMONICS}]}

    def make(values: np.ndarray, inputs: np.ndarray | None) -> _Model:
        model: _Model = UnobservedComponents(
            values, level=level, autoregressive=autoregressive, cycle=cycle,
            exog=inputs, stochastic_cycle=cycle, damped_cycle=cycle, **season,
        )  # fmt: skip
        return model

    return _fit_columns(make, train)


def _fit_columns(make: _MakeModel, train: Observed) -> Fitted:
    """Fit a model of each column."""

    def model(observed: Observed, column: int) -> _Model:
        inputs = observed.inputs if observed.inputs.shape[1] else None
        return make(observed.values[:, column], inputs)

    columns = range(train.values.shape[1])
    params = []
    for column in columns:
        fit = model(train, column).fit(disp=0, maxiter=500)
        if not np.isfinite(fit.params).all():
            raise ArithmeticError(f"the fit of column {column} is not finite")
        params.append(fit.params)

    def predict(observed: Observed) -> Predictive:
        results = [
            model(observed, column).filter(params[column]).filter_results for column in columns
        ]
        means = np.stack([r.forecasts[0] for r in results], axis=1)
        variances = np.stack([r.forecasts_error_cov[0, 0] for r in results], axis=1)
        return Predictive.gaussian(means, variances[:, :, None] * np.eye(len(columns)))

    def simulate(observed: Observed, ahead: Ahead) -> Float[np.ndarray, "N n H m"]:
        n, horizon = ahead.num_samples, ahead.horizon
        paths = np.empty((len(ahead.origins), n, horizon, len(columns)))
        for column in columns:
            results = model(observed, column).filter(params[column])
            for i, origin in enumerate(ahead.origins):
                # The state at `anchor` is predicted from the steps before it.
                rng = np.random.default_rng([ahead.seed, column, i])
                drawn = results.simulate(horizon, anchor=int(origin), repetitions=n, rng=rng)
                paths[i, :, :, column] = np.asarray(drawn).reshape(horizon, n).T
        return paths

    return Fitted(predict, sum(len(p) for p in params), simulate)


def _orders(shared: SharedRegression) -> tuple[Setting, ...]:
    """Orders of SARIMAX; a long season is a regression on its harmonics with ARMA errors."""
    settings = grid(order=((shared.num_lags, 0, 0), (2, 0, 1), (1, 1, 1), (2, 1, 2), (0, 1, 1)))
    if shared.period is not None and shared.period > _LONGEST_SEASON:
        if shared.seasonal is not None:
            settings += grid(order=((1, 0, 0), (2, 0, 1), (0, 1, 1)), seasonal=(shared.seasonal,))
    elif shared.period is not None:
        seasons = ((1, 0, 0, shared.period), (0, 1, 1, shared.period))
        settings += grid(order=((1, 0, 0), (2, 0, 1), (0, 1, 1)), seasonal_order=seasons)
    return settings


def _components(shared: SharedRegression) -> tuple[Setting, ...]:
    """Components of the structural model."""
    settings: tuple[Setting, ...] = (
        {"level": "llevel"},
        {"level": "lltrend"},
        {"level": "llevel", "autoregressive": 2},
        {"level": "fixed intercept", "cycle": True},
        {"level": "fixed intercept", "cycle": True, "autoregressive": 2},
    )
    if shared.period is not None:
        settings += tuple({**one, "seasonal": shared.period} for one in settings[:3])
    return settings


BASELINES = (
    Baseline("sarimax", regression(fit_sarimax), _orders),
    Baseline("unobserved_components", fit_unobserved_components, _components),
)
