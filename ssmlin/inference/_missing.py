"""What of the emissions is missing: NaN, masked, or padding after the end of a sequence."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from ssmlin import _checks
from ssmlin._typing import AnyArray

#: The length of one sequence, or of every sequence of a batch.
Length = int | np.int32 | np.int64 | Int[AnyArray, "*B"]


def observed_entries(
    emissions: Float[Array, "*B T m"],
    mask: Bool[AnyArray, "*B T"] | None,
    length: Length | None,
    sizes: dict[str, int],
) -> Bool[Array, "*B T m"]:
    """Which entries were observed: not NaN, not masked and not padding.

    Args:
        emissions: y, with or without a batch axis.
        mask: False where the whole emission counts as missing.
        length: the number of steps that belong to each sequence.
        sizes: T and, where there is a batch axis, B.

    Raises:
        ValueError: a mask or lengths of the wrong shape, or lengths out of range.
        TypeError: a mask that is not boolean.
    """
    batch = ("B",) if emissions.ndim == 3 else ()
    observed = ~jnp.isnan(emissions)
    if mask is not None:
        mask = jnp.asarray(mask)
        if mask.dtype != bool:
            raise TypeError(f"mask: expected a boolean array, got {_checks.describe(mask)}")
        observed &= _checks.shaped("mask", mask, (*batch, "T"), sizes)[..., None]
    if length is not None:
        lengths = jnp.asarray(length)
        if lengths.ndim:
            _checks.shaped("length", lengths, batch, sizes)
        if _checks.is_concrete(lengths):
            values = np.asarray(lengths)
            if ((values < 0) | (values > sizes["T"])).any():
                raise ValueError(f"length: expected 0 <= length <= T = {sizes['T']}, got {length}")
        observed &= (jnp.arange(sizes["T"]) < lengths[..., None])[..., None]
    return observed
