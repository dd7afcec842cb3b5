"""The recipe: from one series or many to a fitted model and its forecasts."""

from ssmlin.forecasting.interface import Ahead, Fit, Fitted, Observed
from ssmlin.forecasting.linear_attention import (
    FittedAttention,
    fit_attention,
    padded,
    predictive,
    sample_over_gaps,
    with_lags,
)
from ssmlin.forecasting.predictive import Predictive
from ssmlin.forecasting.regression import (
    choose_num_lags,
    choose_powers,
    choose_regression,
    draw_lags,
    exact_predictions,
    known_lags,
    lags_and_inputs,
    last_values,
    least_squares,
    moments_of,
    with_season,
)

__all__ = [
    "Ahead",
    "Fit",
    "Fitted",
    "FittedAttention",
    "Observed",
    "Predictive",
    "choose_num_lags",
    "choose_powers",
    "choose_regression",
    "draw_lags",
    "exact_predictions",
    "fit_attention",
    "known_lags",
    "lags_and_inputs",
    "last_values",
    "least_squares",
    "moments_of",
    "padded",
    "predictive",
    "sample_over_gaps",
    "with_lags",
    "with_season",
]
