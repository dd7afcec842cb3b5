"""Mixtures of laws, dynamic model averaging, seasons, and softmax attention."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from ssmlin.attention import softmax_attention
from ssmlin.comparison import compare_models, compare_series
from ssmlin.comparison._averaging import average, dynamic_weights
from ssmlin.comparison._tables import pooled_frame
from ssmlin.comparison.baselines._autoregression import fit_autoregression
from ssmlin.comparison.baselines._baseline import fit_seasonal
from ssmlin.data import Series
from ssmlin.forecasting import Ahead, Observed, Predictive, choose_regression, with_season


def test_a_mixture_of_a_gaussian_and_a_student():
    rng = np.random.default_rng(0)
    gaussian = Predictive.gaussian(rng.normal(size=(5, 1)), np.eye(1))
    student = Predictive.gaussian(rng.normal(size=(5, 1)), 2 * np.eye(1))._replace(
        df=np.full((5, 1), 4.0)
    )
    weights = rng.dirichlet([1, 1], size=5)
    mixed = Predictive.mixture([gaussian, student], weights)
    y = rng.normal(size=(5, 1))
    z = stats.norm(gaussian.means[:, 0, 0], 1), stats.t(4, student.means[:, 0, 0], np.sqrt(2))
    density = sum(w * law.pdf(y[:, 0]) for w, law in zip(weights.T, z, strict=True))
    assert np.allclose(mixed.log_prob(y), np.log(density), atol=1e-12)
    below = sum(w * law.cdf(y[:, 0]) for w, law in zip(weights.T, z, strict=True))
    assert np.allclose(mixed.cdf(y)[:, 0], below, atol=1e-12)
    assert np.allclose(mixed.cdf(mixed.quantile(0.3)), 0.3, atol=1e-9)
    draws = mixed.sample(np.random.default_rng(1), 20_000)[..., 0]
    assert np.allclose((draws <= y).mean(axis=1), below, atol=0.02)


def test_weights_forget_as_published():
    rng = np.random.default_rng(0)
    terms = rng.normal(size=(6, 3))
    terms[2] = np.nan  # not observed: nothing is learned
    found = dynamic_weights(terms, 0.9)
    weights = np.full(3, 1 / 3)
    for t in range(6):
        # Raftery's two steps: flatten what was believed, then learn from the step.
        assert np.allclose(found[t], weights, atol=1e-12)
        flat = weights**0.9 / np.sum(weights**0.9)
        weights = flat * np.exp(np.nan_to_num(terms[t]))
        weights = weights / weights.sum()


def test_the_average_looks_back_only_and_mixes_paths(comparison):
    found = comparison
    done = {r.name: r for r in found.results}
    whole = done.pop("average")
    members = [done["mamba2"], done["deltanet"]]
    assert whole.details.names == ("mamba2", "deltanet")  # as they were registered
    low, high = sorted(r.log_density for r in members)
    assert low - 1e-9 <= whole.log_density  # a mixture loses at most what its worst part does
    assert whole.paths is not None and np.isnan(whole.paths.crps).sum() == 2  # one entry is missing
    changed = found.split.observed.values.copy()
    changed[-1] += 5
    split = found.split
    other = average(members, dataclasses.replace(split, observed=Observed.of(changed)), 2)
    assert np.array_equal(other.predictive.weights, whole.predictive.weights)
    pool = np.concatenate([r.draws for r in members], axis=1)
    for origin, drawn in zip(pool, whole.draws, strict=True):
        rows = {path.tobytes() for path in origin}
        assert all(path.tobytes() in rows for path in drawn)


def test_a_season_is_found_where_there_is_one():
    rng = np.random.default_rng(0)
    t = np.arange(120)
    noise = 0.3 * rng.normal(size=120)
    seasonal = Observed.of((np.sin(2 * np.pi * t / 12) + noise)[:, None])
    assert choose_regression(seasonal, 12) == (0, 12)
    assert choose_regression(seasonal, None)[1] is None
    assert choose_regression(Observed.of(noise[:, None]), 12) == (0, None)
    waves = with_season(seasonal, 12).inputs
    # They span all functions of period 12 with mean zero.
    assert waves.shape == (120, 11) and np.linalg.matrix_rank(waves) == 11
    assert np.allclose(waves[:12], waves[12:24]) and np.allclose(waves.sum(axis=0), 0)
    assert with_season(seasonal, 365).inputs.shape == (120, 12)
    fitted = fit_seasonal(seasonal, 0, fit=fit_autoregression, seasonal=12, num_lags=0)
    errors = seasonal.values - fitted.predict(seasonal).mean
    assert 0.2 < errors.std() < 0.4
    paths = fitted.simulate(seasonal.until(110), Ahead(np.array([60]), 24))
    assert np.abs(paths.mean(axis=1)[0, :, 0] - np.sin(2 * np.pi * t[60:84] / 12)).max() < 0.4


# ------------------------------------------------------------------------------ softmax attention


def test_causal_softmax_attention_equals_a_loop():
    rng = np.random.default_rng(0)
    q, k, v = rng.normal(size=(7, 3)), rng.normal(size=(7, 3)), rng.normal(size=(7, 2))
    found = softmax_attention(jnp.asarray(q), jnp.asarray(k), jnp.asarray(v))
    for t in range(7):
        share = np.exp(k[: t + 1] @ q[t] / np.sqrt(3))
        assert np.allclose(found[t], share @ v[: t + 1] / share.sum(), atol=1e-12)
    with pytest.raises(ValueError, match="keys: expected the queries' shape"):
        softmax_attention(jnp.asarray(q), jnp.asarray(k[:5]), jnp.asarray(v))
    with pytest.raises(ValueError, match="bias: expected shape"):
        softmax_attention(jnp.asarray(q), jnp.asarray(k), jnp.asarray(v), bias=jnp.zeros(7))


# ------------------------------------------------------------------------------ panels


def test_a_panel_of_unequal_lengths_equals_its_series_one_by_one():
    rng = np.random.default_rng(0)
    panel = [
        Series(name, np.cumsum(rng.normal(size=(steps, 1)), axis=0), np.arange(steps), ("y",), "")
        for name, steps in (("a", 60), ("b", 90))
    ]
    models = ["persistence", "autoregression"]
    together = compare_series(panel, models, progress=False, horizon=2)
    table = pooled_frame(together)
    for series in panel:
        alone = compare_models(series, models, progress=False, horizon=2).to_frame()
        part = table[table.series == series.name].drop(columns=["series", "seconds"])
        assert part.reset_index(drop=True).equals(alone.drop(columns="seconds"))
    whole = table[table.series == "all"].set_index("model")
    for model in models:
        terms = [next(r for r in c.results if r.name == model).scores for c in together.values()]
        expected = np.concatenate([x.log_density for x in terms]).mean()
        assert whole.loc[model, "log_density"] == pytest.approx(expected)
        errors = np.concatenate([x.errors for x in terms])
        assert whole.loc[model, "rmse"] == pytest.approx(np.sqrt(np.mean(errors**2)))
