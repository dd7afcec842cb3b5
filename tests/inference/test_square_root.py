"""The covariance forms in single precision, and the factorisations below the square-root one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiers import cases

import ssmlin
from ssmlin.inference._roots import semidefinite_cholesky, triangular_factor

METHODS = ("sequential", "associative", "chunked")


def hard_problem(steps, d, p0, r, dtype):
    """Unit keys, no forgetting, no process noise: the covariance shrinks from P_0 towards r/t."""
    rng = np.random.default_rng(0)
    keys = rng.normal(size=(steps, d))
    keys /= np.linalg.norm(keys, axis=1, keepdims=True)
    tokens = {"keys": keys.astype(dtype), "queries": keys.astype(dtype)}
    tokens["alpha"] = np.ones(steps, dtype)
    lgssm = ssmlin.matrix_lgssm(
        "bayesian_memory",
        **tokens,
        value_dim=1,
        initial_cov=p0 * np.eye(d, dtype=dtype),
        emission_noise=dtype(r),
    )
    weights = rng.normal(size=d)
    y = keys @ weights + r**0.5 * rng.normal(size=steps)
    return lgssm, y[:, None].astype(dtype)


@pytest.mark.float32
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("p0", "r"), [(1e4, 1e-6), (1e6, 1e-2), (1.0, 1e-6)])
def test_square_root_survives_where_the_plain_form_does_not(method, p0, r):
    # With P_0/r = 1e10 a covariance entry has no digit left in single precision; its factor, of
    # relative size 1e5, has two. The emissions were rounded to 6e-8 of some units, r to 1e-3.
    steps, d = 64, 4
    with jax.enable_x64(True):
        lgssm, y = hard_problem(steps, d, p0, r, np.float64)
        exact = jax.tree.map(np.asarray, ssmlin.matrix_lgssm_filter(lgssm, y))
    lgssm, y = hard_problem(steps, d, p0, r, np.float32)
    options = dict(method=method)
    root = ssmlin.matrix_lgssm_filter(lgssm, y, covariance_form="square_root", **options)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(root))
    smallest = np.linalg.eigvalsh(np.asarray(root.filtered_covariances, np.float64)).min()
    assert smallest > -1e-6 * p0
    errors = (root.emission_means - exact.emission_means)[:, 0] / exact.emission_scales**0.5
    assert np.abs(errors).max() < 0.05
    settled = slice(2 * d, None)
    np.testing.assert_allclose(
        root.emission_scales[settled], exact.emission_scales[settled], rtol=0.05
    )
    np.testing.assert_allclose(
        root.filtered_means[settled], exact.filtered_means[settled], atol=0.02
    )
    if method == "sequential" and p0 / r > 1e9:
        plain = ssmlin.matrix_lgssm_filter(lgssm, y, **options)
        error = np.abs(plain.emission_scales[settled] / exact.emission_scales[settled] - 1)
        assert not error.max() < 0.5


@pytest.mark.float32
@pytest.mark.parametrize("method", cases(METHODS, "sequential"))
def test_square_root_smoother_where_the_prior_is_vague(method):
    # Without noise on the state every smoothed covariance is that of the last step.
    lgssm, y = hard_problem(64, 4, 1e4, 1e-2, np.float32)
    posterior = ssmlin.matrix_lgssm_smoother(lgssm, y, method=method, covariance_form="square_root")
    keys = np.asarray(lgssm.readout, float)
    exact = np.linalg.inv(keys.T @ keys / np.float64(np.float32(1e-2)) + np.eye(4) / 1e4)
    mean = exact @ keys.T @ np.asarray(y, float)[:, 0] / np.float64(np.float32(1e-2))
    # The updates take a factor from 1e2 to 1e-2, so 6e-8 becomes some 1e-3; the plain form is wrong
    # by 1e5 times the covariance at the first step.
    for cov, found in zip(posterior.smoothed_covariances, posterior.smoothed_means, strict=True):
        np.testing.assert_allclose(cov, exact, atol=5e-3 * exact.max())
        np.testing.assert_allclose(found[0], mean, atol=0.1 * exact.max() ** 0.5)
    plain = ssmlin.matrix_lgssm_smoother(lgssm, y, method=method)
    assert not np.abs(plain.smoothed_covariances[0] - exact).max() < exact.max()


def test_square_root_smoother_needs_noise():
    ones = np.ones((2, 1))
    lgssm = ssmlin.matrix_lgssm(
        "bayesian_memory", keys=ones, alpha=1.0, value_dim=1, emission_noise=0.0
    )
    with pytest.raises(ValueError, match="covariance_form: 'square_root' .* emission_noise > 0"):
        ssmlin.matrix_lgssm_smoother(lgssm, ones, covariance_form="square_root")


@pytest.mark.float32
def test_the_plain_form_is_symmetric_by_construction():
    rng = np.random.default_rng(0)
    steps, d = 200, 16
    normal = lambda *shape: rng.normal(size=shape).astype(np.float32)  # noqa: E731
    lgssm = ssmlin.matrix_lgssm(
        "gated_deltaproduct",
        keys=normal(steps, 2, d),
        values=normal(steps, 2, 1),
        queries=normal(steps, d),
        alpha=rng.uniform(size=steps).astype(np.float32),
        beta=rng.uniform(size=(steps, 2)).astype(np.float32),
        write_noise=0.3,
        process_noise=0.1,
        emission_noise=0.1,
    )
    for posterior in (
        ssmlin.matrix_lgssm_filter(lgssm, normal(steps, 1), store="all"),
        ssmlin.matrix_lgssm_smoother(lgssm, normal(steps, 1)),
    ):
        for name in ("filtered", "predicted", "smoothed"):
            covs = getattr(posterior, f"{name}_covariances")
            if covs is not None:
                np.testing.assert_array_equal(covs, np.swapaxes(covs, 1, 2), err_msg=name)


@pytest.mark.parametrize("dim", [1, 3, 40])  # written out, and as a loop
@pytest.mark.parametrize("batch", [(), (2,)])
def test_triangular_factor(dim, batch):
    rng = np.random.default_rng(dim)
    wide = rng.normal(size=(dim, dim + 2, *batch))
    wide[dim // 2] = 0.0  # a row without noise gives a zero column
    diag = rng.uniform(size=(dim, *batch))
    diag[dim // 2] = 0.0
    for q in (None, diag):
        root = triangular_factor(jnp.asarray(wide), None if q is None else jnp.asarray(q))
        root = np.moveaxis(root, (0, 1), (-2, -1))
        rows = np.moveaxis(wide, (0, 1), (-2, -1))
        full = rows @ np.swapaxes(rows, -1, -2)
        if q is not None:
            full = full + np.moveaxis(q, 0, -1)[..., None] * np.eye(dim)
        np.testing.assert_allclose(root @ np.swapaxes(root, -1, -2), full, atol=1e-12)
        np.testing.assert_allclose(root, np.tril(root), atol=1e-13)


@pytest.mark.parametrize("rank", [0, 1, 4])
def test_cholesky_of_a_singular_matrix(rank):
    rng = np.random.default_rng(rank)
    factor = rng.normal(size=(4, rank))
    root = semidefinite_cholesky(jnp.asarray(factor @ factor.T))
    np.testing.assert_allclose(root @ root.T, factor @ factor.T, atol=1e-12)
    np.testing.assert_array_equal(root, np.tril(root))


@pytest.mark.float32
def test_a_long_likelihood_keeps_its_digits():
    # 100 000 terms summed one by one in the carry of a scan lose 1e-4 of the sum and more.
    steps = 100_000
    ones = np.ones((steps, 1), np.float32)
    y = np.random.default_rng(0).normal(size=(steps, 1)).astype(np.float32)
    options = dict(keys=ones, queries=ones, alpha=0.9, value_dim=1, process_noise=0.1)
    single = ssmlin.matrix_lgssm_filter(
        ssmlin.matrix_lgssm("bayesian_memory", **options, emission_noise=0.5), y, store="loglik"
    ).marginal_loglik
    with jax.enable_x64(True):
        options.update(keys=ones.astype(float), queries=ones.astype(float))
        double = float(
            ssmlin.matrix_lgssm_filter(
                ssmlin.matrix_lgssm("bayesian_memory", **options, emission_noise=0.5),
                y.astype(float),
                store="loglik",
            ).marginal_loglik
        )
    np.testing.assert_allclose(single, double, rtol=1e-6)
