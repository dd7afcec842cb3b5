r"""The drivers that run over time in parallel, over chunks of time as a batch of sequences.

First every chunk is filtered as if the state at its start were known to be zero. With the response
of its predictions to that state this gives its element (see elements). A parallel scan combines the
elements into the law of the state at the start of every chunk, and the chunks are filtered once
more from there. The backward passes are affine in what they start from and are run in the same way.
Chunks of one step make the associative driver, with log T rounds of d × d products; longer ones the
chunked driver, with less work and longer scans.

The recursions are those of the sequential driver; there are no others here.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import jax.numpy as jnp
from jaxtyping import Array, Float

from ssmlin.inference._chunks import (
    Carried,
    ChunkMap,
    Cut,
    affine_starts,
    cut_time,
    from_device,
)
from ssmlin.inference._roots import masked_rsqrt
from ssmlin.inference.matrix import _sequential as sequential
from ssmlin.inference.matrix._axes import pad_time
from ssmlin.inference.matrix._covariance import SQUARE_ROOT, CovarianceForm
from ssmlin.inference.matrix._driver import (
    KEEP_NOTHING,
    Backward,
    Forward,
    Keep,
    Predictions,
    RootBackward,
    kept,
)
from ssmlin.inference.matrix._elements import (
    ChunkSummary,
    Law,
    root_chunk_elements,
    root_chunk_ends,
)
from ssmlin.lgssm import MatrixLGSSM


@dataclass(frozen=True)
class Chunked:
    """The driver that runs chunks of time side by side.

    Args:
        length: the number of steps of a chunk; None for about √T.
        axis: of a mesh whose devices hold equal parts of time, if the driver runs in a
            `jax.shard_map`; what it is given and returns over time is this device's part.
    """

    length: int | None = None
    axis: str | None = None

    @property
    def takes_batches(self) -> bool:
        """No: the batch axis is used for the chunks."""
        return False

    def forward(
        self,
        lgssm: MatrixLGSSM,
        emissions: Float[Array, "T m"],
        observed: Float[Array, " T"],
        *,
        form: CovarianceForm,
        keep: Keep = KEEP_NOTHING,
    ) -> Forward:
        """Kalman filter; see :func:`ssmlin.inference.matrix._sequential.forward`."""
        cut = cut_time(lgssm.num_timesteps, self.length)
        chunks = chunk_models(lgssm, cut)
        y, seen = cut.split(emissions), cut.split(observed)
        initial = Law(lgssm.initial_mean, form.store(lgssm.initial_cov))
        start = form.chunk_starts(summary(chunks, y, seen, form), initial, self.axis)
        run = sequential.forward(chunks, y, seen, form=form, keep=keep, start=start)
        last = Law(run.last_mean[-1], run.last_cov[-1])
        last_mean, last_cov = from_device(last, -1, self.axis)
        return Forward(
            emission_means=cut.join(run.emission_means),
            scales=cut.join(run.scales),
            last_mean=last_mean,
            last_cov=last_cov,
            gains=cut.join(run.gains),
            means=cut.join(run.means),
            stored=cut.join(run.stored),
        )

    def backward(
        self,
        lgssm: MatrixLGSSM,
        gains: Float[Array, "T d"],
        precisions: Float[Array, " T"],
        residuals: Float[Array, "T m"],
        *,
        keep_information: bool = False,
    ) -> Backward:
        """Adjoints of the smoother; see :func:`ssmlin.inference.matrix._sequential.backward`."""
        cut = cut_time(lgssm.num_timesteps, self.length)
        chunks, dim, m = chunk_models(lgssm, cut), lgssm.key_dim, residuals.shape[1]
        g, precision, e = cut.split(gains), cut.split(precisions), cut.split(residuals)
        zero = jnp.zeros((dim, dim), lgssm.dtype)

        def run(end: Carried, e: Array) -> Backward:
            return sequential.backward(
                chunks, g, precision, e, keep_information=keep_information,
                end=sequential.BackwardState(*end),
            )  # fmt: skip

        # One pass shows how a chunk carries a unit adjoint from its end, and what it adds.
        nothing = Carried(jnp.zeros((m, dim), lgssm.dtype), zero if keep_information else None)
        unit = Carried(
            _unit_rows(nothing.rows, cut.num),
            jnp.broadcast_to(zero, (cut.num, *zero.shape)) if keep_information else None,
        )
        alone = run(unit, jnp.pad(e, ((0, 0), (0, 0), (dim, 0))))
        maps = ChunkMap(
            alone.initial_adjoint[:, :dim],
            alone.initial_adjoint[:, dim:],
            alone.initial_information,
        )
        result = run(affine_starts(maps, nothing, self.axis, reverse=True), e)
        first = result.initial_information
        initial_adjoint, initial_information = from_device(
            (result.initial_adjoint[0], None if first is None else first[0]), 0, self.axis
        )
        return Backward(
            filtered_adjoints=cut.join(result.filtered_adjoints),
            predicted_adjoints=cut.join(result.predicted_adjoints),
            initial_adjoint=initial_adjoint,
            information=cut.join(result.information),
            initial_information=initial_information,
        )

    def root_backward(
        self,
        lgssm: MatrixLGSSM,
        emissions: Float[Array, "T m"],
        observed: Float[Array, " T"],
        run: Forward,
        residuals: Float[Array, "T m"],
    ) -> RootBackward:
        """Smooth in factors; see :func:`ssmlin.inference.matrix._sequential.root_backward`."""
        cut = cut_time(lgssm.num_timesteps, self.length)
        chunks = chunk_models(lgssm, cut)
        y, seen = cut.split(emissions), cut.split(observed)
        means = cut.split(kept(run.means))
        by_chunk = run._replace(
            gains=cut.split(kept(run.gains)), means=means, stored=cut.split(kept(run.stored))
        )
        elements = root_chunk_elements(summary(chunks, y, seen, SQUARE_ROOT))
        values, root = root_chunk_ends(elements, y.shape[-1], self.axis)
        end = Law((values - means[:, -1] @ root) @ root.mT, root)
        shifts, roots = sequential.root_backward(
            chunks, y, seen, by_chunk, cut.split(residuals), end=end
        )
        return RootBackward(cut.join(shifts), cut.join(roots))

    def forward_means(
        self,
        lgssm: MatrixLGSSM,
        initial_mean: Float[Array, "n d"],
        emissions: Float[Array, "T n"],
        gains: Float[Array, "T d"],
    ) -> Predictions:
        """Means for known gains; see :func:`ssmlin.inference.matrix._sequential.forward_means`."""
        cut = cut_time(lgssm.num_timesteps, self.length)
        chunks = chunk_models(lgssm, cut)
        y, g = cut.split(emissions), cut.split(gains)

        def last(rows: Array, width: int) -> Array:
            padded = jnp.pad(y, ((0, 0), (0, 0), (width, 0)))
            return sequential.forward_means(chunks, rows, padded, g).last_mean

        start = self._starts(last, initial_mean, cut.num)
        read, ends = sequential.forward_means(chunks, start, y, g)
        return Predictions(cut.join(read), from_device(ends[-1], -1, self.axis))

    def carried_means(
        self,
        lgssm: MatrixLGSSM,
        initial_mean: Float[Array, "n d"],
        shifts: Float[Array, "T n d"],
        *,
        with_drift: bool = True,
    ) -> Float[Array, "T n d"]:
        """The states; see :func:`ssmlin.inference.matrix._sequential.carried_means`."""
        cut = cut_time(lgssm.num_timesteps, self.length)
        chunks = chunk_models(lgssm, cut)
        if with_drift:
            shifts = shifts + lgssm.drift.to_dense()
        x = cut.split(shifts)

        def last(rows: Array, width: int) -> Array:
            padded = jnp.pad(x, ((0, 0), (0, 0), (width, 0), (0, 0)))
            return sequential.carried_means(chunks, rows, padded, with_drift=False)[:, -1]

        start = self._starts(last, initial_mean, cut.num)
        return cut.join(sequential.carried_means(chunks, start, x, with_drift=False))

    def _starts(
        self, last: Callable[[Array, int], Array], initial: Float[Array, "n d"], num: int
    ) -> Float[Array, "chunks n d"]:
        """Where every chunk starts, given how `last` carries rows to the end of every chunk."""
        dim = initial.shape[1]
        ends = last(_unit_rows(initial, num), dim)
        maps = ChunkMap(ends[:, :dim], ends[:, dim:])
        return affine_starts(maps, Carried(initial), self.axis).rows


def chunk_models(lgssm: MatrixLGSSM, cut: Cut) -> MatrixLGSSM:
    """The model of every chunk, as a batch; what fills the last chunk leaves the state unchanged.

    The initial laws are not used.
    """

    def repeat(x: Array) -> Array:
        return jnp.broadcast_to(x, (cut.num, *x.shape))

    return replace(
        pad_time(lgssm, cut.extra).map_time(Cut(cut.num * cut.length, cut.length).split),
        initial_mean=repeat(lgssm.initial_mean),
        initial_cov=repeat(lgssm.initial_cov),
        row_cov=repeat(lgssm.row_cov),
    )


def _unit_rows(rows: Float[Array, "n d"], num: int) -> Float[Array, "chunks dn d"]:
    """The identity with zero rows below, for every chunk."""
    rows = jnp.concatenate([jnp.eye(rows.shape[1], dtype=rows.dtype), jnp.zeros_like(rows)])
    return jnp.broadcast_to(rows, (num, *rows.shape))


def summary(
    chunks: MatrixLGSSM,
    y: Float[Array, "chunks length m"],
    seen: Float[Array, "chunks length"],
    form: CovarianceForm,
) -> ChunkSummary:
    """Filter every chunk from a state known to be zero."""
    num, dim = y.shape[0], chunks.key_dim
    zero = Law(jnp.zeros_like(chunks.initial_mean), jnp.zeros_like(chunks.initial_cov))
    alone = sequential.forward(chunks, y, seen, form=form, keep=Keep(gains=True), start=zero)
    eye = jnp.broadcast_to(jnp.eye(dim, dtype=chunks.dtype), (num, dim, dim))
    # How every prediction, and the state at the end, respond to the state at the start.
    no_emissions = jnp.zeros((*seen.shape, dim), chunks.dtype)
    response, transition = sequential.forward_means(chunks, eye, no_emissions, kept(alone.gains))
    roots = masked_rsqrt(alone.scales, seen)[..., None]
    return ChunkSummary(
        transition=transition,
        mean=alone.last_mean,
        stored=kept(alone.last_stored),
        response=response * roots,
        errors=(y - alone.emission_means) * roots * seen[..., None],
    )
