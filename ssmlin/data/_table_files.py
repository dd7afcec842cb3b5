"""One table in one file or many, read a number of rows at a time."""

import glob
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Float

from ssmlin._optional import require
from ssmlin.data._columns import numbers
from ssmlin.data._tables import ENCODING, STREAMED, file_marks, kind_of_table, read_chunks
from ssmlin.data._texts import PLAIN, Marks, convert, find_marks

if TYPE_CHECKING:
    import pandas


class NumberedRows(NamedTuple):
    """Some rows of a file.

    Attributes:
        first: the number of rows before them in the file.
        table: columns of numbers; NaN means missing.
        beside: other columns; of text files they are text as it is written.
    """

    first: int
    table: Float[np.ndarray, "n m"]
    beside: "pandas.DataFrame"


def read_numbers(
    path: Path,
    columns: Sequence[str],
    beside: Sequence[str],
    rows: int,
    *,
    encoding: str = ENCODING,
    marks: Mapping[str, Marks | None],
) -> Iterator[NumberedRows]:
    """Read columns of numbers of a file, and others beside them, a number of rows at a time.

    Args:
        path: a CSV, TSV or Parquet file.
        columns: names of columns of numbers.
        beside: names of other columns.
        rows: the number of rows at a time.
        encoding: of a text file.
        marks: how numbers are written, see :func:`file_marks`. Where that is not known yet, the
            first rows with marks decide.

    Raises:
        ValueError: a column that does not exist, or a value that is not a finite number.
    """
    known, first = dict(marks), 0
    for frame in read_chunks(
        path, [*columns, *beside], rows, encoding=encoding, marks=known, text=beside
    ):
        for name in columns:
            if known[name] is None:
                known |= find_marks({name: _texts(frame[name])}, False, first_row=first + 1)
        table = np.empty((len(frame), len(columns)))
        for place, name in enumerate(columns):
            table[:, place] = numbers(frame[name], first, known[name] or PLAIN)
        yield NumberedRows(first, table, frame[list(beside)])
        first += len(frame)


def as_in_a_table(column: "pandas.Series", marks: Marks | None) -> "pandas.Series":
    """Convert a column of texts as :func:`ssmlin.data.read_table` does; return others as given."""
    require("pandas")
    import pandas as pd

    if column.dtype != object or pd.api.types.infer_dtype(column, skipna=True) != "string":
        return column
    values = convert(_texts(column), marks)
    return pd.Series(values, name=column.name, dtype=values.dtype)


def _texts(column: "pandas.Series") -> list[str]:
    """The texts of a column, "" where a row is shorter than the header."""
    return [value if isinstance(value, str) else "" for value in column.tolist()]


