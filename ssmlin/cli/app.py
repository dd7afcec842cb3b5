"""The commands of `ssmlin`."""

import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, NoReturn

import numpy as np
import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from ssmlin.data import Columns

app = typer.Typer(
    help="Linear attention as probabilistic state space models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
)
console = Console()


@app.callback()
def _root() -> None:
    """Linear attention as probabilistic state space models."""


@app.command()
def demo(
    output: Annotated[Path, typer.Option(help="Folder for the table and the figure.")] = Path(
        "ssmlin-demo"
    ),
    seed: Annotated[int, typer.Option(help="Seed of all random starts.")] = 0,
    workers: Annotated[int, typer.Option(min=1, help="Models fitted at the same time.")] = 2,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")] = False,
) -> None:
    """Compare linear attentions with an AR, an HMM, an ARHMM and an LDS on two real series.

    Yearly sunspots (one variable) and US macroeconomic series (five), the last 30 % held out.

    Example: ssmlin demo --output my-demo
    """
    from ssmlin.evaluation.demo import run_demo

    lines: list[str] = []
    results = run_demo(output, seed=seed, workers=workers, progress=not quiet, report=lines.append)
    for series, comparison in results.items():
        table = Table(title=f"{series}: held out, one step ahead", title_justify="left")
        table.add_column("model", no_wrap=True)
        table.add_column("setting")
        for heading in ("log density", "RMSE", "parameters", "seconds"):
            table.add_column(heading, justify="right")
        for r in comparison.results:
            setting = ", ".join(f"{k}={v}" for k, v in r.setting.items())
            if r.failure is not None:
                table.add_row(r.name, setting, "failed", "", "", f"{r.seconds:.1f}")
                lines.append(f"{series}, {r.name} failed: {r.failure}")
                continue
            table.add_row(
                r.name,
                setting,
                f"{r.log_density:.3f}",
                f"{r.rmse:.3f}",
                str(r.num_parameters),
                f"{r.seconds:.1f}",
            )
        console.print(table)
    console.print(
        "log density: mean log p(y_t | y_1 ... y_t-1) a step, standardised units; higher is better"
    )
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True)


FileArgument = Annotated[
    Path,
    typer.Argument(
        help="CSV, TSV, Parquet, Excel, JSON lines, NumPy, SQLite or DuckDB; a row for each step."
    ),
]
ModelArgument = Annotated[Path, typer.Argument(help="A file that `ssmlin fit` wrote.")]
TargetOption = Annotated[
    list[str], typer.Option("--target", "-y", help="A column to predict; may be repeated.")
]
InputsOption = Annotated[
    str, typer.Option(help="Columns known before each step, separated by commas.")
]
TimeOption = Annotated[
    str | None, typer.Option(help="Column of numbers or dates; default the rows in order.")
]
QueryOption = Annotated[str | None, typer.Option(help="The query, for a database.")]
SeedOption = Annotated[int, typer.Option(help="Seed of all random starts and draws.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")]


@app.command()
def compare(
    file: FileArgument,
    target: TargetOption,
    inputs: InputsOption = "",
    time: TimeOption = None,
    query: QueryOption = None,
    models: Annotated[
        str, typer.Option(help="Names separated by commas, or all; default twelve models.")
    ] = "",
    test_fraction: Annotated[float, typer.Option(help="The share of steps to hold out.")] = 0.3,
    horizon: Annotated[
        int, typer.Option(min=1, help="Score sampled paths of so many steps, too.")
    ] = 1,
    refits: Annotated[
        int, typer.Option(min=0, help="Fit anew so many times in the held-out part.")
    ] = 0,
    period: Annotated[
        int | None, typer.Option(min=2, help="Steps a season, for seasonal baselines.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Write the whole table to this new CSV file.")
    ] = None,
    seed: SeedOption = 0,
    workers: Annotated[int, typer.Option(min=1, help="Models fitted at the same time.")] = 2,
    quiet: QuietOption = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the whole table as JSON, nothing else.")
    ] = False,
) -> None:
    """Find the model that predicts the last part of your series best, fitted to the first part.

    Example: ssmlin compare data.csv --target y --inputs price,holiday --horizon 12 --period 12
    """
    from ssmlin.evaluation import Series, compare_models

    if output is not None:
        _new(output, "--output")
    columns = _read(file, target, _names(inputs), time, query=query)
    series = Series(
        file.name, columns.values, columns.times, columns.targets, str(file), columns.inputs, period
    )
    names = _names(models) or None
    try:
        comparison = compare_models(
            series,
            names,
            test_fraction,
            horizon=horizon,
            num_refits=refits,
            seed=seed,
            workers=workers,
            progress=not (quiet or as_json),
        )
    except ValueError as error:
        _fail(str(error))
    frame = comparison.to_frame()
    if output is not None:
        frame.to_csv(output, index=False)
    if as_json:
        typer.echo(frame.to_json(orient="records"))
        return
    shown = {"crps": "CRPS", "rmse": "RMSE", "coverage_80": "80 %", "coverage_95": "95 %"}
    shown |= {"path_crps": "paths"} if horizon > 1 else {}
    table = Table(
        title=f"{file.name}: held out, one step ahead", title_justify="left", box=SIMPLE_HEAD
    )
    table.add_column("model", no_wrap=True)
    for heading in ("log p", "to the best", *shown.values()):
        table.add_column(heading, justify="right")
    for row in frame.to_dict("records"):
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
        + "units: the training part's standard deviation of each column",
        highlight=False,
    )
    for row in frame.to_dict("records"):
        if row["failure"]:
            console.print(f"{row['model']} failed: {row['failure']}", highlight=False)
    if output is not None:
        console.print(f"wrote {output}", highlight=False, soft_wrap=True)


