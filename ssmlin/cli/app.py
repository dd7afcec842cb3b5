"""The commands of `ssmlin`."""

import sys
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, NoReturn

import numpy as np
import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

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


@app.command()
def compare(
    file: Annotated[Path, typer.Argument(help="A CSV or TSV file with a row for each step.")],
    target: Annotated[
        list[str], typer.Option("--target", "-y", help="A column to predict; may be repeated.")
    ],
    inputs: Annotated[
        str, typer.Option(help="Columns known before each step, separated by commas.")
    ] = "",
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
    seed: Annotated[int, typer.Option(help="Seed of all random starts.")] = 0,
    workers: Annotated[int, typer.Option(min=1, help="Models fitted at the same time.")] = 2,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the whole table as JSON, nothing else.")
    ] = False,
) -> None:
    """Find the model that predicts the last part of your series best, fitted to the first part.

    Example: ssmlin compare data.csv --target y --inputs price,holiday --horizon 12 --period 12
    """
    from ssmlin.evaluation import Series, compare_models

    if output is not None and output.exists():
        _fail(f"--output: expected a file that does not exist, got {output}")
    columns = [name.strip() for name in inputs.split(",") if name.strip()]
    values, outside = _read_columns(file, target, columns)
    series = Series(
        file.name, values, np.arange(len(values)), tuple(target), str(file), outside, period
    )
    names = [name.strip() for name in models.split(",") if name.strip()] or None
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


def _read_columns(
    file: Path, targets: list[str], inputs: list[str]
) -> tuple[np.ndarray, np.ndarray | None]:
    """Columns of a CSV or TSV file as numbers; missing values only among the targets."""
    import pandas as pd

    try:
        frame = pd.read_csv(file, sep="\t" if file.suffix == ".tsv" else ",")
    except (OSError, UnicodeDecodeError, ValueError) as error:
        _fail(f"{file}: expected a CSV or TSV file with a header, got: {error}")

    def numbers(name: str) -> np.ndarray:
        if name not in frame.columns:
            _fail(f"{file}: expected columns among {', '.join(map(str, frame.columns))}; "
                  f"got {name!r}")  # fmt: skip
        column = frame[name]
        parsed = pd.to_numeric(column, errors="coerce").astype("float64")
        bad = (parsed.isna() & column.notna()) | np.isinf(parsed)
        if bad.any():
            row = int(np.flatnonzero(bad)[0])
            _fail(f"{file}: expected finite numbers in column {name!r}, got "
                  f"{column.iloc[[row]].tolist()[0]!r} in data row {row + 1}")  # fmt: skip
        if name in inputs and parsed.isna().any():
            row = int(np.flatnonzero(parsed.isna())[0])
            _fail(f"{file}: expected no missing values in the input {name!r}, got one in data "
                  f"row {row + 1}")  # fmt: skip
        return parsed.to_numpy()

    if len(frame) < 2:
        _fail(f"{file}: expected at least two rows, got {len(frame)}")
    values = np.column_stack([numbers(name) for name in targets])
    return values, np.column_stack([numbers(name) for name in inputs]) if inputs else None


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
