"""Baselines from dynamax: HMMs and the LDS, in float64.

Each is fitted as well as its own library can: from several starts, of which the one with the best
training likelihood is kept. Float64 holds inside a context only; no global setting changes.
"""

from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from dynamax.hidden_markov_model import (
    HMM,
    GaussianHMM,
    HMMParameterSet,
    LinearAutoregressiveHMM,
    LinearRegressionHMM,
)
from dynamax.linear_gaussian_ssm import (
    LinearGaussianSSM,
    ParamsLGSSM,
    PosteriorGSSMFiltered,
    lgssm_filter,
)
from dynamax.ssm import SSM
from dynamax.utils.utils import symmetrize
from jaxtyping import Array, Float, PyTree

from ssmlin._typing import AnyArray
from ssmlin.comparison._candidate import Setting, grid
from ssmlin.comparison.baselines._autoregression import residual_covariance
from ssmlin.comparison.baselines._baseline import Baseline, SharedRegression, regression
from ssmlin.comparison.baselines._paths import draw_paths, simulate_switching
from ssmlin.forecasting import (
    Ahead,
    Fitted,
    Observed,
    Predictive,
    lags_and_inputs,
    last_values,
    least_squares,
)
from ssmlin.learning import num_trainable

_EM_ITERATIONS = 100
_SGD_EPOCHS = 1000
_STARTS = 4


def _array(observed: Observed) -> Float[Array, "T m"]:
    """The values, which dynamax wants without gaps."""
    if np.isnan(observed.values).any():
        step = int(np.isnan(observed.values).any(axis=1).argmax()) + 1
        raise ValueError(f"values: expected no missing values for dynamax, got one at step {step}")
    return jnp.asarray(observed.values)


def _stacked[Params](starts: Sequence[Params]) -> Params:
    """Parameters with a leading axis, an entry for each start."""
    stacked: Params = jax.tree.map(lambda *x: jnp.stack(x), *starts)
    return stacked


def _best[Params](model: SSM, fitted: Params, *data: Array) -> Params:
    """The stacked parameters with the best finite training likelihood."""
    scores = np.asarray(jax.vmap(lambda p: model.marginal_log_prob(p, *data))(fitted))
    if not np.isfinite(scores).any():
        raise ArithmeticError("no start gave a finite likelihood")
    best = int(np.nanargmax(np.where(np.isfinite(scores), scores, np.nan)))
    chosen: Params = jax.tree.map(lambda x: x[best], fitted)
    return chosen


def _fit_em[Params](
    model: SSM, props: PyTree, starts: Sequence[Params], *data: Float[Array, "T _"]
) -> Params:
    """Fit by EM from all starts side by side and keep the best."""

    def fit(params: Params) -> Params:
        fitted: Params = model.fit_em(
            params, props, *data, num_iters=_EM_ITERATIONS, verbose=False
        )[0]
        return fitted

    fitted: Params = jax.jit(jax.vmap(fit))(_stacked(starts))
    return _best(model, fitted, *data)


class _SymmetricLGSSM(LinearGaussianSSM):  # type: ignore[misc]  # dynamax has no types
    """dynamax's LDS whose M step leaves covariances exactly symmetric.

    Rounding makes them a little asymmetric, the smoother multiplies that at every step back in
    time, and EM can end in NaN, in float64 too.
    """

    def m_step[State](
        self, params: ParamsLGSSM, props: ParamsLGSSM, batch_stats: PyTree, m_step_state: State
    ) -> tuple[ParamsLGSSM, State]:
        params, m_step_state = super().m_step(params, props, batch_stats, m_step_state)
        parts = [part._replace(cov=symmetrize(part.cov)) for part in params]
        return type(params)(*parts), m_step_state


