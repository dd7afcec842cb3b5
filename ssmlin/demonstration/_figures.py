"""The figure of the demonstration."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from ssmlin.comparison import Split, gate_paths, new_figure, plot_band
from ssmlin.forecasting import FittedAttention, predictive

if TYPE_CHECKING:
    import matplotlib.figure


class SeriesPanel(NamedTuple):
    """What is shown of one series.

    Attributes:
        split: the series.
        column: which of its columns.
        predictor: the model whose predictions are shown.
        gated: the model whose decay α_t is shown.
    """

    split: Split
    column: int
    predictor: FittedAttention
    gated: FittedAttention


def prediction_figure(panels: Sequence[SeriesPanel]) -> "matplotlib.figure.Figure":
    """Series with one-step predictions and a 90 % band, and the decay α_t below.

    Args:
        panels: what is shown in each column of the figure.

    Returns:
        A matplotlib figure.
    """
    figure = new_figure(6.5 * len(panels), 6)
    axes = figure.subplots(2, len(panels), sharex="col", height_ratios=[3, 1], squeeze=False)
    for (split, column, predictor, gated), (top, bottom) in zip(panels, axes.T, strict=True):
        times, start = split.series.times, split.num_train
        model = predictor.model
        law = predictive(model, predictor.params, split.observed)
        middle = law.quantile(0.5) if split.scaling.is_transformed else law.mean
        # The first steps serve as lags only.
        seen = slice(model.num_lags, None)
        quantiles = [split.scaling.invert(x)[seen, column]
                     for x in (law.quantile(0.05), middle, law.quantile(0.95))]  # fmt: skip
        top.plot(times, split.series.values[:, column], color="black", lw=0.8, label="observed")
        plot_band(top, times[seen], quantiles, color="C0", label="predicted one step ahead",
                  band_label="90 % band")  # fmt: skip
        top.set_title(f"{split.series.name}: {model.mechanism.name}, {model.num_lags} lags")
        top.set_ylabel(split.series.columns[column])

        alpha = gate_paths(gated, split.observed)["alpha"]
        seen = slice(gated.model.num_lags, None)
        bottom.plot(times[seen], alpha[seen], color="C1", lw=0.8)
        bottom.set_ylabel(f"α_t, {gated.model.mechanism.name}")
        for axis in (top, bottom):
            axis.axvline(times[start], color="grey", ls="--", lw=1)
            axis.axvspan(times[start], times[-1], color="grey", alpha=0.08, lw=0)
            axis.margins(x=0.01)
        bottom.set_xlabel("held out to the right of the dashed line", fontsize=8)
    # Above the panels, where it hides no peak.
    named = axes[0, 0].get_legend_handles_labels()
    figure.legend(*named, loc="outside upper left", fontsize=8, ncols=3, frameon=False)
    return figure
