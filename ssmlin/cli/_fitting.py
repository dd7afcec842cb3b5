"""`ssmlin fit`, `forecast` and `sample`."""

import json
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from ssmlin._optional import require
from ssmlin._progress import waiting
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
    ModelArgument,
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
    as_options,
    as_season,
    calendar_of,
    console,
    fail,
    in_lines,
    is_long,
    names,
    new_file,
    prepare,
    resumable,
    tell_of_dates,
    transform_of,
    two_files,
)
from ssmlin.cli._printing import print_columns, rounded

if TYPE_CHECKING:
    import pandas

    from ssmlin.data import Calendar
    from ssmlin.forecasting import CollectionState, Forecaster, ForecasterState, Layout
    from ssmlin.learning import Algorithm

_WINDOW = 2000
#: Percentages of the intervals of a forecast.
LEVELS = (50, 80, 95)


def fit(
    file: FileArgument,
    target: TargetOption,
    output: Annotated[Path, typer.Option(help="The new file of the model.")] = Path(
        "model.safetensors"
    ),
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
    mechanism: Annotated[str, typer.Option(help="See `ssmlin mechanisms`.")] = "bayesian_memory",
    lags: Annotated[
        int | None,
        typer.Option(min=0, help="Lagged values as inputs; default by an information criterion."),
    ] = None,
    key_dim: Annotated[int, typer.Option(min=1, help="d, except of bayesian_memory.")] = 4,
    period: PeriodOption = None,
    pooling: Annotated[
        str,
        typer.Option(
            help="Of several series: separate, shared, hierarchical; auto by their number."
        ),
    ] = "auto",
    transform: TransformOption = "auto",
    log: LogOption = False,
    difference: Annotated[
        int, typer.Option(min=0, help="Model changes over so many steps, 1 or a season.")
    ] = 0,
    epochs: Annotated[
        int | None,
        typer.Option(
            min=1, help="Passes over the data, at most; default 2000, streamed 2, population 1000."
        ),
    ] = None,
    window: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Stream a CSV, TSV or Parquet file, so many steps at a time; default 2000 for "
            "files above 32 MiB; 0 never.",
        ),
    ] = None,
    checkpoint: CheckpointOption = None,
    seed: SeedOption = 0,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Fit a linear attention to a series, by the recommended recipe, and save it.

    Columns and units are kept in the model's file, so `ssmlin forecast` answers in them. Several
    series (--series) share their parameters; each is standardised by itself. Ten or more are a
    population of which each deviates (--pooling hierarchical).

    Example: ssmlin fit data.csv --target sales --time month --output sales.safetensors

    Example: ssmlin fit sensors.parquet --target load --window 5000
    """
    new_file(output, "--output")
    transform = transform_of(transform, log)
    progress = not (quiet or as_json)
    prepare(progress)
    calendar = calendar_of(freq, holidays)

    from ssmlin.data import TableStream
    from ssmlin.forecasting import Forecaster
    from ssmlin.mechanisms import MECHANISMS

    if mechanism not in MECHANISMS:
        fail(f"--mechanism: expected one of {', '.join(MECHANISMS)}; got {mechanism!r}")
    in_memory = series, period, calendar.freq, difference or None, fill_inputs or None
    if window is None and not any(in_memory) and is_long(file):
        window = _WINDOW
    reading = Reading(query, table_name, encoding, decimal, thousands, date_format)
    folder = checkpoint or output.with_name(output.name + ".checkpoint")
    with in_lines(), resumable(folder, keep=checkpoint is not None):
        forecaster = Forecaster(
            mechanism,
            lags="auto" if lags is None else lags,
            season=as_season(period),
            transform=transform,
            pooling=pooling,
            key_dim=key_dim,
            difference=difference,
            num_epochs=epochs,
            seed=seed,
            progress=progress,
            checkpoint_dir=folder,
            freq=calendar.freq,
            holidays=calendar.holidays,
            fill_inputs=fill_inputs,
        )
        if window:
            if series is not None or difference > 0:
                raise ValueError("--window: expected neither --series nor --difference with it")
            if query is not None or table_name is not None:
                raise ValueError(f"--query, --table: expected a database, got {file}")
            stream = TableStream(file, target, names(inputs), time, date_format=date_format,
                                 progress=progress, **reading.of_text())  # fmt: skip
            with as_options("window"), as_options("season", "period"), as_options("freq"):
                forecaster.fit_stream(stream, window=window)
        else:
            with waiting(f"reading {file}", progress):
                whole = window == 0  # never in pieces
                table = (reading.table_of if whole else reading.series_of)(file, series)
            tell_of_dates(table, time, [*target, *names(inputs), series or ""])
            with as_options("freq"):
                forecaster.fit(table, names(inputs), series, time, target, date_format=date_format)
        state = fitted(forecaster)
        kept = replace(reading, date_format=state.layout.date_format)
        # A stream comes row by row, which may not tell it.
        mark = reading.decimal_mark(file, target[0])
        forecaster.save(output, notes={"reading": kept.notes(), "decimal": mark})
    if as_json:
        typer.echo(json.dumps({"output": str(output), **state.summary}))
        return
    for sentence in state.describe(was_chosen=transform in ("auto", "box-cox") and not log):
        console.print(sentence, highlight=False)
    console.print(f"wrote {output}", highlight=False, soft_wrap=True)


def fitted(forecaster: "Forecaster") -> "ForecasterState | CollectionState":
    """What a forecaster knows once it is fitted."""
    assert forecaster.state_ is not None
    return forecaster.state_


def load_and_update(
    model_file: Path,
    file: Path,
    reading: Reading,
    *,
    to_fit: bool,
    progress: bool,
    calendar: "Calendar | None" = None,
    fill_inputs: bool = False,
    **columns: str | None,
) -> "Forecaster":
    """A fitted forecaster that goes on from a file, read like the file of the fit.

    Args:
        model_file: of the forecaster.
        file: the file.
        reading: what is said of it.
        to_fit: refuse what no model could be fitted to.
        progress: say what is done.
        calendar: what is said of its steps.
        fill_inputs: whether inputs that are missing are filled; a fit that did goes on so.
        **columns: what --inputs, --time and --series say, which the fit has said already.
    """
    from ssmlin.forecasting import Forecaster

    with in_lines(), waiting(f"reading {model_file} and {file}", progress), as_options("freq"):
        forecaster = Forecaster.load(model_file)
        state = fitted(forecaster)
        _same_columns(state.layout, columns)
        if calendar is not None and calendar.freq is not None:
            forecaster.freq, forecaster.holidays = calendar.freq, calendar.holidays
        forecaster.fill_inputs |= fill_inputs
        reading = reading.after(state.notes.get("reading", {}))
        table = reading.series_of(file, state.layout.series)
        forecaster.update(table, to_fit=to_fit, date_format=reading.date_format)
    return forecaster


def _same_columns(layout: "Layout", columns: Mapping[str, str | None]) -> None:
    """Raise ValueError where options name other columns than those of the fit."""
    kept = {"inputs": ",".join(layout.inputs), "time": layout.time, "series": layout.series}
    for option, given in columns.items():
        given = ",".join(names(given or "")) if option == "inputs" else given
        if given and given != kept[option]:
            raise ValueError(
                f"--{option}: expected {kept[option] or 'none'}, as in the fit, got {given}"
            )


def forecast(
    model_file: ModelArgument,
    file: FileArgument,
    horizon: Annotated[int, typer.Option(min=1, help="Steps ahead.")] = 12,
    future: Annotated[
        Path | None, typer.Option(help="A file with the inputs of the steps to come.")
    ] = None,
    output: Annotated[
        Path, typer.Option(help="The new file of the forecast, CSV or .parquet.")
    ] = Path("forecast.csv"),
    paths: Annotated[
        Path | None, typer.Option(help="Write the sampled paths to this new file, too.")
    ] = None,
    samples: Annotated[int, typer.Option(min=2, help="Sampled paths.")] = 1000,
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
    seed: SeedOption = 0,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Forecast the steps after the end of a file, with intervals, in its units.

    The model's file knows the columns and the steps of the fit, so they need not be said again;
    what is said of the steps comes first.

    Example: ssmlin forecast sales.safetensors data.csv --horizon 24 --output forecast.csv
    """
    new_file(output, "--output")
    new_file(paths, "--paths")
    two_files(output, "--output", paths, "--paths")
    progress = not (quiet or as_json)
    prepare(progress)

    from ssmlin._files import written_whole
    from ssmlin.cli._tables import write_forecasts

    reading = Reading(query, table_name, encoding, decimal, thousands, date_format)
    forecaster = load_and_update(
        model_file, file, reading, to_fit=False, progress=progress,
        calendar=calendar_of(freq, holidays), fill_inputs=fill_inputs, inputs=inputs, time=time,
        series=series,
    )  # fmt: skip
    state = fitted(forecaster)
    called = state.summary["mechanism"]
    with in_lines(), waiting(f"compiling and forecasting by {called}", progress):
        with as_options("future_inputs", "future"), ExitStack() as files:
            plan = _read_future(future, state, reading)
            found = state.forecasts(horizon, LEVELS, plan, num_samples=samples, seed=seed)
            tables = write_forecasts(
                found, state.layout, files.enter_context(written_whole(output, new=True)),
                None if paths is None else files.enter_context(written_whole(paths, new=True)),
            )  # fmt: skip
            # Of many series only what is to be printed is kept.
            kept = [table for table in tables if as_json]
    if as_json:
        rows = [
            row for table in kept
            for row in json.loads(table.to_json(orient="records", date_format="iso"))
        ]  # fmt: skip
        typer.echo(json.dumps(rows))
        return
    for path in (output, paths):
        if path is not None:
            console.print(f"wrote {path}", highlight=False, soft_wrap=True)


