from ssmlin.serving._online_filter import OnlineFilter
from ssmlin.serving._online_forecaster import OnlineForecaster, SeriesPrediction, SeriesState
from ssmlin.serving._online_state import OnlineState, Recent, Smoothed
from ssmlin.serving._rows import RowStream

__all__ = [
    "OnlineFilter",
    "OnlineForecaster",
    "OnlineState",
    "Recent",
    "RowStream",
    "SeriesPrediction",
    "SeriesState",
    "Smoothed",
]
