"""Baselines: least-squares autoregression, and dynamax's HMMs and LDS in float64.

Each is fitted as well as its own library can: several starts, the best training likelihood kept.
Float64 holds inside a context only; no global setting changes.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from dynamax.hidden_markov_model import GaussianHMM, LinearAutoregressiveHMM
from dynamax.linear_gaussian_ssm import LinearGaussianSSM, lgssm_filter
from dynamax.utils.utils import symmetrize
from jaxtyping import Array, Float
from tensorflow_probability.substrates.jax import distributions as tfd

from ssmlin.evaluation.forecasters import Fitted, OneStep, Values
from ssmlin.models import lagged_inputs

_EM_ITERATIONS = 100
_STARTS = 4


def _design(values: Values, num_lags: int) -> Float[np.ndarray, "T k"]:
    """Lagged values and a constant."""
    with jax.enable_x64(True):
        lags = np.asarray(lagged_inputs(jnp.asarray(values), num_lags))
    return np.column_stack([lags, np.ones(len(values))])


def least_squares(
    train: Values, num_lags: int, start: int | None = None
) -> tuple[Float[np.ndarray, "k m"], Float[np.ndarray, "n m"]]:
    """Coefficients and residuals of a vector autoregression with intercept.

    Args:
        train: the series, (T, m).
        num_lags: the order.
        start: the first step that is fitted; those before serve as lags only. Default `num_lags`.

    Returns:
        Coefficients (m·num_lags + 1, m), the intercept last, and residuals (T − start, m).

    Raises:
        ValueError: fewer steps than coefficients.
    """
    start = num_lags if start is None else start
    design, target = _design(train, num_lags)[start:], train[start:]
    if len(target) <= design.shape[1]:
        raise ValueError(
            f"num_lags: expected fewer coefficients than the {len(target)} training steps, got "
            f"{design.shape[1]} for {num_lags} lags"
        )
    coefficients, *_ = np.linalg.lstsq(design, target, rcond=None)
    return coefficients, target - design @ coefficients


def choose_num_lags(train: Values, max_lags: int = 12) -> int:
    r"""The order of a vector autoregression by the corrected Akaike criterion.

    $\log|\hat\Sigma| + (n + k) m / (n - k - m - 1)$ with k coefficients an equation, over the
    same n steps for all orders; orders that leave fewer than six steps a coefficient are not tried.

    Args:
        train: the series, (T, m).
        max_lags: the highest order.

    Returns:
        The chosen order.

    Source: Hurvich and Tsai (1993), Journal of Time Series Analysis 14.
    """
    steps, m = train.shape
    orders = [lag for lag in range(1, max_lags + 1) if 6 * (m * lag + 1) <= steps] or [1]

    def criterion(order: int) -> float:
        coefficients, residuals = least_squares(train, order, orders[-1])
        n, k = len(residuals), len(coefficients)
        log_det = np.linalg.slogdet(residuals.T @ residuals / n)[1]
        return float(log_det + (n + k) * m / (n - k - m - 1))

    return min(orders, key=criterion)


def _residual_covariance(
    coefficients: Float[np.ndarray, "k m"], residuals: Float[np.ndarray, "n m"]
) -> Float[np.ndarray, "m m"]:
    """Residual covariance, divided by the degrees of freedom left."""
    return residuals.T @ residuals / (len(residuals) - len(coefficients))


def fit_autoregression(train: Values, seed: int, *, num_lags: int) -> Fitted:
    """Vector autoregression with intercept by least squares, plug-in Gaussian predictive."""
    del seed  # nothing is random here
    coefficients, residuals = least_squares(train, num_lags)
    covariance = _residual_covariance(coefficients, residuals)

    def predict(values: Values) -> OneStep:
        means = _design(values, num_lags) @ coefficients
        with jax.enable_x64(True):
            law = tfd.MultivariateNormalFullCovariance(means, covariance)
            return OneStep(np.asarray(law.log_prob(values)), means)

    m = train.shape[1]
    return Fitted(predict, coefficients.size + m * (m + 1) // 2)


def _best_of_starts(model: Any, starts: list[Any], props: Any, *data: Array) -> Any:
    """Run EM from every start side by side; the best finite training likelihood wins."""

    def run(params: Any) -> tuple[Any, Array]:
        params, _ = model.fit_em(params, props, *data, num_iters=_EM_ITERATIONS, verbose=False)
        return params, model.marginal_log_prob(params, *data)

    stacked = jax.tree.map(lambda *x: jnp.stack(x), *starts)
    fitted, scores = jax.jit(jax.vmap(run))(stacked)
    scores = np.asarray(scores)
    if not np.isfinite(scores).any():
        raise ArithmeticError("EM gave no finite likelihood from any start")
    best = int(np.nanargmax(np.where(np.isfinite(scores), scores, np.nan)))
    return jax.tree.map(lambda x: x[best], fitted)


def _count(params: Any) -> int:
    """Numbers fitted, those that a constraint fixes included."""
    return sum(int(np.size(x)) for x in jax.tree.leaves(params))


def hmm_one_step(model: Any, params: Any, emissions: Array, inputs: Array | None = None) -> OneStep:
    """Mixture predictive of any dynamax HMM: p(y_t | y_{1:t-1}) = Σ_k p(z_t = k) p(y_t | k, u_t).

    Args:
        model: a dynamax HMM.
        params: its parameters.
        emissions: (T, m).
        inputs: (T, p) or None.

    Returns:
        The predictions of every step.
    """
    probs = model.filter(params, emissions, inputs).predicted_probs
    states = jnp.arange(model.num_states)

    def one(p: Array, y: Array, u: Array | None) -> tuple[Array, Array]:
        laws = jax.vmap(lambda k: model.emission_distribution(params, k, u).log_prob(y))(states)
        means = jax.vmap(lambda k: model.emission_distribution(params, k, u).mean())(states)
        return jax.scipy.special.logsumexp(laws, b=p), p @ means

    log_density, means = jax.vmap(one)(probs, emissions, inputs)
    return OneStep(np.asarray(log_density), np.asarray(means))


def fit_gaussian_hmm(train: Values, seed: int, *, num_states: int) -> Fitted:
    """Dynamax's GaussianHMM by EM, from k-means starts."""
    with jax.enable_x64(True):
        model = GaussianHMM(num_states, train.shape[1])
        y = jnp.asarray(train)
        keys = jax.random.split(jax.random.PRNGKey(seed), _STARTS)
        starts = [model.initialize(key, method="kmeans", emissions=y) for key in keys]
        props = starts[0][1]
        params = _best_of_starts(model, [p for p, _ in starts], props, y)

    def predict(values: Values) -> OneStep:
        with jax.enable_x64(True):
            return hmm_one_step(model, params, jnp.asarray(values))

    return Fitted(predict, _count(params))


