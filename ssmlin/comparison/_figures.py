"""Figures of a comparison: which model is best, since when, and is its uncertainty calibrated?"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from ssmlin.comparison._averaging import Weights
from ssmlin.comparison._evaluation import path_origins
from ssmlin.comparison._intervals import Estimate, intervals_figure
from ssmlin.comparison._panels import (
    central,
    evenly,
    finish,
    held_out_times,
    new_figure,
    plot_band,
    say_of,
    stacked_panels,
)
from ssmlin.comparison._scores import Scores, standard_error
from ssmlin.comparison._tables import Comparison
from ssmlin.forecasting import FittedAttention
from ssmlin.mechanisms import MECHANISMS

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

#: Models in a figure that shows the best ones, steps of the held-out part, columns of a series.
_BEST, MOST_STEPS, _MOST_COLUMNS = 5, 400, 6
_COVERED = np.arange(1, 20) / 20


def attention_names(comparison: Comparison) -> set[str]:
    """The linear attentions and their average; a mechanism of one's own need not be registered."""
    fitted = {r.name for r in comparison.results if isinstance(r.details, FittedAttention)}
    return {*MECHANISMS, *fitted, "average"}


def scored(comparison: Comparison) -> dict[str, Scores]:
    """The scores of the models that did not fail, the best first.

    Raises:
        ValueError: all models failed.
    """
    done = {r.name: r.scores for r in comparison.results if r.scores is not None}
    if not done:
        raise ValueError("comparison: expected a model that did not fail, got none")
    return done


