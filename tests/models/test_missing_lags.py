"""Missing lags, integrated out: against sums over a grid, statsmodels, closed forms, whole data."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp
from statsmodels.tsa.api import SARIMAX, VARMAX
from tiers import cases, slow

import ssmlin
from ssmlin.learning import fit_sgd
from ssmlin.models import IntegratedRowCov, ParamsRegression
from ssmlin.models._autoregression import (
    Autoregression,
    estimate_autoregression,
    predict_autoregression,
)
from ssmlin.models._missing_lags import _spread_normal

T = 9


def make(num_lags=2, m=1, **options):
    """A gated model whose memory writes, and a series."""
    rng = np.random.default_rng(num_lags + m)
    y = jnp.asarray(np.sin(np.arange(T)[:, None] + np.arange(m)) + 0.5 * rng.normal(size=(T, m)))
    model = ssmlin.LinearAttentionSSM(
        "gated_deltanet", m, m * num_lags, 2, num_lags=num_lags, **options
    )
    params, _ = model.initialize(emissions=y, inputs=model.compute_inputs(y))
    values = params.tokens.values
    weights = 0.5 * jax.random.normal(jax.random.key(1), values.weights.shape)
    values = values._replace(weights=weights)
    return model, params._replace(tokens=params.tokens._replace(values=values)), y


KINDS = [
    {},
    {"m": 2, "row_cov": IntegratedRowCov("full", discount=0.9)},
    {"m": 2, "row_cov": "integrated_diagonal", "regression": "integrated"},
]


@pytest.mark.parametrize(
    "options", [*KINDS[:2], slow(KINDS[2])], ids=["gaussian", "student", "student of each row"]
)
def test_draws_equal_a_sum_over_a_grid(options):
    """One entry is missing, in the middle; without it all is exactly the filter's."""
    model, params, y = make(**options)
    gap = y.at[4, 0].set(jnp.nan)
    found = model.particle_filter(params, gap, model.compute_inputs(gap), num_particles=10_000)
    grid = jnp.linspace(y[3, 0] - 20, y[3, 0] + 20, 1601)

    @jax.jit
    @jax.vmap
    def on_grid(value):
        whole = y.at[4, 0].set(value)
        posterior = model.filter(params, whole, model.compute_inputs(whole), store="loglik")
        return posterior.log_predictive, posterior.emission_means

    terms, means = map(np.asarray, on_grid(grid))
    # Sums over the grid of what is known up to each step; the step of the gap is integrated over.
    log_step = np.log(float(grid[1] - grid[0]))
    known = logsumexp(np.cumsum(terms, axis=1) + log_step, axis=0)
    known[:4] = np.cumsum(terms[0])[:4]
    np.testing.assert_allclose(np.cumsum(found.log_predictive)[:4], known[:4], atol=1e-9)
    np.testing.assert_allclose(np.cumsum(found.log_predictive)[4:], known[4:], atol=0.02)
    weights = np.exp(np.asarray(found.log_weights))
    mixed = np.einsum("tn,tnm->tm", weights, found.emission_means)
    for t in range(5, T):
        share = np.exp(terms[:, :t].sum(axis=1) + log_step - known[t - 1])
        np.testing.assert_allclose(mixed[t], share @ means[:, t], atol=0.02)


def _series(weights, steps, seed=3):
    rng = np.random.default_rng(seed)
    num_lags, m = len(weights), len(weights[0])
    y = np.zeros((steps + 50, m))
    for t in range(num_lags, steps + 50):
        y[t] = sum(w @ y[t - 1 - i] for i, w in enumerate(weights)) + rng.normal(size=m)
    return y[50:]


def _gaps(y, kind):
    """The series with gaps."""
    y, rng = y.copy(), np.random.default_rng(1)
    if kind == "blocks":
        for start in (40, 90, 140):
            y[start : start + 20] = np.nan
    elif kind == "end":
        y[-20:] = np.nan
    else:
        y[rng.random(y.shape) < kind] = np.nan
    return y


