"""The main job in small: fit, compare on held-out data, report."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ssmlin._files import written_whole
from ssmlin.comparison.comparisons import Comparison, compare_series
from ssmlin.comparison.plots import prediction_figure
from ssmlin.demonstration import load_macro, load_sunspots
from ssmlin.forecasting import FittedAttention

_MEMORY, _DELTA = "bayesian_memory", "gated_deltanet"
_MODELS = ("autoregression", "hmm", "arhmm", "lds", _MEMORY, _DELTA)


def run_demo(
    output: str | Path = "ssmlin-demo",
    *,
    seed: int = 0,
    workers: int = 2,
    progress: bool = True,
    report: Callable[[str], None] = print,
) -> dict[str, Comparison]:
    """Compare linear attentions with an AR, an HMM, an ARHMM and an LDS on two real series.

    Each series is standardised on its first 70 %, every model is fitted there, and the rest is
    predicted one step ahead. The number of lags is chosen by the corrected Akaike criterion of an
    autoregression, other settings on the last fifth of the training part.

    Args:
        output: folder for the table and the figure.
        seed: for all random starts.
        workers: how many models are fitted at the same time, each in a process of its own; with
            1 all are fitted in this one.
        progress: show a progress bar.
        report: takes the lines that name the files written.

    Returns:
        For each series the comparison.
    """
    comparisons = compare_series(
        [load_sunspots(), load_macro()],
        _MODELS,
        transform="none",  # they come transformed
        seed=seed,
        workers=workers,
        progress=progress,
    )
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    table = folder / "comparison.csv"
    with written_whole(table) as temporary:
        to_frame(comparisons).to_csv(temporary, index=False)
    report(f"wrote {table}")
    panels = []
    for name, column in (("sunspots", 0), ("macro", 3)):
        found = {r.name: r.details for r in comparisons[name].results if r.details is not None}
        if isinstance(found.get(_MEMORY), FittedAttention) and _DELTA in found:
            panels.append((comparisons[name].split, column, found[_MEMORY], found[_DELTA]))
    if panels:
        figure = folder / "predictions.png"
        with written_whole(figure) as temporary:
            prediction_figure(panels).savefig(temporary, dpi=120)
        report(f"wrote {figure}")
    return comparisons


def to_frame(comparisons: dict[str, Comparison]) -> Any:
    """The tables of several series below each other."""
    import pandas as pd

    frames = [c.to_frame().assign(series=name) for name, c in comparisons.items()]
    frame = pd.concat(frames, ignore_index=True)
    return frame[["series", *(column for column in frame if column != "series")]]
