"""Reading tables from files of many formats, with errors that name the file and the reason."""

import bz2
import codecs
import csv
import gzip
import json
import lzma
import sqlite3
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple
from urllib.parse import quote

import numpy as np

from ssmlin._optional import require
from ssmlin.data._columns import check_names
from ssmlin.data._file_errors import fail, in_words
from ssmlin.data._texts import (
    MISSING,
    PLAIN,
    Marks,
    as_written,
    convert,
    find_marks,
    given_marks,
    may_be_misread,
)

if TYPE_CHECKING:
    import pandas

_OPENERS: dict[str, Callable[..., IO[str]]] = {
    ".gz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
}
#: UTF-8, with or without a byte order mark.
ENCODING = "utf-8-sig"
#: The number of rows of a stream that decide how its numbers are written; fewer of wide tables.
ROWS_FOR_MARKS = 100_000
_TEXTS = (".csv", ".tsv", ".txt")
_DATABASES = (".db", ".sqlite", ".sqlite3", ".duckdb")
#: Endings of files that are read piece by piece.
STREAMED = (*_TEXTS, ".parquet")
_ENDINGS = (*_TEXTS, ".parquet", ".xlsx", ".jsonl", ".ndjson", ".npy", ".npz", *_DATABASES)


def read_table(
    source: "str | Path | pandas.DataFrame",
    *,
    table: str | None = None,
    query: str | None = None,
    sheet: str | int = 0,
    encoding: str = ENCODING,
    decimal: str | None = None,
    thousands: str | None = None,
    text: Sequence[str] = (),
) -> "pandas.DataFrame":
    r"""Read a table from a file. The file is never changed.

    Formats: CSV and TSV (also .txt, and compressed as .gz, .bz2 or .xz), Parquet, Excel (.xlsx),
    JSON lines (.jsonl, .ndjson), NumPy (.npy, .npz), SQLite (.db, .sqlite, .sqlite3) and DuckDB
    (.duckdb).

    The separator of a CSV file is inferred from its header. How numbers are written is inferred
    from all rows: 2,5 or 0,250 or 1.234,5 show a decimal comma. A column whose values are all like
    1,234 is refused if no other column decides. A column of text becomes numbers if all its values
    are numbers, except for 007, 12E3 or numbers of 19 digits, which may be names and stay text.

    Args:
        source: a file, or a DataFrame, which is returned.
        table: the table of a database; default its only one.
        query: a query to run on a database instead.
        sheet: the sheet of an Excel file, by name or number.
        encoding: the encoding of a text file.
        decimal: the decimal mark in text, "." or ","; the other one then separates thousands.
        thousands: the mark that separates thousands in text.
        text: columns to leave as they are written, such as names of series.

    Returns:
        The table, with named columns and at least one row.

    Raises:
        ValueError: a file that does not exist, cannot be read, is empty or damaged, or needs a
            package that is not installed (the message names the file); or numbers that can be read
            in two ways.

    Examples:
        >>> import tempfile, pathlib
        >>> from ssmlin.data import read_table
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "data.csv"
        >>> _ = path.write_text("t;y\n1;2,5\n2;3,5\n")
        >>> read_table(path)["y"].tolist()
        [2.5, 3.5]
    """
    require("pandas")
    import pandas as pd

    if isinstance(source, pd.DataFrame):
        return source
    path = Path(source)
    if not path.is_file():
        raise ValueError(f"source: expected a file, got none at {path}")
    kind = kind_of_table(path)
    if kind not in _DATABASES and (table is not None or query is not None):
        raise ValueError(f"table: expected a database for a table or a query, got {path}")
    if table is not None and query is not None:
        raise ValueError("query: expected a table or a query, got both")
    given = given_marks(decimal, thousands)
    with in_words(path, kind):
        if kind in _TEXTS:
            frame = _read_text(path, kind, encoding, given, text)
        elif kind == ".parquet":
            frame = pd.read_parquet(path)
            if any(name is not None for name in frame.index.names):
                frame = frame.reset_index()  # pandas has written a column as the index
        elif kind == ".xlsx":
            # Cells stay as they are: pandas would turn the text 007 into 7, and NA into NaN.
            frame = pd.read_excel(
                path, sheet_name=sheet, dtype=object, keep_default_na=False, na_values=[""]
            ).infer_objects()
        elif kind in (".jsonl", ".ndjson"):
            with open(path, encoding=encoding) as file:
                records = [json.loads(line) for line in file if line.strip()]
            if not all(isinstance(record, dict) for record in records):
                fail(path, "an object in each line", "something else")
            frame = pd.DataFrame(records)
        elif kind in (".npy", ".npz"):
            frame = _read_numpy(path)
        elif kind in _DATABASES:
            frame = _read_database(path, kind, table, query)
        else:
            fail(path, f"a name that ends in {', '.join(_ENDINGS)}", kind or "no ending")
    frame = frame.rename(columns=str)
    if len(frame) == 0 or len(frame.columns) == 0:
        fail(path, "at least one row and one column", f"{frame.shape[0]} and {frame.shape[1]}")
    if frame.columns.duplicated().any():
        name = frame.columns[frame.columns.duplicated()][0]
        fail(path, "columns of different names", f"{name!r} twice")
    if given is not None and kind not in _TEXTS:
        for name in frame.columns.difference(text):
            values = frame[name].tolist()
            if all(isinstance(value, str) for value in values):
                frame[name] = convert(values, given)
    return frame


