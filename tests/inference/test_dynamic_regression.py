"""Many dynamic regressions with one law, against loops in NumPy and the filter of matrix states."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import ssmlin
from ssmlin.inference import (
    RegressionLaw,
    RowCovLaw,
    dynamic_regressions,
    integrate_row_cov,
    integrate_variances,
)
from ssmlin.inference.matrix import _dynamic_regression as module

B, T, D = 3, 9, 4
RNG = np.random.default_rng(0)
H = RNG.normal(size=(B, T, D))
Y = RNG.normal(size=(B, T))
Y[0, 3] = np.nan
Y[2, 6:] = np.nan
ROOT = RNG.normal(size=(D, D))
LAW = RegressionLaw(
    *(jnp.asarray(x) for x in (RNG.normal(size=D), ROOT @ ROOT.T, 0.9, 0.1 * RNG.random(D)))
)
COTANGENTS = [RNG.normal(size=shape) for shape in ((B, T), (B, T), (B, D), (B, D, D))]


def loop(law, y, h):
    """The Kalman filter of one series, as the textbook has it."""
    mean, cov = np.asarray(law.mean), np.asarray(law.cov)
    errors, scales = [], []
    for target, x in zip(y, h, strict=True):
        mean = law.decay * mean
        cov = law.decay**2 * cov + np.diag(law.noise)
        scale = x @ cov @ x + 1
        error = (0.0 if np.isnan(target) else target) - mean @ x
        errors.append(error)
        scales.append(scale)
        if not np.isnan(target):
            gain = cov @ x / scale
            mean, cov = mean + gain * error, cov - np.outer(gain, gain) * scale
    return errors, scales, mean, cov


def total(law, y, h, run=dynamic_regressions):
    """A function of everything that is returned."""
    return sum(jnp.sum(c * jnp.sin(x)) for c, x in zip(COTANGENTS, run(law, y, h), strict=True))


def plain(law, y, h):
    """The same scan without a gradient of its own."""
    seen = ~jnp.isnan(y)
    series = module._Series(
        jnp.where(seen, y, 0.0).T, seen.astype(h.dtype).T, jnp.moveaxis(h, 0, -1)
    )
    (errors, scales, mean, cov), _ = module._run(law, series)
    return errors.T, scales.T, mean.T, jnp.moveaxis(cov, -1, 0)


def test_the_filter_is_the_textbooks():
    found = dynamic_regressions(LAW, Y, H)
    for i in range(B):
        for a, b in zip(found, loop(LAW, Y[i], H[i]), strict=True):
            np.testing.assert_allclose(a[i], b, atol=1e-12)


def test_the_filter_is_that_of_bayesian_memory():
    found = dynamic_regressions(LAW, Y, H)
    lgssm = ssmlin.matrix_lgssm(
        "bayesian_memory", keys=H[0], alpha=0.9, process_noise=LAW.noise[None],
        initial_mean=LAW.mean[None], initial_cov=LAW.cov,
    )  # fmt: skip
    posterior = ssmlin.matrix_lgssm_filter(lgssm, Y[0][:, None])
    np.testing.assert_allclose(found.scales[0], posterior.emission_scales, rtol=1e-12)
    np.testing.assert_allclose(found.cov[0], posterior.filtered_covariances[-1], atol=1e-12)


def test_steps_after_the_length_change_nothing():
    lengths = np.array([9, 4, 6])
    found = dynamic_regressions(LAW, Y, H, lengths)
    for i, length in enumerate(lengths):
        *_, mean, cov = loop(LAW, Y[i, :length], H[i, :length])
        np.testing.assert_allclose(found.mean[i], mean, atol=1e-12)
        np.testing.assert_allclose(found.cov[i], cov, atol=1e-12)


def test_the_gradient_is_that_of_the_plain_scan():
    found = jax.grad(total, (0, 1))(LAW, Y, H)
    expected = jax.grad(lambda *x: total(*x, run=plain), (0, 1))(LAW, Y, H)

    def even(gradient):
        law, targets = gradient
        return law._replace(cov=law.cov + law.cov.T), targets

    for a, b in zip(jax.tree.leaves(even(found)), jax.tree.leaves(even(expected)), strict=True):
        assert np.isfinite(a).all()
        np.testing.assert_allclose(a, b, atol=1e-11)


def test_the_gradient_is_that_of_finite_differences():
    gradient = jax.grad(total)(LAW, Y, H)
    for name, step in (("decay", 1e-6), ("noise", 1e-6)):
        value = getattr(LAW, name)
        ends = [total(LAW._replace(**{name: value + s}), Y, H) for s in (step, -step)]
        slope = (ends[0] - ends[1]) / (2 * step)
        np.testing.assert_allclose(jnp.sum(getattr(gradient, name)), slope, rtol=1e-6)


def test_a_gradient_by_the_regressors_is_right_and_never_silently_zero():
    found = jax.grad(total, 2)(LAW, Y, jnp.asarray(H))
    expected = jax.grad(lambda *x: total(*x, run=plain), 2)(LAW, Y, jnp.asarray(H))
    assert np.abs(found).max() > 0.1
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_single_precision_and_vmap(float32):
    law = jax.tree.map(lambda x: np.asarray(x, np.float32), LAW)
    y, h = Y.astype(np.float32), H.astype(np.float32)
    found = dynamic_regressions(law, y, h)
    assert {x.dtype for x in found} == {np.dtype(np.float32)}
    many = jax.vmap(lambda decay: dynamic_regressions(law._replace(decay=decay), y, h).scales)
    np.testing.assert_allclose(many(jnp.array([0.5, 0.9]))[1], found.scales, rtol=1e-5)


@pytest.mark.parametrize("discount", [1.0, 0.9])
def test_variances_are_integrated_as_the_rows_of_a_diagonal(discount):
    errors, scales = RNG.normal(size=(T, B)), 1 + RNG.random((T, B))
    errors[2] = np.nan
    prior = RowCovLaw(jnp.array([3.0, 4.0, 5.0]), jnp.array([1.0, 2.0, 0.5]))
    terms, law = integrate_variances(errors, scales, prior, discount)
    for i in range(B):
        lgssm = ssmlin.matrix_lgssm(
            "bayesian_memory", keys=np.zeros((T, 1)), alpha=1.0, value_dim=1,
            emission_noise=scales[:, i],
        )  # fmt: skip
        y = errors[:, [i]]
        posterior = ssmlin.matrix_lgssm_filter(lgssm, y, store="loglik")
        one = RowCovLaw(prior.df[i : i + 1], prior.scale[i : i + 1])
        expected = integrate_row_cov(posterior, y, one, discount=discount)
        np.testing.assert_allclose(terms[:, i], expected.log_predictive, atol=1e-12)
        np.testing.assert_allclose(law.scale[i], expected.row_cov.scale[0], rtol=1e-12)
    first = stats.t.logpdf(errors[0, 0], 3.0, scale=np.sqrt(scales[0, 0] / 3.0))
    if discount == 1:
        np.testing.assert_allclose(terms[0, 0], first, rtol=1e-10)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"targets": Y[:, :-1]}, r"targets: expected shape \(B, T\)"),
        ({"regressors": H[0]}, r"regressors: expected shape \(B, T, d\)"),
        ({"regressors": np.full_like(H, np.nan)}, "regressors: expected finite"),
        ({"law": LAW._replace(noise=-LAW.noise)}, r"law.noise: expected values >= 0"),
        ({"law": LAW._replace(cov=LAW.cov[:2])}, r"law.cov: expected shape \(d, d\)"),
    ],
)
def test_bad_arguments_are_named(changed, message):
    with pytest.raises(ValueError, match=message):
        dynamic_regressions(**{"law": LAW, "targets": Y, "regressors": H} | changed)
