"""Files of named arrays: written whole or not at all, checked when read, and never run as code."""

import contextlib
import hashlib
import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

_FORMAT = 1


def _checksum(arrays: Mapping[str, np.ndarray], description: str) -> str:
    """SHA-256 of everything in the file that has a meaning."""
    digest = hashlib.sha256(description.encode())
    for name in sorted(arrays):
        x = arrays[name]
        digest.update(f"{name} {x.dtype} {x.shape}".encode())
        digest.update(np.ascontiguousarray(x).tobytes())
    return digest.hexdigest()


def write_arrays(
    path: Path, kind: str, arrays: Mapping[str, np.ndarray], description: Mapping[str, Any]
) -> None:
    """Replace the file at `path` at once; whatever fails, the old file stays as it was.

    Args:
        path: the file; its folder must exist.
        kind: what the file holds.
        arrays: the arrays, by name.
        description: what JSON can hold.

    Raises:
        OSError: the file cannot be written.
    """
    from safetensors.numpy import save

    text = json.dumps({"kind": kind, "format": _FORMAT, **description}, sort_keys=True)
    whole = {name: np.array(x, order="C", copy=True) for name, x in arrays.items()}
    data = save(whole, {"ssmlin": text, "sha256": _checksum(whole, text)})
    temporary = path.with_name(f"{_temporary_prefix(path)}{secrets.token_hex(8)}")
    with open(temporary, "xb") as file:  # unlike mkstemp's, its permissions are the user's usual
        try:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    if hasattr(os, "O_DIRECTORY"):
        # So that the new name outlives a loss of power, too; some file systems cannot.
        with contextlib.suppress(OSError):
            folder = os.open(path.parent, os.O_DIRECTORY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)


def _temporary_prefix(path: Path) -> str:
    """How the names begin of what is not yet the file at `path`."""
    return f".{path.name}."


def remove_leftovers(path: Path) -> None:
    """Remove what writers of the file at `path` left unfinished when they were killed."""
    prefix = _temporary_prefix(path)
    with contextlib.suppress(OSError):
        for other in path.parent.iterdir():
            if other.name.startswith(prefix):
                other.unlink(missing_ok=True)


def read_arrays(name: str, path: Path, kind: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read a file that :func:`write_arrays` wrote.

    Args:
        name: the argument that named the file, for messages.
        path: the file.
        kind: what it should hold.

    Returns:
        The arrays and the description.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is damaged, or holds something else.
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
    if (found := description.pop("kind")) != kind:
        raise ValueError(f"{expected}, got one with a {found}: {path}")
    if (version := description.pop("format")) != _FORMAT:
        raise ValueError(f"{expected} of format {_FORMAT}, got format {version}: {path}")
    return arrays, description
