"""`ssmlin fit`, `forecast` and `sample`."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import typer

from ssmlin.cli.options import (
    CheckpointOption,
    FileArgument,
    InputsOption,
    JsonOption,
    ModelArgument,
    QueryOption,
    QuietOption,
    SeedOption,
    SeriesOption,
    TargetOption,
    TimeOption,
    console,
    fail,
    in_lines,
    names,
    new_file,
    read,
    resumable,
)
from ssmlin.data import Columns, Scaling

#: Text and Parquet files above this many bytes are streamed.
STREAM_BYTES = 32 * 2**20
_WINDOW = 2000
_ROWS_TO_CHOOSE_LAGS = 20_000


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
    mechanism: Annotated[str, typer.Option(help="See `ssmlin mechanisms`.")] = "bayesian_memory",
    lags: Annotated[
        int | None,
        typer.Option(min=0, help="Lagged values as inputs; default by an information criterion."),
    ] = None,
    key_dim: Annotated[int, typer.Option(min=1, help="d, except of bayesian_memory.")] = 4,
    log: Annotated[bool, typer.Option("--log", help="Model logarithms of the targets.")] = False,
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
    request = _Request(tuple(target), tuple(names(inputs)), time, series, mechanism, lags,
                       None if mechanism == "bayesian_memory" else key_dim, log, seed,
                       not (quiet or as_json))  # fmt: skip
    folder = checkpoint or output.with_name(output.name + ".checkpoint")
    with in_lines(), resumable(folder, keep=checkpoint is not None):
        if window:
            if series is not None or difference > 0:
                raise ValueError("--window: expected neither --series nor --difference with it")
            found = _fit_stream(file, request, window, epochs or 2, folder)
        else:
            panel = read(file, target, names(inputs), time, series, query=query)
            found = _fit_panel(panel, request, difference, epochs or 500, folder)
        found.model.save(output, found.params, notes=found.notes)
    said = {
        "output": str(output),
        "mechanism": mechanism,
        "num_lags": found.model.num_lags,
        "num_parameters": found.num_parameters,
        "validation_log_density": found.validation,
    }
    if as_json:
        typer.echo(json.dumps(said))
        return
    console.print(
        f"{mechanism}, {found.model.num_lags} lags, {found.num_parameters} parameters; log density "
        f"a step at the end of the series, fitted before it: {found.validation:.3f}",
        highlight=False,
    )
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
    log: bool
    seed: int
    progress: bool

    def notes(self, scalings: dict[str, Scaling]) -> dict[str, Any]:
        """What the model's file keeps of the data."""
        return {
            "targets": self.targets,
            "inputs": self.inputs,
            "time": self.time,
            "series": self.series,
            "log": self.log,
            "scalings": {name: scaling.to_dict() for name, scaling in scalings.items()},
        }


class _Found(NamedTuple):
    """A fitted model, and what is said of it."""

    model: Any
    params: Any
    notes: dict[str, Any]
    num_parameters: int
    validation: float


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
    from ssmlin.evaluation.attention import fit_attention
    from ssmlin.evaluation.forecasters import Observed
    from ssmlin.evaluation.regressions import choose_num_lags

    scalings = {name: Scaling.fit(one, request.log, difference) for name, one in panel.items()}
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
    return _Found(model, params, request.notes(scalings), fitted.num_parameters, validation)


