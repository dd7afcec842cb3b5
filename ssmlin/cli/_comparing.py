"""`ssmlin compare`."""

import inspect
import json
import shlex
import sys
from itertools import combinations
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
    FillInputsOption,
    FreqOption,
    HolidaysOption,
    InputsOption,
    JsonOption,
    LogOption,
    PeriodOption,
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
    calendar_of,
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
from ssmlin.cli._scores import print_failures, print_scores, print_warnings
from ssmlin.cli._verdicts import FitCall, call_of, print_verdict

if TYPE_CHECKING:
    import pandas

    from ssmlin.comparison import Comparison, Verdict


def compare(
    file: FileArgument,
    target: TargetOption,
    inputs: InputsOption = "",
    time: TimeOption = None,
    series: SeriesOption = None,
    freq: FreqOption = None,
    holidays: HolidaysOption = "",
    fill_inputs: FillInputsOption = False,
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
    period: PeriodOption = None,
    transform: TransformOption = "auto",
    log: LogOption = False,
    output: Annotated[
        Path | None, typer.Option(help="Write the whole table to this new CSV file.")
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(help="Write tables and figures to this new HTML file, one for all."),
    ] = None,
    fit: Annotated[
        Path | None,
        typer.Option(help="Fit the best linear attention to the whole file, into this new file."),
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

    Sentences say which models are best, whether their intervals may be trusted, and which command
    fits the best one.

    Example: ssmlin compare data.csv --target y --inputs price,holiday --horizon 12 --period 12

    Example: ssmlin compare data.csv --target y --report report.html --fit model.safetensors

    Example: ssmlin compare data.csv --target y --checkpoint done   # models may be added later

    Example: ssmlin compare sales.csv --target y --series shop --time month --horizon 12
    """
    asked = dict(locals())
    files = {"--output": output, "--report": report, "--fit": fit}
    for option, path in files.items():
        new_file(path, option)
    for (option, path), (other_option, other) in combinations(files.items(), 2):
        two_files(path, option, other, other_option)
    reading = Reading(query, table_name, encoding, decimal, thousands, date_format)
    if series is not None and horizon is not None:
        of_one_step = {"inputs": inputs, "fill_inputs": fill_inputs,
                       "test_fraction": test_fraction, "refits": refits,
                       "transform": transform, "log": log, "draws": draws, "evidence": evidence,
                       "workers": workers}  # fmt: skip
        for option, value in of_one_step.items():
            if value != inspect.signature(compare).parameters[option].default:
                fail(f"--{option.replace('_', '-')}: expected none with --series and --horizon")
        compare_over_series(
            CollectionCall(
                file, target, series, horizon, time, calendar_of(freq, holidays), reading,
                names(models), period, output, report, checkpoint, seed, wide, quiet, as_json, fit,
                asked,
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
    from ssmlin.comparison import all_series, compare_series, pooled_frame, verdict
    from ssmlin.data import Series
    from ssmlin.forecasting import season_of

    calendar = calendar_of(freq, holidays)
    with waiting(f"reading {file}", progress):
        panel = read(
            file, target, names(inputs), time, series, reading, calendar, fill_inputs=fill_inputs
        )
    several = [
        Series(name or file.name, columns.values, columns.times, columns.targets, str(file),
               columns.inputs, None if period == 1 else period or season_of(columns.times),
               columns.input_names)
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
        shown, each, title = frame, frame, f"{file.name}: held out, one step ahead"
        if series is not None:
            together = frame.series == all_series(found)
            shown, each = frame[together].drop(columns="series"), frame[~together]
            title = f"{file.name}: {len(several)} series together, held out, one step ahead"
        said = verdict(found, seed) if len(shown) and not none_left else None
        call = None if said is None or said.choice is None else call_of(said.choice, asked, fit)
        # Without a model that did not fail there is nothing to keep.
        if report is not None and not none_left:
            command = None if call is None else call.command
            _write_report(report, found[several[0].name], draws, seed, progress, command)
        if output is not None and not none_left:
            with written_whole(output, new=True) as temporary:
                frame.to_csv(temporary, index=False)
    if not as_json:
        if said is not None:
            print_verdict(said.sentences, "" if said.choice is None else said.choice.reason, call)
            print_scores(shown, title, wide, found)
        print_failures(each)
        print_warnings(found)
        for path in (output, report):
            if path is not None and not none_left:
                console.print(f"wrote {path}", highlight=False, soft_wrap=True)
    fitted = call.run(quiet, as_json) if call is not None and fit is not None else None
    if as_json:
        typer.echo(json.dumps(_record(frame, said, call, fitted)))
    if none_left:
        no_result("expected one that can be fitted and predicts the held-out part, got none")
    if not len(shown):
        no_result("expected one that can be fitted to all series, got none")
    if fit is not None and call is None:
        no_result("expected a linear attention to fit, got none that did not fail")


def _record(
    frame: "pandas.DataFrame",
    said: "Verdict | None",
    call: FitCall | None,
    fitted: dict[str, Any] | None,
) -> dict[str, Any]:
    """All of it for `--json`."""
    return {
        "conclusions": [] if said is None else [said.which, said.by_how_much, said.trusted],
        "advice": [] if said is None else said.advice,
        "best": [] if said is None else said.best,
        "fit": None if call is None else call.command,
        "model": fitted,
        "units": {
            "log_density": "nats a step",
            "values": "standard deviations of the training part of each column",
            "standard_deviations": frame.attrs["unit"],
        },
        "models": json.loads(frame.to_json(orient="records")),
    }


def _write_report(
    path: Path,
    comparison: "Comparison",
    draws: int,
    seed: int,
    progress: bool,
    fit_command: str | None,
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
        write_report(
            path, comparison, command=command, fit_command=fit_command, draws=tree, drawn_from=name
        )
