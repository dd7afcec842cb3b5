"""Sampled paths of the steps to come, from any step of a series on."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ssmlin.forecasting._interface import Ahead, Observed
from ssmlin.forecasting._lags import last_values
from ssmlin.forecasting._laws import MIN_PARTICLES, missing_by
from ssmlin.forecasting._sequences import lacks_lags, with_lags
from ssmlin.models import (
    LinearAttentionSSM,
    ParamsLinearAttentionSSM,
    Particles,
    draw_states,
    run_particles,
    simulate,
)


class _Starts(NamedTuple):
    """Where the paths from each of N origins start.

    Attributes:
        means: of the state, the same for all paths of an origin or one for each.
        covariances: of a row of the state, relative to Σ.
        row_covs: Σ of each path.
        lags: the last emissions, the latest first.
    """

    means: Float[Array, "N *means m d"]
    covariances: Float[Array, "N ..."]
    row_covs: Float[Array, "N n m m"]
    lags: Float[Array, "N *lags num_lags m"]


def sample_paths(
    model: LinearAttentionSSM,
    params: ParamsLinearAttentionSSM,
    observed: Observed,
    ahead: Ahead,
) -> Float[np.ndarray, "N n H m"]:
    """Sample paths from the filtered states, with emissions fed back as lags.

    Args:
        model: the model.
        params: its parameters.
        observed: the standardised series, with inputs up to the last step that is asked for.
        ahead: the origins, the horizon, and how many paths from each origin.

    Returns:
        Standardised paths.
    """
    y, u = with_lags(model, observed)
    n = ahead.num_samples
    start_key, key = jax.random.split(jax.random.key(ahead.seed))
    if lacks_lags(model, u):
        starts = _drawn_starts(model, params, y, u, ahead, start_key)
    else:
        lags = jnp.asarray(last_values(observed.values, ahead, model.num_lags), y.dtype)
        starts = _filtered_starts(model, params, y, u, ahead, start_key, lags)
    future = jnp.asarray(ahead.future(observed.inputs), y.dtype)

    @jax.jit
    @jax.vmap
    def paths(key: Array, start: _Starts, future: Float[Array, "H k"]) -> Float[Array, "n H m"]:
        state_key, path_key = jax.random.split(key)
        states = draw_states(state_key, start.means, start.covariances, start.row_covs, n)
        lags = jnp.broadcast_to(start.lags, (n, *start.lags.shape[-2:]))
        return simulate(model, params, path_key, states, start.row_covs, lags, future)[1]

    keys = jax.random.split(key, len(ahead.origins))
    return np.asarray(paths(keys, starts, future), np.float64)


def _filtered_starts(
    model: LinearAttentionSSM,
    params: ParamsLinearAttentionSSM,
    emissions: Float[Array, "T m"],
    inputs: Float[Array, "T p"],
    ahead: Ahead,
    key: Array,
    lags: Float[Array, "N num_lags m"],
) -> _Starts:
    """Where paths start if all lags are known: from the filter."""
    n, m = ahead.num_samples, model.emission_dim
    posterior = model.filter(params, emissions, inputs, missing=missing_by(model))
    last = jnp.asarray(ahead.origins - 1)
    if model.row_cov.is_integrated:
        integrated = model.row_cov_posterior(params, posterior, emissions, store="all")
        laws = jax.tree.map(lambda x: x[ahead.origins], integrated.predictive_row_cov)
        rows = jnp.moveaxis(laws.sample(key, (n,)), 0, 1).reshape(len(last), n, m, m)
    else:
        rows = jnp.broadcast_to(posterior.row_cov, (len(last), n, m, m))
    means, covariances = posterior.filtered_means, posterior.filtered_covariances
    assert means is not None and covariances is not None
    return _Starts(means[last], covariances[last], rows, lags)


def _drawn_starts(
    model: LinearAttentionSSM,
    params: ParamsLinearAttentionSSM,
    emissions: Float[Array, "T m"],
    inputs: Float[Array, "T p"],
    ahead: Ahead,
    key: Array,
) -> _Starts:
    """Where paths start if lags are missing: each path has its own mean, covariance, Σ and lags."""
    count = len(ahead.origins)
    places = np.full(len(emissions), count)
    places[ahead.origins - 1] = np.arange(count)
    filter_key, draw_key = jax.random.split(key)
    posterior = run_particles(
        model, params, filter_key, emissions, inputs, max(MIN_PARTICLES, ahead.num_samples),
        places=jnp.asarray(places), num_kept=count,
    )  # fmt: skip

    def draw(key: Array, particles: Particles) -> _Starts:
        index_key, row_key = jax.random.split(key)
        drawn = model.draw_laws(index_key, row_key, particles, params, ahead.num_samples)
        return _Starts(*drawn)

    assert posterior.kept is not None
    return jax.vmap(draw)(jax.random.split(draw_key, count), posterior.kept)
