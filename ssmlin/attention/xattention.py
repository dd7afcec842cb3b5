"""XAttention: blocks of the score matrix chosen by sums over antidiagonals, the rest left out."""

from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ssmlin import _checks
from ssmlin.attention.softmax import check_tokens


def antidiagonal_scores(
    queries: Float[Array, "T d"], keys: Float[Array, "T d"], stride: int
) -> Float[Array, "n n"]:
    r"""Sums of $q_t^\top k_s$ over the antidiagonal of each stride × stride tile.

    The keys of a tile in a row, times the queries of a tile in reverse in a row: one product of
    matrices with n = T / stride rows and stride·d columns.

    Args:
        queries: q, (T, d).
        keys: k, (T, d).
        stride: tokens a tile, of which T is a multiple.

    Returns:
        The sums, (n, n).
    """
    steps, d = queries.shape
    tiles = queries.reshape(steps // stride, stride, d)[:, ::-1]
    return tiles.reshape(-1, stride * d) @ keys.reshape(-1, stride * d).T


@partial(jax.jit, static_argnames=("block_size", "stride"))
def choose_blocks(
    queries: Float[Array, "T d"],
    keys: Float[Array, "T d"],
    threshold: float | Float[Array, ""],
    *,
    block_size: int,
    stride: int,
) -> Bool[Array, "n n"]:
    """Which blocks to keep for each block of queries: the fewest whose estimated mass is enough.

    The first block and the one on the diagonal are always kept, those after it never.

    Args:
        queries: q, (T, d), T a multiple of the block size.
        keys: k, (T, d).
        threshold: τ, the share of the estimated mass to keep.
        block_size: tokens a block, a multiple of the stride.
        stride: tokens a tile.

    Returns:
        A mask over blocks of queries and of keys.
    """
    steps, d = queries.shape
    n, tiles = steps // block_size, block_size // stride
    scores = antidiagonal_scores(queries, keys, stride) / (d**0.5 * stride)
    past = jnp.tri(steps // stride, dtype=bool)
    weights = jax.nn.softmax(jnp.where(past, scores, -jnp.inf))
    mass = weights.reshape(n, tiles, n, tiles).sum(axis=(1, 3)) / tiles
    order = jnp.argsort(-mass, axis=1)
    ranked = jnp.take_along_axis(mass, order, axis=1)
    # A block is kept if those before it do not reach the threshold.
    before = jnp.cumsum(ranked, axis=1) - ranked
    rows = jnp.arange(n)[:, None]
    chosen = jnp.zeros((n, n), bool).at[rows, order].set(before < threshold)
    columns = jnp.arange(n)[None, :]
    return (chosen | (columns == 0) | (columns == rows)) & (columns <= rows)


def xattention(
    queries: Float[Array, "T d"],
    keys: Float[Array, "T d"],
    values: Float[Array, "T m"],
    *,
    threshold: float = 0.9,
    block_size: int = 128,
    stride: int = 16,
    method: Literal["blocks", "masked"] = "blocks",
    choice: Literal["own", "before"] = "own",
) -> Float[Array, "T m"]:
    r"""Causal softmax attention over the blocks that :func:`choose_blocks` keeps.

    Args:
        queries: q, (T, d).
        keys: k, (T, d).
        values: v, (T, m).
        threshold: τ in (0, 1]; 1 is full attention.
        block_size: tokens a block, a multiple of the stride.
        stride: tokens a tile of the estimate.
        method: "blocks" works on the kept blocks alone, one after the other, with a running
            softmax: its time falls with their number. Its loops end when the data say, so it has
            no reverse-mode gradient; "masked" has one, and the cost of full attention.
        choice: by which queries the blocks of a row are chosen: "own", as published, where the last
            tokens of a block have a say in what the first ones see; or those of the row "before",
            and then nothing depends on later tokens.

    Returns:
        o, (T, m).

    Raises:
        ValueError: arrays whose shapes do not match, or a number out of range.

    Example:
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
    # What fills up the last block comes after all queries, so none of them sees it.
    q, k, v = (jnp.pad(x, extra) for x in (q, k, v))
    # A threshold of 1 keeps what rounding leaves below it, too.
    goal = jnp.where(jnp.asarray(threshold) >= 1, jnp.inf, threshold)
    kept = choose_blocks(q, k, goal, block_size=block_size, stride=stride)
    if choice == "before":
        kept = jnp.roll(kept, 1, axis=0).at[0].set(False) | jnp.eye(len(kept), dtype=bool)
    function = _by_blocks if method == "blocks" else _masked
    return function(q, k, v, kept)[:steps]


def _masked(q: Array, k: Array, v: Array, kept: Array) -> Array:
    """All scores, those of blocks that are not kept taken out."""
    size = len(q) // len(kept)
    seen = jnp.repeat(jnp.repeat(kept, size, axis=0), size, axis=1) & jnp.tri(len(q), dtype=bool)
    scores = q @ k.T * q.shape[1] ** -0.5
    return jax.nn.softmax(jnp.where(seen, scores, -jnp.inf)) @ v


@jax.jit
def _by_blocks(q: Array, k: Array, v: Array, kept: Array) -> Array:
    """The kept blocks of each row, one after the other."""
    n, (steps, d), m = len(kept), q.shape, v.shape[1]
    size = steps // n
    q, k, v = (x.reshape(n, size, x.shape[1]) for x in (q * d**-0.5, k, v))
    # The kept ones first; the diagonal block is the last of them.
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
        # The first kept block gives every query a finite maximum, since it is the first of all
        # or lies on the diagonal.
        _, total, read = jax.lax.fori_loop(0, count, step, start)
        return read / total[:, None]

    return jax.lax.map(row, (jnp.arange(n), q, order, counts)).reshape(steps, m)
