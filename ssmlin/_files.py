"""Files of named arrays: written whole or not at all, checked when read, and never run as code."""

import hashlib
import json
import os
import tempfile
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
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    if hasattr(os, "O_DIRECTORY"):  # so that the new name outlives a loss of power, too
        folder = os.open(path.parent, os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


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
    if description.pop("kind") != kind:
        raise ValueError(f"{expected}, got one with something else: {path}")
    if (version := description.pop("format")) > _FORMAT:
        raise ValueError(f"{expected} of format {_FORMAT}, got format {version}: {path}")
    return arrays, description