class TableFiles:
    r"""A table in CSV, TSV or Parquet files, one after another, that need not fit into memory.

    A text file may be compressed (.gz, .bz2, .xz). How its numbers are written is inferred from its
    first 100 000 rows; later rows that are written otherwise are refused.

    Args:
        source: a file; a folder, of which all such files are taken, in the order of their paths,
            but for names that begin with a dot or an underscore; a pattern such as
            "sales/*.parquet"; or a list of these.
        encoding: of text files.
        decimal: the decimal mark in text, see :func:`ssmlin.data.read_table`.
        thousands: the mark that separates thousands in text.
        chunk_rows: the number of rows in memory at a time.

    Attributes:
        paths: the files.

    Raises:
        ValueError: no file, or one of another format.

    Examples:
        >>> import tempfile, pathlib
        >>> from ssmlin.data import TableFiles
        >>> folder = pathlib.Path(tempfile.mkdtemp())
        >>> for name in ("b.csv", "a.csv"):
        ...     _ = (folder / name).write_text("shop,y\nA,1\n")
        >>> [path.name for path in TableFiles(folder).paths]
        ['a.csv', 'b.csv']
    """

    def __init__(
        self,
        source: str | Path | Sequence[str | Path],
        *,
        encoding: str = ENCODING,
        decimal: str | None = None,
        thousands: str | None = None,
        chunk_rows: int = 100_000,
    ) -> None:
        sources = [source] if isinstance(source, str | Path) else list(source)
        self.paths = tuple(path for one in sources for path in _files(Path(one)))
        if not self.paths:
            raise ValueError("source: expected at least one file, got none")
        self.encoding, self.decimal, self.thousands = encoding, decimal, thousands
        self.chunk_rows = chunk_rows

    def __str__(self) -> str:
        first, *others = self.paths
        return f"{first} and {len(others)} more" if others else str(first)

    @staticmethod
    def are_meant(source: object) -> bool:
        """Whether this is a path, a list of paths or such files, and no data."""
        if isinstance(source, str | Path | TableFiles):
            return True
        if not isinstance(source, Sequence) or len(source) == 0:
            return False
        return all(isinstance(one, str | Path) for one in source)

    @classmethod
    def of(cls, source: "str | Path | Sequence[str | Path] | TableFiles") -> "TableFiles":
        """Such files themselves, or those at paths."""
        return source if isinstance(source, TableFiles) else cls(source)

    def head(self, rows: int = 100) -> "pandas.DataFrame":
        """The first rows of the first file, with all columns."""
        path = self.paths[0]
        marks = self._marks(path)
        return next(iter(read_chunks(path, list(marks), rows, encoding=self.encoding, marks=marks)))

    def pieces(
        self, columns: Sequence[str], series: str, time: str | None
    ) -> Iterator["SeriesRows"]:
        """Read all files, `chunk_rows` rows at a time.

        Args:
            columns: names of columns of numbers.
            series: the name of the column that says which series a row is of.
            time: the name of the column of times, if there is one.

        Raises:
            ValueError: what cannot be read; the message names the file, the column and the row.
        """
        beside = [series] if time is None else [series, time]
        for path in self.paths:
            with naming(path):
                marks = self._marks(path)
                for first, table, others in read_numbers(
                    path, columns, beside, self.chunk_rows, encoding=self.encoding, marks=marks
                ):
                    times = None if time is None else as_in_a_table(others[time], marks[time])
                    yield SeriesRows(path, first, table, others[series], times)

    def num_series(self, series: str, enough: int) -> int:
        """How many series there are; no more is read than shows that there are enough."""
        found: set[object] = set()
        for piece in self.pieces([], series, None):
            found.update(piece.series.unique())
            if len(found) >= enough:
                break
        return len(found)

    def _marks(self, path: Path) -> dict[str, Marks | None]:
        return file_marks(path, self.encoding, self.decimal, self.thousands)


class SeriesRows(NamedTuple):
    """Some rows of a file with many series.

    Attributes:
        path: the file.
        first: the number of rows before them in it.
        table: the columns of numbers; NaN means missing.
        series: which series each row is of, of text files as it is written.
        times: as a whole table would have them; None where none are asked for.
    """

    path: Path
    first: int
    table: Float[np.ndarray, "n m"]
    series: "pandas.Series"
    times: "pandas.Series | None"


@contextmanager
def naming(files: "Path | TableFiles") -> Iterator[None]:
    """Add the name of a file to the message of a ValueError that is without it."""
    try:
        yield
    except ValueError as error:
        if str(files) in str(error):
            raise
        raise ValueError(f"{error} (in {files})") from error


def _files(source: Path) -> list[Path]:
    """The files that a path, a folder or a pattern means."""
    if source.is_file():
        return [source]
    if source.is_dir():
        found = [
            path for path in sorted(source.rglob("*"))
            if path.is_file() and kind_of_table(path) in STREAMED
            and not any(part[0] in "._" for part in path.relative_to(source).parts)
        ]  # fmt: skip
    else:
        found = sorted(Path(path) for path in glob.glob(str(source), recursive=True))
    if not found:
        raise ValueError(
            f"source: expected a file, a folder with {', '.join(STREAMED)} files, or a pattern of "
            f"some, got none at {source}"
        )
    return found
