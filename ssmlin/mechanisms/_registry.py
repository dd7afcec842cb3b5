"""The registry of mechanisms: all that the rest of the package knows by name."""

from collections.abc import Mapping
from functools import cache
from inspect import signature
from keyword import iskeyword
from types import MappingProxyType

from ssmlin.mechanisms._additive import GLA, BayesianMemory, Mamba2, RetNet, Vanilla
from ssmlin.mechanisms._base import Gate, Mechanism
from ssmlin.mechanisms._delta import (
    KDA,
    RWKV7,
    DeltaNet,
    DeltaProduct,
    GatedDeltaNet,
    GatedDeltaNet2,
    GatedDeltaProduct,
    Longhorn,
)

_FAMILY: tuple[type[Mechanism], ...] = (
    Vanilla,
    RetNet,
    Mamba2,
    GLA,
    DeltaNet,
    GatedDeltaNet,
    KDA,
    GatedDeltaNet2,
    Longhorn,
    RWKV7,
    DeltaProduct,
    GatedDeltaProduct,
    BayesianMemory,
)

_REGISTERED: dict[str, type[Mechanism]] = {cls.name: cls for cls in _FAMILY}

#: The names of the mechanisms and their classes; :func:`register_mechanism` adds to them.
MECHANISMS: Mapping[str, type[Mechanism]] = MappingProxyType(_REGISTERED)


def register_mechanism[T: type[Mechanism]](cls: T) -> T:
    """Register a mechanism of your own, so that its name works wherever a mechanism's name does.

    Only this process knows it: a file holds a mechanism's name and not its code, so register it
    before you load a model with it. Registering the same class again changes nothing. A module or
    a notebook cell that is run again replaces its own class.

    Args:
        cls: the class, see :class:`ssmlin.mechanisms.Mechanism`.

    Returns:
        The class, so that this works as a decorator.

    Raises:
        TypeError: not a subclass of Mechanism, or a class that lacks a method or cannot be made
            without arguments.
        ValueError: its name or the name of a gate is taken, or its declaration is not complete.

    Examples:
        >>> import jax.numpy as jnp, ssmlin
        >>> from ssmlin.lgssm import LowRank
        >>> from ssmlin.mechanisms import Gate, Mechanism, diagonal_transition
        >>> @ssmlin.register_mechanism
        ... class Leaky(Mechanism):
        ...     name = "leaky"
        ...     transition_formula, drift_formula = "f I", "v kᵀ"
        ...     gates = {"forget": Gate("decay")}
        ...     def transition(self, tokens):
        ...         forget = tokens.forget[..., None]
        ...         return diagonal_transition(jnp.broadcast_to(forget, tokens.keys.shape))
        ...     def drift(self, tokens):
        ...         return LowRank(tokens.values[..., None], tokens.keys[..., None])
        >>> ones = jnp.ones((2, 1))
        >>> ssmlin.linear_attention("leaky", keys=ones, values=ones, queries=ones, forget=0.5)
        Array([[1. ],
               [1.5]], dtype=float32)
    """
    check_declaration(cls)
    known = MECHANISMS.get(cls.name)
    if known is not None and known is not cls and not _is_redefined(known, cls):
        raise ValueError(
            f"name: expected one that is not taken, got {cls.name!r} for {cls.__qualname__}, which "
            f"is that of {known.__module__}.{known.__qualname__}"
        )
    _REGISTERED[cls.name] = cls
    return cls


def _is_redefined(old: type, new: type) -> bool:
    """Whether the same line of a module or of a notebook was run again."""
    where = (new.__module__, new.__qualname__)
    return "<locals>" not in new.__qualname__ and where == (old.__module__, old.__qualname__)


