"""Reading tables from files of many formats, with messages in words."""

import bz2
import csv
import gzip
import json
import lzma
import re
import sqlite3
import warnings
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import quote

import numpy as np

if TYPE_CHECKING:
    import pandas

_OPENERS: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
_TEXTS = (".csv", ".tsv", ".txt")
_DATABASES = (".db", ".sqlite", ".sqlite3", ".duckdb")
_ENDINGS = (*_TEXTS, ".parquet", ".xlsx", ".jsonl", ".ndjson", ".npy", ".npz", *_DATABASES)


def read_table(
    source: Any,
    *,
    table: str | None = None,
    query: str | None = None,
    sheet: str | int = 0,
    encoding: str = "utf-8-sig",
) -> "pandas.DataFrame":
    r"""Read a table; nothing is ever written.

    CSV and TSV (also .txt, and packed as .gz, .bz2 or .xz), Parquet, Excel (.xlsx), JSON lines
    (.jsonl, .ndjson), NumPy (.npy, .npz), SQLite (.db, .sqlite, .sqlite3) and DuckDB (.duckdb).
    The separator of a CSV file is found in its header, with decimal commas where it is a semicolon.

    Args:
        source: a file, or a DataFrame, which is returned.
        table: of a database; default its only one.
        query: to run on a database instead.
        sheet: of an Excel file.
        encoding: of a text file.

    Returns:
        The table, with named columns and at least one row.

    Raises:
        ValueError: a file that is not there, cannot be read, is empty or damaged, or needs a
            package that is not installed; the message names the file.

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
    with _in_words(path, kind):
        if kind in _TEXTS:
            frame = _read_text(path, kind, encoding)
        elif kind == ".parquet":
            frame = pd.read_parquet(path)
        elif kind == ".xlsx":
            frame = pd.read_excel(path, sheet_name=sheet)
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
              f"byte {error.object[error.start]:#04x} at {error.start}; say its encoding, such as "
              "latin-1", error)  # fmt: skip
    except (OSError, ValueError, KeyError, RuntimeError, EOFError, lzma.LZMAError,
            zipfile.BadZipFile, sqlite3.Error, pd.errors.DatabaseError) as error:  # fmt: skip
        if str(error).startswith(("source:", "columns:")):
            raise
        text = str(error).strip().removeprefix("Error tokenizing data. C error: ")
        _fail(
            path, f"a readable {kind.removeprefix('.')} file", text or type(error).__name__, error
        )


def _fail(path: Path, expected: str, got: str, cause: Exception | None = None) -> NoReturn:
    """Raise ValueError about a file."""
    raise ValueError(f"source: expected {expected}, got {got}: {path}") from cause


def _kind(path: Path) -> str:
    """The ending that says what a file holds."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    packed = len(suffixes) > 1 and suffixes[-1] in _OPENERS
    return suffixes[-2] if packed else suffixes[-1] if suffixes else ""


def read_chunks(
    path: Path, columns: Sequence[str], rows: int, encoding: str = "utf-8-sig"
) -> Iterator["pandas.DataFrame"]:
    """Some columns of a CSV, TSV or Parquet file, so many rows at a time.

    Raises:
        ValueError: a file that is not there, is of another kind or cannot be read, or a column that
            is not there; the message names the file.
    """
    if not path.is_file():
        raise ValueError(f"source: expected a file, got none at {path}")
    kind = _kind(path)
    if kind not in (*_TEXTS, ".parquet"):
        _fail(path, "CSV, TSV or Parquet to read piece by piece", kind or "no ending")
    with _in_words(path, kind):
        if kind == ".parquet":
            from pyarrow.parquet import ParquetFile  # type: ignore[import-untyped]

            with ParquetFile(path) as file:
                _check_names(columns, file.schema_arrow.names)
                for batch in file.iter_batches(rows, columns=list(columns)):
                    yield batch.to_pandas()
            return
        names, options = _text_options(path, kind, encoding)
        _check_names(columns, names)
        positions = [names.index(name) for name in columns]
        import pandas as pd

        with pd.read_csv(path, usecols=positions, chunksize=rows, **options) as chunks:
            for frame in chunks:
                yield frame.rename(columns=str.strip)


def _check_names(columns: Sequence[str], known: Sequence[str]) -> None:
    """Raise ValueError about a column that is not there."""
    for name in columns:
        if name not in known:
            raise ValueError(f"columns: expected names among {', '.join(known[:20])}; got {name!r}")


def _text_options(path: Path, kind: str, encoding: str) -> tuple[list[str], dict[str, Any]]:
    """The names of the columns of a CSV or TSV file, and how pandas is to read it."""
    opener = _OPENERS.get(path.suffix.lower(), open)
    with opener(path, "rt", encoding=encoding, newline="") as file:
        header = file.readline()
        first = file.readline()
    if not header.strip():
        _fail(path, "a header with the names of the columns", "an empty line or file")
    counts = {sep: header.count(sep) for sep in (",", ";", "\t", "|")}
    sep = "\t" if kind == ".tsv" else max(counts, key=lambda s: counts[s])
    names = [name.strip() for name in next(csv.reader([header], delimiter=sep))]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        _fail(path, "columns of different names", f"{twice!r} twice")
    comma = sep != "," and re.search(r"(?:^|;|\t|\|)\s*-?\d+,\d+\s*(?:$|;|\t|\|)", first.strip())
    return names, {
        "sep": sep,
        "decimal": "," if comma else ".",
        "encoding": encoding,
        "index_col": False,
        "skipinitialspace": True,
        "low_memory": False,
    }


def _read_text(path: Path, kind: str, encoding: str) -> "pandas.DataFrame":
    """A CSV or TSV file."""
    import pandas as pd

    names, options = _text_options(path, kind, encoding)
    with warnings.catch_warnings():
        # A row that is longer than the header.
        warnings.simplefilter("error", pd.errors.ParserWarning)
        try:
            frame = pd.read_csv(path, **options)
        except pd.errors.ParserWarning as error:
            _fail(path, f"rows of {len(names)} fields", "longer ones", error)
    return frame.rename(columns=str.strip)


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
