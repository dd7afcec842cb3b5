"""Linear attention models as forecasters, fitted by the recommended recipe."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from dynamax.parameters import trainable_flags
from jaxtyping import Array

from ssmlin.evaluation.forecasters import Fitted, OneStep, Values
from ssmlin.models import LinearAttentionSSM, ParamsLinearAttentionSSM


class FittedAttention(NamedTuple):
    """What a report may show of a fitted linear attention.

    Attributes:
        model: the model.
        params: its fitted parameters.
    """

    model: LinearAttentionSSM
    params: ParamsLinearAttentionSSM


def with_lags(model: LinearAttentionSSM, values: Values) -> tuple[Array, Array]:
    """Emissions and lagged inputs of a series; its first steps serve as lags only."""
    emissions = jnp.asarray(values, jnp.float32)
    inputs = model.compute_inputs(emissions)
    return emissions.at[: model.num_lags].set(jnp.nan), inputs


def fit_attention(
    train: Values,
    seed: int,
    *,
    mechanism: str,
    num_lags: int,
    key_dim: int | None = None,
    num_epochs: int = 500,
) -> Fitted:
    """Fit a linear attention on lagged values.

    Args:
        train: the standardised training series, (T, m).
        seed: for the start.
        mechanism: a name in ``ssmlin.MECHANISMS``.
        num_lags: how many lagged values are inputs.
        key_dim: d; default the inputs and an intercept, as `bayesian_memory` wants it.
        num_epochs: at most so many epochs.

    Returns:
        The fitted forecaster.
    """
    m = train.shape[1]
    model = LinearAttentionSSM(
        mechanism,
        emission_dim=m,
        input_dim=num_lags * m,
        key_dim=num_lags * m + 1 if key_dim is None else key_dim,
        num_lags=num_lags,
        row_cov="full" if m > 1 else "diagonal",
    )
    params, history = model.fit(
        *with_lags(model, train), jax.random.key(seed), num_epochs=num_epochs, progress=False
    )

    run = jax.jit(lambda *data: model.filter(params, *data, store="loglik"))

    def predict(values: Values) -> OneStep:
        posterior = run(*with_lags(model, values))
        return OneStep(
            np.asarray(posterior.log_predictive, np.float64),
            np.asarray(posterior.emission_means, np.float64),
        )

    _, props = model.initialize()
    sizes = [int(np.size(x)) for x in jax.tree.leaves(params)]
    flags: list[Any] = trainable_flags(props)
    count = sum(size for size, free in zip(sizes, flags, strict=True) if free)
    # Scores are per value; log densities are per step of m values.
    validation = -float(history.scores[history.best_epoch]) * m
    return Fitted(predict, count, validation, FittedAttention(model, params))
