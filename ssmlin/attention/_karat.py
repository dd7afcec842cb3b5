"""Kolmogorov-Arnold attention: learnable univariate functions instead of the softmax."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ssmlin._typing import AnyArray
from ssmlin.attention._softmax import check_tokens


class ParamsKArAt(NamedTuple):
    """Parameters of :func:`karat_attention` for T tokens.

    Attributes:
        cosines: a, (r, T, G).
        sines: b, (r, T, G).
        projection: W, (T, r).
    """

    cosines: Float[Array, "r T G"]
    sines: Float[Array, "r T G"]
    projection: Float[Array, "T r"]


def init_karat(
    key: Array, num_tokens: int, rank: int = 12, num_frequencies: int = 3
) -> ParamsKArAt:
    """Draw small random parameters for :func:`karat_attention`.

    Args:
        key: a PRNG key.
        num_tokens: T, the number of tokens.
        rank: r, the number of functions a token.
        num_frequencies: G, the number of frequencies of a function.

    Returns:
        The parameters.

    Examples:
        >>> import jax
        >>> from ssmlin.attention import init_karat
        >>> init_karat(jax.random.key(0), num_tokens=5).projection.shape
        (5, 12)
    """
    a, b, w = jax.random.split(key, 3)
    shape = (rank, num_tokens, num_frequencies)
    scale = (num_tokens * num_frequencies) ** -0.5
    return ParamsKArAt(
        scale * jax.random.normal(a, shape),
        scale * jax.random.normal(b, shape),
        rank**-0.5 * jax.random.normal(w, (num_tokens, rank)),
    )


def karat_weights(
    params: ParamsKArAt, scores: Float[AnyArray, "n T"], *, causal: bool = True
) -> Float[Array, "n T"]:
    r"""Attention weights from scores x; they may be negative, and their sum need not be one.

    $$A_t = W \phi(x_t), \quad \phi_i(x_t) = \sum_s \sum_{n=1}^{G}
    a_{isn} \cos(n x_{ts}) + b_{isn} \sin(n x_{ts})$$

    Args:
        params: the parameters.
        scores: x, (n, T), a row for each query.
        causal: whether keys after the query have no weight and do not enter φ; needs n = T.

    Returns:
        A, (n, T).

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from ssmlin.attention import init_karat, karat_weights
        >>> weights = karat_weights(init_karat(jax.random.key(0), 3), jnp.ones((3, 3)))
        >>> weights.shape, float(weights[0, 1])
        ((3, 3), 0.0)
    """
    scores = jnp.asarray(scores)
    past = jnp.tri(len(scores), dtype=bool) if causal else jnp.ones(scores.shape, bool)
    frequencies = jnp.arange(1, params.cosines.shape[-1] + 1, dtype=scores.dtype)
    angles = jnp.where(past, scores, 0.0)[..., None] * frequencies
    seen = past[..., None]
    units = jnp.einsum("tsn,isn->ti", jnp.where(seen, jnp.cos(angles), 0.0), params.cosines)
    units += jnp.einsum("tsn,isn->ti", jnp.where(seen, jnp.sin(angles), 0.0), params.sines)
    return jnp.where(past, units @ params.projection.T, 0.0)


def karat_attention(
    params: ParamsKArAt,
    queries: Float[AnyArray, "T d"],
    keys: Float[AnyArray, "T d"],
    values: Float[AnyArray, "T m"],
    *,
    causal: bool = True,
) -> Float[Array, "T m"]:
    r"""Attention with the weights of :func:`karat_weights`.

    $$o_t = \sum_s A_{ts} v_s, \quad A = A(x), \quad x_{ts} = q_t^\top k_s / \sqrt d$$

    Args:
        params: the parameters, made for T tokens.
        queries: q, (T, d).
        keys: k, (T, d).
        values: v, (T, m).
        causal: whether a token attends to the tokens up to its own only.

    Returns:
        o, (T, m).

    Raises:
        ValueError: arrays whose shapes do not match.
        TypeError: arrays that are not of floating point.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from ssmlin.attention import init_karat, karat_attention
        >>> params = init_karat(jax.random.key(0), num_tokens=5)
        >>> x = jnp.ones((5, 2))
        >>> karat_attention(params, x, x, x).shape
        (5, 2)

    Source: Maity et al. (2025), arXiv 2503.10632: the Fourier basis with a projection of rank r.
    """
    q, k, v = check_tokens(queries, keys, values)
    if len(params.projection) != len(q):
        raise ValueError(
            f"params: expected parameters for {len(q)} tokens, got those for "
            f"{len(params.projection)}"
        )
    scores = q @ k.T * q.shape[1] ** -0.5
    return karat_weights(params, scores, causal=causal) @ v
