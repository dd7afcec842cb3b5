"""Which model predicts a series best, by how much, and may its uncertainty be believed?"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

from ssmlin import _checks
from ssmlin._progress import progress_bar
from ssmlin.comparison.averaging import average
from ssmlin.comparison.evaluation import Candidate, Result, evaluate
from ssmlin.comparison.processes import run_in_processes
from ssmlin.comparison.registry import AVERAGE, DEFAULT, forecasters
from ssmlin.comparison.result_files import ResultFolder, read_result, write_result
from ssmlin.comparison.scores import SUMMARY, PathScores, Scores, Units, standard_error
from ssmlin.comparison.split import Split, train_test_split
from ssmlin.data import Series, free_name
from ssmlin.data.columns import numbers
from ssmlin.mechanisms import MECHANISMS, Mechanism
from ssmlin.models.files import mechanism_fields

if TYPE_CHECKING:
    import pandas


#: Models to compare: names, mechanisms and forecasters of one's own.
Models = str | Mechanism | Sequence[str | Mechanism | Candidate] | None


class Comparison(NamedTuple):
    """What :func:`compare_models` returns.

    Attributes:
        split: the series, standardised, and where it was cut.
        results: of every model, the best first, failures last.
        horizon: the length of the sampled paths.
        num_refits: how often models were fitted anew in the held-out part.
        seed: of all random starts.
    """

    split: Split
    results: tuple[Result, ...]
    horizon: int = 1
    num_refits: int = 0
    seed: int = 0

    def to_frame(self) -> "pandas.DataFrame":
        """The table that :func:`ssmlin.compare` describes."""
        import pandas as pd

        table = pd.DataFrame(_rows(self.results))
        power = self.split.scaling.power
        table.attrs["power"] = dict(zip(self.split.series.columns, power, strict=True))
        return table


def compare(
    emissions: Any,
    inputs: Any = None,
    models: Models = None,
    test_fraction: float = 0.3,
    *,
    horizon: int = 1,
    num_refits: int = 0,
    period: int | None = None,
    transform: str | float = "auto",
    evidence: bool = False,
    seed: int = 0,
    workers: int = 1,
    checkpoint_dir: str | Path | None = None,
    progress: bool = True,
) -> "pandas.DataFrame":
    """Fit models to the first part of a series and score how they predict the rest.

    Every model says the law of each held-out step given all steps before it. Its parameters are
    fitted, and its settings chosen, on the training part alone. All is in units of the training
    part's standard deviation, for each column, also where columns are transformed for the models.

    Args:
        emissions: the series: a DataFrame, or an array (T,) or (T, m); NaN means missing.
        inputs: what is known at each step before the emission is, (T,) or (T, k), or None.
        models: names of baselines and mechanisms, "average" for a mixture of the mechanisms,
            "all", or mechanisms or forecasters of your own; default nine baselines, four
            mechanisms and their average.
        test_fraction: the share of the steps, at the end, that is held out.
        horizon: if more than 1, score sampled paths of so many steps, too, from 50 places of the
            held-out part at most; inputs to come count as known.
        num_refits: leave-future-out: fit anew, on all steps before, so many times in the held-out
            part.
        period: steps a season, for the seasonal baselines.
        transform: what all models see of the series: "none", the values; "log", logarithms; a
            number λ >= 0, the Box-Cox transformation; "auto", for each column the values, square
            roots or logarithms, which the training part chooses by the likelihood of an
            autoregression (:func:`ssmlin.forecasting.regression.choose_powers`); "box-cox", the λ
            of highest likelihood. Scores are of the values themselves.
        evidence: add `log_evidence`, log p(training part) with the parameters integrated out, by
            Laplace's approximation; NaN for models without a prior.
        seed: for random starts; the same seed gives the same table.
        workers: models fitted at the same time, each in a process of its own; a script that asks
            for more than 1 needs ``if __name__ == "__main__":``.
        checkpoint_dir: a directory for the results of single models; a call that was stopped goes
            on with those that are not done, and one with more models fits only these.
        progress: show a progress bar.

    Returns:
        A row for each model, the best first, with `log_density` (mean held-out log density a
        step) and its standard error; `difference` to the best model, paired, and its standard
        error; `crps`, `energy`, `rmse` and `mae`; `coverage_50`, `_80` and `_95`, the shares of
        values inside central intervals; `pit_p`, the p-value of calibration; with a horizon the
        scores of paths, `path_...`; `num_parameters`, `seconds`, `setting`, `failure` with the
        reason where a model failed, and `warnings` of the libraries that fitted it. Of a model that
        failed there are no scores. ``attrs["power"]`` holds λ of each column, 1 for none.

    Raises:
        ValueError: an argument of the wrong shape or range, an unknown model, dates that do not
            rise, inputs whose labels are not those of the emissions, or a value that is not
            positive, also a held-out one, in a column that is transformed.

    Example:
        >>> import numpy as np, ssmlin
        >>> rng = np.random.default_rng(0)
        >>> y = np.cumsum(rng.normal(size=60))
        >>> table = ssmlin.compare(y, models=["persistence", "autoregression"], progress=False)
        >>> sorted(table.model)
        ['autoregression', 'persistence']
    """
    values, columns, times = _table("emissions", emissions)
    outside = None
    if inputs is not None:
        outside, _, _ = _table("inputs", inputs)
    _check_labels(emissions, inputs)
    series = Series("series", values, times, columns, "", outside, period)
    return compare_models(
        series,
        models,
        test_fraction,
        horizon=horizon,
        num_refits=num_refits,
        transform=transform,
        evidence=evidence,
        seed=seed,
        workers=workers,
        checkpoint_dir=checkpoint_dir,
        progress=progress,
    ).to_frame()


def compare_models(
    series: Series,
    models: Models = None,
    test_fraction: float = 0.3,
    **options: Any,
) -> Comparison:
    """Compare models on a named series; arguments as in :func:`compare_series`."""
    return compare_series([series], models, test_fraction, **options)[series.name]


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
    workers: int = 1,
    checkpoint_dir: str | Path | None = None,
    progress: bool = True,
) -> dict[str, Comparison]:
    """Compare models on each of several series, all fits in one queue.

    Args:
        several: series with different names.
        models: as in :func:`ssmlin.compare`, as are all further arguments.
        test_fraction: the share of the steps that is held out.
        horizon: the length of sampled paths.
        num_refits: how often to fit anew in the held-out part.
        transform: what models see; each series chooses by itself.
        evidence: whether to add the log evidence of the training part.
        seed: for random starts.
        workers: how many processes.
        checkpoint_dir: a directory for the results of single models.
        progress: show a progress bar.

    Returns:
        For each name the comparison.

    Raises:
        ValueError: an argument of the wrong shape or range, or an unknown model.
    """
    _checks.positive_int("horizon", horizon)
    _checks.positive_int("num_refits", num_refits, minimum=0)
    _checks.positive_int("workers", workers)
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
    if checkpoint_dir is not None:
        for one in _chosen(models):
            if isinstance(one, Mechanism):
                mechanism_fields(one)  # or an error now, not after the fit
    jobs = []
    for name, split in splits.items():
        for forecaster in _forecasters(split, models):
            jobs.append((name, forecaster, split.observed, split.num_train, split.units))
    jobs.sort(key=lambda job: -len(job[1].settings))  # the longest first
    options: dict[str, Any] = {
        "horizon": horizon, "num_refits": num_refits, "evidence": evidence, "seed": seed,
    }  # fmt: skip
    folder = ResultFolder(checkpoint_dir)
    files = [folder.path(*job, **options) for job in jobs]
    results: dict[str, list[Result]] = {name: [] for name in splits}
    with progress_bar(progress) as bar:
        task = bar.add_task("compare", total=len(jobs), note="")
        todo = []
        for job, file in zip(jobs, files, strict=True):
            if file is not None and file.exists():
                results[job[0]].append(read_result(file))
                bar.update(task, advance=1)
            else:
                todo.append((job, file))
        for (job, file), result in _run(todo, workers, options):
            if file is not None:
                write_result(file, result)
            results[job[0]].append(result)
            bar.update(task, advance=1, note=f"{job[0]}: {result.name}")
    if AVERAGE in _chosen(models):
        for name, split in splits.items():
            done = {r.name: r for r in results[name] if r.failure is None}
            # Not in the order in which they were done, which chance decides.
            given = [one.name for one in _chosen(models) if isinstance(one, Mechanism)]
            members = [done[one] for one in dict.fromkeys((*MECHANISMS, *given)) if one in done]
            if len(members) > 1:
                results[name].append(average(members, split, horizon, seed))
    return {
        name: Comparison(
            splits[name],
            tuple(sorted(rows, key=_rank)),
            horizon,
            num_refits,
            seed,
        )
        for name, rows in results.items()
    }


def _rank(result: Result) -> tuple[bool, float, str]:
    """The best first, failures last and by name."""
    failed = result.failure is not None
    return failed, 0.0 if failed else -result.log_density, result.name


def pooled_frame(comparisons: Mapping[str, Comparison]) -> "pandas.DataFrame":
    """The tables of several series below each other, and one for all of them together.

    Args:
        comparisons: what :func:`compare_series` returned.

    Returns:
        The columns of :func:`ssmlin.compare` and before them `series`; rows of :func:`all_series`,
        which come first, hold the scores of models that did not fail on any series, over all
        held-out steps.
        ``attrs["power"]`` holds for each series what :func:`ssmlin.compare` says of one.
    """
    import pandas as pd

    by_model: dict[str, list[Result]] = {}
    for comparison in comparisons.values():
        for result in comparison.results:
            by_model.setdefault(result.name, []).append(result)
    whole = [
        _together(results)
        for results in by_model.values()
        if len(results) == len(comparisons) and all(r.scores is not None for r in results)
    ]
    whole.sort(key=lambda r: (-r.log_density, r.name))
    tables = [(all_series(comparisons), pd.DataFrame(_rows(whole)))] if whole else []
    tables += [(name, comparison.to_frame()) for name, comparison in comparisons.items()]
    powers = {name: table.attrs.pop("power", None) for name, table in tables}
    for name, table in tables:
        table.insert(0, "series", name)
    whole_table = pd.concat([table for _, table in tables], ignore_index=True)
    whole_table.attrs["power"] = {name: powers[name] for name in comparisons}
    return whole_table


def all_series(names: Iterable[str]) -> str:
    """What all series together are called: "all", unless one of them is."""
    return free_name("all", names)


def _together(results: Sequence[Result]) -> Result:
    """One model's results on several series as one."""

    def join(scores: Sequence[Any], cls: Any) -> Any:
        if any(x is None for x in scores):
            return None
        return cls(*(np.concatenate(x) for x in zip(*scores, strict=True)))

    return Result(
        name=results[0].name,
        setting={},
        scores=join([r.scores for r in results], Scores),
        paths=join([r.paths for r in results], PathScores),
        predictive=None,
        num_parameters=sum(r.num_parameters for r in results),
        seconds=sum(r.seconds for r in results),
        log_evidence=sum(r.log_evidence for r in results),
        warnings=tuple(dict.fromkeys(text for r in results for text in r.warnings)),
    )


