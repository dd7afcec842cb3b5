"""Lengths rounded up, so that series of nearby lengths share a compiled program."""

import numpy as np

_SMALLEST = 8


def bucket(n: int) -> int:
    """The next of 4, 5, 6 and 7 times a power of two; 8 at least.

    A program is compiled for each shape. Padded to a bucket, with the added steps masked, series of
    nearby lengths have one shape, which is never more than a quarter longer where n ≥ 8.

    Args:
        n: a length.

    Returns:
        The length of its bucket.

    Examples:
        >>> [bucket(n) for n in (3, 8, 9, 11, 13, 15, 100, 216, 225)]
        [8, 8, 10, 12, 14, 16, 112, 224, 256]
    """
    if n <= _SMALLEST:
        return _SMALLEST
    # The largest power of two of which n - 1 holds four, so n takes at most eight of them.
    unit: int = 1 << ((n - 1).bit_length() - 3)
    return -(-n // unit) * unit


def in_bucket(x: np.ndarray, value: float) -> np.ndarray:
    """Pad the steps of (..., T, n) to their bucket, at the end, with this value.

    Args:
        x: an array of NumPy.
        value: NaN for emissions, which is missing; 0 for inputs.

    Examples:
        >>> import numpy as np
        >>> in_bucket(np.ones((9, 1)), 0.0).sum(axis=-2), in_bucket(np.ones((9, 1)), 0.0).shape
        (array([9.]), (10, 1))
    """
    steps = x.shape[-2]
    extra = bucket(steps) - steps
    return np.pad(x, [(0, 0)] * (x.ndim - 2) + [(0, extra), (0, 0)], constant_values=value)
