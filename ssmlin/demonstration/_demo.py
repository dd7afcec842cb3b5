"""A small comparison on two real series: fit, compare on held-out data, write table and figure."""

from collections.abc import Callable
from pathlib import Path

from ssmlin._files import written_whole
from ssmlin._optional import require
from ssmlin._progress import waiting
from ssmlin.comparison import Comparison, compare_series, stacked_frame
from ssmlin.demonstration._datasets import load_macro, load_sunspots
from ssmlin.demonstration._figures import SeriesPanel, prediction_figure
from ssmlin.forecasting import FittedAttention

_MEMORY, _DELTA = "bayesian_memory", "gated_deltanet"
_MODELS = ("autoregression", "hmm", "arhmm", "lds", _MEMORY, _DELTA)
#: The series that are shown, and the column of each.
_SHOWN = {"sunspots": 0, "macro": 3}


def run_demo(
    output: str | Path = "ssmlin-demo",
    *,
    seed: int = 0,
    workers: int = 2,
    progress: bool = True,
    report: Callable[[str], None] = print,
) -> dict[str, Comparison]:
    """Compare linear attentions with an AR, an HMM, an ARHMM and an LDS on two real series.

    Each series is standardised by its first 70 %. Every model is fitted there and predicts the
    rest one step ahead. The number of lags is chosen by the corrected Akaike criterion of an
    autoregression, other settings on the last fifth of the training part.

    Args:
        output: folder for the table and the figure.
        seed: for all random starts.
        workers: how many models are fitted at the same time, each in a process of its own; with
            1 all are fitted in this one.
        progress: show a progress bar.
        report: is called with each line that names a file written.

    Returns:
        The comparison of each series, by name.
    """
    require("matplotlib", "statsmodels")
    comparisons = compare_series(
        [load_sunspots(), load_macro()],
        _MODELS,
        transform="none",  # the series are transformed already
        seed=seed,
        workers=workers,
        progress=progress,
    )
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    table = folder / "comparison.csv"
    with written_whole(table) as temporary:
        stacked_frame(comparisons).to_csv(temporary, index=False)
    report(f"wrote {table}")
    panels = []
    for name, column in _SHOWN.items():
        fits = {r.name: r.details for r in comparisons[name].results}
        memory, delta = fits.get(_MEMORY), fits.get(_DELTA)
        if isinstance(memory, FittedAttention) and isinstance(delta, FittedAttention):
            panels.append(SeriesPanel(comparisons[name].split, column, memory, delta))
    if panels:
        figure = folder / "predictions.png"
        with waiting("drawing the figure", progress), written_whole(figure) as temporary:
            prediction_figure(panels).savefig(temporary, dpi=120)
        report(f"wrote {figure}")
    return comparisons
