"""Figures of a comparison: who is best, since when, and may the uncertainty be believed?"""

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import stats

from ssmlin.comparison.comparisons import Comparison
from ssmlin.comparison.evaluation import Result
from ssmlin.comparison.plots import gate_label
from ssmlin.comparison.scores import LEVELS, standard_error
from ssmlin.forecasting import FittedAttention, with_lags, with_season

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def _scored(comparison: Comparison) -> list[Result]:
    """The models that did not fail, the best first."""
    done = [r for r in comparison.results if r.scores is not None]
    if not done:
        raise ValueError("comparison: expected a model that did not fail, got none")
    return done


def _seen(comparison: Comparison) -> tuple[np.ndarray, np.ndarray]:
    """Which held-out steps are scored, and their times."""
    split = comparison.split
    seen = np.isfinite(split.test).all(axis=1)
    return seen, np.asarray(split.series.times)[split.num_train :][seen]


def _figure(width: float, height: float) -> "Figure":
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def leaderboard_figure(comparison: Comparison) -> "Figure":
    """How far each model is behind the best, with two standard errors of the paired differences.

    Args:
        comparison: what :func:`ssmlin.comparison.compare_models` returned.

    Returns:
        A matplotlib figure.

    Raises:
        ValueError: all models failed.
    """
    done = _scored(comparison)
    best: Any = done[0].scores
    figure = _figure(8, 0.9 + 0.3 * len(done))
    axis = figure.subplots()
    for row, result in enumerate(done):
        scores: Any = result.scores
        difference = scores.log_density - best.log_density
        error = 0.0 if row == 0 else 2 * standard_error(difference)
        axis.errorbar(
            difference.mean(), row, xerr=np.nan_to_num(error), fmt="o", color="C0", capsize=3
        )
    axis.set_yticks(range(len(done)), [r.name for r in done])
    axis.invert_yaxis()
    axis.axvline(0, color="grey", lw=0.8)
    axis.set_xlabel(f"nats a step to {done[0].name} (two standard errors)")
    return figure


def gains_figure(comparison: Comparison, reference: str | None = None) -> "Figure":
    """The sum of log density gained over a reference, step by step of the held-out part.

    Args:
        comparison: what :func:`ssmlin.comparison.compare_models` returned.
        reference: name of a model; default the autoregression, or the last one.

    Returns:
        A matplotlib figure with the five best models.

    Raises:
        ValueError: all models failed, or the reference did or was not compared.
    """
    done = _scored(comparison)
    by_name = {r.name: r for r in done}
    if reference is None:
        reference = "autoregression" if "autoregression" in by_name else done[-1].name
    if reference not in by_name:
        raise ValueError(f"reference: expected one of {', '.join(by_name)}; got {reference!r}")
    base: Any = by_name[reference].scores
    _, times = _seen(comparison)
    figure = _figure(9, 3.4)
    axis = figure.subplots()
    for result in [r for r in done if r.name != reference][:5]:
        scores: Any = result.scores
        axis.plot(times, np.cumsum(scores.log_density - base.log_density), label=result.name, lw=1)
    axis.axhline(0, color="grey", lw=0.8)
    axis.set_ylabel(f"nats gained over\n{reference}")
    axis.legend(fontsize=8, ncols=3)
    return figure


def held_out_figure(comparison: Comparison, name: str, level: float = 0.8) -> "Figure":
    """The held-out part and what a model said of each step before it was seen.

    Args:
        comparison: what :func:`ssmlin.comparison.compare_models` returned.
        name: of the model.
        level: of the central band, in (0, 1).

    Returns:
        A matplotlib figure in the series' units, a panel for each column, six at most.

    Raises:
        ValueError: the model failed or was not compared.
    """
    found = {r.name: r.predictive for r in comparison.results if r.predictive is not None}
    if name not in found:
        raise ValueError(f"name: expected one of {', '.join(found)}; got {name!r}")
    law, split = found[name], comparison.split
    low, middle, high = (law.quantile(0.5 + side * level / 2) for side in (-1, 0, 1))
    times = np.asarray(split.series.times)[split.num_train :]
    count = min(len(split.series.columns), 6)
    figure = _figure(9, 0.8 + 1.9 * count)
    axes = figure.subplots(count, 1, sharex=True, squeeze=False)[:, 0]
    invert = split.scaling.invert
    observed, low, middle, high = (invert(x) for x in (split.test, low, middle, high))
    for column, axis in enumerate(axes):
        axis.plot(times, observed[:, column], color="black", lw=0.8, label="observed")
        axis.plot(times, middle[:, column], color="C0", lw=1, label="one step ahead, median")
        axis.fill_between(
            times, low[:, column], high[:, column], color="C0", alpha=0.25, lw=0,
            label=f"{100 * level:g} % interval",
        )  # fmt: skip
        axis.set_ylabel(split.series.columns[column])
        axis.margins(x=0.01)
    axes[0].set_title(name)
    axes[0].legend(fontsize=8, ncols=3, loc="upper left")
    return figure


