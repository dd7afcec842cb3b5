"""Baselines from statsmodels: SARIMAX and structural time series, for each column by itself."""

from typing import Any

import numpy as np

from ssmlin.forecasting import Ahead, Fitted, Observed, Predictive


def fit_sarimax(
    train: Observed,
    seed: int,
    *,
    order: tuple[int, int, int],
    seasonal_order: tuple[int, int, int, int] = (0, 0, 0, 0),
) -> Fitted:
    """Seasonal ARIMA with inputs, by maximum likelihood."""
    from statsmodels.tsa.api import SARIMAX

    differenced = order[1] + seasonal_order[1] > 0
    options = {
        "order": order,
        "seasonal_order": seasonal_order,
        "trend": "n" if differenced else "c",
    }
    return _fit_columns(SARIMAX, options, train, seed)


def fit_unobserved_components(
    train: Observed,
    seed: int,
    *,
    level: str = "llevel",
    autoregressive: int | None = None,
    cycle: bool = False,
    seasonal: int | None = None,
) -> Fitted:
    """A structural time series: level, trend, cycle, season, inputs; by maximum likelihood."""
    from statsmodels.tsa.api import UnobservedComponents

    options = {
        "level": level,
        "autoregressive": autoregressive,
        "cycle": cycle,
        "stochastic_cycle": cycle,
        "damped_cycle": cycle,
        "seasonal": seasonal,
    }
    return _fit_columns(UnobservedComponents, options, train, seed)


def _fit_columns(cls: Any, options: dict[str, Any], train: Observed, seed: int) -> Fitted:
    """One model of a column each."""

    def model(observed: Observed, column: int) -> Any:
        inputs = observed.inputs if observed.inputs.shape[1] else None
        return cls(observed.values[:, column], exog=inputs, **options)

    columns = range(train.values.shape[1])
    params = []
    for column in columns:
        fit = model(train, column).fit(disp=0, maxiter=500)
        if not np.isfinite(fit.params).all():
            raise ArithmeticError(f"the fit of column {column} is not finite")
        params.append(fit.params)

    def filtered(observed: Observed, column: int) -> Any:
        return model(observed, column).filter(params[column])

    def predict(observed: Observed) -> Predictive:
        results = [filtered(observed, column).filter_results for column in columns]
        means = np.stack([r.forecasts[0] for r in results], axis=1)
        variances = np.stack([r.forecasts_error_cov[0, 0] for r in results], axis=1)
        return Predictive.gaussian(means, variances[:, :, None] * np.eye(len(columns)))

    def simulate(observed: Observed, ahead: Ahead) -> np.ndarray:
        n, horizon = ahead.num_samples, ahead.horizon
        paths = np.empty((len(ahead.origins), n, horizon, len(columns)))
        for column in columns:
            results = filtered(observed, column)
            for i, origin in enumerate(ahead.origins):
                # The state at `anchor` is predicted from the steps before it.
                paths[i, :, :, column] = (
                    np.asarray(
                        results.simulate(
                            horizon,
                            anchor=int(origin),
                            repetitions=n,
                            rng=np.random.default_rng([ahead.seed, column, i]),
                        )
                    )
                    .reshape(horizon, n)
                    .T
                )
        return paths

    return Fitted(predict, sum(len(p) for p in params), simulate)
