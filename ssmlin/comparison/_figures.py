"""Figures of a comparison: which model is best, since when, and is its uncertainty calibrated?"""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Float

from ssmlin.comparison._averaging import Weights
from ssmlin.comparison._panels import held_out_times, new_figure, plot_band, stacked_panels
from ssmlin.comparison._scores import LEVELS, Scores, standard_error
from ssmlin.comparison._tables import Comparison
from ssmlin.comparison.plots import gate_label
from ssmlin.forecasting import FittedAttention, Observed, with_lags, with_season

if TYPE_CHECKING:
    import matplotlib.figure


def _scored(comparison: Comparison) -> dict[str, Scores]:
    """The scores of the models that did not fail, the best first."""
    done = {r.name: r.scores for r in comparison.results if r.scores is not None}
    if not done:
        raise ValueError("comparison: expected a model that did not fail, got none")
    return done


def leaderboard_figure(comparison: Comparison) -> "matplotlib.figure.Figure":
    """How far each model is behind the best, with two standard errors of the paired differences.

    Args:
        comparison: what :func:`ssmlin.comparison.compare_models` returned.

    Returns:
        A matplotlib figure.

    Raises:
        ValueError: all models failed.
    """
    done = _scored(comparison)
    names = list(done)
    best = done[names[0]]
    figure = new_figure(8, 0.9 + 0.3 * len(done))
    axis = figure.subplots()
    for row, scores in enumerate(done.values()):
        difference = scores.log_density - best.log_density
        error = 0.0 if row == 0 else 2 * standard_error(difference)
        axis.errorbar(
            difference.mean(), row, xerr=np.nan_to_num(error), fmt="o", color="C0", capsize=3
        )
    axis.set_yticks(range(len(done)), names)
    axis.invert_yaxis()
    axis.axvline(0, color="grey", lw=0.8)
    axis.set_xlabel(f"nats a step to {names[0]} (two standard errors)")
    return figure


def gains_figure(
    comparison: Comparison, reference: str | None = None
) -> "matplotlib.figure.Figure":
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
    if reference is None:
        reference = "autoregression" if "autoregression" in done else list(done)[-1]
    if reference not in done:
        raise ValueError(f"reference: expected one of {', '.join(done)}; got {reference!r}")
    base = done[reference]
    scored_steps = np.isfinite(comparison.split.test).all(axis=1)
    times = held_out_times(comparison.split)[scored_steps]
    figure = new_figure(9, 3.4)
    axis = figure.subplots()
    for name in [name for name in done if name != reference][:5]:
        gained = np.cumsum(done[name].log_density - base.log_density)
        axis.plot(times, gained, label=name, lw=1)
    axis.axhline(0, color="grey", lw=0.8)
    axis.set_ylabel(f"nats gained over\n{reference}")
    axis.legend(fontsize=8, ncols=3)
    return figure


def held_out_figure(
    comparison: Comparison, name: str, level: float = 0.8
) -> "matplotlib.figure.Figure":
    """The held-out part and a model's one-step predictions of it.

    Args:
        comparison: what :func:`ssmlin.comparison.compare_models` returned.
        name: of the model.
        level: of the central band, in (0, 1).

    Returns:
        A matplotlib figure in the series' units, a panel for each column, six at most.

    Raises:
        ValueError: the model failed or was not compared.
    """
    laws = {r.name: r.predictive for r in comparison.results if r.predictive is not None}
    if name not in laws:
        raise ValueError(f"name: expected one of {', '.join(laws)}; got {name!r}")
    law, split = laws[name], comparison.split
    invert, times = split.scaling.invert, held_out_times(split)
    observed = invert(split.test)
    quantiles = [invert(law.quantile(0.5 + side * level / 2)) for side in (-1, 0, 1)]
    figure, axes = stacked_panels(min(len(split.series.columns), 6), 1.9)
    for column, axis in enumerate(axes):
        axis.plot(times, observed[:, column], color="black", lw=0.8, label="observed")
        plot_band(
            axis, times, [x[:, column] for x in quantiles], color="C0",
            label="one step ahead, median", band_label=f"{100 * level:g} % interval",
        )  # fmt: skip
        axis.set_ylabel(split.series.columns[column])
    axes[0].set_title(name)
    axes[0].legend(fontsize=8, ncols=3, loc="upper left")
    return figure


