"""The recipe: from one series or many to a fitted model and its forecasts."""

from ssmlin.forecasting.interface import Ahead, Fitted, Observed
from ssmlin.forecasting.predictive import Predictive

__all__ = ["Ahead", "Fitted", "Observed", "Predictive"]
