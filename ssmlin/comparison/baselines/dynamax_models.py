"""Baselines from dynamax: HMMs and the LDS, in float64.

Each is fitted as well as its own library can: several starts, the best training likelihood kept.
Float64 holds inside a context only; no global setting changes.
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from dynamax.hidden_markov_model import (
    GaussianHMM,
    LinearAutoregressiveHMM,
    LinearRegressionHMM,
)
from dynamax.linear_gaussian_ssm import LinearGaussianSSM, lgssm_filter
from dynamax.utils.utils import symmetrize
from jaxtyping import Array

from ssmlin.comparison.baselines.autoregression import residual_covariance, simulate_switching
from ssmlin.forecasting import (
    Ahead,
    Fitted,
    Observed,
    Predictive,
    lags_and_inputs,
    last_values,
    least_squares,
)

_EM_ITERATIONS = 100
_SGD_EPOCHS = 1000
_STARTS = 4


def _array(observed: Observed) -> Array:
    """The values, which dynamax wants without gaps."""
    if np.isnan(observed.values).any():
        step = int(np.isnan(observed.values).any(axis=1).argmax()) + 1
        raise ValueError(f"values: expected no missing values for dynamax, got one at step {step}")
    return jnp.asarray(observed.values)


def _best(model: Any, fitted: Any, *data: Array) -> Any:
    """Of stacked parameters those with the best finite training likelihood."""
    scores = np.asarray(jax.vmap(lambda p: model.marginal_log_prob(p, *data))(fitted))
    if not np.isfinite(scores).any():
        raise ArithmeticError("no start gave a finite likelihood")
    best = int(np.nanargmax(np.where(np.isfinite(scores), scores, np.nan)))
    return jax.tree.map(lambda x: x[best], fitted)


def _stack(trees: list[Any]) -> Any:
    """Parameters with a leading axis."""
    return jax.tree.map(lambda *x: jnp.stack(x), *trees)


def _count(params: Any) -> int:
    """Numbers fitted, those that a constraint fixes included."""
    return sum(int(np.size(x)) for x in jax.tree.leaves(params))


def hmm_predictive(
    model: Any, params: Any, emissions: Array, inputs: Array | None = None
) -> Predictive:
    """Mixture predictive of any dynamax HMM: p(y_t | y_{1:t-1}) = Σ_k p(z_t = k) p(y_t | k, u_t).

    Args:
        model: a dynamax HMM with Gaussian emissions.
        params: its parameters.
        emissions: (T, m).
        inputs: (T, p) or None.

    Returns:
        The laws of every step.
    """
    probs = model.filter(params, emissions, inputs).predicted_probs
    states = jnp.arange(model.num_states)

    def one(u: Array | None) -> tuple[Array, Array]:
        laws = jax.vmap(lambda k: model.emission_distribution(params, k, u))
        return laws(states).mean(), laws(states).covariance()

    if inputs is None:
        means, scales = one(None)
        shape = (len(emissions),)
        means, scales = (jnp.broadcast_to(x, shape + x.shape) for x in (means, scales))
    else:
        means, scales = jax.vmap(one)(inputs)
    return Predictive(np.asarray(probs), np.asarray(means), np.asarray(scales))


def fit_gaussian_hmm(train: Observed, seed: int, *, num_states: int) -> Fitted:
    """Dynamax's GaussianHMM by EM, from k-means starts; inputs are not used."""
    m = train.values.shape[1]
    with jax.enable_x64(True):
        model = GaussianHMM(num_states, m)
        y = _array(train)
        keys = jax.random.split(jax.random.PRNGKey(seed), _STARTS)
        starts = [model.initialize(key, method="kmeans", emissions=y) for key in keys]
        params = _by_em(model, starts[0][1], [p for p, _ in starts], y)

    def predict(observed: Observed) -> Predictive:
        with jax.enable_x64(True):
            return hmm_predictive(model, params, _array(observed))

    def simulate(observed: Observed, ahead: Ahead) -> np.ndarray:
        weights = np.zeros((num_states, m, 0))
        return _simulate_hmm(model, params, weights, params.emissions.means, 0, observed, ahead)

    return Fitted(predict, _count(params), simulate)


