"""The state of an online filter, and the programs that take its steps."""

from functools import partial
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ssmlin._typing import AnyArray
from ssmlin.models import (
    LinearAttentionSSM,
    ParamsLinearAttentionSSM,
    Particles,
    StateLaw,
    StepPrediction,
    start_particles,
)


class Recent(NamedTuple):
    """The last L steps, the oldest first, which fixed-lag smoothing goes back over.

    Attributes:
        laws: before each of them, with a leading axis L.
        emissions: (L, m), missing where they serve as lags alone.
        inputs: lags and exogenous inputs, (L, p).
    """

    laws: StateLaw
    emissions: Float[Array, "L m"]
    inputs: Float[Array, "L p"]


class OnlineState(NamedTuple):
    """All that an online filter knows after some steps; a pytree of fixed shapes.

    Attributes:
        belief: the law of the state; or draws, once a lag was missing.
        lags: the last emissions, the latest first, (num_lags, m); NaN where they are missing.
        num_steps: how many steps there were.
        recent: the last steps, for smoothing; None without, or once a lag was missing.
    """

    belief: StateLaw | Particles
    lags: Float[Array, "num_lags m"]
    num_steps: Int[Array, ""]
    recent: Recent | None


def with_draws(state: OnlineState, num_particles: int) -> OnlineState:
    """Equal draws in the place of the law."""
    assert isinstance(state.belief, StateLaw)
    drawn = start_particles(state.belief, state.lags, num_particles)
    return state._replace(belief=drawn, recent=None)


def with_rows(state: OnlineState, num_rows: int) -> OnlineState:
    """A covariance for each row, the same to begin with."""

    def by_rows(law: StateLaw) -> StateLaw:
        if law.cov.ndim == law.mean.ndim + 1:
            return law
        return law._replace(cov=jnp.repeat(law.cov[..., None, :, :], num_rows, axis=-3))

    assert isinstance(state.belief, StateLaw)
    recent = state.recent
    if recent is not None:
        recent = recent._replace(laws=by_rows(recent.laws))
    return state._replace(belief=by_rows(state.belief), recent=recent)


class Smoothed(NamedTuple):
    """The last steps given all emissions so far, the oldest first.

    Attributes:
        means: of the states, (n, m, d).
        covariances: relative to Σ, (n, d, d); or for each row, (n, m, d, d).
        row_cov: Σ, or its mean where it is integrated out, (m, m).
        emission_means: of another emission at each step, (n, m).
        emission_deviations: its standard deviations, (n, m).
    """

    means: Float[AnyArray, "n m d"]
    covariances: Float[AnyArray, "n *rows d d"]
    row_cov: Float[AnyArray, "m m"]
    emission_means: Float[AnyArray, "n m"]
    emission_deviations: Float[AnyArray, "n m"]


@partial(jax.jit, static_argnames=("model", "lag"))
def initial(model: LinearAttentionSSM, params: ParamsLinearAttentionSSM, lag: int) -> OnlineState:
    """The state before the first step."""
    law, dtype = model.initial_law(params), params.initial.mean.dtype
    recent = None
    if lag:
        laws = jax.tree.map(lambda x: jnp.zeros((lag, *x.shape), x.dtype), law)
        unseen = jnp.full((lag, model.emission_dim), jnp.nan, dtype)
        recent = Recent(laws, unseen, jnp.zeros((lag, model.input_dim), dtype))
    lags = jnp.zeros((model.num_lags, model.emission_dim), dtype)
    return OnlineState(law, lags, jnp.zeros((), jnp.int32), recent)


def _advance(
    model: LinearAttentionSSM,
    params: ParamsLinearAttentionSSM,
    key: Array,
    state: OnlineState,
    emission: Float[Array, " m"],
    inputs: Float[Array, " k"],
    counts: Bool[Array, ""],
) -> tuple[OnlineState, StepPrediction]:
    """One step, traced."""
    belief, lags, num_steps, recent = state
    u = jnp.concatenate([lags.reshape(-1), inputs])
    after: StateLaw | Particles
    if isinstance(belief, Particles):
        after, prediction = model.particle_step(
            params, belief, emission, u, jax.random.fold_in(key, num_steps),
            counts=counts, is_first=num_steps < model.num_lags,
        )  # fmt: skip
    else:
        seen = jnp.where(counts, emission, jnp.nan)
        after, prediction = model.filter_step(params, belief, seen, u)
        if recent is not None:
            pushed = (belief, seen, u)
            recent = jax.tree.map(
                lambda x, new: jnp.concatenate([x[1:], new[None]]), recent, Recent(*pushed)
            )
    lags = jnp.concatenate([emission[None], lags])[: model.num_lags]
    return OnlineState(after, lags, num_steps + 1, recent), prediction


#: One step as one program.
one_step = jax.jit(_advance, static_argnums=0)


@partial(jax.jit, static_argnums=0)
def next_prediction(
    model: LinearAttentionSSM,
    params: ParamsLinearAttentionSSM,
    key: Array,
    state: OnlineState,
    inputs: Float[Array, " k"],
) -> StepPrediction:
    """The law of the next emission."""
    nothing = jnp.full(model.emission_dim, jnp.nan, inputs.dtype)
    return _advance(model, params, key, state, nothing, inputs, jnp.ones((), bool))[1]


@partial(jax.jit, static_argnums=0)
def many_steps(
    model: LinearAttentionSSM,
    params: ParamsLinearAttentionSSM,
    key: Array,
    state: OnlineState,
    emissions: Float[Array, "S m"],
    inputs: Float[Array, "S k"],
    counts: Bool[Array, " S"],
    length: Int[Array, ""],
) -> tuple[OnlineState, StepPrediction]:
    """Steps in a scan; those after `length` change nothing."""

    def step(state: OnlineState, now: tuple[Array, ...]) -> tuple[OnlineState, StepPrediction]:
        place, *given = now
        new, prediction = _advance(model, params, key, state, *given)
        kept = jax.tree.map(lambda x, y: jnp.where(place < length, x, y), new, state)
        return kept, prediction

    places = jnp.arange(len(emissions))
    return cast(
        tuple[OnlineState, StepPrediction],
        jax.lax.scan(step, state, (places, emissions, inputs, counts)),
    )


@partial(jax.jit, static_argnums=0)
def smoothed(
    model: LinearAttentionSSM,
    params: ParamsLinearAttentionSSM,
    recent: Recent,
    count: Int[Array, ""],
) -> Smoothed:
    """The last `count` of the L steps, smoothed; what follows them is padding."""
    size = len(recent.emissions)
    place = (jnp.arange(size) + size - count) % size
    laws, y, u = jax.tree.map(lambda x: x[place], recent)
    law: StateLaw = jax.tree.map(lambda x: x[0], laws)
    posterior = model.smoother(params, y, u, length=count, missing="rows", law=law)
    lgssm = model.to_lgssm(params, u)
    states, covs = posterior.smoothed_means, posterior.smoothed_covariances
    assert states is not None and covs is not None
    means = jnp.einsum("tmd,td->tm", states, lgssm.readout) + lgssm.emission_bias
    axes = "tde" if covs.ndim == 3 else "tmde"  # one covariance, or one for each row
    scales = jnp.einsum(f"td,{axes},te->{axes[:-2]}", lgssm.readout, covs, lgssm.readout)
    variances = scales.reshape(size, -1) + lgssm.emission_noise[:, None]
    deviations = jnp.sqrt(variances * jnp.diag(posterior.row_cov))
    return Smoothed(states, covs, posterior.row_cov, means, deviations)
