"""Attention over groups of tokens: earlier groups are one key and value each."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ssmlin import _checks
from ssmlin.attention.softmax import check_tokens


def grouped_attention(
    queries: Float[Array, "T d"],
    keys: Float[Array, "T d"],
    values: Float[Array, "T m"],
    *,
    group_size: int = 4,
) -> Float[Array, "T m"]:
    r"""Causal attention to the means of complete groups and to the tokens of one's own group.

    A group G of g tokens stands for $g \exp(q^\top \bar k_G / \sqrt d)$ and the mean of its
    values, which is exact where its keys are equal. Work and cache fall by g.

    Args:
        queries: q, (T, d).
        keys: k, (T, d).
        values: v, (T, m).
        group_size: g, tokens a group; 1 is softmax attention.

    Returns:
        o, (T, m).

    Raises:
        ValueError: arrays whose shapes do not match.

    Example:
        >>> import jax.numpy as jnp
        >>> from ssmlin.attention import grouped_attention
        >>> k = jnp.zeros((4, 2))
        >>> grouped_attention(k, k, jnp.arange(4.0)[:, None], group_size=2).ravel().tolist()
        [0.0, 0.5, 1.0, 1.5]
    """
    q, k, v = check_tokens(queries, keys, values)
    g = _checks.positive_int("group_size", group_size)
    (steps, d), m = q.shape, v.shape[1]
    count = -(-steps // g)
    q, k, v = (
        jnp.pad(x, ((0, count * g - steps), (0, 0))).reshape(count, g, x.shape[1])
        for x in (q * d**-0.5, k, v)
    )
    earlier = jnp.einsum("cid,ed->cie", q, k.mean(axis=1)) + jnp.log(jnp.asarray(g, q.dtype))
    is_earlier = jnp.arange(count)[None, :] < jnp.arange(count)[:, None]
    earlier = jnp.where(is_earlier[:, None, :], earlier, -jnp.inf)
    own = jnp.einsum("cid,cjd->cij", q, k)
    own = jnp.where(jnp.tri(g, dtype=bool), own, -jnp.inf)
    weights = jax.nn.softmax(jnp.concatenate([earlier, own], axis=-1))
    read = jnp.einsum("cie,em->cim", weights[..., :count], v.mean(axis=1))
    read += jnp.einsum("cij,cjm->cim", weights[..., count:], v)
    return read.reshape(count * g, m)[:steps]
