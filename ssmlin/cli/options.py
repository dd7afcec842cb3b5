"""What the commands share: options, reading files, and how they end."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console

from ssmlin.data import Columns

console = Console()

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
SeriesOption = Annotated[
    str | None, typer.Option(help="Column that says which of several series a row is of.")
]
QueryOption = Annotated[str | None, typer.Option(help="The query, for a database.")]
TransformOption = Annotated[
    str,
    typer.Option(
        help="What models see of the targets: none, log, box-cox, a Box-Cox power >= 0, or auto: "
        "values, square roots or logarithms, by the likelihood of the training data."
    ),
]
LogOption = Annotated[bool, typer.Option("--log", help="Short for --transform log.")]
SeedOption = Annotated[int, typer.Option(help="Seed of all random starts and draws.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print the results as JSON, nothing else.")
]
CheckpointOption = Annotated[
    Path | None,
    typer.Option(
        help="Folder to keep the state in while it runs; default beside the output. The same call "
        "goes on from there."
    ),
]

STOPPED = 130  # what shells say of a program that Ctrl-C ended


def fail(message: str) -> NoReturn:
    """End with a message and the exit code of bad usage."""
    typer.echo(f"Error: {message}", err=True)
    raise typer.Exit(2)


def names(text: str) -> list[str]:
    """A list with commas."""
    return [name.strip() for name in text.split(",") if name.strip()]


def transform_of(transform: str, log: bool) -> str:
    """What --transform and its short form ask for together."""
    if log and transform not in ("auto", "log"):
        fail(f"--log: expected no other --transform beside it, got {transform}")
    return "log" if log else transform


def new_file(path: Path | None, option: str) -> None:
    """End the command if a file is there, which is never overwritten, or its folder is not."""
    if path is None:
        return
    if path.exists():
        fail(f"{option}: expected a file that does not exist, got {path}")
    if not path.parent.is_dir():
        fail(f"{option}: expected a folder that exists, got {path.parent}")


@contextmanager
def in_lines() -> Iterator[None]:
    """Tell warnings in a line each, and end the command with the message of a ValueError."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", RuntimeWarning)
        try:
            yield
        except (ValueError, OSError) as error:
            fail(str(error))
        finally:
            for warning in caught:
                if issubclass(warning.category, RuntimeWarning):
                    typer.echo(f"Warning: {warning.message}", err=True)


def read(
    file: Path,
    targets: Sequence[str],
    inputs: Sequence[str],
    time: str | None,
    series: str | None = None,
    **options: Any,
) -> dict[str, Columns]:
    """Columns of a file for each series in it; under the name "" where there is one."""
    from ssmlin.data import read_table, select_columns, select_panel

    with in_lines():
        table = read_table(file, **options)
        if series is None:
            return {"": select_columns(table, targets, inputs, time)}
        return select_panel(table, series, targets, inputs, time)


@contextmanager
def resumable(folder: Path, keep: bool) -> Iterator[None]:
    """Long work with a checkpoint, which is removed at the end unless it is to be kept.

    Ctrl-C ends the command and says how to go on.
    """
    import shutil

    try:
        yield
    except KeyboardInterrupt:
        if folder.exists():
            typer.echo(f"Stopped; the same command goes on from {folder}", err=True)
        raise typer.Exit(STOPPED) from None
    if not keep:
        shutil.rmtree(folder, ignore_errors=True)
