"""Forecasters of series with gaps: against statsmodels, random walks, exact laws."""

import jax.numpy as jnp
import numpy as np
import pytest
from statsmodels.tsa.api import SARIMAX

from ssmlin.comparison.baselines._autoregression import fit_autoregression
from ssmlin.comparison.baselines._naive import fit_naive
from ssmlin.forecasting import (
    Ahead,
    Observed,
    Predictive,
    choose_num_lags,
    choose_powers,
    fit_attention,
    last_values,
    predictive,
    sample_paths,
)
from ssmlin.forecasting._laws import mixture
from ssmlin.models import LinearAttentionSSM, ParamsRegression
from ssmlin.models._missing_lags import ParticlePosterior


def series(weights, steps, seed=0):
    rng = np.random.default_rng(seed)
    y = np.zeros(steps)
    for t in range(len(weights), steps):
        y[t] = weights @ y[t - len(weights) : t][::-1] + rng.normal()
    return y[:, None]


def with_gaps(y, share, seed=1):
    y = y.copy()
    y[np.random.default_rng(seed).random(y.shape) < share] = np.nan
    return y


@pytest.mark.parametrize("share", [0.05, 0.5])
def test_the_autoregression_is_statsmodels(share):
    y = with_gaps(series(np.array([0.5, 0.3]), 400), share)
    y[150:170] = np.nan
    law = fit_autoregression(Observed.of(y[:300]), 0, num_lags=2).predict(Observed.of(y))
    fitted = SARIMAX(y[:300, 0], order=(2, 0, 0), trend="c").fit(disp=0)
    found = SARIMAX(y[:, 0], order=(2, 0, 0), trend="c").filter(fitted.params).filter_results
    part = slice(20, None)
    np.testing.assert_allclose(law.mean[part, 0], found.forecasts[0, part], atol=0.05)
    spread = np.sqrt(found.forecasts_error_cov[0, 0, part])
    np.testing.assert_allclose(law.deviations[part, 0, 0], spread, rtol=0.05)


def test_paths_of_the_autoregression_go_on_from_a_gap():
    y = series(np.array([0.9]), 400)
    y[320:] = np.nan
    fitted = fit_autoregression(Observed.of(y[:320]), 0, num_lags=1)
    laws = fitted.predict(Observed.of(y))
    paths = fitted.simulate(Observed.of(y), Ahead(np.array([320, 330]), 5, 20_000))
    for i, origin in enumerate((320, 330)):
        np.testing.assert_allclose(paths[i].mean(axis=0), laws.mean[origin : origin + 5], atol=0.1)
        spread = laws.deviations[origin : origin + 5, 0]
        np.testing.assert_allclose(paths[i].std(axis=0), spread, rtol=0.03)


@pytest.mark.parametrize("period", [1, 3])
def test_what_is_missing_is_another_change_of_the_last_value(period):
    y = np.cumsum(np.random.default_rng(0).normal(size=(40, 1)), axis=0)
    fitted = fit_naive(Observed.of(y[:30]), 0, period=period)
    whole = fitted.predict(Observed.of(y))
    variance = whole.scales[35, 0, 0, 0]
    gap = y.copy()
    gap[31 : 31 + 2 * period] = np.nan  # two periods
    law = fitted.predict(Observed.of(gap))
    ends = slice(31, 31 + 3 * period)
    last = np.tile(y[31 - period : 31], (3, 1))
    np.testing.assert_allclose(law.mean[ends], last, atol=1e-9)
    changes = np.repeat([1, 2, 3], period)
    np.testing.assert_allclose(law.scales[ends, 0, 0, 0], changes * variance, rtol=1e-9)
    np.testing.assert_allclose(law.mean[31 + 3 * period :], whole.mean[31 + 3 * period :])
    # Paths from the middle of the gap.
    paths = fitted.simulate(Observed.of(gap), Ahead(np.array([31 + 2 * period]), period, 20_000))
    np.testing.assert_allclose(paths[0].mean(axis=0), last[:period], atol=0.1)
    np.testing.assert_allclose(paths[0].var(axis=0)[:, 0], 3 * variance, rtol=0.05)


def test_the_order_is_found_where_hardly_a_step_has_all_its_lags():
    y = with_gaps(series(np.array([0.2, 0.7]), 400, seed=2), 0.4)
    assert choose_num_lags(Observed.of(y), 4) == 2
    assert choose_num_lags(Observed.of(with_gaps(series(np.zeros(1), 400), 0.4)), 4) == 0


@pytest.mark.slow
def test_the_transformation_is_found_where_hardly_a_step_has_all_its_lags():
    """Every second value missing; with all of them it is the logarithm, too."""
    walk = np.cumsum(0.2 * np.random.default_rng(0).normal(size=(300, 1)), axis=0)
    gap = np.exp(walk)
    gap[::2] = np.nan
    assert choose_powers([Observed.of(np.exp(walk))]) == (0.0,)
    assert choose_powers([Observed.of(gap)]) == (0.0,)
    linear = 50 + walk
    linear[::2] = np.nan
    assert choose_powers([Observed.of(linear)]) == (1.0,)