def calibration_figure(comparison: Comparison) -> "Figure":
    """PIT histograms, flat for calibrated models, and the coverage of central intervals.

    Bands hold 95 % of the histograms and shares of a calibrated model.

    Args:
        comparison: what :func:`ssmlin.comparison.compare_models` returned.

    Returns:
        A matplotlib figure, a panel for each model.

    Raises:
        ValueError: all models failed.
    """
    done = _scored(comparison)
    columns = 4
    rows = -(-len(done) // columns)
    figure = _figure(11, 2.1 * rows)
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True)
    for axis in axes.ravel()[len(done) :]:
        axis.set_visible(False)
    for result, axis in zip(done, axes.ravel(), strict=False):
        scores: Any = result.scores
        n, bins = scores.pit.size, 10
        counts, edges = np.histogram(scores.pit, bins=bins, range=(0, 1))
        low, high = stats.binom.interval(0.95, n, 1 / bins)
        axis.axhspan(low * bins / n, high * bins / n, color="grey", alpha=0.25, lw=0)
        axis.stairs(counts * bins / n, edges, fill=True, color="C0", alpha=0.7)
        axis.set_title(result.name, fontsize=9)
        text = ", ".join(f"{100 * x:.0f}: {100 * scores.coverage(x):.0f} %" for x in LEVELS)
        axis.set_xlabel(text, fontsize=7)
    return figure


def gates_figure(comparison: Comparison) -> "Figure | None":
    """The gates α_t, β_t, ... of the fitted mechanisms over the whole series, but those per column.

    Args:
        comparison: what :func:`ssmlin.comparison.compare_models` returned.

    Returns:
        A matplotlib figure, a panel for each mechanism; None if no mechanism has gates.
    """
    fits = {r.name: r.details for r in comparison.results if isinstance(r.details, FittedAttention)}
    panels = []
    for name, fit in fits.items():
        observed = with_season(comparison.split.observed, fit.seasonal)
        _, inputs = with_lags(fit.model, observed)
        found = fit.model.gate_values(fit.params, inputs)
        declared = fit.model.mechanism.gates
        scalar = {k: np.asarray(v) for k, v in found.items() if declared[k].per != "column"}
        if scalar:
            panels.append((name, fit.model.num_lags, scalar))
    if not panels:
        return None
    split = comparison.split
    times = np.asarray(split.series.times)
    figure = _figure(9, 0.6 + 1.6 * len(panels))
    axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    names = sorted({gate for _, _, gates in panels for gate in gates})
    colors = {gate: f"C{i}" for i, gate in enumerate(names, start=1)}
    for (name, lags, gates), axis in zip(panels, axes, strict=True):
        for gate, values in gates.items():
            x = values.reshape(len(times), -1)[lags:]
            axis.plot(times[lags:], x, lw=0.9, color=colors[gate])
            axis.plot([], [], color=colors[gate], label=gate_label(gate))
        axis.axvline(times[split.num_train], color="grey", ls="--", lw=1)
        axis.set_ylabel(name, fontsize=8)
        axis.legend(fontsize=8, loc="upper left", ncols=2)
        axis.margins(x=0.01)
    return figure


def weights_figure(comparison: Comparison) -> "Figure | None":
    """The weights of the mechanisms in their average, over the held-out part.

    Args:
        comparison: what :func:`ssmlin.comparison.compare_models` returned.

    Returns:
        A matplotlib figure; None if no average was compared.
    """
    weights = next((r.details for r in comparison.results if r.name == "average"), None)
    if weights is None:
        return None
    split = comparison.split
    times = np.asarray(split.series.times)[split.num_train :]
    figure = _figure(9, 2.6)
    axis = figure.subplots()
    names = weights.names
    axis.stackplot(times, weights.values.T, labels=names, alpha=0.8)
    axis.set(ylim=(0, 1), ylabel="weight")
    axis.margins(x=0.01)
    axis.legend(fontsize=8, ncols=4, loc="lower left")
    return figure
