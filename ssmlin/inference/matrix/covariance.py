r"""One step of the covariance recursion, in the two forms that the sequential filter can carry.

With the transition A = diag(w) − U Vᵀ, the noise Q, the readout h and z = A h,

$$P^- = A^\top P A + Q, \quad s = h^\top P^- h + r, \quad g = P^- h / s, \quad
  P^+ = P^- - s\, g g^\top.$$

The plain form carries P. The square-root form carries a factor L with P = L Lᵀ, so that P can
neither lose its symmetry nor its definiteness, however small r is beside P; it costs little more
as long as Q is zero or of low rank, and d orthogonal transformations a step where it is not.
Neither holds a matrix-matrix product.
"""

from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from ssmlin.inference.matrix.batch_last import (
    columns,
    diagonal,
    inner,
    left_times,
    outer,
    symmetric_times,
    times,
)
from ssmlin.lgssm import DPLR, DiagPlusLowRank


class Step(NamedTuple):
    """What the covariance recursion needs to know of a step, all of it known beforehand."""

    transition: DPLR
    noise: DiagPlusLowRank
    readout: Array  # h
    carried_readout: Array  # z = A h
    noise_readout: Array  # Q h
    noise_scale: Array  # hᵀ Q h + r
    emission_noise: Array  # r
    observed: Array  # 1.0 or 0.0


class Update(NamedTuple):
    """What a step says of the emission: its scale s and the gain g; and the products P z, P u."""

    scale: Array
    gain: Array
    cov_z: Array
    cov_us: list[Array]


@runtime_checkable
class CovarianceForm(Protocol):
    """A way of carrying P."""

    def store(self, cov: Array) -> Array:
        """What is kept of a step, from P itself."""

    def start(self, stored: Array, noise: DiagPlusLowRank) -> Any:
        """What is carried, from what is kept; of the noise only the rank is looked at."""

    def advance(self, carry: Any, step: Step) -> tuple[Any, Update]:
        """One step."""

    def stored(self, carry: Any) -> Array:
        """What is kept of a step."""

    def to_dense(self, stored: Array) -> Array:
        """P from what was kept, any number of leading axes."""


def masked_rsqrt(x: Array, observed: Array | float = 1.0) -> Array:
    """1/√x where x > 0 and observed, else 0. Masked before the root: no NaN reaches a gradient."""
    keep = x * observed > 0
    return jnp.where(keep, lax.rsqrt(jnp.where(keep, x, 1.0)), 0.0)


def congruence_pairs(
    products: list[Array], scale: Array, left: list[Array], right: list[Array]
) -> list[tuple[Array, Array]]:
    r"""Pairs (x, v) with $A^\top P A = w w^\top \odot P - \sum_j (x_j v_j^\top + v_j x_j^\top)$.

    For A = diag(w) − U Vᵀ: x_j = w ⊙ P u_j − ½ Σ_i (u_iᵀ P u_j) v_i, where `products` holds P u_j.
    """
    pairs = []
    for product, v in zip(products, right, strict=True):
        x = scale * product
        for u_other, v_other in zip(left, right, strict=True):
            x = x - 0.5 * inner(u_other, product) * v_other
        pairs.append((x, v))
    return pairs


def _rounded(x: Array) -> Array:
    """Return x. The clamp never binds, but no fused multiply-add can then be made of x and a sum.

    That would round the entries (i, j) and (j, i) of x vᵀ + v xᵀ differently.
    """
    return jnp.maximum(x, jnp.finfo(x.dtype).min)


def scaled_less(matrix: Array, scale: Array, pairs: list[tuple[Array, Array]]) -> Array:
    """W wᵀ ⊙ matrix − Σ (x vᵀ + v xᵀ), exactly symmetric if the matrix is."""
    out = outer(scale, scale) * matrix
    for x, v in pairs:
        out = out - (_rounded(outer(x, v)) + _rounded(outer(v, x)))
    return out


def carry_rows(rows: Array, scale: Array, products: list[Array], right: list[Array]) -> Array:
    """S A for rows S, where `products` holds S u_j."""
    out = rows * scale[None]
    for product, v in zip(products, right, strict=True):
        out = out - outer(product, v)
    return out