def _fail(message: str) -> NoReturn:
    """End with a message and the exit code of bad usage."""
    typer.echo(f"Error: {message}", err=True)
    raise typer.Exit(2)


def _names(text: str) -> list[str]:
    """A list with commas."""
    return [name.strip() for name in text.split(",") if name.strip()]


def _read(
    file: Path, targets: Sequence[str], inputs: Sequence[str], time: str | None, **options: Any
) -> Columns:
    """Columns of a file; warnings are told in a line each, and errors end the command."""
    from ssmlin.data import read_table, select_columns

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", RuntimeWarning)
        try:
            columns = select_columns(read_table(file, **options), targets, inputs, time)
        except ValueError as error:
            _fail(str(error))
    for warning in caught:
        if issubclass(warning.category, RuntimeWarning):
            typer.echo(f"Warning: {warning.message}", err=True)
    return columns


def _new(path: Path, option: str) -> None:
    """End the command if a file is there, which is never overwritten, or its folder is not."""
    if path.exists():
        _fail(f"{option}: expected a file that does not exist, got {path}")
    if not path.parent.is_dir():
        _fail(f"{option}: expected a folder that exists, got {path.parent}")


@app.command()
def fit(
    file: FileArgument,
    target: TargetOption,
    output: Annotated[Path, typer.Option(help="The new file of the model.")] = Path(
        "model.safetensors"
    ),
    inputs: InputsOption = "",
    time: TimeOption = None,
    query: QueryOption = None,
    mechanism: Annotated[str, typer.Option(help="See `ssmlin mechanisms`.")] = "bayesian_memory",
    lags: Annotated[
        int | None,
        typer.Option(min=0, help="Lagged values as inputs; default by an information criterion."),
    ] = None,
    key_dim: Annotated[int, typer.Option(min=1, help="d, except of bayesian_memory.")] = 4,
    log: Annotated[bool, typer.Option("--log", help="Model logarithms of the targets.")] = False,
    epochs: Annotated[int, typer.Option(min=1, help="Gradient steps, at most.")] = 500,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Folder to keep the state in; the same call goes on.")
    ] = None,
    seed: SeedOption = 0,
    quiet: QuietOption = False,
) -> None:
    """Fit a linear attention to a series, by the recommended recipe, and save it.

    Columns and units are kept in the model's file, so `ssmlin forecast` answers in them.

    Example: ssmlin fit data.csv --target sales --time month --output sales.safetensors
    """
    from ssmlin.data import Scaling
    from ssmlin.evaluation.attention import fit_attention
    from ssmlin.evaluation.forecasters import Observed
    from ssmlin.evaluation.regressions import choose_num_lags
    from ssmlin.mechanisms import MECHANISMS

    _new(output, "--output")
    if mechanism not in MECHANISMS:
        _fail(f"--mechanism: expected one of {', '.join(MECHANISMS)}; got {mechanism!r}")
    columns = _read(file, target, _names(inputs), time, query=query)
    try:
        scaling = Scaling.fit(columns, log)
        observed = Observed(*scaling.apply(columns))
        num_lags = choose_num_lags(observed) if lags is None else lags
        fitted = fit_attention(
            observed,
            seed,
            mechanism=mechanism,
            num_lags=num_lags,
            key_dim=None if mechanism == "bayesian_memory" else key_dim,
            num_epochs=epochs,
            checkpoint_dir=checkpoint,
            progress=not quiet,
        )
        notes = {
            "targets": columns.targets,
            "inputs": columns.input_names,
            "time": time,
            "scaling": scaling.to_dict(),
        }
        model, params = fitted.details
        model.save(output, params, notes=notes)
    except (ValueError, OSError) as error:
        _fail(str(error))
    console.print(
        f"{mechanism}, {num_lags} lags, {fitted.num_parameters} parameters; log density a step at "
        f"the end of the series, fitted before it: {fitted.validation:.3f}",
        highlight=False,
    )
    console.print(f"wrote {output}", highlight=False, soft_wrap=True)


