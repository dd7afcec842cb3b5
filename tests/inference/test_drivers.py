"""Every driver and every covariance form against the plain NumPy loop, and against each other."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import MECHANISMS, kalman
from problems import make_problem, uniform
from tiers import cases, pairs, slow

import ssmlin
from ssmlin.lgssm import DiagPlusLowRank

METHODS = ("sequential", "associative", "chunked")
FORMS = ("plain", "square_root")
STEPS = 7  # chunks of 3 steps, the last one padded
# The form in which the noise is given decides what a square root is updated by.
STRUCTURES = {
    "diagonal": dict(noise_diag=True, noise_rank=2),
    "low_rank": dict(noise_diag=False, noise_rank=2),
    "none": dict(noise_diag=False, noise_rank=0),
}
# A program of its own each.
WAYS = [(method, form) for method in METHODS for form in FORMS]
CORE = [("sequential", "plain"), ("sequential", "square_root"), ("associative", "square_root"),
        ("chunked", "plain")]  # fmt: skip
SOME = [CORE[1], slow(*CORE[2]), slow(*CORE[3])]


@partial(jax.jit, static_argnums=(2, 3))
def everything(lgssm, y, method, form):
    options = dict(method=method, covariance_form=form, missing="rows")
    key = jax.random.key(0)
    return {
        "filter": ssmlin.matrix_lgssm_filter(lgssm, y, store="all", **options),
        "smoother": ssmlin.matrix_lgssm_smoother(lgssm, y, **options),
        "means": ssmlin.matrix_lgssm_smoother(lgssm, y, store="means", **options),
        "draws": ssmlin.matrix_lgssm_posterior_sample(key, lgssm, y, 2, **options),
    }


def assert_equals_oracle(results, oracle, tolerance=1e-9):
    filtered, smoothed = results["filter"], results["smoother"]
    for ours, theirs in (
        (filtered.log_predictive, "log"),
        (filtered.marginal_loglik, "log"),
        (filtered.emission_means, "ym"),
        (filtered.emission_scales, "ys"),
        (filtered.predicted_means, "pm"),
        (filtered.predicted_covariances, "pc"),
        (filtered.filtered_means, "fm"),
        (filtered.filtered_covariances, "fc"),
        (smoothed.filtered_means, "fm"),
        (smoothed.filtered_covariances, "fc"),
        (smoothed.smoothed_means, "sm"),
        (smoothed.smoothed_covariances, "sc"),
        (results["means"].smoothed_means, "sm"),
    ):
        expected = oracle[theirs]
        if ours.ndim == 0:
            expected = expected.sum()
        np.testing.assert_allclose(ours, expected, atol=tolerance, rtol=tolerance, err_msg=theirs)


def problem_and_data(name, noise, structure, seed=0, **options):
    problem = make_problem(name, noise, steps=STEPS, seed=seed, **options)
    y = problem.emissions.copy()
    y[3] = np.nan
    return problem, uniform(problem.lgssm, **STRUCTURES[structure]), y


@pytest.mark.quick
@pytest.mark.parametrize(("method", "form"), pairs(METHODS, FORMS, lambda *way: way in CORE))
@pytest.mark.parametrize("name", MECHANISMS)
def test_equals_the_oracle(name, method, form):
    seed = MECHANISMS.index(name)
    noise = ("isotropic", "per_step", "low_rank", "write")[seed % 4]
    noise = "per_column" if (name, noise) == ("bayesian_memory", "write") else noise
    problem, lgssm, y = problem_and_data(name, noise, "diagonal", seed)
    results = everything(lgssm, y, method, form)
    assert_equals_oracle(results, kalman(*problem.dense, y))
    # The draws are made of the same normal numbers whatever the driver.
    draws = everything(lgssm, y, "sequential", "plain")["draws"]
    np.testing.assert_allclose(results["draws"], draws, atol=1e-8, rtol=1e-8)


@pytest.mark.parametrize(("method", "form"), SOME)
@pytest.mark.parametrize("name", [n for n in MECHANISMS if n != "bayesian_memory"])
def test_noise_of_low_rank(name, method, form):
    problem, lgssm, y = problem_and_data(name, "write", "low_rank")
    assert_equals_oracle(everything(lgssm, y, method, form), kalman(*problem.dense, y))


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize(("method", "form"), SOME)
@pytest.mark.parametrize("name", MECHANISMS)
def test_no_noise(name, method, form, deterministic):
    problem, lgssm, y = problem_and_data(name, "none", "none", deterministic=deterministic)
    results = everything(lgssm, y, method, form)
    assert_equals_oracle(results, kalman(*problem.dense, y))
    if deterministic:
        np.testing.assert_array_equal(results["filter"].filtered_covariances, 0.0)
        for draw in results["draws"]:
            np.testing.assert_allclose(draw, results["filter"].filtered_means, atol=1e-12)


EDGES = st.sampled_from((0.0, 1.0, 0.5))


@given(
    st.lists(EDGES, min_size=STEPS, max_size=STEPS),
    st.lists(EDGES, min_size=STEPS, max_size=STEPS),
    st.sampled_from((0.0, 1e-8, 0.1)),
    st.sampled_from((1e-6, 1.0)),
    st.integers(0, 3),
    st.lists(st.integers(0, STEPS - 1), max_size=STEPS),
    st.data(),
)
@settings(max_examples=40, deadline=None)
@pytest.mark.parametrize("ways", [CORE, slow(WAYS)], ids=["core", "all"])
def test_gates_at_their_ends_singular_noise_and_tiny_r(
    ways, alpha, beta, q, r, rank, missing, data
):
    how = data.draw(st.sampled_from(ways))
    rng = np.random.default_rng(rank)
    tokens = {
        "keys": rng.normal(size=(STEPS, 3)),
        "values": rng.normal(size=(STEPS, 2)),
        "queries": rng.normal(size=(STEPS, 3)),
        "alpha": np.array(alpha),
        "beta": np.array(beta),
    }
    root = rng.normal(size=(3, rank))
    p0 = root @ root.T
    variances = np.array([0.0, q, q])  # singular
    lgssm = ssmlin.matrix_lgssm(
        "gated_deltanet",
        **tokens,
        process_noise=variances[None],
        initial_cov=p0,
        emission_noise=r,
        row_cov=np.array([[1.0, 0.3], [0.3, 0.5]]),
    )
    y = rng.normal(size=(STEPS, 2))
    y[missing] = np.nan
    results = everything(uniform(lgssm), y, *how)
    dense = lgssm.to_dense()
    oracle = kalman(
        *(np.asarray(dense[k]) for k in "ABQ"),
        tokens["queries"],
        np.full(STEPS, r),
        np.zeros((2, 3)),
        p0,
        np.asarray(lgssm.row_cov),
        y,
    )
    # The conditioning of the oracle's own inverses is 1/r.
    tolerance = 1e-9 if r == 1.0 else 1e-7
    np.testing.assert_allclose(
        results["filter"].log_predictive, oracle["log"], rtol=tolerance, atol=tolerance
    )
    for ours, theirs in (("filtered", "f"), ("smoothed", "s")):
        for moment, letter in (("means", "m"), ("covariances", "c")):
            np.testing.assert_allclose(
                getattr(results["smoother"], f"{ours}_{moment}"),
                oracle[theirs + letter],
                atol=tolerance,
                rtol=tolerance,
            )


@pytest.mark.parametrize(
    ("method", "form"), pairs(METHODS, FORMS, lambda *way: way in (CORE[0], CORE[3]))
)
def test_one_step(method, form):
    problem = make_problem("deltaproduct", steps=1)
    results = everything(problem.lgssm, problem.emissions, method, form)
    assert_equals_oracle(results, kalman(*problem.dense, problem.emissions))


@pytest.mark.parametrize("steps", cases([2, 4, 5, 10], 5))
def test_chunks_of_any_number(steps):
    problem = make_problem("kda", steps=steps, d=2, m=1)
    posterior = ssmlin.matrix_lgssm_smoother(problem.lgssm, problem.emissions, method="chunked")
    oracle = kalman(*problem.dense, problem.emissions)
    np.testing.assert_allclose(posterior.smoothed_means, oracle["sm"], atol=1e-9)
    np.testing.assert_allclose(posterior.smoothed_covariances, oracle["sc"], atol=1e-9)


@pytest.mark.slow
def test_a_long_sequence_by_every_driver():
    problem = make_problem("gated_deltanet", steps=1000, m=1)
    one, *others = (
        ssmlin.matrix_lgssm_filter(problem.lgssm, problem.emissions, method=method)
        for method in METHODS
    )
    for other in others:
        np.testing.assert_allclose(other.log_predictive, one.log_predictive, atol=1e-9)
        np.testing.assert_allclose(other.filtered_covariances, one.filtered_covariances, atol=1e-9)


@pytest.mark.parametrize("method", [slow("associative"), "chunked"])
def test_gradients_of_the_parallel_drivers(method):
    problem = make_problem("gated_deltanet", "none", steps=4, deterministic=True)
    y = problem.emissions.copy()
    y[1] = np.nan
    lgssm = replace(
        problem.lgssm, process_noise=DiagPlusLowRank(jnp.zeros((4, 3)), jnp.zeros((4, 3, 0)))
    )

    def loss(lgssm, method):
        return ssmlin.matrix_lgssm_filter(lgssm, y, store="loglik", method=method).marginal_loglik

    ours, reference = (jax.jit(jax.grad(partial(loss, method=m)))(lgssm) for m in (method, "auto"))
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(reference), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-9, rtol=1e-9)


def test_under_scan_and_checkpoint():
    problem = make_problem("gated_deltanet", "none", steps=4)
    lgssm, y = problem.lgssm, jnp.asarray(problem.emissions)

    def loglik(y):
        return ssmlin.matrix_lgssm_filter(lgssm, y, store="loglik").marginal_loglik

    def total(ys, wrap):
        return jax.lax.scan(lambda sum, y: (sum + wrap(loglik)(y), None), 0.0, ys)[0]

    ys = jnp.stack([y, 2 * y])
    plain = jax.jit(jax.grad(lambda ys: sum(loglik(y) for y in ys)))(ys)
    for wrap in (lambda f: f, jax.checkpoint):
        scanned = jax.jit(jax.grad(partial(total, wrap=wrap)))(ys)
        np.testing.assert_allclose(scanned, plain, atol=1e-11)


def test_a_second_call_of_the_same_shapes_compiles_nothing(caplog):
    problems = [make_problem("deltanet", seed=seed, steps=3) for seed in range(2)]

    def run(problem):
        lgssm, y = problem.lgssm, problem.emissions
        ssmlin.matrix_lgssm_filter(lgssm, y)
        ssmlin.matrix_lgssm_smoother(lgssm, y)
        ssmlin.matrix_lgssm_posterior_sample(jax.random.key(0), lgssm, y, 2)
        jax.block_until_ready(ssmlin.matrix_lgssm_filter(lgssm, y, store="loglik"))

    def compilations(problem):
        caplog.clear()
        with jax.log_compiles():
            run(problem)
        return [r for r in caplog.records if "Compiling" in r.getMessage()]

    assert compilations(problems[0])
    assert not compilations(problems[1])