class Plain:
    """Carries P itself."""

    def store(self, cov: Array) -> Array:
        """P."""
        return cov

    def start(self, stored: Array, noise: DiagPlusLowRank) -> Array:
        """P."""
        return stored

    def advance(self, carry: Array, step: Step) -> tuple[Array, Update]:
        """One step."""
        transition, noise = step.transition, step.noise
        w, us, vs = transition.diag, columns(transition.left), columns(transition.right)
        cov_z, *cov_us = [symmetric_times(carry, x) for x in (step.carried_readout, *us)]
        cov_h = w * cov_z + step.noise_readout
        for u, v in zip(us, vs, strict=True):
            cov_h = cov_h - inner(u, cov_z) * v
        scale = inner(step.carried_readout, cov_z) + step.noise_scale
        root = masked_rsqrt(scale, step.observed)
        f = cov_h * root
        new = scaled_less(carry, w, congruence_pairs(cov_us, w, us, vs)) - outer(f, f)
        if noise.diag is not None:
            new = new + diagonal(noise.diag)
        for column in columns(noise.factor):
            new = new + outer(column, column)
        return new, Update(scale, f * root, cov_z, cov_us)

    def stored(self, carry: Array) -> Array:
        """P."""
        return carry

    def to_dense(self, stored: Array) -> Array:
        """P."""
        return stored


class Factor(NamedTuple):
    """A factor L of P with spare zero columns, and how many of these have been taken."""

    columns: Float[Array, " d n *batch"]
    taken: Int[Array, ""]


def with_spare(root: Float[Array, " d n *batch"], num: int) -> Factor:
    """A factor of d columns and spare ones."""
    dim = root.shape[0]
    root = root if root.shape[1] == dim else triangular_factor(root)
    spare = jnp.zeros((dim, num, *root.shape[2:]), root.dtype)
    return Factor(jnp.concatenate([root, spare], axis=1), jnp.zeros((), jnp.int32))


def append(factor: Factor, new: Float[Array, " d k *batch"]) -> Factor:
    """P + new newᵀ: into spare columns or, if there are too few left, after a compression."""
    dim, num_new = new.shape[:2]
    old, taken = factor

    def compressed(x: Array) -> Array:
        root = triangular_factor(x)
        return jnp.concatenate([root, jnp.zeros_like(x[:, dim:])], axis=1)

    full = taken + num_new > old.shape[1] - dim
    old = lax.cond(full, compressed, lambda x: x, old)
    taken = jnp.where(full, 0, taken)
    joined = lax.dynamic_update_slice_in_dim(old, new, dim + taken, axis=1)
    return Factor(joined, taken + num_new)


def potter(
    factor: Float[Array, " d n *batch"],
    f: Float[Array, " n *batch"],
    noise: Array | float,
    observed: Array | float = 1.0,
) -> tuple[Float[Array, " d n *batch"], Float[Array, " d *batch"], Float[Array, " *batch"]]:
    r"""A scalar measurement of noise r with $f = L^\top h$: the new factor, the gain, the scale s.

    $$s = f^\top f + r, \quad g = L f / s, \quad L - \frac{1}{s + \sqrt{r s}} (L f) f^\top$$

    Source: Potter (1963); Bierman, Factorization Methods for Discrete Sequential Estimation (1977).
    """
    scale = inner(f, f) + noise
    root = masked_rsqrt(scale, observed)
    gain = times(factor, f) * root * root
    # 1/(s + √(r s)) = (1/s) / (1 + √(r/s)).
    shrink = 1 / (1 + jnp.sqrt(noise) * root)
    return factor - outer(gain * shrink, f), gain, scale


