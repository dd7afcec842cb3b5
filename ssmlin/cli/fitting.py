"""`ssmlin fit`, `forecast` and `sample`."""

import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import typer

from ssmlin._files import written_whole
from ssmlin.cli.options import (
    CheckpointOption,
    DateFormatOption,
    DecimalOption,
    EncodingOption,
    FileArgument,
    InputsOption,
    JsonOption,
    LogOption,
    ModelArgument,
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
    two_files,
)
from ssmlin.data import Columns, Scaling, free_name
from ssmlin.data.scaling import describe_powers

#: Text and Parquet files above this many bytes are streamed.
STREAM_BYTES = 32 * 2**20
_WINDOW = 2000
_ROWS_TO_CHOOSE = 20_000
_FIRST_ROWS = f"the first {_ROWS_TO_CHOOSE} rows"


def fit(
    file: FileArgument,
    target: TargetOption,
    output: Annotated[Path, typer.Option(help="The new file of the model.")] = Path(
        "model.safetensors"
    ),
    inputs: InputsOption = "",
    time: TimeOption = None,
    series: SeriesOption = None,
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
    transform: TransformOption = "auto",
    log: LogOption = False,
    difference: Annotated[
        int, typer.Option(min=0, help="Model changes over so many steps, 1 or a season.")
    ] = 0,
    epochs: Annotated[
        int | None,
        typer.Option(min=1, help="Passes over the data, at most; default 500, streamed 2."),
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
    series (--series) share their parameters; each is standardised by itself.

    Example: ssmlin fit data.csv --target sales --time month --output sales.safetensors

    Example: ssmlin fit sensors.parquet --target load --window 5000
    """
    from ssmlin.mechanisms import MECHANISMS

    new_file(output, "--output")
    if mechanism not in MECHANISMS:
        fail(f"--mechanism: expected one of {', '.join(MECHANISMS)}; got {mechanism!r}")
    if window is None and series is None and difference == 0 and _is_long(file):
        window = _WINDOW
    reading = Reading(query, table_name, encoding, decimal, thousands, date_format)
    request = _Request(tuple(target), tuple(names(inputs)), time, series, mechanism, lags,
                       key_dim if MECHANISMS[mechanism].writes_values else None,
                       transform_of(transform, log), seed, not (quiet or as_json),
                       reading)  # fmt: skip
    folder = checkpoint or output.with_name(output.name + ".checkpoint")
    with in_lines(), resumable(folder, keep=checkpoint is not None):
        if window:
            if series is not None or difference > 0:
                raise ValueError("--window: expected neither --series nor --difference with it")
            if query is not None or table_name is not None:
                raise ValueError(f"--query, --table: expected a database, got {file}")
            found = _fit_stream(file, request, window, epochs or 2, folder)
        else:
            panel = read(file, target, names(inputs), time, series, reading)
            found = _fit_panel(panel, request, difference, epochs or 500, folder)
        found.model.save(output, found.params, notes=found.notes)
    said = {
        "output": str(output),
        "mechanism": mechanism,
        "num_lags": found.model.num_lags,
        "power": dict(zip(target, found.power, strict=True)),
        "num_parameters": found.num_parameters,
        "validation_log_density": found.validation,
    }
    if as_json:
        typer.echo(json.dumps(said))
        return
    console.print(
        f"{mechanism}, {found.model.num_lags} lags, {found.num_parameters} parameters; log density "
        "a step of what the model sees, at the end of the series, fitted before it: "
        f"{found.validation:.3f}",
        highlight=False,
    )
    seen = describe_powers(target, found.power) or "the values as they are"
    by = f", chosen on {found.chosen_on}" if transform in ("auto", "box-cox") and not log else ""
    console.print(f"the model sees {seen}{by}", highlight=False)
    console.print(f"wrote {output}", highlight=False, soft_wrap=True)


class _Request(NamedTuple):
    """What is asked of a fit."""

    targets: tuple[str, ...]
    inputs: tuple[str, ...]
    time: str | None
    series: str | None
    mechanism: str
    lags: int | None
    key_dim: int | None
    transform: str
    seed: int
    progress: bool
    reading: Reading

    def notes(self, scalings: dict[str, Scaling], date_format: str | None) -> dict[str, Any]:
        """What the model's file keeps of the data, whose times were read by this format."""
        return {
            "targets": self.targets,
            "inputs": self.inputs,
            "time": self.time,
            "series": self.series,
            "reading": replace(self.reading, date_format=date_format).notes(),
            "scalings": {name: scaling.to_dict() for name, scaling in scalings.items()},
        }


class _Found(NamedTuple):
    """A fitted model, and what is said of it."""

    model: Any
    params: Any
    notes: dict[str, Any]
    num_parameters: int
    validation: float
    chosen_on: str = "all of the data"

    @property
    def power(self) -> tuple[float, ...]:
        """λ of each target, the same in all series."""
        return Scaling.from_dict(next(iter(self.notes["scalings"].values()))).power


def _is_long(file: Path) -> bool:
    return (
        file.is_file()
        and file.suffix.lower() in (".csv", ".tsv", ".txt", ".parquet")
        and file.stat().st_size > STREAM_BYTES
    )


def _fit_panel(
    panel: dict[str, Columns], request: _Request, difference: int, epochs: int, folder: Path
) -> _Found:
    """Fit series that are in memory."""
    from ssmlin.forecasting.interface import Observed
    from ssmlin.forecasting.linear_attention import fit_attention
    from ssmlin.forecasting.regression import choose_num_lags, choose_powers

    given = [Observed(one.values, one.inputs) for one in panel.values()]
    power = choose_powers(given, request.transform, difference=difference)
    scalings = {name: Scaling.fit(one, power, difference) for name, one in panel.items()}
    several = [Observed(*scalings[name].apply(one)) for name, one in panel.items()]
    longest = max(several, key=lambda one: len(one.values))
    fitted = fit_attention(
        several,
        request.seed,
        mechanism=request.mechanism,
        num_lags=choose_num_lags(longest) if request.lags is None else request.lags,
        key_dim=request.key_dim,
        num_epochs=epochs,
        checkpoint_dir=folder,
        progress=request.progress,
    )
    model, params, _ = fitted.details
    validation = float("nan") if fitted.validation is None else fitted.validation
    notes = request.notes(scalings, next(iter(panel.values())).date_format)
    return _Found(model, params, notes, fitted.num_parameters, validation)


def _fit_stream(file: Path, request: _Request, window: int, epochs: int, folder: Path) -> _Found:
    """Fit a long series that is read piece by piece: the model of one in memory, by windows."""
    import jax
    import jax.numpy as jnp
    from dynamax.parameters import trainable_flags

    from ssmlin.forecasting.interface import Observed
    from ssmlin.forecasting.linear_attention import best_discount, recommended_settings
    from ssmlin.forecasting.regression import choose_num_lags
    from ssmlin.learning import fit_stream
    from ssmlin.models import IntegratedRowCov, LinearAttentionSSM

    power = _stream_power(file, request)
    stream = _stream(file, request, power, progress=request.progress)
    summary, m = stream.summary, len(request.targets)
    values, outside = next(iter(stream.pieces()))
    columns = Columns(values, outside, None, request.targets, request.inputs)
    first = _standardised(columns, summary.scaling)
    rows = slice(0, _ROWS_TO_CHOOSE)
    first = Observed(first.values[rows], first.inputs[rows])
    num_lags = choose_num_lags(first) if request.lags is None else request.lags
    settings = recommended_settings(
        request.mechanism, num_targets=m, num_inputs=len(request.inputs), num_lags=num_lags,
        partly_missing=summary.num_partly > 0, key_dim=request.key_dim,
    )  # fmt: skip
    model = LinearAttentionSSM(**settings)
    y, u = (jnp.asarray(x) for x in next(iter(stream.windows(len(first.values), num_lags))))
    start, props = model.initialize(jax.random.key(request.seed), emissions=y, inputs=u)
    count = -(-summary.num_rows // window)
    per_window, num_values = _fitted(stream, window, num_lags)

    def fit(model: LinearAttentionSSM, name: str) -> Any:
        return fit_stream(
            model,
            start,
            props,
            lambda: stream.windows(window, num_lags),
            count,
            num_values,
            num_epochs=epochs,
            checkpoint_dir=folder / name,
            progress=request.progress,
        )

    params, log_densities = fit(model, "constant")
    if isinstance(model.row_cov, IntegratedRowCov):
        # By one pass over all windows, so the choice is that for the series in memory.
        discount = best_discount(model, params, [stream.windows(window, num_lags)])
        if discount < 1:
            row_cov = replace(model.row_cov, discount=discount)
            model = LinearAttentionSSM(**settings | {"row_cov": row_cov})
            params, log_densities = fit(model, "changing")
    # What was predicted before it was fitted, at the end of the first pass.
    last = max(1, count // 5)
    steps = max(int(per_window[-last:].sum()), 1)
    flags: list[Any] = trainable_flags(props)
    sizes = [int(np.size(x)) for x in jax.tree.leaves(params)]
    number = sum(size for size, free in zip(sizes, flags, strict=True) if free)
    validation = float(log_densities[0, -last:].sum() / steps)
    notes = request.notes({"": summary.scaling}, stream.date_format)
    return _Found(model, params, notes, number, validation, _FIRST_ROWS)


def _fitted(stream: Any, window: int, num_lags: int) -> tuple[np.ndarray, int]:
    """How many steps of each window are fitted, and how many values; those with missing lags not.

    Raises:
        ValueError: fewer than half of the rows.
    """
    summary, m = stream.summary, len(stream.targets)
    if summary.num_values == summary.num_rows * m:
        ends = np.minimum(np.arange(window, summary.num_rows + window, window), summary.num_rows)
        steps = np.diff(ends, prepend=0)
        steps[0] -= min(num_lags, steps[0])
        return steps, int(steps.sum()) * m
    found = [~np.isnan(y) for y, _ in stream.windows(window, num_lags)]
    steps = np.array([seen.any(axis=1).sum() for seen in found])
    if 2 * steps.sum() < summary.num_rows:
        raise ValueError(
            f"--window: expected values and their {num_lags} lags in at least half of the "
            f"{summary.num_rows} rows, since a streamed fit leaves the others out; got "
            f"{int(steps.sum())}; --window 0 fits them all in memory, what is missing integrated "
            "out"
        )
    return steps, int(sum(seen.sum() for seen in found))


def _stream(file: Path, request: _Request, power: tuple[float, ...] = (), **options: Any) -> Any:
    """The pieces of a long table."""
    from ssmlin.data import TableStream

    return TableStream(file, request.targets, request.inputs, request.time, power=power,
                       date_format=request.reading.date_format, **request.reading.of_text(),
                       **options)  # fmt: skip


def _stream_power(file: Path, request: _Request) -> tuple[float, ...]:
    """λ of each target of a long table, chosen on its first rows."""
    from ssmlin.forecasting.interface import Observed
    from ssmlin.forecasting.regression import choose_powers

    stream = _stream(file, request)
    values, inputs = (x[:_ROWS_TO_CHOOSE] for x in next(iter(stream.pieces())))
    power = choose_powers([Observed(values, inputs)], request.transform)
    if request.transform != "auto" or all(p == 1 for p in power):
        return power
    # The first rows do not say whether all later values are positive: that takes a pass.
    lowest = np.fmin.reduce([np.fmin.reduce(values) for values, _ in stream.pieces()])
    return tuple(np.where(lowest > 0, power, 1.0).tolist())


def _standardised(columns: Columns, scaling: Scaling) -> Any:
    """Values that are transformed already."""
    from ssmlin.forecasting.interface import Observed

    values = (columns.values - np.array(scaling.mean)) / np.array(scaling.scale)
    return Observed(values, scaling.apply_inputs(columns.inputs))


class _Part(NamedTuple):
    """A series that a fitted model is asked about."""

    name: str
    columns: Columns
    scaling: Scaling
    observed: Any


class _Loaded(NamedTuple):
    """A model of `ssmlin fit`, its notes, and the series of a file."""

    model: Any
    params: Any
    props: Any
    notes: dict[str, Any]
    parts: Sequence[_Part]
    reading: Reading


def _load(model_file: Path, file: Path, reading: Reading, *, to_fit: bool) -> _Loaded:
    """A model, and what it asks for from a file."""
    from ssmlin.forecasting.interface import Observed
    from ssmlin.models import load, load_notes

    try:
        model, params, props = load(model_file)
        notes = load_notes(model_file)
        scalings = {k: Scaling.from_dict(v) for k, v in notes["scalings"].items()}
    except (ValueError, OSError) as error:
        fail(str(error))
    except KeyError:
        fail(f"MODEL: expected a file that `ssmlin fit` wrote, got {model_file}")
    reading = reading.after(notes.get("reading", {}))
    panel = read(file, notes["targets"], notes["inputs"], notes["time"], notes["series"], reading,
                 to_fit=to_fit)  # fmt: skip
    parts = []
    with in_lines():
        one = next(iter(scalings.values()))
        for name, columns in panel.items():
            scaling = scalings.get(name)
            if scaling is None:
                # A series that the fit did not know is standardised by what is there of it.
                _check_scalable(name, columns)
                scaling = Scaling.fit(columns, one.power, one.difference)
            parts.append(_Part(name, columns, scaling, Observed(*scaling.apply(columns))))
    return _Loaded(model, params, props, notes, parts, reading)


def _check_scalable(name: str, columns: Columns) -> None:
    """Raise ValueError about a series that gives no scale to go on with."""
    for target, column in zip(columns.targets, columns.values.T, strict=True):
        seen = column[~np.isnan(column)]
        if len(seen) == 0 or np.ptp(seen) == 0:
            got = f"{len(seen)} values" if len(seen) < 2 else f"{seen[0]} alone"
            raise ValueError(
                f"series {name!r}: the model was fitted without it, so its scale is taken from "
                f"these rows: expected varying values in column {target!r}, got {got}"
            )


def forecast(
    model_file: ModelArgument,
    file: FileArgument,
    horizon: Annotated[int, typer.Option(min=1, help="Steps ahead.")] = 12,
    future: Annotated[
        Path | None, typer.Option(help="A file with the inputs of the steps to come.")
    ] = None,
    output: Annotated[Path, typer.Option(help="The new CSV file of the forecast.")] = Path(
        "forecast.csv"
    ),
    paths: Annotated[
        Path | None, typer.Option(help="Write the sampled paths to this new CSV file, too.")
    ] = None,
    samples: Annotated[int, typer.Option(min=2, help="Sampled paths.")] = 1000,
    query: QueryOption = None,
    table_name: TableOption = None,
    encoding: EncodingOption = None,
    decimal: DecimalOption = None,
    thousands: ThousandsOption = None,
    date_format: DateFormatOption = None,
    seed: SeedOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Forecast the steps after the end of a file, with intervals, in its units.

    Example: ssmlin forecast sales.safetensors data.csv --horizon 24 --output forecast.csv
    """
    import pandas as pd

    new_file(output, "--output")
    new_file(paths, "--paths")
    two_files(output, "--output", paths, "--paths")
    reading = Reading(query, table_name, encoding, decimal, thousands, date_format)
    loaded = _load(model_file, file, reading, to_fit=False)
    series = loaded.notes["series"]
    frames, drawn = [], []
    with in_lines():
        plan = _read_future(future, loaded.notes, loaded.reading)
        for part in loaded.parts:
            inputs = _future_inputs(plan, part, loaded.notes, horizon)
            table, draws = _forecast_part(loaded, part, inputs, horizon, samples, seed)
            if series is not None:
                table.insert(0, series, part.name)
                draws.insert(0, series, part.name)
            frames.append(table)
            drawn.append(draws)
        found = pd.concat(frames)
        with ExitStack() as files:
            found.to_csv(files.enter_context(written_whole(output, new=True)), index=False)
            if paths is not None:
                whole = pd.concat(drawn)
                whole.to_csv(files.enter_context(written_whole(paths, new=True)), index=False)
    if as_json:
        typer.echo(json.dumps(json.loads(found.to_json(orient="records", date_format="iso"))))
        return
    for path in (output, paths):
        if path is not None:
            console.print(f"wrote {path}", highlight=False, soft_wrap=True)


def _read_future(future: Path | None, notes: dict[str, Any], reading: Reading) -> Any:
    """The table of the inputs to come, or None for a model without inputs."""
    if not notes["inputs"]:
        return None
    if future is None:
        wanted = ", ".join(notes["inputs"])
        raise ValueError(
            f"--future: expected a file with the inputs {wanted} of the steps to come, got none"
        )
    try:
        # A query and a table's name are of the file of the past.
        return replace(reading, query=None, table=None).table_of(future, notes["series"])
    except ValueError as error:
        raise ValueError(f"--future: {error}") from error


def _future_inputs(
    plan: Any, part: _Part, notes: dict[str, Any], horizon: int
) -> np.ndarray | None:
    """Standardised inputs of the steps to come of one series."""
    from ssmlin.data import future_inputs

    if plan is None:
        return None
    try:
        ahead = future_inputs(plan, part.columns.times, horizon, notes["inputs"], notes["time"],
                              notes["series"], part.name, part.columns.date_format)  # fmt: skip
    except ValueError as error:
        raise ValueError(f"--future: {error}") from error
    return part.scaling.apply_inputs(ahead).astype(np.float32)


def _forecast_part(
    loaded: _Loaded,
    part: _Part,
    inputs: np.ndarray | None,
    horizon: int,
    samples: int,
    seed: int,
) -> tuple[Any, Any]:
    """Tables of the forecast of one series and of its paths."""
    import jax
    import jax.numpy as jnp
    import pandas as pd

    from ssmlin.data import future_times
    from ssmlin.forecasting.linear_attention import with_lags

    scaling, columns, targets = part.scaling, part.columns, part.columns.targets
    steps, needed = len(columns.values), loaded.model.num_lags + scaling.difference
    if steps < needed:
        of = f"series {part.name!r}: " if part.name else ""
        raise ValueError(f"{of}rows: expected at least the {needed} that the model goes on from, "
                         f"got {steps}")  # fmt: skip
    emissions, known = with_lags(loaded.model, part.observed)
    if loaded.model.num_lags > 0:
        # As they are: the first rows are lags only, which the mask says, and a last one that is
        # missing in part is completed.
        emissions = jnp.asarray(part.observed.values, emissions.dtype)
    mask = np.arange(steps) >= loaded.model.num_lags
    found = loaded.model.forecast(
        loaded.params,
        emissions,
        known,
        horizon=horizon,
        future_inputs=inputs,
        key=jax.random.key(seed),
        num_samples=samples,
        mask=jnp.asarray(mask),
    )
    drawn = scaling.continue_paths(found.samples, columns)
    exact = not (scaling.is_transformed or scaling.difference)
    means = scaling.invert(found.means) if exact else drawn.mean(axis=0)
    time = loaded.notes["time"]
    times: Any = np.arange(steps, steps + horizon)
    if time is not None:
        times = future_times(columns.times, horizon)
    bounds = {}
    for level, low, high in zip(found.levels, found.lower, found.upper, strict=True):
        if scaling.difference:
            # Sums of changes have no quantiles but those of the paths.
            ends = np.quantile(drawn, [0.5 - float(level) / 2, 0.5 + float(level) / 2], axis=0)
        else:
            ends = np.stack([scaling.invert(low), scaling.invert(high)])
        share = f"{100 * float(level):.0f}"
        bounds[f"lower_{share}"], bounds[f"upper_{share}"] = ends
    # The user's columns keep their names; ours give way.
    keys = (loaded.notes["series"], time)
    label = free_name("step", keys) if time is None else time
    table = pd.concat(
        pd.DataFrame(
            {label: times, free_name("column", keys): name, free_name("mean", keys): means[:, i]}
            | {free_name(bound, keys): x[:, i] for bound, x in bounds.items()}
        )
        for i, name in enumerate(targets)
    )
    keys = (*keys, *targets)
    path, step = (index.ravel() for index in np.indices((samples, horizon)))
    draws = {
        free_name("path", keys): path,
        free_name("step", keys) if time is None else time: times[step],
    } | {name: drawn[:, :, i].ravel() for i, name in enumerate(targets)}
    return table, pd.DataFrame(draws)


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
    import arviz
    import jax

    from ssmlin.forecasting.linear_attention import padded, sample_over_gaps, with_lags

    new_file(output, "--output")
    try:
        for package in ("h5netcdf", "h5py"):
            import_module(package)
    except ImportError as error:
        fail(f"--output: expected the packages for NetCDF (pip install ssmlin[data]), got {error}")
    reading = Reading(query, table_name, encoding, decimal, thousands, date_format)
    loaded = _load(model_file, file, reading, to_fit=True)
    model, parts = loaded.model, loaded.parts
    gates = [name for name, gate in model.mechanism.gates.items()
             if gate.kind != "key" and gate.trainable]  # fmt: skip
    chosen = names(variables) or gates or ["process_noise"]
    folder = checkpoint or output.with_name(output.name + ".checkpoint")
    options: dict[str, Any] = {"algorithm": algorithm}
    if len(parts) == 1:
        data = with_lags(model, parts[0].observed)
        options["time"] = parts[0].columns.times
    else:
        data = padded(model, [part.observed for part in parts])
    with in_lines(), resumable(folder, keep=checkpoint is not None):
        found = sample_over_gaps(
            jax.random.key(seed), model, loaded.params, loaded.props, *data, variables=chosen,
            num_chains=chains, num_warmup=warmup, num_samples=draws,
            checkpoint_dir=folder, progress=not (quiet or as_json), **options,
        )  # fmt: skip
        with written_whole(output, new=True) as temporary:
            found.to_netcdf(temporary, engine="h5netcdf")
    shown = [str(name) for name, x in found.posterior.data_vars.items() if "time" not in x.dims]
    summary = arviz.summary(found, var_names=shown)
    if as_json:
        typer.echo(summary.to_json(orient="index"))
        return
    typer.echo(summary.to_string())
    console.print(f"wrote {output}", highlight=False, soft_wrap=True)
