"""Predictive laws and scores against scipy, closed forms and integrals."""

import numpy as np
import pytest
import scoringrules
from scipy import integrate, stats

from ssmlin.comparison import score, score_paths
from ssmlin.comparison._scores import standard_error, uniformity
from ssmlin.forecasting import Predictive

pytestmark = pytest.mark.quick

RNG = np.random.default_rng(0)
STEPS, M = 5, 2


def covariances(*shape):
    root = RNG.normal(size=(*shape, M, M))
    return root @ np.swapaxes(root, -1, -2) + 0.3 * np.eye(M)


def law(num_components, df=None):
    weights = RNG.dirichlet(np.ones(num_components), size=STEPS)
    means = RNG.normal(size=(STEPS, num_components, M))
    df = None if df is None else np.full((STEPS, num_components), df)
    return Predictive(weights, means, covariances(STEPS, num_components), df)


LAWS = {"gaussian": law(1), "mixture": law(3), "student": law(1, 4.5), "students": law(2, 6.0)}
Y = RNG.normal(size=(STEPS, M))


@pytest.mark.parametrize("name", LAWS)
def test_densities_and_marginals(name):
    predictive = LAWS[name]
    found, cdf = predictive.log_prob(Y), predictive.cdf(Y)
    for t in range(STEPS):
        density, below = 0.0, np.zeros(M)
        for k, weight in enumerate(predictive.weights[t]):
            mean, scale = predictive.means[t, k], predictive.scales[t, k]
            sd = np.sqrt(np.diag(scale))
            if predictive.df is None:
                density += weight * stats.multivariate_normal(mean, scale).pdf(Y[t])
                below += weight * stats.norm(mean, sd).cdf(Y[t])
            else:
                df = predictive.df[t, 0]
                density += weight * stats.multivariate_t(mean, scale, df).pdf(Y[t])
                below += weight * stats.t(df, mean, sd).cdf(Y[t])
        np.testing.assert_allclose(found[t], np.log(density), rtol=1e-10)
        np.testing.assert_allclose(cdf[t], below, rtol=1e-10)
    for level in (0.05, 0.5, 0.9):
        np.testing.assert_allclose(predictive.cdf(predictive.quantile(level)), level, rtol=1e-9)


@pytest.mark.parametrize("name", LAWS)
def test_draws_have_the_law(name):
    predictive = LAWS[name]
    draws = predictive.sample(np.random.default_rng(1), 20_000)
    for level in (0.1, 0.5, 0.8):
        share = (draws < predictive.quantile(level)[:, None]).mean(axis=1)
        assert np.abs(share - level).max() < 5 * np.sqrt(level * (1 - level) / 20_000)
    products = np.einsum("tni,tnj->tij", draws, draws)[:, 0, 1] / 20_000
    if name == "mixture":
        second = predictive.scales + np.einsum("tki,tkj->tkij", predictive.means, predictive.means)
        expected = np.einsum("tk,tkij->tij", predictive.weights, second)[:, 0, 1]
        np.testing.assert_allclose(products, expected, atol=0.15)


@pytest.mark.parametrize("name", LAWS)
def test_crps_is_its_integral(name):
    predictive = LAWS[name]
    scores = score(predictive, Y)
    for t, i in ((0, 0), (3, 1)):

        def square(x, t=t, i=i):
            at = np.array(Y)
            at[t, i] = x
            return (predictive.cdf(at)[t, i] - (x >= Y[t, i])) ** 2

        value = sum(
            integrate.quad(square, *part, limit=200)[0]
            for part in ((-200, Y[t, i]), (Y[t, i], 200))
        )
        tolerance = 0.2 if name == "students" else 1e-4  # from 200 draws, or exact
        np.testing.assert_allclose(scores.crps[t, i], value, rtol=tolerance, atol=1e-5)


def test_scores_of_gaussians_in_closed_form():
    y = np.array([[0.5], [np.nan], [-1.0]])
    predictive = Predictive.gaussian(np.array([[0.0], [9.0], [1.0]]), np.array([[4.0]]))
    scores = score(predictive, y)
    z = np.array([0.25, -1.0])
    crps = 2 * (z * (2 * stats.norm.cdf(z) - 1) + 2 * stats.norm.pdf(z) - 1 / np.sqrt(np.pi))
    np.testing.assert_allclose(scores.crps[:, 0], crps, rtol=1e-10)
    np.testing.assert_allclose(scores.energy, crps, rtol=1e-10)
    np.testing.assert_allclose(scores.log_density, stats.norm(0, 2).logpdf([0.5, -2.0]))
    np.testing.assert_allclose(scores.pit[:, 0], stats.norm.cdf(z))
    summary = scores.summary()
    np.testing.assert_allclose(summary["rmse"], np.sqrt((0.25 + 4) / 2))
    np.testing.assert_allclose(summary["mae"], 1.25)
    assert (summary["coverage_50"], summary["coverage_80"]) == (0.5, 1.0)
    with pytest.raises(ValueError, match="values: expected at least one wholly observed step"):
        score(predictive, np.full((3, 1), np.nan))


def test_energy_score_is_that_of_many_draws():
    predictive = LAWS["gaussian"]
    draws = predictive.sample(np.random.default_rng(5), 1000)
    expected = scoringrules.es_ensemble(Y, draws, m_axis=1, v_axis=2, estimator="fair")
    np.testing.assert_allclose(score(predictive, Y).energy, expected, rtol=0.25)


def test_paths_are_scored_where_something_was_observed():
    paths = RNG.normal(size=(3, 400, 2, 1))
    values = RNG.normal(size=(3, 2, 1))
    values[1, 1] = np.nan
    scores = score_paths(paths, values)
    assert np.isnan(scores.crps[1, 1, 0]) and np.isfinite(scores.summary()["path_crps"])
    one = scoringrules.crps_ensemble(values[2, 0, 0], paths[2, :, 0, 0], estimator="fair")
    np.testing.assert_allclose(scores.crps[2, 0, 0], one, rtol=1e-10)
    np.testing.assert_allclose(scores.ranks[2, 0, 0], (paths[2, :, 0, 0] < values[2, 0, 0]).mean())


def test_standard_errors_know_of_autocorrelation():
    noise = np.random.default_rng(0).normal(size=4000)
    slow = np.convolve(noise, np.ones(4) / 4, mode="valid")
    plain = noise.std() / np.sqrt(4000)
    np.testing.assert_allclose(standard_error(noise), plain, rtol=0.1)
    assert standard_error(slow) > 1.5 * slow.std() / np.sqrt(len(slow))
    assert np.isnan(standard_error(noise[:2])) and standard_error(np.ones(9)) == 0


def test_calibration_is_told_from_its_lack():
    u = np.random.default_rng(0).uniform(size=(200, 2))
    assert uniformity(u) > 0.05 and uniformity(0.5 * u + 0.25) < 1e-6
