"""`ssmlin compare --series ... --horizon ...`: many series, all steps of the horizon at once."""

import hashlib
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ssmlin._optional import require
from ssmlin._progress import running, waiting
from ssmlin.cli._options import (
    Reading,
    as_options,
    console,
    fail,
    in_lines,
    no_result,
    prepare,
    resumable,
    stem_of,
    tell_of_dates,
)
from ssmlin.cli._printing import cell, print_columns
from ssmlin.cli._verdicts import FitCall, print_verdict

if TYPE_CHECKING:
    import pandas

    from ssmlin.comparison.collections import Collection, CollectionComparison
    from ssmlin.data import Calendar

#: The model that `ssmlin fit` fits, and the pooling that it is.
_OURS = "hierarchical"
_MEANS = {"crps": "CRPS", "mase": "MASE", "smape": "sMAPE", "msis": "MSIS", "coverage_50": "50 %",
          "coverage_80": "80 %", "coverage_95": "95 %"}  # fmt: skip


@dataclass(frozen=True)
class CollectionCall:
    """What the command was asked for; see the options of `ssmlin compare`."""

    file: Path
    targets: Sequence[str]
    series: str
    horizon: int
    time: str | None
    calendar: "Calendar"
    reading: Reading
    models: Sequence[str]
    period: int | None
    output: Path | None
    report: Path | None
    checkpoint: Path | None
    seed: int
    wide: bool
    quiet: bool
    as_json: bool
    fit: Path | None
    asked: Mapping[str, Any]


def compare_over_series(call: CollectionCall) -> None:
    """Forecast the ends of many series by several models, and say which is best.

    Args:
        call: the options.
    """
    if len(call.targets) != 1:
        fail(f"--target: expected one column with --series and --horizon, got {len(call.targets)}")
    if call.report is not None:
        require("matplotlib")
    progress = not (call.quiet or call.as_json)
    prepare(progress)
    from ssmlin._files import written_whole
    from ssmlin.comparison.collections import (
        compare_collection,
        conclusions,
        hold_out_frame,
        write_collection_report,
    )

    with waiting("loading the packages of the models", progress):
        models = _models(call.models)
    with in_lines(), waiting(f"reading {call.file}", progress), as_options("horizon"):
        table = call.reading.series_of(call.file, call.series)
        tell_of_dates(table, call.time, [*call.targets, call.series])
        collection = hold_out_frame(
            table, call.horizon, call.period,
            name=stem_of(call.file), id_col=call.series, time_col=call.time,
            target_col=call.targets[0], date_format=call.reading.date_format,
            calendar=call.calendar,
        )  # fmt: skip
    beside = call.output or call.report or Path(f"{stem_of(call.file)}-comparison")
    folder = call.checkpoint or beside.with_name(beside.name + ".checkpoint")
    with in_lines(), resumable(folder, keep=call.checkpoint is not None):
        with running(progress) as lines:
            task = lines.add_task("", total=None)

            def tell(text: str) -> None:
                lines.reset(task, description=text)
                if progress:
                    typer.echo(text, err=True)

            found = compare_collection(
                collection, models, call.seed, folder=folder / _fingerprint(collection, call.seed),
                on_progress=tell,
            )["all"]  # fmt: skip
        said = conclusions(found, call.seed)
        if call.output is not None:
            with written_whole(call.output, new=True) as temporary:
                found.to_frame().to_csv(temporary, index=False)
        if call.report is not None:
            command = shlex.join(["ssmlin", *sys.argv[1:]])
            with waiting("drawing the figures of the report", progress):
                write_collection_report(
                    call.report, {"all": found}, command=command, seed=call.seed
                )  # fmt: skip
    to_fit, reason = _to_fit(found, call)
    if not call.as_json:
        print_verdict(said, reason, to_fit)
        _print(found, call.wide, call.seed)
        _print_failures(found)
        for path in (call.output, call.report):
            if path is not None:
                console.print(f"wrote {path}", highlight=False, soft_wrap=True)
    fitted = None
    if to_fit is not None and call.fit is not None:
        fitted = to_fit.run(call.quiet, call.as_json)
    if call.as_json:
        to_copy = None if to_fit is None else to_fit.command
        record = _record(found, said, call.seed) | {"fit": to_copy, "model": fitted}
        typer.echo(json.dumps(record))
    others = [made for model, made in found.forecasts.items() if model != "seasonal_naive"]
    if others and all(made.num_failures == len(collection) for made in others):
        no_result("expected one that can be fitted to a series, got none but seasonal_naive")
    if call.fit is not None and to_fit is None:
        no_result(f"expected {_OURS}, the one that --fit fits, got none that did not fail")


def _to_fit(found: "CollectionComparison", call: CollectionCall) -> tuple[FitCall | None, str]:
    """The call that fits our model to all series and their ends, and why it is that one."""
    made = found.forecasts.get(_OURS)
    if made is None or made.num_failures == len(found.collection):
        return None, ""
    best, *_ = found.ordered()
    reason = f"{_OURS} has the best rank." if best == _OURS else f"Of these ssmlin fits {_OURS}."
    period = found.collection.series[0].period
    return FitCall.of(call.asked, call.fit, pooling=_OURS, period=period), reason