CASES = {
    "AR(1)": [np.array([[0.9]])],
    "AR(3)": [np.array([[0.5]]), np.array([[0.3]]), np.array([[-0.4]])],
    "VAR(2)": [np.array([[0.5, 0.2], [-0.1, 0.4]]), np.array([[0.2, 0.0], [0.1, -0.3]])],
}
STEPS = 200


def _statsmodels(weights, y):
    """Predictions of statsmodels with these weights and noise I."""
    num_lags, m = len(weights), y.shape[1]
    if m == 1:
        model = SARIMAX(y[:, 0], order=(num_lags, 0, 0))
        result = model.filter([*(float(w[0, 0]) for w in weights), 1.0])
    else:
        model = VARMAX(y, order=(num_lags, 0), trend="n")
        result = model.filter([*np.concatenate(weights, axis=1).ravel(), 1.0, 0.0, 1.0])
    found = result.filter_results
    return found.forecasts.T, np.moveaxis(found.forecasts_error_cov, 2, 0)


def an_autoregression(name):
    """An attention that writes nothing: an autoregression; with its data."""
    weights = CASES[name]
    m, num_lags = len(weights[0]), len(weights)
    model = ssmlin.LinearAttentionSSM(
        "mamba2",
        m,
        m * num_lags,
        1,
        num_lags=num_lags,
        process_noise="none",
        gates="constant",
        row_cov="full",
    )
    params, _ = model.initialize()
    params = params._replace(
        initial=params.initial._replace(variances=jnp.zeros(1)),
        regression=ParamsRegression(
            weights=jnp.asarray(np.concatenate(weights, axis=1)), bias=jnp.zeros(m)
        ),
        row_cov=params.row_cov._replace(covariance=jnp.eye(m)),
    )
    return weights, model, params, _series(weights, STEPS)


@pytest.fixture(scope="module", params=cases(CASES, "AR(1)", "VAR(2)"))
def autoregressive(request):
    return an_autoregression(request.param)


@pytest.mark.parametrize("kind", [0.05, 0.2, 0.5, "blocks", "end"])
def test_autoregressions_predict_as_statsmodels_does(autoregressive, kind):
    weights, model, params, whole = autoregressive
    num_lags, m = len(weights), whole.shape[1]
    y = _gaps(whole, kind)
    means, covariances = _statsmodels(weights, y)
    deviations = np.sqrt(np.diagonal(covariances, axis1=1, axis2=2))
    part = slice(30, None)  # the first steps differ: statsmodels starts in the stationary law

    found = model.particle_filter(params, jnp.asarray(y), model.compute_inputs(jnp.asarray(y)))
    share = np.exp(np.asarray(found.log_weights))
    mean = np.einsum("tn,tnm->tm", share, found.emission_means)
    apart = np.asarray(found.emission_means) - mean[:, None]
    variances = np.diagonal(np.asarray(found.emission_scales), axis1=2, axis2=3)
    spread = np.sqrt(np.einsum("tn,tnm->tm", share, variances + apart**2))
    np.testing.assert_allclose(mean[part], means[part], atol=0.05)
    np.testing.assert_allclose(spread[part], deviations[part], rtol=0.05)

    exact = Autoregression(np.concatenate(weights, axis=1), np.zeros(m), np.eye(m))
    no_inputs = np.zeros((STEPS, 0))
    laws = predict_autoregression(exact, y, no_inputs, num_lags, np.zeros(m), np.full(m, 4.0))
    np.testing.assert_allclose(laws.means[part], means[part], atol=1e-3)
    np.testing.assert_allclose(laws.covariances[part], covariances[part], rtol=1e-3, atol=1e-3)


