"""What users give to `compare`: DataFrames and arrays, as values with names and labels."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from ssmlin import _checks
from ssmlin._optional import require
from ssmlin.data import numbers


class NamedValues(NamedTuple):
    """Values of a table.

    Attributes:
        values: the values, (T, m).
        columns: names of the m columns.
        labels: labels of the T steps.
    """

    values: Float[np.ndarray, "T m"]
    columns: tuple[str, ...]
    labels: np.ndarray


def read_table(name: str, data: object) -> NamedValues:
    """Values, names of columns and labels of the steps.

    Args:
        name: the argument, for messages.
        data: a DataFrame or Series of pandas, or an array (T,) or (T, m).

    Returns:
        The values.

    Raises:
        ValueError: something that is no table of numbers.
    """
    require("pandas")
    import pandas as pd

    frame = data.to_frame() if isinstance(data, pd.Series) else data
    labels = None
    try:
        if isinstance(frame, pd.DataFrame):  # with columns of any type
            labels = np.asarray(frame.index)
            columns = [numbers(column) for _, column in frame.items()]
            values = np.column_stack([np.empty((len(frame), 0)), *columns])
        else:
            values = np.asarray(data, np.float64)
    except (TypeError, ValueError) as error:
        got = _checks.describe(data) if labels is None else type(data).__name__
        raise ValueError(f"{name}: expected numbers, got {got}: {error}") from error
    names = [str(column) for column in getattr(data, "columns", ())]
    values = values[:, None] if values.ndim == 1 else values
    if values.ndim != 2 or 0 in values.shape:
        raise ValueError(f"{name}: expected shape (T,) or (T, m), got {values.shape}")
    steps = np.arange(len(values)) if labels is None else labels
    return NamedValues(values, tuple(names or (f"y{i}" for i in range(values.shape[1]))), steps)


def check_labels(emissions: object, inputs: object) -> None:
    """Check that the labels of pandas do not contradict that rows are the steps in order.

    Raises:
        ValueError: dates that do not rise, or inputs whose labels are not those of the emissions.
    """
    require("pandas")
    import pandas as pd

    indices = [getattr(data, "index", None) for data in (emissions, inputs)]
    # A range is what pandas gives to rows without labels.
    index, other = (
        x if isinstance(x, pd.Index) and not isinstance(x, pd.RangeIndex) else None for x in indices
    )
    for name, one in (("emissions", index), ("inputs", other)):
        if isinstance(one, pd.DatetimeIndex | pd.PeriodIndex):
            late = np.flatnonzero(one[1:] <= one[:-1])
            if len(late):
                raise ValueError(
                    f"{name}: expected dates that rise, got {one[late[0]]} in row {late[0] + 1} "
                    f"and {one[late[0] + 1]} in the next"
                )
    if index is None or other is None or index.equals(other):
        return
    row = next((i for i, pair in enumerate(zip(index, other, strict=False)) if pair[0] != pair[1]),
               None)  # fmt: skip
    if row is not None:
        raise ValueError(f"inputs: expected the labels of the emissions, got {other[row]} in row "
                         f"{row + 1} in the place of {index[row]}")  # fmt: skip
