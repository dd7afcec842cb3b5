r"""Missing values that later steps have as lags: drawn, each draw with an exact filter of its own.

Keys, gates and regressors are functions of lagged emissions, so a model is linear Gaussian only
where these are known. A value that is missing is drawn from its predictive law given what was
observed before, and then counts as observed: given the draws the filter is exact (it is
Rao-Blackwellised). Draws are weighted by how well they predict later values, and resampled unless
the weights are nearly even. All is exact in the limit of many draws; a gap at the end is just a
longer forecast.

Source: Doucet, de Freitas, Murphy and Russell (2000), Rao-Blackwellised particle filtering;
Kitagawa (1996) for systematic resampling.
"""

from functools import partial
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from ssmlin._typing import AnyArray
from ssmlin.inference import RowCovLaw, log_gamma_ratio, symmetric_root
from ssmlin.lgssm import MatrixLGSSM
from ssmlin.models._features import lagged_inputs
from ssmlin.models._initial_state import StateLaw
from ssmlin.models._parameters import ParamsLinearAttentionSSM
from ssmlin.models._particles import ParticlePosterior, Particles
from ssmlin.models._parts import settled
from ssmlin.models._row_covariance import RowCov

#: Draws are resampled unless they are worth this share of as many of equal weight.
_EVEN = 0.99


@runtime_checkable
class LaggedModel(Protocol):
    """What the particle filter needs of a model; hashable, since it is compiled for it."""

    @property
    def num_lags(self) -> int:
        """How many lags are the first inputs."""

    @property
    def row_cov(self) -> RowCov:
        """The noise of the emissions."""

    def to_lgssm(
        self, params: ParamsLinearAttentionSSM, inputs: Float[Array, "n p"]
    ) -> MatrixLGSSM:
        """The operators that go with each row of inputs."""

    def initial_law(self, params: ParamsLinearAttentionSSM) -> StateLaw:
        """Mean and covariance of the state before the first step."""


class Mixture(NamedTuple):
    """What predicts one step; see :class:`ParticlePosterior`."""

    log_weights: Float[Array, " N"]
    means: Float[Array, "N m"]
    scales: Float[Array, "N m m"]
    student_df: Float[Array, "..."] | None


class Step(NamedTuple):
    """What one step is given; time leads."""

    emission: Float[Array, " m"]
    counts: Bool[Array, ""]  # False where the emission serves as a lag alone
    inputs: Float[Array, " p"]
    is_lag: Bool[Array, ""]  # whether a later step has a missing entry of this emission as a lag
    place: Int[Array, ""]  # where to keep the draws after this step; out of range for nowhere
    is_first: Bool[Array, ""]  # whether its lags reach before the first step
    key: Array


def has_missing_lags[A: (Array, np.ndarray)](
    inputs: Float[A, "*B p"], num_lagged: int
) -> Bool[A, "*B"]:
    """Whether any of the first `num_lagged` inputs of each step is missing."""
    gaps: A = inputs.__array_namespace__().isnan(inputs[..., :num_lagged]).any(axis=-1)
    return gaps


def run_particles(
    model: LaggedModel,
    params: ParamsLinearAttentionSSM,
    key: Array,
    emissions: Float[AnyArray, "T m"],
    inputs: Float[AnyArray, "T p"],
    num_particles: int,
    mask: Bool[AnyArray, " T"] | None = None,
    places: Int[AnyArray, " T"] | None = None,
    num_kept: int = 0,
) -> ParticlePosterior:
    """The particle filter.

    Args:
        model: the model.
        params: its constrained parameters.
        key: a PRNG key.
        emissions: y; NaN means missing.
        inputs: u, whose first num_lags·m columns are lags; NaN where they are missing.
        num_particles: N.
        mask: False for steps whose emissions serve as lags alone.
        places: for each step where in `kept` its draws go, `num_kept` for nowhere.
        num_kept: how many steps are kept.

    Returns:
        The mixtures that predict every step, and the last draws.
    """
    posterior: ParticlePosterior = _run(
        model, params, key, emissions, inputs, num_particles, "all", mask, places, num_kept
    )
    return posterior


