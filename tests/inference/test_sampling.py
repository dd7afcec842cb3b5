"""Posterior and prior samples against exact moments, within Monte Carlo error."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import MECHANISMS
from problems import make_problem
from test_missing import diagonal_problem
from tiers import KINDS, cases

import ssmlin

N = 20_000


def assert_moments(draws, means, covariances):
    """Means within 5 standard errors; covariances within 5 of theirs (Gaussian: √2 var/√N)."""
    flat = draws.reshape(len(draws), -1)
    deviations = np.sqrt(np.maximum(np.diag(covariances), 0)) + 1e-6
    error = np.abs(flat.mean(0) - means.ravel()) / deviations * np.sqrt(len(draws))
    assert error.max() < 5
    scale = np.outer(deviations, deviations) * np.sqrt(2 / len(draws))
    assert (np.abs(np.cov(flat.T) - covariances) / scale).max() < 5


@pytest.mark.parametrize("name", cases(MECHANISMS, *KINDS[2:]))
def test_posterior_paths_have_the_smoothed_moments(name):
    noise = "per_column" if name == "bayesian_memory" else "write"  # both singular
    problem = make_problem(name, noise, steps=4)
    y = problem.emissions.copy()
    y[1] = np.nan
    posterior = ssmlin.matrix_lgssm_smoother(problem.lgssm, y)
    draws = np.asarray(ssmlin.matrix_lgssm_posterior_sample(jax.random.key(1), problem.lgssm, y, N))
    assert draws.shape == (N, 4, 2, 3)
    for t in range(4):
        full = np.kron(problem.dense[-1], posterior.smoothed_covariances[t])
        assert_moments(draws[:, t], np.asarray(posterior.smoothed_means[t]), full)


def test_paths_are_right_jointly_over_time():
    # The last two states, against the dense posterior of the whole path.
    problem = make_problem("gated_deltanet", steps=2, m=1)
    a, b, q, h, r, m0, p0, sigma = problem.dense
    draws = np.asarray(
        ssmlin.matrix_lgssm_posterior_sample(jax.random.key(0), problem.lgssm, problem.emissions, N)
    ).reshape(N, -1)
    p1 = a[0].T @ p0 @ a[0] + q[0]
    joint = np.block([[p1, p1 @ a[1]], [a[1].T @ p1, a[1].T @ p1 @ a[1] + q[1]]])
    m1 = m0 @ a[0] + b[0]
    mean = np.concatenate([m1, m1 @ a[1] + b[1]], axis=1).ravel()
    h_all = np.zeros((2, 6))
    h_all[0, :3], h_all[1, 3:] = h[0], h[1]
    gain = joint @ h_all.T @ np.linalg.inv(h_all @ joint @ h_all.T + np.diag(r))
    y = problem.emissions.ravel()
    assert_moments(draws, mean + gain @ (y - h_all @ mean), sigma * (joint - gain @ h_all @ joint))


def test_partly_missing_rows():
    lgssm, _, y = diagonal_problem()
    posterior = ssmlin.matrix_lgssm_smoother(lgssm, y)
    draws = np.asarray(ssmlin.matrix_lgssm_posterior_sample(jax.random.key(2), lgssm, y, N))
    for t in (1, 3, 4):
        for i in range(2):
            cov = lgssm.row_cov[i, i] * posterior.smoothed_covariances[t, i]
            assert_moments(draws[:, t, i], np.asarray(posterior.smoothed_means[t, i]), cov)


def test_deterministic_model_has_one_path():
    problem = make_problem("rwkv7", deterministic=True)
    draws = ssmlin.matrix_lgssm_posterior_sample(
        jax.random.key(0), problem.lgssm, problem.emissions, 3
    )
    posterior = ssmlin.matrix_lgssm_filter(problem.lgssm, problem.emissions)
    np.testing.assert_allclose(
        draws, jnp.broadcast_to(posterior.filtered_means, draws.shape), atol=1e-12
    )


def test_prior_samples_have_the_predictive_moments():
    problem = make_problem("deltanet", "low_rank", steps=3)
    nothing = np.full((3, 2), np.nan)
    moments = ssmlin.matrix_lgssm_filter(problem.lgssm, nothing)
    states, emissions = ssmlin.matrix_lgssm_sample(jax.random.key(4), problem.lgssm, N)
    for t in range(3):
        full = np.kron(problem.dense[-1], moments.filtered_covariances[t])
        assert_moments(np.asarray(states[:, t]), np.asarray(moments.filtered_means[t]), full)
        cov = moments.emission_scales[t] * problem.dense[-1]
        assert_moments(np.asarray(emissions[:, t]), np.asarray(moments.emission_means[t]), cov)
