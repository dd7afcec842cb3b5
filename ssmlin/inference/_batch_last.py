"""Arithmetic inside the scans, for one sequence or for a batch of them with the batch axis last.

One sequence: matrix-vector products, which XLA's CPU backend runs about ten times as fast as the
sums below. A batch: sums along the *leading* axis of elementwise products, which run over the batch
in vector registers. A vector is (d, *batch), a matrix (d, d, *batch).

The scans use these functions and not the methods of the operators in :mod:`ssmlin.lgssm`. Those
expect the batch axes first and multiply by all columns of the low-rank part in one matrix product.
In a scan on a CPU a small matrix product costs more than a whole step, so here every column is a
matrix-vector product of its own.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ssmlin.lgssm import DPLR, DiagPlusLowRank, LowRank


def columns(x: Float[Array, " d k *batch"]) -> list[Float[Array, " d *batch"]]:
    """The columns of a matrix of few columns."""
    return [x[:, j] for j in range(x.shape[1])]


def inner(x: Float[Array, " d *batch"], y: Float[Array, " d *batch"]) -> Float[Array, " *batch"]:
    """The inner product; for all steps at once the matrix product is faster than the sum."""
    return (x * y) @ jnp.ones_like(x) if x.ndim == 1 else jnp.sum(x * y, axis=0)


def outer(
    x: Float[Array, " n *batch"], y: Float[Array, " d *batch"]
) -> Float[Array, " n d *batch"]:
    """The outer product."""
    return x[:, None] * y[None]


def times(
    rows: Float[Array, " n d *batch"], x: Float[Array, " d *batch"]
) -> Float[Array, " n *batch"]:
    """A matrix of any shape times a vector."""
    return rows @ x if rows.ndim == 2 else jnp.sum(rows * x[None], axis=1)


def left_times(
    x: Float[Array, " n *batch"], rows: Float[Array, " n d *batch"]
) -> Float[Array, " d *batch"]:
    """A vector times a matrix of any shape; the faster way to multiply by a symmetric matrix."""
    if rows.ndim == 2 and rows.size > _FUSED_ELEMENTS:
        return x @ rows
    return jnp.sum(x[:, None] * rows, axis=0)


# Up to this size the sum is at least as fast as the product, since XLA fuses it with the code that
# computes its operands. Beyond, it can be ten times as slow.
_FUSED_ELEMENTS = 1024


def symmetric_times(
    matrix: Float[Array, " d d *batch"], x: Float[Array, " d *batch"]
) -> Float[Array, " d *batch"]:
    """A symmetric matrix times a vector."""
    return left_times(x, matrix)


def hadamard_times(
    a: Float[Array, " d d *batch"], b: Float[Array, " d d *batch"], x: Float[Array, " d *batch"]
) -> Float[Array, " d *batch"]:
    """The diagonal of A diag(x) B for symmetric A and B."""
    if a.ndim == 2 and a.size > _FUSED_ELEMENTS:
        return (a * b) @ x
    return jnp.sum(a * b * x[:, None], axis=0)


def transition_times(transition: DPLR, x: Float[Array, " d *batch"]) -> Float[Array, " d *batch"]:
    """A x."""
    out = transition.diag * x
    for u, v in zip(columns(transition.left), columns(transition.right), strict=True):
        out = out - inner(v, x) * u
    return out


def noise_times(noise: DiagPlusLowRank, x: Float[Array, " d *batch"]) -> Float[Array, " d *batch"]:
    """Q x."""
    out = jnp.zeros_like(x) if noise.diag is None else noise.diag * x
    for column in columns(noise.factor):
        out = out + inner(column, x) * column
    return out


def drift_times(drift: LowRank, x: Float[Array, " d *batch"]) -> Float[Array, " m *batch"]:
    """B x."""
    out = jnp.zeros((drift.left.shape[0], *x.shape[1:]), x.dtype)
    for left, right in zip(columns(drift.left), columns(drift.right), strict=True):
        out = out + inner(right, x) * left
    return out


def _eye(like: Float[Array, " d *shape"], ndim: int) -> Float[Array, " d d *ones"]:
    """The identity with axes of length one appended, `ndim` in all."""
    # A constant. XLA would turn jnp.eye into comparisons of indices and repeat them at every step.
    eye = jnp.asarray(np.eye(like.shape[0], dtype=like.dtype))
    return eye.reshape(*eye.shape, *(1,) * (ndim - 2))


def diagonal(x: Float[Array, " d *batch"]) -> Float[Array, " d d *batch"]:
    """The diagonal matrix with the entries of a vector."""
    return _eye(x, x.ndim + 1) * x[:, None]


def diagonal_of(matrix: Float[Array, " d d *batch"]) -> Float[Array, " d *batch"]:
    """The diagonal of a matrix."""
    if matrix.ndim == 2 and matrix.size > _FUSED_ELEMENTS:
        entries: Array = jnp.diagonal(matrix)
        return entries
    return jnp.sum(_eye(matrix, matrix.ndim) * matrix, axis=0)
