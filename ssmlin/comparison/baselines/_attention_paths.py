"""Sampled paths of attention regressions."""

from functools import partial
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ssmlin._typing import AnyArray
from ssmlin.comparison.baselines._attention_parameters import ParamsAttentionRegression
from ssmlin.comparison.baselines._paths import draw_paths
from ssmlin.forecasting import Ahead, Observed, known_lags, lags_and_inputs, last_values

#: Paths are sampled together as long as they have fewer pairs of steps.
_PAIRS_AT_ONCE = 2**22


@runtime_checkable
class PredictsMeans(Protocol):
    """A hashable model that predicts every step from those before it."""

    def means(
        self,
        params: ParamsAttentionRegression,
        emissions: Float[AnyArray, "T m"],
        inputs: Float[AnyArray, "T p"],
    ) -> Float[Array, "T m"]:
        """E[y_t | y_{1:t-1}]."""


def regression_arrays(
    observed: Observed, num_lags: int
) -> tuple[Float[np.ndarray, "T m"], Float[np.ndarray, "T p"]]:
    """Emissions and inputs of a series in single precision; its first steps serve as lags only.

    Raises:
        ValueError: a missing value that is a lag of a later step, since what attention recalls
            would have to be integrated over it.
    """
    observed = known_lags(observed, num_lags, "an attention regression")
    y = observed.values.astype(np.float32)
    y[:num_lags] = np.nan
    return y, lags_and_inputs(observed, num_lags).astype(np.float32)


def draw_paths_again(
    model: PredictsMeans,
    params: ParamsAttentionRegression,
    num_lags: int,
    observed: Observed,
    ahead: Ahead,
) -> Float[np.ndarray, "N n H m"]:
    """Draw paths of any attention: each sampled step is put behind the series.

    All steps are predicted again for each one that is sampled: O(T²) per step of a path.
    """
    end = int(ahead.origins.max()) + ahead.horizon  # the longest series of all; no later step
    y, u = regression_arrays(observed.until(end), num_lags)
    root = np.linalg.cholesky(np.asarray(params.noise, np.float64))
    size = (len(ahead.origins), ahead.num_samples, ahead.horizon, y.shape[1])
    noise = np.random.default_rng(ahead.seed).normal(size=size) @ root.T
    lags, future = last_values(observed.values, ahead, num_lags), ahead.future(observed.inputs)
    rest = (jnp.asarray(x, y.dtype) for x in (lags, future, noise))
    paths = _paths_again(model, params, y, u, jnp.asarray(ahead.origins), *rest)
    return np.asarray(paths, np.float64)


@partial(jax.jit, static_argnums=0)
def _paths_again(
    model: PredictsMeans,
    params: ParamsAttentionRegression,
    emissions: Float[Array, "T m"],
    inputs: Float[Array, "T p"],
    origins: Int[Array, " N"],
    lags: Float[Array, "N num_lags m"],
    future: Float[Array, "N H k"],
    noise: Float[Array, "N n H m"],
) -> Float[Array, "N n H m"]:
    """Paths, whose steps stand behind those of the series; what comes after them is missing."""
    steps = jnp.arange(len(emissions))
    horizon = noise.shape[2]
    at_once = max(1, _PAIRS_AT_ONCE // len(emissions) ** 2)

    def from_origin(one: tuple[Array, Array, Array, Array]) -> Array:
        origin, lags, future, noise = one
        known = (steps < origin)[:, None]
        start = (jnp.where(known, emissions, jnp.nan), jnp.where(known, inputs, 0.0), lags)

        def step(
            carry: tuple[Array, Array, Array], now: tuple[Array, Array, Array]
        ) -> tuple[tuple[Array, Array, Array], Array]:
            (y, u, lags), (t, outside, noise) = carry, now
            u = u.at[t].set(jnp.concatenate([lags.ravel(), outside]))
            new = model.means(params, y, u)[t] + noise
            y = y.at[t].set(new)
            return (y, u, jnp.concatenate([new[None], lags])[: len(lags)]), new

        def path(noise: Array) -> Array:
            drawn: Array = jax.lax.scan(step, start, (origin + jnp.arange(horizon), future, noise))[
                1
            ]
            return drawn

        of_origin: Array = jax.lax.map(path, noise, batch_size=at_once)
        return of_origin

    paths: Array = jax.lax.map(from_origin, (origins, lags, future, noise))
    return paths


def draw_softmax_paths(
    params: ParamsAttentionRegression, num_lags: int, observed: Observed, ahead: Ahead
) -> Float[np.ndarray, "N n H m"]:
    """Draw paths of softmax attention, which reads sampled steps as those before them, in O(T)."""
    queries, keys, values, recency, weights, noise = (np.asarray(x, np.float64) for x in params[:6])
    rng, n = np.random.default_rng(ahead.seed), ahead.num_samples
    m = known_lags(observed, num_lags, "an attention regression").values.shape[1]
    root = np.linalg.cholesky(noise)
    u = np.column_stack([lags_and_inputs(observed, num_lags), np.ones(len(observed.values))])
    seen = np.isfinite(observed.values).all(axis=1)
    seen[:num_lags] = False
    future = ahead.future(observed.inputs)
    lags = last_values(observed.values, ahead, num_lags)

    def from_origin(i: int, origin: int) -> np.ndarray:
        there = np.flatnonzero(seen[:origin])
        known_keys, known_values = u[there] @ keys.T, observed.values[there] @ values.T

        def step(
            number: int,
            regressors: Float[np.ndarray, "1 n p"],
            drawn: tuple[Float[np.ndarray, "n h d"], Float[np.ndarray, "n h m"]],
        ) -> tuple[
            Float[np.ndarray, "1 n m"],
            tuple[Float[np.ndarray, "n h+1 d"], Float[np.ndarray, "n h+1 m"]],
        ]:
            new_keys, new_values = drawn
            now = np.concatenate([regressors[0], np.ones((n, 1))], axis=1)
            q = now @ queries.T / np.sqrt(len(keys))
            # Step s stands in the place after it, so its age is one less than t - s.
            old = q @ known_keys.T - recency * (origin + number - there - 1)
            new = np.einsum("nd,nhd->nh", q, new_keys) - recency * np.arange(number - 1, -1, -1)
            scores = np.concatenate([np.zeros((n, 1)), old, new], axis=1)
            share = np.exp(scores - scores.max(axis=1, keepdims=True))
            share /= share.sum(axis=1, keepdims=True)
            read = share[:, 1 : 1 + len(there)] @ known_values
            read += np.einsum("nh,nhm->nm", share[:, 1 + len(there) :], new_values)
            y = now @ weights.T + read + rng.normal(size=(n, m)) @ root.T
            new_keys = np.concatenate([new_keys, (now @ keys.T)[:, None]], axis=1)
            new_values = np.concatenate([new_values, (y @ values.T)[:, None]], axis=1)
            return y[None], (new_keys, new_values)

        none_drawn = np.zeros((n, 0, len(keys))), np.zeros((n, 0, m))
        start_lags = np.broadcast_to(lags[i], (1, n, num_lags, m))
        paths = draw_paths(step, none_drawn, start_lags, future[[i]])
        return paths.reshape(paths.shape[1:])

    return np.stack([from_origin(i, int(origin)) for i, origin in enumerate(ahead.origins)])
