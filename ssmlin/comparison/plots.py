"""Figures of fits, draws and forecasts of a model.

Each function returns a matplotlib figure, which its `savefig` writes to a file.
"""

import unicodedata
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Shaped
from numpy.typing import ArrayLike

from ssmlin._optional import require
from ssmlin._typing import AnyArray
from ssmlin.comparison._panels import central, finish, plot_band, stacked_panels
from ssmlin.models import Forecast

if TYPE_CHECKING:
    import matplotlib.figure
    import xarray


def _labels(times: ArrayLike | None, count: int) -> Shaped[np.ndarray, " T"]:
    """The labels given, or 0, 1, ..."""
    if times is None:
        return np.arange(count)
    labels = np.asarray(times)
    if len(labels) != count:
        raise ValueError(f"times: expected {count} labels, got {len(labels)}")
    return labels


def loss_figure(losses: Mapping[str, ArrayLike]) -> "matplotlib.figure.Figure":
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
    figure, (axis,) = stacked_panels(1, 3.5)
    for name, curve in losses.items():
        values = np.asarray(curve)
        axis.plot(np.arange(len(values)), values, lw=1.2, label=name)
    axis.set(xlabel="epoch or iteration", ylabel="loss")
    finish(figure)
    return figure


def parameter_names(draws: "xarray.DataTree") -> list[str]:
    """The names of the parameters among the posterior's variables, without trajectories."""
    return [str(k) for k, v in draws.posterior.data_vars.items() if "time" not in v.dims]


def _through_arviz(
    plot: str, draws: "xarray.DataTree", variables: str | Sequence[str] | None
) -> "matplotlib.figure.Figure":
    """A figure of ArviZ, of parameters and not of trajectories unless they are named."""
    require("arviz")
    import arviz

    names = [variables] if isinstance(variables, str) else variables
    if names is None:
        names = parameter_names(draws)
    missing = [name for name in names if name not in draws.posterior]
    if missing:
        known = ", ".join(map(str, draws.posterior.data_vars))
        raise ValueError(f"variables: expected names among {known}; got {', '.join(missing)}")
    collection = getattr(arviz, plot)(draws, var_names=list(names), backend="matplotlib")
    figure: matplotlib.figure.Figure = collection.viz["figure"].item()
    return figure


def trace_figure(
    draws: "xarray.DataTree", variables: str | Sequence[str] | None = None
) -> "matplotlib.figure.Figure":
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


def pair_figure(
    draws: "xarray.DataTree", variables: str | Sequence[str] | None = None
) -> "matplotlib.figure.Figure":
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
    """The symbol of a gate at step t: α_t for alpha, and the name where it is no Greek letter."""
    try:
        letter = unicodedata.lookup(f"GREEK SMALL LETTER {gate}")
    except KeyError:
        letter = gate
    return f"{letter}_t"


def gate_figure(
    draws: "xarray.DataTree", level: float = 0.9, sequence: int = 0
) -> "matplotlib.figure.Figure":
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
    figure, axes = stacked_panels(len(names), 2.2)
    for name, axis in zip(names, axes, strict=True):
        gate = draws.posterior[name]
        gate = gate.isel(sequence=sequence) if "sequence" in gate.dims else gate
        x = gate.transpose("chain", "draw", "time", ...).values
        x = x.reshape(x.shape[0] * x.shape[1], x.shape[2], -1)
        for column in range(x.shape[-1]):
            plot_band(axis, gate["time"].values, central(x[..., column], level))
        axis.set_ylabel(gate_label(name.removesuffix("_t")))
    axes[0].set_title(f"posterior median and {100 * level:g} % band", fontsize=9)
    return figure


def state_norm_figure(
    states: Float[AnyArray, "*num_samples T m d"],
    times: ArrayLike | None = None,
    level: float = 0.9,
) -> "matplotlib.figure.Figure":
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
    figure, (axis,) = stacked_panels(1, 3.0)
    plot_band(axis, _labels(times, norms.shape[1]), central(norms, level))
    axis.set(ylabel="‖S_t‖", title=f"posterior median and {100 * level:g} % band")
    return figure


def predictive_figure(
    emissions: Float[AnyArray, "T m"],
    predictions: Float[AnyArray, "*num_samples T m"] | "xarray.DataArray",
    forecast: Forecast | None = None,
    *,
    times: ArrayLike | None = None,
    columns: Sequence[str] | None = None,
    level: float = 0.9,
) -> "matplotlib.figure.Figure":
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
    figure, axes = stacked_panels(m, 2.2)
    for column, axis in enumerate(axes):
        axis.plot(labels, y[:, column], color="black", lw=0.8, label="observed")
        plot_band(axis, labels, central(draws[..., column], level), label="one step ahead")
        if forecast is not None:
            ahead = labels[-1] + (labels[-1] - labels[-2]) * np.arange(1, len(forecast.means) + 1)
            axis.plot(ahead, np.asarray(forecast.means)[:, column], color="C1", label="forecast")
            for low, high in zip(forecast.lower, forecast.upper, strict=True):
                ends = np.asarray(low)[:, column], np.asarray(high)[:, column]
                axis.fill_between(ahead, *ends, color="C1", alpha=0.2, lw=0)
        axis.set_ylabel(columns[column] if columns else f"y[{column}]")
    finish(figure)
    return figure