def difference_figure(comparison: Comparison) -> "matplotlib.figure.Figure":
    """How far each model is behind the best, with two standard errors of the paired differences.

    The scale ends where most models are; an arrow and a number say how far the others are.

    Args:
        comparison: what :func:`ssmlin.comparison.compare_models` returned.

    Returns:
        A matplotlib figure.

    Raises:
        ValueError: all models failed.
    """
    done, attentions = scored(comparison), attention_names(comparison)
    best, *_ = done.values()
    rows = []
    for name, scores in done.items():
        gains = scores.log_density - best.log_density
        mean, error = float(gains.mean()), 2 * float(np.nan_to_num(standard_error(gains)))
        kind = ("linear attention", "C0") if name in attentions else ("other model", "grey")
        words = f"{mean:.3f} ± {error:.3f}"
        rows.append(Estimate(name, mean, mean - error, mean + error, words, *kind))
    return intervals_figure(rows, "nats a step, relative to the best")


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
    done = scored(comparison)
    if reference is None:
        reference = "autoregression" if "autoregression" in done else list(done)[-1]
    if reference not in done:
        raise ValueError(f"reference: expected one of {', '.join(done)}; got {reference!r}")
    base = done[reference]
    seen = np.isfinite(comparison.split.test).all(axis=1)
    times = held_out_times(comparison.split)[seen]
    figure, (axis,) = stacked_panels(1, 3.0)
    for name in [name for name in done if name != reference][:_BEST]:
        gained = np.cumsum(done[name].log_density - base.log_density)
        (line,) = axis.plot(times, gained, label=name, lw=1.2)
        say_of(line, f"{name}: {gained[-1]:.1f} in all")
    axis.axhline(0, color="grey", lw=0.8)
    axis.set_ylabel(f"nats over {reference}", fontsize=9)
    finish(figure)
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
        A matplotlib figure in the series' units, of the last 400 steps at most; a panel for each
        column, six at most.

    Raises:
        ValueError: the model failed or was not compared.
    """
    laws = {r.name: r.predictive for r in comparison.results if r.predictive is not None}
    if name not in laws:
        raise ValueError(f"name: expected one of {', '.join(laws)}; got {name!r}")
    law, split = laws[name], comparison.split
    invert, last = split.scaling.invert, slice(-MOST_STEPS, None)
    times, observed = held_out_times(split)[last], invert(split.test)[last]
    quantiles = [invert(law.quantile(0.5 + side * level / 2))[last] for side in (-1, 0, 1)]
    figure, axes = _panels_of_columns(comparison, 2.1)
    for column, axis in enumerate(axes):
        axis.plot(times, observed[:, column], color="black", lw=0.9, label="observed")
        plot_band(
            axis, times, [x[:, column] for x in quantiles], color="C0",
            label="one step ahead, median", band_label=f"{100 * level:g} % interval",
        )  # fmt: skip
    finish(figure)
    return figure


def paths_figure(
    comparison: Comparison, name: str, level: float = 0.8
) -> "matplotlib.figure.Figure":
    """Forecasts of several steps from places of the held-out part, beside what came.

    Args:
        comparison: what :func:`ssmlin.comparison.compare_models` returned, with a horizon.
        name: of the model.
        level: of the central bands, in (0, 1).

    Returns:
        A matplotlib figure in the series' units; a panel for each column, six at most. Forecasts
        do not overlap.

    Raises:
        ValueError: no paths of the model were sampled.
    """
    draws = {r.name: r.draws for r in comparison.results if r.draws is not None}
    if name not in draws:
        raise ValueError(f"name: expected a model with paths, one of {', '.join(draws)}; "
                         f"got {name!r}")  # fmt: skip
    split, horizon = comparison.split, comparison.horizon
    steps, invert = len(split.observed.values), split.scaling.invert
    paths = invert(draws[name])
    origins = path_origins(split.num_train, steps, horizon, len(paths))
    times, observed = np.asarray(split.series.times), invert(split.observed.values)
    first = max(split.num_train, steps - MOST_STEPS)
    figure, axes = _panels_of_columns(comparison, 2.1)
    for column, axis in enumerate(axes):
        axis.plot(times[first:], observed[first:, column], color="black", lw=0.9, label="observed")
    end = steps
    for place, origin in reversed(list(enumerate(origins))):
        if origin + horizon > end or origin < first:
            continue
        end = origin
        for column, axis in enumerate(axes):
            plot_band(
                axis, times[origin : origin + horizon], central(paths[place, ..., column], level),
                color="C0", label="median of paths", band_label=f"{100 * level:g} % interval",
            )  # fmt: skip
            axis.axvline(times[origin], color="grey", lw=0.7, ls=":")
    finish(figure)
    return figure


def _panels_of_columns(
    comparison: Comparison, height: float
) -> tuple["matplotlib.figure.Figure", list["matplotlib.axes.Axes"]]:
    """A panel for each column of the series, in its units."""
    columns = comparison.split.series.columns[:_MOST_COLUMNS]
    figure, axes = stacked_panels(len(columns), height)
    for name, axis in zip(columns, axes, strict=True):
        axis.set_ylabel(name, fontsize=9)
    return figure, axes


def pit_figure(name: str, scores: Scores) -> "matplotlib.figure.Figure":
    """The histogram of a model's PIT, flat for a calibrated one.

    The band holds 95 % of the heights of a calibrated model whose values are independent.

    Args:
        name: of the model, above the panel.
        scores: its scores.

    Returns:
        A small matplotlib figure.
    """
    from scipy import stats

    n, bins = scores.pit.size, 10
    counts, edges = np.histogram(scores.pit, bins=bins, range=(0, 1))
    low, high = stats.binom.interval(0.95, n, 1 / bins)
    figure = new_figure(2.3, 1.7)
    axis = figure.subplots()
    axis.axhspan(low * bins / n, high * bins / n, color="grey", alpha=0.3, lw=0)
    axis.stairs(counts * bins / n, edges, fill=True, color="C0", alpha=0.7)
    axis.axhline(1, color="grey", lw=0.8)
    axis.set(ylim=(0, max(2.4, 1.05 * counts.max() * bins / n)), xticks=(0, 0.5, 1))
    axis.set_title(name, fontsize=9)
    finish(figure)
    return figure


def coverage_figure(comparison: Comparison) -> "matplotlib.figure.Figure":
    """How many more values are inside the central intervals of the best models than they say.

    The band holds 95 % of the shares of a calibrated model whose values are independent.

    Args:
        comparison: what :func:`ssmlin.comparison.compare_models` returned.

    Returns:
        A matplotlib figure, a line for each of the five best models.

    Raises:
        ValueError: all models failed.
    """
    from scipy import stats

    done = scored(comparison)
    figure = new_figure(9, 3.4)
    axis = figure.subplots()
    n = next(iter(done.values())).pit.size
    ends = [stats.binom.ppf(tail, n, _COVERED) / n for tail in (0.025, 0.975)]
    axis.fill_between(
        100 * _COVERED, *(100 * (x - _COVERED) for x in ends), color="grey", alpha=0.3, lw=0
    )
    for name, scores in list(done.items())[:_BEST]:
        shares = np.array([scores.coverage(level) for level in _COVERED])
        (line,) = axis.plot(100 * _COVERED, 100 * (shares - _COVERED), label=name, lw=1.2)
        say_of(line, f"{name}: {100 * scores.coverage(0.95):.1f} % inside 95 % intervals")
    axis.axhline(0, color="grey", lw=0.8)
    axis.set_xlabel("central interval, %", fontsize=9)
    axis.set_ylabel("values inside, more than that, %", fontsize=9)
    finish(figure)
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
    figure, (axis,) = stacked_panels(1, 2.2)
    times = held_out_times(comparison.split)
    layers = axis.stackplot(times, weights.values.T, labels=weights.names, alpha=0.8)
    for layer, name in zip(layers, weights.names, strict=True):
        say_of(layer, name)
    axis.set_ylim(0, 1)
    axis.set_ylabel("weight", fontsize=9)
    finish(figure)
    return figure


def parts_figure(
    comparison: Comparison, parts: Mapping[str, Float[np.ndarray, "T m"]], column: int
) -> "matplotlib.figure.Figure":
    """What each part of a model adds to its one-step predictions of a column.

    Args:
        comparison: what :func:`ssmlin.comparison.compare_models` returned.
        parts: what :func:`ssmlin.forecasting.decompose` returned for the standardised series.
        column: which column.

    Returns:
        A matplotlib figure in the units that models see, a panel for each part, all on scales of
        the same width.
    """
    split = comparison.split
    scaling, times = split.scaling, np.asarray(split.series.times)
    figure, axes = stacked_panels(len(parts), 1.25)
    shown = evenly(1, len(times))  # at the first step nothing is known
    lines = {
        name: scaling.scale[column] * part[shown, column] + scaling.mean[column] * (name == "level")
        for name, part in parts.items()
    }
    widest = max(float(np.ptp(line)) for line in lines.values())
    for (name, line), axis in zip(lines.items(), axes, strict=True):
        axis.plot(times[shown], line, lw=1, color="C0")
        middle = 0.5 * (line.min() + line.max())
        axis.set_ylim(middle - 0.55 * widest, middle + 0.55 * widest)
        axis.axvline(times[split.num_train], color="grey", ls="--", lw=1)
        axis.set_ylabel(name, fontsize=9)
    finish(figure)
    return figure
