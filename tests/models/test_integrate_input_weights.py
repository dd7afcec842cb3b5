"""Models whose input weights are integrated out: a dynamic regression beside the memory."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dynamax.linear_gaussian_ssm import lgssm_filter
from oracles import MECHANISMS, kalman
from scipy import stats
from tiers import KINDS, cases

import ssmlin
from ssmlin.models import IntegratedRegression, NoParams

T, M, D, P = 12, 2, 3, 2


def series(steps=T, seed=0):
    rng = np.random.default_rng(seed)
    return jnp.asarray(np.cumsum(rng.normal(size=(steps, M)), axis=0) / 3)


@cache
def make(name="gated_deltanet", **options):
    options = {"num_lags": 1, "row_cov": "full", "regression": "integrated"} | options
    model = ssmlin.LinearAttentionSSM(name, M, P, D, **options)
    y = series()
    u = ssmlin.lagged_inputs(y, 1)
    params, props = model.initialize(jax.random.key(1), emissions=y, inputs=u)
    law = params.regression._replace(noise=jnp.asarray(0.03))
    tokens = params.tokens
    if tokens.values is not None:  # a memory that writes something
        values = tokens.values._replace(bias=tokens.values.bias + 0.3)
        tokens = tokens._replace(values=values)
    return model, params._replace(tokens=tokens, regression=law), props, y, u


to_lgssm = jax.jit(ssmlin.LinearAttentionSSM.to_lgssm, static_argnums=0)
run_filter = jax.jit(ssmlin.LinearAttentionSSM.filter, static_argnums=0)
marginal_log_prob = jax.jit(ssmlin.LinearAttentionSSM.marginal_log_prob, static_argnums=0)


@pytest.mark.parametrize("name", cases(MECHANISMS, *KINDS))
def test_the_law_of_the_emissions_is_that_of_the_memory_plus_that_of_the_regression(name):
    model, params, _, y, u = make(name)
    law, rows = params.regression, np.asarray(params.row_cov.covariance)
    plain = ssmlin.LinearAttentionSSM(name, M, P, D, num_lags=1, row_cov="full", regression="none")
    without = params._replace(regression=NoParams())
    lgssm = to_lgssm(plain, without, u)
    a, b, q = (np.asarray(x) for x in jax.jit(type(lgssm).to_dense)(lgssm).values())
    h, r = np.asarray(lgssm.readout), np.asarray(lgssm.emission_noise)
    # E[S_t] and Cov(S_s, S_t), step by step; only the columns' part, Σ is common to all.
    mean, cov = [np.zeros((M, D))], [np.asarray(lgssm.initial_cov)]
    for t in range(T):
        mean.append(mean[-1] @ a[t] + b[t])
        cov.append(a[t].T @ cov[-1] @ a[t] + q[t])
    means = np.stack([mean[t + 1] @ h[t] for t in range(T)])
    between = np.zeros((T, T))
    x = np.concatenate([u, np.ones((T, 1))], axis=1) @ np.asarray(law.basis).T
    for s in range(T):
        carried = cov[s + 1]
        for t in range(s, T):
            carried = carried @ a[t] if t > s else carried
            drifted = float(law.variance) + (s + 1) * float(law.noise)
            between[s, t] = between[t, s] = h[s] @ carried @ h[t] + drifted * x[s] @ x[t]
    between += np.diag(r)
    joint = stats.multivariate_normal(means.ravel(), np.kron(between, rows))
    expected = joint.logpdf(np.asarray(y).ravel())
    found = run_filter(model, params, y, u).marginal_loglik
    np.testing.assert_allclose(found, expected, rtol=1e-9)


@pytest.mark.parametrize("name", cases(MECHANISMS, *KINDS))
def test_columns_are_appended_in_blocks(name):
    model, params, _, _, u = make(name)
    lgssm = to_lgssm(model, params, u)
    k = P + 1
    a, b, q = (np.asarray(x) for x in jax.jit(type(lgssm).to_dense)(lgssm).values())
    np.testing.assert_array_equal(a[:, D:, D:], np.broadcast_to(np.eye(k), (T, k, k)))
    assert not a[:, :D, D:].any() and not a[:, D:, :D].any() and not b[:, :, D:].any()
    np.testing.assert_allclose(q[:, D:, D:], np.broadcast_to(0.03 * np.eye(k), (T, k, k)))
    assert not q[:, :D, D:].any()
    mean, cov, _ = model.initial_law(params)
    np.testing.assert_array_equal(mean, lgssm.initial_mean)
    np.testing.assert_array_equal(cov, lgssm.initial_cov)
    assert mean.shape == (M, D + k)


def test_filter_smoother_and_dynamax_agree():
    model, params, _, y, u = make()
    lgssm = to_lgssm(model, params, u)
    dense, dynamax = jax.jit(lambda lgssm: (lgssm.to_dense(), lgssm.to_dynamax()))(lgssm)
    args = (*(dense[x] for x in "ABQ"), lgssm.readout, lgssm.emission_noise)
    law = (lgssm.initial_mean, lgssm.initial_cov, lgssm.row_cov, y)
    expected = kalman(*map(np.asarray, args + law))
    posterior = model.filter(params, y, u)
    np.testing.assert_allclose(posterior.filtered_means, expected["fm"], atol=1e-9)
    np.testing.assert_allclose(posterior.filtered_covariances, expected["fc"], atol=1e-9)
    np.testing.assert_allclose(posterior.marginal_loglik, expected["log"].sum(), atol=1e-9)
    np.testing.assert_allclose(
        model.marginal_log_prob(params, y, u), expected["log"].sum(), atol=1e-9
    )
    smoothed = model.smoother(params, y, u)
    np.testing.assert_allclose(smoothed.smoothed_means, expected["sm"], atol=1e-9)
    np.testing.assert_allclose(smoothed.smoothed_covariances, expected["sc"], atol=1e-9)
    found = lgssm_filter(dynamax, y).marginal_loglik
    np.testing.assert_allclose(posterior.marginal_loglik, found, atol=1e-6)


def test_the_start_whitens_and_tells_a_drift_from_none():
    rng = np.random.default_rng(0)
    steps = 400
    u = rng.normal(size=(steps, 2)) @ np.array([[1.0, 0.8], [0.0, 0.4]]) + 0.5
    walk = np.cumsum(rng.normal(size=(steps, 2)), axis=0) * 0.15
    noise = 0.5 * rng.normal(size=steps)
    model = ssmlin.LinearAttentionSSM(
        "mamba2", 1, 2, 3, regression="integrated", row_cov="integrated_diagonal"
    )
    found = []
    for coefficients in (np.ones((steps, 2)), 1 + walk):
        y = ((u * coefficients).sum(axis=1) + noise)[:, None]
        params, props = model.initialize(emissions=jnp.asarray(y), inputs=jnp.asarray(u))
        law = params.regression
        x = np.concatenate([u, np.ones((steps, 1))], axis=1)
        white = x @ law.basis.T
        np.testing.assert_allclose(white.T @ white / steps, np.eye(3), atol=1e-10)
        found.append(float(law.noise))
        # τ²: the mean square of the whitened coefficients relative to the residuals' variance.
        beta, *_ = np.linalg.lstsq(white, y[:, 0], rcond=None)
        variance = np.sum((y[:, 0] - white @ beta) ** 2) / (steps - 3)
        expected = max(np.mean(beta**2) / variance - 1 / steps, 1 / steps)
        np.testing.assert_allclose(law.variance, expected, rtol=1e-3)
        # Padding with what is missing changes nothing, nor does cutting into a batch of one.
        y_padded = jnp.asarray(np.concatenate([y, np.full((20, 1), np.nan)]))[None]
        u_padded = jnp.asarray(np.concatenate([u, np.zeros((20, 2))]))[None]
        again, _ = model.initialize(emissions=y_padded, inputs=u_padded)
        for one, two in zip(law, again.regression, strict=True):
            np.testing.assert_allclose(one, two, rtol=1e-6)
    assert found[0] == pytest.approx(1e-7) and found[1] > 1e-4
    flags = props.regression
    assert not flags.basis.trainable and not flags.variance.trainable and flags.noise.trainable
    assert "regression.noise" in model.prior_distributions(params)


def test_coefficients_that_change_are_followed():
    rng = np.random.default_rng(1)
    steps = 300
    u = rng.normal(size=(steps, 1))
    slope = np.where(np.arange(steps) < 150, 1.0, -1.0)
    y = jnp.asarray(slope[:, None] * u + 0.1 * rng.normal(size=(steps, 1)))
    model = ssmlin.LinearAttentionSSM("vanilla", 1, 1, 2, regression="integrated")
    params, _ = model.initialize(emissions=y, inputs=jnp.asarray(u))
    silent = params.process_noise._replace(scale=jnp.asarray(0.0))
    initial = params.initial._replace(variances=jnp.zeros(2))
    params = params._replace(process_noise=silent, initial=initial)
    states = np.asarray(run_filter(model, params, y, u).filtered_means)[:, :, 2:]
    weights = states @ params.regression.basis
    np.testing.assert_allclose(weights[[140, 290], 0, 0], [1.0, -1.0], atol=0.15)


def test_paths_and_forecasts_have_the_moments_of_the_filter():
    model, params, _, y, u = make(num_lags=0)
    states, emissions = model.sample(params, jax.random.key(0), T, u)
    assert states.shape == (T, M, D + P + 1) and emissions.shape == (T, M)
    future = u[:3] + 0.1
    exact = model.forecast(params, y, u, 3, future_inputs=future)
    sampled = model.forecast(
        params, y, u, 3, future_inputs=future, key=jax.random.key(0), num_samples=20_000
    )
    np.testing.assert_allclose(exact.means, sampled.means)
    paths = np.asarray(sampled.samples)
    scale = np.sqrt(np.diagonal(np.asarray(exact.covariances), axis1=1, axis2=2))
    assert (np.abs(paths.mean(axis=0) - exact.means) < 5 * scale / np.sqrt(20_000)).all()
    np.testing.assert_allclose(paths.std(axis=0), scale, rtol=0.05)
    # The law of one step is what the filter says of the next observation.
    longer = run_filter(model, params, np.concatenate([y, y[:1]]), np.concatenate([u, future[:1]]))
    np.testing.assert_allclose(exact.means[0], longer.emission_means[-1], atol=1e-9)
    fed_back, *_ = make()
    forecast = fed_back.forecast(params, y, u, 2, key=jax.random.key(0), num_samples=50)
    assert np.isfinite(forecast.means).all()


def test_gradients_files_and_refusals(tmp_path):
    model, params, props, y, u = make()
    grad = jax.grad(lambda p: marginal_log_prob(model, p, y, u))(params)
    law = params.regression

    def moved(eps):
        new = law._replace(noise=law.noise + eps)
        return params._replace(regression=new)

    eps = 1e-5
    slope = (
        marginal_log_prob(model, moved(eps), y, u) - marginal_log_prob(model, moved(-eps), y, u)
    ) / (2 * eps)
    np.testing.assert_allclose(grad.regression.noise, slope, rtol=1e-6)
    model.save(tmp_path / "model.safetensors", params, props)
    loaded, again, _ = ssmlin.load(tmp_path / "model.safetensors")
    assert loaded.settings == model.settings
    assert loaded.regression == IntegratedRegression().with_prior(model.prior)
    for one, two in zip(jax.tree.leaves(params), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(one, two)
    with pytest.raises(ValueError, match="regression: expected one that is not integrated out"):
        model.fit_em(params, props, y, u, 1, progress=False)
    with pytest.raises(ValueError, match="regression: expected weights or a bias"):
        IntegratedRegression(weights=False, bias=False)
    with pytest.raises(ValueError, match="regression: expected .* model without inputs"):
        ssmlin.LinearAttentionSSM("vanilla", 1, regression=IntegratedRegression(bias=False))


def test_where_no_step_is_complete():
    model = ssmlin.LinearAttentionSSM("mamba2", M, P, D, regression="integrated")
    holes = jnp.where(jnp.arange(T)[:, None] % 2 == jnp.arange(M), jnp.nan, series())
    u = ssmlin.lagged_inputs(series(), 1)
    params, _ = model.initialize(emissions=holes, inputs=u)
    law = params.regression
    x = np.concatenate([u, np.ones((T, 1))], axis=1) @ law.basis.T
    np.testing.assert_allclose(x.T @ x / T, np.eye(P + 1), atol=1e-6)
    assert law.noise == pytest.approx(1e-7)
    gradient = jax.jit(jax.grad(lambda p: model.marginal_log_prob(p, holes, u, missing="entries")))
    grad = gradient(params)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(grad))


def test_without_data_or_inputs():
    model = ssmlin.LinearAttentionSSM("deltanet", M, 0, D, regression="integrated")
    params, _ = model.initialize()
    assert params.regression._fields == ("basis", "variance", "noise")
    y = series()
    params, _ = model.initialize(emissions=y)
    assert params.regression.basis.shape == (1, 1)
    assert np.isfinite(model.marginal_log_prob(params, y))
