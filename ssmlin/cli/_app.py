"""The commands of `ssmlin`."""

import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

import ssmlin
from ssmlin.cli._comparing import compare
from ssmlin.cli._exporting import export
from ssmlin.cli._fitting import fit, forecast, sample
from ssmlin.cli._options import JsonOption, QuietOption, console, fail, prepare
from ssmlin.cli._scores import print_failures, print_scores, print_warnings
from ssmlin.cli._streaming import stream
from ssmlin.cli._verdicts import print_verdict

app = typer.Typer(
    help="Linear attention as probabilistic state space models.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
)


def _print_version(wanted: bool) -> bool:
    """Print the version and end, for the option that asks for it."""
    if wanted:
        typer.echo(f"ssmlin {ssmlin.__version__}")
        raise typer.Exit
    return wanted


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    """Linear attention as probabilistic state space models."""


for command in (compare, fit, forecast, sample, stream, export):
    app.command()(command)


@app.command()
def demo(
    output: Annotated[Path, typer.Option(help="Folder for the table and the figure.")] = Path(
        "ssmlin-demo"
    ),
    seed: Annotated[int, typer.Option(help="Seed of all random starts.")] = 0,
    workers: Annotated[int, typer.Option(min=1, help="Models fitted at the same time.")] = 2,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Compare linear attentions with an AR, an HMM, an ARHMM and an LDS on two real series.

    Yearly sunspots (one variable) and US macroeconomic series (five), the last 30 % held out.

    Example: ssmlin demo --output my-demo
    """
    progress = not (quiet or as_json)
    prepare(progress)
    from ssmlin.comparison import verdict
    from ssmlin.demonstration import run_demo

    lines: list[str] = []
    results = run_demo(output, seed=seed, workers=workers, progress=progress, report=lines.append)
    if as_json:
        rows = {name: json.loads(comparison.to_frame().to_json(orient="records"))
                for name, comparison in results.items()}  # fmt: skip
        typer.echo(json.dumps(rows))
        return
    for name, comparison in results.items():
        said, one = verdict(comparison, seed), {name: comparison}
        print_verdict((said.which, said.trusted))
        print_scores(comparison.to_frame(), f"{name}: held out, one step ahead", False, one)
        print_failures(comparison.to_frame())
        print_warnings(one)
        console.print()
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True)


@app.command()
def mechanisms(
    quick: Annotated[
        bool, typer.Option("--quick", help="Measure them, what takes long on short sequences.")
    ] = False,
    full: Annotated[
        bool, typer.Option("--full", help="Measure them; the Markdown of docs/mechanisms.md.")
    ] = False,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """List the mechanisms: transition, drift, gates and their ranges; or measure what they can do.

    Example: ssmlin mechanisms

    Example: ssmlin mechanisms --full > mechanisms.md
    """
    if quick or full:
        progress = not (quiet or as_json)
        prepare(progress)
        from ssmlin.study import measure, to_markdown

        tables = measure(quick=not full, progress=progress)
        if as_json:
            found = {table.title: [dict(zip(table.headings, row, strict=True))
                                   for row in table.rows] for table in tables}  # fmt: skip
            typer.echo(json.dumps(found))
        else:
            option = "--full" if full else "--quick"
            typer.echo(to_markdown(tables, f"ssmlin mechanisms {option}"), nl=False)
        return
    from ssmlin.mechanisms import MECHANISMS

    rows = []
    for name, cls in MECHANISMS.items():
        gates = []
        for gate, declared in cls.gates.items():
            interval = " in [{:g}, {:g}]".format(*declared.range())
            text = gate if declared.kind == "key" else gate + interval
            if declared.signed is not None:
                text += " (or [{:g}, {:g}])".format(*declared.signed)
            gates.append(text)
        rows.append((name, cls.transition_formula, cls.drift_formula, gates, cls.source))
    if as_json:
        keys = ("name", "transition", "drift", "gates", "source")
        typer.echo(json.dumps([dict(zip(keys, row, strict=True)) for row in rows]))
        return
    console.print("S_t = S_{t-1} A_t + B_t\n", highlight=False)
    table = Table.grid(padding=(0, 2), pad_edge=True)
    table.add_column(no_wrap=True)
    for name, transition, drift, gates, source in rows:
        said = [f"A_t = {transition}", f"B_t = {drift}", ", ".join(gates), source]
        table.add_row(name, "\n".join(line for line in said if line))
    console.print(table)


@app.command()
def cache(
    path: Annotated[bool, typer.Option("--path", help="Print the folder, nothing else.")] = False,
    clear: Annotated[bool, typer.Option("--clear", help="Remove the programs.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Tell where compiled programs are kept and how large they are, or remove them.

    JAX_COMPILATION_CACHE_DIR names another folder.

    Example: ssmlin cache --clear
    """
    from ssmlin import _compilation_cache

    found = _compilation_cache.contents()
    if clear:
        if not found.is_ours:
            fail(
                "--clear: expected the user's cache folder, got JAX_COMPILATION_CACHE_DIR, which "
                f"others may use: {found.path}"
            )
        _compilation_cache.clear()
    if path:
        typer.echo(str(found.path))
        return
    megabytes = round(found.bytes / 1e6, 1)
    if as_json:
        said = {"path": str(found.path), "programs": found.entries, "megabytes": megabytes}
        typer.echo(json.dumps(said))
        return
    removed = "removed " if clear else ""
    typer.echo(f"{found.path}: {removed}{found.entries} programs, {megabytes} MB")


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
    as_json: JsonOption = False,
) -> None:
    r"""Time ssmlin against dynamax, cuthbert and statsmodels on this machine, as Markdown tables.

    cuthbert comes with `pip install ssmlin\[bench]`; without it its columns are empty.

    Example: ssmlin bench filtering batches
    """
    benchmarks = _benchmarks()
    if show and as_json:
        typer.echo(json.dumps(benchmarks.BENCHMARKS))
        return
    if show:
        table = Table.grid(padding=(0, 1))
        for name, description in benchmarks.BENCHMARKS.items():
            table.add_row(f"{name}:", description)
        console.print(table, highlight=False)
        return
    for name in names or ():
        if name not in benchmarks.BENCHMARKS:
            known = ", ".join(benchmarks.BENCHMARKS)
            raise typer.BadParameter(f"expected one of {known}; got {name!r}", param_hint="names")
    chosen = names or list(benchmarks.BENCHMARKS)
    if as_json:
        typer.echo(json.dumps(benchmarks.record(chosen, quick)))
    else:
        benchmarks.run(chosen, quick)


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
