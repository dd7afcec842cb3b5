"""From inputs to tokens: lagged inputs, learned projections and gates, and their parameters."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from dynamax.parameters import ParameterProperties
from jaxtyping import Array, Float, Shaped

from ssmlin import _checks
from ssmlin._typing import AnyArray
from ssmlin.data import lagged


class ParamsProjection(NamedTuple):
    """A linear map of the inputs, x_t = W u_t + b; doubles as a container of properties.

    Attributes:
        weights: W, (..., p).
        bias: b, (...).
    """

    weights: Float[Array, "... p"] | ParameterProperties
    bias: Float[Array, "..."] | ParameterProperties


class ParamsGate(NamedTuple):
    r"""A gate in an interval, $g_t = \sigma(\sigma^{-1}(g) + W u_t)$, σ scaled to the interval.

    Attributes:
        value: g, the gate at u_t = 0, (...).
        weights: W, (..., p); None for a constant gate.
    """

    value: Float[Array, "..."] | ParameterProperties
    weights: Float[Array, "... p"] | ParameterProperties | None


def project(params: ParamsProjection, inputs: Float[Array, "T p"]) -> Float[Array, "T ..."]:
    """W u_t + b at every step."""
    return jnp.einsum("...p,tp->t...", params.weights, inputs) + params.bias


def gate(
    params: ParamsGate, inputs: Float[Array, "T p"], low: float, high: float
) -> Float[Array, "T ..."]:
    """The gate at every step, inside [low, high]."""
    if params.weights is None:
        return jnp.broadcast_to(params.value, (inputs.shape[0], *jnp.shape(params.value)))
    # A gate that stands on its bound would have an infinite logit.
    # A scalar of NumPy has a type of its own, so that a value of weak type gets it here.
    margin = 4 * np.finfo(inputs.dtype).eps * (high - low)
    value = jnp.clip(params.value, low + margin, high - margin)
    logit = jnp.log((value - low) / (high - value))
    moved = logit + jnp.einsum("...p,tp->t...", params.weights, inputs)
    gates: Array = low + (high - low) * jax.nn.sigmoid(moved)
    return gates


def standard_normals(
    keys: Shaped[Array, "n ..."], shapes: Sequence[tuple[int, ...]], dtype: np.dtype
) -> list[Float[Array, "..."]]:
    """Independent standard normal arrays, each of a key of its own.

    They are cut from draws of one length, made together: of each array alone the random bits would
    be a program of their own to compile.
    """
    if not shapes:
        return []
    sizes = [math.prod(shape) for shape in shapes]
    draws = jax.vmap(lambda key: jax.random.normal(key, (max(sizes),), dtype))(keys)
    cut = zip(draws, sizes, shapes, strict=True)
    return [draw[:size].reshape(shape) for draw, size, shape in cut]


def lagged_inputs(
    emissions: Float[AnyArray, "T m"],
    num_lags: int,
    prev_emissions: Float[AnyArray, "num_lags m"] | None = None,
    *,
    include_current: bool = False,
) -> Float[Array, "T p"]:
    """Stack the previous values as inputs: row t is (y_{t-1}, ..., y_{t-L}), the latest first.

    With ``include_current`` row t starts with y_t itself: a short window over inputs. A value that
    is missing (NaN) is missing as a lag, too.

    Args:
        emissions: y, (T, m).
        num_lags: L.
        prev_emissions: the L values before the first, oldest first; default zeros.
        include_current: put y_t in front.

    Returns:
        The inputs, (T, L·m), or (T, (L + 1)·m) with `include_current`.

    Raises:
        ValueError: an argument of the wrong shape, or `num_lags` below 1.
        TypeError: an argument that is not of the expected type.

    Examples:
        >>> import jax.numpy as jnp, ssmlin
        >>> ssmlin.lagged_inputs(jnp.array([[1.0], [2.0], [3.0]]), 2).tolist()
        [[0.0, 0.0], [1.0, 0.0], [2.0, 1.0]]

    Source: the layout of dynamax's ``LinearAutoregressiveHMM.compute_inputs``.
    """
    _checks.positive_int("num_lags", num_lags)
    sizes = {"L": num_lags}
    y = _checks.shaped("emissions", _checks.float_array("emissions", emissions), ("T", "m"), sizes)
    before: AnyArray | None = None
    if prev_emissions is not None:
        before = _checks.float_array("prev_emissions", prev_emissions)
        _checks.finite(
            "prev_emissions", _checks.shaped("prev_emissions", before, ("L", "m"), sizes)
        )
    known: Any = y  # of either library
    if _checks.is_concrete(y) and _checks.is_concrete(before):  # then nothing is compiled
        known, before = np.asarray(y), None if before is None else np.asarray(before)
    xp = known.__array_namespace__()
    lags = lagged(known, num_lags, before)[:-1].reshape(len(y), num_lags * y.shape[1])
    parts = [known, lags] if include_current else [lags]
    rows: Array = jax.device_put(xp.concatenate(parts, axis=1))
    return rows
