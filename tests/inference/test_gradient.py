"""The adjoint recursion against autodiff through the scan, for every input."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import MECHANISMS
from problems import make_problem, uniform
from tiers import slow

import ssmlin
from ssmlin.inference.matrix import _adjoint as adjoint

STEPS = 17  # a prime: stretches of 4 steps, the last one padded
FORMS = ("plain", "square_root")


@pytest.fixture(autouse=True, scope="module")
def _short_stretches():
    """Small problems would be one stretch, and nothing would be computed again."""
    jax.clear_caches()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(adjoint, "_CACHED_ELEMENTS", 0)
        yield
    jax.clear_caches()


@partial(jax.jit, static_argnums=(2, 3))
def gradients(lgssm, y, gradient, form):
    """Of a function of all that the filter leaves with `store="last"`."""
    observed = ~jnp.isnan(y)

    def loss(lgssm, filled):
        posterior = ssmlin.matrix_lgssm_filter(
            lgssm,
            jnp.where(observed, filled, jnp.nan),
            store="last",
            gradient=gradient,
            covariance_form=form,
            missing="rows",
        )
        return (
            posterior.marginal_loglik
            + jnp.sum(jnp.sin(posterior.emission_means))
            + jnp.sum(jnp.cos(posterior.emission_scales))
            + jnp.sum(jnp.sin(posterior.filtered_means))
            + jnp.sum(jnp.arange(9.0).reshape(3, 3) * jnp.cos(posterior.filtered_covariances[0]))
        )

    return jax.grad(loss, argnums=(0, 1))(lgssm, jnp.where(observed, y, 0.0))


def assert_same(ours, theirs, tolerance=1e-9):
    for (path, a), b in zip(
        jax.tree_util.tree_leaves_with_path(ours), jax.tree.leaves(theirs), strict=True
    ):
        assert np.isfinite(np.asarray(a)).all(), path
        if "initial_cov" in str(path):  # only the symmetric part means anything
            a, b = a + a.mT, b + b.mT
        np.testing.assert_allclose(a, b, atol=tolerance, rtol=tolerance, err_msg=str(path))


@pytest.mark.parametrize("form", FORMS)
def test_one_stretch_keeps_its_states(form, monkeypatch):
    """Where all steps are one stretch nothing is computed again, and the gradient is the same."""
    names = ("gated_deltanet", "deltaproduct")
    problems = [make_problem(name, "low_rank", steps=STEPS) for name in names]
    data = [(uniform(problem.lgssm), jnp.asarray(problem.emissions)) for problem in problems]

    @jax.grad
    def gradient(lgssm, y):
        options = {"store": "loglik", "covariance_form": form, "missing": "rows"}
        return ssmlin.matrix_lgssm_filter(lgssm, y, **options).marginal_loglik

    def found():
        """The gradients, and how many scans their program has."""
        jax.clear_caches()  # what is patched is no argument
        traced = jax.jit(gradient).trace(*data[0])
        program = traced.lower().compile()
        return [program(*one) for one in data], str(traced.jaxpr).count("reverse=")

    several, computed_again = found()
    monkeypatch.setattr(adjoint, "_CACHED_ELEMENTS", 2**15)
    one, scans = found()
    assert scans < computed_again
    assert_same(one, several)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", MECHANISMS)
def test_equals_autodiff(name, form):
    noise = ("isotropic", "low_rank", "per_step")[MECHANISMS.index(name) % 3]
    problem = make_problem(name, noise, steps=STEPS)
    y = problem.emissions.copy()
    y[[2, 16]] = np.nan
    lgssm = uniform(problem.lgssm)
    # Autodiff cannot pass through the triangularisation of a factor at its zero columns.
    assert_same(gradients(lgssm, y, "adjoint", form), gradients(lgssm, y, "autodiff", "plain"))


@pytest.mark.parametrize("noise", ["none", slow("write")])
def test_equals_autodiff_without_noise_and_with_noise_of_low_rank(noise):
    problem = make_problem("deltaproduct", noise, steps=STEPS)
    lgssm = uniform(problem.lgssm, noise_diag=False, noise_rank=0 if noise == "none" else 2)
    expected = gradients(lgssm, problem.emissions, "autodiff", "plain")
    for form in FORMS:
        assert_same(gradients(lgssm, problem.emissions, "adjoint", form), expected)


def test_second_derivatives():
    problem = make_problem("gated_deltanet", "none", steps=5, m=1)

    def loglik(theta, gradient):
        tokens = {
            "keys": jnp.asarray(problem.dense[3]),
            "values": jnp.asarray(problem.emissions),
            "queries": jnp.asarray(problem.dense[3]),
        }
        lgssm = ssmlin.matrix_lgssm(
            "gated_deltanet",
            **tokens,
            alpha=jnp.full(5, 0.5) * theta[0],
            beta=jnp.full(5, 0.5) * theta[1],
            process_noise=theta[2],
            emission_noise=theta[3],
        )
        y = jnp.asarray(problem.emissions)
        return ssmlin.matrix_lgssm_filter(
            lgssm, y, store="loglik", gradient=gradient
        ).marginal_loglik

    theta = jnp.array([1.2, 0.8, 0.1, 0.3])
    exact = jax.jit(jax.hessian(partial(loglik, gradient="autodiff")))(theta)
    ours = jax.jit(jax.jacfwd(jax.grad(partial(loglik, gradient="adjoint"))))(theta)
    np.testing.assert_allclose(ours, exact, rtol=1e-9, atol=1e-9)
    twice = jax.jit(jax.jacrev(jax.grad(partial(loglik, gradient="adjoint"))))(theta)
    np.testing.assert_allclose(twice, exact, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("axis", [slow(0), 1])
def test_under_vmap(axis):
    problems = [make_problem("vanilla", "none", seed=s, steps=5) for s in range(2)]
    lgssms = jax.tree.map(lambda *x: jnp.stack(x), *(p.lgssm for p in problems))
    ys = jnp.stack([p.emissions for p in problems])

    def loglik(lgssm, y):
        return ssmlin.matrix_lgssm_filter(lgssm, y, store="loglik").marginal_loglik

    def total(lgssms, ys):
        return jax.vmap(loglik, in_axes=(0, axis))(lgssms, jnp.moveaxis(ys, 0, axis)).sum()

    batch = jax.jit(jax.grad(total, argnums=(0, 1)))(lgssms, ys)
    for i, problem in enumerate(problems):
        one = jax.jit(jax.grad(loglik, argnums=(0, 1)))(problem.lgssm, ys[i])
        assert_same(jax.tree.map(lambda x: x[i], batch), one, 1e-11)  # noqa: B023


@pytest.mark.parametrize("gradient", ["adjoint", "autodiff"])
def test_memory_of_a_gradient(gradient):
    steps, d = 2500, 16
    problem = make_problem("gated_deltanet", "none", steps=steps, d=d, m=1)

    def loglik(lgssm):
        y = jnp.asarray(problem.emissions)
        return ssmlin.matrix_lgssm_filter(
            lgssm, y, store="loglik", gradient=gradient
        ).marginal_loglik

    compiled = jax.jit(jax.grad(loglik)).lower(problem.lgssm).compile()
    used = compiled.memory_analysis().temp_size_in_bytes / 8
    states = steps * d * d
    # Vectors for every step and matrices for every fiftieth, against matrices for every step.
    assert used < 0.75 * states if gradient == "adjoint" else used > states
