"""Figures: each function returns a matplotlib figure, which its `savefig` writes to a file."""

import unicodedata
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ssmlin.comparison.split import Split
from ssmlin.forecasting import FittedAttention, predictive, with_lags
from ssmlin.models import Forecast

if TYPE_CHECKING:
    import xarray
    from matplotlib.figure import Figure


def _rows(count: int, height: float = 2.2) -> tuple["Figure", Any]:
    """A figure of `count` panels below each other, over one axis of time."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 0.8 + height * count), layout="constrained")
    axes = figure.subplots(count, 1, sharex=True, squeeze=False)[:, 0]
    for axis in axes:
        axis.margins(x=0.01)
    return figure, axes


def _quantile_band(axis: Any, times: Any, draws: Any, level: float, **style: Any) -> None:
    """Median and central interval over the first axis."""
    low, middle, high = np.quantile(draws, [0.5 - level / 2, 0.5, 0.5 + level / 2], axis=0)
    (line,) = axis.plot(times, middle, lw=1, **style)
    axis.fill_between(times, low, high, color=line.get_color(), alpha=0.25, lw=0)


def _labels(times: Any, count: int) -> Any:
    """The labels given, or 0, 1, ..."""
    if times is None:
        return np.arange(count)
    if len(times) != count:
        raise ValueError(f"times: expected {count} labels, got {len(times)}")
    return np.asarray(times)


def loss_figure(losses: Mapping[str, Any]) -> "Figure":
    """How objectives went down, one curve a fit.

    Args:
        losses: for each name the losses of the epochs or iterations, (n,); those of
            :meth:`ssmlin.LinearAttentionSSM.fit_em` with their sign changed.

    Returns:
        A matplotlib figure.

    Raises:
        ValueError: no curve is given.
    """
    if not losses:
        raise ValueError("losses: expected at least one curve, got none")
    figure, (axis,) = _rows(1, 3.5)
    for name, values in losses.items():
        axis.plot(np.arange(len(values)), np.asarray(values), lw=1.2, label=name)
    axis.set(xlabel="epoch or iteration", ylabel="loss")
    axis.legend()
    return figure


def _through_arviz(plot: str, draws: Any, variables: str | Sequence[str] | None) -> Any:
    """A figure of ArviZ, of parameters and not of trajectories unless they are named."""
    import arviz

    names = [variables] if isinstance(variables, str) else variables
    if names is None:
        names = [str(k) for k, v in draws.posterior.data_vars.items() if "time" not in v.dims]
    missing = [name for name in names if name not in draws.posterior]
    if missing:
        known = ", ".join(map(str, draws.posterior.data_vars))
        raise ValueError(f"variables: expected names among {known}; got {', '.join(missing)}")
    collection = getattr(arviz, plot)(draws, var_names=list(names), backend="matplotlib")
    return collection.viz["figure"].item()


def trace_figure(
    draws: "xarray.DataTree", variables: str | Sequence[str] | None = None
) -> "Figure":
    """Densities and traces of every chain, by ArviZ.

    Args:
        draws: what :func:`ssmlin.sample_posterior` returned.
        variables: names in its posterior; default all parameters.

    Returns:
        A matplotlib figure.

    Raises:
        ValueError: a name that is not there.
    """
    return _through_arviz("plot_trace_dist", draws, variables)


def pair_figure(draws: "xarray.DataTree", variables: str | Sequence[str] | None = None) -> "Figure":
    """Draws of each pair of parameters, by ArviZ.

    Args:
        draws: what :func:`ssmlin.sample_posterior` returned.
        variables: names in its posterior, with two elements or more together; default all.

    Returns:
        A matplotlib figure.

    Raises:
        ValueError: a name that is not there.
    """
    return _through_arviz("plot_pair", draws, variables)


def gate_label(gate: str) -> str:
    """A gate at step t, by its letter where its name is that of one: α_t of alpha."""
    try:
        letter = unicodedata.lookup(f"GREEK SMALL LETTER {gate}")
    except KeyError:
        letter = gate
    return f"{letter}_t"


def gate_figure(draws: "xarray.DataTree", level: float = 0.9, sequence: int = 0) -> "Figure":
    """The posterior of the gates over time: α_t, β_t and the others the mechanism has.

    Args:
        draws: what :func:`ssmlin.sample_posterior` returned.
        level: of the central bands, in (0, 1).
        sequence: which sequence of a batch.

    Returns:
        A matplotlib figure, a panel for each gate and a line for each of its columns.

    Raises:
        ValueError: the draws hold no trajectories.
    """
    names = [str(name) for name in draws.posterior.data_vars if str(name).endswith("_t")]
    if not names:
        raise ValueError("draws: expected trajectories of the gates, got none (trajectories=True)")
    figure, axes = _rows(len(names))
    for name, axis in zip(names, axes, strict=True):
        gate = draws.posterior[name]
        gate = gate.isel(sequence=sequence) if "sequence" in gate.dims else gate
        x = gate.transpose("chain", "draw", "time", ...).values
        x = x.reshape(x.shape[0] * x.shape[1], x.shape[2], -1)
        for column in range(x.shape[-1]):
            _quantile_band(axis, gate["time"].values, x[..., column], level)
        axis.set_ylabel(gate_label(name.removesuffix("_t")))
    axes[0].set_title(f"posterior median and {100 * level:g} % band", fontsize=9)
    return figure


def state_norm_figure(states: Any, times: Any = None, level: float = 0.9) -> "Figure":
    """The size of the memory over time, ‖S_t‖ (Frobenius), from sampled paths.

    Args:
        states: paths of the state, (..., T, m, d), from ``posterior_sample`` or from the variable
            "states" of :func:`ssmlin.sample_posterior`.
        times: labels of the T steps; default 0, 1, ...
        level: of the central band, in (0, 1).

    Returns:
        A matplotlib figure.

    Raises:
        ValueError: an array of the wrong shape.
    """
    x = np.asarray(states)
    if x.ndim < 4:
        raise ValueError(f"states: expected shape (num_samples, T, m, d), got {x.shape}")
    norms = np.linalg.norm(x.reshape(-1, *x.shape[-3:]), axis=(-2, -1))
    figure, (axis,) = _rows(1, 3)
    _quantile_band(axis, _labels(times, norms.shape[1]), norms, level)
    axis.set(ylabel="‖S_t‖", title=f"posterior median and {100 * level:g} % band")
    return figure


def predictive_figure(
    emissions: Any,
    predictions: Any,
    forecast: Forecast | None = None,
    *,
    times: Any = None,
    columns: Sequence[str] | None = None,
    level: float = 0.9,
) -> "Figure":
    """A series, its one-step predictions with a band, and the fan of a forecast after it.

    Args:
        emissions: the series, (T, m).
        predictions: draws of every step given those before it, (..., T, m): "emissions" of
            :func:`ssmlin.predict_one_step` or the group `posterior_predictive`.
        forecast: what ``model.forecast`` returned, drawn after the series.
        times: numeric labels of the T steps; default 0, 1, ...
        columns: names of the m columns.
        level: of the band, in (0, 1).

    Returns:
        A matplotlib figure, one panel a column.

    Raises:
        ValueError: arrays whose shapes do not match.
    """
    y, draws = np.asarray(emissions), np.asarray(predictions)
    if y.ndim != 2 or draws.shape[-2:] != y.shape:
        raise ValueError(
            "predictions: expected shape (..., T, m) with the emissions' T and m, got "
            f"{draws.shape} for {y.shape}"
        )
    draws = draws.reshape(-1, *y.shape)
    steps, m = y.shape
    labels = _labels(times, steps)
    figure, axes = _rows(m)
    for column, axis in enumerate(axes):
        axis.plot(labels, y[:, column], color="black", lw=0.8, label="observed")
        _quantile_band(axis, labels, draws[..., column], level, label="one step ahead")
        if forecast is not None:
            ahead = labels[-1] + (labels[-1] - labels[-2]) * np.arange(1, len(forecast.means) + 1)
            axis.plot(ahead, np.asarray(forecast.means)[:, column], color="C1", label="forecast")
            for low, high in zip(forecast.lower, forecast.upper, strict=True):
                ends = np.asarray(low)[:, column], np.asarray(high)[:, column]
                axis.fill_between(ahead, *ends, color="C1", alpha=0.2, lw=0)
        axis.set_ylabel(columns[column] if columns else f"y[{column}]")
    axes[0].legend(loc="upper left", fontsize=8, ncols=3)
    return figure


def prediction_figure(panels: Sequence[tuple[Split, int, FittedAttention, FittedAttention]]) -> Any:
    """Series with one-step predictions and a 90 % band, and the decay α_t below.

    Args:
        panels: for each column of the figure the data, which of its columns to show, the model
            whose predictions are shown, and the model whose α_t is shown.

    Returns:
        A matplotlib figure.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.5 * len(panels), 6), layout="constrained")
    axes = figure.subplots(2, len(panels), sharex="col", height_ratios=[3, 1], squeeze=False)
    for (split, column, predictor, gated), (top, bottom) in zip(panels, axes.T, strict=True):
        times, start = split.series.times, split.num_train
        model = predictor.model
        law = predictive(model, predictor.params, split.observed)
        middle = law.quantile(0.5) if split.scaling.is_transformed else law.mean
        low, mean, high = (
            split.scaling.invert(x)[:, column]
            for x in (law.quantile(0.05), middle, law.quantile(0.95))
        )
        seen = slice(model.num_lags, None)
        top.plot(times, split.series.values[:, column], color="black", lw=0.8, label="observed")
        top.plot(times[seen], mean[seen], color="C0", lw=1, label="predicted one step ahead")
        top.fill_between(
            times[seen],
            low[seen],
            high[seen],
            color="C0",
            alpha=0.25,
            lw=0,
            label="90 % band",
        )
        top.set_title(f"{split.series.name}: {model.mechanism.name}, {model.num_lags} lags")
        top.set_ylabel(split.series.columns[column])

        model, params = gated.model, gated.params
        _, inputs = with_lags(model, split.observed)
        alpha = np.asarray(model.gate_values(params, inputs)["alpha"])
        bottom.plot(times[seen], alpha[seen], color="C1", lw=0.8)
        bottom.set_ylabel(f"α_t, {model.mechanism.name}")
        for axis in (top, bottom):
            axis.axvline(times[start], color="grey", ls="--", lw=1)
            axis.axvspan(times[start], times[-1], color="grey", alpha=0.08, lw=0)
            axis.margins(x=0.01)
        top.legend(loc="upper left", fontsize=8, ncols=3)
        bottom.set_xlabel("held out to the right of the dashed line", fontsize=8)
    return figure