def _forecasters(split: Split, models: Models) -> tuple[Candidate, ...]:
    """The models to compare: names looked up, the rest as given."""
    chosen = _chosen(models)
    if len(chosen) == 0:
        raise ValueError("models: expected at least one, got none")
    names = tuple(model for model in chosen if isinstance(model, str | Mechanism))
    given = tuple(model for model in chosen if not isinstance(model, str | Mechanism))
    for model in given:
        if not isinstance(model, Candidate):
            raise TypeError(
                f"models: expected names, Mechanisms or Forecasters, got {_checks.describe(model)}"
            )
    found = forecasters(split.train, names, split.series.period) + given
    called = [model.name for model in found] + ([AVERAGE] if AVERAGE in chosen else [])
    if len(set(called)) < len(called):
        twice = next(name for name in called if called.count(name) > 1)
        raise ValueError(f"models: expected models of different names, got {twice!r} twice")
    return found


def _chosen(models: Models) -> Sequence[str | Mechanism | Candidate]:
    """The models as a list."""
    one = isinstance(models, str | Mechanism)
    chosen: Any = DEFAULT if models is None else [models] if one else models
    return [*chosen, AVERAGE] if "all" in chosen else chosen


Job = tuple[str, Candidate, Any, int, Units | None]
Todo = tuple[Job, Path | None]