def fit_arhmm(train: Observed, seed: int, *, num_states: int, num_lags: int) -> Fitted:
    """Dynamax's ARHMM by EM, started at the least-squares autoregression.

    With exogenous inputs its LinearRegressionHMM on lagged values and inputs, which is the same.
    """
    m, width = train.values.shape[1], train.inputs.shape[1]
    coefficients, residuals = least_squares(train, num_lags)
    covariance = residual_covariance(coefficients, residuals)
    with jax.enable_x64(True):
        if width == 0:
            model = LinearAutoregressiveHMM(num_states, m, num_lags=num_lags)
        else:
            model = LinearRegressionHMM(num_states, num_lags * m + width, m)
        # The first steps serve as lags only, as in the autoregression.
        y = _array(train)[num_lags:]
        inputs = jnp.asarray(lags_and_inputs(train, num_lags)[num_lags:])
        starts, rng = [], np.random.default_rng(seed)
        for key in jax.random.split(jax.random.PRNGKey(seed), _STARTS):
            noise = 0.2 * rng.normal(size=(num_states, m, inputs.shape[1]))
            params, props = model.initialize(
                key,
                method="prior",
                emission_weights=jnp.asarray(coefficients[:-1].T + noise),
                emission_biases=jnp.asarray(
                    coefficients[-1] + 0.5 * rng.normal(size=(num_states, m))
                ),
                emission_covariances=jnp.tile(jnp.asarray(covariance), (num_states, 1, 1)),
            )
            starts.append(params)
        params = _by_em(model, props, starts, y, inputs)

    def predict(observed: Observed) -> Predictive:
        with jax.enable_x64(True):
            inputs = jnp.asarray(lags_and_inputs(observed, num_lags))
            return hmm_predictive(model, params, _array(observed), inputs)

    def simulate(observed: Observed, ahead: Ahead) -> np.ndarray:
        weights, biases = params.emissions.weights, params.emissions.biases
        return _simulate_hmm(model, params, weights, biases, num_lags, observed, ahead)

    return Fitted(predict, _count(params), simulate)


def _by_em(model: Any, props: Any, starts: list[Any], *data: Array) -> Any:
    """The best of EM's fits, which run side by side."""

    def fit(params: Any) -> Any:
        return model.fit_em(params, props, *data, num_iters=_EM_ITERATIONS, verbose=False)[0]

    return _best(model, jax.jit(jax.vmap(fit))(_stack(starts)), *data)


def _simulate_hmm(
    model: Any,
    params: Any,
    weights: Any,
    biases: Any,
    num_lags: int,
    observed: Observed,
    ahead: Ahead,
) -> np.ndarray:
    """Paths of an HMM from the filtered states."""
    seen = observed.until(int(ahead.origins.max()))
    with jax.enable_x64(True):
        used = jnp.asarray(lags_and_inputs(seen, num_lags)) if num_lags else None
        filtered = np.asarray(model.filter(params, _array(seen), used).filtered_probs)
    transition = np.asarray(params.transitions.transition_matrix)
    probs = filtered[ahead.origins - 1] @ transition
    outside = observed if num_lags else Observed.of(observed.values)
    return simulate_switching(
        transition,
        probs,
        np.asarray(weights),
        np.asarray(biases),
        np.asarray(params.emissions.covs),
        last_values(observed.values, ahead, num_lags)[:, None],
        outside,
        ahead,
    )


class _SymmetricLGSSM(LinearGaussianSSM):
    """dynamax's LDS whose M step leaves covariances exactly symmetric.

    Rounding makes them a little asymmetric, the smoother multiplies that at every step back in
    time, and EM can end in NaN, in float64 too.
    """

    def m_step(self, params: Any, props: Any, batch_stats: Any, m_step_state: Any) -> Any:
        params, m_step_state = super().m_step(params, props, batch_stats, m_step_state)
        parts = [part._replace(cov=symmetrize(part.cov)) for part in params]
        return type(params)(*parts), m_step_state


