"""What each baseline chooses among, and which models are compared."""

import pickle

import numpy as np
import pytest

from ssmlin.comparison._registry import DEFAULT, forecasters
from ssmlin.comparison.baselines import BASELINES
from ssmlin.comparison.baselines._baseline import SharedRegression
from ssmlin.forecasting import Observed


def settings(name, **shared):
    return BASELINES[name].settings(SharedRegression(**{"num_lags": 3, "period": 12} | shared))


def test_models_that_regress_share_lags_and_season():
    regressions = ["autoregression", *(name for name in BASELINES if name.endswith("attention"))]
    for name in regressions:
        assert settings(name, seasonal=12) == ({"num_lags": 3, "seasonal": 12},)
        assert settings(name, seasonal=None) == ({"num_lags": 3},)
    # The ARHMM may have fewer lags, and the LDS no season.
    orders = {one["num_lags"] for one in settings("arhmm", seasonal=12)}
    assert orders == {1, 2, 3} and all("seasonal" in one for one in settings("arhmm", seasonal=12))
    assert {one["num_lags"] for one in settings("arhmm", num_lags=0, seasonal=None)} == {1, 2}
    assert {one.get("seasonal") for one in settings("lds", seasonal=12)} == {None, 12}
    assert all("seasonal" not in one for one in settings("hmm", seasonal=12))


@pytest.mark.parametrize("name", ["seasonal_naive", "sarimax", "unobserved_components"])
def test_seasonal_models_want_a_period(name):
    without = settings(name, period=None, seasonal=None)
    with_period = settings(name, period=7, seasonal=None)
    assert all("7" not in str(one) for one in without)
    assert [one for one in with_period if "7" in str(one)] != []
    candidate = BASELINES[name].candidate(SharedRegression(3, None, None))
    assert (candidate is None) == (name == "seasonal_naive")


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        ("sarimax", {"order": (1, 0, 0), "seasonal": 52}),
        pytest.param("unobserved_components", {"seasonal": 52}, marks=pytest.mark.slow),
    ],
)
def test_a_season_of_many_steps_has_harmonics_and_no_state_for_each(name, setting):
    """Two waves of a year of weeks, and noise: the errors are no larger than twice the noise."""
    assert all("seasonal_order" not in one for one in settings("sarimax", period=52, seasonal=52))
    t = np.arange(160)
    wave = np.sin(2 * np.pi * t / 52) + 0.5 * np.cos(4 * np.pi * t / 52)
    y = Observed.of((2 * wave + 0.1 * np.random.default_rng(0).normal(size=160))[:, None])
    fitted = BASELINES[name].fit(y.until(120), 0, **setting)
    assert np.sqrt(np.mean((fitted.predict(y).mean - y.values)[120:] ** 2)) < 0.2


def test_all_that_is_compared_by_default_can_be_sent_to_a_process():
    train = Observed.of(np.random.default_rng(0).normal(size=(40, 1)))
    candidates = forecasters(train, DEFAULT, 4)
    assert [one.name for one in candidates] == [name for name in DEFAULT if name != "average"]
    again = pickle.loads(pickle.dumps(candidates))
    assert [(one.name, one.settings) for one in again] == [
        (one.name, one.settings) for one in candidates
    ]
