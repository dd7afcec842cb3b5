"""The dynamax model class: every mechanism through every method."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dynamax.hidden_markov_model import LinearAutoregressiveHMM
from dynamax.linear_gaussian_ssm import lgssm_filter
from dynamax.parameters import from_unconstrained, log_det_jac_constrain, to_unconstrained
from dynamax.ssm import SSM
from oracles import MECHANISMS
from scipy.linalg import block_diag
from scipy.stats import multivariate_normal
from tiers import cases

import ssmlin

T, M, LAGS = 12, 2, 1


def series(steps=T, m=M, seed=0):
    rng = np.random.default_rng(seed)
    return jnp.asarray(np.cumsum(rng.normal(size=(steps, m)), axis=0) / 3)


def make(name, method="regression", **options):
    options = {"num_lags": LAGS, "key_dim": 3} | options
    model = ssmlin.LinearAttentionSSM(name, emission_dim=M, input_dim=LAGS * M, **options)
    y = series()
    u = model.compute_inputs(y)
    params, props = model.initialize(jax.random.key(1), method, emissions=y, inputs=u)
    return model, params, props, y, u


# One program each, instead of one for every operation.
log_prior = jax.jit(ssmlin.LinearAttentionSSM.log_prior, static_argnums=0)
log_prob = jax.jit(ssmlin.LinearAttentionSSM.log_prob, static_argnums=0)
marginal_log_prob = jax.jit(ssmlin.LinearAttentionSSM.marginal_log_prob, static_argnums=0)


@partial(jax.jit, static_argnums=0)
def _operators(model, params, u):
    lgssm = model.to_lgssm(params, u)
    return lgssm, lgssm.to_dense(), lgssm.to_dynamax()


def operators(*args):
    """The model given the inputs: structured, dense and as dynamax has it."""
    return jax.tree.map(np.asarray, _operators(*args))


@pytest.fixture(
    scope="module",
    params=cases(MECHANISMS, "gated_deltanet", "gated_deltaproduct", "bayesian_memory"),
)
def case(request):
    return make(request.param)


def test_is_a_dynamax_model(case):
    model, params, props, y, u = case
    assert isinstance(model, SSM)
    unconstrained = jax.jit(lambda params: to_unconstrained(params, props))(params)
    back = jax.jit(lambda x: from_unconstrained(x, props))(unconstrained)
    for one, two in zip(jax.tree.leaves(params), jax.tree.leaves(back), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-6, atol=1e-9)
    assert np.isfinite(jax.jit(lambda params: log_det_jac_constrain(params, props))(params))
    assert np.isfinite(log_prior(model, params))


def test_likelihood_is_dynamaxs(case):
    model, params, _, y, u = case
    _, _, dense = operators(model, params, u)
    expected = lgssm_filter(jax.tree.map(jnp.asarray, dense), y).marginal_loglik
    np.testing.assert_allclose(model.marginal_log_prob(params, y, u), expected, atol=1e-6)
    np.testing.assert_allclose(model.filter(params, y, u).marginal_loglik, expected, atol=1e-6)
    np.testing.assert_allclose(model.smoother(params, y, u).marginal_loglik, expected, atol=1e-6)


def test_pointwise_laws_are_those_of_the_operators(case):
    model, params, _, y, u = case
    lgssm, dense, dynamax = operators(model, params, u)
    rng = np.random.default_rng(0)
    state = rng.normal(size=(M, 3))
    t = 4
    nxt = rng.normal(size=(M, 3))

    @jax.jit
    def found(params):
        emission = model.emission_distribution(params, state, u[t])
        return (
            model.transition_distribution(params, state, u[t]).log_prob(nxt),
            model.initial_distribution(params, u[0]).log_prob(nxt),
            emission.mean(),
            emission.covariance(),
        )

    later, first, emission_mean, emission_cov = found(params)
    mean = (state @ dense["A"][t] + dense["B"][t]).ravel()
    cov = np.kron(lgssm.row_cov, dense["Q"][t])
    expected = multivariate_normal.logpdf(nxt.ravel(), mean, cov)
    np.testing.assert_allclose(later, expected, rtol=1e-6)
    p1 = dynamax.initial
    expected = multivariate_normal.logpdf(nxt.ravel(), p1.mean, p1.cov)
    np.testing.assert_allclose(first, expected, rtol=1e-6)
    np.testing.assert_allclose(
        emission_mean, state @ lgssm.readout[t] + lgssm.emission_bias[t], atol=1e-12
    )
    np.testing.assert_allclose(emission_cov, lgssm.emission_noise[t] * lgssm.row_cov, atol=1e-12)


def test_joint_and_marginal_agree(case):
    """log p(y) = log p(S, y) − log p(S | y), the last from dense Gaussians, at any S."""
    model, params, _, y, u = case
    _, _, p = operators(model, params, u)
    y, u = y[:2], u[:2]
    states = np.random.default_rng(2).normal(size=(2, M, 3))
    joint = log_prob(model, params, states, y, u)
    f = p.dynamics.weights[1]
    top = p.initial.cov
    cov = np.block([[top, top @ f.T], [f @ top, f @ top @ f.T + p.dynamics.cov[1]]])
    mean = np.concatenate([p.initial.mean, f @ p.initial.mean + p.dynamics.bias[1]])
    h = block_diag(*p.emissions.weights[:2])
    r = block_diag(*p.emissions.cov[:2])
    s = h @ cov @ h.T + r
    gain = np.linalg.solve(s, h @ cov).T
    e = (np.asarray(y) - p.emissions.bias[:2]).ravel() - h @ mean
    posterior = multivariate_normal.logpdf(states.ravel(), mean + gain @ e, cov - gain @ h @ cov)
    np.testing.assert_allclose(
        joint - posterior, marginal_log_prob(model, params, y, u), rtol=1e-5, atol=1e-5
    )


def test_sampling_given_inputs_or_feeding_back(case):
    model, params, _, y, u = case
    states, emissions = model.sample(params, jax.random.key(0), T, u)
    assert states.shape == (T, M, 3) and emissions.shape == (T, M)
    free_states, free = model.sample(params, jax.random.key(0), 5)
    # Feeding back is right if the drawn path has the density that its own lags give it.
    lagged = model.compute_inputs(free)
    assert np.isfinite(log_prob(model, params, free_states, free, lagged))
    draws = model.posterior_sample(jax.random.key(0), params, y, u, 4)
    assert draws.shape == (4, T, M, 3)
    one = jax.eval_shape(lambda key: model.posterior_sample(key, params, y, u), jax.random.key(0))
    assert one.shape == (T, M, 3)


def test_batches_as_dynamax_makes_them(case):
    model, params, props, y, u = case
    both = jax.jit(jax.vmap(lambda y, u: model.marginal_log_prob(params, y, u)))(
        jnp.stack([y, y + 1]), jnp.stack([u, u])
    )
    np.testing.assert_allclose(both[0], model.marginal_log_prob(params, y, u), atol=1e-9)


@pytest.mark.parametrize("name", cases(MECHANISMS, "bayesian_memory"))
def test_dynamaxs_own_loop_accepts_the_model(name):
    model, params, props, y, u = make(name)
    fitted, losses = SSM.fit_sgd(
        model, params, props, jnp.stack([y, y]), jnp.stack([u, u]), num_epochs=2, batch_size=2
    )
    assert losses.shape == (2,) and np.isfinite(losses).all()


def test_without_memory_it_is_a_linear_autoregression():
    model, params, _, y, u = make("gated_deltanet", process_noise="none", row_cov="full")
    dynamics = params.tokens
    nothing = jax.tree.map(jnp.zeros_like, dynamics.values)
    params = params._replace(
        tokens=dynamics._replace(values=nothing),
        initial=params.initial._replace(variances=jnp.zeros(3)),
    )
    regression, row_cov = jax.tree.map(np.asarray, (params.regression, params.row_cov.covariance))
    mean = np.asarray(u) @ regression.weights.T + regression.bias
    expected = multivariate_normal.logpdf(y - mean, np.zeros(M), row_cov)
    np.testing.assert_allclose(model.log_predictive(params, y, u), expected, atol=1e-10)
    design = np.column_stack([u, np.ones(T)])
    beta = np.linalg.solve(design.T @ design + 1e-2 * np.eye(3), design.T @ y)
    np.testing.assert_allclose(regression.weights, beta[:-1].T, atol=1e-8)
    np.testing.assert_allclose(regression.bias, beta[-1], atol=1e-8)


@pytest.mark.parametrize("kind", ["isotropic", "diagonal", "stationary", "write", "none"])
def test_kinds_of_process_noise(kind):
    model, params, _, y, u = make("kda", "prior", process_noise=kind)
    lgssm, dense, _ = operators(model, params, u)
    q = np.asarray(getattr(params.process_noise, "scale", np.nan))
    expected = {
        "isotropic": lambda: q * np.eye(3),
        "diagonal": lambda: np.diag(q),
        "stationary": lambda: (1 - lgssm.transition.diag**2)[:, None] * np.eye(3) * q,
        "write": lambda: q * lgssm.drift.right @ lgssm.drift.right.mT,
        "none": lambda: np.zeros((3, 3)),
    }[kind]()
    np.testing.assert_allclose(dense["Q"], np.broadcast_to(expected, (T, 3, 3)), atol=1e-12)


def test_stationary_noise_keeps_the_variance():
    lgssm = ssmlin.matrix_lgssm(
        "mamba2",
        keys=jnp.ones((50, 2)),
        values=jnp.zeros((50, 1)),
        queries=jnp.ones((50, 2)),
        alpha=0.8,
        process_noise=(1 - 0.8**2) * 0.7,
        initial_cov=0.7 * jnp.eye(2),
    )
    nothing = ssmlin.matrix_lgssm_filter(lgssm, jnp.full((50, 1), jnp.nan))
    np.testing.assert_allclose(nothing.filtered_covariances[-1], 0.7 * np.eye(2), atol=1e-12)


def test_constant_gates_do_not_depend_on_inputs():
    model, params, _, y, u = make("gated_deltanet", "prior", gates="constant")
    gates = model.gate_values(params, u)
    assert np.ptp(gates["alpha"]) == 0 and params.tokens.alpha.weights is None
    driven, params, _, y, u = make("gated_deltanet", gates="input")
    assert np.ptp(driven.gate_values(params, u)["alpha"]) > 0
    retnet, params, props, y, u = make("retnet", "prior", gates="input")
    assert params.tokens.alpha.weights is None
    assert not props.tokens.alpha.value.trainable


def test_negative_eigenvalues_widen_the_gates():
    model, params, _, y, u = make("deltanet", "prior", negative_eigenvalues=True, gates="constant")
    beta = params.tokens.beta._replace(value=jnp.asarray(1.7))
    params = params._replace(tokens=params.tokens._replace(beta=beta))
    assert np.isfinite(model.marginal_log_prob(params, y, u))
    assert np.isfinite(log_prior(model, params))


def test_lagged_inputs_are_dynamaxs():
    y = series(7)
    before = jnp.asarray(np.random.default_rng(1).normal(size=(3, M)))
    hmm = LinearAutoregressiveHMM(2, M, num_lags=3)
    np.testing.assert_array_equal(ssmlin.lagged_inputs(y, 3), hmm.compute_inputs(y))
    np.testing.assert_array_equal(ssmlin.lagged_inputs(y, 3, before), hmm.compute_inputs(y, before))
    window = ssmlin.lagged_inputs(y, 2, include_current=True)
    np.testing.assert_array_equal(window[:, :M], y)
    np.testing.assert_array_equal(window[:, M:], ssmlin.lagged_inputs(y, 2))
    # A missing value is missing as a lag, too.
    holes = y.at[jnp.array([0, 2, 3]), 0].set(jnp.nan)
    lags = np.asarray(ssmlin.lagged_inputs(holes, 2))
    assert np.argwhere(np.isnan(lags)).tolist() == [[1, 0], [2, 2], [3, 0], [4, 0], [4, 2], [5, 2]]
    np.testing.assert_array_equal(
        lags, np.where(np.isnan(lags), np.nan, ssmlin.lagged_inputs(y, 2))
    )


def test_model_without_inputs():
    model = ssmlin.LinearAttentionSSM("mamba2", emission_dim=M, key_dim=2)
    params, props = model.initialize(jax.random.key(0))
    y = series()
    assert np.isfinite(model.marginal_log_prob(params, y))
    assert model.inputs_shape is None
    states, emissions = model.sample(params, jax.random.key(0), 6)
    assert emissions.shape == (6, M)
    assert np.isfinite(log_prob(model, params, states, emissions))
    assert model.forecast(params, y, horizon=3).means.shape == (3, M)


# ------------------------------------------------------------------------- forecasting


def test_forecast_given_inputs_is_a_dense_kalman_recursion():
    model, params, _, y, u = make("gated_deltanet")
    future = jnp.asarray(np.random.default_rng(0).normal(size=(3, M)))
    result = model.forecast(
        params, y, u, horizon=3, future_inputs=future, key=jax.random.key(0), num_samples=20_000
    )
    _, _, p = operators(model, params, jnp.concatenate([u, future]))
    mean, cov = p.initial.mean, p.initial.cov
    for t in range(T + 3):
        if t > 0:
            f = p.dynamics.weights[t]
            mean, cov = f @ mean + p.dynamics.bias[t], f @ cov @ f.T + p.dynamics.cov[t]
        h = p.emissions.weights[t]
        expected = h @ mean + p.emissions.bias[t]
        s = h @ cov @ h.T + p.emissions.cov[t]
        if t < T:
            gain = np.linalg.solve(s, h @ cov).T
            mean, cov = mean + gain @ (np.asarray(y[t]) - expected), cov - gain @ s @ gain.T
            continue
        i = t - T
        np.testing.assert_allclose(result.means[i], expected, atol=1e-7)
        np.testing.assert_allclose(result.covariances[i], s, atol=1e-7)
        half = 1.959963984540054 * np.sqrt(np.diag(s))
        np.testing.assert_allclose(result.lower[2, i], expected - half, atol=1e-6)
        np.testing.assert_allclose(result.upper[2, i], expected + half, atol=1e-6)
        error = np.sqrt(np.diag(s) / 20_000)
        assert (np.abs(result.samples[:, i].mean(0) - expected) / error).max() < 5


def test_forecast_feeds_emissions_back():
    model, params, _, y, u = make("bayesian_memory")
    result = model.forecast(params, y, u, horizon=2, key=jax.random.key(0), num_samples=40_000)
    # One step ahead the inputs are known, so the exact predictive is Gaussian.
    exact = model.forecast(params, y, u, horizon=1, future_inputs=y[-1:])
    error = np.sqrt(np.diag(exact.covariances[0]) / 40_000)
    assert (np.abs(result.means[0] - exact.means[0]) / error).max() < 5
    np.testing.assert_allclose(result.covariances[0], exact.covariances[0], rtol=0.05, atol=2e-3)
    np.testing.assert_allclose(result.lower[2, 0], exact.lower[2, 0], atol=0.05)
    # Two steps ahead: the average over first steps of what each would predict.
    first = np.asarray(result.samples)[:60, 0]

    def second(y1):
        path = jnp.concatenate([y, y1[None]])
        return model.forecast(
            params, path, model.compute_inputs(path), 1, future_inputs=y1[None]
        ).means[0]

    averaged = np.mean([second(y1) for y1 in first], axis=0)
    spread = np.sqrt(np.diag(result.covariances[1]) / 60)
    assert (np.abs(result.means[1] - averaged) / spread).max() < 5


def test_forecast_with_missing_entries():
    model, params, _, y, u = make("bayesian_memory")
    holes = y.at[-2, 0].set(jnp.nan).at[5].set(jnp.nan)
    u = model.compute_inputs(holes)
    result = model.forecast(params, holes, u, 2, key=jax.random.key(0), num_samples=50)
    assert np.isfinite(result.means).all() and result.samples.shape == (50, 2, M)
    known = model.compute_inputs(y)
    exact = model.forecast(params, holes, known, 1, future_inputs=known[-1:])
    assert np.isfinite(exact.covariances).all()


# ------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mechanism": "lstm"}, "mechanism: expected one of vanilla, .*got 'lstm'"),
        ({"emission_dim": 0}, "emission_dim: expected an integer >= 1, got 0"),
        ({"gates": "free"}, "gates: expected one of 'input', 'constant', got 'free'"),
        ({"num_lags": 5}, "num_lags"),
        ({"row_cov": "banded"}, "row_cov"),
        ({"process_noise": "write", "mechanism": "bayesian_memory"}, "process_noise"),
        ({"negative_eigenvalues": True, "mechanism": "gla"}, "negative_eigenvalues"),
    ],
)
def test_bad_options(options, message):
    defaults = {"mechanism": "deltanet", "emission_dim": 1, "input_dim": 2, "key_dim": 2}
    with pytest.raises(ValueError, match=message):
        ssmlin.LinearAttentionSSM(**defaults | options)


def test_bad_data():
    model, params, props, y, u = make("gated_deltanet")
    with pytest.raises(ValueError, match=r"inputs: expected shape \(12, 2\).*got \(12, 3\)"):
        model.filter(params, y, jnp.ones((12, 3)))
    with pytest.raises(ValueError, match=r"inputs: expected shape .*got None"):
        model.filter(params, y)
    with pytest.raises(ValueError, match="inputs: expected finite values"):
        model.filter(params, y, u.at[3, 0].set(jnp.inf))
    with pytest.raises(ValueError, match="inputs: expected lags that are known.* at step 4"):
        model.filter(params, y, u.at[3, 0].set(jnp.nan))
    with pytest.raises(ValueError, match="emissions"):
        model.initialize(emissions=jnp.ones((5, 3)), inputs=jnp.ones((5, 2)))
    with pytest.raises(ValueError, match="exogenous"):
        model.compute_inputs(y, exogenous=jnp.ones((T, 1)))
    with pytest.raises(ValueError, match="horizon"):
        model.forecast(params, y, u, horizon=0)
    with pytest.raises(ValueError, match="levels"):
        model.forecast(params, y, u, levels=(0.5, 1.5))
    with pytest.raises(ValueError, match="inputs"):
        model.forecast(params, y, u, horizon=2, future_inputs=jnp.ones((2, 1)))
    with pytest.raises(ValueError, match="num_timesteps"):
        model.to_lgssm(params)


@pytest.mark.parametrize(
    ("name", "row_cov"), [("bayesian_memory", "identity"), ("gated_deltanet", "full")]
)
def test_float32_data_keep_their_precision_under_x64(name, row_cov):
    y = series().astype(jnp.float32)
    model = ssmlin.LinearAttentionSSM(name, M, M, 3, num_lags=1, row_cov=row_cov)
    params, history = model.fit(y, model.compute_inputs(y), num_epochs=2, progress=False)
    assert {x.dtype for x in jax.tree.leaves(params)} == {jnp.dtype(jnp.float32)}
    assert np.isfinite(history.losses).all()


def test_priors_are_hashable_settings():
    prior = dataclasses.replace(ssmlin.ShrinkagePrior(), value_scale=1.0)
    model = ssmlin.LinearAttentionSSM("deltanet", 1, 1, 2, prior=prior)
    default = ssmlin.LinearAttentionSSM("deltanet", 1, 1, 2)
    params, _ = model.initialize(jax.random.key(0))
    values = params.tokens.values
    away = params._replace(
        tokens=params.tokens._replace(values=values._replace(weights=values.weights + 1))
    )
    loose = log_prior(model, params) - log_prior(model, away)
    tight = log_prior(default, params) - log_prior(default, away)
    assert tight > loose > 0
