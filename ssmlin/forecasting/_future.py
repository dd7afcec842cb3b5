"""The inputs of the steps to come of each series, from what the caller gives."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
from jaxtyping import Float

from ssmlin._optional import require
from ssmlin.data import Columns, FutureTable, tell_of_filled
from ssmlin.forecasting._layout import Layout
from ssmlin.forecasting._tabulate import as_inputs, counts_rows, is_several


def future_panel(
    future: object, layout: Layout, panel: Mapping[str, Columns], horizon: int
) -> dict[str, Float[np.ndarray, "H k"] | None]:
    """The inputs of the steps to come of each series, in the caller's units.

    Args:
        future: arrays by series, which are what is returned; or a frame with the columns of the
            inputs, of the times and of the series; an array
            with the rows to come in order; or a list of these, one for each series.
        layout: of the data that the forecast goes on from.
        panel: these data.
        horizon: how many steps.

    Returns:
        For each series an array (H, k), or None without inputs. Where the layout says that missing
        inputs are filled, those that are missing are the last ones before.

    Raises:
        ValueError: inputs that are missing, or that the model does not have.
    """
    if isinstance(future, Mapping):
        return dict(future)
    require("pandas")
    import pandas as pd

    if not layout.inputs:
        if future is not None:
            raise ValueError("future_inputs: expected none, since the forecaster has no inputs, "
                             f"got {type(future).__name__}")  # fmt: skip
        return dict.fromkeys(panel)
    if future is None and layout.fill_inputs:
        tell_of_filled(np.ones((horizon, len(layout.inputs)), bool), layout.inputs)
        return {name: np.tile(one.inputs[-1], (horizon, 1)) for name, one in panel.items()}
    if future is None:
        raise ValueError(f"future_inputs: expected the inputs {', '.join(layout.inputs)} of the "
                         "steps to come, got none")  # fmt: skip
    with _naming_the_argument():
        if len(panel) > 1 and is_several(future):
            assert isinstance(future, Sequence)
            if len(future) != len(panel):
                raise ValueError(
                    f"expected {len(panel)} tables, one for each series, got {len(future)}"
                )
            plans = [_plan(part, layout, panel, None) for part in future]
        elif len(panel) > 1 and not isinstance(future, pd.DataFrame):
            raise ValueError(
                f"expected a frame with the column {layout.series!r}, or a list of arrays, one for "
                f"each series, got {type(future).__name__}"
            )
        else:
            is_frame = isinstance(future, pd.DataFrame)
            plan = _plan(future, layout, panel, layout.series if is_frame else None)
            plans = [plan] * len(panel)
        return {
            name: plan.inputs(
                one.times, horizon, name, last=one.inputs[-1] if layout.fill_inputs else None
            )
            for (name, one), plan in zip(panel.items(), plans, strict=True)
        }


def _plan(
    future: object, layout: Layout, panel: Mapping[str, Columns], series: str | None
) -> FutureTable:
    """What the caller gives of one series, or of all of them, as a table."""
    require("pandas")
    import pandas as pd

    table, time = as_inputs(future, layout.inputs), None
    if isinstance(future, pd.DataFrame | pd.Series):
        time = layout.time
        if time not in table.columns and not counts_rows(table.index):
            table = table.rename_axis(index=time).reset_index()
    date_format = next(iter(panel.values())).date_format
    return FutureTable(table.rename(columns=str), layout.inputs, time, series, date_format)


@contextmanager
def _naming_the_argument() -> Iterator[None]:
    """Begin the messages of errors with the argument's name."""
    try:
        yield
    except ValueError as error:
        text = str(error).removeprefix("future_inputs: ")
        raise ValueError(f"future_inputs: {text}") from error
