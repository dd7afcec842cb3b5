"""Forecasts from earlier cutoffs, beside what was observed after them."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Float

from ssmlin import _checks
from ssmlin._optional import require
from ssmlin.data import Columns
from ssmlin.forecasting._collection import CollectionState
from ssmlin.forecasting._layout import Layout
from ssmlin.forecasting._recipe import Recipe
from ssmlin.forecasting._state import ForecasterState, fit_panel
from ssmlin.forecasting._tables import cutoff_rows

if TYPE_CHECKING:
    import pandas


class Window(NamedTuple):
    """What is known before a cutoff, and the inputs of the steps after it.

    Attributes:
        cutoffs: how many steps of each series are known.
        known: the series until then.
        future: the inputs of the steps after it, in the caller's units.
    """

    cutoffs: dict[str, int]
    known: dict[str, Columns]
    future: dict[str, Float[np.ndarray, "H k"]]


def cut(panel: Mapping[str, Columns], horizon: int, num_windows: int, step: int) -> list[Window]:
    """The windows of a cross-validation; the last cutoff is `horizon` steps before the end.

    Args:
        panel: the series.
        horizon: steps after each cutoff.
        num_windows: how many cutoffs.
        step: steps between them.

    Raises:
        ValueError: an argument out of range, or series that are too short.
    """
    for name, value in (("horizon", horizon), ("num_windows", num_windows), ("step", step)):
        _checks.positive_int(name, value)
    most = horizon + (num_windows - 1) * step
    for name, columns in panel.items():
        count = len(columns.values)
        if count < most + 2:
            of = f"series {name!r}: " if name else ""
            raise ValueError(
                f"{of}num_windows: expected at least 2 steps before the first cutoff, which is "
                f"{most} steps before the end; got a series of {count}"
            )
    windows = []
    for left in range(most, horizon - 1, -step):
        ends = {name: len(one.values) - left for name, one in panel.items()}
        known, future = {}, {}
        for name, one in panel.items():
            past, ahead = slice(ends[name]), slice(ends[name], ends[name] + horizon)
            known[name] = one._replace(
                values=one.values[past], inputs=one.inputs[past], times=one.times[past]
            )
            future[name] = one.inputs[ahead]
        windows.append(Window(ends, known, future))
    return windows


def cross_validate(
    recipe: Recipe,
    panel: Mapping[str, Columns],
    layout: Layout,
    windows: Sequence[Window],
    horizon: int,
    levels: Sequence[float | int],
    *,
    refit: bool,
    num_samples: int,
) -> "pandas.DataFrame":
    """Fit before the first cutoff, or before each, and forecast from all of them.

    Args:
        recipe: the settings of the fits.
        panel: the whole series.
        layout: the caller's names.
        windows: of :func:`cut`.
        horizon: steps after each cutoff.
        levels: percentages of the intervals.
        refit: fit anew at every cutoff.
        num_samples: how many paths of each series.

    Returns:
        The table of :meth:`ssmlin.Forecaster.cross_validation`.
    """
    require("pandas")
    import pandas as pd

    parts: list[pandas.DataFrame] = []
    fitted: ForecasterState | CollectionState | None = None
    for number, window in enumerate(windows):
        if fitted is None or refit:
            folder = None if recipe.folder is None else recipe.folder / f"cutoff-{number}"
            changed = replace(recipe, checkpoint_dir=folder)
            fitted = fit_panel(changed, window.known, layout)
        else:
            fitted = replace(fitted, history=window.known)
        future = window.future if layout.inputs else dict.fromkeys(window.known)
        found = fitted.forecasts(horizon, levels, future, num_samples=num_samples, seed=recipe.seed)
        parts += [
            cutoff_rows(one, window.cutoffs[one.name], panel[one.name], layout) for one in found
        ]
    return pd.concat(parts, ignore_index=True)
