"""Square roots and triangular factors of covariances, right also for singular ones.

A root of P is any L with L Lᵀ = P. Arrays of the functions on one matrix may have a batch axis,
which comes last (see batch_last); the others take leading axes.
"""

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from ssmlin.inference._batch_last import outer, times


def masked_rsqrt(
    x: Float[Array, "..."], observed: Float[Array, "..."] | float = 1.0
) -> Float[Array, "..."]:
    """1/√x where x > 0 and observed, else 0. Masked before the root: no NaN reaches a gradient."""
    keep = x * observed > 0
    return jnp.where(keep, lax.rsqrt(jnp.where(keep, x, 1.0)), 0.0)


def masked_sqrt(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """√x where x > 0, else 0 with the gradient 0."""
    return jnp.where(x > 0, jnp.sqrt(jnp.where(x > 0, x, 1.0)), 0.0)


def symmetric_part(x: Float[Array, "... d d"]) -> Float[Array, "... d d"]:
    """(X + Xᵀ) / 2."""
    return 0.5 * (x + x.mT)


def symmetric_root(cov: Float[Array, "... d d"]) -> Float[Array, "... d d"]:
    """A root of a positive semidefinite matrix by its eigenvalues; singular matrices are fine.

    Args:
        cov: P, any number of leading axes.

    Returns:
        L with L Lᵀ = P.

    Examples:
        >>> import jax.numpy as jnp
        >>> from ssmlin.inference import symmetric_root
        >>> root = symmetric_root(jnp.ones((2, 2)))
        >>> bool(jnp.allclose(root @ root.T, 1.0, atol=1e-6))
        True
    """
    if cov.shape[-1] == 1:  # nothing to decompose
        return jnp.sqrt(jnp.maximum(cov, 0.0))
    values, vectors = jnp.linalg.eigh(cov)
    root: Array = vectors * jnp.sqrt(jnp.maximum(values, 0.0))[..., None, :]
    return root


def triangular_factor(
    factor: Float[Array, " k n *batch"],
    diag: Float[Array, " d *batch"] | None = None,
    num: int | None = None,
) -> Float[Array, " k d *batch"]:
    r"""Lower triangular L with $L L^\top = Y Y^\top + \mathrm{diag}(q)$, without forming it.

    Householder reflections of [Y, diag(√q)] from the right, one for each row. The reflection of
    row i writes column i of L in the place of column i of diag(√q) and does not touch its other
    columns, so only Y is changed. A zero row without noise gives a zero column.

    Args:
        factor: Y, (d, n); or (d + m, n) with m further rows, which are reflected, too.
        diag: q >= 0, (d,); None for zero.
        num: d, if there are further rows.

    Returns:
        L, (d, d), and below it the further rows after the reflections, (m, d).
    """
    num, batch = num or factor.shape[0], factor.shape[2:]
    noise = jnp.zeros((num, *batch), factor.dtype) if diag is None else diag

    def reflect(rest: Array, row: Array, own: int | Array, q: Array) -> tuple[Array, Array]:
        """The new column, and the multiple of the row that every row loses."""
        products = times(rest, row)
        squared = products[own] + q
        inverse = masked_rsqrt(squared)
        # |x|² / (n² + n √q): exactly one for the row itself, which becomes zero.
        share = products * (inverse * inverse / (1 + jnp.sqrt(q) * inverse))
        return products.at[own].set(squared) * inverse, share

    if num <= _UNROLLED:
        reflected = []
        for i in range(num):
            column, share = reflect(factor, factor[0], 0, noise[i])
            factor = factor[1:] - outer(share[1:], factor[0])
            reflected.append(jnp.pad(column, [(i, 0)] + [(0, 0)] * len(batch)))
        return jnp.stack(reflected, axis=1)

    index = jnp.arange(factor.shape[0]).reshape(-1, *(1,) * len(batch))

    def body(rest: Array, i: Array) -> tuple[Array, Array]:
        column, share = reflect(rest, rest[i], i, noise[i])
        return jnp.where((index == i)[:, None], 0.0, rest - outer(share, rest[i])), column

    return jnp.moveaxis(lax.scan(body, factor, jnp.arange(num))[1], 0, 1)


# Up to this size the reflections are written out; beyond, a loop saves the time to compile them.
_UNROLLED = 32


def semidefinite_cholesky(cov: Float[Array, " d d *batch"]) -> Float[Array, " d d *batch"]:
    """Lower triangular L with L Lᵀ = cov, also for a singular one: a zero pivot, a zero column."""
    dim = cov.shape[0]
    index = jnp.arange(dim).reshape(dim, *(1,) * (cov.ndim - 2))
    diag = jnp.stack([cov[i, i] for i in range(dim)])
    # How large rounding can leave a pivot that should be zero.
    noise_floor = dim * float(np.finfo(cov.dtype).eps) * diag

    def body(rest: Array, i: Array) -> tuple[Array, Array]:
        pivot = rest[i, i]
        inverse = masked_rsqrt(pivot, (pivot > noise_floor[i]).astype(cov.dtype))
        column = jnp.where(index >= i, rest[:, i] * inverse, 0.0)
        return rest - outer(column, column), column

    return jnp.moveaxis(lax.scan(body, cov, jnp.arange(dim))[1], 0, 1)


def eliminate(
    cov: Float[Array, "*T n n"], rest: Float[Array, "*T n k"]
) -> tuple[Float[Array, "*T n"], Float[Array, "*T n k"]]:
    """The pivots d and L⁻¹ rest, where cov = L diag(d) Lᵀ; unpivoted, a zero pivot is skipped."""
    n = cov.shape[-1]
    order = jnp.arange(n)
    tolerance = n * float(np.finfo(cov.dtype).eps) * jnp.diagonal(cov, axis1=-2, axis2=-1)

    def step(matrix: Array, j: Array) -> tuple[Array, None]:
        row = lax.dynamic_index_in_dim(matrix, j, axis=-2)
        column = lax.dynamic_index_in_dim(matrix, j, axis=-1, keepdims=False)
        pivot = lax.dynamic_index_in_dim(column, j, axis=-1)
        nonzero = pivot > lax.dynamic_index_in_dim(tolerance, j, axis=-1)
        factor = jnp.where(nonzero & (order > j), column / jnp.where(nonzero, pivot, 1.0), 0.0)
        return matrix - factor[..., :, None] * row, None

    both = jnp.concatenate([cov, rest], axis=-1)
    matrix, _ = lax.scan(step, both, order, unroll=n <= UNROLLED_ENTRIES)
    pivots = jnp.maximum(jnp.diagonal(matrix, axis1=-2, axis2=-1), 0.0)
    return pivots, matrix[..., n:]


#: Loops over at most so many entries of an emission are written out.
UNROLLED_ENTRIES = 16
