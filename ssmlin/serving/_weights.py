"""Matrices in fewer bytes, for files."""

from typing import Any, NamedTuple

import numpy as np

#: The types that matrices can be kept in.
WEIGHTS = ("float32", "float16", "int8")


class Kept(NamedTuple):
    """A matrix as it is kept; where there is a scale, it is ``values * scale``."""

    values: np.ndarray
    scale: np.ndarray | None = None


def keep(x: np.ndarray, weights: str | None) -> Kept:
    """A matrix in one of `WEIGHTS`; as it is for None.

    "int8" keeps whole numbers of -127 to 127, and a scale for each row along the longest axis.

    Raises:
        ValueError: a value is too large for float16.
    """
    if weights is None:
        return Kept(x)
    if weights == "int8":
        most = np.abs(x).max(axis=int(np.argmax(x.shape)), keepdims=True)
        scale: Any = np.where(most > 0, most, 1) / 127
        return Kept(np.rint(x / scale).astype(np.int8), scale.astype(x.dtype))
    with np.errstate(over="ignore"):
        kept = x.astype(weights)
    if np.isinf(kept).any():
        raise ValueError(
            f"weights: expected 'float32', since a weight of {np.abs(x).max():.3g} is beyond "
            f"{np.finfo(weights).max:.3g}; got {weights!r}"
        )
    return Kept(kept)