def last_particles(
    model: LaggedModel,
    params: ParamsLinearAttentionSSM,
    key: Array,
    emissions: Float[AnyArray, "T m"],
    inputs: Float[AnyArray, "T p"],
    num_particles: int,
    mask: Bool[AnyArray, " T"] | None = None,
) -> Particles:
    """The last draws of the particle filter; see :func:`run_particles`."""
    particles: Particles = _run(model, params, key, emissions, inputs, num_particles, "last", mask)
    return particles


@partial(jax.jit, static_argnames=("model", "num_particles", "store", "num_kept"))
def _run(
    model: LaggedModel,
    params: ParamsLinearAttentionSSM,
    key: Array,
    emissions: Float[Array, "T m"],
    inputs: Float[Array, "T p"],
    num_particles: int,
    store: Literal["all", "last", "path"],
    mask: Bool[Array, " T"] | None = None,
    places: Int[Array, " T"] | None = None,
    num_kept: int = 0,
) -> ParticlePosterior | Particles | Float[Array, "T m"]:
    """The particle filter: its posterior, the last draws alone, or one draw of all emissions."""
    steps, m = emissions.shape
    n, num_lags = num_particles, model.num_lags
    step_key, trace_key = jax.random.split(key)
    dtype = jnp.result_type(*jax.tree.leaves(params))
    emissions, inputs = emissions.astype(dtype), inputs.astype(dtype)
    mean, cov, law = model.initial_law(params)

    def repeat(x: Array) -> Array:
        return jnp.broadcast_to(x.astype(dtype), (n, *jnp.shape(x)))

    start = Particles(
        jnp.zeros(n, dtype),
        repeat(mean),
        repeat(cov),
        jax.tree.map(repeat, law),
        jnp.zeros((n, num_lags, m), dtype),
    )
    # An emission is a lag of the next step first, unless it is the last one.
    is_lag = jnp.isnan(emissions) & (num_lags > 0)
    if num_lags > 0:
        is_lag = is_lag.at[:-1].set(jnp.isnan(inputs[1:, :m]))
    each = Step(
        emissions,
        jnp.ones(steps, bool) if mask is None else mask,
        inputs,
        is_lag.any(axis=-1),
        jnp.full(steps, num_kept) if places is None else places,
        jnp.arange(steps) < num_lags,
        jax.random.split(step_key, steps),
    )
    kept: Particles | None = None
    if num_kept:
        kept = jax.tree.map(lambda x: jnp.zeros((num_kept, *x.shape), x.dtype), start)

    def step(
        carry: tuple[Particles, Particles | None], now: Step
    ) -> tuple[tuple[Particles, Particles | None], Any]:
        particles, kept = carry
        draw_key, resample_key = jax.random.split(now.key)
        moved, (emission, law, out) = advance(model, params, particles, now, draw_key)
        resampled, ancestors = resample(resample_key, moved)
        if kept is not None:
            kept = jax.tree.map(lambda x, y: x.at[now.place].set(y, mode="drop"), kept, resampled)
        wanted = {"all": (law, out), "last": None, "path": (emission, ancestors)}
        return (resampled, kept), wanted[store]

    last: Particles
    (last, kept), outputs = jax.lax.scan(step, (start, kept), each)
    if store == "last":
        return last
    if store == "path":
        return _trace(trace_key, last, *outputs)
    mixtures, log_predictive = outputs
    log_weights, means, scales, df = mixtures
    total = log_predictive.sum()
    return ParticlePosterior(total, log_predictive, log_weights, means, scales, df, last, kept)


