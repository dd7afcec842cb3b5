"""What the commands share: options, reading files, and how they end."""

import shlex
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console

from ssmlin._progress import waiting

if TYPE_CHECKING:
    import pandas

    from ssmlin.data import Calendar, Columns, TableFiles

console = Console(markup=False)  # names in brackets are names

FileArgument = Annotated[
    Path,
    typer.Argument(
        help="CSV, TSV, Parquet, Excel, JSON lines, NumPy, SQLite or DuckDB; a row for each step. "
        "Of many series a folder of CSV, TSV or Parquet files, too, or a pattern of some."
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
PeriodOption = Annotated[
    int | None,
    typer.Option(min=1, help="Steps a season, 1 for none; default by the dates."),
]
FreqOption = Annotated[
    str | None,
    typer.Option(
        help="What a step is: B (business days), D, W, MS, QS, YS, h, min, s, perhaps with a "
        "number before it; default by the dates."
    ),
]
HolidaysOption = Annotated[
    str,
    typer.Option(
        help="Business days that are no steps: dates such as 2024-12-25 separated by commas, or a "
        "text file with a date in each line."
    ),
]
FillInputsOption = Annotated[
    bool,
    typer.Option("--fill-inputs", help="An input that is missing takes its last value before."),
]
LogOption = Annotated[bool, typer.Option("--log", help="Short for --transform log.")]
TableOption = Annotated[
    str | None, typer.Option("--table", help="The table of a database; default its only one.")
]
EncodingOption = Annotated[
    str | None, typer.Option(help="Of a text file, such as latin-1 or utf-16; default UTF-8.")
]
DecimalOption = Annotated[
    str | None, typer.Option(help="The decimal mark in text; default found in the file.")
]
ThousandsOption = Annotated[
    str | None, typer.Option(help="The mark that parts thousands in text; default found.")
]
DateFormatOption = Annotated[
    str | None,
    typer.Option(
        help="How times are written, such as %d.%m.%Y (%q is a quarter), ISO8601, or number; "
        "default found in the file."
    ),
]
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

#: Text and Parquet files above this many bytes are read piece by piece.
LONG_BYTES = 32 * 2**20

STOPPED = 130  # what shells say of a program that Ctrl-C ended


def fail(message: str) -> NoReturn:
    """End with a message and the exit code of bad usage."""
    typer.echo(f"Error: {message}", err=True)
    raise typer.Exit(2)


def no_result(message: str) -> NoReturn:
    """End a comparison without a result: the call was right, what came of it was not."""
    typer.echo(f"Error: models: {message}", err=True)
    raise typer.Exit(1)


def prepare(progress: bool) -> None:
    """Load what computes, and have it keep its compiled programs for the next command."""
    with waiting("loading JAX and the models", progress):
        from ssmlin._compilation_cache import enable_compilation_cache
        from ssmlin.forecasting import Forecaster  # noqa: F401

        enable_compilation_cache()


def names(text: str) -> list[str]:
    """A list with commas."""
    return [name.strip() for name in text.split(",") if name.strip()]


def transform_of(transform: str, log: bool) -> str:
    """What --transform and its short form ask for together."""
    if log and transform not in ("auto", "log"):
        fail(f"--log: expected no other --transform beside it, got {transform}")
    return "log" if log else transform


def as_season(period: int | None) -> int | str | None:
    """What a forecaster's `season` is for --period."""
    return "auto" if period is None else (None if period == 1 else period)


def calendar_of(freq: str | None, holidays: str) -> "Calendar":
    """What --freq and --holidays say."""
    from ssmlin.data import Calendar

    with in_lines(), as_options("freq"), as_options("holidays"):
        if Path(holidays).is_file():
            holidays = ",".join(Path(holidays).read_text().split())
        return Calendar(freq, names(holidays))


def new_file(path: Path | None, option: str) -> None:
    """End the command if a file is there, which is never overwritten, or cannot be written."""
    if path is None:
        return
    if path.exists():
        fail(f"{option}: expected a file that does not exist, got {path}")
    if not path.parent.is_dir():
        fail(f"{option}: expected a folder that exists, got {path.parent}")
    from ssmlin._files import check_writable

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
            told = [str(x.message) for x in caught if issubclass(x.category, RuntimeWarning)]
            for message in dict.fromkeys(told):
                typer.echo(f"Warning: {message}", err=True)


@contextmanager
def as_options(argument: str, option: str | None = None) -> Iterator[None]:
    """Tell a ValueError about an argument as one about the option that gives it."""
    try:
        yield
    except ValueError as error:
        text = str(error)
        if not text.startswith(f"{argument}: "):
            raise
        said = text.removeprefix(argument)
        raise ValueError(f"--{option or argument}{said}") from error


@dataclass(frozen=True)
class Reading:
    """How files are read; None where the file itself says it.

    Attributes:
        query: to run on a database.
        table: of a database.
        encoding: of a text file.
        decimal: the decimal mark in text.
        thousands: the mark that parts thousands in text.
        date_format: how times are written.
    """

    query: str | None = None
    table: str | None = None
    encoding: str | None = None
    decimal: str | None = None
    thousands: str | None = None
    date_format: str | None = None

    def of_text(self) -> dict[str, Any]:
        """What :func:`ssmlin.data.read_table` and a TableStream are told of text files."""
        kept = {"encoding": self.encoding, "decimal": self.decimal, "thousands": self.thousands}
        return {name: value for name, value in kept.items() if value is not None}

    def notes(self) -> dict[str, Any]:
        """What the next file shares, for a model's file; not where in a database it is."""
        return self.of_text() | ({"date_format": self.date_format} if self.date_format else {})

    def table_of(self, file: Path, series: str | None = None) -> "pandas.DataFrame":
        """The table of a file; names of series are as they are written."""
        from ssmlin.data import read_table

        text = () if series is None else (series,)
        return read_table(file, query=self.query, table=self.table, text=text, **self.of_text())

    def series_of(self, file: Path, series: str | None) -> "pandas.DataFrame | TableFiles":
        """The table of a file; what is long, a folder or a pattern of many series stays on disk."""
        if series is None or (file.is_file() and not is_long(file)):
            return self.table_of(file, series)
        if self.query is not None or self.table is not None:
            raise ValueError(f"--query, --table: expected a database, got {file}")
        from ssmlin.data import TableFiles

        return TableFiles(file, **self.of_text())

    def after(self, noted: dict[str, Any]) -> "Reading":
        """These options, and a model's notes where they say nothing."""
        said = {name: value for name, value in asdict(self).items() if value is not None}
        # A mark that is named decides over both that were noted.
        marks = {"decimal", "thousands"}
        kept = {k: v for k, v in noted.items() if k not in marks or not marks & said.keys()}
        return Reading(**kept | said)


def stem_of(file: Path) -> str:
    """What is called after a file: its name, or the folder's of a pattern that begins with none."""
    return file.stem.split("*")[0].rstrip("-_. ") or file.absolute().parent.name


def is_long(file: Path) -> bool:
    """Whether a file is read piece by piece."""
    is_text = file.suffix.lower() in (".csv", ".tsv", ".txt", ".parquet", ".gz", ".bz2", ".xz")
    return is_text and file.is_file() and file.stat().st_size > LONG_BYTES


def tell_of_dates(
    table: "pandas.DataFrame | TableFiles", time: str | None, used: Sequence[str]
) -> None:
    """Warn that rows are taken in order although a column that is not used says when they are."""
    from ssmlin.data import TableFiles, columns_of_dates

    if time is not None:
        return
    first = table.head() if isinstance(table, TableFiles) else table
    if dates := columns_of_dates(first, used):
        warnings.warn(
            f"--time: got none, so that rows are steps in order, without dates or a season; "
            f"--time {shlex.quote(dates[0])} takes the dates of that column",
            RuntimeWarning,
            stacklevel=2,
        )


def read(
    file: Path,
    targets: Sequence[str],
    inputs: Sequence[str],
    time: str | None,
    series: str | None,
    reading: Reading,
    calendar: "Calendar | None" = None,
    *,
    fill_inputs: bool = False,
) -> dict[str, "Columns"]:
    """Columns of a file for each series in it; under the name "" where there is one."""
    from ssmlin.data import select_columns, select_panel

    with in_lines(), as_options("freq"):
        table = reading.table_of(file, series)
        tell_of_dates(table, time, [*targets, *inputs, series or ""])
        where = (targets, inputs, time, reading.date_format)
        if series is None:
            one = select_columns(table, *where, calendar=calendar, fill_inputs=fill_inputs)
            return {"": one}
        return select_panel(
            table, series, *where, calendar=calendar, fill_inputs=fill_inputs
        )  # fmt: skip


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