def _run(todo: list[Todo], workers: int, options: dict[str, Any]) -> Iterator[tuple[Todo, Result]]:
    """Every job with its result, as they are done; here for one worker, else in processes."""
    if workers == 1:
        for one in todo:
            yield one, evaluate(*one[0][1:], **options)
        return
    calls = [(one[0][1:], options) for one in todo]
    for number, result in run_in_processes(_evaluate_apart, calls, workers):
        yield todo[number], result


def _evaluate_apart(
    job: tuple[Candidate, Any, int, Units | None], options: dict[str, Any]
) -> Result:
    """A job in a process of the pool."""
    try:
        return evaluate(*job, **options)
    finally:
        # A process may map only so many compiled programs, and no other job wants these.
        jax.clear_caches()


def _table(name: str, data: Any) -> tuple[np.ndarray, tuple[str, ...], np.ndarray]:
    """Values (T, m), names of columns, and labels of the steps, of a DataFrame or an array."""
    index = getattr(data, "index", None)
    labels = None if callable(index) else index  # a list has a method of this name
    try:
        if labels is None:
            values = np.asarray(data, np.float64)
        else:  # of pandas, with columns of any type
            frame = data if hasattr(data, "columns") else data.to_frame()
            columns = [numbers(column) for _, column in frame.items()]
            values = np.column_stack([np.empty((len(frame), 0)), *columns])
    except (TypeError, ValueError) as error:
        got = _checks.describe(data) if labels is None else type(data).__name__
        raise ValueError(f"{name}: expected numbers, got {got}: {error}") from error
    names = [str(column) for column in getattr(data, "columns", ())]
    values = values[:, None] if values.ndim == 1 else values
    if values.ndim != 2 or 0 in values.shape:
        raise ValueError(f"{name}: expected shape (T,) or (T, m), got {values.shape}")
    times = np.arange(len(values)) if labels is None else np.asarray(labels)
    return values, tuple(names or (f"y{i}" for i in range(values.shape[1]))), times


