"""Models with the row covariance integrated out: laws, simulation, forecasts, fits."""

from dataclasses import replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from tiers import cases, slow

import ssmlin
from ssmlin import learning
from ssmlin.learning._epochs import run_epochs
from ssmlin.models import IntegratedRowCov

T, M = 12, 2


def series(steps=T, seed=0):
    rng = np.random.default_rng(seed)
    return jnp.asarray(np.cumsum(rng.normal(size=(steps, M)), axis=0) / 3)


@cache
def make(row_cov="diagonal", lags=1, **options):
    model = ssmlin.LinearAttentionSSM(
        "gated_deltanet", M, M, 3, num_lags=lags, row_cov=row_cov, **options
    )
    y = series()
    u = ssmlin.lagged_inputs(y, 1)
    params, props = model.initialize(jax.random.key(1), emissions=y, inputs=u)
    return model, params, props, y, u


both = pytest.mark.parametrize("row_cov", ["diagonal", "full"])


@both
def test_likelihood_and_law_of_the_row_covariance(row_cov):
    """Where the model given Σ is tractable: p(y) = p(y | Σ) p(Σ) / p(Σ | y) at any Σ."""
    model, params, _, y, u = make("integrated_" + row_cov)
    given, _, _, _, _ = make(row_cov)
    log_p, log_p_given = (jax.jit(x.marginal_log_prob) for x in (model, given))
    log_prior, log_prior_given = (jax.jit(x.log_prior) for x in (model, given))
    posterior = model.filter(params, y, u)
    integrated = ssmlin.integrate_row_cov(posterior, y, model.row_cov.law(params.row_cov))
    for seed in range(3):
        sigma = model.row_cov.law(params.row_cov).sample(jax.random.key(seed))
        at = params._replace(row_cov=params.row_cov._replace(covariance=sigma))
        floor = model.prior.noise_floor
        if row_cov == "full":
            prior = stats.invwishart(M + 2, floor * np.eye(M)).logpdf(np.asarray(sigma))
            df, scale = integrated.row_cov
            law = stats.invwishart(float(df), np.asarray(scale)).logpdf(np.asarray(sigma))
        else:
            prior = stats.invgamma(1.5, scale=floor / 2).logpdf(sigma).sum()
            df, scale = integrated.row_cov
            law = stats.invgamma(df / 2, scale=scale / 2).logpdf(sigma).sum()
        expected = log_p_given(at, y, u) + prior - law
        # Whatever Σ the parameters hold.
        np.testing.assert_allclose(log_p(at, y, u), expected, atol=1e-8)
        np.testing.assert_allclose(log_prior(at) + prior, log_prior_given(at), atol=1e-6)
    np.testing.assert_allclose(posterior.marginal_loglik, expected, atol=1e-8)
    np.testing.assert_allclose(model.smoother(params, y, u).marginal_loglik, expected, atol=1e-8)
    assert "row_cov.covariance" not in model.prior_distributions(params)
    assert posterior.row_cov.shape == (M, M)


def test_missing_entries_masks_and_lengths():
    model, params, _, y, u = make("integrated_diagonal")
    holes = y.at[3, 0].set(jnp.nan).at[6].set(jnp.nan)
    loose = holes.at[9:].set(jnp.nan)
    whole = model.filter(params, loose, u)
    assert whole.filtered_covariances.ndim == 4  # each row has its own
    padded = model.filter(params, holes, u, length=9)
    np.testing.assert_allclose(padded.log_predictive, whole.log_predictive, atol=1e-12)
    np.testing.assert_allclose(padded.row_cov, whole.row_cov, atol=1e-12)
    masked = model.log_predictive(params, holes, u, mask=jnp.arange(T) < 9)
    np.testing.assert_allclose(masked, whole.log_predictive, atol=1e-12)
    # One row sees 9 − 2 entries, the other 9 − 1.
    law = ssmlin.integrate_row_cov(whole, loose, model.row_cov.law(params.row_cov)).row_cov
    np.testing.assert_array_equal(law.df, [10, 11])
    full, params, _, _, _ = make("integrated_full")
    with pytest.raises(ValueError, match="missing"):
        full.log_predictive(params, holes, u)
    assert np.isfinite(full.marginal_log_prob(params, holes, u, missing="rows"))


