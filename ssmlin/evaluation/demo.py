"""The main job in small: fit, compare on held-out data, report."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from ssmlin._progress import progress_bar
from ssmlin.evaluation.attention import FittedAttention, fit_attention
from ssmlin.evaluation.baselines import (
    fit_arhmm,
    fit_autoregression,
    fit_gaussian_hmm,
    fit_lds,
)
from ssmlin.evaluation.datasets import Split, load_macro, load_sunspots, train_test_split
from ssmlin.evaluation.forecasters import Fit, Forecaster, Result, evaluate, grid
from ssmlin.evaluation.plots import prediction_figure

_MEMORY, _DELTA = "bayesian_memory", "gated_deltanet"


def _attention(mechanism: str) -> Fit:
    """The fit of one mechanism."""

    def fit(train: Any, seed: int, **setting: Any) -> Any:
        return fit_attention(train, seed, mechanism=mechanism, **setting)

    return fit


def forecasters(num_lags: tuple[int, ...]) -> tuple[Forecaster, ...]:
    """The models of the demonstration; all choose among the same numbers of lags."""
    return (
        Forecaster(_MEMORY, _attention(_MEMORY), grid(num_lags=num_lags), True),
        Forecaster(_DELTA, _attention(_DELTA), grid(num_lags=num_lags, key_dim=(4,)), True),
        Forecaster("autoregression", fit_autoregression, grid(num_lags=num_lags)),
        Forecaster("ARHMM (dynamax)", fit_arhmm, grid(num_states=(2, 3), num_lags=num_lags)),
        Forecaster("LDS (dynamax)", fit_lds, grid(state_dim=(2, 4))),
        Forecaster("HMM (dynamax)", fit_gaussian_hmm, grid(num_states=(4, 8))),
    )


def run_demo(
    output: str | Path = "ssmlin-demo",
    *,
    seed: int = 0,
    workers: int = 2,
    progress: bool = True,
    report: Callable[[str], None] = print,
) -> dict[str, list[Result]]:
    """Compare linear attentions with an AR, an HMM, an ARHMM and an LDS on two real series.

    Each series is standardised on its first 70 %, every model is fitted there (its setting chosen
    on the last fifth of that), and the rest is predicted one step ahead.

    Args:
        output: folder for the table and the figure.
        seed: for all random starts.
        workers: how many models are fitted at the same time.
        progress: show a progress bar.
        report: takes the lines that name the files written.

    Returns:
        For each series the results, the best first.
    """
    jobs: list[tuple[Split, Forecaster]] = []
    for series, lags in ((load_sunspots(), (2, 9)), (load_macro(), (1, 2))):
        split = train_test_split(series)
        jobs += [(split, forecaster) for forecaster in forecasters(lags)]

    splits = {split.series.name: split for split, _ in jobs}
    results: dict[str, list[Result]] = {name: [] for name in splits}
    with ThreadPoolExecutor(workers) as pool, progress_bar(progress) as bar:
        task = bar.add_task("compare", total=len(jobs), note="")
        running = {
            pool.submit(evaluate, forecaster, split.values, split.num_train, seed=seed): split
            for split, forecaster in jobs
        }
        for done in as_completed(running):
            result, name = done.result(), running[done].series.name
            results[name].append(result)
            bar.update(task, advance=1, note=f"{name}: {result.name}")
    for rows in results.values():
        rows.sort(key=lambda r: (r.failure is not None, -r.log_density))

    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    table = folder / "comparison.csv"
    to_frame(results).to_csv(table, index=False)
    figure = folder / "predictions.png"
    panels = []
    for name, column in (("sunspots", 0), ("macro", 3)):
        models = {r.name: r.fitted.details for r in results[name] if r.fitted is not None}
        if isinstance(models.get(_MEMORY), FittedAttention) and _DELTA in models:
            panels.append((splits[name], column, models[_MEMORY], models[_DELTA]))
    report(f"wrote {table}")
    if panels:
        prediction_figure(panels).savefig(figure, dpi=120)
        report(f"wrote {figure}")
    return results


def to_frame(results: dict[str, list[Result]]) -> Any:
    """The results as a pandas DataFrame, one row a series and model."""
    import pandas as pd

    return pd.DataFrame(
        [
            {
                "series": series,
                "model": r.name,
                "setting": ", ".join(f"{k}={v}" for k, v in r.setting.items()),
                "log_density": r.log_density,
                "rmse": r.rmse,
                "num_parameters": r.num_parameters,
                "seconds": r.seconds,
                "failure": r.failure or "",
            }
            for series, rows in results.items()
            for r in rows
        ]
    )
