"""Argument checks that all public functions share.

Shapes and dtypes are always checked. Values (finiteness, ranges) are checked only when they are
concrete: inside a traced function they are not known.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array


def is_concrete(x: object) -> bool:
    """Whether the values of `x` are known here.

    They are not while JAX traces a function, nor where other processes hold a part of the array.
    """
    if isinstance(x, jax.core.Tracer):
        return False
    return not isinstance(x, jax.Array) or x.is_fully_addressable or x.is_fully_replicated


def describe(x: object) -> str:
    """Describe an argument for an error message: dtype and shape, or type and value."""
    if hasattr(x, "dtype") and hasattr(x, "shape"):
        return f"{x.dtype} array of shape {tuple(x.shape)}"
    return f"{type(x).__name__} {x!r}"


def float_array(name: str, x: object) -> Array:
    """Return `x` as a float32 or float64 array.

    Python numbers and lists of floats are converted. Arrays of integers are refused.

    Raises:
        TypeError: `x` is not an array of floating point numbers.
    """
    expected = f"{name}: expected a float32 or float64 array"
    if x is None:
        raise TypeError(f"{expected}, got None")
    if isinstance(x, (bool, str, bytes)):
        raise TypeError(f"{expected}, got {describe(x)}")
    if isinstance(x, (int, float)):
        return jnp.asarray(float(x))
    try:
        array = x if hasattr(x, "dtype") else np.asarray(x)
        dtype = np.dtype(array.dtype)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{expected}, got {describe(x)}") from error
    if dtype not in (np.dtype(np.float32), np.dtype(np.float64)):
        raise TypeError(f"{expected}, got a {describe(array)}")
    if isinstance(array, Array):  # as it is, since what is known should stay so inside a trace
        return array
    # Of an array of NumPy `jnp.asarray` would compile a program for each shape.
    put: Array = jax.device_put(array)
    return put


def shaped(name: str, x: Array, dims: Sequence[str], sizes: dict[str, int]) -> Array:
    """Check that `x` has the named dimensions.

    Args:
        name: the argument's name, for the message.
        x: the array.
        dims: the names of its dimensions.
        sizes: the sizes known so far, by name. Sizes that are new are added.

    Raises:
        ValueError: the shape is another one.
    """
    ok = x.ndim == len(dims)
    if ok:
        for dim, size in zip(dims, x.shape, strict=True):
            ok = ok and sizes.setdefault(dim, size) == size
    if not ok:
        known = ", ".join(f"{dim} = {sizes[dim]}" for dim in dims if dim in sizes)
        where = f" with {known}" if known else ""
        raise ValueError(f"{name}: expected shape ({', '.join(dims)}){where}, got {tuple(x.shape)}")
    return x


def broadcast(name: str, x: Array, dims: Sequence[str], sizes: dict[str, int]) -> Array:
    """Broadcast a scalar, or an array with as many axes as `dims`, to the sizes of `dims`.

    Raises:
        ValueError: the shape cannot be broadcast.
    """
    shape = tuple(sizes[dim] for dim in dims)
    if x.ndim == 0 or (
        x.ndim == len(shape) and all(a in (1, b) for a, b in zip(x.shape, shape, strict=True))
    ):
        return jnp.broadcast_to(x, shape)
    raise ValueError(
        f"{name}: expected a scalar or shape ({', '.join(dims)}) = {shape}, got {tuple(x.shape)}"
    )


def finite(name: str, x: Array) -> Array:
    """Raise ValueError if a concrete `x` holds a NaN or an infinity."""
    if is_concrete(x) and not np.isfinite(values := np.asarray(x)).all():
        where = tuple(int(i) for i in np.argwhere(~np.isfinite(values))[0])
        raise ValueError(f"{name}: expected finite values, got {values[where]} at index {where}")
    return x


def no_infinity(name: str, x: Array) -> Array:
    """Raise ValueError if a concrete `x` holds an infinity; NaN means missing."""
    if is_concrete(x) and np.isinf(np.asarray(x)).any():
        raise ValueError(f"{name}: expected finite values or NaN for missing, got an infinity")
    return x


def between(name: str, x: Array, low: float, high: float) -> Array:
    """Raise ValueError if a concrete `x` leaves [low, high] or is not a number."""
    if is_concrete(x):
        values = np.asarray(x)
        bad = ~((values >= low) & (values <= high))
        if bad.any():
            where = tuple(int(i) for i in np.argwhere(bad)[0])
            interval = f">= {low:g}" if high == np.inf else f"in [{low:g}, {high:g}]"
            raise ValueError(
                f"{name}: expected values {interval}, got {values[where]:g} at index {where}"
            )
    return x


def covariance(name: str, x: Array) -> Array:
    """Raise ValueError if a concrete `x` is not symmetric positive semidefinite."""
    finite(name, x)
    if is_concrete(x):
        values = np.asarray(x, dtype=np.float64)
        scale = max(float(np.abs(values).max(initial=0.0)), np.finfo(np.float64).tiny)
        tolerance = 100 * float(np.finfo(x.dtype).eps) * scale * max(len(values), 1)
        if np.abs(values - values.T).max(initial=0.0) > tolerance:
            raise ValueError(f"{name}: expected a symmetric matrix, got an asymmetric one")
        smallest = float(np.linalg.eigvalsh(values).min(initial=0.0))
        if smallest < -tolerance:
            raise ValueError(
                f"{name}: expected a positive semidefinite matrix, "
                f"got one with eigenvalue {smallest:g}"
            )
    return x


def one_of(name: str, x: object, choices: Sequence[str]) -> str:
    """Raise ValueError if `x` is not among `choices`."""
    if not isinstance(x, str) or x not in choices:
        known = ", ".join(repr(choice) for choice in choices)
        raise ValueError(f"{name}: expected one of {known}, got {x!r}")
    return x


def positive_int(name: str, x: object, minimum: int = 1) -> int:
    """Raise TypeError or ValueError if `x` is not an integer of at least `minimum`."""
    if isinstance(x, bool) or not isinstance(x, (int, np.integer)):
        raise TypeError(f"{name}: expected an integer, got {describe(x)}")
    if x < minimum:
        raise ValueError(f"{name}: expected an integer >= {minimum}, got {x}")
    return int(x)
