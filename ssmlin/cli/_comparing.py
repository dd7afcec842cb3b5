"""`ssmlin compare`."""

import inspect
import json
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ssmlin._optional import require
from ssmlin._progress import waiting
from ssmlin.cli._collections import CollectionCall, compare_over_series
from ssmlin.cli._options import (
    CheckpointOption,
    DateFormatOption,
    DecimalOption,
    EncodingOption,
    FileArgument,
    InputsOption,
    JsonOption,
    LogOption,
    QueryOption,
    QuietOption,
    Reading,
    SeedOption,
    SeriesOption,
    TableOption,
    TargetOption,
    ThousandsOption,
    TimeOption,
    TransformOption,
    console,
    fail,
    in_lines,
    names,
    new_file,
    no_result,
    prepare,
    read,
    resumable,
    transform_of,
    two_files,
)
from ssmlin.cli._printing import cell, print_columns

if TYPE_CHECKING:
    import pandas

    from ssmlin.comparison import Comparison


def compare(
    file: FileArgument,
    target: TargetOption,
    inputs: InputsOption = "",
    time: TimeOption = None,
    series: SeriesOption = None,
    query: QueryOption = None,
    table_name: TableOption = None,
    encoding: EncodingOption = None,
    decimal: DecimalOption = None,
    thousands: ThousandsOption = None,
    date_format: DateFormatOption = None,
    models: Annotated[
        str,
        typer.Option(
            help="Names separated by commas, or all; default fourteen models, or the usual ones "
            "of many series."
        ),
    ] = "",
    test_fraction: Annotated[float, typer.Option(help="The share of steps to hold out.")] = 0.3,
    horizon: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Score sampled paths of so many steps, too. With --series: hold out so many steps "
            "of each series, and compare forecasts of all of them at once.",
        ),
    ] = None,
    refits: Annotated[
        int, typer.Option(min=0, help="Fit anew so many times in the held-out part.")
    ] = 0,
    period: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Steps a season, 1 for none; with --series and --horizon by default by the times.",
        ),
    ] = None,
    transform: TransformOption = "auto",
    log: LogOption = False,
    output: Annotated[
        Path | None, typer.Option(help="Write the whole table to this new CSV file.")
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(help="Write tables and figures to this new HTML file, one for all."),
    ] = None,
    draws: Annotated[
        int,
        typer.Option(min=0, help="Posterior draws of the gates for the report, of each chain."),
    ] = 300,
    evidence: Annotated[
        bool,
        typer.Option("--evidence", help="Estimate the log evidence of the training part, too."),
    ] = False,
    checkpoint: CheckpointOption = None,
    seed: SeedOption = 0,
    workers: Annotated[int, typer.Option(min=1, help="Models fitted at the same time.")] = 2,
    wide: Annotated[
        bool, typer.Option("--wide", help="Print all columns, not only those that fit.")
    ] = False,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Find the model that predicts the last part of your series best, fitted to the first part.

    Example: ssmlin compare data.csv --target y --inputs price,holiday --horizon 12 --period 12

    Example: ssmlin compare data.csv --target y --report report.html

    Example: ssmlin compare data.csv --target y --checkpoint done   # models may be added later

    Example: ssmlin compare sales.csv --target y --series shop --time month --horizon 12
    """
    new_file(output, "--output")
    new_file(report, "--report")
    two_files(output, "--output", report, "--report")
    reading = Reading(query, table_name, encoding, decimal, thousands, date_format)
    if series is not None and horizon is not None:
        of_one_step = {"inputs": inputs, "test_fraction": test_fraction, "refits": refits,
                       "transform": transform, "log": log, "draws": draws, "evidence": evidence,
                       "workers": workers}  # fmt: skip
        for option, value in of_one_step.items():
            if value != inspect.signature(compare).parameters[option].default:
                fail(f"--{option.replace('_', '-')}: expected none with --series and --horizon")
        compare_over_series(
            CollectionCall(
                file, target, series, horizon, time, reading, names(models), period, output,
                report, checkpoint, seed, wide, quiet, as_json,
            )
        )  # fmt: skip
        return
    transform = transform_of(transform, log)
    if report is not None and series is not None:
        fail("--report: expected a file of one series, or --horizon, got --series alone")
    if report is not None:
        require("arviz", "matplotlib")
    progress = not (quiet or as_json)
    prepare(progress)
    from ssmlin._files import written_whole
    from ssmlin.comparison import all_series, compare_series, pooled_frame
    from ssmlin.data import Series

    with waiting(f"reading {file}", progress):
        panel = read(file, target, names(inputs), time, series, reading)
    several = [
        Series(name or file.name, columns.values, columns.times, columns.targets, str(file),
               columns.inputs, None if period == 1 else period, columns.input_names)
        for name, columns in panel.items()
    ]  # fmt: skip
    beside = output or report or Path(f"{file.stem}-comparison")
    folder = checkpoint or beside.with_name(beside.name + ".checkpoint")
    with in_lines(), resumable(folder, keep=checkpoint is not None):
        found = compare_series(
            several,
            names(models) or None,
            test_fraction,
            horizon=horizon or 1,
            num_refits=refits,
            transform=transform,
            evidence=evidence,
            seed=seed,
            workers=workers,
            checkpoint_dir=folder,
            progress=progress,
        )
        frame = pooled_frame(found) if series is not None else found[several[0].name].to_frame()
        none_left = bool((frame.failure != "").all())
        # Without a model that did not fail there is nothing to keep.
        if report is not None and not none_left:
            _write_report(report, found[several[0].name], draws, seed, progress)
        if output is not None and not none_left:
            with written_whole(output, new=True) as temporary:
                frame.to_csv(temporary, index=False)
    shown, each, title = frame, frame, f"{file.name}: held out, one step ahead"
    if series is not None:
        together = frame.series == all_series(found)
        shown, each = frame[together].drop(columns="series"), frame[~together]
        title = f"{file.name}: {len(several)} series together, held out, one step ahead"
    if as_json:
        typer.echo(json.dumps(json.loads(frame.to_json(orient="records"))))
    else:
        if len(shown) and not none_left:
            _print(shown, title, wide, _seen(found))
        _print_complaints(each)
        for path in (output, report):
            if path is not None and not none_left:
                console.print(f"wrote {path}", highlight=False, soft_wrap=True)
    if none_left:
        no_result("expected one that can be fitted and predicts the held-out part, got none")
    if not len(shown):
        no_result("expected one that can be fitted to all series, got none")


def _seen(found: Mapping[str, "Comparison"]) -> str:
    """What models see of the values where that is not the values, "" otherwise."""
    parts: dict[str, list[str]] = {}
    for name, comparison in found.items():
        if comparison.split.transformation:
            parts.setdefault(comparison.split.transformation, []).append(name)
    if len(found) == 1 or [len(names) for names in parts.values()] == [len(found)]:
        return "".join(parts)
    return ", ".join(f"{seen} in {len(names)} series" for seen, names in parts.items())


def _print(frame: "pandas.DataFrame", title: str, wide: bool, seen: str = "") -> None:
    """All columns, or the first ones that fit."""
    columns = _every_column(frame) if wide else _main_columns(frame)
    shown = print_columns(columns, title, wide)
    shares = [heading for heading in ("80 %", "95 %") if heading in shown]
    said = ["log p: mean log density a step"] if "log p" in shown else []
    said += [f"{', '.join(shares)}: share of values inside this interval"] if shares else []
    said += ["paths: CRPS of sampled paths"] if "paths" in shown else []
    said += ["units: the training part's standard deviation of each column"]
    said += [f"models see {seen}"] if seen else []
    said += [] if wide else ["more columns: --wide, or --output with a file"]
    console.print("; ".join(said), highlight=False)


def _main_columns(frame: "pandas.DataFrame") -> dict[str, list[str]]:
    """The most important columns, as text, the most important first."""
    behind = [
        f"{difference:.3f} ± {error:.3f}" if difference else ""
        for difference, error in zip(frame.difference, frame.difference_se, strict=True)
    ]
    shown = {"log p": "log_density", "paths": "path_crps", "80 %": "coverage_80", "CRPS": "crps",
             "RMSE": "rmse", "95 %": "coverage_95"}  # fmt: skip
    cells = {heading: [cell(x) for x in frame[name]]
             for heading, name in shown.items() if name in frame}  # fmt: skip
    failed = frame["failure"] != ""
    log_p = ["failed" if fail else x for fail, x in zip(failed, cells.pop("log p"), strict=True)]
    behind = ["" if fail else x for fail, x in zip(failed, behind, strict=True)]
    return {"model": list(frame.model), "log p": log_p, "to the best": behind} | cells


def _every_column(frame: "pandas.DataFrame") -> dict[str, list[str]]:
    """All columns, as text, but what is said below the table."""
    return {
        name: [cell(x) for x in frame[name]]
        for name in frame.columns
        if name not in ("failure", "warnings")
    }


def _print_complaints(frame: "pandas.DataFrame") -> None:
    """Failures and warnings of each model, in a line."""
    for column, verb in (("failure", "failed"), ("warnings", "warned")):
        told = frame[frame[column] != ""]
        for model, rows in told.groupby("model", sort=False):
            where = ""
            if "series" in frame:
                count = frame["series"].nunique()
                where = f" on {len(rows)} of {count} series, first on {rows['series'].iloc[0]}"
            console.print(f"{model} {verb}{where}: {rows[column].iloc[0]}", highlight=False,
                          soft_wrap=True)  # fmt: skip


def _write_report(
    path: Path, comparison: "Comparison", draws: int, seed: int, progress: bool
) -> None:
    """The report, with the posterior of the gates of the best mechanism that has some."""
    import warnings

    import jax
    import numpy as np

    from ssmlin.comparison import write_report
    from ssmlin.forecasting import FittedAttention, sample_over_gaps, with_lags, with_season

    tree, name = None, ""
    for result in comparison.results:
        fit: Any = result.details
        if not draws or not isinstance(fit, FittedAttention):
            continue
        gates = [name for name, gate in fit.model.mechanism.gates.items()
                 if not gate.is_per_channel and gate.trainable]  # fmt: skip
        if not gates:
            continue
        data = with_lags(fit.model, with_season(comparison.split.observed, fit.seasonal))
        props = fit.model.param_props
        name = result.name
        options: dict[str, Any] = {"time": np.asarray(comparison.split.series.times)}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the report shows the diagnostics
            tree = sample_over_gaps(
                jax.random.key(seed), fit.model, fit.params, props, *data, variables=gates,
                num_warmup=draws, num_samples=draws, progress=progress,
                **options,
            )  # fmt: skip
        break
    command = shlex.join(["ssmlin", *sys.argv[1:]])
    with waiting("drawing the figures of the report", progress):
        write_report(path, comparison, command=command, draws=tree, drawn_from=name)
