"""A picture of forecasts: the end of the history, means, and intervals."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ssmlin._optional import require
from ssmlin.data import Columns, Times, is_dates
from ssmlin.forecasting._ahead import SeriesForecast
from ssmlin.forecasting._layout import Layout

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MAX_PANELS = 12


def forecast_figure(
    forecasts: Sequence[SeriesForecast],
    panel: Mapping[str, Columns],
    layout: Layout,
    num_steps: int,
) -> "Figure":
    """Draw forecasts after the end of what was observed.

    Args:
        forecasts: of each series.
        panel: the series.
        layout: the caller's names.
        num_steps: how many observed steps to show.

    Returns:
        A matplotlib figure, a panel for each series and target, at most twelve.
    """
    require("matplotlib")
    from matplotlib.figure import Figure

    shown = [(one, i) for one in forecasts for i in range(len(one.targets))][:_MAX_PANELS]
    figure = Figure(figsize=(9, 0.6 + 2.4 * len(shown)), layout="constrained")
    axes = figure.subplots(len(shown), 1, squeeze=False)[:, 0]
    for axis, (one, i) in zip(axes, shown, strict=True):
        columns = panel[one.name]
        past = columns.times if layout.time is not None else np.arange(len(columns.values))
        axis.plot(_plain(past[-num_steps:]), columns.values[-num_steps:, i], color="black", lw=1,
                  label="observed")  # fmt: skip
        ahead = _plain(one.times)
        for k in np.argsort(one.levels)[::-1]:
            share = one.levels[k] / 100
            axis.fill_between(ahead, one.lower[k][:, i], one.upper[k][:, i], color="C0", lw=0,
                              alpha=0.15 + 0.35 * (1 - share),
                              label=f"{one.levels[k]:g} %")  # fmt: skip
        axis.plot(ahead, one.means[:, i], color="C0", lw=1.5, label="forecast")
        target = str(layout.label(one.targets[i]))
        axis.set_ylabel(f"{layout.label(one.name)}, {target}" if one.name else target)
        axis.margins(x=0.01)
    if shown:
        named = axes[0].get_legend_handles_labels()
        figure.legend(*named, loc="outside upper left", fontsize=8, ncols=5, frameon=False)
        axes[-1].set_xlabel(layout.time_name)
    return figure


def _plain(times: Times) -> np.ndarray:
    """Times as matplotlib takes them: dates without a zone show the clock on the wall."""
    if is_dates(times) and times.tz is not None:
        times = times.tz_localize(None)
    return np.asarray(times)
