"""The main job in small: fit, compare on held-out data, report."""

from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, as_completed
from contextlib import nullcontext
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from ssmlin._progress import progress_bar
from ssmlin.evaluation.attention import FittedAttention, fit_attention
from ssmlin.evaluation.baselines import (
    choose_num_lags,
    fit_arhmm,
    fit_autoregression,
    fit_gaussian_hmm,
    fit_lds,
)
from ssmlin.evaluation.datasets import Split, load_macro, load_sunspots, train_test_split
from ssmlin.evaluation.forecasters import Forecaster, Result, evaluate, grid
from ssmlin.evaluation.plots import prediction_figure

_MEMORY, _DELTA = "bayesian_memory", "gated_deltanet"


def forecasters(num_lags: int) -> tuple[Forecaster, ...]:
    """The models of the demonstration; those with lags share their number."""
    lags = {"num_lags": (num_lags,)}
    return (
        Forecaster("ARHMM (dynamax)", fit_arhmm, grid(num_states=(2, 3), **lags)),
        Forecaster("HMM (dynamax)", fit_gaussian_hmm, grid(num_states=(4, 8))),
        Forecaster("LDS (dynamax)", fit_lds, grid(state_dim=(2, 4, 6))),
        Forecaster(_MEMORY, partial(fit_attention, mechanism=_MEMORY), grid(**lags)),
        Forecaster(_DELTA, partial(fit_attention, mechanism=_DELTA), grid(key_dim=(4,), **lags)),
        Forecaster("autoregression", fit_autoregression, grid(**lags)),
    )


def _executor(workers: int) -> Any:
    """A pool of fresh processes, or nothing for one worker: the work is then done here."""
    if workers == 1:
        return nullcontext()
    return ProcessPoolExecutor(workers, mp_context=get_context("spawn"))


def _run(
    jobs: list[tuple[Split, Forecaster]], pool: Executor | None, seed: int
) -> Iterator[tuple[str, Result]]:
    """Series and result of every job, as they are done."""
    if pool is None:
        for split, forecaster in jobs:
            yield (
                split.series.name,
                evaluate(forecaster, split.values, split.num_train, seed=seed),
            )
        return
    running: dict[Future[Result], str] = {
        pool.submit(evaluate, forecaster, split.values, split.num_train, seed=seed): (
            split.series.name
        )
        for split, forecaster in jobs
    }
    for done in as_completed(running):
        yield running[done], done.result()


def run_demo(
    output: str | Path = "ssmlin-demo",
    *,
    seed: int = 0,
    workers: int = 2,
    progress: bool = True,
    report: Callable[[str], None] = print,
) -> dict[str, list[Result]]:
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
        For each series the results, the best first.
    """
    jobs: list[tuple[Split, Forecaster]] = []
    for series in (load_sunspots(), load_macro()):
        split = train_test_split(series)
        num_lags = choose_num_lags(split.train)
        jobs += [(split, forecaster) for forecaster in forecasters(num_lags)]
    jobs.sort(key=lambda job: -len(job[1].settings))  # the longest first

    splits = {split.series.name: split for split, _ in jobs}
    results: dict[str, list[Result]] = {name: [] for name in splits}
    with _executor(workers) as pool, progress_bar(progress) as bar:
        task = bar.add_task("compare", total=len(jobs), note="")
        for name, result in _run(jobs, pool, seed):
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
        models = {r.name: r.details for r in results[name] if r.details is not None}
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