def kind_of_table(path: Path) -> str:
    """The ending of a file's name that tells its format."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    is_compressed = len(suffixes) > 1 and suffixes[-1] in _OPENERS
    return suffixes[-2] if is_compressed else suffixes[-1] if suffixes else ""


def read_chunks(
    path: Path,
    columns: Sequence[str],
    rows: int,
    *,
    encoding: str = ENCODING,
    marks: Mapping[str, Marks | None],
    text: Sequence[str] = (),
) -> Iterator["pandas.DataFrame"]:
    """Read some columns of a CSV, TSV or Parquet file, a number of rows at a time.

    Args:
        path: the file.
        columns: the names of the columns.
        rows: the number of rows at a time.
        encoding: the encoding of a text file.
        marks: how numbers are written, by :func:`file_marks`. Columns with one of the decimal
            marks are numbers if all their values are, others are text.
        text: columns of a text file that are always text.

    Yields:
        The rows.

    Raises:
        ValueError: a file that does not exist, is of another format or cannot be read, or a column
            that does not exist; the message names the file.
    """
    kind = _streamed_kind(path)
    with in_words(path, kind):
        if kind == ".parquet":
            from pyarrow.parquet import ParquetFile  # type: ignore[import-untyped]  # has no types

            # Else pyarrow holds the bytes of all row groups before it gives the first rows.
            with ParquetFile(path, pre_buffer=False, buffer_size=2**20) as file:
                check_names(columns, file.schema_arrow.names)
                for batch in file.iter_batches(rows, columns=list(columns)):
                    yield batch.to_pandas().reset_index()[list(columns)]
            return
        require("pandas")
        import pandas as pd

        layout = _layout(path, kind, encoding)
        check_names(columns, layout.names)
        # pandas reads all columns with one decimal mark; columns with the other one stay text.
        decimals = {mark.decimal for name in columns if (mark := marks[name]) is not None}
        decimal = decimals.pop() if len(decimals) == 1 else "."
        as_text = [
            name
            for name in columns
            if name in text or (one := marks[name]) is None or one.decimal != decimal
        ]
        # A series may be called NA.
        missing = {name: sorted(MISSING) for name in columns if name not in text}
        with pd.read_csv(
            path,
            chunksize=rows,
            decimal=decimal,
            usecols=list(columns),
            dtype=dict.fromkeys(as_text, object),
            keep_default_na=False,
            na_values=missing,
            **layout.for_pandas(),
        ) as chunks:
            while True:
                with _refusing_long_rows(path, layout):
                    chunk = next(chunks, None)
                if chunk is None:
                    return
                yield chunk


def file_marks(
    path: Path, encoding: str = ENCODING, decimal: str | None = None, thousands: str | None = None
) -> dict[str, Marks | None]:
    """Infer how numbers are written in each column of a file that is read piece by piece.

    The first 100 000 rows decide, or fewer if there are many columns.

    Args:
        path: the file.
        encoding: the encoding of a text file.
        decimal: the decimal mark, if the user gives it.
        thousands: the mark that separates thousands, if the user gives it.

    Returns:
        The marks of each column; None for a column without marks in these rows. The marks of
        Parquet files are Python's, if none are given.
    """
    kind = _streamed_kind(path)
    given = given_marks(decimal, thousands)
    with in_words(path, kind):
        if kind == ".parquet":
            from pyarrow.parquet import read_schema

            return dict.fromkeys(read_schema(path).names, given or PLAIN)
        layout = _layout(path, kind, encoding)
        if given is not None:
            return dict.fromkeys(layout.names, given)
        rows = min(ROWS_FOR_MARKS, max(1000, 2_000_000 // len(layout.names)))
        marks = _read_carefully(path, layout, rows=rows)[2]
        if layout.separator == ",":
            # No number can hold a comma without quotes, so points in later rows are decimal.
            marks = {name: mark or PLAIN for name, mark in marks.items()}
        return marks


def _streamed_kind(path: Path) -> str:
    """The format of a file that can be read piece by piece."""
    if not path.is_file():
        raise ValueError(f"source: expected a file, got none at {path}")
    kind = kind_of_table(path)
    if kind not in STREAMED:
        fail(path, "CSV, TSV or Parquet to read piece by piece", kind or "no ending")
    return kind


class _Layout(NamedTuple):
    """How the rows of a CSV or TSV file are written."""

    separator: str
    names: list[str]
    encoding: str

    def for_pandas(self) -> dict[str, object]:
        """The arguments of pandas' ``read_csv`` that the layout decides."""
        return {
            "sep": self.separator,
            "names": self.names,
            "header": 0,
            "encoding": self.encoding,
            "index_col": False,
            "skipinitialspace": True,
            "low_memory": False,
        }


