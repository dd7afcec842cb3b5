"""What all figures begin with: a canvas, panels over time, bands."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Shaped

from ssmlin._optional import require
from ssmlin.comparison._split import Split

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure


def new_figure(width: float, height: float) -> "matplotlib.figure.Figure":
    """An empty figure of so many inches, which no window shows."""
    require("matplotlib")
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def stacked_panels(
    count: int, height: float, width: float = 9.0, margin: float = 0.8
) -> tuple["matplotlib.figure.Figure", list["matplotlib.axes.Axes"]]:
    """A figure of panels below each other, over one axis of time.

    Args:
        count: the number of panels.
        height: of each panel, in inches.
        width: of the figure, in inches.
        margin: height beside that of the panels, in inches.

    Returns:
        The figure and its panels, from top to bottom.
    """
    figure = new_figure(width, margin + height * count)
    axes = list(figure.subplots(count, 1, sharex=True, squeeze=False)[:, 0])
    for axis in axes:
        axis.margins(x=0.01)
    return figure, axes


def plot_band(
    axis: "matplotlib.axes.Axes",
    times: Shaped[np.ndarray, " T"],
    quantiles: Sequence[Shaped[np.ndarray, " T"]],
    *,
    color: str | None = None,
    label: str | None = None,
    band_label: str | None = None,
) -> None:
    """A line in the middle of a band.

    Args:
        axis: where to draw.
        times: labels of the T steps.
        quantiles: the lower end, the middle and the upper end.
        color: of both; default the next one of the axis.
        label: of the line in the legend.
        band_label: of the band in the legend.
    """
    low, middle, high = quantiles
    (line,) = axis.plot(times, middle, lw=1, color=color, label=label)
    axis.fill_between(
        times, low, high, color=line.get_color(), alpha=0.25, lw=0, label=band_label
    )  # fmt: skip


def held_out_times(split: Split) -> Shaped[np.ndarray, " T2"]:
    """The times of the held-out steps."""
    return np.asarray(split.series.times)[split.num_train :]