def advance(
    model: LaggedModel,
    params: ParamsLinearAttentionSSM,
    particles: Particles,
    now: Step,
    key: Array,
) -> tuple[Particles, tuple[Array, Mixture, Array]]:
    """One step of every draw: predict, draw what is missing, weigh, update."""
    normal_key, mixing_key, first_key = jax.random.split(key, 3)
    n, num_lags, m = particles.lags.shape
    width = num_lags * m
    lags = jnp.where(
        jnp.isnan(now.inputs[:width]), particles.lags.reshape(n, width), now.inputs[:width]
    )
    outside = jnp.broadcast_to(now.inputs[width:], (n, now.inputs.shape[0] - width))
    # One step of n draws looks like n steps of one sequence.
    lgssm = model.to_lgssm(params, jnp.concatenate([lags, outside], axis=1))
    mean = lgssm.transition.apply(particles.means) + lgssm.drift.to_dense()
    cov = lgssm.transition.apply(lgssm.transition.apply(particles.covariances).mT)
    cov = cov + lgssm.process_noise.to_dense()
    emission_mean = jnp.einsum("nmd,nd->nm", mean, lgssm.readout) + lgssm.emission_bias
    carried = jnp.einsum("nde,ne->nd", cov, lgssm.readout)
    scale = jnp.einsum("nd,nd->n", carried, lgssm.readout) + lgssm.emission_noise

    law = None if particles.row_cov is None else particles.row_cov.discount(model.row_cov.discount)
    root, df = _predictive(lgssm, law, scale)
    known = ~jnp.isnan(now.emission)
    normal = _spread_normal(normal_key, emission_mean)
    emission, log_density = _complete(
        mixing_key, now.emission, known, emission_mean, root, df, normal
    )
    # Before the first steps no lags are known, so what is missing of them follows the prior.
    series_variance = settled(model.row_cov.series_variance)
    scale_of_first = jnp.sqrt(jnp.asarray(series_variance, emission.dtype))
    first = scale_of_first * jax.random.normal(first_key, emission.shape, emission.dtype)
    nothing_known = ~known.any()
    emission = jnp.where(now.is_first & nothing_known, first, emission)
    observed = known & now.counts
    log_density = jnp.where(now.counts, log_density, 0.0)

    # A value that is neither observed nor ever a lag tells nothing: no update.
    used = now.counts & (known.any() | (now.is_lag & ~now.is_first))
    error = jnp.where(used, emission - emission_mean, 0.0)
    gain = carried / scale[:, None]
    less = jnp.where(used, gain, 0.0)[:, :, None] * carried[:, None, :]
    new_law = particles.row_cov
    if law is not None and particles.row_cov is not None:
        white = error / jnp.sqrt(scale)[:, None]
        add = white**2 if law.is_diagonal else white[:, :, None] * white[:, None, :]
        updated = RowCovLaw(law.df + 1, law.scale + add)
        new_law = jax.tree.map(partial(jnp.where, used), updated, particles.row_cov)
    before = jax.nn.log_softmax(particles.log_weights)
    weighed = before + log_density
    log_predictive = jnp.where(observed.any(), jax.nn.logsumexp(weighed), 0.0)
    new = Particles(
        jax.nn.log_softmax(weighed),
        mean + error[:, :, None] * gain[:, None, :],
        cov - less,
        new_law,
        jnp.concatenate([emission[:, None], particles.lags], axis=1)[:, :num_lags],
    )
    shared_df = None if df is None else df[0]  # all draws have seen as many values
    shown = Mixture(before, emission_mean, root @ root.mT, shared_df)
    return new, (emission, shown, log_predictive)


def _predictive(
    lgssm: MatrixLGSSM, law: RowCovLaw | None, scale: Float[Array, " N"]
) -> tuple[Float[Array, "N m m"], Float[Array, "N ..."] | None]:
    """A root of the predictive scale matrix of every draw, and degrees of freedom if there are."""
    spread = jnp.sqrt(scale)[:, None, None]
    if law is None:
        return spread * symmetric_root(lgssm.row_cov), None
    df = law.student_df
    if law.is_diagonal:
        eye = jnp.eye(law.scale.shape[-1], dtype=law.scale.dtype)
        return spread * jnp.sqrt(law.scale / df)[..., None] * eye, df
    return spread * _cholesky(law.scale / df[:, None, None]), df


def _cholesky(x: Float[Array, "... m m"]) -> Float[Array, "... m m"]:
    """A lower root; of one row without LAPACK, which is slow on many small matrices."""
    return jnp.sqrt(x) if x.shape[-1] == 1 else jnp.linalg.cholesky(x)


def _solve(root: Float[Array, "... m m"], x: Float[Array, "... m"]) -> Float[Array, "... m"]:
    """L⁻¹ x for lower triangular L."""
    if root.shape[-1] == 1:
        return x / root[..., 0]
    return jax.scipy.linalg.solve_triangular(root, x[..., None], lower=True)[..., 0]