class SquareRoot:
    """Carries L with P = L Lᵀ; the measurement update is Potter's.

    Noise of full rank is worked in by a triangularisation at every step. Noise of rank k is put
    into spare columns, and only when these are used up is L brought back to d columns.
    """

    def store(self, cov: Array) -> Array:
        """L."""
        return semidefinite_cholesky(cov)

    def start(self, stored: Array, noise: DiagPlusLowRank) -> Factor:
        """L, brought to d columns, and as many spare ones as take the noise of some steps."""
        dim, rank = stored.shape[0], noise.rank if noise.diag is None else 0
        return with_spare(stored, rank * -(-dim // rank) if rank else 0)

    def advance(self, carry: Factor, step: Step) -> tuple[Factor, Update]:
        """One step."""
        transition, noise = step.transition, step.noise
        w, us, vs = transition.diag, columns(transition.left), columns(transition.right)
        factor, taken = carry
        weights = [left_times(u, factor) for u in us]
        # For the adjoint alone; the compiler drops them elsewhere.
        cov_z = times(factor, left_times(step.carried_readout, factor))
        cov_us = [times(factor, a) for a in weights]
        predicted = w[:, None] * factor
        for a, v in zip(weights, vs, strict=True):
            predicted = predicted - outer(v, a)
        if noise.diag is not None:
            # L has no spare columns then: the noise's own are set beside it and worked off.
            wide = jnp.concatenate([predicted, noise.factor], axis=1)
            predicted = triangular_factor(wide, noise.diag)
        elif noise.rank:
            predicted, taken = append(Factor(predicted, taken), noise.factor)
        f = left_times(step.readout, predicted)
        new, gain, scale = potter(predicted, f, step.emission_noise, step.observed)
        return Factor(new, taken), Update(scale, gain, cov_z, cov_us)

    def stored(self, carry: Factor) -> Array:
        """L."""
        return carry.columns

    def to_dense(self, stored: Array) -> Array:
        """P = L Lᵀ."""
        return stored @ stored.mT


def triangular_factor(
    factor: Float[Array, " k n *batch"],
    diag: Float[Array, " d *batch"] | None = None,
    num: int | None = None,
) -> Float[Array, " k d *batch"]:
    r"""Lower triangular L with $L L^\top = Y Y^\top + \mathrm{diag}(q)$, without forming it.

    Householder reflections of [Y, diag(√q)] from the right, one a row. The reflection of row i
    leaves what becomes column i of L in the place of column i of diag(√q), so only Y is worked on
    and the other columns of diag(√q) are not touched. A row that is zero, and has no noise, gives
    a zero column.

    Args:
        factor: Y, (d, n); or (d + m, n) with further rows, which are reflected with the others.
        diag: q >= 0, (d,); None for zero.
        num: d, where there are further rows.

    Returns:
        L, (d, d), and below it what the further rows have become, (m, d).
    """
    num, batch = num or factor.shape[0], factor.shape[2:]
    noise = jnp.zeros((num, *batch), factor.dtype) if diag is None else diag

    def reflect(rest: Array, row: Array, own: Any, q: Array) -> tuple[Array, Array]:
        """The products of all rows with the row's new entry, and the multiples of it they lose."""
        products = times(rest, row)
        squared = products[own] + q
        inverse = masked_rsqrt(squared)
        # |x|² / (n² + n √q): exactly one for the row itself, which becomes zero.
        share = products * (inverse * inverse / (1 + jnp.sqrt(q) * inverse))
        return products.at[own].set(squared) * inverse, share

    if num <= _UNROLLED:
        found = []
        for i in range(num):
            column, share = reflect(factor, factor[0], 0, noise[i])
            factor = factor[1:] - outer(share[1:], factor[0])
            found.append(jnp.pad(column, [(i, 0)] + [(0, 0)] * len(batch)))
        return jnp.stack(found, axis=1)

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
    # What rounding leaves of a pivot that should be zero.
    noise_floor = dim * jnp.finfo(cov.dtype).eps * diag

    def body(rest: Array, i: Array) -> tuple[Array, Array]:
        pivot = rest[i, i]
        inverse = masked_rsqrt(pivot, (pivot > noise_floor[i]).astype(cov.dtype))
        column = jnp.where(index >= i, rest[:, i] * inverse, 0.0)
        return rest - outer(column, column), column

    return jnp.moveaxis(lax.scan(body, cov, jnp.arange(dim))[1], 0, 1)


def batched_product(a: Float[Array, "T n d"], b: Float[Array, "T d e"]) -> Float[Array, "T n e"]:
    """Product at every step; small matrices as a fused sum, for which batched products are slow."""
    if b.shape[-2] > 32:
        return a @ b
    return jnp.sum(a[..., :, :, None] * b[..., None, :, :], axis=-2)


def smoothed_covariance(
    cov: Float[Array, "T d d"], information: Float[Array, "T d d"]
) -> Float[Array, "T d d"]:
    """P − P Λ P at every step, exactly symmetric."""
    product = batched_product(batched_product(cov, information), cov)
    return cov - 0.5 * (product + product.mT)


PLAIN, SQUARE_ROOT = Plain(), SquareRoot()
FORMS: dict[str, CovarianceForm] = {"plain": PLAIN, "square_root": SQUARE_ROOT}