def test_a_mixture_keeps_mean_and_variance_of_the_draws():
    rng = np.random.default_rng(0)
    weights = rng.dirichlet(np.ones(300), size=4)
    means = rng.normal(size=(4, 300, 2)) * np.array([1.0, 0.1])
    scales = np.broadcast_to(np.array([[1.0, 0.3], [0.3, 0.5]]), (4, 300, 2, 2))
    for df in (None, np.array([5.0, 6.0, 7.0, 8.0])):
        none = jnp.zeros(())
        law = mixture(ParticlePosterior(none, none, np.log(weights), means, scales, df, none))
        share = 1.0 if df is None else (df / (df - 2))[:, None, None]
        mean = np.einsum("tn,tnm->tm", weights, means)
        apart = means - mean[:, None]
        cov = share * scales[:, 0] + np.einsum("tn,tni,tnj->tij", weights, apart, apart)
        np.testing.assert_allclose(law.mean, mean, atol=1e-12)
        apart = law.means - law.mean[:, None]
        within = np.einsum("tk,tkij->tij", law.weights, law.scales) * share
        between = np.einsum("tk,tki,tkj->tij", law.weights, apart, apart)
        np.testing.assert_allclose(within + between, cov, atol=1e-12)
        assert law.means.shape[1] <= 50


@pytest.mark.float32
def test_an_attention_that_writes_nothing_predicts_as_the_autoregression_does():
    """One-step laws and paths over gaps, the draws of missing lags against the exact filter."""
    y = with_gaps(series(np.array([0.9]), 120), 0.2)
    y[60:70] = np.nan
    model = LinearAttentionSSM("mamba2", 1, 1, 1, num_lags=1, process_noise="none",
                               gates="constant")  # fmt: skip
    params, _ = model.initialize()
    exact = fit_autoregression(Observed.of(y), 0, num_lags=1)
    one = Observed.of(np.array([[0.0], [1.0], [0.0]]))
    law = exact.predict(one)  # the mean after 1 less that after 0 is the weight
    weight, bias = float(law.mean[2, 0] - law.mean[1, 0]), float(law.mean[1, 0])
    params = params._replace(
        initial=params.initial._replace(variances=jnp.zeros(1)),
        regression=ParamsRegression(jnp.array([[weight]]), jnp.array([bias])),
        row_cov=params.row_cov._replace(covariance=jnp.asarray(law.scales[1, 0, 0])),
    )
    observed = Observed.of(y)
    expected, found = exact.predict(observed), predictive(model, params, observed)
    np.testing.assert_allclose(found.mean[5:], expected.mean[5:], atol=0.05)
    spread = np.sqrt(
        np.einsum("tk,tk->t", found.weights, found.scales[..., 0, 0] + found.means[..., 0] ** 2)
        - found.mean[:, 0] ** 2
    )
    np.testing.assert_allclose(spread[5:], expected.deviations[5:, 0, 0], rtol=0.05)
    ahead = Ahead(np.array([65, 100]), 3, 4000)
    paths, wanted = sample_paths(model, params, observed, ahead), exact.simulate(observed, ahead)
    np.testing.assert_allclose(paths.mean(axis=1), wanted.mean(axis=1), atol=0.15)
    np.testing.assert_allclose(paths.std(axis=1), wanted.std(axis=1), rtol=0.08)


@pytest.mark.float32
@pytest.mark.slow
def test_a_fitted_attention_predicts_over_gaps():
    """The recipe with two columns, partly missing: what it predicts is close to the truth."""
    rng = np.random.default_rng(0)
    y = np.zeros((160, 2))
    for t in range(1, 160):
        y[t] = np.array([[0.8, 0.0], [0.3, 0.5]]) @ y[t - 1] + 0.5 * rng.normal(size=2)
    gap = with_gaps(y, 0.1)
    fitted = fit_attention(Observed.of(gap[:120]), 0, mechanism="bayesian_memory", num_lags=1,
                           num_epochs=20, discounts=(1.0, 0.9))  # fmt: skip
    law = fitted.predict(Observed.of(gap))
    error = (y - law.mean)[120:]
    assert np.sqrt(np.mean(error**2)) < 0.75  # the noise has 0.5, the series 0.9
    assert np.isfinite(fitted.simulate(Observed.of(gap), Ahead(np.array([130, 140]), 2, 50))).all()
    assert np.isnan(fitted.log_evidence())


def test_what_is_never_seen_while_training_is_as_wide_as_the_training_part():
    """Weekends without a value; what comes later plays no part in what is said before it."""
    y = np.random.default_rng(0).normal(3.0, 1.0, size=(70, 1))
    gap = y.copy()
    gap[5:60:7] = gap[6:60:7] = np.nan
    fitted = fit_naive(Observed.of(gap[:50]), 0, period=7)
    later = gap.copy()
    later[61] += 100.0  # the first value of its place
    for series in (gap, later):
        law = fitted.predict(Observed.of(series))
        np.testing.assert_allclose(law.mean[61], np.nanmean(gap[:50]))
        # The value before the first week, and a change each week.
        change = fitted.predict(Observed.of(y)).scales[61, 0, 0, 0]
        np.testing.assert_allclose(law.scales[61, 0], np.nanvar(gap[:50]) + 8 * change)
        assert np.isfinite(law.mean).all()


def test_laws_of_different_kinds_are_joined():
    one = Predictive.gaussian(np.zeros((2, 1)), np.eye(1))
    two = Predictive(np.full((3, 2), 0.5), np.array([[[0.0], [1.0]]] * 3), np.ones((3, 2, 1, 1)),
                     np.full((3, 2), 5.0))  # fmt: skip
    law, values = Predictive.join([one, two]), np.full((5, 1), 0.3)
    parts = np.concatenate([one.log_prob(values[:2]), two.log_prob(values[2:])])
    np.testing.assert_allclose(law.log_prob(values), parts)
    np.testing.assert_allclose(law.quantile(0.9), np.concatenate([one.quantile(0.9),
                                                                  two.quantile(0.9)]))  # fmt: skip


def test_lags_before_an_origin_are_as_they_are():
    values = np.array([[1.0], [np.nan], [3.0]])
    found = last_values(values, Ahead(np.array([1, 3]), 1), 2)
    np.testing.assert_array_equal(found[..., 0], [[1.0, 0.0], [3.0, np.nan]])
