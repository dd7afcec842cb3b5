"""Causal softmax attention, the oracle for everything that stands in for it."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ssmlin import _checks


def softmax_attention(
    queries: Float[Array, "T d"],
    keys: Float[Array, "T d"],
    values: Float[Array, "T m"],
    *,
    scale: float | Float[Array, ""] | None = None,
    bias: Float[Array, "T T"] | None = None,
) -> Float[Array, "T m"]:
    r"""Causal attention.

    $$o_t = \sum_{s \le t} a_{ts} v_s, \quad
    a_{ts} \propto \exp(\lambda \, q_t^\top k_s + b_{ts})$$

    Args:
        queries: q, (T, d).
        keys: k, (T, d).
        values: v, (T, m).
        scale: λ; default $d^{-1/2}$.
        bias: b, (T, T); −∞ takes a key out. Each query must be left with one.

    Returns:
        o, (T, m).

    Raises:
        ValueError: arrays whose shapes do not match.
        TypeError: arrays that are not of floating point.

    Example:
        >>> import jax.numpy as jnp
        >>> from ssmlin.attention import softmax_attention
        >>> q = k = jnp.zeros((3, 2))
        >>> softmax_attention(q, k, jnp.array([[1.0], [2.0], [6.0]])).ravel().tolist()
        [1.0, 1.5, 3.0]

    Source: Vaswani et al. (2017), arXiv 1706.03762.
    """
    queries, keys, values = check_tokens(queries, keys, values)
    steps, d = queries.shape
    scores = (d**-0.5 if scale is None else scale) * (queries @ keys.T)
    if bias is not None:
        if jnp.shape(bias) != (steps, steps):
            raise ValueError(f"bias: expected shape ({steps}, {steps}), got {jnp.shape(bias)}")
        scores = scores + bias
    return jax.nn.softmax(jnp.where(jnp.tri(steps, dtype=bool), scores, -jnp.inf)) @ values


def check_tokens(queries: Array, keys: Array, values: Array) -> tuple[Array, Array, Array]:
    """Floating point arrays of matching shapes (T, d), (T, d), (T, m), or an error."""
    q, k, v = (
        _checks.float_array(name, x)
        for name, x in (("queries", queries), ("keys", keys), ("values", values))
    )
    if q.ndim != 2:
        raise ValueError(f"queries: expected shape (T, d), got {q.shape}")
    if k.shape != q.shape:
        raise ValueError(f"keys: expected the queries' shape {q.shape}, got {k.shape}")
    if v.ndim != 2 or len(v) != len(q):
        raise ValueError(f"values: expected shape ({len(q)}, m), got {v.shape}")
    return q, k, v
