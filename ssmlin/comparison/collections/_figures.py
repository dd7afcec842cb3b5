"""Figures: average ranks, calibration, and forecasts of single series."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from ssmlin.comparison._intervals import Estimate, intervals_figure
from ssmlin.comparison._panels import finish, new_figure, plot_band, say_of
from ssmlin.comparison.collections._collection import CollectionSeries
from ssmlin.comparison.collections._quantiles import QUANTILE_LEVELS, index_of
from ssmlin.comparison.collections._summary import Interval, Ranks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
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
    figure = new_figure(9.0, 1.0 + 0.28 * (count + 0.6 * len(bars)))
    axis = figure.subplots()
    for row, model in enumerate(order):
        (dot,) = axis.plot(found.ranks[model], row, "o", color="C0")
        say_of(dot, f"{models[model]}: {found.ranks[model]:.2f}")
        axis.annotate(
            f"{found.ranks[model]:.2f}", (found.ranks[model], row), xytext=(8, 0),
            textcoords="offset points", va="center", fontsize=8,
        )  # fmt: skip
    for number, (low, high) in enumerate(bars):
        axis.plot([low, high], [count + 0.6 * number] * 2, lw=4, color="grey")
    axis.set_ylim(count + 0.6 * len(bars), -0.7)
    axis.margins(x=0.1)
    axis.set_yticks(range(count), [models[model] for model in order])
    axis.set_xlabel(f"average rank (critical difference {found.critical_difference:.2f})")
    axis.set_title(title, fontsize=9)
    for side in ("right", "top"):
        axis.spines[side].set_visible(False)
    finish(figure)
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
    axis.axhline(0.0, color="grey", lw=1)
    for model, share in shares.items():
        (line,) = axis.plot(QUANTILE_LEVELS, share - QUANTILE_LEVELS, lw=1.2, label=model)
        say_of(line, model)
    axis.set_xlabel("level of the quantile", fontsize=9)
    axis.set_ylabel("share below it, minus the level", fontsize=9)
    axis.set_title(title, fontsize=9)
    finish(figure)
    return figure


def plot_ratios(models: Sequence[str], ratios: Interval, measure: str, reference: str) -> "Figure":
    """How much larger a score is than that of a reference, with intervals.

    Args:
        models: their names.
        ratios: of their scores to those of the reference.
        measure: the name of the score.
        reference: the name of the reference.

    Returns:
        A matplotlib figure; an arrow stands for a model that is too far away for the scale.
    """
    rows = []
    for name, ends in zip(models, np.stack(ratios, axis=1), strict=True):
        value, low, high = (100 * (ends - 1)).tolist()
        rows.append(Estimate(name, value, low, high, f"{value:+.1f} %"))
    return intervals_figure(rows, f"{measure} above that of {reference}, %")


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
        _plot_forecast(axis, one, forecast, caption)
    for axis in axes[len(series) :]:
        axis.set_visible(False)
    figure.supxlabel("steps after the last one seen", fontsize=9)
    return figure


def forecast_figure(
    one: CollectionSeries, forecast: Float[np.ndarray, "H K"], caption: str
) -> "Figure":
    """A figure of one series alone, as wide as a phone, see :func:`plot_forecasts`."""
    figure = new_figure(4.0, 1.9)
    _plot_forecast(figure.subplots(), one, forecast, caption)
    return figure


def _plot_forecast(
    axis: "Axes", one: CollectionSeries, forecast: Float[np.ndarray, "H K"], caption: str
) -> None:
    shown = one.train[-max(4 * one.horizon, 2 * one.period) :]
    ahead = 1 + np.arange(one.horizon)
    axis.plot(np.arange(1 - len(shown), 1), shown, lw=1, color="black")
    for low, high in ((0.025, 0.975), (0.25, 0.75)):
        band = [forecast[:, index_of(level)] for level in (low, 0.5, high)]
        plot_band(axis, ahead, band, color="C0")
    if one.test is not None:
        axis.plot(ahead, one.test, ".", ms=4, color="C3")
    axis.set_title(caption, fontsize=9)
    axis.tick_params(labelsize=8)
