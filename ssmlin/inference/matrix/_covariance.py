r"""One step of the covariance recursion, in the two forms that the filter can carry.

With the transition A = diag(w) − U Vᵀ, the noise Q, the readout h and z = A h,

$$P^- = A^\top P A + Q, \quad s = h^\top P^- h + r, \quad g = P^- h / s, \quad
  P^+ = P^- - s\, g g^\top.$$

The plain form carries P. The square-root form carries a factor L with P = L Lᵀ, so that P can
lose neither its symmetry nor its definiteness, however small r is beside P. It costs little more
while Q is zero or of low rank, and d orthogonal transformations a step otherwise. Neither form
uses a matrix-matrix product.
"""

from typing import NamedTuple, Protocol, runtime_checkable

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from ssmlin.inference._batch_last import (
    columns,
    diagonal,
    inner,
    left_times,
    outer,
    symmetric_times,
    times,
)
from ssmlin.inference._roots import masked_rsqrt, semidefinite_cholesky, triangular_factor
from ssmlin.inference.matrix._elements import ChunkSummary, Law, chunk_starts, root_chunk_starts
from ssmlin.lgssm import DPLR, DiagPlusLowRank


class Step(NamedTuple):
    """What the covariance recursion is given at a step; none of it depends on the state."""

    transition: DPLR
    noise: DiagPlusLowRank
    readout: Array  # h
    carried_readout: Array  # z = A h
    noise_readout: Array  # Q h
    noise_scale: Array  # hᵀ Q h + r
    emission_noise: Array  # r
    observed: Array  # 1.0 or 0.0


class Update(NamedTuple):
    """The emission's scale s, the gain g, and the products P z and P u of a step."""

    scale: Array
    gain: Array
    cov_z: Array
    cov_us: list[Array]


class Carry(NamedTuple):
    """What the scan carries of the covariance.

    Attributes:
        matrix: P, or a factor L of it that may have spare zero columns at its end.
        taken: how many spare columns have been used; None for P.
    """

    matrix: Float[Array, " d n *batch"]
    taken: Int[Array, ""] | None = None


@runtime_checkable
class CovarianceForm(Protocol):
    """How the filter carries and stores P."""

    def store(self, cov: Array) -> Array:
        """What is stored of P, batch last."""

    def start(self, stored: Array, noise: DiagPlusLowRank) -> Carry:
        """What is carried, from what is stored; only the rank of the noise is used."""

    def advance(self, carry: Carry, step: Step) -> tuple[Carry, Update]:
        """One step."""

    def to_dense(self, stored: Array) -> Array:
        """P from what was stored, with any number of leading axes."""

    def chunk_starts(self, chunks: ChunkSummary, initial: Law, axis: str | None = None) -> Law:
        """The law at the start of every chunk, the covariances as they are stored."""


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
    """Return x, rounded before it is added to anything.

    The maximum has no effect but to keep XLA from fusing the multiplication with an addition, which
    would round the entries (i, j) and (j, i) of x vᵀ + v xᵀ differently.
    """
    return jnp.maximum(x, float(np.finfo(x.dtype).min))


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
    """Carries and stores P itself."""

    def store(self, cov: Array) -> Array:
        """P."""
        return cov

    def start(self, stored: Array, noise: DiagPlusLowRank) -> Carry:
        """P."""
        return Carry(stored)

    def advance(self, carry: Carry, step: Step) -> tuple[Carry, Update]:
        """One step."""
        transition, noise, cov = step.transition, step.noise, carry.matrix
        w, us, vs = transition.diag, columns(transition.left), columns(transition.right)
        cov_z, *cov_us = [symmetric_times(cov, x) for x in (step.carried_readout, *us)]
        cov_h = w * cov_z + step.noise_readout
        for u, v in zip(us, vs, strict=True):
            cov_h = cov_h - inner(u, cov_z) * v
        scale = inner(step.carried_readout, cov_z) + step.noise_scale
        root = masked_rsqrt(scale, step.observed)
        f = cov_h * root
        new = scaled_less(cov, w, congruence_pairs(cov_us, w, us, vs)) - outer(f, f)
        if noise.diag is not None:
            new = new + diagonal(noise.diag)
        for column in columns(noise.factor):
            new = new + outer(column, column)
        return Carry(new), Update(scale, f * root, cov_z, cov_us)

    def to_dense(self, stored: Array) -> Array:
        """P."""
        return stored

    def chunk_starts(self, chunks: ChunkSummary, initial: Law, axis: str | None = None) -> Law:
        """The law at the start of every chunk."""
        return chunk_starts(chunks, initial, axis)


def with_spare(root: Float[Array, " d n *batch"], num: int) -> Carry:
    """A factor of d columns with `num` spare columns."""
    dim = root.shape[0]
    root = root if root.shape[1] == dim else triangular_factor(root)
    spare = jnp.zeros((dim, num, *root.shape[2:]), root.dtype)
    return Carry(jnp.concatenate([root, spare], axis=1), jnp.zeros((), jnp.int32))


