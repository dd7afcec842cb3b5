"""Files of models: settings, parameters and what is trainable, in one safetensors file."""

import dataclasses
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from dynamax.parameters import ParameterProperties

from ssmlin._files import read_arrays, write_arrays
from ssmlin.learning import paths, property_leaves
from ssmlin.mechanisms import MECHANISMS, Mechanism
from ssmlin.models._linear_attention_ssm import LinearAttentionSSM
from ssmlin.models._parameterization import Parameterization
from ssmlin.models._parameters import ParamsLinearAttentionSSM, ShrinkagePrior
from ssmlin.models._parts import Part
from ssmlin.models._process_noise import PROCESS_NOISES
from ssmlin.models._regression import REGRESSIONS
from ssmlin.models._row_covariance import ROW_COVS

_KIND = "model"
#: What the names of further arrays begin with.
_FURTHER = "further."

#: The parts that a file can hold: those of which a kind has a name.
_NAMED_PARTS: Mapping[str, Mapping[str, Part]] = {
    "process_noise": PROCESS_NOISES,
    "regression": REGRESSIONS,
    "row_cov": ROW_COVS,
}


def save(
    path: str | Path,
    model: Parameterization,
    params: ParamsLinearAttentionSSM,
    props: ParamsLinearAttentionSSM | None = None,
    notes: Mapping[str, Any] | None = None,
    arrays: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Write a model, its parameters and further arrays; see :meth:`LinearAttentionSSM.save`."""
    fields = mechanism_fields(model.mechanism)
    if type(model) is not LinearAttentionSSM or type(model.prior) is not ShrinkagePrior:
        raise ValueError(
            "model: expected a LinearAttentionSSM with a ShrinkagePrior, got "
            f"{type(model).__name__} with {type(model.prior).__name__}"
        )
    own = {name: np.asarray(x) for name, x in _by_path(params).items()}
    _check_shapes("params", model, own)
    flags = [p.trainable for p in property_leaves(model.param_props if props is None else props)]
    if len(flags) != len(own):
        raise ValueError(
            f"props: expected properties of the {len(own)} parameters, got {len(flags)}"
        )
    trainable = dict(zip(own, flags, strict=True))
    description = {
        "settings": _settings(model),
        "mechanism": fields,
        "trainable": trainable,
        "notes": dict(notes or {}),
    }
    further = {_FURTHER + name: np.ascontiguousarray(x) for name, x in (arrays or {}).items()}
    write_arrays(Path(path), _KIND, own | further, description)


def load_arrays(path: str | Path) -> dict[str, np.ndarray]:
    """The further arrays in a file of a model.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is damaged, or holds something else.
    """
    arrays = read_arrays("path", Path(path), _KIND)[0]
    return {k.removeprefix(_FURTHER): x for k, x in arrays.items() if k.startswith(_FURTHER)}


def load_notes(path: str | Path) -> dict[str, Any]:
    """The notes in a file of a model, whatever :meth:`ssmlin.LinearAttentionSSM.save` was given.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is damaged, or holds something else.
    """
    notes: dict[str, Any] = read_arrays("path", Path(path), _KIND)[1].get("notes", {})
    return notes


def load(
    path: str | Path,
) -> tuple[LinearAttentionSSM, ParamsLinearAttentionSSM, ParamsLinearAttentionSSM]:
    """Read a model that :meth:`ssmlin.LinearAttentionSSM.save` wrote; nothing in it is run as code.

    Args:
        path: the file.

    Returns:
        The model, its parameters, bit by bit as they were, and their properties: trainable as they
        were, with the constrainers of ``initialize``.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is damaged, holds something else, is of another version of ssmlin, or its
            mechanism is not known here: :func:`ssmlin.register_mechanism` comes first.

    Warns:
        RuntimeWarning: parameters are in double precision and JAX is not; they are rounded.

    Examples:
        >>> import tempfile, pathlib, ssmlin
        >>> model = ssmlin.LinearAttentionSSM("mamba2", emission_dim=1, key_dim=2)
        >>> params, props = model.initialize()
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "model.safetensors"
        >>> model.save(path, params, props)
        >>> loaded, params, props = ssmlin.load(path)
        >>> loaded.mechanism.name
        'mamba2'
    """
    arrays, description = read_arrays("path", Path(path), _KIND)
    arrays = {name: x for name, x in arrays.items() if not name.startswith(_FURTHER)}
    name = description.get("settings", {}).get("mechanism")
    if isinstance(name, str) and name not in MECHANISMS:
        raise ValueError(
            f"path: expected a model of a registered mechanism, got one of {name!r}: {path}; "
            "register its class first, by ssmlin.register_mechanism"
        )
    try:
        settings, trainable = description["settings"], description["trainable"]
        prior = ShrinkagePrior(**_tuples(settings["prior"]))
        fields = {"negative_eigenvalues": settings["negative_eigenvalues"]}
        mechanism = MECHANISMS[settings["mechanism"]](
            **fields | _tuples(description.get("mechanism", {}))
        )
        parts = {name: _part(name, settings[name]) for name in _NAMED_PARTS}
        changed = {"mechanism": mechanism, "prior": prior}
        model = LinearAttentionSSM(**settings | parts | changed)
        _check_shapes("path", model, arrays)
        leaves, structure = jax.tree.flatten(
            model.param_props, lambda x: isinstance(x, ParameterProperties)
        )
        names = list(_by_path(jax.tree.unflatten(structure, range(len(leaves)))))
        leaves = [
            ParameterProperties(trainable[name], prop.constrainer)
            for name, prop in zip(names, leaves, strict=True)
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"path: expected a model of this version of ssmlin, got another: {path} ({error})"
        ) from error
    if not jax.config.jax_enable_x64 and any(x.dtype == np.float64 for x in arrays.values()):
        warnings.warn(
            f"path: {path} holds parameters in double precision, which are rounded to single "
            "precision; to keep them, set jax_enable_x64",
            RuntimeWarning,
            stacklevel=2,
        )
    params = jax.tree.unflatten(structure, [jax.device_put(arrays[name]) for name in names])
    return model, params, jax.tree.unflatten(structure, leaves)


def _settings(model: Parameterization) -> dict[str, Any]:
    """The settings as JSON can hold them."""
    settings = model.settings
    for name, known in _NAMED_PARTS.items():
        if isinstance(part := settings[name], str):
            continue
        kind = type(part)
        if kind not in {type(other) for other in known.values()}:
            raise ValueError(
                f"{name}: expected a kind that ssmlin has a name for, since a file holds names and "
                f"not code; got {part!r}"
            )
        settings[name] = {"kind": kind.__name__} | _arguments(part)
    mechanism, prior = model.mechanism.name, dataclasses.asdict(model.prior)
    del settings["mesh"]  # where it is computed is no part of the model
    return settings | {"mechanism": mechanism, "prior": prior}


def _arguments(part: Any) -> dict[str, Any]:
    """The arguments that make a frozen dataclass again."""
    return {x.name: getattr(part, x.name) for x in dataclasses.fields(part) if x.init}


def _part(name: str, description: Any) -> Any:
    """What the constructor of a model takes: a part's name, or the part that a file describes."""
    if isinstance(description, str):
        return description
    kinds = {type(part).__name__: type(part) for part in _NAMED_PARTS[name].values()}
    arguments: dict[str, Any] = _tuples(dict(description))
    kind: Any = kinds[arguments.pop("kind")]
    return kind(**arguments)


def _tuples(x: Any) -> Any:
    """JSON knows lists alone; the fields of what is hashable are tuples."""
    if isinstance(x, dict):
        return {key: _tuples(one) for key, one in x.items()}
    return tuple(_tuples(one) for one in x) if isinstance(x, list) else x


def mechanism_fields(mechanism: Mechanism) -> dict[str, Any]:
    """What besides its name and its eigenvalues makes a mechanism again.

    Raises:
        ValueError: a file cannot hold the mechanism: it is not registered, or JSON cannot hold its
            fields.
    """
    name, cls = mechanism.name, type(mechanism)
    if cls is not MECHANISMS.get(name):
        raise ValueError(
            "mechanism: expected one of ssmlin.MECHANISMS, since a file holds its name and not its "
            f"code; got {cls.__name__} with the name {name!r}; "
            f"ssmlin.register_mechanism({cls.__name__}) makes it one"
        )
    own = {x.name: getattr(mechanism, x.name) for x in dataclasses.fields(mechanism)}
    eigenvalues = own.pop("negative_eigenvalues")
    try:
        again = cls(eigenvalues, **_tuples(json.loads(json.dumps(own))))
    except (TypeError, ValueError):
        again = None
    if again != mechanism:
        raise ValueError(
            f"mechanism: expected fields of {cls.__name__} that JSON can hold, got {mechanism!r}"
        )
    return own


def _by_path(tree: Any) -> dict[str, Any]:
    """The leaves of parameters by path."""
    return dict(zip(paths(tree), jax.tree.leaves(tree), strict=True))


def _check_shapes(name: str, model: Parameterization, arrays: Mapping[str, np.ndarray]) -> None:
    """Raise ValueError unless these are the parameters of the model."""
    shapes = jax.eval_shape(model._initial_params, jax.random.key(0), None, None)
    expected = {path: x.shape for path, x in _by_path(shapes).items()}
    found = {path: x.shape for path, x in arrays.items()}
    for path in sorted(expected.keys() | found.keys()):
        if expected.get(path) != found.get(path):
            raise ValueError(
                f"{name}: expected the parameters of {model!r}, with {path} of shape "
                f"{expected.get(path)}, got {found.get(path)}"
            )
