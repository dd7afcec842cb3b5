"""The gates of fitted mechanisms over time, and whether the data tell them."""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Float

from ssmlin.comparison._panels import central, evenly, finish, say_of, stacked_panels
from ssmlin.comparison._tables import Comparison
from ssmlin.comparison.plots import gate_label
from ssmlin.forecasting import FittedAttention, Observed, with_lags, with_season

if TYPE_CHECKING:
    import matplotlib.figure
    import xarray


def gate_paths(fit: FittedAttention, observed: Observed) -> dict[str, Float[np.ndarray, "T ..."]]:
    """The gates α_t, β_t, ... of a fitted mechanism at every step of a series, by name."""
    _, inputs = with_lags(fit.model, with_season(observed, fit.seasonal))
    return {k: np.asarray(v) for k, v in fit.model.gate_values(fit.params, inputs).items()}


class _GatePanel(NamedTuple):
    """The gates of one mechanism; those of its first steps, which serve as lags, are not shown."""

    name: str
    num_lags: int
    gates: dict[str, Float[np.ndarray, "T ..."]]


def gates_figure(
    comparison: Comparison,
    draws: "xarray.DataTree | None" = None,
    drawn_from: str = "",
    level: float = 0.9,
) -> "matplotlib.figure.Figure | None":
    """The gates α_t, β_t, ... of the fitted mechanisms over the whole series.

    Gates per channel, with a value for each row or column of the state, are left out.

    Args:
        comparison: what :func:`ssmlin.comparison.compare_models` returned.
        draws: what :func:`ssmlin.sample_posterior` returned for one of the mechanisms, or None;
            its posterior is drawn as a band around the fitted gates.
        drawn_from: the name of that mechanism, which is shown first.
        level: of the central band, in (0, 1).

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
    panels.sort(key=lambda panel: panel.name != drawn_from)
    times = np.asarray(split.series.times)
    figure, axes = stacked_panels(len(panels), 1.5, margin=0.7)
    names = sorted({gate for panel in panels for gate in panel.gates})
    colors = {gate: f"C{i}" for i, gate in enumerate(names)}
    for (name, lags, gates), axis in zip(panels, axes, strict=True):
        shown = evenly(lags, len(times))
        for gate, values in gates.items():
            x = values.reshape(len(times), -1)[shown]
            lines = axis.plot(times[shown], x, lw=1, color=colors[gate])
            lines[0].set_label(gate_label(gate))
            for line, mean in zip(lines, x.mean(axis=0), strict=True):
                say_of(line, f"{name}, {gate_label(gate)}: {mean:.2f} on average")
            if draws is not None and name == drawn_from and f"{gate}_t" in draws.posterior:
                for low, _, high in _bands(draws, gate, level):
                    axis.fill_between(
                        times[shown], low[shown], high[shown], color=colors[gate], alpha=0.25, lw=0
                    )
        axis.axvline(times[split.num_train], color="grey", ls="--", lw=1)
        axis.set_ylabel(name, fontsize=8)
    finish(figure)
    return figure


def _bands(
    draws: "xarray.DataTree", gate: str, level: float
) -> list[list[Float[np.ndarray, " T"]]]:
    """Ends and median of the posterior of a gate, for each of its columns."""
    x = draws.posterior[f"{gate}_t"].transpose("chain", "draw", "time", ...).values
    x = x.reshape(x.shape[0] * x.shape[1], x.shape[2], -1)
    return [central(x[..., column], level) for column in range(x.shape[-1])]
