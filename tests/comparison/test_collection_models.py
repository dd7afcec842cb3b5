"""Models of collections: differences and back, fits side by side, and forecasters as models."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from ssmlin.comparison.baselines._hmm_models import fit_arhmm, fit_gaussian_hmm
from ssmlin.comparison.baselines._lds_model import fit_lds
from ssmlin.comparison.collections import (
    AUTOREGRESSION,
    Collection,
    CollectionSeries,
    forecast_collection,
    forecaster_model,
    hidden_markov,
    hold_out,
    linear_dynamics,
    normal_quantiles,
    switching_autoregression,
)
from ssmlin.comparison.collections._batches import fit_by_batches
from ssmlin.comparison.collections._lds import lds_fit
from ssmlin.comparison.collections._preparation import prepare
from ssmlin.comparison.collections._quantiles import index_of
from ssmlin.comparison.collections._switching_models import (
    REGRESSION_PRIOR,
    autoregressive_fit,
    gaussian_fit,
)
from ssmlin.forecasting import Observed, choose_num_lags

LOW, MEDIAN, HIGH = (index_of(level) for level in (0.1, 0.5, 0.9))


def series(values, period=4, horizon=3):
    return CollectionSeries("a", np.asarray(values, float), None, period, horizon)


def walks(count=3, steps=40, horizon=3, period=4):
    rng = np.random.default_rng(0)
    # Two of one length, so that a batch has more than one, and others.
    lengths = [steps, *(steps + k for k in range(count - 1))]
    values = [50 + rng.normal(size=n).cumsum() for n in lengths]
    return hold_out(values, horizon, period)


# ------------------------------------------------------------------------------ differences


@pytest.mark.parametrize("amplitude", [0.0, 5.0])
def test_differences_lead_back_to_the_series(amplitude):
    """What comes after the training part is found again from its own prepared differences."""
    rng = np.random.default_rng(1)
    values = amplitude * np.sin(np.pi / 2 * np.arange(47)) + rng.normal(size=47).cumsum()
    found = prepare(series(values[:40]))
    assert len(found.means) == (4 if amplitude else 1)
    assert found.values.mean() == pytest.approx(0) and found.values.std() == pytest.approx(1)
    # Step 39, the last of the training part, is at the last of four places.
    means = found.means[np.arange(1, 47) % 4 % len(found.means)]
    path = (np.diff(values) - means) / found.deviation
    np.testing.assert_allclose(found.values[:, 0], path[:39], atol=1e-12)
    np.testing.assert_allclose(found.back(path[None, 39:])[0], values[40:])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1.0, 2.0, 4.0], "at least 4 steps"),
        (np.arange(9.0), "not all alike"),
    ],
)
def test_series_without_differences_are_told(values, message):
    with pytest.raises(ValueError, match=message):
        prepare(series(values))


def test_gaps_are_bridged_by_straight_lines():
    rough = [2.0, np.nan, 4.0, 1.0, np.nan, np.nan, 7.0, 5.0, np.nan]
    whole = pd.Series(rough).interpolate(limit_direction="both").to_numpy()
    np.testing.assert_allclose(series(np.array(rough)).bridged(), whole)
    for found, expected in zip(
        prepare(series(np.array(rough))), prepare(series(whole)), strict=True
    ):
        np.testing.assert_array_equal(found, expected)


# ------------------------------------------------------------------------------ fits by EM


CASES = {
    "hmm": (gaussian_fit(2), lambda train: fit_gaussian_hmm(train, 0, num_states=2)),
    "arhmm": (
        autoregressive_fit(2, 4),
        lambda train: fit_arhmm(
            train, 0, num_states=2, num_lags=max(1, choose_num_lags(train, 4)),
            prior=REGRESSION_PRIOR,
        ),
    ),
    "lds": (lds_fit(2), lambda train: fit_lds(train, 0, state_dim=2)),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_fits_side_by_side_are_those_of_single_series(name):
    batched, single = CASES[name]
    rng = np.random.default_rng(4)
    # Two of one length, so that a batch has more than one, and one that is shorter.
    series = [Observed.of(rng.normal(size=(n, 1))) for n in (24, 24, 19)]
    found, compile_seconds = fit_by_batches(batched, series, 0)
    assert compile_seconds > 0
    for one, fitted in zip(series, found, strict=True):
        expected = single(one)
        assert fitted.num_parameters == expected.num_parameters
        ours, theirs = (fit.predict(one).log_prob(one.values) for fit in (fitted, expected))
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)


MODELS = {
    "autoregression": AUTOREGRESSION,
    "hmm": hidden_markov(2),
    "arhmm": switching_autoregression(2),
    "lds": linear_dynamics(2),
}


@pytest.mark.parametrize("name", ["autoregression", "hmm"])
def test_forecasts_begin_where_the_series_ends(name):
    """Paths of differences are fed back: the spread grows, and no series has another's level."""
    values = [100.0 * k + np.random.default_rng(k).normal(size=27).cumsum() for k in range(3)]
    collection = hold_out(values, 3)
    assert MODELS[name].name == name
    found = forecast_collection(MODELS[name], collection)
    assert found.failures == ("",) * 3
    for one, quantiles in zip(collection, found.quantiles, strict=True):
        assert np.abs(quantiles[:, MEDIAN] - one.train[-1]).max() < 8
        spread = quantiles[:, HIGH] - quantiles[:, LOW]
        assert spread[2] > 1.3 * spread[0] > 0