def _fit_stream(file: Path, request: _Request, window: int, epochs: int, folder: Path) -> _Found:
    """Fit a long series that is read piece by piece: the model of one in memory, by windows."""
    import jax
    import jax.numpy as jnp
    from dynamax.parameters import trainable_flags

    from ssmlin.data import TableStream
    from ssmlin.evaluation.attention import best_discount, recommended_settings
    from ssmlin.evaluation.forecasters import Observed
    from ssmlin.evaluation.regressions import choose_num_lags
    from ssmlin.learning import fit_stream
    from ssmlin.models import LinearAttentionSSM

    stream = TableStream(file, request.targets, request.inputs, request.time, log=request.log,
                         progress=request.progress)  # fmt: skip
    summary, m = stream.summary, len(request.targets)
    columns = Columns(*next(iter(stream.pieces())), None, request.targets, request.inputs)
    first = _standardised(columns, summary.scaling)
    rows = slice(0, _ROWS_TO_CHOOSE_LAGS)
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

    def fit(model: LinearAttentionSSM, name: str) -> Any:
        return fit_stream(
            model,
            start,
            props,
            lambda: stream.windows(window, num_lags),
            count,
            summary.num_values,
            num_epochs=epochs,
            checkpoint_dir=folder / name,
            progress=request.progress,
        )

    params, log_densities = fit(model, "constant")
    if model.integrate_row_cov:
        # By one pass over all windows, so the choice is that for the series in memory.
        discount = best_discount(model, params, [stream.windows(window, num_lags)])
        if discount < 1:
            model = LinearAttentionSSM(**settings | {"row_cov_discount": discount})
            params, log_densities = fit(model, "changing")
    # What was predicted before it was fitted, at the end of the first pass.
    last = max(1, count // 5)
    steps = summary.num_rows - (count - last) * window
    flags: list[Any] = trainable_flags(props)
    sizes = [int(np.size(x)) for x in jax.tree.leaves(params)]
    number = sum(size for size, free in zip(sizes, flags, strict=True) if free)
    validation = float(log_densities[0, -last:].sum() / steps)
    return _Found(model, params, request.notes({"": summary.scaling}), number, validation)


def _standardised(columns: Columns, scaling: Scaling) -> Any:
    """Values whose logarithm is taken already."""
    from ssmlin.evaluation.forecasters import Observed

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


def _load(model_file: Path, file: Path, query: str | None) -> _Loaded:
    """A model, and what it asks for from a file."""
    from ssmlin.evaluation.forecasters import Observed
    from ssmlin.models import load, load_notes

    try:
        model, params, props = load(model_file)
        notes = load_notes(model_file)
        scalings = {k: Scaling.from_dict(v) for k, v in notes["scalings"].items()}
    except (ValueError, OSError) as error:
        fail(str(error))
    except KeyError:
        fail(f"MODEL: expected a file that `ssmlin fit` wrote, got {model_file}")
    panel = read(file, notes["targets"], notes["inputs"], notes["time"], notes["series"],
                 query=query)  # fmt: skip
    parts = []
    with in_lines():
        difference = next(iter(scalings.values())).difference
        for name, columns in panel.items():
            # A series that the fit did not know is standardised by what is there of it.
            known = scalings.get(name)
            scaling = known or Scaling.fit(columns, notes["log"], difference)
            parts.append(_Part(name, columns, scaling, Observed(*scaling.apply(columns))))
    return _Loaded(model, params, props, notes, parts)


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
    seed: SeedOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Forecast the steps after the end of a file, with intervals, in its units.

    Example: ssmlin forecast sales.safetensors data.csv --horizon 24 --output forecast.csv
    """
    import pandas as pd

    new_file(output, "--output")
    new_file(paths, "--paths")
    loaded = _load(model_file, file, query)
    frames, drawn = [], []
    with in_lines():
        for part in loaded.parts:
            inputs = _future_inputs(future, part, loaded.notes, horizon)
            table, draws = _forecast_part(loaded, part, inputs, horizon, samples, seed)
            if loaded.notes["series"] is not None:
                table.insert(0, loaded.notes["series"], part.name)
                draws.insert(0, loaded.notes["series"], part.name)
            frames.append(table)
            drawn.append(draws)
    found = pd.concat(frames)
    found.to_csv(output, index=False)
    if paths is not None:
        pd.concat(drawn).to_csv(paths, index=False)
    if as_json:
        typer.echo(json.dumps(json.loads(found.to_json(orient="records", date_format="iso"))))
        return
    for path in (output, paths):
        if path is not None:
            console.print(f"wrote {path}", highlight=False, soft_wrap=True)


def _future_inputs(
    future: Path | None, part: _Part, notes: dict[str, Any], horizon: int
) -> np.ndarray | None:
    """Standardised inputs of the steps to come of one series."""
    import pandas as pd

    from ssmlin.data import read_table

    if not notes["inputs"]:
        return None
    wanted = ", ".join(notes["inputs"])
    if future is None:
        raise ValueError(
            f"--future: expected a file with the inputs {wanted} of the steps to come, got none"
        )
    try:
        table = read_table(future)
        if notes["series"] is not None:
            table = table[table[notes["series"]].astype(str) == part.name]
        known = [pd.to_numeric(table[name]).to_numpy(float) for name in notes["inputs"]]
    except (KeyError, ValueError) as error:
        raise ValueError(f"--future: expected numbers in columns {wanted}: {error}") from error
    ahead = np.column_stack(known)[:horizon]
    if len(ahead) < horizon or not np.isfinite(ahead).all():
        raise ValueError(
            f"--future: expected {horizon} rows of finite numbers, got {len(ahead)} rows, "
            f"{int((~np.isfinite(ahead)).any(axis=1).sum())} of them not finite"
        )
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
    import pandas as pd

    from ssmlin.data import future_times
    from ssmlin.evaluation.attention import with_lags

    scaling, columns, targets = part.scaling, part.columns, part.columns.targets
    found = loaded.model.forecast(
        loaded.params,
        *with_lags(loaded.model, part.observed),
        horizon=horizon,
        future_inputs=inputs,
        key=jax.random.key(seed),
        num_samples=samples,
    )
    drawn = scaling.continue_paths(found.samples, columns)
    exact = not (scaling.log or scaling.difference)
    means = scaling.invert(found.means) if exact else drawn.mean(axis=0)
    times = future_times(columns.times, horizon)
    label = loaded.notes["time"] or "step"
    bounds = {}
    for level, low, high in zip(found.levels, found.lower, found.upper, strict=True):
        if scaling.difference:
            # Sums of changes have no quantiles but those of the paths.
            ends = np.quantile(drawn, [0.5 - float(level) / 2, 0.5 + float(level) / 2], axis=0)
        else:
            ends = np.stack([scaling.invert(low), scaling.invert(high)])
        share = f"{100 * float(level):.0f}"
        bounds[f"lower_{share}"], bounds[f"upper_{share}"] = ends
    table = pd.concat(
        pd.DataFrame(
            {label: times, "column": name, "mean": means[:, i]}
            | {bound: x[:, i] for bound, x in bounds.items()}
        )
        for i, name in enumerate(targets)
    )
    index = pd.MultiIndex.from_product([range(samples), times], names=["path", label])
    flat = drawn.reshape(-1, len(targets))
    return table, pd.DataFrame(flat, index, list(targets)).reset_index()


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
    seed: SeedOption = 0,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Draw from the posterior of a fitted model's parameters, α and β unless others are named.

    Example: ssmlin sample sales.safetensors data.csv --variables alpha,process_noise
    """
    import arviz
    import jax

    from ssmlin.evaluation.attention import padded, with_lags
    from ssmlin.learning import sample_posterior

    new_file(output, "--output")
    loaded = _load(model_file, file, query)
    model, parts = loaded.model, loaded.parts
    gates = [name for name in model.mechanism.gates if name != "removal_key"]
    chosen = names(variables) or gates or ["process_noise"]
    folder = checkpoint or output.with_name(output.name + ".checkpoint")
    options: dict[str, Any] = {"algorithm": algorithm}
    if len(parts) == 1:
        data = with_lags(model, parts[0].observed)
        options["time"] = np.asarray(parts[0].columns.times)
    else:
        data = padded(model, [part.observed for part in parts])
    with in_lines(), resumable(folder, keep=checkpoint is not None):
        found = sample_posterior(
            jax.random.key(seed), model, loaded.params, loaded.props, *data, variables=chosen,
            num_chains=chains, num_warmup=warmup, num_samples=draws,
            checkpoint_dir=folder, progress=not (quiet or as_json), **options,
        )  # fmt: skip
        try:
            found.to_netcdf(output, engine="h5netcdf")
        except (ImportError, ValueError) as error:
            fail(f"--output: expected the packages for NetCDF (pip install ssmlin[data]), got "
                 f"{error}")  # fmt: skip
    shown = [str(name) for name, x in found.posterior.data_vars.items() if "time" not in x.dims]
    summary = arviz.summary(found, var_names=shown)
    if as_json:
        typer.echo(summary.to_json(orient="index"))
        return
    typer.echo(summary.to_string())
    console.print(f"wrote {output}", highlight=False, soft_wrap=True)
