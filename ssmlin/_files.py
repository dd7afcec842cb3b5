"""Writing files completely or not at all, and files of arrays with a checksum.

Reading a file of arrays never runs code from it.
"""

import contextlib
import errno
import hashlib
import json
import os
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

_FORMAT = 1


def _checksum(arrays: Mapping[str, np.ndarray], description: str) -> str:
    """SHA-256 of the arrays and the description."""
    digest = hashlib.sha256(description.encode())
    for name in sorted(arrays):
        x = arrays[name]
        digest.update(f"{name} {x.dtype} {x.shape}".encode())
        digest.update(np.ascontiguousarray(x).tobytes())
    return digest.hexdigest()


def write_arrays(
    path: Path, kind: str, arrays: Mapping[str, np.ndarray], description: Mapping[str, object]
) -> None:
    """Write arrays to a file. If writing fails, an older file stays unchanged.

    Args:
        path: the file; its folder must exist.
        kind: the kind of thing that the file holds.
        arrays: the arrays, by name.
        description: further values that JSON can hold.

    Raises:
        OSError: the file cannot be written.
    """
    from safetensors.numpy import save

    text = json.dumps({"kind": kind, "format": _FORMAT, **description}, sort_keys=True)
    whole = {name: np.array(x, order="C", copy=True) for name, x in arrays.items()}
    data = save(whole, {"ssmlin": text, "sha256": _checksum(whole, text)})
    with written_whole(path) as temporary:
        temporary.write_bytes(data)


@contextlib.contextmanager
def written_whole(path: Path, *, new: bool = False) -> Iterator[Path]:
    """Yield a temporary path in the same folder, which is renamed to `path` at the end.

    If anything fails, the temporary file is removed, and an older file at `path` stays unchanged.

    Args:
        path: the file; its folder must exist.
        new: whether a file at `path` is an error.

    Raises:
        FileExistsError: there is a file at `path`, with `new`.
        OSError: the file cannot be written.
    """
    if new and path.exists():
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
    temporary = _temporary(path)
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        if new:
            _move_to_new(temporary, path)
        else:
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    if hasattr(os, "O_DIRECTORY"):
        # Then the new name survives a power failure, too. Some file systems cannot do this.
        with contextlib.suppress(OSError):
            folder = os.open(path.parent, os.O_DIRECTORY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)


def _move_to_new(temporary: Path, path: Path) -> None:
    """Rename a file, unless another file has the name by now."""
    try:
        os.link(temporary, path)  # unlike a rename, this never replaces a file
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        if path.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from None
        os.replace(temporary, path)


def check_writable(path: Path) -> None:
    """Check that :func:`written_whole` can write a file, before the work begins.

    Raises:
        OSError: the file cannot be written.
    """
    temporary = _temporary(path)
    try:
        open(temporary, "xb").close()
    finally:
        temporary.unlink(missing_ok=True)


def _temporary(path: Path) -> Path:
    """A new name with the same ending, since some writers choose the format by the ending."""
    return path.with_name(f"{_temporary_prefix(path)}{secrets.token_hex(8)}{path.suffix}")


def _temporary_prefix(path: Path) -> str:
    """The beginning of the names of temporary files for `path`."""
    return f".{path.name}."


def remove_leftovers(path: Path) -> None:
    """Remove temporary files of the file at `path` whose writers were killed."""
    prefix = _temporary_prefix(path)
    with contextlib.suppress(OSError):
        for other in path.parent.iterdir():
            if other.name.startswith(prefix):
                other.unlink(missing_ok=True)


def kind_of(path: Path) -> str | None:
    """The kind of thing that a file of :func:`write_arrays` holds; None for other files.

    Raises:
        OSError: the file cannot be read.
    """
    from safetensors import SafetensorError, safe_open

    path.stat()
    try:
        with safe_open(path, framework="numpy") as file:
            kind = json.loads((file.metadata() or {})["ssmlin"])["kind"]
    except (SafetensorError, KeyError, TypeError, ValueError):
        return None
    return str(kind)


def read_arrays(name: str, path: Path, kind: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read a file that :func:`write_arrays` wrote.

    Args:
        name: the argument with the path, for messages.
        path: the file.
        kind: the kind of thing that it should hold.

    Returns:
        The arrays and the description.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file is damaged, or holds something else.
    """
    from safetensors import SafetensorError, safe_open

    expected = f"{name}: expected a file of ssmlin with a {kind}"
    if path.stat().st_size == 0:
        raise ValueError(f"{expected}, got an empty one: {path}")
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        text = metadata["ssmlin"]
        description = json.loads(text)
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{expected}, got a damaged or foreign one: {path} ({error})") from error
    if metadata.get("sha256") != _checksum(arrays, text):
        raise ValueError(f"{expected}, got a damaged one: {path} (its checksum differs)")
    if (other := description.pop("kind")) != kind:
        raise ValueError(f"{expected}, got one with a {other}: {path}")
    if (version := description.pop("format")) != _FORMAT:
        raise ValueError(f"{expected} of format {_FORMAT}, got format {version}: {path}")
    return arrays, description
