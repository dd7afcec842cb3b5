"""Figures: average ranks, calibration, and forecasts of single series."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from ssmlin.comparison._panels import new_figure, plot_band
from ssmlin.comparison.collections._collection import CollectionSeries
from ssmlin.comparison.collections._quantiles import QUANTILE_LEVELS, index_of
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


def plot_calibration(shares: Mapping[str, Float[np.ndarray, " K"]], title: str) -> "Figure":
    """How much more often than they say values are below the quantiles.

    Args:
        shares: by model, the share of values below the quantiles of each level.
        title: above it.

    Returns:
        A matplotlib figure; on the line at zero a model is calibrated.
    """
    figure = new_figure(9.0, 4.0)
    axis = figure.subplots()
    axis.axhline(0.0, color="0.4", lw=1)
    for model, share in shares.items():
        axis.plot(QUANTILE_LEVELS, share - QUANTILE_LEVELS, lw=1.2, label=model)
    axis.set(
        xlabel="level of the quantile", ylabel="share of values below it, minus the level",
        title=title,
    )  # fmt: skip
    axis.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def plot_forecasts(
    series: Sequence[CollectionSeries],
    quantiles: Sequence[Float[np.ndarray, "H K"]],
    captions: Sequence[str],
) -> "Figure":
    """The end of each series, what came after it, and its forecast with 50 % and 95 % intervals.

    Args:
        series: the series.
        quantiles: their forecasts.
        captions: above each panel.

    Returns:
        A matplotlib figure of two columns.
    """
    rows = -(-len(series) // 2)
    figure = new_figure(9.0, 0.4 + 1.7 * rows)
    axes = figure.subplots(rows, 2, squeeze=False).ravel()
    for axis, one, forecast, caption in zip(axes, series, quantiles, captions, strict=False):
        shown = one.train[-max(4 * one.horizon, 2 * one.period) :]
        ahead = 1 + np.arange(one.horizon)
        axis.plot(np.arange(1 - len(shown), 1), shown, lw=1, color="0.3")
        for low, high in ((0.025, 0.975), (0.25, 0.75)):
            band = [forecast[:, index_of(level)] for level in (low, 0.5, high)]
            plot_band(axis, ahead, band, color="C0")
        if one.test is not None:
            axis.plot(ahead, one.test, ".", ms=4, color="C3")
        axis.set_title(caption, fontsize="small")
        axis.tick_params(labelsize="x-small")
    for axis in axes[len(series) :]:
        axis.set_visible(False)
    figure.supxlabel("steps after the last one seen", fontsize="small")
    return figure