def lds_predictive(
    params: ParamsLGSSM,
    emissions: Float[Array, "T m"],
    inputs: Float[Array, "T p"] | None = None,
) -> Predictive:
    """The Gaussian one-step predictive laws of a dynamax LGSSM with constant parameters.

    Args:
        params: its parameters.
        emissions: the series.
        inputs: its inputs, or None.

    Returns:
        The laws of every step.
    """
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
    """Fit dynamax's LinearGaussianSSM, from random stable starts of several time scales.

    Args:
        train: the training series.
        seed: for the starts.
        state_dim: the dimension of the state.
        method: by EM or by gradient steps.

    Returns:
        The fitted forecaster.

    Raises:
        ValueError: a missing value.
        ArithmeticError: no start gave a finite likelihood.
    """
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
            params = _fit_em(model, props, starts, *data)
        else:
            optimizer = optax.adam(1e-2)
            # dynamax loops over the epochs in Python, so one start after the other.
            fits = [
                model.fit_sgd(start, props, *data, optimizer=optimizer, num_epochs=_SGD_EPOCHS)[0]
                for start in starts[:2]
            ]
            params = _best(model, _stacked(fits), *data)

    def predict(observed: Observed) -> Predictive:
        with jax.enable_x64(True):
            return lds_predictive(params, _array(observed), jnp.asarray(observed.inputs))

    def simulate(observed: Observed, ahead: Ahead) -> Float[np.ndarray, "N n H m"]:
        seen = observed.until(int(ahead.origins.max()))
        with jax.enable_x64(True):
            filtered = lgssm_filter(params, _array(seen), jnp.asarray(seen.inputs))
        return _simulate_lds(jax.tree.map(np.asarray, params), filtered, observed, ahead)

    return Fitted(predict, num_trainable(params, props), simulate)


def _simulate_lds(
    params: ParamsLGSSM, filtered: PosteriorGSSMFiltered, observed: Observed, ahead: Ahead
) -> Float[np.ndarray, "N n H m"]:
    """Draw paths from the filtered states; the parameters are NumPy arrays."""
    rng, n = np.random.default_rng(ahead.seed), ahead.num_samples
    dynamics, emissions = params.dynamics, params.emissions
    last = ahead.origins - 1

    def noise(cov: Float[np.ndarray, "*N k k"]) -> Float[np.ndarray, "N n k"]:
        """Draws for all paths; the covariance, one or one an origin, may be singular."""
        values, vectors = np.linalg.eigh(cov)
        root = vectors * np.sqrt(np.maximum(values, 0))[..., None, :]
        normal = rng.normal(size=(len(last), n, cov.shape[-1]))
        drawn: np.ndarray = np.einsum("...ij,...nj->...ni", root, normal)
        return drawn

    def step(
        number: int, u: Float[np.ndarray, "N n p"], state: Float[np.ndarray, "N n d"]
    ) -> tuple[Float[np.ndarray, "N n m"], Float[np.ndarray, "N n d"]]:
        del number
        state = state @ dynamics.weights.T + u @ dynamics.input_weights.T + dynamics.bias
        state = state + noise(dynamics.cov)
        value = state @ emissions.weights.T + u @ emissions.input_weights.T + emissions.bias
        return value + noise(emissions.cov), state

    start = np.asarray(filtered.filtered_means)[last][:, None]
    start = start + noise(np.asarray(filtered.filtered_covariances)[last])
    no_lags = np.zeros((len(last), n, 0, len(emissions.bias)))
    return draw_paths(step, start, no_lags, ahead.future(observed.inputs))


def _state_dims(shared: SharedRegression) -> tuple[Setting, ...]:
    """Settings of the LDS, which may do without the season."""
    by_em = grid(state_dim=(2, 4, 6))
    settings = by_em + grid(state_dim=(4,), method=("sgd",))
    if shared.seasonal is not None:
        settings += tuple({**one, "seasonal": shared.seasonal} for one in by_em)
    return settings


BASELINES = (
    Baseline("lds", regression(fit_lds), _state_dims),
)
