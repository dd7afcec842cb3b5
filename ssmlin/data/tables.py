"""Reading tables from files of many formats, with messages in words."""

import bz2
import codecs
import csv
import gzip
import json
import lzma
import sqlite3
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import quote

import numpy as np

from ssmlin.data.columns import check_names
from ssmlin.data.texts import (
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

_OPENERS: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
#: UTF-8, with or without the mark that says so.
ENCODING = "utf-8-sig"
#: So many rows of a stream decide how its numbers are written, fewer of many columns.
ROWS_FOR_MARKS = 100_000
_TEXTS = (".csv", ".tsv", ".txt")
_DATABASES = (".db", ".sqlite", ".sqlite3", ".duckdb")
_ENDINGS = (*_TEXTS, ".parquet", ".xlsx", ".jsonl", ".ndjson", ".npy", ".npz", *_DATABASES)


def read_table(
    source: Any,
    *,
    table: str | None = None,
    query: str | None = None,
    sheet: str | int = 0,
    encoding: str = ENCODING,
    decimal: str | None = None,
    thousands: str | None = None,
    text: Sequence[str] = (),
) -> "pandas.DataFrame":
    r"""Read a table; nothing is ever written.

    CSV and TSV (also .txt, and packed as .gz, .bz2 or .xz), Parquet, Excel (.xlsx), JSON lines
    (.jsonl, .ndjson), NumPy (.npy, .npz), SQLite (.db, .sqlite, .sqlite3) and DuckDB (.duckdb).

    The separator of a CSV file is found in its header, and how numbers are written in all of its
    rows: 2,5 or 0,250 or 1.234,5 show a decimal comma. Columns whose values are all like 1,234 are
    refused if no other column decides. A column of text becomes numbers if all values are, except
    names such as 007, 12E3 or numbers of 19 digits, which stay as they are written.

    Args:
        source: a file, or a DataFrame, which is returned.
        table: of a database; default its only one.
        query: to run on a database instead.
        sheet: of an Excel file.
        encoding: of a text file.
        decimal: the decimal mark in text, "." or ","; the other one then parts thousands.
        thousands: the mark that parts thousands in text.
        text: columns of names, such as of series, which stay as they are written.

    Returns:
        The table, with named columns and at least one row.

    Raises:
        ValueError: a file that is not there, cannot be read, is empty or damaged, or needs a
            package that is not installed; the message names the file. Numbers that can be read in
            two ways.

    Example:
        >>> import tempfile, pathlib
        >>> from ssmlin.data import read_table
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "data.csv"
        >>> _ = path.write_text("t;y\n1;2,5\n2;3,5\n")
        >>> read_table(path)["y"].tolist()
        [2.5, 3.5]
    """
    import pandas as pd

    if isinstance(source, pd.DataFrame):
        return source
    path = Path(source)
    if not path.is_file():
        raise ValueError(f"source: expected a file, got none at {path}")
    kind = _kind(path)
    if kind not in _DATABASES and (table is not None or query is not None):
        raise ValueError(f"table: expected a database for a table or a query, got {path}")
    if table is not None and query is not None:
        raise ValueError("query: expected a table or a query, got both")
    given = given_marks(decimal, thousands)
    with _in_words(path, kind):
        if kind in _TEXTS:
            frame = _read_text(path, kind, encoding, given, text)
        elif kind == ".parquet":
            frame = pd.read_parquet(path)
            if any(name is not None for name in frame.index.names):
                frame = frame.reset_index()  # pandas wrote a column as the index
        elif kind == ".xlsx":
            # As the cells are: pandas would make 7 of the text 007, and nothing of NA.
            frame = pd.read_excel(
                path, sheet_name=sheet, dtype=object, keep_default_na=False, na_values=[""]
            ).infer_objects()
        elif kind in (".jsonl", ".ndjson"):
            with open(path, encoding=encoding) as file:
                records = [json.loads(line) for line in file if line.strip()]
            if not all(isinstance(record, dict) for record in records):
                _fail(path, "an object in each line", "something else")
            frame = pd.DataFrame(records)
        elif kind in (".npy", ".npz"):
            frame = _read_numpy(path)
        elif kind in _DATABASES:
            frame = _read_database(path, kind, table, query)
        else:
            _fail(path, f"a name that ends in {', '.join(_ENDINGS)}", kind or "no ending")
    frame = frame.rename(columns=str)
    if len(frame) == 0 or len(frame.columns) == 0:
        _fail(path, "at least one row and one column", f"{frame.shape[0]} and {frame.shape[1]}")
    if frame.columns.duplicated().any():
        name = frame.columns[frame.columns.duplicated()][0]
        _fail(path, "columns of different names", f"{name!r} twice")
    if given is not None and kind not in _TEXTS:
        for name in frame.columns.difference(text):
            values = frame[name].tolist()
            if all(isinstance(value, str) for value in values):
                frame[name] = convert(values, given)
    return frame


@contextmanager
def _in_words(path: Path, kind: str) -> Iterator[None]:
    """Errors of the many libraries that read files, as ValueError about the file."""
    import pandas as pd

    try:
        yield
    except ImportError as error:
        _fail(path, "the packages for this format (pip install ssmlin[data])", str(error), error)
    except UnicodeDecodeError as error:
        _fail(path, f"text in {error.encoding}",
              f"byte {error.object[error.start]:#04x} at {error.start}; say encoding= "
              f"(--encoding), such as {_other_encoding(error.object)}", error)  # fmt: skip
    except (OSError, ValueError, KeyError, RuntimeError, EOFError, lzma.LZMAError,
            zipfile.BadZipFile, sqlite3.Error, pd.errors.DatabaseError) as error:  # fmt: skip
        if str(error).startswith(("source:", "columns:", "decimal:", "encoding:")):
            raise
        text = str(error).strip().removeprefix("Error tokenizing data. C error: ")
        _fail(
            path, f"a readable {kind.removeprefix('.')} file", text or type(error).__name__, error
        )


def _other_encoding(start: bytes) -> str:
    return "utf-16" if start[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "latin-1"


def _fail(path: Path, expected: str, got: str, cause: Exception | None = None) -> NoReturn:
    """Raise ValueError about a file."""
    raise ValueError(f"source: expected {expected}, got {got}: {path}") from cause


def _kind(path: Path) -> str:
    """The ending that says what a file holds."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    packed = len(suffixes) > 1 and suffixes[-1] in _OPENERS
    return suffixes[-2] if packed else suffixes[-1] if suffixes else ""


def read_chunks(
    path: Path,
    columns: Sequence[str],
    rows: int,
    *,
    encoding: str = ENCODING,
    marks: Mapping[str, Marks | None],
    text: Sequence[str] = (),
) -> Iterator["pandas.DataFrame"]:
    """Some columns of a CSV, TSV or Parquet file, so many rows at a time.

    Args:
        path: the file.
        columns: their names.
        rows: how many at a time.
        encoding: of a text file.
        marks: what :func:`file_marks` finds. Columns of one decimal mark come as numbers where all
            values are, others as text.
        text: columns that come as text from a text file, whatever is in them.

    Raises:
        ValueError: a file that is not there, is of another kind or cannot be read, or a column that
            is not there; the message names the file.
    """
    kind = _streamed_kind(path)
    with _in_words(path, kind):
        if kind == ".parquet":
            from pyarrow.parquet import ParquetFile  # type: ignore[import-untyped]

            with ParquetFile(path) as file:
                check_names(columns, file.schema_arrow.names)
                for batch in file.iter_batches(rows, columns=list(columns)):
                    yield batch.to_pandas().reset_index()[list(columns)]
            return
        import pandas as pd

        options = _text_options(path, kind, encoding)
        check_names(columns, options["names"])
        # pandas knows one decimal mark in all columns; columns of the other come as text.
        decimals = {mark.decimal for name in columns if (mark := marks[name]) is not None}
        decimal = decimals.pop() if len(decimals) == 1 else "."
        as_text = [
            name
            for name in columns
            if name in text or (one := marks[name]) is None or one.decimal != decimal
        ]
        options |= {"usecols": list(columns), "dtype": dict.fromkeys(as_text, object)}
        with pd.read_csv(path, chunksize=rows, decimal=decimal, **options) as chunks:
            yield from chunks


def file_marks(
    path: Path, encoding: str = ENCODING, decimal: str | None = None, thousands: str | None = None
) -> dict[str, Marks | None]:
    """How numbers are written in each column of a text file that is read piece by piece.

    Found in the first 100 000 rows, fewer of many columns. None stands for columns without decimal
    or thousands marks there; in Parquet files all columns are as in Python if no marks are given.
    """
    kind = _streamed_kind(path)
    given = given_marks(decimal, thousands)
    with _in_words(path, kind):
        if kind == ".parquet":
            from pyarrow.parquet import read_schema

            return dict.fromkeys(read_schema(path).names, given or PLAIN)
        options = _text_options(path, kind, encoding)
        if given is not None:
            return dict.fromkeys(options["names"], given)
        rows = min(ROWS_FOR_MARKS, max(1000, 2_000_000 // len(options["names"])))
        points_are_decimal = options["sep"] == ","
        found = _read_carefully(path, options | {"nrows": rows})[2]
        if points_are_decimal:
            # Without quotes no comma can be in a number: points that come later are decimal.
            found = {name: marks or PLAIN for name, marks in found.items()}
        return found


def _streamed_kind(path: Path) -> str:
    if not path.is_file():
        raise ValueError(f"source: expected a file, got none at {path}")
    kind = _kind(path)
    if kind not in (*_TEXTS, ".parquet"):
        _fail(path, "CSV, TSV or Parquet to read piece by piece", kind or "no ending")
    return kind


def _text_options(path: Path, kind: str, encoding: str) -> dict[str, Any]:
    """How pandas is to read a CSV or TSV file, the names of its columns among it."""
    try:
        codecs.lookup(encoding)
    except LookupError as error:
        raise ValueError(f"encoding: expected the name of one, such as latin-1, got {encoding!r}"
                         ) from error  # fmt: skip
    opener = _OPENERS.get(path.suffix.lower(), open)
    with opener(path, "rt", encoding=encoding, newline="") as file:
        header = file.readline()
    if not header.strip():
        _fail(path, "a header with the names of the columns", "an empty line or file")
    counts = {sep: header.count(sep) for sep in (",", ";", "\t", "|")}
    sep = "\t" if kind == ".tsv" else max(counts, key=lambda s: counts[s])
    names = [name.strip() for name in next(csv.reader([header], delimiter=sep))]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        _fail(path, "columns of different names", f"{twice!r} twice")
    if len(names) == 1:
        _check_no_blank_lines(path, opener, encoding)
    return {
        "sep": sep,
        "names": names,
        "header": 0,
        "encoding": encoding,
        "index_col": False,
        "skipinitialspace": True,
        "low_memory": False,
    }


def _check_no_blank_lines(path: Path, opener: Callable[..., Any], encoding: str) -> None:
    """Refuse blank lines between the rows of one column: missing values, or nothing at all?"""
    blank = None
    with opener(path, "rt", encoding=encoding) as file:
        for row, line in enumerate(file):
            if not line.strip():
                blank = row if blank is None else blank
            elif blank is not None:
                _fail(path, "no blank lines between the rows of a single column (a missing value "
                      "is written as NA)", f"one in data row {blank}")  # fmt: skip


def _read_fields(path: Path, options: dict[str, Any]) -> "pandas.DataFrame":
    """What pandas makes of a text file."""
    import pandas as pd

    with warnings.catch_warnings():
        # A row that is longer than the header.
        warnings.simplefilter("error", pd.errors.ParserWarning)
        try:
            return pd.read_csv(path, **options)
        except pd.errors.ParserWarning as error:
            _fail(path, f"rows of {len(options['names'])} fields", "longer ones", error)


def _read_carefully(
    path: Path, options: dict[str, Any], text: Sequence[str] = (), given: Marks | None = None
) -> tuple["pandas.DataFrame", dict[str, list[str]], dict[str, Marks | None]]:
    """A text file: columns that can only be numbers, all others as texts, and all marks.

    pandas reads numbers ten times faster than texts, so only columns of which it may have lost
    something are read again, as they are written.
    """
    frame = _read_fields(path, options | {"decimal": "." if given is None else given.decimal})
    again = [
        name
        for name in frame
        if name in text
        or frame[name].dtype.kind not in "iuf"
        or may_be_misread(frame[name].to_numpy("float64"))
    ]
    texts = {}
    if again:
        fields = _read_fields(
            path, options | {"usecols": again, "dtype": object, "na_filter": False}
        )
        # A row that is shorter than the header has missing values at its end.
        texts = {name: fields[name].fillna("").tolist() for name in again}
    marks: dict[str, Marks | None] = dict.fromkeys(frame, given or given_marks(".", None))
    if given is None:
        numeric = {name: texts[name] for name in again if name not in text}
        decided = "." if len(again) < len(frame.columns) else ""
        marks |= find_marks(numeric, options["sep"] == ",", decided)
    return frame, texts, marks


def _read_text(
    path: Path, kind: str, encoding: str, given: Marks | None, text: Sequence[str]
) -> "pandas.DataFrame":
    """A CSV or TSV file."""
    import pandas as pd

    options = _text_options(path, kind, encoding)
    frame, texts, marks = _read_carefully(path, options, text, given)
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
    """An array whose columns are columns, or several arrays that are one each."""
    import pandas as pd

    loaded = np.load(path, allow_pickle=False)
    if isinstance(loaded, np.ndarray):
        array = loaded[:, None] if loaded.ndim == 1 else loaded
        if array.ndim != 2:
            _fail(path, "an array of shape (T,) or (T, m)", str(loaded.shape))
        return pd.DataFrame(array, columns=[f"y{i}" for i in range(array.shape[1])])
    with loaded:
        arrays = {name: loaded[name] for name in loaded.files}
    shapes = {x.shape for x in arrays.values()}
    if len(shapes) != 1 or len(next(iter(shapes))) != 1:
        _fail(path, "arrays of one shape (T,)", ", ".join(map(str, sorted(shapes))) or "none")
    return pd.DataFrame(arrays)


def _read_database(
    path: Path, kind: str, table: str | None, query: str | None
) -> "pandas.DataFrame":
    """A table or a query of a database that is opened read-only."""
    import pandas as pd

    if kind == ".duckdb":
        import duckdb

        try:
            with duckdb.connect(str(path), read_only=True) as database:
                names = [row[0] for row in database.execute("SHOW TABLES").fetchall()]
                return database.execute(query or _select(path, table, names)).df()
        except duckdb.Error as error:
            _fail(path, "a DuckDB database and a query that it can run", str(error), error)
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
        _fail(path, wanted, "no name" if table is None else repr(table))
    quoted = table.replace('"', '""')
    return f'SELECT * FROM "{quoted}"'
