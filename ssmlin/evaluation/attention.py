"""Linear attention models as forecasters, fitted by the recommended recipe."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from dynamax.parameters import trainable_flags
from jaxtyping import Array

from ssmlin.evaluation.forecasters import Ahead, Fitted, Observed
from ssmlin.evaluation.predictive import Predictive
from ssmlin.evaluation.regressions import last_values
from ssmlin.models import LinearAttentionSSM, ParamsLinearAttentionSSM
from ssmlin.models.forecast import draw_states, simulate


class FittedAttention(NamedTuple):
    """What a report may show of a fitted linear attention.

    Attributes:
        model: the model.
        params: its fitted parameters.
    """

    model: LinearAttentionSSM
    params: ParamsLinearAttentionSSM


def with_lags(model: LinearAttentionSSM, observed: Observed) -> tuple[Array, Array]:
    """Emissions and inputs of a series; its first steps serve as lags only."""
    emissions = jnp.asarray(observed.values, jnp.float32)
    exogenous = jnp.asarray(observed.inputs, jnp.float32) if observed.inputs.shape[1] else None
    inputs = model.compute_inputs(emissions, exogenous)
    return emissions.at[: model.num_lags].set(jnp.nan), inputs


def fit_attention(
    train: Observed,
    seed: int,
    *,
    mechanism: str,
    num_lags: int,
    key_dim: int | None = None,
    num_epochs: int = 500,
    **options: Any,
) -> Fitted:
    """Fit a linear attention on lagged values and inputs.

    Args:
        train: the standardised training series.
        seed: for the start.
        mechanism: a name in ``ssmlin.MECHANISMS``.
        num_lags: how many lagged values are inputs.
        key_dim: d; default the inputs and an intercept, as `bayesian_memory` wants it.
        num_epochs: at most so many epochs.
        **options: of :class:`ssmlin.LinearAttentionSSM`.

    Returns:
        The fitted forecaster.
    """
    m = train.values.shape[1]
    width = num_lags * m + train.inputs.shape[1]
    missing = np.isnan(train.values)
    partly = (missing.any(axis=1) & ~missing.all(axis=1)).any()
    model = LinearAttentionSSM(
        mechanism,
        emission_dim=m,
        input_dim=width,
        key_dim=width + 1 if key_dim is None else key_dim,
        num_lags=num_lags,
        # Steps of which parts are missing want a diagonal Σ.
        **{"row_cov": "diagonal" if m == 1 or partly else "full"} | options,
    )
    params, history = model.fit(
        *with_lags(model, train), jax.random.key(seed), num_epochs=num_epochs, progress=False
    )

    def predict(observed: Observed) -> Predictive:
        y, u = with_lags(model, observed)
        means, covariances = _moments(model.given_missing(y), params, y, u)
        return Predictive.gaussian(
            np.asarray(means, np.float64), np.asarray(covariances, np.float64)
        )

    def sample_paths(observed: Observed, ahead: Ahead) -> np.ndarray:
        return _paths(model, params, observed, ahead)

    _, props = model.initialize()
    sizes = [int(np.size(x)) for x in jax.tree.leaves(params)]
    flags: list[Any] = trainable_flags(props)
    count = sum(size for size, free in zip(sizes, flags, strict=True) if free)
    # Scores are per value; log densities are per step of m values.
    validation = -float(history.scores[history.best_epoch]) * m
    return Fitted(predict, count, sample_paths, validation, FittedAttention(model, params))


@partial(jax.jit, static_argnums=0)
def _moments(
    model: Any, params: ParamsLinearAttentionSSM, emissions: Array, inputs: Array
) -> tuple[Array, Array]:
    """Means and covariances of every step given those before it."""
    return model.predict_one_step(jax.random.key(0), params, emissions, inputs)[2:]


def _paths(
    model: LinearAttentionSSM,
    params: ParamsLinearAttentionSSM,
    observed: Observed,
    ahead: Ahead,
) -> np.ndarray:
    """Paths from the filtered states, emissions fed back as lags."""
    y, u = with_lags(model, observed)
    posterior: Any = model.filter(params, y, u)
    last = jnp.asarray(ahead.origins - 1)
    lags = jnp.asarray(last_values(observed.values, ahead, model.num_lags), y.dtype)
    future = jnp.asarray(ahead.future(observed.inputs), y.dtype)
    n = ahead.num_samples

    @jax.jit
    @jax.vmap
    def paths(key: Array, mean: Array, cov: Array, lags: Array, future: Array) -> Array:
        start_key, path_key = jax.random.split(key)
        start = draw_states(start_key, mean, cov, posterior.row_cov, n)
        lags = jnp.broadcast_to(lags, (n, *lags.shape))
        return simulate(model, params, path_key, start, posterior.row_cov, lags, future)[1]

    keys = jax.random.split(jax.random.key(ahead.seed), len(last))
    means, covs = posterior.filtered_means[last], posterior.filtered_covariances[last]
    return np.asarray(paths(keys, means, covs, lags, future), np.float64)