def _load(model_file: Path, file: Path, query: str | None) -> Any:
    """A model of `ssmlin fit`, its notes, and the data it asks for: emissions and inputs."""
    from ssmlin.data import Scaling
    from ssmlin.evaluation.attention import with_lags
    from ssmlin.evaluation.forecasters import Observed
    from ssmlin.models import load, load_notes

    try:
        model, params, props = load(model_file)
        notes = load_notes(model_file)
        scaling = Scaling.from_dict(notes["scaling"])
    except (ValueError, OSError) as error:
        _fail(str(error))
    except KeyError:
        _fail(f"MODEL: expected a file that `ssmlin fit` wrote, got {model_file}")
    columns = _read(file, notes["targets"], notes["inputs"], notes["time"], query=query)
    try:
        data = with_lags(model, Observed(*scaling.apply(columns)))
    except ValueError as error:
        _fail(str(error))
    return model, params, props, notes, scaling, columns, data


@app.command()
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
) -> None:
    """Forecast the steps after the end of a file, with intervals, in its units.

    Example: ssmlin forecast sales.safetensors data.csv --horizon 24 --output forecast.csv
    """
    import jax
    import pandas as pd

    from ssmlin.data import future_times, read_table

    for path, option in ((output, "--output"), (paths, "--paths")):
        if path is not None:
            _new(path, option)
    model, params, _, notes, scaling, columns, data = _load(model_file, file, query)
    ahead = None
    if notes["inputs"]:
        if future is None:
            _fail(f"--future: expected a file with the inputs {', '.join(notes['inputs'])} of the "
                  "steps to come, got none")  # fmt: skip
        try:
            table = read_table(future)
            known = [pd.to_numeric(table[name]).to_numpy(float) for name in notes["inputs"]]
        except (KeyError, ValueError) as error:
            _fail(f"--future: expected numbers in columns {', '.join(notes['inputs'])}: {error}")
        ahead = np.column_stack(known)[:horizon]
        if len(ahead) < horizon or not np.isfinite(ahead).all():
            _fail(f"--future: expected {horizon} rows of finite numbers, got {len(ahead)} rows, "
                  f"{int((~np.isfinite(ahead)).any(axis=1).sum())} of them not finite")  # fmt: skip
        ahead = scaling.apply_inputs(ahead).astype(np.float32)
    found = model.forecast(
        params,
        *data,
        horizon=horizon,
        future_inputs=ahead,
        key=jax.random.key(seed),
        num_samples=samples,
    )
    drawn = scaling.invert(found.samples)
    means = drawn.mean(axis=0) if scaling.log else scaling.invert(found.means)
    times = future_times(columns.times, horizon)
    label = notes["time"] or "step"
    bounds = {}
    for level, low, high in zip(found.levels, found.lower, found.upper, strict=True):
        bounds[f"lower_{100 * float(level):.0f}"] = scaling.invert(low)
        bounds[f"upper_{100 * float(level):.0f}"] = scaling.invert(high)
    frames = [
        pd.DataFrame(
            {label: times, "column": name, "mean": means[:, i]}
            | {bound: x[:, i] for bound, x in bounds.items()}
        )  # fmt: skip
        for i, name in enumerate(columns.targets)
    ]
    pd.concat(frames).to_csv(output, index=False)
    console.print(f"wrote {output}", highlight=False, soft_wrap=True)
    if paths is not None:
        index = pd.MultiIndex.from_product([range(samples), times], names=["path", label])
        flat = drawn.reshape(-1, len(columns.targets))
        pd.DataFrame(flat, index, list(columns.targets)).to_csv(paths)
        console.print(f"wrote {paths}", highlight=False, soft_wrap=True)


