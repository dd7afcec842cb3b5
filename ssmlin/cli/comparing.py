"""`ssmlin compare`."""

import json
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from ssmlin.cli.options import (
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
    read,
    resumable,
    transform_of,
)

if TYPE_CHECKING:
    import pandas

    from ssmlin.evaluation import Comparison


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
        str, typer.Option(help="Names separated by commas, or all; default fourteen models.")
    ] = "",
    test_fraction: Annotated[float, typer.Option(help="The share of steps to hold out.")] = 0.3,
    horizon: Annotated[
        int, typer.Option(min=1, help="Score sampled paths of so many steps, too.")
    ] = 1,
    refits: Annotated[
        int, typer.Option(min=0, help="Fit anew so many times in the held-out part.")
    ] = 0,
    period: Annotated[
        int | None, typer.Option(min=2, help="Steps a season, for seasonal models.")
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
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Find the model that predicts the last part of your series best, fitted to the first part.

    Example: ssmlin compare data.csv --target y --inputs price,holiday --horizon 12 --period 12

    Example: ssmlin compare data.csv --target y --report report.html

    Example: ssmlin compare data.csv --target y --checkpoint done   # models may be added later
    """
    from ssmlin.evaluation import Series, compare_series, pooled_frame

    new_file(output, "--output")
    new_file(report, "--report")
    transform = transform_of(transform, log)
    if report is not None and series is not None:
        fail("--report: expected a file of one series, got --series")
    reading = Reading(query, table_name, encoding, decimal, thousands, date_format)
    panel = read(file, target, names(inputs), time, series, reading)
    several = [
        Series(name or file.name, columns.values, columns.times, columns.targets, str(file),
               columns.inputs, period)
        for name, columns in panel.items()
    ]  # fmt: skip
    progress = not (quiet or as_json)
    beside = output or report or Path(f"{file.stem}-comparison")
    folder = checkpoint or beside.with_name(beside.name + ".checkpoint")
    with in_lines(), resumable(folder, keep=checkpoint is not None):
        found = compare_series(
            several,
            names(models) or None,
            test_fraction,
            horizon=horizon,
            num_refits=refits,
            transform=transform,
            evidence=evidence,
            seed=seed,
            workers=workers,
            checkpoint_dir=folder,
            progress=progress,
        )
    frame = pooled_frame(found) if series is not None else found[several[0].name].to_frame()
    if output is not None:
        frame.to_csv(output, index=False)
    if report is not None:
        _write_report(report, found[several[0].name], draws, seed, progress)
    if as_json:
        typer.echo(json.dumps(json.loads(frame.to_json(orient="records"))))
        return
    if series is not None:
        title = f"{file.name}: {len(several)} series together, held out, one step ahead"
        _print(frame[frame.series == "all"], title, horizon, _seen(found))
    else:
        _print(frame, f"{file.name}: held out, one step ahead", horizon, _seen(found))
    for path in (output, report):
        if path is not None:
            console.print(f"wrote {path}", highlight=False, soft_wrap=True)


def _seen(found: Mapping[str, "Comparison"]) -> str:
    """What models see of the values where that is not the values, "" otherwise."""
    parts: dict[str, list[str]] = {}
    for name, comparison in found.items():
        if comparison.split.transformation:
            parts.setdefault(comparison.split.transformation, []).append(name)
    if len(found) == 1 or [len(names) for names in parts.values()] == [len(found)]:
        return "".join(parts)
    return ", ".join(f"{seen} in {len(names)} series" for seen, names in parts.items())


def _print(frame: "pandas.DataFrame", title: str, horizon: int, seen: str) -> None:
    """The most important columns."""
    shown = {"crps": "CRPS", "rmse": "RMSE", "coverage_80": "80 %", "coverage_95": "95 %"}
    shown |= {"path_crps": "paths"} if horizon > 1 else {}
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    table.add_column("model", no_wrap=True)
    for heading in ("log p", "to the best", *shown.values()):
        table.add_column(heading, justify="right")
    records = frame.to_dict("records")
    for row in records:
        if row["failure"]:
            table.add_row(row["model"], "failed")
            continue
        behind = f"{row['difference']:.3f} ± {row['difference_se']:.3f}"
        table.add_row(
            row["model"],
            f"{row['log_density']:.3f}",
            behind if row["difference"] else "",
            *(f"{row.get(name, np.nan):.3f}" for name in shown),
        )
    console.print(table)
    console.print(
        "log p: mean log density a step; 80 %, 95 %: shares of values inside these intervals;\n"
        + ("paths: CRPS of sampled paths; " if horizon > 1 else "")
        + "units: the training part's standard deviation of each column"
        + (f";\nmodels see {seen}" if seen else ""),
        highlight=False,
    )
    for row in records:
        if row["failure"]:
            console.print(f"{row['model']} failed: {row['failure']}", highlight=False)


def _write_report(
    path: Path, comparison: "Comparison", draws: int, seed: int, progress: bool
) -> None:
    """The report, with the posterior of the gates of the best mechanism that has some."""
    import warnings

    import jax

    from ssmlin.evaluation import write_report
    from ssmlin.evaluation.attention import FittedAttention, with_lags
    from ssmlin.evaluation.regressions import with_season
    from ssmlin.learning import sample_posterior

    tree, name = None, ""
    for result in comparison.results:
        fit: Any = result.details
        if not draws or not isinstance(fit, FittedAttention):
            continue
        gates = [name for name, gate in fit.model.mechanism.gates.items()
                 if gate.per != "column" and gate.trainable]  # fmt: skip
        if not gates:
            continue
        data = with_lags(fit.model, with_season(comparison.split.observed, fit.seasonal))
        props = fit.model.param_props
        name = result.name
        options: dict[str, Any] = {"time": np.asarray(comparison.split.series.times)}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the report shows the diagnostics
            tree = sample_posterior(
                jax.random.key(seed), fit.model, fit.params, props, *data, variables=gates,
                num_warmup=draws, num_samples=draws, progress=progress,
                **options,
            )  # fmt: skip
        break
    command = shlex.join(["ssmlin", *sys.argv[1:]])
    write_report(path, comparison, command=command, draws=tree, drawn_from=name)
