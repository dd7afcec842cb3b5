r"""The associative operator of filtering: what a stretch of time does to the law of the state.

With the rows x of the state at the start of the stretch,

$$p(x_{end} \mid x_{start}, y) = N(x_{start} A + b, C), \qquad
  p(y \mid x_{start}) \propto \exp(-\tfrac12 x J x^\top + x \eta^\top)$$

up to the row covariance Σ, which multiplies C and divides J and η. Elements of neighbouring
stretches combine into the element of their union, in any grouping, so a scan over time can run in
parallel. Nothing but (I + C J), which is never singular, is inverted: C, J and P may all be zero.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, Float

from ssmlin.inference.covariance import triangular_factor


class Element(NamedTuple):
    """What a stretch of time does; leading axes are batches of stretches.

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


def _symmetric_part(x: Float[Array, "... d d"]) -> Float[Array, "... d d"]:
    return 0.5 * (x + x.mT)


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
        _symmetric_part(second.transition.mT @ first.cov @ onward) + second.cov,
        (second.shift - first.offset @ second.information) @ gain + first.shift,
        _symmetric_part(first.transition @ back) + first.information,
    )


def condition(
    element: Element, mean: Float[Array, "... m d"], cov: Float[Array, "... d d"]
) -> tuple[Float[Array, "... m d"], Float[Array, "... d d"]]:
    """Carry the law of the state at the start of a stretch to its filtered law at the end."""
    eye = jnp.eye(cov.shape[-1], dtype=cov.dtype)
    onward = jnp.linalg.solve(eye + element.information @ cov, element.transition)
    return (
        (mean + element.shift @ cov) @ onward + element.offset,
        _symmetric_part(element.transition.mT @ cov @ onward) + element.cov,
    )


class RootElement(NamedTuple):
    """As :class:`Element`, with factors of C = U Uᵀ and J = Z Zᵀ in place of these.

    Attributes:
        transition: A, (..., d, d).
        offset: b, (..., m, d).
        cov_root: U, (..., d, d).
        shift: η, (..., m, d).
        information_root: Z, (..., d, d).
    """

    transition: Float[Array, "... d d"]
    offset: Float[Array, "... m d"]
    cov_root: Float[Array, "... d d"]
    shift: Float[Array, "... m d"]
    information_root: Float[Array, "... d d"]


def _triangular(*blocks: Float[Array, "n d k"]) -> Float[Array, "n d d"]:
    """L with L Lᵀ the sum of the blocks' squares, at every index of the leading axis."""
    wide = jnp.moveaxis(jnp.concatenate(blocks, axis=-1), 0, -1)
    return jnp.moveaxis(triangular_factor(wide), -1, 0)


def _whiten(x: Float[Array, "n d d"], root: Float[Array, "n d d"]) -> Float[Array, "n d d"]:
    """Return Ξ⁻¹ rootᵀ where Ξ is triangular and Ξ Ξᵀ = I + x xᵀ."""
    last = jnp.moveaxis(x, 0, -1)
    outer_root = jnp.moveaxis(triangular_factor(last, jnp.ones_like(last[:, 0])), -1, 0)
    return solve_triangular(outer_root, root.mT, lower=True)


def _onward(
    cov_root: Float[Array, "n d d"], information_root: Float[Array, "n d d"]
) -> tuple[Float[Array, "n d d"], Float[Array, "n d d"], Float[Array, "n d d"]]:
    r"""$N^\top = (I + J_2 C_1)^{-1}$, and W, Y with $N C_1 = W^\top W$, $N^\top J_2 = Y^\top Y$."""
    crossed = cov_root.mT @ information_root
    white_cov = _whiten(crossed, cov_root)
    white_information = _whiten(crossed.mT, information_root)
    # Woodbury: N = I − Wᵀ (Ξ⁻¹ X Z₂ᵀ), which is I − Wᵀ W J₂.
    correction = (white_cov @ information_root) @ information_root.mT
    eye = jnp.eye(cov_root.shape[-1], dtype=cov_root.dtype)
    return eye - correction.mT @ white_cov, white_cov, white_information


def combine_roots(first: RootElement, second: RootElement) -> RootElement:
    """:func:`combine` by orthogonal transformations; one leading axis.

    Source: Yaghoobi et al. (2022), arXiv 2207.00426.
    """
    onward, white_cov, white_information = _onward(first.cov_root, second.information_root)
    carried_cov = second.transition.mT @ white_cov.mT
    carried_information = first.transition @ white_information.mT
    offset = first.offset @ onward + (second.shift @ white_cov.mT) @ white_cov
    shift = second.shift @ onward.mT - (first.offset @ white_information.mT) @ white_information
    return RootElement(
        first.transition @ onward @ second.transition,
        offset @ second.transition + second.offset,
        _triangular(carried_cov, second.cov_root),
        shift @ first.transition.mT + first.shift,
        _triangular(carried_information, first.information_root),
    )


def condition_root(
    element: RootElement, mean: Float[Array, "n m d"], root: Float[Array, "n d d"]
) -> tuple[Float[Array, "n m d"], Float[Array, "n d d"]]:
    """:func:`condition` with a factor of the covariance, before and after; one leading axis."""
    onward, white_cov, _ = _onward(root, element.information_root)
    carried = element.transition.mT @ white_cov.mT
    filtered = mean @ onward + (element.shift @ white_cov.mT) @ white_cov
    return (
        filtered @ element.transition + element.offset,
        _triangular(carried, element.cov_root),
    )
