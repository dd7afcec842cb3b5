"""The recipe: from one series or many to a fitted model and its forecasts."""

from ssmlin.forecasting.ahead import SeriesForecast
from ssmlin.forecasting.discount import DISCOUNTS, best_discount
from ssmlin.forecasting.fitting import FittedAttention, fit_attention
from ssmlin.forecasting.forecaster import Forecaster, load
from ssmlin.forecasting.interface import Ahead, Fit, Fitted, Observed
from ssmlin.forecasting.lags import known_lags, lags_and_inputs, last_values
from ssmlin.forecasting.laws import predictive
from ssmlin.forecasting.orders import choose_num_lags, choose_regression
from ssmlin.forecasting.paths import sample_paths
from ssmlin.forecasting.posterior_draws import draw_parameters, sample_over_gaps
from ssmlin.forecasting.powers import choose_powers
from ssmlin.forecasting.predictive import Predictive
from ssmlin.forecasting.regression import (
    draw_lags,
    exact_predictions,
    least_squares,
    moments_of,
)
from ssmlin.forecasting.season import season_of, with_season
from ssmlin.forecasting.sequences import padded, with_lags
from ssmlin.forecasting.settings import Recommendation
from ssmlin.forecasting.state import ForecasterState

__all__ = [
    "DISCOUNTS",
    "Ahead",
    "Fit",
    "Fitted",
    "FittedAttention",
    "Forecaster",
    "ForecasterState",
    "Observed",
    "Predictive",
    "Recommendation",
    "SeriesForecast",
    "best_discount",
    "choose_num_lags",
    "choose_powers",
    "choose_regression",
    "draw_lags",
    "draw_parameters",
    "exact_predictions",
    "fit_attention",
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
