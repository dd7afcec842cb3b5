"""The one registry of mechanisms."""

from collections.abc import Mapping
from types import MappingProxyType

from ssmlin.mechanisms.additive import GLA, BayesianMemory, Mamba2, RetNet, Vanilla
from ssmlin.mechanisms.base import Mechanism
from ssmlin.mechanisms.delta import (
    KDA,
    RWKV7,
    DeltaNet,
    DeltaProduct,
    GatedDeltaNet,
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
    Longhorn,
    RWKV7,
    DeltaProduct,
    GatedDeltaProduct,
    BayesianMemory,
)

#: The names of the family and their classes.
MECHANISMS: Mapping[str, type[Mechanism]] = MappingProxyType({c.name: c for c in _FAMILY})


def get_mechanism(mechanism: str | Mechanism, negative_eigenvalues: bool = False) -> Mechanism:
    """Return a mechanism by name; an instance passes through.

    Raises:
        ValueError: an unknown name (the message lists the known ones), or negative eigenvalues
            asked of a mechanism that has no such form.
        TypeError: neither a name nor a mechanism.
    """
    if isinstance(mechanism, Mechanism):
        return mechanism
    if not isinstance(mechanism, str):
        raise TypeError(
            f"mechanism: expected a name or a Mechanism, got {type(mechanism).__name__}"
        )
    if mechanism not in MECHANISMS:
        raise ValueError(f"mechanism: expected one of {', '.join(MECHANISMS)}; got {mechanism!r}")
    return MECHANISMS[mechanism](negative_eigenvalues=negative_eigenvalues)