def test_a_gap_at_the_end_is_a_longer_forecast(autoregressive):
    weights, model, params, whole = autoregressive
    y = jnp.asarray(_gaps(whole, "end"))
    found = model.forecast(params, y, model.compute_inputs(y), 3, num_samples=4000)
    short = y[:-20]
    longer = model.forecast(params, short, model.compute_inputs(short), 23, num_samples=4000)
    means, covariances = _statsmodels(
        weights, np.concatenate([y, np.full((3, y.shape[1]), np.nan)])
    )
    np.testing.assert_allclose(found.means, means[-3:], atol=0.15)
    np.testing.assert_allclose(found.covariances, covariances[-3:], rtol=0.1, atol=0.15)
    np.testing.assert_allclose(found.means, longer.means[-3:], atol=0.25)


def _imputed(model, params, y):
    """Of six steps each, so that all share a program."""
    inputs = model.compute_inputs(y)
    return model.impute(jax.random.key(0), params, y, inputs, 2000, num_particles=256)


def test_imputed_values_have_the_law_given_both_neighbours():
    model, params, _ = _ar1()
    y = jnp.array([[0.5], [1.0], [jnp.nan], [-1.0], [0.0], [0.0]])
    ys, us = _imputed(model, params, y)
    drawn, phi = np.asarray(ys)[:, 2, 0], 0.9
    variance = 1 / (1 + phi**2)
    assert abs(drawn.mean() - variance * phi * (1.0 - 1.0)) < 5 * np.sqrt(variance / 2000)
    np.testing.assert_allclose(drawn.var(), variance, rtol=0.15)
    np.testing.assert_array_equal(us[:, 3, 0], drawn)
    np.testing.assert_array_equal(
        np.delete(ys, 2, 1), np.broadcast_to(np.delete(y, 2, 0), (2000, 5, 1))
    )


def _ar1(phi=0.9):
    model = ssmlin.LinearAttentionSSM(
        "mamba2", 1, 1, 1, num_lags=1, process_noise="none", gates="constant"
    )
    params, props = model.initialize()
    params = params._replace(
        initial=params.initial._replace(variances=jnp.zeros(1)),
        regression=ParamsRegression(weights=jnp.array([[phi]]), bias=jnp.zeros(1)),
        row_cov=params.row_cov._replace(covariance=jnp.ones(1)),
    )
    return model, params, props


def test_what_follows_the_last_observation_stays_missing():
    model, params, _ = _ar1()
    y = jnp.array([[jnp.nan], [1.0], [jnp.nan], [-1.0], [jnp.nan], [jnp.nan]])
    ys, us = _imputed(model, params, y)
    expected = np.broadcast_to([False] * 4 + [True] * 2, (2000, 6))
    np.testing.assert_array_equal(np.isnan(ys)[..., 0], expected)
    assert not np.isnan(us).any()


def test_a_masked_emission_is_a_lag_alone():
    """Hidden by a mask or by NaN, with its value among the lags, an emission tells the same."""
    model, params, y = make()
    u, mask = model.compute_inputs(y), jnp.arange(T) >= 2
    by_mask = model.particle_filter(params, y, u, num_particles=8, mask=mask)
    by_nan = jax.jit(model.log_predictive)(params, y.at[:2].set(jnp.nan), u)
    np.testing.assert_allclose(by_mask.log_predictive, by_nan, atol=1e-10)
    found = model.forecast(params, y, u, 2, mask=mask, key=jax.random.key(1))
    hidden = y.at[:2].set(jnp.nan)
    assert T > 4  # so that the last lags are not hidden
    expected = model.forecast(params, hidden, u, 2, key=jax.random.key(1))
    np.testing.assert_allclose(found.means, expected.means, atol=1e-10)
    # One row that serves as a lag alone: the forecast goes on from it.
    ar, ar_params, _ = _ar1()
    one = jnp.array([[3.0]])
    ahead = ar.forecast(
        ar_params, one, ar.compute_inputs(one), 1, mask=jnp.array([False]), num_samples=4000
    )
    np.testing.assert_allclose(ahead.means[0], 2.7, atol=0.1)