def _layout(path: Path, kind: str, encoding: str) -> _Layout:
    """The layout of a CSV or TSV file, from its header."""
    try:
        codecs.lookup(encoding)
    except LookupError as error:
        raise ValueError(f"encoding: expected the name of one, such as latin-1, got {encoding!r}"
                         ) from error  # fmt: skip
    opener = _OPENERS.get(path.suffix.lower(), open)
    with opener(path, "rt", encoding=encoding, newline="") as file:
        header = file.readline()
    if not header.strip():
        fail(path, "a header with the names of the columns", "an empty line or file")
    counts = {sep: header.count(sep) for sep in (",", ";", "\t", "|")}
    sep = "\t" if kind == ".tsv" else max(counts, key=lambda s: counts[s])
    names = [name.strip() for name in next(csv.reader([header], delimiter=sep))]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        fail(path, "columns of different names", f"{twice!r} twice")
    if len(names) == 1:
        _check_no_blank_lines(path, opener, encoding)
    return _Layout(sep, names, encoding)


def _check_no_blank_lines(path: Path, opener: Callable[..., IO[str]], encoding: str) -> None:
    """Refuse blank lines between the rows of a single column, which may be missing values."""
    blank = None
    with opener(path, "rt", encoding=encoding) as file:
        for row, line in enumerate(file):
            if not line.strip():
                blank = row if blank is None else blank
            elif blank is not None:
                fail(path, "no blank lines between the rows of a single column (a missing value "
                      "is written as NA)", f"one in data row {blank}")  # fmt: skip


def _read_fields(
    path: Path,
    layout: _Layout,
    rows: int | None,
    *,
    decimal: str = ".",
    as_text: list[str] | None = None,
) -> "pandas.DataFrame":
    """A text file as pandas reads it; with `as_text` only these columns, without conversion."""
    require("pandas")
    import pandas as pd

    with _refusing_long_rows(path, layout):
        return pd.read_csv(
            path,
            nrows=rows,
            decimal=decimal,
            usecols=as_text,
            dtype=None if as_text is None else object,
            na_filter=as_text is None,
            **layout.for_pandas(),
        )


@contextmanager
def _refusing_long_rows(path: Path, layout: _Layout) -> Iterator[None]:
    """Turn pandas' warning of rows that are longer than the header into an error."""
    require("pandas")
    import pandas as pd

    with warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)
        try:
            yield
        except pd.errors.ParserWarning as error:
            fail(path, f"rows of {len(layout.names)} fields", "longer ones", error)