def check_declaration(cls: object) -> None:
    """Raise TypeError or ValueError unless a class declares all that a mechanism must declare."""
    if not (isinstance(cls, type) and issubclass(cls, Mechanism)):
        hint = f"; expected {type(cls).__name__} itself" if isinstance(cls, Mechanism) else ""
        raise TypeError(
            f"mechanism: expected a subclass of ssmlin.mechanisms.Mechanism, got {cls!r}{hint}"
        )
    missing = ", ".join(sorted(getattr(cls, "__abstractmethods__", ())))
    if missing:
        raise TypeError(f"{cls.__qualname__}: expected the methods {missing}, got none")
    for attribute in ("name", "transition_formula", "drift_formula"):
        text = getattr(cls, attribute, None)
        if not (isinstance(text, str) and text.strip()):
            raise ValueError(f"{cls.__qualname__}.{attribute}: expected a text, got {text!r}")
    if not cls.name.isidentifier():
        raise ValueError(
            f"{cls.__qualname__}.name: expected letters, digits and underscores, got {cls.name!r}"
        )
    for attribute in ("gates", "alternative_gates"):
        gates = getattr(cls, attribute)
        if not isinstance(gates, Mapping):
            raise ValueError(
                f"{cls.__qualname__}.{attribute}: expected names with their kinds and ranges, "
                f"{{name: ssmlin.mechanisms.Gate(...)}}, got {gates!r}"
            )
        for name, gate in gates.items():
            _check_gate(f"{cls.__qualname__}.{attribute}", name, gate)
    try:
        cls()
    except TypeError as error:
        raise TypeError(
            f"{cls.__qualname__}: expected defaults for all its fields, so that its name says all; "
            f"got {error}"
        ) from error


def _check_gate(where: str, name: object, gate: object) -> None:
    """Raise ValueError unless this is a gate whose name nothing else has."""
    if not isinstance(gate, Gate):
        raise ValueError(
            f"{where}[{name!r}]: expected ssmlin.mechanisms.Gate(...), with its kind and range, "
            f"got {gate!r}"
        )
    if not (isinstance(name, str) and name.isidentifier()) or iskeyword(name) or name[:1] == "_":
        raise ValueError(f"{where}: expected names that can be arguments, got {name!r}")
    if name in _taken_names() or name.endswith(("_t", "_value", "_weights", "_bias")):
        raise ValueError(
            f"{where}: expected names that no argument or parameter has, which do not end in _t, "
            f"_value, _weights or _bias, got {name!r}"
        )


@cache
def _taken_names() -> frozenset[str]:
    """Names that a gate cannot have: other arguments, and other parts of a parameter's path."""
    # Imported here, since these modules import this one.
    from ssmlin.mechanisms._construct import matrix_lgssm
    from ssmlin.mechanisms._recurrence import linear_attention

    arguments = {
        parameter.name
        for function in (matrix_lgssm, linear_attention, Mechanism)
        for parameter in signature(function).parameters.values()
    }
    return frozenset(arguments | _PARTS)


#: Parts of the paths of a model's parameters, and other names in its posterior.
_PARTS = set(
    "initial mean variances tokens process_noise scale regression weights bias basis variance "
    "noise row_cov covariance value states gates lp initial_variances regression_basis "
    "regression_variance regression_noise row_cov_noise".split()
)


def get_mechanism(mechanism: str | Mechanism, negative_eigenvalues: bool = False) -> Mechanism:
    """Return the mechanism of a name; an instance is returned as it is.

    Args:
        mechanism: a name in ``ssmlin.MECHANISMS``, or an instance.
        negative_eigenvalues: as the field of :class:`ssmlin.mechanisms.Mechanism`.

    Returns:
        The mechanism.

    Raises:
        ValueError: an unknown name (the message lists the known ones), an instance whose class is
            not complete, or negative eigenvalues with a mechanism that has no such form or with an
            instance that was made without them.
        TypeError: neither a name nor a mechanism, or a mechanism that is not hashable.

    Examples:
        >>> from ssmlin.mechanisms import get_mechanism
        >>> get_mechanism("deltanet", negative_eigenvalues=True)
        DeltaNet(negative_eigenvalues=True)
    """
    if isinstance(mechanism, Mechanism):
        if negative_eigenvalues and not mechanism.negative_eigenvalues:
            raise ValueError(
                "negative_eigenvalues: expected it of the mechanism itself, "
                f"{type(mechanism).__name__}(negative_eigenvalues=True); got {mechanism!r}"
            )
        if type(mechanism) is not MECHANISMS.get(mechanism.name):
            check_declaration(type(mechanism))
        try:
            hash(mechanism)
        except TypeError as error:
            raise TypeError(
                f"mechanism: expected fields that are hashable, got {mechanism!r} ({error})"
            ) from error
        return mechanism
    if not isinstance(mechanism, str):
        raise TypeError(
            f"mechanism: expected a name or a Mechanism, got {type(mechanism).__name__}"
        )
    if mechanism not in MECHANISMS:
        raise ValueError(
            f"mechanism: expected one of {', '.join(MECHANISMS)}; got {mechanism!r}; one of your "
            "own is first registered, by ssmlin.register_mechanism"
        )
    return MECHANISMS[mechanism](negative_eigenvalues=negative_eigenvalues)
