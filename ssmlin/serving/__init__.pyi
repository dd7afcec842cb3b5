from ssmlin.serving._online_filter import OnlineFilter
from ssmlin.serving._online_state import OnlineState, Recent, Smoothed

__all__ = ["OnlineFilter", "OnlineState", "Recent", "Smoothed"]