def test_forecast_under_jit_draws_what_may_be_missing():
    _, model, params, whole = an_autoregression("AR(1)")
    y = jnp.asarray(_gaps(whole, "end"))

    @jax.jit
    def forecast(y):
        return model.forecast(params, y, model.compute_inputs(y), 3, num_samples=4000).means

    eager = model.forecast(params, y, model.compute_inputs(y), 3, num_samples=4000).means
    np.testing.assert_allclose(forecast(y), eager, atol=1e-8)


def test_known_data_inside_jit_are_looked_at():
    """What a compiled function closes over is known, though parts of it are traced."""
    model, params, y = make()
    u = model.compute_inputs(y)
    found = jax.jit(lambda p: model.marginal_log_prob(p, y, u))(params)
    np.testing.assert_allclose(found, model.marginal_log_prob(params, y, u))
    gap = model.compute_inputs(y.at[3].set(jnp.nan))
    with pytest.raises(ValueError, match="impute"):
        jax.jit(lambda p: model.marginal_log_prob(p, y, gap))(params)


def test_spread_numbers_are_normal_and_finite_in_single_precision():
    means = jnp.zeros((4096, 2), jnp.float32)
    keys = jax.random.split(jax.random.key(0), 200)
    spread = jax.jit(jax.vmap(lambda key: _spread_normal(key, means)))
    found = np.asarray(spread(keys), np.float64)
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found.mean(axis=1), 0, atol=2e-2)
    np.testing.assert_allclose(found.var(axis=1), 1, atol=2e-2)
    np.testing.assert_allclose(found.prod(axis=2).mean(axis=1), 0, atol=5e-2)
    # The ends of the unit interval are never reached.
    ends = np.array([0, 2**23 - 1], np.float32) / np.float32(2**23) + np.float32(0.5**24)
    assert 0 < ends[0] and ends[1] < 1


def test_a_first_value_that_is_missing_is_as_wide_as_the_series():
    """No lag of it is known; it is not the value that lags of zero would predict."""
    model, params, _ = _ar1(0.99)
    row_cov = jnp.array([1 - 0.99**2])
    params = params._replace(row_cov=params.row_cov._replace(covariance=row_cov))
    y = jnp.full((6, 1), 2.0).at[0].set(jnp.nan)
    ys = np.asarray(_imputed(model, params, y)[0])
    assert abs(float(ys[:, 0].mean()) - 2.0) < 0.1 and float(ys[:, 0].std()) < 0.3


@pytest.mark.slow
def test_what_is_masked_in_part_moves_nothing():
    model, params, y = make(m=2, num_lags=1, row_cov="full")
    gap = y.at[0, 1].set(jnp.nan)
    mask = jnp.arange(T) >= 1
    found = model.particle_filter(params, gap, model.compute_inputs(gap), mask=mask)
    # Every draw of the second entry goes with the first, which is a lag as it is.
    np.testing.assert_array_equal(
        found.emission_means[0], np.broadcast_to(found.emission_means[0, :1], (1000, 2))
    )
    whole = model.particle_filter(params, y, model.compute_inputs(y), mask=mask, num_particles=2)
    assert found.log_predictive[0] == whole.log_predictive[0] == 0


# ------------------------------------------------------------------------------------- fits


@pytest.mark.parametrize("kind", [0.2, 0.5, "blocks"])
def test_the_likeliest_autoregression_is_that_of_statsmodels(kind):
    y = _gaps(_series(CASES["AR(3)"], 400), kind)
    found = estimate_autoregression(y[None], np.zeros((1, 400, 0)), 3)
    result = SARIMAX(y[:, 0], order=(3, 0, 0), trend="c").fit(disp=0)
    np.testing.assert_allclose(
        [*found.bias, *found.weights[0], *found.covariance[0]], result.params, atol=0.03
    )


def test_a_start_sees_through_gaps_that_leave_no_pair_of_neighbours():
    """With every second value missing no step has its lag; the right answer is 0.9, not 0.8."""
    whole = _series(CASES["AR(1)"], 2000)
    whole[::2] = np.nan
    y = jnp.asarray(whole)
    model, *_ = _ar1()
    params, _ = model.initialize(emissions=y, inputs=model.compute_inputs(y))
    np.testing.assert_allclose(params.regression.weights, 0.9, atol=0.03)
    np.testing.assert_allclose(params.row_cov.covariance, 1.0, rtol=0.1)