def _complete(
    key: Array,
    value: Float[Array, " m"],
    observed: Bool[Array, " m"],
    mean: Float[Array, "N m"],
    root: Float[Array, "N m m"],
    df: Float[Array, "N ..."] | None,
    normal: Float[Array, "N m"],
) -> tuple[Float[Array, "N m"], Float[Array, " N"]]:
    """Draw the missing entries given the observed ones, whose log density comes with it.

    By mean correction: what is drawn without looking at the observed entries is moved by what
    these say.
    """
    n, m = mean.shape
    scale = root @ root.mT
    both = observed[:, None] & observed[None, :]
    seen_root = _cholesky(jnp.where(both, scale, jnp.eye(m, dtype=mean.dtype)))
    residual = jnp.where(observed, value - mean, 0.0)
    white = _solve(seen_root, residual)
    squares, log_dets = white**2, jnp.log(jnp.diagonal(seen_root, axis1=-2, axis2=-1))
    count = observed.astype(mean.dtype)
    if df is not None and df.ndim == 1:  # the entries share one scale
        squares, log_dets, count = squares.sum(-1), log_dets.sum(-1), count.sum()
    mixing: Array | float = 1.0
    if df is None:
        terms = -0.5 * (squares + jnp.log(2 * jnp.pi) * count) - log_dets
    else:
        terms = (
            log_gamma_ratio(0.5 * df, 0.5 * count)
            - 0.5 * count * jnp.log(jnp.pi * df)
            - log_dets
            - 0.5 * (df + count) * jnp.log1p(squares / df)
        )
        # Given what was observed the common scale is an inverse gamma draw.
        chi_square = 2 * jax.random.gamma(key, 0.5 * (df + count), dtype=df.dtype)
        mixing = jnp.sqrt((df + squares) / chi_square)
        mixing = mixing[:, None] if df.ndim == 1 else mixing
    log_density = terms.reshape(n, -1).sum(axis=-1)
    drawn = mean + mixing * jnp.einsum("nij,nj->ni", root, normal)
    gap = jnp.where(observed, value - drawn, 0.0)
    weights = _solve(seen_root, gap)
    weights = (
        weights / seen_root[..., 0]
        if m == 1
        else jax.scipy.linalg.solve_triangular(seen_root.mT, weights[..., None])[..., 0]
    )
    moved = drawn + jnp.einsum("nij,nj->ni", scale, jnp.where(observed, weights, 0.0))
    return jnp.where(observed, value, moved), log_density


def _spread_normal(key: Array, means: Float[Array, "N m"]) -> Float[Array, "N m"]:
    """Standard normal numbers that are spread evenly over draws in the order of their means.

    A Kronecker sequence with a random start, so every number by itself is standard normal; together
    they leave much less error than independent ones.

    Source: L'Ecuyer, Lécot and Tuffin (2008), Operations Research 56; the sequence is Roberts's
    generalisation of the golden ratio.
    """
    (n, m), dtype = means.shape, means.dtype
    tie_key, start_key = jax.random.split(key)
    order = jnp.lexsort((jax.random.uniform(tie_key, (n,)), means.sum(axis=1)))
    rank = jnp.argsort(order)
    root = 2.0
    for _ in range(50):
        root = (1 + root) ** (1 / (m + 1))
    # As whole numbers, since in single precision a product would lose the fraction.
    steps = np.array([round(root ** -(j + 1) * 2**32) for j in range(m)], np.uint32)
    start = jax.random.bits(start_key, (m,), jnp.uint32)
    places = rank.astype(jnp.uint32)[:, None] * steps + start
    # The middles of 2^23 parts, of which single precision rounds none to 0 or 1.
    share = (places >> 9).astype(dtype) / 2**23 + 0.5**24
    return jax.scipy.special.ndtri(share)


def resampled_index(
    key: Array, log_weights: Float[Array, " N"], num_samples: int
) -> Int[Array, " n"]:
    """Systematic resampling: which draws are taken, in order."""
    bounds = jnp.cumsum(jax.nn.softmax(log_weights))
    places = (jnp.arange(num_samples) + jax.random.uniform(key, dtype=bounds.dtype)) / num_samples
    index = jnp.searchsorted(bounds, places * bounds[-1])
    return jnp.minimum(index, len(log_weights) - 1).astype(int)


