r"""The drivers that run over time in parallel: time is cut into chunks, a batch of sequences.

First every chunk is filtered as if the state at its start were known to be zero, which, with the
response of its predictions to that state, gives its ``Element`` (see elements).
Then the elements are combined by a parallel scan into the law of the state at the start of every
chunk, and the chunks are filtered once more from there. The backward passes are affine in what
they start from and go the same way. Chunks of one step make the associative driver, with log T
steps of d × d products; longer ones the chunked driver, with less work and longer scans.

There is no other arithmetic here: the scans are those of the sequential driver.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from ssmlin.inference.matrix import sequential
from ssmlin.inference.matrix.covariance import (
    PLAIN,
    SQUARE_ROOT,
    CovarianceForm,
    masked_rsqrt,
)
from ssmlin.inference.matrix.elements import (
    Element,
    RootElement,
    combine,
    combine_roots,
    condition,
    condition_root,
    triangular,
)
from ssmlin.lgssm import MatrixLGSSM


def _split(x: Array, length: int) -> Array:
    """Cut the leading time axis into chunks, the last one padded with zeros."""
    x = jnp.pad(x, [(0, -x.shape[0] % length), *[(0, 0)] * (x.ndim - 1)])
    return x.reshape(x.shape[0] // length, length, *x.shape[1:])


def _join(x: Array | None, steps: int) -> Any:
    """Undo :func:`_split`."""
    return None if x is None else x.reshape(x.shape[0] * x.shape[1], *x.shape[2:])[:steps]


def _compose(first: tuple[Array, Array], second: tuple[Array, Array]) -> tuple[Array, Array]:
    """The affine map of rows x ↦ x A + b of two neighbouring chunks."""
    return first[0] @ second[0], first[1] @ second[0] + second[1]


def _compose_quadratic(
    first: tuple[Array, Array, Array], second: tuple[Array, Array, Array]
) -> tuple[Array, Array, Array]:
    """As :func:`_compose`, with the map of symmetric matrices X ↦ Aᵀ X A + C beside it."""
    transition, offset = _compose(first[:2], second[:2])
    return transition, offset, second[0].mT @ first[2] @ second[0] + second[2]


def _before(inclusive: Array, start: Array) -> Array:
    """What every chunk starts from: the first from `start`, the others where the last one ended."""
    return jnp.concatenate([start[None], inclusive], axis=0)


@dataclass(frozen=True)
class Chunked:
    """The functions of :mod:`ssmlin.inference.matrix.sequential`, in parallel over chunks of time.

    Args:
        length: the number of steps of a chunk; None for about √T.
    """

    length: int | None = None

    def _chunk_length(self, lgssm: MatrixLGSSM) -> int:
        steps = lgssm.num_timesteps
        return min(self.length or math.isqrt(max(steps - 1, 0)) + 1, max(steps, 1))

    def _chunks(self, lgssm: MatrixLGSSM) -> MatrixLGSSM:
        """The model of every chunk, a batch; its initial law is not to be used."""
        length = self._chunk_length(lgssm)
        extra = -lgssm.num_timesteps % length
        num = (lgssm.num_timesteps + extra) // length
        padded = sequential.pad_time(lgssm, extra)
        chunks = padded.map_time(lambda x: _split(x, length))
        still: dict[str, Any] = {
            name: jnp.broadcast_to(getattr(lgssm, name), (num, *getattr(lgssm, name).shape))
            for name in ("initial_mean", "initial_cov", "row_cov")
        }
        return replace(chunks, **still)

    def forward(
        self,
        lgssm: MatrixLGSSM,
        emissions: Float[Array, "T m"],
        observed: Float[Array, " T"],
        *,
        form: CovarianceForm = PLAIN,
        keep_gains: bool = False,
        keep_means: bool = False,
        keep_covariances: bool = False,
    ) -> sequential.Forward:
        """Kalman filter; see :func:`ssmlin.inference.matrix.sequential.forward`."""
        steps, length = lgssm.num_timesteps, self._chunk_length(lgssm)
        chunks = self._chunks(lgssm)
        y, seen = _split(emissions, length), _split(observed, length)
        run = sequential.forward(
            chunks,
            y,
            seen,
            form=form,
            start=_chunk_starts(lgssm, chunks, y, seen, form),
            keep_gains=keep_gains,
            keep_means=keep_means,
            keep_covariances=keep_covariances,
        )
        return sequential.Forward(
            emission_means=_join(run.emission_means, steps),
            scales=_join(run.scales, steps),
            last_mean=run.last_mean[-1],
            last_stored=run.last_stored[-1],
            gains=_join(run.gains, steps),
            means=_join(run.means, steps),
            stored=_join(run.stored, steps),
        )

    def backward(
        self,
        lgssm: MatrixLGSSM,
        gains: Float[Array, "T d"],
        precisions: Float[Array, " T"],
        residuals: Float[Array, "T m"],
        *,
        keep_information: bool = False,
    ) -> sequential.Backward:
        """Adjoints of the smoother; see :func:`ssmlin.inference.matrix.sequential.backward`."""
        steps, length = lgssm.num_timesteps, self._chunk_length(lgssm)
        chunks = self._chunks(lgssm)
        data = [_split(x, length) for x in (gains, precisions, residuals)]
        num, dim, m = data[0].shape[0], lgssm.key_dim, residuals.shape[1]
        # How a chunk carries a unit adjoint at its end, and what it adds, in one pass.
        eye = jnp.eye(dim, dtype=lgssm.dtype)
        rows = jnp.concatenate([eye, jnp.zeros((m, dim), lgssm.dtype)])
        padded = jnp.pad(data[2], ((0, 0), (0, 0), (dim, 0)))
        zero = jnp.zeros((num, dim, dim), lgssm.dtype)
        alone = sequential.backward(
            chunks,
            data[0],
            data[1],
            padded,
            keep_information=keep_information,
            end=(jnp.broadcast_to(rows, (num, *rows.shape)), zero if keep_information else None),
        )
        carried, added = alone.initial_adjoint[:, :dim], alone.initial_adjoint[:, dim:]
        # Backward in time: the last chunk comes first.
        parts = [x[:0:-1] for x in (carried, added)]
        if keep_information:
            parts.append(alone.initial_information[:0:-1])
        done = lax.associative_scan(_compose_quadratic if keep_information else _compose, parts)
        adjoints = _before(done[1], jnp.zeros((m, dim), lgssm.dtype))[::-1]
        information = _before(done[2], zero[0])[::-1] if keep_information else None
        run = sequential.backward(
            chunks, *data, keep_information=keep_information, end=(adjoints, information)
        )
        first = run.initial_information
        return sequential.Backward(
            filtered_adjoints=_join(run.filtered_adjoints, steps),
            predicted_adjoints=_join(run.predicted_adjoints, steps),
            information=_join(run.information, steps),
            initial_adjoint=run.initial_adjoint[0],
            initial_information=None if first is None else first[0],
        )

    def root_backward(
        self,
        lgssm: MatrixLGSSM,
        emissions: Float[Array, "T m"],
        observed: Float[Array, " T"],
        run: sequential.Forward,
        residuals: Float[Array, "T m"],
    ) -> tuple[Float[Array, "T m d"], Float[Array, "T d n"]]:
        """Smooth in factors; see :func:`ssmlin.inference.matrix.sequential.root_backward`."""
        steps, length = lgssm.num_timesteps, self._chunk_length(lgssm)
        chunks = self._chunks(lgssm)

        def split(x: Any) -> Any:
            return _split(x, length)

        y, seen = split(emissions), split(observed)
        by_chunk = run._replace(
            gains=split(run.gains), means=split(run.means), stored=split(run.stored)
        )
        elements = _elements(lgssm, chunks, y, seen, SQUARE_ROOT)
        # Backward in time: what comes later is combined first.
        later = jax.tree.map(lambda x: x[1:], elements)
        future = lax.associative_scan(lambda x, y: combine_roots(y, x), later, reverse=True)
        root = future.information_root
        shift = (future.values - by_chunk.means[:-1, -1] @ root) @ root.mT
        end = [jnp.concatenate([x, jnp.zeros_like(x[:1])]) for x in (shift, root)]
        if len(seen) == 1:
            end = [jnp.zeros_like(x) for x in (elements.values, elements.information_root)]
        shifts, roots = sequential.root_backward(
            chunks, y, seen, by_chunk, split(residuals), end=(end[0], end[1])
        )
        return _join(shifts, steps), _join(roots, steps)

    def forward_means(
        self,
        lgssm: MatrixLGSSM,
        initial_mean: Float[Array, "n d"],
        emissions: Float[Array, "T n"],
        gains: Float[Array, "T d"],
    ) -> tuple[Float[Array, "T n"], Float[Array, "n d"]]:
        """Means for known gains; see :func:`ssmlin.inference.matrix.sequential.forward_means`."""
        steps, length = lgssm.num_timesteps, self._chunk_length(lgssm)
        chunks = self._chunks(lgssm)
        y, g = _split(emissions, length), _split(gains, length)
        start = self._affine_starts(
            lambda rows, width: sequential.forward_means(
                chunks, rows, jnp.pad(y, ((0, 0), (0, 0), (width, 0))), g
            )[1],
            initial_mean,
            y.shape[0],
        )
        read, last = sequential.forward_means(chunks, start, y, g)
        return _join(read, steps), last[-1]

    def carried_means(
        self,
        lgssm: MatrixLGSSM,
        initial_mean: Float[Array, "n d"],
        shifts: Float[Array, "T n d"],
        *,
        with_drift: bool = True,
    ) -> Float[Array, "T n d"]:
        """The deterministic recursion; see :func:`carried_means`."""
        steps, length = lgssm.num_timesteps, self._chunk_length(lgssm)
        if with_drift:
            shifts = shifts + lgssm.drift.to_dense()
        chunks = self._chunks(lgssm)
        x = _split(shifts, length)

        def last(rows: Array, width: int) -> Array:
            padded = jnp.pad(x, ((0, 0), (0, 0), (width, 0), (0, 0)))
            return sequential.carried_means(chunks, rows, padded, with_drift=False)[:, -1]

        start = self._affine_starts(last, initial_mean, x.shape[0])
        means = sequential.carried_means(chunks, start, x, with_drift=False)
        return _join(means, steps)

    def smoothed_means(
        self,
        lgssm: MatrixLGSSM,
        initial_mean: Float[Array, "n d"],
        result: sequential.Backward,
        **options: Any,
    ) -> Float[Array, "T n d"]:
        """Smoothed means; see :func:`ssmlin.inference.matrix.sequential.smoothed_means`."""
        start, shifts = sequential.disturbances(lgssm, initial_mean, result)
        return self.carried_means(lgssm, start, shifts, **options)

    def _affine_starts(self, last: Any, initial: Float[Array, "n d"], num: int) -> Array:
        """What every chunk starts from, given how `last` takes rows to the end of every chunk."""
        n, dim = initial.shape
        rows = jnp.concatenate([jnp.eye(dim, dtype=initial.dtype), jnp.zeros_like(initial)])
        ends = last(jnp.broadcast_to(rows, (num, *rows.shape)), dim)[:-1]
        transition, offset = lax.associative_scan(_compose, (ends[:, :dim], ends[:, dim:]))
        return _before(initial @ transition + offset, initial)


def _elements(
    lgssm: MatrixLGSSM, chunks: MatrixLGSSM, y: Array, seen: Array, form: CovarianceForm
) -> Any:
    """The element of every chunk, as the form has it."""
    num, dim = y.shape[0], lgssm.key_dim
    zero_mean = jnp.zeros((num, *lgssm.initial_mean.shape), lgssm.dtype)
    zero_cov = jnp.zeros((num, dim, dim), lgssm.dtype)
    alone = sequential.forward(
        chunks, y, seen, form=form, start=(zero_mean, zero_cov), keep_gains=True
    )
    eye = jnp.broadcast_to(jnp.eye(dim, dtype=lgssm.dtype), (num, dim, dim))
    # How each prediction, and the state at the end, respond to the state at the start.
    no_emissions = jnp.zeros((*seen.shape, dim), lgssm.dtype)
    response, transition = sequential.forward_means(chunks, eye, no_emissions, alone.gains)
    roots = masked_rsqrt(alone.scales, seen)[..., None]
    response, errors = response * roots, (y - alone.emission_means) * roots * seen[..., None]
    if form is PLAIN:
        shift, information = errors.mT @ response, response.mT @ response
        return Element(transition, alone.last_mean, alone.last_stored, shift, information)

    def square(x: Array) -> Array:
        """A factor of d columns."""
        if x.shape[-1] < dim:
            return jnp.pad(x, ((0, 0), (0, 0), (0, dim - x.shape[-1])))
        return triangular(x, dim)

    measured = square(jnp.concatenate([response.mT, errors.mT], axis=-2))
    return RootElement(
        transition,
        alone.last_mean,
        square(alone.last_stored),
        measured[:, dim:],
        measured[:, :dim],
    )


def _chunk_starts(
    lgssm: MatrixLGSSM, chunks: MatrixLGSSM, y: Array, seen: Array, form: CovarianceForm
) -> tuple[Array, Array]:
    """The law of the state at the start of every chunk, as the form keeps it."""
    start = lgssm.initial_mean, form.store(lgssm.initial_cov)
    elements = _elements(lgssm, chunks, y, seen, form)
    done = lax.associative_scan(
        combine if form is PLAIN else combine_roots, jax.tree.map(lambda x: x[:-1], elements)
    )
    if form is PLAIN:
        found = jax.vmap(condition, (0, None, None))(done, *start)
    else:
        found = condition_root(done, *(jnp.broadcast_to(x, (len(y) - 1, *x.shape)) for x in start))
    return _before(found[0], start[0]), _before(found[1], start[1])
