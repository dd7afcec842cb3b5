"""Projected covariances against a loop, and what they are exact for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ssmlin
from ssmlin import matrix_lgssm_approximate_filter

T, D, M = 12, 4, 2
KINDS = ("diagonal", "isotropic", "reset")


def problem(name="gated_deltanet", row_cov=None, **options):
    rng = np.random.default_rng(0)
    tokens = {
        "keys": jnp.asarray(rng.normal(size=(T, D))),
        "values": jnp.asarray(rng.normal(size=(T, M))),
        "alpha": 0.9,
    }
    if name == "gated_deltanet":
        tokens |= {"queries": jnp.asarray(rng.normal(size=(T, D))), "beta": 0.6}
    root = rng.normal(size=(M, M))
    lgssm = ssmlin.matrix_lgssm(
        name, **tokens, emission_noise=0.3, process_noise=0.1,
        initial_cov=jnp.diag(jnp.arange(1.0, D + 1)),
        row_cov=jnp.asarray(root @ root.T + np.eye(M)) if row_cov is None else row_cov, **options,
    )  # fmt: skip
    emissions = rng.normal(size=(T, M))
    emissions[5, 1] = np.nan
    return lgssm, jnp.asarray(emissions)


@pytest.mark.parametrize("name", ["bayesian_memory", "gated_deltanet"])
@pytest.mark.parametrize("kind", KINDS)
def test_equals_a_loop_with_a_dense_covariance(kind, name):
    lgssm, emissions = problem(name)
    found = matrix_lgssm_approximate_filter(lgssm, emissions, kind)
    dense = {k: np.asarray(v) for k, v in lgssm.to_dense().items()}
    h, r, y = (np.asarray(x) for x in (lgssm.readout, lgssm.emission_noise, emissions))
    rows = np.asarray(lgssm.row_cov)

    def project(p):
        return np.diag(np.diag(p)) if kind == "diagonal" else np.trace(p) / D * np.eye(D)

    mean, p = np.zeros((M, D)), np.asarray(lgssm.initial_cov)
    p = project(p)
    for t in range(T):
        mean = mean @ dense["A"][t] + dense["B"][t]
        p = project(dense["A"][t].T @ p @ dense["A"][t] + dense["Q"][t])
        if kind == "reset":
            p = np.mean(np.arange(1.0, D + 1)) * np.eye(D)
        s = h[t] @ p @ h[t] + r[t]
        assert found.emission_scales[t] == pytest.approx(s)
        np.testing.assert_allclose(found.emission_means[t], mean @ h[t], atol=1e-12)
        if np.isfinite(y[t]).all():
            error = y[t] - mean @ h[t]
            term = -0.5 * (error @ np.linalg.solve(s * rows, error)
                           + np.linalg.slogdet(2 * np.pi * s * rows)[1])  # fmt: skip
            assert found.log_predictive[t] == pytest.approx(term)
            mean = mean + np.outer(error, p @ h[t] / s)
            p = p - np.outer(p @ h[t], p @ h[t]) / s
        else:
            assert found.log_predictive[t] == 0
        p = np.diag(np.diag(p)) if kind == "reset" else project(p)
        np.testing.assert_allclose(found.filtered_means[t], mean, atol=1e-12)
        np.testing.assert_allclose(found.filtered_covariances[t], p, atol=1e-12)


def test_reset_is_the_delta_rule():
    rng = np.random.default_rng(1)
    keys, values = jnp.asarray(rng.normal(size=(T, D))), jnp.asarray(rng.normal(size=(T, M)))
    variance, noise = 0.7, 0.4
    lgssm = ssmlin.matrix_lgssm(
        "bayesian_memory", keys=keys, alpha=0.9, value_dim=M, emission_noise=noise,
        initial_cov=variance * jnp.eye(D),
    )  # fmt: skip
    found = matrix_lgssm_approximate_filter(lgssm, values, "reset")
    length = jnp.sum(keys**2, axis=1)
    # Keys are normalised by gated_deltanet: the gain's β, and values, take their length up.
    beta = variance * length / (variance * length + noise)
    _, states = ssmlin.linear_attention(
        "gated_deltanet", keys=keys, values=values / jnp.sqrt(length)[:, None], queries=keys,
        alpha=0.9, beta=beta, return_states=True,
    )  # fmt: skip
    np.testing.assert_allclose(found.filtered_means, states, atol=1e-12)


def test_diagonal_is_exact_for_orthogonal_keys():
    rng = np.random.default_rng(2)
    keys = jnp.asarray(np.eye(D)[rng.integers(0, D, T)])
    lgssm = ssmlin.matrix_lgssm("bayesian_memory", keys=keys, alpha=0.9, value_dim=M,
                                emission_noise=0.3, process_noise=0.1)  # fmt: skip
    values = jnp.asarray(rng.normal(size=(T, M)))
    exact = ssmlin.matrix_lgssm_filter(lgssm, values)
    found = matrix_lgssm_approximate_filter(lgssm, values, "diagonal")
    for name in ("log_predictive", "filtered_means", "filtered_covariances"):
        np.testing.assert_allclose(getattr(found, name), getattr(exact, name), atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_with_the_option_fits_and_forecasts(kind, tmp_path):
    whole = jnp.sin(jnp.arange(40.0) / 3)[:, None]
    model = ssmlin.LinearAttentionSSM("bayesian_memory", 1, 2, 3, num_lags=2, covariance=kind)
    y, u = whole.at[7].set(jnp.nan), model.compute_inputs(whole)
    params, props = model.initialize(emissions=y, inputs=u)
    expected = matrix_lgssm_approximate_filter(model.to_lgssm(params, u), y, kind)
    assert model.marginal_log_prob(params, y, u) == pytest.approx(float(expected.marginal_loglik))
    grad = jax.grad(lambda p: model.marginal_log_prob(p, y, u))(params)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grad))
    better, _ = model.fit_sgd(params, props, y, u, num_epochs=20, progress=False)
    assert np.isfinite(model.forecast(better, y, u, horizon=2).means).all()
    with pytest.raises(ValueError, match="covariance: expected 'full'"):
        model.smoother(params, y, u)
    with pytest.raises(ValueError, match="covariance: expected 'full'"):
        model.posterior_sample(jax.random.key(0), params, y, u)
    model.save(tmp_path / "m.safetensors", params, props)
    assert ssmlin.load(tmp_path / "m.safetensors")[0].covariance == kind


def test_what_cannot_be_is_told_in_words():
    lgssm, emissions = problem()
    with pytest.raises(ValueError, match="covariance: expected one of"):
        matrix_lgssm_approximate_filter(lgssm, emissions, "full")
    with pytest.raises(ValueError, match="emissions: expected"):
        matrix_lgssm_approximate_filter(lgssm, emissions[:-1])
    with pytest.raises(TypeError, match="lgssm: expected a MatrixLGSSM"):
        matrix_lgssm_approximate_filter(None, emissions)
