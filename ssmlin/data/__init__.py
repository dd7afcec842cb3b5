"""From users' files to arrays, and back to their units."""

from ssmlin.data.columns import Columns, future_times, select_columns, select_panel
from ssmlin.data.future import future_inputs
from ssmlin.data.names import free_name
from ssmlin.data.scaling import Scaling
from ssmlin.data.streams import TableStream
from ssmlin.data.tables import read_table

__all__ = [
    "Columns",
    "Scaling",
    "TableStream",
    "free_name",
    "future_inputs",
    "future_times",
    "read_table",
    "select_columns",
    "select_panel",
]
