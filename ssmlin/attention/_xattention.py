"""XAttention: only blocks of the score matrix with large sums over antidiagonals are computed."""

from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ssmlin import _checks
from ssmlin._typing import AnyArray, Scalar
from ssmlin.attention._softmax import check_tokens


def antidiagonal_scores(
    queries: Float[AnyArray, "T d"], keys: Float[AnyArray, "T d"], stride: int
) -> Float[Array, "n n"]:
    r"""Sums of $q_t^\top k_s$ over the antidiagonal of each stride × stride tile.

    The sums are one product of two matrices with n = T / stride rows and stride·d columns: a row
    of the one holds the keys of a tile, a row of the other the queries of a tile in reverse.

    Args:
        queries: q, (T, d).
        keys: k, (T, d).
        stride: the number of tokens in a tile, which divides T.

    Returns:
        The sums, (n, n).

    Examples:
        >>> import jax.numpy as jnp
        >>> from ssmlin.attention import antidiagonal_scores
        >>> antidiagonal_scores(jnp.ones((4, 1)), jnp.arange(4.0)[:, None], 2).tolist()
        [[1.0, 5.0], [1.0, 5.0]]
    """
    queries, keys = jnp.asarray(queries), jnp.asarray(keys)
    steps, d = queries.shape
    tiles = queries.reshape(steps // stride, stride, d)[:, ::-1]
    return tiles.reshape(-1, stride * d) @ keys.reshape(-1, stride * d).T


@partial(jax.jit, static_argnames=("block_size", "stride"))
def choose_blocks(
    queries: Float[AnyArray, "T d"],
    keys: Float[AnyArray, "T d"],
    threshold: Scalar,
    *,
    block_size: int,
    stride: int,
) -> Bool[Array, "n n"]:
    """Choose the fewest blocks of keys with a share τ of the estimated mass of a block of queries.

    The first block and the block on the diagonal are always kept, later blocks never.

    Args:
        queries: q, (T, d).
        keys: k, (T, d).
        threshold: τ, the share of the estimated mass to keep.
        block_size: the number of tokens in a block, a multiple of the stride that divides T.
        stride: the number of tokens in a tile.

    Returns:
        Whether a block is kept, (n, n) for n blocks of queries and of keys.

    Examples:
        >>> import jax.numpy as jnp
        >>> from ssmlin.attention import choose_blocks
        >>> keys = jnp.array([9.0, 9.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0])[:, None]
        >>> choose_blocks(jnp.ones((8, 1)), keys, 0.9, block_size=2, stride=2).sum(1).tolist()
        [1, 2, 2, 2]
    """
    steps, d = queries.shape
    n, tiles = steps // block_size, block_size // stride
    scores = antidiagonal_scores(queries, keys, stride) / (d**0.5 * stride)
    past = jnp.tri(steps // stride, dtype=bool)
    weights = jax.nn.softmax(jnp.where(past, scores, -jnp.inf))
    mass = weights.reshape(n, tiles, n, tiles).sum(axis=(1, 3)) / tiles
    order = jnp.argsort(-mass, axis=1)
    ranked = jnp.take_along_axis(mass, order, axis=1)
    # A block is kept if the larger ones together are below the threshold.
    before = jnp.cumsum(ranked, axis=1) - ranked
    rows = jnp.arange(n)[:, None]
    chosen = jnp.zeros((n, n), bool).at[rows, order].set(before < threshold)
    columns = jnp.arange(n)[None, :]
    return (chosen | (columns == 0) | (columns == rows)) & (columns <= rows)


def xattention(
    queries: Float[AnyArray, "T d"],
    keys: Float[AnyArray, "T d"],
    values: Float[AnyArray, "T m"],
    *,
    threshold: float = 0.9,
    block_size: int = 128,
    stride: int = 16,
    method: Literal["blocks", "masked"] = "blocks",
    choice: Literal["own", "before"] = "own",
) -> Float[Array, "T m"]:
    r"""Causal softmax attention to the blocks of keys that :func:`choose_blocks` keeps.

    $$o_t = \sum_{s \le t} a_{ts} v_s, \quad
    a_{ts} \propto 1_{\text{the block of } s \text{ is kept}} \exp(q_t^\top k_s / \sqrt d)$$

    Args:
        queries: q, (T, d).
        keys: k, (T, d).
        values: v, (T, m).
        threshold: τ in (0, 1]; 1 is full attention.
        block_size: the number of tokens in a block, a multiple of the stride.
        stride: the number of tokens in a tile of the estimate.
        method: "blocks" computes the kept blocks only, one after the other, with a running
            softmax, so its time is proportional to their number. The lengths of its loops depend
            on the data, so it has no reverse-mode gradient. "masked" has one, but costs as much as
            full attention.
        choice: the queries that choose the blocks of keys. "own" takes those of the same block, as
            published; then the last tokens of a block influence the first ones. "before" takes
            those of the block before; then nothing depends on later tokens.

    Returns:
        o, (T, m).

    Raises:
        ValueError: arrays whose shapes do not match, or a number out of range.
        TypeError: arrays that are not of floating point.

    Examples:
        >>> import jax.numpy as jnp
        >>> from ssmlin.attention import xattention
        >>> x = jnp.zeros((8, 2))
        >>> o = xattention(x, x, jnp.arange(8.0)[:, None], threshold=1.0, block_size=4, stride=2)
        >>> o.ravel().tolist()
        [0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5]

    Source: Xu et al. (2025), arXiv 2503.16428.
    """
    q, k, v = check_tokens(queries, keys, values)
    _checks.one_of("method", method, ("blocks", "masked"))
    _checks.one_of("choice", choice, ("own", "before"))
    stride = _checks.positive_int("stride", stride)
    if _checks.positive_int("block_size", block_size) % stride:
        raise ValueError(f"block_size: expected a multiple of {stride}, got {block_size}")
    if _checks.is_concrete(threshold) and not 0 < threshold <= 1:
        raise ValueError(f"threshold: expected a number in (0, 1], got {threshold}")
    steps = len(q)
    extra = ((0, -steps % block_size), (0, 0))
    # The padding of the last block comes after all queries, so no query attends to it.
    q, k, v = (jnp.pad(x, extra) for x in (q, k, v))
    # A threshold of 1 keeps all blocks, also where the masses sum to slightly less.
    goal = jnp.where(jnp.asarray(threshold) >= 1, jnp.inf, threshold)
    kept = choose_blocks(q, k, goal, block_size=block_size, stride=stride)
    if choice == "before":
        kept = jnp.roll(kept, 1, axis=0).at[0].set(False) | jnp.eye(len(kept), dtype=bool)
    read = _by_blocks(q, k, v, kept) if method == "blocks" else _masked(q, k, v, kept)
    return read[:steps]


def _masked(
    q: Float[Array, "T d"], k: Float[Array, "T d"], v: Float[Array, "T m"], kept: Bool[Array, "n n"]
) -> Float[Array, "T m"]:
    """Attention with all scores, where those of blocks that are not kept are −∞."""
    size = len(q) // len(kept)
    seen = jnp.repeat(jnp.repeat(kept, size, axis=0), size, axis=1) & jnp.tri(len(q), dtype=bool)
    scores = q @ k.T * q.shape[1] ** -0.5
    return jax.nn.softmax(jnp.where(seen, scores, -jnp.inf)) @ v


@jax.jit
def _by_blocks(
    q: Float[Array, "T d"], k: Float[Array, "T d"], v: Float[Array, "T m"], kept: Bool[Array, "n n"]
) -> Float[Array, "T m"]:
    """Attention by the kept blocks of each row, one after the other."""
    n, (steps, d), m = len(kept), q.shape, v.shape[1]
    size = steps // n
    q, k, v = (x.reshape(n, size, x.shape[1]) for x in (q * d**-0.5, k, v))
    # The kept blocks come first, and the one on the diagonal is the last of them.
    order = jnp.argsort(~kept, axis=1, stable=True)
    counts = kept.sum(axis=1)
    causal = jnp.tri(size, dtype=bool)

    def row(inputs: tuple[Array, Array, Array, Array]) -> Array:
        number, query, blocks, count = inputs

        def step(i: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            top, total, read = carry
            block = blocks[i]
            scores = query @ k[block].T
            scores = jnp.where(causal | (block < number), scores, -jnp.inf)
            new_top = jnp.maximum(top, scores.max(axis=1))
            share = jnp.exp(scores - new_top[:, None])
            shrink = jnp.exp(top - new_top)
            total = shrink * total + share.sum(axis=1)
            return new_top, total, shrink[:, None] * read + share @ v[block]

        zeros = jnp.zeros((size, m + 1), q.dtype)
        start = (jnp.full(size, -jnp.inf, q.dtype), zeros[:, 0], zeros[:, 1:])
        # After the first kept block the maximum of every query is finite, since this is the first
        # block of all or the one on the diagonal.
        end: tuple[Array, Array, Array] = jax.lax.fori_loop(0, count, step, start)
        _, total, read = end
        return read / total[:, None]

    rows: Float[Array, "n size m"] = jax.lax.map(row, (jnp.arange(n), q, order, counts))
    return rows.reshape(steps, m)
