"""Checkpoints: the state of long work on disk, so that a run that was killed goes on."""

import hashlib
import re
import time
from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, PyTree

from ssmlin._files import read_arrays, remove_leftovers, write_arrays
from ssmlin._warnings import warn

_SECONDS_BETWEEN = 5.0


def digest(tree: PyTree) -> str:
    """A hash of the structure and values of a pytree; of leaves that are no arrays, their repr.

    It is the same in every process: addresses in memory, which a repr may show, do not count.
    """
    leaves, structure = jax.tree.flatten(tree)
    hashed = hashlib.sha256(_without_addresses(structure).encode())
    for leaf in leaves:
        if isinstance(leaf, (jax.Array, np.ndarray)):
            x = _to_numpy(leaf)
            hashed.update(f"{x.dtype} {x.shape}".encode() + np.ascontiguousarray(x).tobytes())
        else:
            hashed.update(_without_addresses(leaf).encode())
    return hashed.hexdigest()


def _without_addresses(x: object) -> str:
    return re.sub(r"\bat 0x[0-9a-f]+", "", repr(x))


def _is_key(x: object) -> bool:
    return isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def _to_numpy(x: ArrayLike) -> np.ndarray:
    """An array as NumPy's; a PRNG key by its data."""
    return np.asarray(jax.random.key_data(x) if _is_key(x) else x)


class Checkpoint:
    """One file with the state of one call, replaced atomically as the work goes on.

    The file knows from which arguments it comes: the same call resumes it, another one is told
    and leaves it untouched. Without a directory nothing is read or written.

    Args:
        directory: where the file is, created if need be; None for no checkpoint.
        name: of the work, and of the file.
        arguments: everything the result depends on, by the names the user knows: pytrees.

    Raises:
        ValueError: the directory cannot be written.
    """

    def __init__(
        self, directory: str | Path | None, name: str, arguments: Mapping[str, PyTree]
    ) -> None:
        self._path: Path | None = None
        self._kind = f"checkpoint of {name}"
        self._has_file = False  # one of this call
        self._has_warned = False
        self._saved_at = time.monotonic()
        if directory is None:
            return
        folder = Path(directory)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(
                f"checkpoint_dir: expected a directory that can be written, got {folder} ({error})"
            ) from error
        self._path = folder / f"{name}.safetensors"
        remove_leftovers(self._path)
        self._digests = {name: digest(value) for name, value in arguments.items()}

    def load[S: PyTree](self, like: S) -> S | None:
        """The state the file holds, or None if there is none yet.

        Args:
            like: a state of the same structure and dtypes; the shapes are those of the file.

        Returns:
            The state, or None.

        Raises:
            ValueError: the file is damaged, or is of a call with other arguments, which are named.
        """
        if self._path is None or not self._path.exists():
            return None
        try:
            arrays, description = read_arrays("checkpoint_dir", self._path, self._kind)
        except OSError as error:
            raise ValueError(
                f"checkpoint_dir: expected a file that can be read, got {self._path} ({error})"
            ) from error
        recorded = description.get("arguments", {})
        changed = [name for name in self._digests if self._digests[name] != recorded.get(name)]
        if changed:
            raise ValueError(
                f"checkpoint_dir: expected a checkpoint of this call, got one made with another "
                f"{', '.join(changed)}: {self._path}; give another directory, or remove it"
            )
        leaves, structure = jax.tree.flatten(like)
        loaded = [
            _restored(arrays.get(f"{i:04d}"), leaf, self._path) for i, leaf in enumerate(leaves)
        ]
        self._has_file = True
        state: S = jax.tree.unflatten(structure, loaded)
        return state

    def save(self, state: PyTree, *, force: bool = False) -> None:
        """Write the state, unless the last writing is only seconds ago.

        Where the first writing fails it raises, since nothing is lost yet; where a later one does,
        it warns once, the work goes on, and the next one tries again.

        Args:
            state: a pytree of arrays.
            force: write in any case.

        Raises:
            ValueError: the directory cannot be written.

        Warns:
            RuntimeWarning: a later writing failed.
        """
        if self._path is None:
            return
        if not force and time.monotonic() - self._saved_at < _SECONDS_BETWEEN:
            return
        arrays = {f"{i:04d}": _to_numpy(leaf) for i, leaf in enumerate(jax.tree.leaves(state))}
        try:
            write_arrays(self._path, self._kind, arrays, {"arguments": self._digests})
            self._has_file = True
        except OSError as error:
            if not self._has_file:
                raise ValueError(
                    "checkpoint_dir: expected a directory that can be written, got "
                    f"{self._path.parent} ({error})"
                ) from error
            if not self._has_warned:
                warn(
                    f"checkpoint_dir: {self._path} could not be replaced ({error}); the work goes "
                    "on, and the file keeps an earlier state of it"
                )
            self._has_warned = True
        self._saved_at = time.monotonic()


def _restored(x: np.ndarray | None, like: ArrayLike, path: Path) -> Array:
    """An array of the file in place of `like`."""
    reference = _to_numpy(like)
    if x is None or x.dtype != reference.dtype or x.ndim != reference.ndim:
        raise ValueError(
            f"checkpoint_dir: expected a checkpoint of this version of ssmlin, got another: {path}"
        )
    if _is_key(like):
        return jax.random.wrap_key_data(jnp.asarray(x), impl=jax.random.key_impl(like))
    return jnp.asarray(x)