def _read_future(
    future: Path | None, state: "ForecasterState | CollectionState", reading: Reading
) -> "pandas.DataFrame | None":
    """The table of the inputs to come, or None for a model without inputs."""
    layout = state.layout
    if not layout.inputs:
        return None
    if future is None and layout.fill_inputs:
        return None
    if future is None:
        wanted = ", ".join(layout.inputs)
        raise ValueError(
            f"--future: expected a file with the inputs {wanted} of the steps to come, got none"
        )
    # A query and a table's name are of the file of the past.
    reading = replace(reading.after(state.notes.get("reading", {})), query=None, table=None)
    try:
        return reading.table_of(future, layout.series)
    except ValueError as error:
        raise ValueError(f"--future: {error}") from error


def sample(
    model_file: ModelArgument,
    file: FileArgument,
    output: Annotated[Path, typer.Option(help="The new NetCDF file of the draws.")] = Path(
        "draws.nc"
    ),
    variables: Annotated[
        str, typer.Option(help="Parameters, separated by commas; default the gates.")
    ] = "",
    algorithm: Annotated[str, typer.Option(help="nuts, smc, pathfinder or laplace.")] = "nuts",
    chains: Annotated[int, typer.Option(min=1)] = 4,
    warmup: Annotated[int, typer.Option(min=1, help="Steps of adaptation.")] = 500,
    draws: Annotated[int, typer.Option(min=1, help="Draws of each chain.")] = 500,
    checkpoint: CheckpointOption = None,
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
    seed: SeedOption = 0,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Draw from the posterior of a fitted model's parameters, its gates unless others are named.

    Example: ssmlin sample sales.safetensors data.csv --variables alpha,process_noise
    """
    new_file(output, "--output")
    require("arviz")
    try:
        for package in ("h5netcdf", "h5py"):
            import_module(package)
    except ImportError as error:
        fail(f"--output: expected the packages for NetCDF (pip install ssmlin[data]), got {error}")
    progress = not (quiet or as_json)
    prepare(progress)

    from ssmlin._files import written_whole
    from ssmlin.forecasting import draw_parameters

    reading = Reading(query, table_name, encoding, decimal, thousands, date_format)
    forecaster = load_and_update(
        model_file, file, reading, to_fit=True, progress=progress,
        calendar=calendar_of(freq, holidays), fill_inputs=fill_inputs, inputs=inputs, time=time,
        series=series,
    )  # fmt: skip
    folder = checkpoint or output.with_name(output.name + ".checkpoint")
    with in_lines(), resumable(folder, keep=checkpoint is not None):
        found = draw_parameters(
            forecaster, names(variables), algorithm=cast("Algorithm", algorithm),
            num_chains=chains, num_warmup=warmup, num_samples=draws, seed=seed,
            checkpoint_dir=folder, progress=progress,
        )  # fmt: skip
        with written_whole(output, new=True) as temporary:
            found.to_netcdf(temporary, engine="h5netcdf")
    shown = [str(name) for name, x in found.posterior.data_vars.items() if "time" not in x.dims]
    with waiting("summarising the draws", progress):
        import arviz

        summary = arviz.summary(found, var_names=shown)
    if as_json:
        typer.echo(summary.to_json(orient="index"))
        return
    columns = {"parameter": [str(name) for name in summary.index]}
    columns |= {str(name): [rounded(float(x)) for x in summary[name]] for name in summary}
    if len(print_columns(columns, f"{file.name}: the posterior", wide=False)) < len(columns):
        console.print(f"more columns: arviz.summary of {output}", highlight=False)
    console.print(f"wrote {output}", highlight=False, soft_wrap=True)
