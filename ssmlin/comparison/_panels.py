"""What all figures begin with: a canvas, panels over time, bands, names above them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Shaped

from ssmlin._optional import require
from ssmlin.comparison._split import Split

if TYPE_CHECKING:
    import matplotlib.artist
    import matplotlib.axes
    import matplotlib.figure

#: What begins the name of an artist that a page says something of when it is pointed at.
TIP = "tip: "
#: Inches of a letter and of a line with its room in a legend.
_LETTER, _HANDLE = 0.07, 0.55


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


def say_of(artist: "matplotlib.artist.Artist", words: str) -> None:
    """What a page shows where one points at an artist."""
    artist.set_gid(TIP + words)


def finish(figure: "matplotlib.figure.Figure") -> None:
    """Small numbers, few short labels where panels show dates, and names above them."""
    from matplotlib import dates

    for axis in figure.axes:
        axis.tick_params(labelsize=8)
        if isinstance(axis.xaxis.get_major_locator(), dates.AutoDateLocator):
            locator = dates.AutoDateLocator(minticks=3, maxticks=6)  # type: ignore[no-untyped-call]
            axis.xaxis.set_major_locator(locator)
            short = dates.ConciseDateFormatter(locator)  # type: ignore[no-untyped-call]
            axis.xaxis.set_major_formatter(short)
    legend_above(figure)


def legend_above(figure: "matplotlib.figure.Figure") -> None:
    """The names of what the panels show, each once, above them: there they hide nothing.

    Called again, it lays them out for the width that the figure has now.
    """
    for legend in list(figure.legends):
        legend.remove()
    found: dict[str, matplotlib.artist.Artist] = {}
    for axis in figure.axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    if not found:
        return
    columns = int(figure.get_figwidth() / (_HANDLE + _LETTER * max(map(len, found))))
    figure.legend(
        found.values(), found.keys(), loc="outside upper left", fontsize=8, frameon=False,
        ncols=min(max(columns, 1), len(found)),
    )  # fmt: skip


def central(draws: Float[np.ndarray, "n T"], level: float) -> list[Float[np.ndarray, " T"]]:
    """Lower end, median and upper end of the central intervals over the first axis."""
    return list(np.quantile(draws, [0.5 - level / 2, 0.5, 0.5 + level / 2], axis=0))


def evenly(start: int, steps: int) -> slice:
    """At most 1500 of the steps from `start`, evenly, so that files stay small."""
    return slice(start, steps, 1 + max(0, steps - start - 1) // 1500)


def held_out_times(split: Split) -> Shaped[np.ndarray, " T2"]:
    """The times of the held-out steps."""
    return np.asarray(split.series.times)[split.num_train :]
