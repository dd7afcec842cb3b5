"""The autoregression by least squares, its order by the corrected Akaike criterion."""

from functools import partial

import numpy as np
from jaxtyping import Float

from ssmlin.comparison.baselines._autoregression import fit_autoregression
from ssmlin.comparison.collections._collection import Collection, CollectionSeries
from ssmlin.comparison.collections._model import Attempt, CollectionModel, each_series
from ssmlin.comparison.collections._preparation import prepare
from ssmlin.comparison.collections._simulation import simulated_quantiles
from ssmlin.forecasting import Observed, choose_num_lags


def _forecast(one: CollectionSeries, seed: int) -> Float[np.ndarray, "H K"]:
    """Fit the differences of one series, and simulate."""
    prepared = prepare(one)
    train = Observed.of(prepared.values)
    num_lags = choose_num_lags(train, max(12, one.period + 1))
    fitted = fit_autoregression(train, seed, num_lags=num_lags)
    return simulated_quantiles(fitted, prepared, one, seed)


def _forecast_all(collection: Collection, seed: int) -> Attempt:
    return Attempt(each_series(collection, partial(_forecast, seed=seed)), 0.0)


#: An autoregression of the differences of each series, with simulated paths. The corrected Akaike
#: criterion chooses the order, up to 12, or to a season and a step if that is more. Parameters are
#: plugged in.
AUTOREGRESSION = CollectionModel("autoregression", _forecast_all)
