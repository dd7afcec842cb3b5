"""Multi-token attention: weights that depend on neighbouring queries, keys and heads."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ssmlin import _checks
from ssmlin._typing import AnyArray


class ParamsMultiToken(NamedTuple):
    """Parameters of :func:`multi_token_attention`.

    Attributes:
        kernel: θ, (H, c_q, c_k): row i is for the query i steps before, and the middle column for
            the key itself.
        mixing: M, the weights of the heads, (H, H).
        norm: the scale of the group norm, (H, m); None for no norm.
    """

    kernel: Float[Array, "H c_q c_k"]
    mixing: Float[Array, "H H"]
    norm: Float[Array, "H m"] | None


def init_multi_token(
    num_heads: int, value_dim: int | None, query_size: int = 6, key_size: int = 11
) -> ParamsMultiToken:
    """Parameters that make multi-token attention softmax attention, apart from the norm.

    Args:
        num_heads: H, the number of heads.
        value_dim: m, for the group norm; None for no norm.
        query_size: c_q >= 1, the number of queries under the kernel.
        key_size: c_k >= 1, the number of keys under the kernel, an odd number.

    Returns:
        The parameters.

    Raises:
        ValueError: sizes below 1, or an even c_k.

    Examples:
        >>> from ssmlin.attention import init_multi_token
        >>> init_multi_token(2, None, query_size=1, key_size=3).kernel[0].tolist()
        [[0.0, 1.0, 0.0]]
    """
    _checks.positive_int("query_size", query_size)
    if _checks.positive_int("key_size", key_size) % 2 == 0:
        raise ValueError(f"key_size: expected an odd number, got {key_size}")
    kernel = jnp.zeros((num_heads, query_size, key_size)).at[:, 0, key_size // 2].set(1.0)
    norm = None if value_dim is None else jnp.ones((num_heads, value_dim))
    return ParamsMultiToken(kernel, jnp.eye(num_heads), norm)


def multi_token_attention(
    params: ParamsMultiToken,
    queries: Float[AnyArray, "T H d"],
    keys: Float[AnyArray, "T H d"],
    values: Float[AnyArray, "T H m"],
) -> Float[Array, "T H m"]:
    r"""Causal attention with scores convolved over queries and keys, and with heads mixed.

    $$\hat x^{(h)}_{ts} = \sum_{i=0}^{c_q - 1} \sum_{|j| \le c_k / 2} \theta^{(h)}_{ij} \,
    1_{s - j \le t - i} \, x^{(h)}_{t-i, s-j}, \quad
    A^{(h)} = \sum_{h'} M_{hh'} \mathrm{softmax}(\hat x^{(h')})$$

    The convolution covers keys on both sides. Scores of keys after their query are zero before it
    and −∞ after it, so later tokens have no influence. The outputs of each head are divided by
    their root mean square.

    Args:
        params: the parameters.
        queries: q, (T, H, d).
        keys: k, (T, H, d).
        values: v, (T, H, m).

    Returns:
        o, (T, H, m).

    Raises:
        ValueError: arrays whose shapes do not match.
        TypeError: arrays that are not of floating point.

    Examples:
        >>> import jax.numpy as jnp
        >>> from ssmlin.attention import init_multi_token, multi_token_attention
        >>> x = jnp.ones((5, 2, 3))
        >>> multi_token_attention(init_multi_token(2, None), x, x, x)[4, 0].tolist()
        [1.0, 1.0, 1.0]

    Source: Golovneva et al. (2025), arXiv 2504.00927.
    """
    q, k, v = (
        _checks.float_array(name, x)
        for name, x in (("queries", queries), ("keys", keys), ("values", values))
    )
    if q.ndim != 3:
        raise ValueError(f"queries: expected shape (T, H, d), got {q.shape}")
    if k.shape != q.shape:
        raise ValueError(f"keys: expected the queries' shape {q.shape}, got {k.shape}")
    if v.ndim != 3 or v.shape[:2] != q.shape[:2]:
        raise ValueError(f"values: expected shape {q.shape[:2]} and m, got {v.shape}")
    steps, heads, d = q.shape
    if params.kernel.shape[0] != heads or params.mixing.shape != (heads, heads):
        raise ValueError(
            f"params: expected those of {heads} heads, got a kernel of shape {params.kernel.shape}"
        )
    past = jnp.tri(steps, dtype=bool)
    scores = jnp.where(past, jnp.einsum("thd,shd->hts", q, k) * d**-0.5, 0.0)
    _, query_size, key_size = params.kernel.shape
    half = key_size // 2
    # Each head has its own kernel. JAX computes correlations, so the kernels are reversed.
    convolved = jax.lax.conv_general_dilated(
        scores[None],
        params.kernel[:, None, ::-1, ::-1].astype(scores.dtype),
        window_strides=(1, 1),
        padding=((query_size - 1, 0), (half, half)),
        feature_group_count=heads,
        precision=jax.lax.Precision.HIGHEST,
    )[0]
    weights = jax.nn.softmax(jnp.where(past, convolved, -jnp.inf))
    mixed = jnp.einsum("gh,hts->gts", params.mixing, weights)
    read = jnp.einsum("hts,shm->thm", mixed, v)
    if params.norm is None:
        return read
    size = jnp.sqrt(jnp.mean(read**2, axis=-1, keepdims=True) + np.finfo(read.dtype).eps)
    return params.norm * read / size
