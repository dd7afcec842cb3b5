"""A model's settings and parameters in one file."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from dynamax.parameters import ParameterProperties

from ssmlin._files import read_arrays, write_arrays
from ssmlin.learning.target import paths, property_leaves

_KIND = "model"


def write_model(
    path: Path, settings: Mapping[str, Any], params: Any, props: Any, expected: Any
) -> None:
    """Write settings as JSON and parameters by their paths.

    Raises:
        OSError: the file cannot be written.
        ValueError: parameters whose names or shapes are not those of `expected`.
    """
    arrays = dict(zip(paths(params), map(np.asarray, jax.tree.leaves(params)), strict=True))
    shapes = dict(zip(paths(expected), map(jnp.shape, jax.tree.leaves(expected)), strict=True))
    found = {name: x.shape for name, x in arrays.items()}
    if found != shapes:
        wrong = sorted(name for name in found | shapes if found.get(name) != shapes.get(name))
        name = wrong[0]
        raise ValueError(
            f"params: expected {name} of shape {shapes.get(name)}, got {found.get(name)}"
        )
    flags = [bool(prop.trainable) for prop in property_leaves(props)]
    trainable = dict(zip(paths(params), flags, strict=True))
    write_arrays(path, _KIND, arrays, {"settings": dict(settings), "trainable": trainable})


def _tuples(x: Any) -> Any:
    """JSON's lists as the tuples they were."""
    if isinstance(x, list):
        return tuple(_tuples(y) for y in x)
    return {k: _tuples(v) for k, v in x.items()} if isinstance(x, dict) else x


def read_model(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray], dict[str, bool]]:
    """Settings, parameters by path, and which of them are trainable.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is damaged, or holds something else.
    """
    arrays, description = read_arrays("path", path, _KIND)
    return _tuples(description["settings"]), arrays, description["trainable"]


def restore(
    params: Any,
    props: Any,
    arrays: Mapping[str, np.ndarray],
    trainable: Mapping[str, bool],
    path: str | Path,
) -> tuple[Any, Any]:
    """The file's values and flags in the structures of `params` and `props`.

    Raises:
        ValueError: the names are not those of the model.

    Warns:
        RuntimeWarning: double precision that is rounded to single.
    """
    names = paths(params)
    if sorted(names) != sorted(arrays):
        raise ValueError(
            f"path: expected a model of this version of ssmlin, got other parameters: {path}"
        )
    if not jax.config.jax_enable_x64 and any(x.dtype == np.float64 for x in arrays.values()):
        warnings.warn(
            f"path: {path} holds double precision and JAX is in single; the parameters are rounded",
            RuntimeWarning,
            stacklevel=3,
        )
    leaves = [jnp.asarray(arrays[name], _dtype(arrays[name])) for name in names]
    flagged = [
        ParameterProperties(trainable=trainable[name], constrainer=prop.constrainer)
        for name, prop in zip(names, property_leaves(props), strict=True)
    ]
    structure = jax.tree.structure(props, is_leaf=lambda x: isinstance(x, ParameterProperties))
    new = jax.tree.unflatten(jax.tree.structure(params), leaves)
    return new, jax.tree.unflatten(structure, flagged)


def _dtype(x: np.ndarray) -> Any:
    """The precision that JAX's setting allows."""
    return jax.dtypes.canonicalize_dtype(x.dtype)
