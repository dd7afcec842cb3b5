"""Missing rows, missing entries, masks and lengths."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import kalman, random_tokens
from problems import make_problem

import ssmlin


def entrywise_oracle(dense, y):
    """Every row by itself, as a model with m = 1; right because Σ is diagonal."""
    a, b, q, h, r, m0, p0, sigma = dense
    rows = []
    for i in range(y.shape[1]):
        one = (a, b[:, i : i + 1], q, h, r, m0[i : i + 1], p0, sigma[i : i + 1, i : i + 1])
        rows.append(kalman(*one, y[:, i : i + 1]))
    return rows


def diagonal_problem(name="gated_deltanet"):
    tokens = random_tokens(name)
    sigma = np.array([0.5, 2.0])
    lgssm = ssmlin.matrix_lgssm(
        name, **tokens, row_cov=sigma, process_noise=0.1, emission_noise=0.3
    )
    from oracles import dense_operators

    a, b = dense_operators(name, tokens)
    q = np.tile(0.1 * np.eye(3), (6, 1, 1))
    dense = (
        a,
        b,
        q,
        tokens["queries"],
        np.full(6, 0.3),
        np.zeros((2, 3)),
        np.eye(3),
        np.diag(sigma),
    )
    y = np.random.default_rng(0).normal(size=(6, 2))
    y[1, 0] = y[3, 1] = np.nan
    y[4] = np.nan
    return lgssm, dense, y


def test_partly_missing_rows_get_their_own_covariances():
    lgssm, dense, y = diagonal_problem()
    posterior = ssmlin.matrix_lgssm_smoother(lgssm, y)
    rows = entrywise_oracle(dense, y)
    np.testing.assert_allclose(
        posterior.marginal_loglik, sum(r["log"].sum() for r in rows), atol=1e-10
    )
    assert posterior.smoothed_covariances.shape == (6, 2, 3, 3)
    assert posterior.emission_scales.shape == (6, 2)
    for i, row in enumerate(rows):
        for ours, theirs in (("filtered", "f"), ("smoothed", "s")):
            np.testing.assert_allclose(
                getattr(posterior, f"{ours}_means")[:, i], row[f"{theirs}m"][:, 0], atol=1e-9
            )
            np.testing.assert_allclose(
                getattr(posterior, f"{ours}_covariances")[:, i], row[f"{theirs}c"], atol=1e-9
            )
        np.testing.assert_allclose(posterior.emission_means[:, i], row["ym"][:, 0], atol=1e-10)
        np.testing.assert_allclose(posterior.emission_scales[:, i], row["ys"], atol=1e-10)


def test_entries_and_rows_agree_where_only_whole_rows_are_missing():
    lgssm, _, y = diagonal_problem()
    y[[1, 3]] = np.nan
    shared = ssmlin.matrix_lgssm_smoother(lgssm, y)
    by_rows = ssmlin.matrix_lgssm_smoother(lgssm, y, missing="entries")
    np.testing.assert_allclose(shared.smoothed_means, by_rows.smoothed_means, atol=1e-12)
    for i in range(2):
        np.testing.assert_allclose(
            shared.smoothed_covariances, by_rows.smoothed_covariances[:, i], atol=1e-12
        )


def test_under_a_trace_the_pattern_must_be_said():
    lgssm, _, y = diagonal_problem()
    dropped = np.where(np.isnan(y).any(1, keepdims=True), np.nan, y)
    traced = jax.jit(lambda y: ssmlin.matrix_lgssm_filter(lgssm, y).marginal_loglik)(y)
    np.testing.assert_allclose(
        traced, ssmlin.matrix_lgssm_filter(lgssm, dropped).marginal_loglik, atol=1e-12
    )
    said = jax.jit(
        lambda y: ssmlin.matrix_lgssm_filter(lgssm, y, missing="entries").marginal_loglik
    )(y)
    np.testing.assert_allclose(said, ssmlin.matrix_lgssm_filter(lgssm, y).marginal_loglik)


def test_entries_need_a_diagonal_row_covariance():
    problem = make_problem("deltanet")
    y = problem.emissions.copy()
    y[2, 0] = np.nan
    with pytest.raises(ValueError, match="missing.*diagonal"):
        ssmlin.matrix_lgssm_filter(problem.lgssm, y)
    dropped = ssmlin.matrix_lgssm_filter(problem.lgssm, y, missing="rows")
    y[2] = np.nan
    whole = ssmlin.matrix_lgssm_filter(problem.lgssm, y)
    np.testing.assert_allclose(dropped.marginal_loglik, whole.marginal_loglik)


@pytest.mark.parametrize("missing", ["rows", "entries"])
def test_no_nan_in_values_or_gradients(missing):
    lgssm, _, y = diagonal_problem()
    # r = 0 and P⁻h = 0 at a missing step: the scale there is zero, and must not matter.
    lgssm = jax.tree.map(lambda x: x, lgssm)

    def loss(lgssm, y):
        posterior = ssmlin.matrix_lgssm_smoother(lgssm, y, missing=missing)
        return posterior.marginal_loglik + jnp.sum(posterior.smoothed_means**2)

    value, gradient = jax.value_and_grad(loss, argnums=(0, 1))(lgssm, jnp.asarray(y))
    assert np.isfinite(value)
    assert all(np.isfinite(np.asarray(x)).all() for x in jax.tree.leaves(gradient))
    assert (np.asarray(gradient[1])[np.isnan(y)] == 0).all()


def test_a_zero_scale_at_a_missing_step_is_harmless():
    def loss(queries):
        lgssm = ssmlin.matrix_lgssm(
            "mamba2",
            keys=jnp.ones((3, 2)),
            values=jnp.ones((3, 1)),
            queries=queries,
            alpha=0.9,
            process_noise=0.1,
            emission_noise=jnp.array([0.1, 0.0, 0.1]),
        )
        y = jnp.array([[1.0], [jnp.nan], [2.0]])
        return ssmlin.matrix_lgssm_filter(lgssm, y).marginal_loglik

    queries = jnp.array([[1.0, 0.0], [0.0, 0.0], [0.0, 1.0]])
    value, gradient = jax.value_and_grad(loss)(queries)
    assert np.isfinite(value) and np.isfinite(np.asarray(gradient)).all()


def test_mask_and_length_are_missing_rows():
    problem = make_problem("kda")
    y = problem.emissions
    mask = np.array([True, False, True, True, False, False])
    nan = np.where(mask[:, None], y, np.nan)
    by_nan = ssmlin.matrix_lgssm_smoother(problem.lgssm, nan)
    by_mask = ssmlin.matrix_lgssm_smoother(problem.lgssm, y, mask=mask)
    np.testing.assert_array_equal(by_nan.smoothed_means, by_mask.smoothed_means)
    short = ssmlin.matrix_lgssm_filter(
        jax.tree.map(lambda x: x[:4] if x.shape[:1] == (6,) else x, problem.lgssm), y[:4]
    )
    by_length = ssmlin.matrix_lgssm_smoother(problem.lgssm, y, length=4)
    np.testing.assert_allclose(by_length.marginal_loglik, short.marginal_loglik, atol=1e-12)
    lengths = jnp.array([4, 6])
    ragged = jax.vmap(
        lambda n: ssmlin.matrix_lgssm_filter(problem.lgssm, y, length=n).marginal_loglik
    )(lengths)
    np.testing.assert_allclose(ragged[0], short.marginal_loglik, atol=1e-12)


def test_forecasting_by_missing_emissions():
    problem = make_problem("gla")
    y = problem.emissions.copy()
    y[4:] = np.nan
    posterior = ssmlin.matrix_lgssm_filter(problem.lgssm, y)
    oracle = kalman(*problem.dense, y)
    np.testing.assert_allclose(posterior.emission_means, oracle["ym"], atol=1e-11)
    np.testing.assert_allclose(posterior.emission_scales, oracle["ys"], atol=1e-11)