@pytest.mark.parametrize("row_cov", ["diagonal", slow("full")])
def test_posterior_draws_have_the_moments_of_the_smoother(row_cov):
    model, params, _, y, u = make("integrated_" + row_cov)
    y = y.at[4:].set(jnp.nan)  # so that Σ stays uncertain
    if row_cov == "diagonal":
        y = y.at[2, 1].set(jnp.nan)
    n = 20_000
    draws = np.asarray(model.posterior_sample(jax.random.key(0), params, y, u, n))
    posterior = jax.tree.map(np.asarray, model.smoother(params, y, u))
    scales = np.broadcast_to(
        posterior.smoothed_covariances if row_cov == "diagonal"
        else posterior.smoothed_covariances[:, None],
        (T, M, 3, 3),
    )  # fmt: skip
    variances = np.diag(posterior.row_cov)[:, None, None] * scales
    deviations = np.sqrt(np.diagonal(variances, axis1=-2, axis2=-1))
    error = (draws.mean(0) - posterior.smoothed_means) / (deviations / np.sqrt(n))
    assert np.abs(error).max() < 5
    centred = draws - draws.mean(0)
    got = np.einsum("ntmd,ntme->tmde", centred, centred) / n
    unit = deviations[..., :, None] * deviations[..., None, :]
    np.testing.assert_allclose(got / unit, variances / unit, atol=0.06)
    across = np.einsum("ntd,nte->tde", centred[:, :, 0], centred[:, :, 1]) / n
    unit = deviations[:, 0, :, None] * deviations[:, 1, None, :]
    expected = posterior.row_cov[0, 1] * scales[:, 0]
    np.testing.assert_allclose(across / unit, expected / unit, atol=0.06)
    # Each number is Student-t.
    for i, df in enumerate(3 + np.sum(~np.isnan(y), axis=0)):
        standard = deviations[:, i] * np.sqrt((df - 2) / df)
        for t in (0, T - 1):
            x = (draws[:, t, i] - posterior.smoothed_means[t, i]) / standard[t]
            assert stats.kstest(x[:, 0], stats.t(float(df)).cdf).pvalue > 1e-3
    one = jax.eval_shape(lambda key: model.posterior_sample(key, params, y, u), jax.random.key(0))
    assert one.shape == (T, M, 3)


@pytest.mark.parametrize(
    ("row_cov", "feedback"),
    [("diagonal", True), pytest.param("full", False, marks=pytest.mark.calibration)],
)
def test_one_step_predictions_are_calibrated_in_simulation(row_cov, feedback):
    """Σ from the prior, a path, and where every emission falls in its predictive law."""
    model, params, _, _, u = make("integrated_" + row_cov)
    prior = model.row_cov.law(params.row_cov)

    @jax.jit
    @jax.vmap
    def run(key):
        key, draw_key = jax.random.split(key)
        y = model.sample(params, key, T, None if feedback else u)[1]
        inputs = ssmlin.lagged_inputs(y, 1) if feedback else u
        posterior = model.filter(params, y, inputs, store="loglik")
        integrated = ssmlin.integrate_row_cov(posterior, y, prior, store="all")
        laws = integrated.predictive_row_cov
        drawn, log_density, means, covariances = model.predict_one_step(draw_key, params, y, inputs)
        df = laws.student_df
        variances = jnp.diagonal(covariances, axis1=-2, axis2=-1)
        df = jnp.broadcast_to(df if df.ndim == 2 else df[:, None], variances.shape)
        standard = jnp.sqrt(variances * (df - 2) / df)
        apart = jnp.abs(log_density - integrated.log_predictive).max()
        return (y - means) / standard, (drawn - means) / standard, df, apart

    observed, drawn, df, apart = run(jax.random.split(jax.random.key(2), 300))
    assert apart.max() < 1e-9
    for standardised in (observed, drawn):
        pit = stats.t(df).cdf(standardised)
        for i in range(M):
            assert stats.kstest(pit[..., i].ravel(), "uniform").pvalue > 1e-3
            # And at the first step, where the tails are heaviest.
            assert stats.kstest(pit[:, 0, i], "uniform").pvalue > 1e-3
    assert df[0, 0, 0] == 3


