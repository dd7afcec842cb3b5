"""Theta, exponential smoothing and ARIMA by statsforecast, with its own choices."""

import time
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float

from ssmlin.comparison.collections._collection import Collection, CollectionSeries
from ssmlin.comparison.collections._libraries import load
from ssmlin.comparison.collections._model import Attempt, CollectionModel, each_series
from ssmlin.comparison.collections._quantiles import INTERVALS, interval_quantiles

_MODULE = "statsforecast.models"


def _forecast(one: CollectionSeries, model: str) -> Float[np.ndarray, "H K"]:
    """Fit and forecast one series, its gaps bridged; the mean serves as median."""
    fitter: Any = getattr(load(_MODULE), model)(season_length=one.period)
    found = fitter.forecast(y=one.bridged(), h=one.horizon, level=list(INTERVALS))
    low, high = ({p: np.asarray(found[f"{end}-{p}"]) for p in INTERVALS} for end in ("lo", "hi"))
    return interval_quantiles(np.asarray(found["mean"]), low, high)


def _forecast_all(collection: Collection, seed: int, model: str) -> Attempt:
    """Series by series; a short series of another scale is forecast first, to compile."""
    begin = time.perf_counter()
    for period in sorted({one.period for one in collection}):
        steps = np.arange(4 * period + 20.0)
        y = 100 + steps + 10 * np.sin(2 * np.pi * steps / max(period, 4)) + np.cos(7.0 * steps**2)
        each_series(
            Collection("warm-up", (CollectionSeries("", y, None, period, 4),)),
            partial(_forecast, model=model),
        )
    compiling = time.perf_counter() - begin
    np.random.seed(seed)  # where statsforecast draws without a seed of its own
    return Attempt(each_series(collection, partial(_forecast, model=model)), compiling)


MODELS = tuple(
    CollectionModel(name, partial(_forecast_all, model=model), _MODULE)
    for name, model in (
        ("theta", "Theta"),
        ("optimized_theta", "DynamicOptimizedTheta"),
        ("auto_ets", "AutoETS"),
        ("auto_arima", "AutoARIMA"),
    )
)
