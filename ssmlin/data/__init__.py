"""From users' files and tables to arrays, and back to their units."""

from ssmlin.data.columns import Columns, select_columns, select_panel, series_ids
from ssmlin.data.future import future_inputs
from ssmlin.data.grids import future_times
from ssmlin.data.lags import carried_forward, lagged
from ssmlin.data.names import free_name
from ssmlin.data.scaling import Scaling
from ssmlin.data.series import Series
from ssmlin.data.table_stream import TableStream
from ssmlin.data.tables import read_table
from ssmlin.data.times import Times, parse_times

__all__ = [
    "Columns",
    "Scaling",
    "Series",
    "TableStream",
    "Times",
    "carried_forward",
    "free_name",
    "future_inputs",
    "future_times",
    "lagged",
    "parse_times",
    "read_table",
    "select_columns",
    "select_panel",
    "series_ids",
]