@app.command()
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
    checkpoint: Annotated[
        Path | None, typer.Option(help="Folder to keep the state in; the same call goes on.")
    ] = None,
    query: QueryOption = None,
    seed: SeedOption = 0,
    quiet: QuietOption = False,
) -> None:
    """Draw from the posterior of a fitted model's parameters, α and β unless others are named.

    Example: ssmlin sample sales.safetensors data.csv --variables alpha,process_noise
    """
    import arviz
    import jax

    from ssmlin.learning import sample_posterior

    _new(output, "--output")
    model, params, props, _, _, columns, data = _load(model_file, file, query)
    gates = [name for name in model.mechanism.gates if name != "removal_key"]
    chosen = _names(variables) or gates or ["process_noise"]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", RuntimeWarning)
        try:
            options: dict[str, Any] = {"algorithm": algorithm, "time": np.asarray(columns.times)}
            found = sample_posterior(
                jax.random.key(seed), model, params, props, *data, variables=chosen,
                num_chains=chains, num_warmup=warmup, num_samples=draws,
                checkpoint_dir=checkpoint, progress=not quiet, **options,
            )  # fmt: skip
        except ValueError as error:
            _fail(str(error))
    for warning in caught:
        if issubclass(warning.category, RuntimeWarning):
            typer.echo(f"Warning: {warning.message}", err=True)
    try:
        found.to_netcdf(output, engine="h5netcdf")
    except (ImportError, ValueError) as error:
        _fail(f"--output: expected the packages for NetCDF (pip install ssmlin[data]), got {error}")
    names = [name for name, x in found.posterior.data_vars.items() if "time" not in x.dims]
    typer.echo(arviz.summary(found, var_names=names).to_string())
    console.print(f"wrote {output}", highlight=False, soft_wrap=True)


@app.command()
def mechanisms() -> None:
    """List the mechanisms: transition, drift, gates and their ranges.

    Example: ssmlin mechanisms
    """
    from ssmlin.mechanisms import MECHANISMS

    table = Table(title="S_t = S_{t-1} A_t + B_t", title_justify="left")
    for heading in ("name", "A_t", "B_t", "gates", "source"):
        table.add_column(heading)
    for name, cls in MECHANISMS.items():
        plain = cls()
        signed = cls(negative_eigenvalues=True) if cls.signed_gate else plain
        gates = []
        for gate in cls.gates:
            low, high = plain.gate_range(gate)
            text = gate if gate == "removal_key" else f"{gate} in [{low:g}, {high:g}]"
            if gate == cls.signed_gate:
                text += " (or [{:g}, {:g}])".format(*signed.gate_range(gate))
            gates.append(text)
        table.add_row(name, cls.transition_formula, cls.drift_formula, "\n".join(gates), cls.source)
    console.print(table)


@app.command()
def bench(
    names: Annotated[
        list[str] | None, typer.Argument(help="Which benchmarks; all of them if none is named.")
    ] = None,
    quick: Annotated[
        bool,
        typer.Option("--quick", help="Tiny sizes, to see that all works; figures mean nothing."),
    ] = False,
    show: Annotated[bool, typer.Option("--list", help="List the benchmarks and end.")] = False,
) -> None:
    """Time ssmlin against dynamax, cuthbert and statsmodels on this machine, as Markdown tables.

    cuthbert comes with `pip install ssmlin[bench]`; without it its columns are empty.

    Example: ssmlin bench filtering batches
    """
    benchmarks = _benchmarks()
    if show:
        for name, description in benchmarks.BENCHMARKS.items():
            console.print(f"{name}: {description}", highlight=False, soft_wrap=True)
        return
    for name in names or ():
        if name not in benchmarks.BENCHMARKS:
            known = ", ".join(benchmarks.BENCHMARKS)
            raise typer.BadParameter(f"expected one of {known}; got {name!r}", param_hint="names")
    benchmarks.run(names or list(benchmarks.BENCHMARKS), quick)


def _benchmarks() -> Any:
    """The benchmarks, from the installed package or from beside it in a source checkout."""
    package = Path(__file__).parents[1]
    if (package / "benchmarks").is_dir():
        return import_module("ssmlin.benchmarks")
    if not (package.parent / "benchmarks" / "harness.py").is_file():
        raise typer.BadParameter("the benchmarks are not installed; run this in a source checkout")
    sys.path.insert(0, str(package.parent))
    try:
        return import_module("benchmarks")
    finally:
        sys.path.remove(str(package.parent))


def main() -> None:
    """Entry point of the command `ssmlin`."""
    app()
