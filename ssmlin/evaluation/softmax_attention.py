r"""The attention baseline: regression on the past through causal softmax attention.

$$y_t = D u_t + d + \sum_{s < t} a_{ts} \, W_v y_s + \varepsilon_t, \quad
a_{ts} \propto \exp\big(d_k^{-1/2} (W_q u_t)^\top W_k u_s - \lambda (t - s)\big)$$

u holds lagged values and inputs; what followed in similar contexts is recalled, recent steps more
(λ > 0, as in ALiBi, arXiv 2108.12409). A key of zeros with the value 0 is always there to look at.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from dynamax.parameters import ParameterProperties, trainable_flags
from dynamax.utils.bijectors import RealToPSDBijector
from jaxtyping import Array, Float
from tensorflow_probability.substrates.jax import bijectors as tfb
from tensorflow_probability.substrates.jax import distributions as tfd

from ssmlin.attention import softmax_attention
from ssmlin.evaluation.forecasters import Ahead, Fitted, Observed
from ssmlin.evaluation.predictive import Predictive
from ssmlin.evaluation.regressions import (
    lags_and_inputs,
    last_values,
    least_squares,
    residual_covariance,
)
from ssmlin.learning import fit_sgd

#: The scores of all pairs of steps are held at once.
MAX_STEPS = 20_000


class ParamsSoftmaxAttention(NamedTuple):
    """Parameters.

    Attributes:
        queries: W_q and a bias, (d_k, p + 1).
        keys: W_k and a bias, (d_k, p + 1).
        values: W_v, (m, m).
        recency: λ > 0, ().
        weights: D and d, (m, p + 1).
        noise: the covariance of ε, (m, m).
    """

    queries: Any
    keys: Any
    values: Any
    recency: Any
    weights: Any
    noise: Any


class SoftmaxAttentionRegression:
    """The model of this module, for :func:`ssmlin.learning.fit_sgd`; it has no settings.

    Its prior is centred at the autoregression D u_t + d.
    """

    def __hash__(self) -> int:
        return hash(type(self))

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other)

    def __repr__(self) -> str:
        return "SoftmaxAttentionRegression()"

    def log_prior(self, params: ParamsSoftmaxAttention) -> Float[Array, ""]:
        """Log prior density: keys, queries and values shrink, λ is about 0.05."""
        return (
            tfd.Normal(0.0, 1.0).log_prob(params.queries).sum()
            + tfd.Normal(0.0, 1.0).log_prob(params.keys).sum()
            + tfd.Normal(0.0, 0.1).log_prob(params.values).sum()
            + tfd.LogNormal(jnp.log(0.05), 1.5).log_prob(params.recency)
            + tfd.Normal(0.0, 1.0).log_prob(params.weights).sum()
        )

    def means(
        self,
        params: ParamsSoftmaxAttention,
        emissions: Float[Array, "T m"],
        inputs: Float[Array, "T p"],
    ) -> Float[Array, "T m"]:
        """E[y_t | y_{1:t-1}]."""
        steps = len(emissions)
        u = jnp.concatenate([inputs, jnp.ones((steps, 1), inputs.dtype)], axis=1)
        seen = jnp.isfinite(emissions).all(axis=1)
        values = jnp.where(seen[:, None], emissions, 0.0) @ params.values.T

        def shifted(x: Array, first: float) -> Array:
            """Step t sees what was there at t - 1; before the first step is the key of zeros."""
            return jnp.concatenate([jnp.full((1, *x.shape[1:]), first, x.dtype), x[:-1]])

        times = jnp.arange(steps)
        age = (times[:, None] - times).astype(u.dtype)
        bias = jnp.where(shifted(seen, True), -params.recency * age, -jnp.inf)
        bias = bias.at[:, 0].set(0.0)  # the key of zeros does not age
        read = softmax_attention(
            u @ params.queries.T, shifted(u @ params.keys.T, 0.0), shifted(values, 0.0), bias=bias
        )
        return u @ params.weights.T + read

    def log_predictive(
        self, params: ParamsSoftmaxAttention, emissions: Float[Array, "T m"], inputs: Any
    ) -> Float[Array, " T"]:
        """Log density of every step; 0 where it was not wholly observed."""
        seen = jnp.isfinite(emissions).all(axis=1)
        means = self.means(params, emissions, inputs)
        y = jnp.where(seen[:, None], emissions, means)
        law = tfd.MultivariateNormalTriL(means, jnp.linalg.cholesky(params.noise))
        return jnp.where(seen, law.log_prob(y), 0.0)


@partial(jax.jit, static_argnums=0)
def _means(model: Any, params: Any, emissions: Array, inputs: Array) -> Array:
    return model.means(params, emissions, inputs)


def fit_softmax_attention(
    train: Observed, seed: int, *, num_lags: int, key_dim: int = 4, num_epochs: int = 500
) -> Fitted:
    """Fit by Adam from the least-squares autoregression, stopped by the end of the training part.

    Args:
        train: the standardised training series.
        seed: for the start.
        num_lags: how many lagged values are inputs.
        key_dim: d_k.
        num_epochs: at most so many epochs.

    Returns:
        The fitted forecaster.

    Raises:
        ValueError: a series of more than 20 000 steps, or too short for the autoregression.
    """
    if len(train.values) > MAX_STEPS:
        raise ValueError(
            f"values: expected at most {MAX_STEPS} steps, since attention compares all pairs; got "
            f"{len(train.values)}"
        )
    model, m = SoftmaxAttentionRegression(), train.values.shape[1]
    free, positive = ParameterProperties(), ParameterProperties(constrainer=tfb.Softplus())
    covariance = ParameterProperties(constrainer=RealToPSDBijector())
    props: Any = ParamsSoftmaxAttention(free, free, free, positive, free, covariance)

    def arrays(observed: Observed) -> tuple[Array, Array]:
        y = jnp.asarray(observed.values, jnp.float32).at[:num_lags].set(jnp.nan)
        return y, jnp.asarray(lags_and_inputs(observed, num_lags), jnp.float32)

    def start(part: Observed) -> ParamsSoftmaxAttention:
        coefficients, residuals = least_squares(part, num_lags)
        q, k, v = jax.random.split(jax.random.key(seed), 3)
        shape = (key_dim, len(coefficients))
        noise = residual_covariance(coefficients, residuals)
        params = ParamsSoftmaxAttention(
            jax.random.normal(q, shape),
            jax.random.normal(k, shape),
            0.03 * jax.random.normal(v, (m, m)),
            0.05,
            coefficients.T,
            noise,
        )
        return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params)

    y, u = arrays(train)
    steps = len(train.values)
    options: dict[str, Any] = {"progress": False, "inputs": u[None]}
    params, history = fit_sgd(
        model, start(train.until(steps - int(0.2 * steps))), props, y[None],
        num_epochs=num_epochs, **options,
    )  # fmt: skip
    params = start(train)
    if history.best_epoch > 0:
        params, _ = fit_sgd(
            model, params, props, y[None], num_epochs=history.best_epoch,
            validation_fraction=0.0, patience=None, **options,
        )  # fmt: skip
    noise = np.asarray(params.noise, np.float64)

    def predict(observed: Observed) -> Predictive:
        return Predictive.gaussian(
            np.asarray(_means(model, params, *arrays(observed)), np.float64), noise
        )

    def simulate(observed: Observed, ahead: Ahead) -> np.ndarray:
        return _simulate(params, num_lags, observed, ahead)

    sizes = [int(np.size(x)) for x in jax.tree.leaves(params)]
    flags: list[Any] = trainable_flags(props)
    validation = -float(history.scores[history.best_epoch]) * m
    count = sum(size for size, is_free in zip(sizes, flags, strict=True) if is_free)
    return Fitted(predict, count, simulate, validation)


def _simulate(
    params: ParamsSoftmaxAttention, num_lags: int, observed: Observed, ahead: Ahead
) -> np.ndarray:
    """Paths, whose steps are looked at as those before them."""
    queries, keys, values, recency, weights, noise = (np.asarray(x, np.float64) for x in params)
    rng, n, horizon = np.random.default_rng(ahead.seed), ahead.num_samples, ahead.horizon
    m = observed.values.shape[1]
    root = np.linalg.cholesky(noise)
    u = np.column_stack([lags_and_inputs(observed, num_lags), np.ones(len(observed.values))])
    seen = np.isfinite(observed.values).all(axis=1)
    seen[:num_lags] = False
    future = ahead.future(observed.inputs)
    lags = last_values(observed.values, ahead, num_lags)
    paths = np.empty((len(ahead.origins), n, horizon, m))
    for i, origin in enumerate(ahead.origins):
        there = np.flatnonzero(seen[:origin])
        known_keys, known_values = u[there] @ keys.T, observed.values[there] @ values.T
        history = np.broadcast_to(lags[i], (n, num_lags, m))
        new_keys = np.zeros((n, 0, len(keys)))
        new_values = np.zeros((n, 0, m))
        for h in range(horizon):
            outside = np.broadcast_to(future[i, h], (n, future.shape[-1]))
            now = np.concatenate([history.reshape(n, -1), outside, np.ones((n, 1))], axis=1)
            q = now @ queries.T / np.sqrt(len(keys))
            # Step s stands in the place after it, so its age is one less than t - s.
            old = q @ known_keys.T - recency * (origin + h - there - 1)
            new = np.einsum("nd,nhd->nh", q, new_keys) - recency * np.arange(h - 1, -1, -1)
            scores = np.concatenate([np.zeros((n, 1)), old, new], axis=1)
            share = np.exp(scores - scores.max(axis=1, keepdims=True))
            share /= share.sum(axis=1, keepdims=True)
            read = share[:, 1 : 1 + len(there)] @ known_values
            read += np.einsum("nh,nhm->nm", share[:, 1 + len(there) :], new_values)
            y = now @ weights.T + read + rng.normal(size=(n, m)) @ root.T
            paths[i, :, h] = y
            new_keys = np.concatenate([new_keys, (now @ keys.T)[:, None]], axis=1)
            new_values = np.concatenate([new_values, (y @ values.T)[:, None]], axis=1)
            history = np.concatenate([y[:, None], history], axis=1)[:, :num_lags]
    return paths