def fit_arhmm(train: Values, seed: int, *, num_states: int, num_lags: int) -> Fitted:
    """Dynamax's LinearAutoregressiveHMM by EM, started at the least-squares autoregression."""
    m = train.shape[1]
    coefficients, residuals = least_squares(train, num_lags)
    covariance = _residual_covariance(coefficients, residuals)
    with jax.enable_x64(True):
        model = LinearAutoregressiveHMM(num_states, m, num_lags=num_lags)
        # The first steps serve as lags only, as in the autoregression.
        y = jnp.asarray(train[num_lags:])
        inputs = model.compute_inputs(y, jnp.asarray(train[:num_lags]))
        starts, rng = [], np.random.default_rng(seed)
        for key in jax.random.split(jax.random.PRNGKey(seed), _STARTS):
            noise = 0.2 * rng.normal(size=(num_states, m, m * num_lags))
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
        params = _best_of_starts(model, starts, props, y, inputs)

    def predict(values: Values) -> OneStep:
        with jax.enable_x64(True):
            y = jnp.asarray(values)
            return hmm_one_step(model, params, y, model.compute_inputs(y))

    return Fitted(predict, _count(params))


class _SymmetricLGSSM(LinearGaussianSSM):
    """dynamax's LDS whose M step leaves covariances exactly symmetric.

    Rounding makes them a little asymmetric, the smoother multiplies that at every step back in
    time, and EM can end in NaN, in float64 too.
    """

    def m_step(self, params: Any, props: Any, batch_stats: Any, m_step_state: Any) -> Any:
        params, m_step_state = super().m_step(params, props, batch_stats, m_step_state)
        parts = [part._replace(cov=symmetrize(part.cov)) for part in params]
        return type(params)(*parts), m_step_state


def lds_one_step(params: Any, emissions: Array) -> OneStep:
    """Gaussian predictive of a dynamax LGSSM with constant parameters and no inputs."""
    posterior = lgssm_filter(params, emissions)
    f, b, q = params.dynamics.weights, params.dynamics.bias, params.dynamics.cov
    h, d, r = params.emissions.weights, params.emissions.bias, params.emissions.cov
    means = jnp.concatenate([params.initial.mean[None], posterior.filtered_means[:-1] @ f.T + b])
    covs = jnp.concatenate(
        [params.initial.cov[None], f @ posterior.filtered_covariances[:-1] @ f.T + q]
    )
    predicted = means @ h.T + d
    law = tfd.MultivariateNormalFullCovariance(predicted, h @ covs @ h.T + r)
    return OneStep(np.asarray(law.log_prob(emissions)), np.asarray(predicted))


def fit_lds(train: Values, seed: int, *, state_dim: int) -> Fitted:
    """Dynamax's LinearGaussianSSM by EM, from random stable starts of several time scales."""
    m = train.shape[1]
    with jax.enable_x64(True):
        model = _SymmetricLGSSM(state_dim, m)
        y = jnp.asarray(train)
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
        params = _best_of_starts(model, starts, props, y)

    def predict(values: Values) -> OneStep:
        with jax.enable_x64(True):
            return lds_one_step(params, jnp.asarray(values))

    return Fitted(predict, _count(params))
