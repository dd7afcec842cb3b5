from ssmlin.serving._export import FORMATS, export_model
from ssmlin.serving._live import LivePage
from ssmlin.serving._online_filter import OnlineFilter
from ssmlin.serving._online_forecaster import OnlineForecaster
from ssmlin.serving._online_state import OnlineState, Recent, Smoothed
from ssmlin.serving._rows import RowStep, RowStream
from ssmlin.serving._series import SeriesPrediction, SeriesState

__all__ = [
    "FORMATS",
    "LivePage",
    "OnlineFilter",
    "OnlineForecaster",
    "OnlineState",
    "Recent",
    "RowStep",
    "RowStream",
    "SeriesPrediction",
    "SeriesState",
    "Smoothed",
    "export_model",
]
