"""Filter and smoother against dynamax's dense ones and against plain NumPy loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dynamax.linear_gaussian_ssm import lgssm_filter, lgssm_smoother
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import MECHANISMS, SIGNED, dynamax_without_jitter, kalman, random_tokens
from problems import NOISES, make_problem
from scipy.stats import multivariate_normal
from tiers import KINDS, cases, pairs

import ssmlin

# Compiled once: all problems of a mechanism expand to arrays of the same shapes.
stock_smoother = jax.jit(lambda *args: lgssm_smoother(*args))
exact_smoother = jax.jit(lambda *args: lgssm_smoother(*args))
exact_filter = jax.jit(lambda *args: lgssm_filter(*args))


def assert_equals_dynamax(posterior, dense, row_cov, tolerance, smoothed_tolerance):
    steps = len(posterior.log_predictive)

    def close(x, y, what):
        atol = smoothed_tolerance if "smoothed" in what else tolerance
        np.testing.assert_allclose(x, y, atol=atol, rtol=atol, err_msg=what)

    close(posterior.marginal_loglik, dense.marginal_loglik, "marginal_loglik")
    for name in ("filtered", "smoothed"):
        means, covs = getattr(posterior, f"{name}_means"), getattr(posterior, f"{name}_covariances")
        close(means.reshape(steps, -1), getattr(dense, f"{name}_means"), f"{name}_means")
        full = np.stack([np.kron(row_cov, c) for c in covs])
        close(full, getattr(dense, f"{name}_covariances"), f"{name}_covariances")


# Every mechanism with one kind of noise, every kind of noise with two mechanisms; the rest is slow.
@pytest.mark.parametrize(
    ("name", "noise"),
    pairs(MECHANISMS, NOISES, lambda name, noise: NOISES[MECHANISMS.index(name) % 6] == noise),
)
def test_equals_dynamax_and_numpy(name, noise):
    if name == "bayesian_memory" and noise == "write":
        noise = "isotropic"
    problem = make_problem(name, noise, seed=NOISES.index(noise), signed=name in SIGNED)
    lgssm, y = problem.lgssm, problem.emissions
    posterior = ssmlin.matrix_lgssm_smoother(lgssm, y)

    oracle = kalman(*problem.dense, y)
    tight = dict(atol=1e-10, rtol=1e-10)
    np.testing.assert_allclose(posterior.marginal_loglik, oracle["log"].sum(), **tight)
    np.testing.assert_allclose(posterior.log_predictive, oracle["log"], **tight)
    np.testing.assert_allclose(posterior.filtered_means, oracle["fm"], **tight)
    np.testing.assert_allclose(posterior.filtered_covariances, oracle["fc"], **tight)
    np.testing.assert_allclose(posterior.emission_means, oracle["ym"], **tight)
    np.testing.assert_allclose(posterior.emission_scales, oracle["ys"], **tight)
    np.testing.assert_allclose(posterior.smoothed_means, oracle["sm"], atol=1e-9, rtol=1e-9)
    np.testing.assert_allclose(posterior.smoothed_covariances, oracle["sc"], atol=1e-9, rtol=1e-9)
    moments = ssmlin.matrix_lgssm_filter(lgssm, y, store="all")
    np.testing.assert_allclose(moments.predicted_means, oracle["pm"], **tight)
    np.testing.assert_allclose(moments.predicted_covariances, oracle["pc"], **tight)

    params = lgssm.to_dynamax()
    # dynamax's smoother inverts P⁻, and stock dynamax adds 1e-9 to it: where P⁻ is nearly singular
    # (Q singular) the error is dynamax's, of relative size 1/λ². The joint law above has no such.
    smallest = np.linalg.eigvalsh(oracle["pc"][1:]).min()
    worse = max(1.0, (0.03 / smallest) ** 2)
    stock = stock_smoother(params, y)
    assert_equals_dynamax(posterior, stock, problem.dense[-1], 1e-7, 1e-7 * worse)
    with dynamax_without_jitter():
        exact = exact_smoother(params, y)
    assert_equals_dynamax(posterior, exact, problem.dense[-1], 1e-10, 1e-10 * worse)
    if noise in ("isotropic", "per_step", "low_rank"):
        assert worse < 10  # so that the comparison with dynamax means something


@pytest.mark.slow
@given(
    st.sampled_from(MECHANISMS),
    st.integers(1, 5),
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(1, 3),
    st.lists(st.integers(0, 4), max_size=3),
    st.integers(0, 999),
)
@settings(max_examples=12, deadline=None)
def test_any_shape_rank_and_missing_rows(name, steps, d, m, n_h, missing, seed):
    problem = make_problem(name, "per_step", steps, d, m, n_h, seed)
    y = problem.emissions.copy()
    y[[t for t in missing if t < steps]] = np.nan
    posterior = ssmlin.matrix_lgssm_smoother(problem.lgssm, y)
    oracle = kalman(*problem.dense, y)
    for ours, theirs in (
        ("log_predictive", "log"),
        ("filtered_means", "fm"),
        ("smoothed_means", "sm"),
        ("smoothed_covariances", "sc"),
    ):
        np.testing.assert_allclose(
            getattr(posterior, ours), oracle[theirs], atol=1e-9, rtol=1e-9, err_msg=ours
        )


@pytest.mark.parametrize("name", cases(MECHANISMS, *KINDS))
def test_deterministic_limit_is_the_linear_attention(name):
    problem = make_problem(name, deterministic=True)
    lgssm, y = problem.lgssm, jnp.asarray(problem.emissions)
    tokens = random_tokens(name)
    states = ssmlin.linear_attention(
        name, **tokens, initial_state=problem.dense[5], return_states=True
    )[1]
    posterior = ssmlin.matrix_lgssm_smoother(lgssm, y)
    np.testing.assert_allclose(posterior.filtered_means, states, atol=1e-12)
    np.testing.assert_allclose(posterior.smoothed_means, states, atol=1e-12)
    np.testing.assert_array_equal(posterior.filtered_covariances, 0.0)
    sigma, r = problem.dense[7], problem.dense[4]
    residual = np.asarray(y) - np.einsum("tmd,td->tm", states, problem.dense[3])
    direct = sum(
        multivariate_normal.logpdf(residual[t], np.zeros(2), r[t] * sigma) for t in range(6)
    )
    np.testing.assert_allclose(posterior.marginal_loglik, direct, atol=1e-10)


@pytest.mark.parametrize("name", cases(MECHANISMS, *KINDS))
def test_gradients_are_finite_differences_also_at_zero_noise(name):
    tokens = random_tokens(name, steps=4)
    y = np.random.default_rng(3).normal(size=(4, 2))
    y[1] = np.nan

    def loss(arguments):
        tokens, q, p0, y = arguments
        lgssm = ssmlin.matrix_lgssm(
            name, **tokens, process_noise=q, initial_cov=p0, emission_noise=0.3
        )
        return ssmlin.matrix_lgssm_filter(lgssm, y, store="loglik").marginal_loglik

    tokens = {k: jnp.asarray(v) for k, v in tokens.items()}
    at = (tokens, jnp.zeros(()), jnp.zeros((3, 3)), jnp.asarray(y))
    gradient = jax.jit(jax.grad(loss))(at)
    assert all(np.isfinite(np.asarray(x)).all() for x in jax.tree.leaves(gradient))
    value = jax.jit(loss)
    rng = np.random.default_rng(1)
    for _ in range(3):
        # Variances may only grow from zero, so their part of the direction is one-sided.
        direction = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape)), at)
        direction = (direction[0], jnp.zeros(()), jnp.zeros((3, 3)), direction[3])
        eps = 1e-6
        moved = [
            value(jax.tree.map(lambda x, v: x + sign * eps * v, at, direction))  # noqa: B023
            for sign in (1, -1)
        ]
        slope = sum(
            jnp.sum(g * v)
            for g, v in zip(jax.tree.leaves(gradient), jax.tree.leaves(direction), strict=True)
        )
        np.testing.assert_allclose(slope, (moved[0] - moved[1]) / (2 * eps), rtol=2e-5, atol=1e-6)
    eps = 1e-5  # second-order one-sided difference in q at q = 0
    f0, f1, f2 = (value((at[0], jnp.asarray(k * eps), at[2], at[3])) for k in (0.0, 1.0, 2.0))
    np.testing.assert_allclose(gradient[1], (4 * f1 - 3 * f0 - f2) / (2 * eps), rtol=1e-4)


def test_smoother_gradient_is_its_finite_difference():
    problem = make_problem("gated_deltanet")

    @jax.jit
    def loss(y):
        posterior = ssmlin.matrix_lgssm_smoother(problem.lgssm, y)
        return jnp.sum(jnp.sin(posterior.smoothed_means))

    y = jnp.asarray(problem.emissions)
    direction = jnp.asarray(np.random.default_rng(0).normal(size=y.shape))
    slope = jnp.sum(jax.grad(loss)(y) * direction)
    numeric = (loss(y + 1e-6 * direction) - loss(y - 1e-6 * direction)) / 2e-6
    np.testing.assert_allclose(slope, numeric, rtol=1e-6)


def test_one_row_is_an_ordinary_lgssm():
    problem = make_problem("kda", m=1)
    posterior = ssmlin.matrix_lgssm_filter(problem.lgssm, problem.emissions)
    with dynamax_without_jitter():
        dense = exact_filter(problem.lgssm.to_dynamax(), problem.emissions)
    np.testing.assert_allclose(posterior.marginal_loglik, dense.marginal_loglik, atol=1e-10)
    np.testing.assert_allclose(posterior.filtered_means[:, 0], dense.filtered_means, atol=1e-10)


def test_emission_bias_shifts_the_emissions():
    problem = make_problem("deltanet")
    bias = np.random.default_rng(0).normal(size=(6, 2))
    tokens = random_tokens("deltanet")
    options = dict(**tokens, process_noise=0.1, emission_noise=0.3)
    plain = ssmlin.matrix_lgssm("deltanet", **options)
    shifted = ssmlin.matrix_lgssm("deltanet", **options, emission_bias=bias)
    y = problem.emissions
    one = ssmlin.matrix_lgssm_smoother(plain, y)
    two = ssmlin.matrix_lgssm_smoother(shifted, y + bias)
    np.testing.assert_allclose(one.marginal_loglik, two.marginal_loglik, atol=1e-11)
    np.testing.assert_allclose(one.smoothed_means, two.smoothed_means, atol=1e-11)
    np.testing.assert_allclose(one.emission_means + bias, two.emission_means, atol=1e-11)
    dense = stock_smoother(shifted.to_dynamax(), y + bias)
    np.testing.assert_allclose(two.marginal_loglik, dense.marginal_loglik, atol=1e-7)


def test_storing_less_changes_nothing_else():
    problem = make_problem("gated_deltaproduct")
    lgssm, y = problem.lgssm, problem.emissions
    full = ssmlin.matrix_lgssm_filter(lgssm, y, store="all")
    for store in ("filtered", "means", "last", "loglik"):
        less = ssmlin.matrix_lgssm_filter(lgssm, y, store=store)
        np.testing.assert_allclose(less.log_predictive, full.log_predictive, atol=1e-13)
        assert (less.filtered_means is None) == (store == "loglik")
        assert (less.filtered_covariances is None) == (store in ("means", "loglik"))
        assert less.predicted_means is None
    last = ssmlin.matrix_lgssm_filter(lgssm, y, store="last")
    np.testing.assert_allclose(last.filtered_means, full.filtered_means[-1:], atol=1e-13)
    np.testing.assert_allclose(
        last.filtered_covariances, full.filtered_covariances[-1:], atol=1e-13
    )
    smoothed = ssmlin.matrix_lgssm_smoother(lgssm, y)
    means = ssmlin.matrix_lgssm_smoother(lgssm, y, store="means")
    np.testing.assert_allclose(means.smoothed_means, smoothed.smoothed_means, atol=1e-11)
    assert means.smoothed_covariances is None and means.filtered_means is None


def test_batches_by_vmap_and_no_second_compilation():
    problems = [make_problem("gated_deltanet", seed=s) for s in range(3)]
    lgssms = jax.tree.map(lambda *x: jnp.stack(x), *(p.lgssm for p in problems))
    ys = jnp.stack([p.emissions for p in problems])
    batch = jax.vmap(ssmlin.matrix_lgssm_smoother)(lgssms, ys)
    for i, problem in enumerate(problems):
        one = ssmlin.matrix_lgssm_smoother(problem.lgssm, problem.emissions)
        np.testing.assert_allclose(batch.smoothed_means[i], one.smoothed_means, atol=1e-12)
        np.testing.assert_allclose(batch.marginal_loglik[i], one.marginal_loglik, atol=1e-12)

    from ssmlin.inference.matrix import _filter as module

    before = module._filter._cache_size()
    ssmlin.matrix_lgssm_filter(problems[0].lgssm, problems[0].emissions)
    after_first = module._filter._cache_size()
    ssmlin.matrix_lgssm_filter(problems[1].lgssm, problems[1].emissions)
    assert module._filter._cache_size() == after_first <= before + 1


@pytest.mark.float32
def test_float32_is_close_to_float64():
    # Unit keys, P_0 = I, r = 0.1: 200 updates of relative rounding 6e-8 each, amplified by at
    # most 1/r; measured 2e-6 for means and 1e-6 for covariances.
    tokens = random_tokens("gated_deltanet", steps=200, d=4, dtype=np.float32)
    y = np.random.default_rng(0).normal(size=(200, 2)).astype(np.float32)
    single = ssmlin.matrix_lgssm_smoother(
        ssmlin.matrix_lgssm("gated_deltanet", **tokens, process_noise=0.01, emission_noise=0.1), y
    )
    assert single.smoothed_means.dtype == jnp.float32
    with jax.enable_x64(True):
        tokens = {k: v.astype(np.float64) for k, v in tokens.items()}
        double = ssmlin.matrix_lgssm_smoother(
            ssmlin.matrix_lgssm("gated_deltanet", **tokens, process_noise=0.01, emission_noise=0.1),
            y.astype(np.float64),
        )
        reference = jax.tree.map(np.asarray, double)
    np.testing.assert_allclose(single.smoothed_means, reference.smoothed_means, atol=5e-5)
    np.testing.assert_allclose(
        single.filtered_covariances, reference.filtered_covariances, atol=1e-5
    )
    np.testing.assert_allclose(single.marginal_loglik, reference.marginal_loglik, rtol=1e-5)
