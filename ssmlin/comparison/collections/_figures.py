"""The figure of average ranks."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ssmlin.comparison._panels import new_figure
from ssmlin.comparison.collections._summary import Ranks

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def cliques(ranks: Sequence[float], critical_difference: float) -> list[tuple[float, float]]:
    """The widest ranges of average ranks that are not distinguished, each of two models or more.

    Args:
        ranks: the average ranks.
        critical_difference: ranks that differ by less are not distinguished.

    Returns:
        The least and largest rank of each, the best first.
    """
    ordered = np.sort(ranks)
    found: list[tuple[float, float]] = []
    for low in ordered:
        high = float(ordered[ordered - low < critical_difference].max())
        if high > low and (not found or high > found[-1][1]):
            found.append((float(low), high))
    return found


def plot_average_ranks(models: Sequence[str], found: Ranks, title: str) -> "Figure":
    """A critical-difference figure: a line a model, and bars over those not distinguished.

    Args:
        models: their names.
        found: their ranks.
        title: above it.

    Returns:
        A matplotlib figure.

    Source: Demšar (2006), Journal of Machine Learning Research 7.
    """
    order = np.argsort(found.ranks)
    count = len(order)
    bars = cliques(found.ranks.tolist(), found.critical_difference)
    figure = new_figure(7.0, 1.0 + 0.28 * (count + 0.6 * len(bars)))
    axis = figure.subplots()
    for row, model in enumerate(order):
        axis.plot(found.ranks[model], row, "o", color="C0")
        axis.annotate(
            f"{models[model]}  {found.ranks[model]:.2f}", (found.ranks[model], row),
            xytext=(8, 0), textcoords="offset points", va="center",
        )  # fmt: skip
    for number, (low, high) in enumerate(bars):
        axis.plot([low, high], [count + 0.6 * number] * 2, lw=4, color="0.4")
    axis.set_ylim(count + 0.6 * len(bars), -0.7)
    axis.margins(x=0.25)
    axis.set_yticks([])
    axis.set_xlabel(f"average rank (critical difference {found.critical_difference:.2f})")
    axis.set_title(title)
    for side in ("left", "right", "top"):
        axis.spines[side].set_visible(False)
    return figure
