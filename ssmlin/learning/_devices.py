"""Chains and sequences shared out over the devices of this process."""

from collections.abc import Callable
from functools import cache
from typing import Any

import jax
from jax.sharding import NamedSharding


@cache
def _sharding() -> NamedSharding | None:
    """Along the first axis over all devices; None where there is one."""
    devices = jax.local_devices()
    if len(devices) == 1:
        return None
    mesh = jax.make_mesh(
        (len(devices),), ("batch",), axis_types=(jax.sharding.AxisType.Auto,), devices=devices
    )
    along: Callable[..., Any] = jax.sharding.PartitionSpec
    return NamedSharding(mesh, along("batch"))


def _divides(count: int, sharding: NamedSharding | None) -> bool:
    return sharding is not None and count % sharding.mesh.size == 0


def over_devices[T](tree: T, count: int) -> T:
    """Arrays with a first axis of `count` entries, spread if these can be shared out evenly."""
    sharding = _sharding()
    if not _divides(count, sharding):
        return tree
    spread: T = jax.device_put(tree, sharding)
    return spread


def kept_over_devices[T](tree: T, count: int) -> T:
    """The same in a compiled program."""
    sharding = _sharding()
    if sharding is None or not _divides(count, sharding):
        return tree
    spread: T = jax.lax.with_sharding_constraint(tree, sharding)  # type: ignore[no-untyped-call]
    return spread
