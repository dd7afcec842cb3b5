r"""The chunked driver with the exact gradient of the filter by its adjoint recursion.

A chunk maps the law at its start, and the inputs of its steps, to the predictive moments of its
emissions and the law at its end, which the next chunk starts from. So the gradient is that of the
sequential driver once the cotangents (G, N) of the law at the end of every chunk are known. The law
at the end is a function of the law (M, P) at the start by the element of the chunk,

$$M' = (M + \eta P) D + b, \quad P' = A^\top P D + C, \quad D = (I + J P)^{-1} A,$$

so the cotangents move back over a chunk by a linear map,

$$G \mapsto G D^\top, \quad
  N \mapsto D N D^\top + \tfrac12 (w^\top G D^\top + D G^\top w), \quad
  w = \eta - (M + \eta P) (I + J P)^{-1} J,$$

and the chunk adds what its own emissions ask for, which one backward pass from zero gives. The
block matrix of G and N turns this into a congruence, for which a parallel scan is there already. A
second backward pass from the right cotangents gives the gradient. Nothing is kept over time that
the adjoint driver does not keep.
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from ssmlin._precision import in_full_precision
from ssmlin.inference._chunks import (
    Carried,
    ChunkMap,
    affine_starts,
    cut_time,
    from_device,
)
from ssmlin.inference.matrix._adjoint import ADJOINT
from ssmlin.inference.matrix._chunked import Chunked, chunk_models, summary
from ssmlin.inference.matrix._covariance import PLAIN, CovarianceForm
from ssmlin.inference.matrix._driver import KEEP_NOTHING, Forward, Keep
from ssmlin.inference.matrix._elements import Element, Law, chunk_elements
from ssmlin.lgssm import MatrixLGSSM


@dataclass(frozen=True)
class ChunkedAdjoint(Chunked):
    """:class:`Chunked` with :meth:`forward` differentiated by the adjoint recursion.

    In the plain form of the covariance, and where nothing is kept over time.
    """

    def forward(
        self,
        lgssm: MatrixLGSSM,
        emissions: Float[Array, "T m"],
        observed: Float[Array, " T"],
        *,
        form: CovarianceForm,
        keep: Keep = KEEP_NOTHING,
    ) -> Forward:
        """Kalman filter; see :func:`ssmlin.inference.matrix._adjoint.forward`."""
        if any(keep) or form is not PLAIN:
            return super().forward(lgssm, emissions, observed, form=form, keep=keep)
        cut = cut_time(lgssm.num_timesteps, self.length)
        chunks, y, seen = chunk_models(lgssm, cut), cut.split(emissions), cut.split(observed)
        run = _predictive(self.axis, chunks, y, seen)
        last = from_device(Law(run.last_mean[-1], run.last_cov[-1]), -1, self.axis)
        return Forward(
            emission_means=cut.join(run.emission_means),
            scales=cut.join(run.scales),
            last_mean=last.mean,
            last_cov=last.stored,
        )


class _Predictive(NamedTuple):
    """The predictive moments, and the law at the end of every chunk; or their cotangents."""

    emission_means: Array
    scales: Array
    last_mean: Array
    last_cov: Array


class _Kept(NamedTuple):
    """What the forward pass keeps: the elements of the chunks, their starts, and a linear map."""

    elements: Element
    starts: Law
    pull: Any


def _started(
    axis: str | None, chunks: MatrixLGSSM, emissions: Array, observed: Array
) -> tuple[Element, Law]:
    """The elements of the chunks, and the law at the start of each."""
    found = summary(chunks, emissions, observed, PLAIN)
    initial = Law(chunks.initial_mean[0], chunks.initial_cov[0])
    return chunk_elements(found), PLAIN.chunk_starts(found, initial, axis)


def _run(chunks: MatrixLGSSM, start: Law, emissions: Array, observed: Array) -> _Predictive:
    """Filter the chunks, each from its start."""
    chunks = replace(chunks, initial_mean=start.mean, initial_cov=start.stored)
    run = ADJOINT.forward(chunks, emissions, observed, form=PLAIN)
    return _Predictive(run.emission_means, run.scales, run.last_mean, run.last_cov)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _predictive(
    axis: str | None, chunks: MatrixLGSSM, emissions: Array, observed: Array
) -> _Predictive:
    """The filter without anything kept; only the initial law of the very first chunk is used."""
    return _run(chunks, _started(axis, chunks, emissions, observed)[1], emissions, observed)


@in_full_precision
def _predictive_forward(
    axis: str | None, chunks: MatrixLGSSM, emissions: Array, observed: Array
) -> tuple[_Predictive, _Kept]:
    elements, starts = _started(axis, chunks, emissions, observed)
    run, pull = jax.vjp(_run, chunks, starts, emissions, observed)
    return run, _Kept(elements, starts, pull)


@in_full_precision
def _predictive_backward(
    axis: str | None, kept: _Kept, cotangents: _Predictive
) -> tuple[MatrixLGSSM, Array, Array]:
    _, own, _, _ = kept.pull(cotangents)
    later = _later(kept.elements, kept.starts, own, axis)
    chunks, start, emissions, observed = kept.pull(
        cotangents._replace(
            last_mean=cotangents.last_mean + later.mean, last_cov=cotangents.last_cov + later.stored
        )
    )
    # The other chunks start where the ones before them end.
    first: Array | bool = True if axis is None else lax.axis_index(axis) == 0

    def of_first(x: Array) -> Array:
        return jnp.zeros_like(x).at[0].set(jnp.where(first, x[0], 0.0))

    chunks = replace(chunks, initial_mean=of_first(start.mean), initial_cov=of_first(start.stored))
    return chunks, emissions, observed


def _later(elements: Element, starts: Law, own: Law, axis: str | None) -> Law:
    """The cotangents of the law at the end of every chunk that come from the chunks after it.

    Args:
        elements: of the chunks.
        starts: the law at the start of every chunk.
        own: the cotangents of these laws that come from the chunk itself.
        axis: see :class:`Chunked`.
    """
    mean, cov = starts
    num, m, dim = mean.shape
    eye = jnp.broadcast_to(jnp.eye(m, dtype=mean.dtype), (num, m, m))
    solved = jnp.linalg.solve(
        jnp.eye(dim, dtype=mean.dtype) + elements.information @ cov,
        jnp.concatenate([elements.transition, elements.information], axis=-1),
    )
    onward, back = solved[..., :dim], solved[..., dim:]
    w = elements.shift - (mean + elements.shift @ cov) @ back

    def blocks(a: Array, b: Array, c: Array, d: Array) -> Array:
        return jnp.concatenate(
            [jnp.concatenate([a, b], axis=-1), jnp.concatenate([c, d], axis=-1)], axis=-2
        )

    def pair(law: Law) -> Array:
        return blocks(jnp.zeros_like(law.mean @ law.mean.mT), law.mean, law.mean.mT, law.stored)

    no_rows = jnp.zeros((num, 0, m + dim), mean.dtype)
    maps = ChunkMap(blocks(eye, 0.5 * w, jnp.zeros_like(w.mT), onward.mT), no_rows, pair(own))
    nothing = Carried(no_rows[0], jnp.zeros((m + dim, m + dim), mean.dtype))
    found = affine_starts(maps, nothing, axis, reverse=True).quadratic
    assert found is not None
    return Law(found[:, :m, m:], found[:, m:, m:])


_predictive.defvjp(_predictive_forward, _predictive_backward)
