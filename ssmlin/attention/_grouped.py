"""Attention over groups of tokens: each earlier group is one key and one value."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ssmlin import _checks
from ssmlin._typing import AnyArray
from ssmlin.attention._softmax import check_tokens


def grouped_attention(
    queries: Float[AnyArray, "T d"],
    keys: Float[AnyArray, "T d"],
    values: Float[AnyArray, "T m"],
    *,
    group_size: int = 4,
) -> Float[Array, "T m"]:
    r"""Causal attention to the means of earlier groups and to the tokens of the query's own group.

    $$o_t = \frac{\sum_G g \exp(q_t^\top \bar k_G / \sqrt d) \, \bar v_G
    + \sum_s \exp(q_t^\top k_s / \sqrt d) \, v_s}
    {\sum_G g \exp(q_t^\top \bar k_G / \sqrt d) + \sum_s \exp(q_t^\top k_s / \sqrt d)}$$

    G runs over the earlier groups of g tokens, with mean key $\bar k_G$ and mean value
    $\bar v_G$, and s over the tokens up to t in the group of t. This equals softmax attention if
    the keys within each group are equal. Work and cache are smaller by the factor g.

    Args:
        queries: q, (T, d).
        keys: k, (T, d).
        values: v, (T, m).
        group_size: g >= 1, the number of tokens in a group; 1 is softmax attention.

    Returns:
        o, (T, m).

    Raises:
        ValueError: arrays whose shapes do not match.
        TypeError: arrays that are not of floating point.

    Examples:
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
