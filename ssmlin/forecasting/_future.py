"""The inputs of the steps to come of each series, from what the caller gives."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from ssmlin._optional import require
from ssmlin.data import Columns, future_inputs, tell_of_filled
from ssmlin.forecasting._layout import Layout, as_inputs, counts_rows, is_several


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
    parts: Sequence[object] = [future] * len(panel)
    is_list = len(panel) > 1 and is_several(future)
    if is_list and isinstance(future, Sequence):
        parts = future
    if len(parts) != len(panel):
        raise ValueError(f"future_inputs: expected {len(panel)} tables, one for each series, got "
                         f"{len(parts)}")  # fmt: skip
    found: dict[str, Float[np.ndarray, "H k"] | None] = {}
    for (name, columns), part in zip(panel.items(), parts, strict=True):
        is_frame = isinstance(part, pd.DataFrame)
        if not is_frame and not is_list and len(panel) > 1:
            raise ValueError("future_inputs: expected a frame with the column "
                             f"{layout.series!r}, or a list of arrays, one for each series, got "
                             f"{type(future).__name__}")  # fmt: skip
        try:
            table, time = as_inputs(part, layout.inputs), None
            if is_frame or isinstance(part, pd.Series):
                time = layout.time
                if time not in table.columns and not counts_rows(table.index):
                    table = table.rename_axis(index=time).reset_index()
            table = table.rename(columns=str)
            series = layout.series if is_frame and not is_list else None
            found[name] = future_inputs(
                table, columns.times, horizon, layout.inputs, time, series, name,
                columns.date_format, last=columns.inputs[-1] if layout.fill_inputs else None,
            )  # fmt: skip
        except ValueError as error:
            text = str(error).removeprefix("future_inputs: ")
            raise ValueError(f"future_inputs: {text}") from error
    return found
