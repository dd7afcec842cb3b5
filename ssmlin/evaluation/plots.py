"""Figures."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ssmlin.evaluation.attention import FittedAttention, with_lags
from ssmlin.evaluation.datasets import Split

_NORMAL_95 = 1.6448536269514722


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
        model, params = predictor.model, predictor.params
        posterior = model.filter(params, *with_lags(model, split.values), store="loglik")
        unit, offset = split.scale[column], split.mean[column]
        mean = np.asarray(posterior.emission_means)[:, column] * unit + offset
        variance = np.asarray(posterior.emission_scales * posterior.row_cov[column, column])
        width = _NORMAL_95 * np.sqrt(variance) * unit
        seen = slice(model.num_lags, None)
        top.plot(times, split.series.values[:, column], color="black", lw=0.8, label="observed")
        top.plot(times[seen], mean[seen], color="C0", lw=1, label="predicted one step ahead")
        top.fill_between(
            times[seen],
            (mean - width)[seen],
            (mean + width)[seen],
            color="C0",
            alpha=0.25,
            lw=0,
            label="90 % band",
        )
        top.set_title(f"{split.series.name}: {model.mechanism.name}, {model.num_lags} lags")
        top.set_ylabel(split.series.columns[column])

        model, params = gated.model, gated.params
        _, inputs = with_lags(model, split.values)
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
