"""What the commands share: options, reading files, and how they end."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console

from ssmlin._files import check_writable
from ssmlin.data import Columns

console = Console(markup=False)  # names in brackets are names

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


def new_file(path: Path | None, option: str) -> None:
    """End the command if a file is there, which is never overwritten, or cannot be written."""
    if path is None:
        return
    if path.exists():
        fail(f"{option}: expected a file that does not exist, got {path}")
    if not path.parent.is_dir():
        fail(f"{option}: expected a folder that exists, got {path.parent}")
    try:
        check_writable(path)
    except OSError as error:
        fail(f"{option}: expected a file that can be written, got {error}")


def two_files(one: Path | None, option: str, other: Path | None, other_option: str) -> None:
    """End the command if two outputs are to be one file."""
    if one is not None and other is not None and one.resolve() == other.resolve():
        fail(f"{option}: expected another file than that of {other_option}, got {one} for both")


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
    to_fit: bool = True,
    **options: Any,
) -> dict[str, Columns]:
    """Columns of a file for each series in it; under the name "" where there is one."""
    from ssmlin.data import read_table, select_columns, select_panel

    with in_lines():
        table = read_table(file, **options)
        if series is None:
            return {"": select_columns(table, targets, inputs, time, to_fit=to_fit)}
        return select_panel(table, series, targets, inputs, time, to_fit=to_fit)


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