def append(factor: Carry, new: Float[Array, " d k *batch"]) -> Carry:
    """P + new newᵀ: into spare columns, after a compression if too few of these are left."""
    dim, num_new = new.shape[:2]
    old, taken = factor
    assert taken is not None  # a factor, and not P

    def compressed(x: Array) -> Array:
        root = triangular_factor(x)
        return jnp.concatenate([root, jnp.zeros_like(x[:, dim:])], axis=1)

    full = taken + num_new > old.shape[1] - dim
    old = lax.cond(full, compressed, lambda x: x, old)
    taken = jnp.where(full, 0, taken)
    joined = lax.dynamic_update_slice_in_dim(old, new, dim + taken, axis=1)
    return Carry(joined, taken + num_new)


class Measured(NamedTuple):
    """A factor after a scalar measurement, its gain g and its scale s."""

    factor: Float[Array, " d n *batch"]
    gain: Float[Array, " d *batch"]
    scale: Float[Array, " *batch"]


def potter(
    factor: Float[Array, " d n *batch"],
    f: Float[Array, " n *batch"],
    noise: Array | float,
    observed: Array | float = 1.0,
) -> Measured:
    r"""Update a factor by a scalar measurement with noise r, where $f = L^\top h$.

    $$s = f^\top f + r, \quad g = L f / s, \quad L - \frac{1}{s + \sqrt{r s}} (L f) f^\top$$

    Source: Potter (1963); Bierman, Factorization Methods for Discrete Sequential Estimation (1977).
    """
    scale = inner(f, f) + noise
    root = masked_rsqrt(scale, observed)
    gain = times(factor, f) * root * root
    # 1/(s + √(r s)) = (1/s) / (1 + √(r/s)).
    shrink = 1 / (1 + jnp.sqrt(noise) * root)
    return Measured(factor - outer(gain * shrink, f), gain, scale)


class SquareRoot:
    """Carries and stores L with P = L Lᵀ; the measurement update is Potter's.

    Noise of full rank is included by a triangularisation at every step. Noise of rank k is written
    into spare columns, and L is brought back to d columns only when these are used up.
    """

    def store(self, cov: Array) -> Array:
        """L."""
        return semidefinite_cholesky(cov)

    def start(self, stored: Array, noise: DiagPlusLowRank) -> Carry:
        """L with d columns, and as many spare ones as take the noise of some steps."""
        dim, rank = stored.shape[0], noise.rank if noise.diag is None else 0
        return with_spare(stored, rank * -(-dim // rank) if rank else 0)

    def advance(self, carry: Carry, step: Step) -> tuple[Carry, Update]:
        """One step."""
        transition, noise = step.transition, step.noise
        w, us, vs = transition.diag, columns(transition.left), columns(transition.right)
        factor, taken = carry
        weights = [left_times(u, factor) for u in us]
        # Only the adjoint uses these products; elsewhere the compiler drops them.
        cov_z = times(factor, left_times(step.carried_readout, factor))
        cov_us = [times(factor, a) for a in weights]
        predicted = w[:, None] * factor
        for a, v in zip(weights, vs, strict=True):
            predicted = predicted - outer(v, a)
        if noise.diag is not None:
            # No spare columns here: the columns of the noise are appended and compressed at once.
            wide = jnp.concatenate([predicted, noise.factor], axis=1)
            predicted = triangular_factor(wide, noise.diag)
        elif noise.rank:
            predicted, taken = append(Carry(predicted, taken), noise.factor)
        f = left_times(step.readout, predicted)
        new, gain, scale = potter(predicted, f, step.emission_noise, step.observed)
        return Carry(new, taken), Update(scale, gain, cov_z, cov_us)

    def to_dense(self, stored: Array) -> Array:
        """P = L Lᵀ."""
        return stored @ stored.mT

    def chunk_starts(self, chunks: ChunkSummary, initial: Law, axis: str | None = None) -> Law:
        """The law at the start of every chunk, in factors."""
        return root_chunk_starts(chunks, initial, axis)


def batched_product(
    a: Float[Array, "*B T n d"], b: Float[Array, "*B T d e"]
) -> Float[Array, "*B T n e"]:
    """The product at every step; small matrices by a fused sum, as batched products are slow."""
    if b.shape[-2] > 32:
        return a @ b
    return jnp.sum(a[..., :, :, None] * b[..., None, :, :], axis=-2)


def smoothed_covariance(
    cov: Float[Array, "*B T d d"], information: Float[Array, "*B T d d"]
) -> Float[Array, "*B T d d"]:
    """P − P Λ P at every step, exactly symmetric."""
    product = batched_product(batched_product(cov, information), cov)
    return cov - 0.5 * (product + product.mT)


PLAIN, SQUARE_ROOT = Plain(), SquareRoot()
FORMS: dict[str, CovarianceForm] = {"plain": PLAIN, "square_root": SQUARE_ROOT}