@pytest.mark.parametrize("row_cov", ["diagonal", slow("full")])
def test_forecast_is_the_mixture_over_the_row_covariance(row_cov):
    model, params, _, y, u = make("integrated_" + row_cov)
    future = jnp.asarray(np.random.default_rng(0).normal(size=(3, M)))
    n = 40_000
    result = model.forecast(
        params, y, u, horizon=3, future_inputs=future, key=jax.random.key(0), num_samples=n
    )
    # By brute force: given Σ the Gaussian model forecasts.
    given, _, _, _, _ = make(row_cov)
    posterior = ssmlin.matrix_lgssm_filter(
        jax.jit(given.to_lgssm)(params, np.concatenate([u, future])),
        np.concatenate([y, np.full((3, M), np.nan)]),
    )
    result, posterior = jax.tree.map(np.asarray, (result, posterior))
    last = ssmlin.integrate_row_cov(
        model.filter(params, y, u), y, model.row_cov.law(params.row_cov)
    ).row_cov
    drawn = np.asarray(last.sample(jax.random.key(1), (n,)))
    variances = np.diagonal(drawn, axis1=-2, axis2=-1) if row_cov == "full" else drawn
    deviations = np.sqrt(posterior.emission_scales[-3:, None, None] * variances)  # (3, n, m)
    means = posterior.emission_means[-3:]
    np.testing.assert_allclose(result.means, means, atol=1e-10)
    for level, lower, upper in zip(result.levels, result.lower, result.upper, strict=True):
        half = stats.norm.cdf((upper - means)[:, None] / deviations)
        np.testing.assert_allclose(half.mean(axis=1), 0.5 + 0.5 * level, atol=4e-3)
        np.testing.assert_allclose(upper - means, means - lower, atol=1e-10)
        inside = (result.samples > lower) & (result.samples < upper)
        np.testing.assert_allclose(inside.mean(axis=0), level, atol=1.2e-2)
    centred = result.samples - result.samples.mean(0)
    covariances = np.einsum("nti,ntj->tij", centred, centred) / n
    scale = np.sqrt(np.diagonal(result.covariances, axis1=-2, axis2=-1))
    unit = scale[:, :, None] * scale[:, None, :]
    np.testing.assert_allclose(covariances / unit, result.covariances / unit, atol=0.05)


def test_forecast_that_feeds_back_agrees_with_the_exact_one_step_ahead():
    model, params, _, y, u = make("integrated_full")
    exact = model.forecast(params, y, u, horizon=1, future_inputs=y[-1:])
    fed = model.forecast(params, y, u, horizon=2, num_samples=40_000)
    exact, fed = jax.tree.map(np.asarray, (exact, fed))
    scale = np.sqrt(np.diagonal(exact.covariances[0]))
    np.testing.assert_allclose(fed.means[0], exact.means[0], atol=0.03 * scale.max())
    np.testing.assert_allclose(
        fed.covariances[0] / scale**2, exact.covariances[0] / scale**2, atol=0.08
    )
    np.testing.assert_allclose(fed.lower[:, 0], exact.lower[:, 0], atol=0.06 * scale.max())
    np.testing.assert_allclose(fed.upper[:, 0], exact.upper[:, 0], atol=0.06 * scale.max())


@pytest.mark.calibration
def test_posterior_of_the_parameters():
    model, params, props, y, u = make("integrated_diagonal")
    with pytest.warns(RuntimeWarning, match="normal approximation"):  # three draws say little
        draws = ssmlin.sample_posterior(
            jax.random.key(0), model, params, props, y, u, algorithm="laplace", num_chains=1,
            variables=("alpha", "regression.bias"), num_samples=3, states=True,
            posterior_predictive=True, progress=False,
        )  # fmt: skip
    assert draws.posterior["regression_bias"].std() > 0
    assert draws.posterior["states"].shape == (1, 3, T, M, 3)
    assert np.isfinite(draws.posterior_predictive["emissions"]).all()
    with pytest.raises(ValueError, match="variables"):
        ssmlin.sample_posterior(
            jax.random.key(0), model, params, props, y, u, variables="row_cov", progress=False
        )


