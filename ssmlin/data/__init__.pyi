from ssmlin.data._calendar import Calendar
from ssmlin.data._columns import Columns, numbers, select_columns
from ssmlin.data._future import FutureTable, future_inputs, tell_of_filled
from ssmlin.data._grids import first_place, future_times, grid_step
from ssmlin.data._lags import carried_forward, lagged
from ssmlin.data._names import free_name
from ssmlin.data._panels import select_panel, series_ids, series_of_rows
from ssmlin.data._scaling import Scaling, box_cox, changes, describe_powers, inverse_box_cox
from ssmlin.data._series import Series
from ssmlin.data._stored_panels import StoredPanel, read_long, store_panel
from ssmlin.data._table_files import TableFiles
from ssmlin.data._table_stream import TableStream
from ssmlin.data._tables import read_table
from ssmlin.data._times import (
    Times,
    columns_of_dates,
    is_dates,
    label_format,
    numbers_of_times,
    parse_times,
    times_of_numbers,
    written_as,
)

__all__ = [
    "Calendar",
    "Columns",
    "FutureTable",
    "Scaling",
    "Series",
    "StoredPanel",
    "TableFiles",
    "TableStream",
    "Times",
    "box_cox",
    "carried_forward",
    "changes",
    "columns_of_dates",
    "describe_powers",
    "first_place",
    "free_name",
    "future_inputs",
    "future_times",
    "grid_step",
    "inverse_box_cox",
    "is_dates",
    "label_format",
    "lagged",
    "numbers",
    "numbers_of_times",
    "parse_times",
    "read_long",
    "read_table",
    "select_columns",
    "select_panel",
    "series_ids",
    "series_of_rows",
    "store_panel",
    "tell_of_filled",
    "times_of_numbers",
    "written_as",
]