def _check_labels(emissions: Any, inputs: Any) -> None:
    """Raise ValueError where the labels of pandas say that rows are not the steps in order."""
    import pandas as pd

    found = [getattr(data, "index", None) for data in (emissions, inputs)]
    # A range is what pandas gives to rows without labels.
    index, other = (
        x if isinstance(x, pd.Index) and not isinstance(x, pd.RangeIndex) else None for x in found
    )
    for name, one in (("emissions", index), ("inputs", other)):
        if isinstance(one, pd.DatetimeIndex | pd.PeriodIndex):
            late = np.flatnonzero(one[1:] <= one[:-1])
            if len(late):
                raise ValueError(
                    f"{name}: expected dates that rise, got {one[late[0]]} in row {late[0] + 1} "
                    f"and {one[late[0] + 1]} in the next"
                )
    if index is None or other is None or index.equals(other):
        return
    row = next((i for i, pair in enumerate(zip(index, other, strict=False)) if pair[0] != pair[1]),
               None)  # fmt: skip
    if row is not None:
        raise ValueError(f"inputs: expected the labels of the emissions, got {other[row]} in row "
                         f"{row + 1} in the place of {index[row]}")  # fmt: skip


def _rows(results: Sequence[Result]) -> list[dict[str, Any]]:
    """A row a result; all have the same columns."""
    best = results[0].scores
    names = ("model", *SUMMARY[:2], "difference", "difference_se", *SUMMARY[2:])
    rows = []
    for r in results:
        row: dict[str, Any] = dict.fromkeys(names, np.nan) | {"model": r.name}
        if r.scores is not None and best is not None:
            difference = r.scores.log_density - best.log_density
            row |= r.scores.summary()
            row["difference"] = float(difference.mean())
            row["difference_se"] = standard_error(difference)
            row |= {} if r.paths is None else r.paths.summary()
        if any(np.isfinite(x.log_evidence) for x in results):
            row["log_evidence"] = r.log_evidence
        row["num_parameters"] = r.num_parameters
        row["seconds"] = round(r.seconds, 2)
        row["setting"] = ", ".join(f"{k}={v}" for k, v in r.setting.items())
        row["failure"] = r.failure or ""
        row["warnings"] = "; ".join(r.warnings)
        rows.append(row)
    # The first row that has them all says the order of the columns.
    order = max(rows, key=len)
    return [{key: row.get(key, np.nan) for key in order} for row in rows]