def _read_carefully(
    path: Path,
    layout: _Layout,
    text: Sequence[str] = (),
    given: Marks | None = None,
    rows: int | None = None,
) -> tuple["pandas.DataFrame", dict[str, list[str]], dict[str, Marks | None]]:
    """A text file as pandas reads it, the texts of columns that it may misread, and all marks.

    pandas reads numbers ten times faster than texts, so only columns in which it may have lost
    something are read again as text.
    """
    frame = _read_fields(path, layout, rows, decimal="." if given is None else given.decimal)
    again = [
        name
        for name in frame
        if name in text
        or frame[name].dtype.kind not in "iuf"
        or may_be_misread(frame[name].to_numpy("float64"))
    ]
    texts = {}
    if again:
        fields = _read_fields(path, layout, rows, as_text=again)
        # A row that is shorter than the header has missing values at its end.
        texts = {name: fields[name].fillna("").tolist() for name in again}
    marks: dict[str, Marks | None] = dict.fromkeys(frame, given or given_marks(".", None))
    if given is None:
        numeric = {name: texts[name] for name in again if name not in text}
        decided = "." if len(again) < len(frame.columns) else ""
        marks |= find_marks(numeric, layout.separator == ",", decided)
    return frame, texts, marks


def _read_text(
    path: Path, kind: str, encoding: str, given: Marks | None, text: Sequence[str]
) -> "pandas.DataFrame":
    """A CSV or TSV file."""
    require("pandas")
    import pandas as pd

    frame, texts, marks = _read_carefully(path, _layout(path, kind, encoding), text, given)
    columns = {
        name: as_written(texts[name])
        if name in text
        else convert(texts[name], marks[name])
        if name in texts
        else frame[name]
        for name in frame
    }
    return pd.DataFrame(columns)


def _read_numpy(path: Path) -> "pandas.DataFrame":
    """A .npy file of a matrix, or a .npz file with one array for each column."""
    require("pandas")
    import pandas as pd

    loaded = np.load(path, allow_pickle=False)
    if isinstance(loaded, np.ndarray):
        array = loaded[:, None] if loaded.ndim == 1 else loaded
        if array.ndim != 2:
            fail(path, "an array of shape (T,) or (T, m)", str(loaded.shape))
        return pd.DataFrame(array, columns=[f"y{i}" for i in range(array.shape[1])])
    with loaded:
        arrays = {name: loaded[name] for name in loaded.files}
    shapes = {x.shape for x in arrays.values()}
    if len(shapes) != 1 or len(next(iter(shapes))) != 1:
        fail(path, "arrays of one shape (T,)", ", ".join(map(str, sorted(shapes))) or "none")
    return pd.DataFrame(arrays)


def _read_database(
    path: Path, kind: str, table: str | None, query: str | None
) -> "pandas.DataFrame":
    """A table or a query of a database that is opened read-only."""
    require("pandas")
    import pandas as pd

    if kind == ".duckdb":
        import duckdb

        try:
            with duckdb.connect(str(path), read_only=True) as database:
                names = [row[0] for row in database.execute("SHOW TABLES").fetchall()]
                return database.execute(query or _select(path, table, names)).df()
        except duckdb.Error as error:
            fail(path, "a DuckDB database and a query that it can run", str(error), error)
    connection = sqlite3.connect(f"file:{quote(str(path.absolute()))}?mode=ro", uri=True)
    try:
        rows = connection.execute("SELECT name FROM sqlite_master WHERE type IN ('table', 'view')")
        names = [row[0] for row in rows.fetchall()]
        return pd.read_sql_query(query or _select(path, table, names), connection)
    finally:
        connection.close()


def _select(path: Path, table: str | None, names: list[str]) -> str:
    """The query for a whole table."""
    if table is None and len(names) == 1:
        table = names[0]
    if table not in names:
        wanted = f"the table among {', '.join(names) or 'none'}"
        fail(path, wanted, "no name" if table is None else repr(table))
    quoted = table.replace('"', '""')
    return f'SELECT * FROM "{quoted}"'
