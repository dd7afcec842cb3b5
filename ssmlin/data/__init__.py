"""From users' files to arrays, and back to their units."""

from ssmlin.data.columns import Columns, future_times, select_columns
from ssmlin.data.scaling import Scaling
from ssmlin.data.tables import read_table

__all__ = ["Columns", "Scaling", "future_times", "read_table", "select_columns"]
