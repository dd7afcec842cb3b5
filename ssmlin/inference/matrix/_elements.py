r"""The associative operator of filtering: what a stretch of time does to the law of the state.

With the rows x of the state at the start of the stretch,

$$p(x_{end} \mid x_{start}, y) = N(x_{start} A + b, C), \qquad
  p(y \mid x_{start}) \propto \exp(-\tfrac12 x J x^\top + x \eta^\top)$$

up to the row covariance Σ, which multiplies C and divides J and η. Elements of neighbouring
stretches combine into the element of their union, in any grouping, so a scan over time can run in
parallel. Nothing but (I + C J), which is never singular, is inverted: C, J and P may all be zero.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, Float

from ssmlin.inference._chunks import over_devices, starting_with
from ssmlin.inference._roots import symmetric_part, triangular_factor


class Law(NamedTuple):
    """A law of the state: its mean, and its covariance or a factor of it."""

    mean: Float[Array, "*B m d"]
    stored: Float[Array, "*B d n"]


class Element(NamedTuple):
    """What a stretch of time does to the law of the state; leading axes are batches of stretches.

    Attributes:
        transition: A, (..., d, d), acting on rows from the right.
        offset: b, (..., m, d).
        cov: C, (..., d, d).
        shift: η, (..., m, d).
        information: J, (..., d, d).
    """

    transition: Float[Array, "... d d"]
    offset: Float[Array, "... m d"]
    cov: Float[Array, "... d d"]
    shift: Float[Array, "... m d"]
    information: Float[Array, "... d d"]


def combine(first: Element, second: Element) -> Element:
    r"""The element of two neighbouring stretches, with $N = (I + C_1 J_2)^{-1}$.

    $$A = A_1 N^\top A_2,\quad b = (b_1 + \eta_2 C_1) N^\top A_2 + b_2,\quad
      C = A_2^\top N C_1 A_2 + C_2$$
    $$\eta = (\eta_2 - b_1 J_2) N A_1^\top + \eta_1,\quad J = A_1 N^\top J_2 A_1^\top + J_1$$

    Source: Särkkä and García-Fernández (2021), arXiv 1905.13002.
    """
    eye = jnp.eye(first.cov.shape[-1], dtype=first.cov.dtype)
    inner = eye + second.information @ first.cov  # N⁻ᵀ
    # Nᵀ [A₂, J₂ A₁ᵀ] in one solve.
    solved = jnp.linalg.solve(
        inner,
        jnp.concatenate([second.transition, second.information @ first.transition.mT], axis=-1),
    )
    dim = eye.shape[0]
    onward, back = solved[..., :dim], solved[..., dim:]
    gain = jnp.linalg.solve(inner.mT, first.transition.mT)  # N A₁ᵀ
    return Element(
        first.transition @ onward,
        (first.offset + second.shift @ first.cov) @ onward + second.offset,
        symmetric_part(second.transition.mT @ first.cov @ onward) + second.cov,
        (second.shift - first.offset @ second.information) @ gain + first.shift,
        symmetric_part(first.transition @ back) + first.information,
    )


def condition(element: Element, law: Law) -> Law:
    """Carry the law of the state at the start of a stretch to its filtered law at the end."""
    mean, cov = law
    eye = jnp.eye(cov.shape[-1], dtype=cov.dtype)
    onward = jnp.linalg.solve(eye + element.information @ cov, element.transition)
    return Law(
        (mean + element.shift @ cov) @ onward + element.offset,
        symmetric_part(element.transition.mT @ cov @ onward) + element.cov,
    )


class RootElement(NamedTuple):
    r"""As :class:`Element`, with factors of C = U Uᵀ and J = Z Zᵀ, and η = c Zᵀ, in place of these.

    The rows of Zᵀ are measurements x z of the state with values c and noise of variance one. As η
    itself the values would be rounded relative to the largest of J, and where little is known of
    the state that is multiplied by a large P.

    Attributes:
        transition: A, (..., d, d).
        offset: b, (..., m, d).
        cov_root: U, (..., d, d).
        values: c, (..., m, d).
        information_root: Z, (..., d, d).
    """

    transition: Float[Array, "... d d"]
    offset: Float[Array, "... m d"]
    cov_root: Float[Array, "... d d"]
    values: Float[Array, "... m d"]
    information_root: Float[Array, "... d d"]


def triangular(x: Float[Array, "n k l"], num: int | None = None) -> Float[Array, "n k d"]:
    """:func:`triangular_factor` at every index of the leading axis."""
    return jnp.moveaxis(triangular_factor(jnp.moveaxis(x, 0, -1), num=num), -1, 0)


def _whitening(x: Float[Array, "n d d"]) -> Float[Array, "n d d"]:
    """Triangular Ξ with Ξ Ξᵀ = I + x xᵀ."""
    last = jnp.moveaxis(x, 0, -1)
    return jnp.moveaxis(triangular_factor(last, jnp.ones_like(last[:, 0])), -1, 0)


class Measurements(NamedTuple):
    """What later emissions say of a state, as in a :class:`RootElement`: c and Z."""

    values: Float[Array, "*B m d"]
    information_root: Float[Array, "*B d d"]


class _Measured(NamedTuple):
    """The law MN(b, C) of the state, C = U Uᵀ, after the measurements (Z, c).

    Attributes:
        mean: the mean after the measurements.
        onward: (I + J C)⁻¹, which carries a difference in the mean.
        cov_root: a factor of the covariance after the measurements, transposed.
        information: Ξ⁻¹ Zᵀ, where Ξ Ξᵀ = I + Zᵀ C Z is the law of the measurements.
        values: the innovations, whitened by Ξ.
    """

    mean: Float[Array, "n m d"]
    onward: Float[Array, "n d d"]
    cov_root: Float[Array, "n d d"]
    information: Float[Array, "n d d"]
    values: Float[Array, "n m d"]


def _measure(
    mean: Float[Array, "n m d"],
    cov_root: Float[Array, "n d d"],
    element: RootElement | Measurements,
) -> _Measured:
    """Update a law of the state at the start of a stretch by the measurements of the stretch."""
    z = element.information_root
    crossed = z.mT @ cov_root
    innovations = element.values - mean @ z
    dim = crossed.shape[-1]
    right = jnp.concatenate([z.mT, crossed @ cov_root.mT, innovations.mT], axis=-1)
    solved = solve_triangular(_whitening(crossed), right, lower=True)
    information, gain = solved[..., :dim], solved[..., dim : 2 * dim]
    values = solved[..., 2 * dim :].mT
    return _Measured(
        mean=mean + values @ gain,
        onward=jnp.eye(dim, dtype=z.dtype) - information.mT @ gain,
        cov_root=solve_triangular(_whitening(crossed.mT), cov_root.mT, lower=True),
        information=information,
        values=values,
    )


def combine_roots(first: RootElement, second: RootElement) -> RootElement:
    """:func:`combine` by orthogonal transformations; one leading axis.

    Source: after Yaghoobi et al. (2022), arXiv 2207.00426, with the shift in factors too.
    """
    measured = _measure(first.offset, first.cov_root, second)
    cov = jnp.concatenate([second.transition.mT @ measured.cov_root.mT, second.cov_root], axis=-1)
    return RootElement(
        first.transition @ measured.onward @ second.transition,
        measured.mean @ second.transition + second.offset,
        triangular(cov),
        *_joined(first, measured),
    )


def _joined(first: RootElement, measured: _Measured) -> Measurements:
    """The measurements of a stretch, and those after it, of the state at its start."""
    dim = first.transition.shape[-1]
    measurements = jnp.concatenate(
        [
            jnp.concatenate([first.transition @ measured.information.mT, measured.values], axis=-2),
            jnp.concatenate([first.information_root, first.values], axis=-2),
        ],
        axis=-1,
    )
    joint = triangular(measurements, dim)
    return Measurements(joint[..., dim:, :], joint[..., :dim, :])


def measurements_before(element: RootElement, after: Measurements) -> Measurements:
    """What a stretch and the emissions after it say of the state at its start."""
    return _joined(element, _measure(element.offset, element.cov_root, after))


def condition_root(element: RootElement, law: Law) -> Law:
    """:func:`condition` with a factor of the covariance, before and after; one leading axis."""
    measured = _measure(law.mean, law.stored, element)
    cov = jnp.concatenate([element.transition.mT @ measured.cov_root.mT, element.cov_root], axis=-1)
    return Law(measured.mean @ element.transition + element.offset, triangular(cov))


class ChunkSummary(NamedTuple):
    """What filtering every chunk from a state known to be zero says of the chunk.

    Attributes:
        transition: how the filtered mean at the end responds to the state at the start.
        mean: the filtered mean at the end.
        stored: its covariance, or a factor of it.
        response: how every prediction responds to the state at the start, over its deviation.
        errors: the prediction errors over their deviations.
    """

    transition: Float[Array, "chunks d d"]
    mean: Float[Array, "chunks m d"]
    stored: Float[Array, "chunks d n"]
    response: Float[Array, "chunks length d"]
    errors: Float[Array, "chunks length m"]


def chunk_elements(chunks: ChunkSummary) -> Element:
    """The element of every chunk."""
    shift = chunks.errors.mT @ chunks.response
    information = chunks.response.mT @ chunks.response
    return Element(chunks.transition, chunks.mean, chunks.stored, shift, information)


def root_chunk_elements(chunks: ChunkSummary) -> RootElement:
    """The element of every chunk, in factors."""
    dim = chunks.transition.shape[-1]

    def square(x: Array) -> Array:
        """A factor of d columns."""
        if x.shape[-1] < dim:
            return jnp.pad(x, ((0, 0), (0, 0), (0, dim - x.shape[-1])))
        return triangular(x, dim)

    measured = square(jnp.concatenate([chunks.response.mT, chunks.errors.mT], axis=-2))
    root = square(chunks.stored)
    return RootElement(chunks.transition, chunks.mean, root, measured[:, dim:], measured[:, :dim])


def chunk_starts(chunks: ChunkSummary, initial: Law, axis: str | None = None) -> Law:
    """The law of the state at the start of every chunk; see :func:`over_devices`."""

    def starts(elements: Element, initial: Law) -> Law:
        done = lax.associative_scan(combine, jax.tree.map(lambda x: x[:-1], elements))
        later = jax.vmap(condition, (0, None))(done, initial)
        return Law(*map(starting_with, initial, later))

    return over_devices(starts, combine, chunk_elements(chunks), initial, axis)


def root_chunk_starts(chunks: ChunkSummary, initial: Law, axis: str | None = None) -> Law:
    """The law of the state at the start of every chunk, in factors; see :func:`over_devices`."""

    def starts(elements: RootElement, initial: Law) -> Law:
        done = lax.associative_scan(combine_roots, jax.tree.map(lambda x: x[:-1], elements))
        num = len(done.transition)
        later = condition_root(done, Law(*(jnp.broadcast_to(x, (num, *x.shape)) for x in initial)))
        return Law(*map(starting_with, initial, later))

    return over_devices(starts, combine_roots, root_chunk_elements(chunks), initial, axis)


def root_chunk_ends(elements: RootElement, num_rows: int, axis: str | None = None) -> Measurements:
    """What later emissions say of the state at the end of every chunk."""

    def ends(elements: RootElement, last: Measurements) -> Measurements:
        # Backward in time: later elements are combined first.
        done = lax.associative_scan(
            lambda x, y: combine_roots(y, x), jax.tree.map(lambda x: x[:-1], elements)
        )
        num = len(done.transition)
        end = Measurements(*(jnp.broadcast_to(x, (num, *x.shape)) for x in last))
        return Measurements(*map(starting_with, last, measurements_before(done, end)))

    dim = elements.transition.shape[-1]
    dtype = elements.transition.dtype
    nothing = Measurements(jnp.zeros((num_rows, dim), dtype), jnp.zeros((dim, dim), dtype))
    return over_devices(
        ends, lambda x, y: combine_roots(y, x), elements, nothing, axis, reverse=True
    )