def test_the_start_of_a_fit_does_not_see_the_part_it_is_judged_by():
    y = _gaps(_series(CASES["AR(1)"], 2000), 0.2)  # as long as above: one program
    model, *_ = _ar1()
    first = np.where(np.arange(2000)[:, None] < 60, y, np.nan)
    changed = np.where(np.arange(2000)[:, None] < 60, y, 7 * y)
    starts = [
        model.initialize(emissions=jnp.asarray(first), inputs=model.compute_inputs(jnp.asarray(x)))
        for x in (y, changed)
    ]
    for x, z in zip(*(jax.tree.leaves(start[0]) for start in starts), strict=True):
        np.testing.assert_array_equal(x, z)


@pytest.mark.slow
def test_copies_of_a_series_weigh_as_much_as_one():
    model, _, y = make()
    u = model.compute_inputs(y)
    params, props = model.initialize(emissions=y, inputs=u)
    options = {"validation_fraction": 0.0, "num_epochs": 5, "patience": None, "progress": False}
    once, _ = fit_sgd(model, params, props, y[None], u[None], **options)
    twice, _ = fit_sgd(
        model, params, props, jnp.stack([y, y]), jnp.stack([u, u]), prior_weight=2.0, **options
    )
    for x, z in zip(jax.tree.leaves(once), jax.tree.leaves(twice), strict=True):
        np.testing.assert_allclose(x, z, atol=1e-6)


@pytest.mark.calibration
def test_a_fit_with_gaps_comes_close_to_one_without(tmp_path):
    """Held out, a fit to four fifths of the values is within a tenth of a nat of one to all."""
    rng = np.random.default_rng(0)
    y = _series(CASES["AR(3)"], 300, seed=5)
    y = jnp.asarray((y - y.mean()) / y.std())
    gap = jnp.where(jnp.asarray(rng.random(y.shape) < 0.2) & (jnp.arange(300) < 200)[:, None],
                    jnp.nan, y)  # fmt: skip
    model = ssmlin.LinearAttentionSSM("bayesian_memory", 1, 3, 4, num_lags=3)
    scores = []
    for series in (y, gap):
        train = series[:200]
        params, history = model.fit(
            train, model.compute_inputs(train), num_epochs=60, progress=False,
            checkpoint_dir=tmp_path / str(len(scores)),
        )  # fmt: skip
        assert np.isfinite(history.losses).all()
        found = model.particle_filter(
            params, series, model.compute_inputs(series), num_particles=200
        )
        scores.append(float(found.log_predictive[200:].mean()))
    assert abs(scores[0] - scores[1]) < 0.1
    assert scores[1] > -1.3  # a constant law has -1.42


# ------------------------------------------------------------------------------------- errors


def test_what_needs_known_lags_says_so():
    model, params, y = make()
    gap = y.at[4].set(jnp.nan)
    u, props = model.compute_inputs(gap), model.param_props
    for call in (
        lambda: model.filter(params, gap, u),
        lambda: model.smoother(params, gap, u),
        lambda: model.fit_sgd(params, props, gap, u),
        lambda: model.fit_em(params, props, gap, u),
        lambda: model.forecast(params, gap, u, 1, future_inputs=u[-1:]),
    ):
        with pytest.raises(ValueError, match="inputs: expected lags that are known, got a missing "
                                             "one at step 6.*impute"):  # fmt: skip
            call()
    outside = ssmlin.LinearAttentionSSM("gated_deltanet", 1, 2, 2, num_lags=1)
    ones = jnp.ones((T, 1)).at[3].set(jnp.nan)
    with pytest.raises(ValueError, match="inputs: expected finite values"):
        outside.initialize(emissions=y, inputs=outside.compute_inputs(y, exogenous=ones))
