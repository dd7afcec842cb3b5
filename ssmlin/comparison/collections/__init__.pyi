from ssmlin.comparison.collections._autoregression import AUTOREGRESSION
from ssmlin.comparison.collections._collection import (
    Collection,
    CollectionSeries,
    hold_out,
    load_competition,
)
from ssmlin.comparison.collections._comparison import CollectionComparison, compare_collection
from ssmlin.comparison.collections._conclusions import conclusions
from ssmlin.comparison.collections._forecaster_model import ForecastsFrames, forecaster_model
from ssmlin.comparison.collections._frames import hold_out_frame
from ssmlin.comparison.collections._lds import linear_dynamics
from ssmlin.comparison.collections._model import (
    Attempt,
    CollectionModel,
    Forecasts,
    each_series,
    forecast_collection,
)
from ssmlin.comparison.collections._quantiles import (
    QUANTILE_LEVELS,
    normal_quantiles,
    path_quantiles,
)
from ssmlin.comparison.collections._registry import DEFAULT, MODELS, USUAL
from ssmlin.comparison.collections._report import write_collection_report
from ssmlin.comparison.collections._scores import CollectionScores, score_collection
from ssmlin.comparison.collections._storage import read_forecasts, write_forecasts
from ssmlin.comparison.collections._summary import Ranks
from ssmlin.comparison.collections._switching_models import (
    hidden_markov,
    switching_autoregression,
)

__all__ = [
    "AUTOREGRESSION",
    "Attempt",
    "Collection",
    "CollectionComparison",
    "CollectionModel",
    "CollectionScores",
    "CollectionSeries",
    "DEFAULT",
    "Forecasts",
    "ForecastsFrames",
    "MODELS",
    "QUANTILE_LEVELS",
    "Ranks",
    "USUAL",
    "compare_collection",
    "conclusions",
    "each_series",
    "forecast_collection",
    "forecaster_model",
    "hidden_markov",
    "hold_out",
    "hold_out_frame",
    "linear_dynamics",
    "load_competition",
    "normal_quantiles",
    "path_quantiles",
    "read_forecasts",
    "score_collection",
    "switching_autoregression",
    "write_collection_report",
    "write_forecasts",
]
