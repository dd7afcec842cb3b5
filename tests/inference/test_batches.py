"""Batches of sequences of different lengths against the single sequences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import make_problem
from tiers import slow

import ssmlin
from ssmlin.inference.matrix import _layouts as layouts

B = 5
LENGTHS = np.array([7, 5, 3, 7, 1])
PROBLEMS = [make_problem("gated_deltanet", "isotropic", steps=7, seed=i) for i in range(B)]
BATCH = jax.tree.map(lambda *x: jnp.stack(x), *(p.lgssm for p in PROBLEMS))
Y = np.stack([p.emissions for p in PROBLEMS])
Y[1, 2] = np.nan


def assert_equals_singles(run, tolerance=1e-11):
    batch = run(BATCH, Y, LENGTHS)
    for i, problem in enumerate(PROBLEMS):
        one = run(problem.lgssm, Y[i], LENGTHS[i])
        for a, b in zip(jax.tree.leaves(batch), jax.tree.leaves(one), strict=True):
            np.testing.assert_allclose(a[i], b, atol=tolerance, rtol=tolerance)


# All at once; groups of two with the last one filled up; one by one.
@pytest.mark.parametrize("elements", [2048, 18, slow(9)])
def test_filter_and_smoother(elements, monkeypatch):
    monkeypatch.setattr(layouts, "_GROUP_ELEMENTS", elements)
    jax.clear_caches()
    for store in ("all", "loglik", "last"):
        assert_equals_singles(
            lambda lgssm, y, n: ssmlin.matrix_lgssm_filter(lgssm, y, length=n, store=store)  # noqa: B023
        )
    assert_equals_singles(lambda lgssm, y, n: ssmlin.matrix_lgssm_smoother(lgssm, y, length=n))
    jax.clear_caches()


@pytest.mark.parametrize(
    ("method", "form"), [("sequential", "square_root"), slow("chunked", "plain")]
)
def test_other_drivers_and_forms(method, form):
    assert_equals_singles(
        lambda lgssm, y, n: ssmlin.matrix_lgssm_smoother(
            lgssm, y, length=n, method=method, covariance_form=form
        )
    )


def test_gradient():
    def gradient(lgssm, y, n):
        def loss(lgssm):
            options = dict(length=n, store="loglik")
            return ssmlin.matrix_lgssm_filter(lgssm, y, **options).marginal_loglik.sum()

        return jax.jit(jax.grad(loss))(lgssm)

    assert_equals_singles(gradient)


def test_posterior_samples_are_independent_draws_from_every_posterior():
    draws = np.asarray(
        ssmlin.matrix_lgssm_posterior_sample(jax.random.key(0), BATCH, Y, 20_000, length=LENGTHS)
    )
    assert draws.shape == (B, 20_000, 7, 2, 3)
    smoothed = ssmlin.matrix_lgssm_smoother(BATCH, Y, length=LENGTHS)
    scale = np.sqrt(np.einsum("bii,btjj->btij", BATCH.row_cov, smoothed.smoothed_covariances))
    error = np.abs(draws.mean(axis=1) - smoothed.smoothed_means) / scale * np.sqrt(20_000)
    assert error.max() < 5.5
    # One sequence's draws say nothing of another's.
    assert abs(np.corrcoef(draws[0, :, 0, 0, 0], draws[1, :, 0, 0, 0])[0, 1]) < 0.05


def test_partly_missing_entries():
    diagonal = [
        ssmlin.matrix_lgssm(
            "vanilla",
            keys=p.dense[3],
            values=p.emissions,
            queries=p.dense[3],
            row_cov=np.array([0.5, 2.0]),
            process_noise=0.1,
            emission_noise=0.3,
        )
        for p in PROBLEMS[:2]
    ]
    batch = jax.tree.map(lambda *x: jnp.stack(x), *diagonal)
    y = Y[:2].copy()
    y[0, 3, 1] = np.nan
    together = ssmlin.matrix_lgssm_filter(batch, y)
    for i in range(2):
        one = ssmlin.matrix_lgssm_filter(diagonal[i], y[i], missing="entries")
        np.testing.assert_allclose(together.log_predictive[i], one.log_predictive, atol=1e-12)
        np.testing.assert_allclose(together.filtered_means[i], one.filtered_means, atol=1e-12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(emissions=Y[0]), r"emissions: expected shape \(B, T, m\)"),
        (dict(emissions=Y, length=np.array([1, 2])), r"length: expected shape \(B\)"),
        (dict(emissions=Y, length=np.array([1, 2, 3, 4, 8])), "length: expected 0 <= length <= T"),
        (dict(emissions=Y, mask=np.ones(7, bool)), r"mask: expected shape \(B, T\)"),
    ],
)
def test_errors(options, message):
    with pytest.raises(ValueError, match=message):
        ssmlin.matrix_lgssm_filter(BATCH, **options)