def test_a_series_that_cannot_be_fitted_harms_no_other():
    good = walks(1).series[0]
    flat = good._replace(name="flat", train=np.arange(20.0))
    found = forecast_collection(AUTOREGRESSION, Collection("", (flat, good)))
    assert found.failures == ("ValueError: train: expected differences that are not all alike", "")
    alone = forecast_collection(AUTOREGRESSION, Collection("", (good,)))
    np.testing.assert_array_equal(found.quantiles[1], alone.quantiles[0])


def test_the_autoregression_finds_a_cycle():
    """An almost deterministic cycle of no season is forecast by its own recurrence."""
    t = np.arange(83)
    values = 10 + np.sin(t) + 1e-3 * np.random.default_rng(3).normal(size=83)
    collection = hold_out([values], 3)
    (quantiles,) = forecast_collection(AUTOREGRESSION, collection).quantiles
    np.testing.assert_allclose(quantiles[:, MEDIAN], values[80:], atol=0.02)


# ------------------------------------------------------------------------ forecasters


class Normal:
    """A forecaster whose laws are N(last value, (step + 1)²)."""

    def __init__(self, season):
        self.season = season

    def fit(self, frame):
        self.ids = frame["unique_id"].unique()
        self.last = frame.sort_values("ds").groupby("unique_id")["y"].last()

    def _frame(self, horizon, columns):
        parts = []
        for name in self.ids[::-1]:  # in any order
            rows = pd.DataFrame(columns(self.last[name], np.arange(1.0, horizon + 1)))
            parts.append(rows.assign(unique_id=str(name)))
        return pd.concat(parts)

    def predict(self, horizon, levels, seed):
        def columns(mean, deviation):
            ends = {p: stats.norm.interval(p / 100, mean, deviation) for p in levels}
            return {f"lo-{p}": ends[p][0] for p in levels} | {f"hi-{p}": ends[p][1] for p in levels}

        return self._frame(horizon, columns)

    def sample_paths(self, horizon, num_samples, seed):
        draws = np.random.default_rng(seed).normal(size=(num_samples, horizon))
        return self._frame(horizon, lambda m, s: {"path": 0, "y": (m + s * draws).ravel()})


@pytest.mark.parametrize("num_paths", [None, 20_000])
def test_a_forecaster_is_a_model(num_paths):
    seasons, collection = [], walks(12)  # as text, their numbers sort differently
    model = forecaster_model(
        lambda season: seasons.append(season) or Normal(season), "normal", num_paths=num_paths
    )
    found = forecast_collection(model, collection)
    assert model.name == "normal" and seasons == [4] and found.num_failures == 0
    deviations = np.arange(1.0, 4.0)
    for one, quantiles in zip(collection, found.quantiles, strict=True):
        expected = normal_quantiles(np.full(3, one.train[-1]), deviations)
        error = np.abs(quantiles - expected) / deviations[:, None]
        assert error.max() < (1e-9 if num_paths is None else 0.15)


def test_a_forecaster_needs_one_horizon():
    one, other = walks(2).series
    mixed = Collection("", (one, other._replace(horizon=2, test=None)))
    found = forecast_collection(forecaster_model(Normal, "normal"), mixed)
    assert "expected one period and horizon, got [(4, 2), (4, 3)]" in found.failures[0]