def lds_predictive(params: Any, emissions: Array, inputs: Array | None = None) -> Predictive:
    """Gaussian predictive of a dynamax LGSSM with constant parameters."""
    u = jnp.zeros((len(emissions), 0)) if inputs is None else inputs
    posterior = lgssm_filter(params, emissions, u)
    f, q = params.dynamics.weights, params.dynamics.cov
    h, r = params.emissions.weights, params.emissions.cov
    shift = u @ params.dynamics.input_weights.T + params.dynamics.bias
    means = posterior.filtered_means[:-1] @ f.T + shift[1:]
    means = jnp.concatenate([params.initial.mean[None], means])
    covs = jnp.concatenate(
        [params.initial.cov[None], f @ posterior.filtered_covariances[:-1] @ f.T + q]
    )
    means = means @ h.T + u @ params.emissions.input_weights.T + params.emissions.bias
    return Predictive.gaussian(np.asarray(means), np.asarray(h @ covs @ h.T + r))


def fit_lds(
    train: Observed, seed: int, *, state_dim: int, method: Literal["em", "sgd"] = "em"
) -> Fitted:
    """Dynamax's LinearGaussianSSM, from random stable starts of several time scales."""
    m, width = train.values.shape[1], train.inputs.shape[1]
    with jax.enable_x64(True):
        model = _SymmetricLGSSM(state_dim, m, width)
        data = (_array(train),) if width == 0 else (_array(train), jnp.asarray(train.inputs))
        starts, rng = [], np.random.default_rng(seed)
        for key in jax.random.split(jax.random.PRNGKey(seed), _STARTS):
            # A random rotation, a little damped: oscillations as well as trends can grow from it.
            rotation = np.linalg.qr(rng.normal(size=(state_dim, state_dim)))[0]
            params, props = model.initialize(
                key,
                dynamics_weights=jnp.asarray(rng.uniform(0.8, 0.98) * rotation),
                emission_weights=jnp.asarray(rng.normal(size=(m, state_dim)) / state_dim**0.5),
            )
            starts.append(params)
        if method == "em":
            params = _by_em(model, props, starts, *data)
        else:
            optimizer = optax.adam(1e-2)
            # dynamax loops over the epochs in Python, so one start after the other.
            fits = [
                model.fit_sgd(start, props, *data, optimizer=optimizer, num_epochs=_SGD_EPOCHS)[0]
                for start in starts[:2]
            ]
            params = _best(model, _stack(fits), *data)

    def predict(observed: Observed) -> Predictive:
        with jax.enable_x64(True):
            return lds_predictive(params, _array(observed), jnp.asarray(observed.inputs))

    def simulate(observed: Observed, ahead: Ahead) -> np.ndarray:
        seen = observed.until(int(ahead.origins.max()))
        with jax.enable_x64(True):
            filtered = lgssm_filter(params, _array(seen), jnp.asarray(seen.inputs))
        return _simulate_lds(jax.tree.map(np.asarray, params), filtered, observed, ahead)

    return Fitted(predict, _count(params), simulate)


def _simulate_lds(params: Any, filtered: Any, observed: Observed, ahead: Ahead) -> np.ndarray:
    """Paths from the filtered states."""
    rng, n = np.random.default_rng(ahead.seed), ahead.num_samples
    future = ahead.future(observed.inputs)[:, None]
    dynamics, emissions = params.dynamics, params.emissions
    last = ahead.origins - 1

    def noise(cov: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """Of a covariance that may be singular."""
        values, vectors = np.linalg.eigh(cov)
        root = vectors * np.sqrt(np.maximum(values, 0))[..., None, :]
        return np.einsum("...ij,...nj->...ni", root, rng.normal(size=(*shape, cov.shape[-1])))

    covs = np.asarray(filtered.filtered_covariances)[last]
    state = np.asarray(filtered.filtered_means)[last][:, None] + noise(covs, (len(last), n))
    path = []
    for step in range(ahead.horizon):
        u = future[:, :, step]
        state = state @ dynamics.weights.T + u @ dynamics.input_weights.T + dynamics.bias
        state = state + noise(dynamics.cov, (len(last), n))
        value = state @ emissions.weights.T + u @ emissions.input_weights.T + emissions.bias
        path.append(value + noise(emissions.cov, (len(last), n)))
    return np.stack(path, axis=2)
