"""Slim attention: values are computed from the cached keys, so only keys are cached."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ssmlin import _checks
from ssmlin._typing import AnyArray


def slim_projection(
    key_weights: Float[AnyArray, "D D"], value_weights: Float[AnyArray, "D M"]
) -> Float[Array, "D M"]:
    r"""The map from keys to values, $W_{KV} = W_K^{-1} W_V$.

    With K = X W_K and V = X W_V for all heads together, V = K W_KV. Rounding errors increase with
    the condition number of W_K.

    Args:
        key_weights: W_K of all heads together, (D, D), before rotary embeddings.
        value_weights: W_V, (D, M).

    Returns:
        W_KV, (D, M).

    Raises:
        ValueError: W_K is singular, or not square, as with grouped or multi-query attention, which
            have fewer key heads than query heads; or W_V has another number of rows.
        TypeError: arrays that are not of floating point.

    Examples:
        >>> import jax.numpy as jnp
        >>> from ssmlin.attention import slim_projection
        >>> slim_projection(2.0 * jnp.eye(2), jnp.ones((2, 3))).tolist()
        [[0.5, 0.5, 0.5], [0.5, 0.5, 0.5]]

    Source: Graef and Wasielewski (2025), arXiv 2503.05840.
    """
    key_weights = _checks.float_array("key_weights", key_weights)
    value_weights = _checks.float_array("value_weights", value_weights)
    if key_weights.ndim != 2 or key_weights.shape[0] != key_weights.shape[1]:
        raise ValueError(
            "key_weights: expected a square matrix (multi-head attention; with grouped or "
            f"multi-query attention keys do not determine values), got shape {key_weights.shape}"
        )
    if value_weights.ndim != 2 or len(value_weights) != len(key_weights):
        raise ValueError(
            f"value_weights: expected shape ({len(key_weights)}, M), got {value_weights.shape}"
        )
    if _checks.is_concrete(key_weights):
        rank = np.linalg.matrix_rank(np.asarray(key_weights))
        if rank < len(key_weights):
            raise ValueError(
                f"key_weights: expected an invertible matrix, got one of rank {rank} for "
                f"{len(key_weights)} columns"
            )
    projection: Float[Array, "D M"] = jnp.linalg.solve(key_weights, value_weights)
    return projection


def slim_attention(
    queries: Float[AnyArray, "T H d"],
    keys: Float[AnyArray, "T H d"],
    projection: Float[AnyArray, "D M"],
) -> Float[Array, "T H m"]:
    r"""Causal softmax attention of several heads, from queries and keys only.

    $$o^{(h)}_t = \Big(\sum_{s \le t} a^{(h)}_{ts} K_s\Big) W_{KV}^{(h)}$$

    K_s holds the keys of all heads. The cache has H·d numbers a token instead of H·(d + m). The
    sum over the keys comes first, so no values are computed.

    Args:
        queries: q, (T, H, d).
        keys: k, (T, H, d), before rotary embeddings.
        projection: W_KV of :func:`slim_projection`, (H·d, H·m).

    Returns:
        o, (T, H, m).

    Raises:
        ValueError: arrays whose shapes do not match.
        TypeError: arrays that are not of floating point.

    Examples:
        >>> import jax.numpy as jnp
        >>> from ssmlin.attention import slim_attention
        >>> slim_attention(jnp.ones((3, 2, 2)), jnp.ones((3, 2, 2)), jnp.eye(4)).shape
        (3, 2, 2)

    Source: arXiv 2503.05840, section 2.
    """
    q = _checks.float_array("queries", queries)
    k = _checks.float_array("keys", keys)
    projection = _checks.float_array("projection", projection)
    if q.ndim != 3:
        raise ValueError(f"queries: expected shape (T, H, d), got {q.shape}")
    if k.shape != q.shape:
        raise ValueError(
            f"keys: expected the queries' shape {q.shape}, as many key heads as query heads, got "
            f"{k.shape}"
        )
    steps, heads, d = q.shape
    if projection.ndim != 2 or len(projection) != heads * d or projection.shape[1] % heads:
        raise ValueError(
            f"projection: expected shape ({heads * d}, {heads} m), got {projection.shape}"
        )
    scores = jnp.einsum("thd,shd->hts", q, k) * d**-0.5
    weights = jax.nn.softmax(jnp.where(jnp.tri(steps, dtype=bool), scores, -jnp.inf))
    summed = jnp.einsum("hts,sD->htD", weights, k.reshape(steps, heads * d))
    by_head = projection.reshape(heads * d, heads, -1)
    return jnp.einsum("htD,Dhm->thm", summed, by_head)