def resample(key: Array, particles: Particles) -> tuple[Particles, Int[Array, " N"]]:
    """Resample unless the weights are nearly even; and each one's ancestor."""
    n = len(particles.log_weights)
    share = jax.nn.softmax(particles.log_weights)

    def anew(particles: Particles) -> tuple[Particles, Array]:
        # In the order of the latest values neighbours are alike, and fewer draws are uneven.
        order = jnp.argsort(particles.lags[:, :1].sum(axis=(1, 2)))
        index = order[resampled_index(key, particles.log_weights[order], n)]
        return particles.take(index), index

    def stay(particles: Particles) -> tuple[Particles, Array]:
        return particles, jnp.arange(n)

    is_uneven = 1 / jnp.sum(share**2) < _EVEN * n
    resampled: tuple[Particles, Array] = jax.lax.cond(is_uneven, anew, stay, particles)
    return resampled


@partial(jax.jit, static_argnames=("model", "num_samples", "num_particles"))
def impute(
    model: LaggedModel,
    params: ParamsLinearAttentionSSM,
    key: Array,
    emissions: Float[Array, "B T m"],
    inputs: Float[Array, "B T p"],
    num_samples: int,
    num_particles: int,
) -> tuple[Float[Array, "n B T m"], Float[Array, "n B T p"]]:
    """Completed sequences, each from a particle filter of its own.

    Args:
        model: the model.
        params: its constrained parameters.
        key: a PRNG key.
        emissions: y; NaN means missing.
        inputs: u; NaN where lags are missing.
        num_samples: n.
        num_particles: of each filter.

    Returns:
        Emissions, whole where they are lags of later steps or observed in part, and inputs.
    """
    num_lags = model.num_lags

    def one(key: Array, y: Array, u: Array) -> tuple[Array, Array]:
        path: Array = _run(model, params, key, y, u, num_particles, "path")
        width = num_lags * y.shape[1]
        completed = jnp.where(jnp.isnan(y), path, y)
        lags = lagged_inputs(completed, num_lags) if num_lags else u[:, :0]
        lags = jnp.where(jnp.isnan(u[:, :width]), lags, u[:, :width])
        steps = jnp.arange(len(y))
        last = jnp.where(jnp.isnan(y).all(axis=1), -1, steps).max()
        # A step that no other misses as a lag is known there, and hidden here on purpose.
        wanted = ~jnp.isnan(y).all(axis=1)
        if num_lags:
            is_lag = jnp.isnan(u[1:, : y.shape[1]]).any(axis=1)
            wanted = wanted.at[:-1].set(wanted[:-1] | is_lag)
        emissions = jnp.where((wanted & (steps <= last))[:, None], completed, y)
        return emissions, jnp.concatenate([lags, u[:, width:]], axis=1)

    keys = jax.random.split(key, (num_samples, len(emissions)))
    return jax.vmap(jax.vmap(one), (0, None, None))(keys, emissions, inputs)


def lagged_values(
    emissions: Float[AnyArray, "*B T m"], inputs: Float[AnyArray, "*B T p"], num_lags: int
) -> Float[np.ndarray, "*B T m"]:
    """Emissions, and those that are missing but stand as lags at a step that is observed."""
    known, inputs = np.array(emissions, float), np.asarray(inputs, float)
    steps, m = known.shape[-2:]
    seen = ~np.isnan(known).all(axis=-1, keepdims=True)
    for lag in range(1, min(num_lags, steps - 1) + 1):
        said = np.where(seen, inputs[..., (lag - 1) * m : lag * m], np.nan)[..., lag:, :]
        earlier = known[..., :-lag, :]
        known[..., :-lag, :] = np.where(np.isnan(earlier), said, earlier)
    return known


def _trace(
    key: Array,
    last: Particles,
    emissions: Float[Array, "T N m"],
    ancestors: Int[Array, "T N"],
) -> Float[Array, "T m"]:
    """One draw of all emissions, back through the ancestors of one of the last draws."""
    end = jax.random.categorical(key, last.log_weights).astype(ancestors.dtype)

    def back(index: Array, now: tuple[Array, Array]) -> tuple[Array, Array]:
        values, parents = now
        parent = parents[index]
        return parent, values[parent]

    return jax.lax.scan(back, end, (emissions, ancestors), reverse=True)[1]
