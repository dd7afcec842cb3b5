"""Causal softmax attention, which the tests compare its alternatives with."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ssmlin import _checks
from ssmlin._typing import AnyArray, Scalar


def softmax_attention(
    queries: Float[AnyArray, "T d"],
    keys: Float[AnyArray, "T d"],
    values: Float[AnyArray, "T m"],
    *,
    scale: Scalar | None = None,
    bias: Float[AnyArray, "T T"] | None = None,
) -> Float[Array, "T m"]:
    r"""Causal softmax attention.

    $$o_t = \sum_{s \le t} a_{ts} v_s, \quad
    a_{ts} \propto \exp(\lambda \, q_t^\top k_s + b_{ts})$$

    Args:
        queries: q, (T, d).
        keys: k, (T, d).
        values: v, (T, m).
        scale: λ; default $d^{-1/2}$.
        bias: b, (T, T); −∞ excludes a key. At least one key must remain for each query.

    Returns:
        o, (T, m).

    Raises:
        ValueError: arrays whose shapes do not match.
        TypeError: arrays that are not of floating point.

    Examples:
        >>> import jax.numpy as jnp
        >>> from ssmlin.attention import softmax_attention
        >>> q = k = jnp.zeros((3, 2))
        >>> softmax_attention(q, k, jnp.array([[1.0], [2.0], [6.0]])).ravel().tolist()
        [1.0, 1.5, 3.0]

    Source: Vaswani et al. (2017), arXiv 1706.03762.
    """
    q, k, v = check_tokens(queries, keys, values)
    steps, d = q.shape
    scores = (d**-0.5 if scale is None else scale) * (q @ k.T)
    if bias is not None:
        if jnp.shape(bias) != (steps, steps):
            raise ValueError(f"bias: expected shape ({steps}, {steps}), got {jnp.shape(bias)}")
        scores = scores + bias
    return jax.nn.softmax(jnp.where(jnp.tri(steps, dtype=bool), scores, -jnp.inf)) @ v


def check_tokens(
    queries: Float[AnyArray, "T d"], keys: Float[AnyArray, "T d"], values: Float[AnyArray, "T m"]
) -> tuple[Float[Array, "T d"], Float[Array, "T d"], Float[Array, "T m"]]:
    """Check queries, keys and values, and return them as arrays of JAX.

    Raises:
        ValueError: arrays whose shapes do not match.
        TypeError: arrays that are not of floating point.
    """
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
