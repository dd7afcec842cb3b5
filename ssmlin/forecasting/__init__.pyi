from ssmlin.forecasting._ahead import SeriesForecast, check_forecast, in_units
from ssmlin.forecasting._collection import CollectionState
from ssmlin.forecasting._collection_laws import MixtureLaw, PathsLaw
from ssmlin.forecasting._collection_steps import MemberState, PopulationFilter
from ssmlin.forecasting._decomposition import decompose
from ssmlin.forecasting._discount import DISCOUNTS, best_discount
from ssmlin.forecasting._fitting import FittedAttention, fit_attention
from ssmlin.forecasting._forecaster import Forecaster, load
from ssmlin.forecasting._interface import Ahead, Fit, Fitted, Observed
from ssmlin.forecasting._lags import known_lags, lags_and_inputs, last_values
from ssmlin.forecasting._laws import predictive
from ssmlin.forecasting._layout import Layout
from ssmlin.forecasting._orders import choose_num_lags, choose_regression
from ssmlin.forecasting._paths import sample_paths
from ssmlin.forecasting._posterior_draws import draw_parameters, sample_over_gaps
from ssmlin.forecasting._powers import choose_powers
from ssmlin.forecasting._predictive import Predictive
from ssmlin.forecasting._regression import (
    draw_lags,
    exact_predictions,
    least_squares,
    moments_of,
)
from ssmlin.forecasting._season import harmonic_names, season_of, with_season
from ssmlin.forecasting._sequences import padded, with_lags
from ssmlin.forecasting._settings import Recommendation
from ssmlin.forecasting._state import ForecasterState
from ssmlin.forecasting._statsforecast import StatsForecastInterface

__all__ = [
    "Ahead",
    "CollectionState",
    "DISCOUNTS",
    "Fit",
    "Fitted",
    "FittedAttention",
    "Forecaster",
    "ForecasterState",
    "Layout",
    "MemberState",
    "MixtureLaw",
    "Observed",
    "PathsLaw",
    "PopulationFilter",
    "Predictive",
    "Recommendation",
    "SeriesForecast",
    "StatsForecastInterface",
    "best_discount",
    "check_forecast",
    "choose_num_lags",
    "choose_powers",
    "choose_regression",
    "decompose",
    "draw_lags",
    "draw_parameters",
    "exact_predictions",
    "fit_attention",
    "harmonic_names",
    "in_units",
    "known_lags",
    "lags_and_inputs",
    "last_values",
    "least_squares",
    "load",
    "moments_of",
    "padded",
    "predictive",
    "sample_over_gaps",
    "sample_paths",
    "season_of",
    "with_lags",
    "with_season",
]