def calibration_figure(comparison: Comparison) -> "matplotlib.figure.Figure":
    """PIT histograms, flat for calibrated models, and the coverage of central intervals.

    Bands hold 95 % of the histograms and shares of a calibrated model.

    Args:
        comparison: what :func:`ssmlin.comparison.compare_models` returned.

    Returns:
        A matplotlib figure, a panel for each model.

    Raises:
        ValueError: all models failed.
    """
    from scipy import stats

    done = _scored(comparison)
    columns = 4
    rows = -(-len(done) // columns)
    figure = new_figure(11, 2.1 * rows)
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True)
    for axis in axes.ravel()[len(done) :]:
        axis.set_visible(False)
    for (name, scores), axis in zip(done.items(), axes.ravel(), strict=False):
        n, bins = scores.pit.size, 10
        counts, edges = np.histogram(scores.pit, bins=bins, range=(0, 1))
        low, high = stats.binom.interval(0.95, n, 1 / bins)
        axis.axhspan(low * bins / n, high * bins / n, color="grey", alpha=0.25, lw=0)
        axis.stairs(counts * bins / n, edges, fill=True, color="C0", alpha=0.7)
        axis.set_title(name, fontsize=9)
        text = ", ".join(f"{100 * x:.0f}: {100 * scores.coverage(x):.0f} %" for x in LEVELS)
        axis.set_xlabel(text, fontsize=7)
    return figure


def gate_paths(fit: FittedAttention, observed: Observed) -> dict[str, Float[np.ndarray, "T ..."]]:
    """The gates α_t, β_t, ... of a fitted mechanism at every step of a series, by name."""
    _, inputs = with_lags(fit.model, with_season(observed, fit.seasonal))
    return {k: np.asarray(v) for k, v in fit.model.gate_values(fit.params, inputs).items()}


class _GatePanel(NamedTuple):
    """The gates of one mechanism; those of its first steps, which serve as lags, are not shown."""

    name: str
    num_lags: int
    gates: dict[str, Float[np.ndarray, "T ..."]]


def gates_figure(comparison: Comparison) -> "matplotlib.figure.Figure | None":
    """The gates α_t, β_t, ... of the fitted mechanisms over the whole series.

    Gates per channel, with a value for each row or column of the state, are left out.

    Args:
        comparison: what :func:`ssmlin.comparison.compare_models` returned.

    Returns:
        A matplotlib figure, a panel for each mechanism; None if no mechanism has gates.
    """
    split = comparison.split
    panels = []
    for result in comparison.results:
        fit = result.details
        if isinstance(fit, FittedAttention):
            declared = fit.model.mechanism.gates
            gates = {name: x for name, x in gate_paths(fit, split.observed).items()
                     if not declared[name].is_per_channel}  # fmt: skip
            if gates:
                panels.append(_GatePanel(result.name, fit.model.num_lags, gates))
    if not panels:
        return None
    times = np.asarray(split.series.times)
    figure, axes = stacked_panels(len(panels), 1.6, margin=0.6)
    names = sorted({gate for panel in panels for gate in panel.gates})
    colors = {gate: f"C{i}" for i, gate in enumerate(names, start=1)}
    for (name, lags, gates), axis in zip(panels, axes, strict=True):
        for gate, values in gates.items():
            x = values.reshape(len(times), -1)[lags:]
            axis.plot(times[lags:], x, lw=0.9, color=colors[gate])
            axis.plot([], [], color=colors[gate], label=gate_label(gate))
        axis.axvline(times[split.num_train], color="grey", ls="--", lw=1)
        axis.set_ylabel(name, fontsize=8)
        axis.legend(fontsize=8, loc="upper left", ncols=2)
    return figure


def weights_figure(comparison: Comparison) -> "matplotlib.figure.Figure | None":
    """The weights of the mechanisms in their average, over the held-out part.

    Args:
        comparison: what :func:`ssmlin.comparison.compare_models` returned.

    Returns:
        A matplotlib figure; None if no average was compared.
    """
    weights = next((r.details for r in comparison.results if isinstance(r.details, Weights)), None)
    if weights is None:
        return None
    figure = new_figure(9, 2.6)
    axis = figure.subplots()
    times = held_out_times(comparison.split)
    axis.stackplot(times, weights.values.T, labels=weights.names, alpha=0.8)
    axis.set(ylim=(0, 1), ylabel="weight")
    axis.margins(x=0.01)
    axis.legend(fontsize=8, ncols=4, loc="lower left")
    return figure
