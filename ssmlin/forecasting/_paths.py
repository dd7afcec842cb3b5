"""Sampled paths of the steps to come, from any step of a series on."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

from ssmlin._buckets import bucket, in_bucket
from ssmlin._typing import AnyArray
from ssmlin.forecasting._interface import Ahead, Observed
from ssmlin.forecasting._lags import last_values
from ssmlin.forecasting._laws import MIN_PARTICLES, one_step
from ssmlin.forecasting._sequences import lacks_lags, with_lags
from ssmlin.models import (
    LinearAttentionSSM,
    ParamsLinearAttentionSSM,
    Particles,
    mix_states,
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

    means: Float[AnyArray, "N *means m d"]
    covariances: Float[AnyArray, "N ..."]
    row_covs: Float[AnyArray, "N n m m"]
    lags: Float[AnyArray, "N *lags num_lags m"]


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
    start_key, key = jax.random.split(jax.random.key(ahead.seed))
    if lacks_lags(model, u):
        starts = _drawn_starts(model, params, y, u, ahead, start_key)
    else:
        lags = last_values(observed.values, ahead, model.num_lags).astype(y.dtype)
        starts = _filtered_starts(model, params, y, u, ahead, start_key, lags)
    future = ahead.future(observed.inputs).astype(y.dtype)
    # Some more origins and steps, so that others have the same shapes.
    origins, horizon = len(ahead.origins), ahead.horizon
    starts = jax.tree.map(_more, starts)
    future = np.swapaxes(_more(np.swapaxes(_more(future), 0, 1)), 0, 1)
    paths = _paths(model.given_row_cov(), params, key, starts, future, ahead.num_samples)
    return np.asarray(paths, np.float64)[:origins, :, :horizon]


def _more(x: Shaped[np.ndarray, "N ..."]) -> Shaped[np.ndarray, "M ..."]:
    """The array with its last entry repeated up to the bucket of its length."""
    return np.pad(x, [(0, bucket(len(x)) - len(x))] + [(0, 0)] * (x.ndim - 1), mode="edge")


@partial(jax.jit, static_argnames=("model", "num_samples"))
def _paths(
    model: LinearAttentionSSM,
    params: ParamsLinearAttentionSSM,
    key: Array,
    starts: _Starts,
    future: Float[AnyArray, "N H k"],
    num_samples: int,
) -> Float[Array, "N n H m"]:
    """Paths from each start."""
    state_key, path_key = jax.random.split(key)
    groups, size = len(future), starts.means.shape[-2:]
    normal = jax.random.normal(state_key, (groups, num_samples, *size), future.dtype)
    drawn = jax.vmap(mix_states)(normal, starts.means, starts.covariances, starts.row_covs)
    lags = starts.lags if starts.lags.ndim == 4 else starts.lags[:, None]
    lags = jnp.broadcast_to(lags, (groups, num_samples, *lags.shape[-2:]))
    states, row_covs, lags = (
        jnp.reshape(x, (groups * num_samples, *x.shape[2:]))  # there may be no lags
        for x in (drawn, starts.row_covs, lags)
    )
    _, paths = simulate(model, params, path_key, states, row_covs, lags, future)
    return paths.reshape(groups, num_samples, *paths.shape[1:])


def _filtered_starts(
    model: LinearAttentionSSM,
    params: ParamsLinearAttentionSSM,
    emissions: Float[np.ndarray, "T m"],
    inputs: Float[np.ndarray, "T p"],
    ahead: Ahead,
    key: Array,
    lags: Float[np.ndarray, "N num_lags m"],
) -> _Starts:
    """Where paths start if all lags are known: from the filter."""
    n, m, count = ahead.num_samples, model.emission_dim, len(ahead.origins)
    found = one_step(model, params, emissions, inputs)
    if found.prior is None:
        rows = np.broadcast_to(np.asarray(found.posterior.row_cov), (count, n, m, m))
    else:
        # The law after the last step is that before a further one, which discounts, too.
        laws = found.laws_before(model.row_cov.discount, _more(ahead.origins))
        drawn = np.asarray(laws.sample(key, (n,)))[:, :count]
        if laws.is_diagonal:
            drawn = drawn[..., None] * np.eye(m, dtype=drawn.dtype)
        rows = np.moveaxis(drawn, 0, 1)
    means, covariances = found.posterior.filtered_means, found.posterior.filtered_covariances
    assert means is not None and covariances is not None
    last = ahead.origins - 1
    return _Starts(np.asarray(means)[last], np.asarray(covariances)[last], rows, lags)


def _drawn_starts(
    model: LinearAttentionSSM,
    params: ParamsLinearAttentionSSM,
    emissions: Float[np.ndarray, "T m"],
    inputs: Float[np.ndarray, "T p"],
    ahead: Ahead,
    key: Array,
) -> _Starts:
    """Where paths start if lags are missing: each path has its own mean, covariance, Σ and lags."""
    count = len(ahead.origins)
    kept = bucket(count)
    y, u = in_bucket(emissions, np.nan), in_bucket(inputs, 0.0)
    places = np.full(len(y), kept)
    places[ahead.origins - 1] = np.arange(count)
    filter_key, draw_key = jax.random.split(key)
    posterior = run_particles(
        model, params, filter_key, y, u, max(MIN_PARTICLES, ahead.num_samples),
        places=places, num_kept=kept,
    )  # fmt: skip
    assert posterior.kept is not None
    starts = _draw_starts(model, params, draw_key, posterior.kept, ahead.num_samples)
    found: _Starts = jax.tree.map(lambda x: np.asarray(x)[:count], starts)
    return found


@partial(jax.jit, static_argnames=("model", "num_samples"))
def _draw_starts(
    model: LinearAttentionSSM,
    params: ParamsLinearAttentionSSM,
    key: Array,
    kept: Particles,
    num_samples: int,
) -> _Starts:
    """Draw from the particles of each origin."""

    def draw(key: Array, particles: Particles) -> _Starts:
        index_key, row_key = jax.random.split(key)
        return _Starts(*model.draw_laws(index_key, row_key, particles, params, num_samples))

    starts: _Starts = jax.vmap(draw)(jax.random.split(key, len(kept.log_weights)), kept)
    return starts