@pytest.mark.calibration
def test_predicts_unseen_steps_of_a_short_series_better_than_the_plug_in():
    train, gains = 30, []
    models = [make(kind)[0] for kind in ("diagonal", "integrated_diagonal")]
    for seed in range(4):
        rng = np.random.default_rng(seed)
        noise = rng.normal(size=(train + 200, M))
        y = 0.5 * noise[:, ::-1].cumsum(axis=1) + rng.normal(size=noise.shape)
        y = jnp.asarray((y - y[:train].mean(0)) / y[:train].std(0))
        u = ssmlin.lagged_inputs(y, 1)
        scores = []
        for model in models:
            start, props = model.initialize(emissions=y[:train], inputs=u[:train])
            fitted, _ = model.fit_sgd(
                start, props, y[:train], u[:train], num_epochs=100, validation_fraction=0.0,
                patience=None, progress=False,
            )  # fmt: skip
            scores.append(model.log_predictive(fitted, y, u)[train:].mean())
        gains.append(scores[1] - scores[0])
    assert min(gains) > 0


@pytest.mark.float32
def test_single_precision():
    model = ssmlin.LinearAttentionSSM(
        "gated_deltanet", M, M, 3, num_lags=1, row_cov="integrated_full"
    )
    y = series().astype(jnp.float32)
    u = model.compute_inputs(y)
    params, props = model.initialize(emissions=y, inputs=u)
    log_prob = partial(model.marginal_log_prob, emissions=y, inputs=u)
    value, grad = jax.jit(jax.value_and_grad(log_prob))(params)
    assert value.dtype == jnp.float32
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(grad))

    def forecast(params):
        """Traced alone: to look at the types nothing needs to be compiled."""
        found = model.forecast(params, y, u, horizon=2, future_inputs=u[:2])
        assert {x.dtype for x in found if x is not None} == {jnp.dtype(jnp.float32)}
        return found

    jax.eval_shape(forecast, params)


def test_settings_and_errors():
    model, params, props, y, u = make("integrated_diagonal")
    with pytest.raises(ValueError, match="row_cov: expected one that is not integrated out"):
        model.fit_em(params, props, y, u)
    assert model.settings["row_cov"] == "integrated_diagonal"
    with pytest.raises(ValueError, match="row_cov: expected 'diagonal' or 'full' to integrate"):
        IntegratedRowCov("identity")
    # The prior's scale is relative to the variance of the series.
    wide = ssmlin.LinearAttentionSSM(
        "gated_deltanet", M, M, 3, row_cov="integrated_diagonal",
        prior=replace(ssmlin.ShrinkagePrior(), series_variance=4.0),
    )  # fmt: skip
    params, _ = wide.initialize()
    np.testing.assert_allclose(wide.row_cov.law(params.row_cov).scale, 4 * 0.05)


@pytest.mark.parametrize("row_cov", cases(["diagonal", "full"], "full"))
def test_fits_with_any_discount_share_a_program(row_cov):
    """And they are those of the model with the discount as a part of it."""
    sizes = []
    for discount in (1.0, 0.9, 0.8):
        part = IntegratedRowCov(row_cov, discount=discount)
        model, params, props, y, u = make(part)
        data = (
            y[None, : T - 1].at[0, 5, 0].set(jnp.nan if row_cov == "diagonal" else 0.3),
            u[None, : T - 1],
        )
        options = dict(num_epochs=25, validation_fraction=0.0, progress=False)
        fitted, history = model.fit_sgd(params, props, *data, return_history=True, **options)
        sizes.append(run_epochs._cache_size())
        assert history.losses[-1] < history.losses[0]
        np.testing.assert_array_equal(fitted.row_cov.covariance, params.row_cov.covariance)
        assert model.without_discount() == make(IntegratedRowCov(row_cov))[0]
        if discount == 0.8:  # its own program would show nothing that that of 0.9 does not
            continue
        alone, expected = learning.fit_sgd(model, params, props, *data, **options)
        np.testing.assert_allclose(history.losses, expected.losses, rtol=1e-9)
        for a, b in zip(jax.tree.leaves(fitted), jax.tree.leaves(alone), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-9)
    assert sizes[1] == sizes[0] + 1 and sizes[2] == sizes[1] + 1  # those of the models alone
