"""Errors of files that are read, in words that name the file and the reason."""

import codecs
import lzma
import sqlite3
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from ssmlin._optional import require


@contextmanager
def in_words(path: Path, kind: str) -> Iterator[None]:
    """Turn the errors of the libraries that read files into ValueError about the file."""
    require("pandas")
    import pandas as pd

    try:
        yield
    except ImportError as error:
        fail(path, "the packages for this format (pip install ssmlin[data])", str(error), error)
    except UnicodeDecodeError as error:
        fail(path, f"text in {error.encoding}",
              f"byte {error.object[error.start]:#04x} at {error.start}; say encoding= "
              f"(--encoding), such as {_other_encoding(error.object)}", error)  # fmt: skip
    except (OSError, ValueError, KeyError, RuntimeError, EOFError, lzma.LZMAError,
            zipfile.BadZipFile, sqlite3.Error, pd.errors.DatabaseError) as error:  # fmt: skip
        if str(error).startswith(("source:", "columns:", "decimal:", "encoding:")):
            raise
        text = str(error).strip().removeprefix("Error tokenizing data. C error: ")
        fail(path, f"a readable {kind.removeprefix('.')} file", text or type(error).__name__, error)


def _other_encoding(start: bytes) -> str:
    """An encoding to suggest for a text that begins with these bytes."""
    return "utf-16" if start[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "latin-1"


def fail(path: Path, expected: str, got: str, cause: Exception | None = None) -> NoReturn:
    """Raise ValueError about a file."""
    raise ValueError(f"source: expected {expected}, got {got}: {path}") from cause
