"""Series of nearby lengths share compiled programs, and padding changes no number."""

import collections

import jax
import numpy as np
import pytest
from tiers import cases

import ssmlin
from ssmlin._buckets import bucket
from ssmlin.forecasting import (
    Ahead,
    Observed,
    best_discount,
    fit_attention,
    predictive,
    sample_paths,
    with_lags,
)
from ssmlin.models import IntegratedRowCov, LinearAttentionSSM

STEPS, LAGS = 41, 2


def wave(steps, m=1, seed=0):
    rng = np.random.default_rng(seed)
    y = np.sin(np.arange(steps)[:, None] / 3 + np.arange(m)) + 0.3 * rng.normal(size=(steps, m))
    return Observed.of(y, rng.normal(size=(steps, 1)))


def made(row_cov, m=1):
    model = LinearAttentionSSM(
        "gated_deltanet", m, LAGS * m + 1, 3, num_lags=LAGS, row_cov=row_cov,
        regression="integrated",
    )  # fmt: skip
    observed = wave(STEPS, m)
    params, _ = model.initialize(emissions=with_lags(model, observed)[0],
                                 inputs=with_lags(model, observed)[1])  # fmt: skip
    return model, params, observed


KINDS = {
    "diagonal": ("diagonal", 2),
    "integrated": (IntegratedRowCov("diagonal", discount=0.9), 1),
    "full": (IntegratedRowCov("full", discount=0.95), 2),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_laws_are_those_of_the_filter_without_padding(kind):
    model, params, observed = made(*KINDS[kind])
    observed.values[-1] = np.nan  # the lag of no step
    law = predictive(model, params, observed)
    y, u = with_lags(model, observed)
    assert bucket(STEPS) > STEPS == len(law.means)
    posterior = model.filter(params, y, u)
    np.testing.assert_allclose(law.means[:, 0], posterior.emission_means, atol=1e-5)
    scales = np.asarray(posterior.emission_scales)
    scales = scales[:, None, None] if scales.ndim == 1 else scales[:, :, None]
    if not model.row_cov.is_integrated:
        rows = np.asarray(posterior.row_cov)
        np.testing.assert_allclose(law.scales[:, 0], scales * rows, atol=1e-5)
        return
    laws = model.row_cov_posterior(params, posterior, y, store="all").predictive_row_cov
    df = np.asarray(laws.student_df).reshape(STEPS)
    rows = np.asarray(laws.scale).reshape(law.scales.shape)[:, 0] / df[:, None, None]
    np.testing.assert_allclose(law.scales[:, 0], scales * rows, rtol=1e-4)
    np.testing.assert_allclose(law.df[:, 0], df, rtol=1e-5)


@pytest.mark.parametrize("kind", cases(KINDS, "diagonal"))
def test_another_bucket_gives_the_same_forecasts(kind, monkeypatch):
    model, params, observed = made(*KINDS[kind])
    ahead = Ahead(np.array([30, 33, 35]), 5, num_samples=20)
    y, u = with_lags(model, observed)
    future = np.ones((3, 1), np.float32)

    def found():
        forecast = model.forecast(params, y, u, 3, future_inputs=future, num_samples=20)
        known = model.forecast(params, y, u, 3, future_inputs=u[:3])
        return [sample_paths(model, params, observed, ahead), *forecast, *known[:-1]]

    once = found()

    def larger(x, value):
        return np.pad(x, [(0, 23), (0, 0)], constant_values=value)

    monkeypatch.setattr("ssmlin.models._forecasting.in_bucket", larger)
    monkeypatch.setattr("ssmlin.forecasting._laws.in_bucket", larger)
    # Draws of a Σ that is integrated out depend on how many origins they are drawn for.
    for module in ("models._forecasting", "forecasting._paths"):
        if module.startswith("models") or not model.row_cov.is_integrated:
            monkeypatch.setattr(f"ssmlin.{module}.bucket", lambda n: bucket(n) + 4)
    for a, b in zip(once, found(), strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, atol=1e-4)


@pytest.mark.parametrize("kind", ["integrated", "full"])
def test_the_discount_is_that_of_single_likelihoods(kind):
    model, params, observed = made(*KINDS[kind])
    y, u = with_lags(model, observed)
    discounts = (1.0, 0.9, 0.8)
    posterior = model.filter(params, y, u)
    prior = model.row_cov.law(params.row_cov)
    totals = [float(ssmlin.integrate_row_cov(posterior, y, prior, discount=x).marginal_loglik)
              for x in discounts]  # fmt: skip
    seen = []

    def chosen(found, default):
        seen.append(found.copy())
        return 0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ssmlin.forecasting._discount.most_likely", chosen)
        for windows in ([(y, u)], [(y[:17], u[:17]), (y[17:30], u[17:30]), (y[30:], u[30:])]):
            best_discount(model, params, [iter(windows)], discounts)
    np.testing.assert_allclose(seen, [totals, totals], atol=2e-3)


def test_a_second_series_of_a_similar_length_compiles_next_to_nothing():
    compiled = collections.Counter()

    def count(event, seconds, fun_name="", **_):
        if event == "/jax/core/compile/backend_compile_duration":
            compiled[str(fun_name)] += 1

    def evaluated(mechanism, train, steps, seed):
        compiled.clear()
        observed = wave(steps, seed=seed)
        fitted = fit_attention(observed.until(train), 0, mechanism=mechanism, num_lags=LAGS,
                               key_dim=3, num_epochs=3)  # fmt: skip
        fitted.predict(observed)
        fitted.simulate(observed, Ahead(np.arange(train, train + 5), 6, num_samples=10))
        return sum(compiled.values())

    jax.monitoring.register_event_duration_secs_listener(count)
    try:
        evaluated("mamba2", 61, 85, 0)
        assert evaluated("mamba2", 58, 82, 1) <= 4, compiled
        # What does not depend on the mechanism is there already.
        assert evaluated("gla", 58, 82, 1) <= 14, compiled
    finally:
        jax.monitoring.unregister_event_duration_listener(count)
