"""Hierarchical regressions against closed forms, dynamax, simulations and other devices."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dynamax.linear_gaussian_ssm.inference import lgssm_filter
from scipy import stats

import ssmlin
from ssmlin.learning import fit_batches
from ssmlin.models import HierarchicalRegression

D = 2
MODEL = HierarchicalRegression(D)
TRUE = MODEL.initialize(np.float64)[0]._replace(
    coefficients=jnp.array([0.5, -0.3]),
    spread=jnp.array([0.3, 0.2]),
    mixing=jnp.array([0.8]),
    noise=jnp.array([0.01, 0.002]),
    decay=jnp.array(0.95),
    df=jnp.array(8.0),
    scale=jnp.array(6.0),
    discount=jnp.array(1.0 - 1e-12),
)


def simulate(count, steps, seed=0):
    """Series drawn from the model with constant variances."""
    rng = np.random.default_rng(seed)
    h = rng.normal(size=(count, steps, D))
    deviation = np.sqrt(float(TRUE.scale) / rng.chisquare(float(TRUE.df), count))
    root = np.linalg.cholesky(np.asarray(MODEL.initial_cov(TRUE)))
    state = deviation[:, None] * rng.normal(size=(count, D)) @ root.T
    y = np.empty((count, steps))
    for t in range(steps):
        noise = np.sqrt(np.asarray(TRUE.noise)) * rng.normal(size=(count, D))
        state = float(TRUE.decay) * state + deviation[:, None] * noise
        mean = np.sum(h[:, t] * (state + np.asarray(TRUE.coefficients)), axis=1)
        y[:, t] = mean + deviation * rng.normal(size=count)
    return y, h


def test_the_likelihood_is_that_of_one_multivariate_student_t():
    y, h = simulate(2, 6)
    alpha, start = float(TRUE.decay), np.asarray(MODEL.initial_cov(TRUE))
    covs, cov = [], start
    for _ in range(6):
        cov = alpha**2 * cov + np.diag(TRUE.noise)
        covs.append(cov)
    found = MODEL.log_likelihoods(TRUE, y, h)
    for i in range(2):
        kernel = np.eye(6)
        for t in range(6):
            for s in range(6):
                shared = covs[min(s, t)] * alpha ** abs(s - t)
                kernel[t, s] += h[i, t] @ shared @ h[i, s]
        df, scale = float(TRUE.df), float(TRUE.scale)
        law = stats.multivariate_t(h[i] @ TRUE.coefficients, scale / df * kernel, df)
        np.testing.assert_allclose(found[i], law.logpdf(y[i]), rtol=1e-9)


def test_given_the_variance_it_is_a_model_of_dynamax():
    y, h = simulate(1, 12)
    lgssm = MODEL.to_lgssm(TRUE, h[0])
    exact = ssmlin.matrix_lgssm_filter(lgssm, y[0][:, None])
    dense = lgssm_filter(lgssm.to_dynamax(), jnp.asarray(y[0][:, None]))
    np.testing.assert_allclose(exact.marginal_loglik, dense.marginal_loglik, atol=1e-6)
    state = MODEL.condition(TRUE, y, h)
    last = exact.filtered_means[-1, 0] + TRUE.coefficients
    np.testing.assert_allclose(state.mean[0], last, atol=1e-9)
    np.testing.assert_allclose(state.cov[0], exact.filtered_covariances[-1], atol=1e-9)


def test_missing_steps_and_padding_tell_nothing():
    y, h = simulate(2, 8)
    y[0, 2] = np.nan
    longer = (
        np.pad(y, ((0, 0), (0, 3)), constant_values=np.nan),
        np.pad(h, ((0, 0), (0, 3), (0, 0))),
    )
    found = MODEL.condition(TRUE, *longer, np.array([8, 8]))
    for a, b in zip(
        jax.tree.leaves(found), jax.tree.leaves(MODEL.condition(TRUE, y, h)), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-10)
    gradient = jax.grad(lambda p: MODEL.log_likelihoods(p, *longer).sum())(TRUE)
    assert all(np.isfinite(x).all() for x in gradient)


def test_steps_one_by_one_are_those_of_all_at_once():
    y, h = simulate(2, 12)
    y[1, [8, 10]] = np.nan
    params = TRUE._replace(discount=jnp.array(0.9))
    condition = jax.jit(MODEL.condition)
    early = np.where(np.arange(12) < 5, y, np.nan)
    states = start = condition(params, early, h, np.full(2, 5))
    terms = np.zeros(2)
    step = jax.jit(MODEL.step)
    for t in range(5, 12):
        states, law = step(params, states, y[:, t], h[:, t])
        terms += np.nan_to_num(stats.t.logpdf(y[:, t], law.df, law.mean, np.sqrt(law.scale)))
    expected = condition(params, y, h, np.full(2, 12))
    for a, b in zip(jax.tree.leaves(states), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(terms, expected.log_likelihoods - start.log_likelihoods, rtol=1e-9)
    ahead, _ = step(params, expected, np.full(2, np.nan), h[:, 0])
    ahead, _ = step(params, ahead, np.full(2, np.nan), h[:, 1])
    drifted = jax.jit(MODEL.drift)(params, expected, 2)
    for a, b in zip(jax.tree.leaves(drifted), jax.tree.leaves(ahead), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


def fitted(num_steps, folder=None, count=24):
    y, h = simulate(count, 30)
    params, props = MODEL.initialize(np.float64)
    batches = [(y.reshape(2, -1, 30), h.reshape(2, -1, 30, D))]
    return fit_batches(
        MODEL, params, props, batches, y.size, num_steps=num_steps, checkpoint_dir=folder,
        progress=False,
    )  # fmt: skip


def test_a_fit_climbs_to_a_stationary_point_and_goes_on_where_it_was_stopped(tmp_path):
    whole, history = fitted(60)
    assert history.converged and history.losses[-1] < history.losses[0]
    fitted(5, tmp_path)
    params, resumed = fitted(60, tmp_path)
    assert len(resumed.losses) > 5 and resumed.converged
    np.testing.assert_allclose(resumed.losses[-1], history.losses[-1], atol=2e-3)
    np.testing.assert_allclose(params.coefficients, whole.coefficients, atol=0.02)


def test_a_loss_that_is_not_finite_is_told():
    params, props = MODEL.initialize(np.float64)
    y, h = simulate(4, 5)
    bad = params._replace(coefficients=jnp.array([np.inf, 0.0]))
    with pytest.raises(ValueError, match="params: expected a finite loss at the start"):
        fit_batches(MODEL, bad, props, [(y[None], h[None])], y.size, progress=False)


@pytest.mark.slow
def test_the_population_is_recovered():
    """From 600 series of 60 steps; bounds are some four standard errors."""
    y, h = simulate(600, 60, seed=1)
    params, props = MODEL.initialize(np.float64)
    batches = [(y.reshape(5, 120, 60), h.reshape(5, 120, 60, D))]
    found, _ = fit_batches(MODEL, params, props, batches, y.size, progress=False)
    np.testing.assert_allclose(found.coefficients, TRUE.coefficients, atol=0.06)
    np.testing.assert_allclose(found.decay, TRUE.decay, atol=0.02)
    np.testing.assert_allclose(found.noise[0], TRUE.noise[0], rtol=0.35)
    assert found.noise[1] < 0.005  # so little drift is not told from none
    np.testing.assert_allclose(
        MODEL.initial_cov(found), MODEL.initial_cov(TRUE), atol=0.02
    )  # fmt: skip
    np.testing.assert_allclose(found.scale / found.df, TRUE.scale / TRUE.df, rtol=0.15)


@pytest.mark.slow
def test_the_posterior_of_the_decay_is_drawn():
    y, h = simulate(8, 30)
    params, props = MODEL.initialize(np.float64)
    tree = ssmlin.sample_posterior(
        jax.random.key(0), MODEL, params, props, y[..., None], h, algorithm="nuts",
        variables=("decay", "coefficients"), num_chains=1, num_warmup=100, num_samples=100,
        initialization="params", trajectories=False,
        progress=False,
    )  # fmt: skip
    draws = tree.posterior["coefficients"].to_numpy()[0]
    assert draws.shape == (100, D) and (np.abs(draws.mean(axis=0) - [0.5, -0.3]) < 0.4).all()
    assert ((tree.posterior["decay"] > 0) & (tree.posterior["decay"] < 1)).all()


_ON_TWO_DEVICES = """
import jax; jax.config.update("jax_enable_x64", True)
import test_hierarchical_regression as test
assert len(jax.local_devices()) == 2
params, history = test.fitted(12, count=22)  # batches of an odd size
print(repr(history.losses[-1]), repr(float(params.decay)))
"""


@pytest.mark.slow
def test_two_devices_fit_the_same():
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=2"
    path = os.pathsep.join([os.path.dirname(__file__), *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, "-c", _ON_TWO_DEVICES], check=True, capture_output=True, text=True,
        env=os.environ | {"XLA_FLAGS": flags, "PYTHONPATH": path},
    )  # fmt: skip
    loss, decay = map(
        float, done.stdout.replace("np.float64", "").replace("(", "").replace(")", "").split()
    )
    params, history = fitted(12, count=22)
    np.testing.assert_allclose([loss, decay], [history.losses[-1], params.decay], rtol=1e-6)