def _models(asked: Sequence[str]) -> list[str]:
    """The models to compare; those that are not installed are left out, or refused if named."""
    from ssmlin.comparison.collections import MODELS, USUAL

    for name in asked:
        if name not in (*MODELS, "all"):
            fail(f"--models: expected names among {', '.join(MODELS)}, or all; got {name!r}")
    chosen = list(MODELS) if "all" in asked else list(dict.fromkeys(asked)) or list(USUAL)
    why = {name: MODELS[name].what_is_missing() for name in chosen}
    missing = [name for name in chosen if why[name]]
    if missing and asked and "all" not in asked:
        fail(f"--models: {missing[0]}: {why[missing[0]]}")
    for reason in dict.fromkeys(why[name] for name in missing):
        left_out = ", ".join(name for name in missing if why[name] == reason)
        typer.echo(f"Left out: {left_out}; {reason}", err=True)
    return [name for name in chosen if not why[name]]


def _fingerprint(collection: "Collection", seed: int) -> str:
    """What kept forecasts depend on beside the model, as the name of a folder."""
    found = hashlib.sha256(str(seed).encode())
    for one in collection:
        found.update(repr((one.name, one.period, one.horizon, len(one.train))).encode())
        found.update(one.train.tobytes())
    return found.hexdigest()[:16]


def _frame(found: "CollectionComparison", seed: int) -> "pandas.DataFrame":
    """Means, ratios of CRPS with wins and ranks, and ratios of MASE; the best model first."""
    of_mase = found.relative("mase", seed=seed)[["ratio", "ratio_low", "ratio_high"]]
    frame = (
        found.summary().join(found.relative("crps", seed=seed)).join(of_mase.add_prefix("mase_"))
    )
    return frame.loc[list(found.ordered())]


def _record(
    found: "CollectionComparison", said: Sequence[str], seed: int
) -> dict[str, object]:  # fmt: skip
    """All of it for `--json`."""
    one = found.collection.series[0]
    several = len(found.models) > 1
    return {
        "conclusions": list(said),
        "series": len(found.collection),
        "horizon": one.horizon,
        "period": one.period,
        "critical_difference": found.ranks().critical_difference if several else None,
        "models": json.loads(_frame(found, seed).reset_index().to_json(orient="records")),
    }


def _print(found: "CollectionComparison", wide: bool, seed: int) -> None:
    """The means, and what they are beside seasonal naive; with `wide` all columns at once."""
    frame, one = _frame(found, seed), found.collection.series[0]
    season = f"{one.period} steps a season" if one.period > 1 else "no season"
    title = (
        f"{found.collection.name}: {len(found.collection)} series, the last {one.horizon} steps "
        f"held out, {season}"
    )
    models = {"model": list(frame.index)}
    if wide:
        print_columns(
            models | {name: [cell(x) for x in frame[name]] for name in frame}, title, wide
        )  # fmt: skip
        return
    print_columns(
        models | {heading: [cell(x) for x in frame[name]] for name, heading in _MEANS.items()},
        title, wide,
    )  # fmt: skip
    beside = {"CRPS to naive": _intervals(frame, "ratio")}
    if "rank" in frame:
        beside["rank"] = [f"{x:.2f}" for x in frame["rank"]]
    beside |= {
        "failed": [str(x) for x in frame["failures"]],
        "s/series": [cell(x) for x in frame["seconds"]],
        "MASE to naive": _intervals(frame, "mase_ratio"),
    }
    print_columns(models | beside, "beside seasonal_naive", wide)
    console.print(
        "CRPS, MASE, MSIS: means over series, in units of the mean change over a season; "
        "50, 80, 95 %: share of values inside this interval; to naive: geometric mean of ratios, "
        "with its 95 % interval over series; rank: mean rank of CRPS; more columns: --wide",
        highlight=False,
    )


def _intervals(frame: "pandas.DataFrame", column: str) -> list[str]:
    """Estimates with the ends of their intervals."""
    ends = (frame[f"{column}{end}"] for end in ("", "_low", "_high"))
    return [f"{x:.2f} ({low:.2f} to {high:.2f})" for x, low, high in zip(*ends, strict=True)]


def _print_failures(found: "CollectionComparison") -> None:
    """How many series each model failed on, with the first one."""
    for model, made in found.forecasts.items():
        if not made.num_failures:
            continue
        first = next(i for i, reason in enumerate(made.failures) if reason)
        console.print(
            f"{model} failed on {made.num_failures} of {len(found.collection)} series, forecast by "
            f"seasonal_naive instead; first on {found.collection.series[first].name}: "
            f"{made.failures[first]}",
            highlight=False, soft_wrap=True,
        )  # fmt: skip
