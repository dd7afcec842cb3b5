"""Which model predicts a series best, by how much, and is its uncertainty calibrated?"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import jax
import numpy as np

from ssmlin import _checks
from ssmlin._optional import require
from ssmlin._progress import progress_bar, running, waiting
from ssmlin.comparison._averaging import average
from ssmlin.comparison._calls import Workers, check_workers, run_calls
from ssmlin.comparison._candidate import Candidate
from ssmlin.comparison._evaluation import EvaluationOptions, Result, evaluate
from ssmlin.comparison._frames import check_labels, read_table
from ssmlin.comparison._registry import ALL, AVERAGE, DEFAULT, forecasters
from ssmlin.comparison._result_files import ResultFolder, read_result, write_result
from ssmlin.comparison._scores import Units
from ssmlin.comparison._split import Split, train_test_split
from ssmlin.comparison._tables import Comparison
from ssmlin.comparison._verdict import verdict
from ssmlin.data import Series
from ssmlin.forecasting import Observed
from ssmlin.mechanisms import MECHANISMS, Mechanism
from ssmlin.models import mechanism_fields

if TYPE_CHECKING:
    import pandas
    from numpy.typing import ArrayLike
    from rich.progress import TaskID

#: What scores and tables need; the first names the extra that has them all.
_PACKAGES = ("statsmodels", "scoringrules", "pandas")
#: Every compiled program takes some tens of memory mappings, of which Linux allows a process
#: 65 530 by default; one more, and the compiler dies.
_MAX_MAPPINGS, _MAPPINGS = 30_000, Path("/proc/self/maps")
#: Models to compare: names, mechanisms and candidates of one's own.
Models = str | Mechanism | Sequence[str | Mechanism | Candidate] | None


def compare(
    emissions: "pandas.DataFrame | pandas.Series | ArrayLike",
    inputs: "pandas.DataFrame | pandas.Series | ArrayLike | None" = None,
    models: Models = None,
    test_fraction: float = 0.3,
    *,
    horizon: int = 1,
    num_refits: int = 0,
    period: int | None = None,
    transform: str | float = "auto",
    evidence: bool = False,
    seed: int = 0,
    workers: Workers = 1,
    checkpoint_dir: str | Path | None = None,
    progress: bool = True,
) -> "pandas.DataFrame":
    """Fit models to the first part of a series and score how they predict the rest.

    Every model predicts each held-out step given all steps before it, as a distribution. Its
    parameters are fitted, and its settings chosen, on the training part alone. Scores are in units
    of the training part's standard deviation, for each column, also where columns are transformed
    for the models.

    Args:
        emissions: the series: a DataFrame, or an array (T,) or (T, m); NaN means missing.
        inputs: what is known at each step before the emission is, (T,) or (T, k), or None.
        models: names of baselines and mechanisms, "average" for a mixture of the mechanisms,
            "all", or mechanisms or candidates of your own; default nine baselines, four
            mechanisms and their average.
        test_fraction: the share of the steps, at the end, that is held out.
        horizon: if more than 1, score sampled paths of so many steps, too, from 50 places of the
            held-out part at most; inputs to come count as known.
        num_refits: leave-future-out: fit again, on all steps before, so many times in the held-out
            part.
        period: steps per season, for the seasonal baselines.
        transform: what all models see of the series: "none", the values; "log", logarithms; a
            number λ >= 0, the Box-Cox transformation; "auto", for each column the values, square
            roots or logarithms, chosen on the training part by the likelihood of an
            autoregression (:func:`ssmlin.forecasting.choose_powers`); "box-cox", the λ
            of highest likelihood. Scores are of the values themselves.
        evidence: add `log_evidence`, log p(training part) with the parameters integrated out, by
            Laplace's approximation; NaN for models without a prior.
        seed: for random starts; the same seed gives the same table.
        workers: models fitted at the same time, each in a process of its own; a script that asks
            for more than 1 needs ``if __name__ == "__main__":``. Or a
            :class:`concurrent.futures.Executor`, which fits them wherever it has its workers, one
            at a time in each process, with the same results; it is not shut down.
        checkpoint_dir: a directory for the results of single models; a call that was stopped goes
            on with those that are not done, and one with more models fits only the new ones.
        progress: show a progress bar.

    Returns:
        A row for each model, the best first, with `log_density` (mean held-out log density a
        step) and its standard error; `difference` to the best model, paired, and its standard
        error; `crps`, `energy`, `rmse` and `mae`; `coverage_50`, `_80` and `_95`, the shares of
        values inside central intervals; `pit_p`, the p-value of calibration; with a horizon the
        scores of paths, `path_...`; `num_parameters`, `seconds`, `setting`, `failure` with the
        reason where a model failed, and `warnings` of the libraries that fitted it. Of a model that
        failed there are no scores. ``attrs["verdict"]`` says in sentences which models are best,
        what they gain, whether their intervals may be trusted, and what to do
        (:func:`ssmlin.comparison.verdict`);
        ``attrs["power"]`` holds λ of each column, 1 for none, and ``attrs["unit"]`` the unit of its
        CRPS, energy, RMSE and MAE, the standard deviation of its training part. Log densities are
        in nats a step, of the values in these units.

    Raises:
        RuntimeError: a process that fits was ended from outside, for example for lack of memory;
            with an executor, twice with the same model, or it takes no more calls.
        ValueError: an argument of the wrong shape or range, an unknown model, dates that do not
            rise, inputs whose labels are not those of the emissions, or a value that is not
            positive, also a held-out one, in a column that is transformed.

    Examples:
        >>> import numpy as np, ssmlin
        >>> rng = np.random.default_rng(0)
        >>> y = np.cumsum(rng.normal(size=60))
        >>> table = ssmlin.compare(y, models=["persistence", "autoregression"], progress=False)
        >>> sorted(table.model)
        ['autoregression', 'persistence']
    """
    require(*_PACKAGES)
    values, columns, times = read_table("emissions", emissions)
    outside = None if inputs is None else read_table("inputs", inputs)
    check_labels(emissions, inputs)
    series = Series("series", values, times, columns, "", period=period)
    if outside is not None:  # arrays have no names
        names = outside.columns if hasattr(inputs, "columns") else ()
        series = replace(series, inputs=outside.values, input_names=names)
    comparison = compare_models(
        series, models, test_fraction, horizon=horizon, num_refits=num_refits,
        transform=transform, evidence=evidence, seed=seed, workers=workers,
        checkpoint_dir=checkpoint_dir, progress=progress,
    )  # fmt: skip
    table = comparison.to_frame()
    if any(result.failure is None for result in comparison.results):
        table.attrs["verdict"] = str(verdict(comparison))
    return table


def compare_models(
    series: Series,
    models: Models = None,
    test_fraction: float = 0.3,
    *,
    horizon: int = 1,
    num_refits: int = 0,
    transform: str | float = "auto",
    evidence: bool = False,
    seed: int = 0,
    workers: Workers = 1,
    checkpoint_dir: str | Path | None = None,
    progress: bool = True,
) -> Comparison:
    """Compare models on a named series; arguments as in :func:`compare_series`."""
    return compare_series(
        [series], models, test_fraction, horizon=horizon, num_refits=num_refits,
        transform=transform, evidence=evidence, seed=seed, workers=workers,
        checkpoint_dir=checkpoint_dir, progress=progress,
    )[series.name]  # fmt: skip


def compare_series(
    several: Sequence[Series],
    models: Models = None,
    test_fraction: float = 0.3,
    *,
    horizon: int = 1,
    num_refits: int = 0,
    transform: str | float = "auto",
    evidence: bool = False,
    seed: int = 0,
    workers: Workers = 1,
    checkpoint_dir: str | Path | None = None,
    progress: bool = True,
) -> dict[str, Comparison]:
    """Compare models on each of several series, all fits in one queue.

    Args:
        several: series with different names.
        models: as in :func:`ssmlin.compare`, like all further arguments.
        test_fraction: the share of the steps that is held out.
        horizon: the length of sampled paths.
        num_refits: how often to fit again in the held-out part.
        transform: what models see; each series chooses by itself.
        evidence: whether to add the log evidence of the training part.
        seed: for random starts.
        workers: how many processes, or an executor.
        checkpoint_dir: a directory for the results of single models.
        progress: show a progress bar.

    Returns:
        The comparison of each series, by name.

    Raises:
        ValueError: an argument of the wrong shape or range, or an unknown model.
    """
    require(*_PACKAGES)  # now, not after the fits
    _checks.positive_int("horizon", horizon)
    _checks.positive_int("num_refits", num_refits, minimum=0)
    check_workers(workers)
    chosen = _chosen(models)
    if checkpoint_dir is not None:
        for model in chosen:
            if isinstance(model, Mechanism):
                mechanism_fields(model)  # raises now, not after the fit, if it cannot be saved
    with waiting("choosing transformations and lags", progress):
        splits = _splits(several, test_fraction, transform, horizon, num_refits)
        jobs = [
            Job(name, candidate, split.observed, split.num_train, split.units)
            for name, split in splits.items()
            for candidate in _candidates(split, chosen)
        ]
    jobs.sort(key=lambda job: -len(job.candidate.settings))  # the longest first
    options = EvaluationOptions(horizon, num_refits, evidence, seed)
    folder = ResultFolder(checkpoint_dir)
    results: dict[str, list[Result]] = {name: [] for name in splits}
    with progress_bar(progress) as bar, running(progress) as lines:
        task = bar.add_task("compare", total=len(jobs), note="")
        line_of: dict[str, "TaskID"] = {}

        def begun(job: Job) -> None:
            line_of[str(job)] = lines.add_task(f"fitting {job}", total=None)

        for job, result in _run(jobs, folder, workers, options, begun):
            results[job.series].append(result)
            if str(job) in line_of:
                lines.remove_task(line_of[str(job)])
            bar.update(task, advance=1, note=str(job))
    if AVERAGE in chosen:
        for name, split in splits.items():
            members = _members(results[name], chosen)
            if len(members) > 1:
                results[name].append(average(members, split, horizon, seed))
    return {
        name: Comparison(
            splits[name], tuple(sorted(unsorted, key=_rank)), horizon, num_refits, seed
        )
        for name, unsorted in results.items()
    }  # fmt: skip


def _splits(
    several: Sequence[Series],
    test_fraction: float,
    transform: str | float,
    horizon: int,
    num_refits: int,
) -> dict[str, Split]:
    """Each series split in time, or ValueError where its held-out part cannot be scored."""
    names = [series.name for series in several]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"several: expected series of different names, got {twice!r} twice")
    splits = {one.name: train_test_split(one, test_fraction, transform) for one in several}
    for name, split in splits.items():
        if len(split.test) < max(horizon, num_refits + 1):
            raise ValueError(
                f"horizon: expected at most the {len(split.test)} held-out steps of {name}, got "
                f"a horizon of {horizon} and {num_refits} refits"
            )
        if not np.isfinite(split.test).all(axis=1).any():
            raise ValueError(
                f"emissions: expected a held-out step of {name} without missing values"
            )
    return splits


def _members(
    results: Sequence[Result], chosen: Sequence[str | Mechanism | Candidate]
) -> list[Result]:
    """The mechanisms that did not fail, in the order of the registry and not of their ends."""
    done = {r.name: r for r in results if r.failure is None}
    given = [model.name for model in chosen if isinstance(model, Mechanism)]
    return [done[name] for name in dict.fromkeys((*MECHANISMS, *given)) if name in done]


def _rank(result: Result) -> tuple[bool, float, str]:
    """The best first, failures last and by name."""
    failed = result.failure is not None
    return failed, 0.0 if failed else -result.log_density, result.name


def _chosen(models: Models) -> Sequence[str | Mechanism | Candidate]:
    """The models as a list."""
    if models is None:
        return DEFAULT
    if isinstance(models, str | Mechanism):
        models = [models]
    return [*models, AVERAGE] if ALL in models else models


def _candidates(
    split: Split, chosen: Sequence[str | Mechanism | Candidate]
) -> tuple[Candidate, ...]:
    """The models to compare: names looked up, candidates as given."""
    if len(chosen) == 0:
        raise ValueError("models: expected at least one, got none")
    names = tuple(model for model in chosen if isinstance(model, str | Mechanism))
    given = tuple(model for model in chosen if isinstance(model, Candidate))
    for model in chosen:
        if not isinstance(model, str | Mechanism | Candidate):
            raise TypeError(
                f"models: expected names, Mechanisms or Candidates, got {_checks.describe(model)}"
            )
    candidates = forecasters(split.train, names, split.series.period) + given
    called = [model.name for model in candidates] + ([AVERAGE] if AVERAGE in chosen else [])
    if len(set(called)) < len(called):
        twice = next(name for name in called if called.count(name) > 1)
        raise ValueError(f"models: expected models of different names, got {twice!r} twice")
    return candidates


class Job(NamedTuple):
    """One candidate to evaluate on one series; the arguments of :func:`evaluate` after its name."""

    series: str
    candidate: Candidate
    observed: Observed
    num_train: int
    units: Units | None

    def __str__(self) -> str:
        """What it is called among all jobs."""
        return f"{self.series}: {self.candidate.name}"


def _run(
    jobs: Sequence[Job],
    folder: ResultFolder,
    workers: Workers,
    options: EvaluationOptions,
    begun: Callable[[Job], None],
) -> Iterator[tuple[Job, Result]]:
    """Every job with its result, as they are done: from files, or evaluated."""
    todo = []
    for job in jobs:
        file = folder.path(job.series, job.candidate, job.observed, job.num_train, job.units,
                           options)  # fmt: skip
        if file is not None and file.exists():
            yield job, read_result(file)
        else:
            todo.append((job, file))
    done = run_calls(
        _evaluate, [(job, options) for job, _ in todo], workers,
        lambda number: begun(todo[number][0]),
    )  # fmt: skip
    for number, result in done:
        job, file = todo[number]
        if file is not None:
            write_result(file, result)
        yield job, result


def _evaluate(job: Job, options: EvaluationOptions) -> Result:
    try:
        return evaluate(job.candidate, job.observed, job.num_train, job.units, options)
    finally:
        # Other jobs want some of these programs, but a process may map only so many.
        if _MAPPINGS.exists() and _MAPPINGS.read_bytes().count(b"\n") > _MAX_MAPPINGS:
            jax.clear_caches()  # type: ignore[no-untyped-call]  # JAX does not annotate it
