"""The forecaster for sktime, by sktime's own checks and against the forecaster it wraps.

Here and not in a folder `sktime`, which would be found in place of the library where it is missing.
"""

import numpy as np
import pytest

import ssmlin

pytest.importorskip("sktime")

import pandas as pd  # noqa: E402
from sktime.utils.estimator_checks import check_estimator  # noqa: E402

from ssmlin.sktime import LinearAttentionForecaster  # noqa: E402

pytestmark = [
    pytest.mark.float32,
    # sktime tells of changes to come.
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

SETTINGS = LinearAttentionForecaster.get_test_params()[0]
MONTHS = pd.period_range("2020-01", periods=40, freq="M")
STEPS = np.arange(40.0)
SALES = pd.Series(10 + np.sin(STEPS * np.pi / 6), MONTHS, name="sales")
SALES.iloc[5:7] = np.nan
PRICES = pd.DataFrame({"price": np.cos(STEPS), "offer": STEPS % 3}, MONTHS)


def plain(y: object, X: object = None) -> ssmlin.Forecaster:
    settings = {name: x for name, x in SETTINGS.items() if name != "num_samples"}
    return ssmlin.Forecaster(**settings).fit(y, X)


@pytest.fixture(scope="module")
def fitted() -> tuple[LinearAttentionForecaster, ssmlin.Forecaster]:
    y, X = SALES.iloc[:36], PRICES.iloc[:36]
    ours = LinearAttentionForecaster(**SETTINGS).fit(y, X=X, fh=[2, 4])
    return ours, plain(y, X)


def test_sktimes_own_checks():
    results = check_estimator(LinearAttentionForecaster, raise_exceptions=True, verbose=False)
    assert len(results) > 100


def test_forecasts_are_those_of_the_forecaster(fitted):
    ours, forecaster = fitted
    (found,) = forecaster.forecasts(4, (), PRICES.iloc[36:], num_samples=50)
    paths = found.paths[:, [1, 3], 0]
    # Rows of X before and after the steps to come are left alone.
    means = ours.predict(X=PRICES)
    assert means.index.equals(MONTHS[[37, 39]]) and means.name == "sales"
    np.testing.assert_allclose(means, found.means[[1, 3], 0])
    quantiles = ours.predict_quantiles(X=PRICES, alpha=[0.1, 0.5])
    np.testing.assert_allclose(quantiles.T, np.quantile(paths, [0.1, 0.5], axis=0))
    ends = ours.predict_interval(X=PRICES, coverage=[0.8])
    np.testing.assert_allclose(ends.T, np.quantile(paths, [0.1, 0.9], axis=0))
    np.testing.assert_allclose(ours.predict_var(X=PRICES)["sales"], paths.var(axis=0, ddof=1))
    np.testing.assert_allclose(ours.predict_var(X=PRICES, cov=True), np.cov(paths.T))


def test_a_distribution_holds_the_paths(fitted):
    ours, forecaster = fitted
    (found,) = forecaster.forecasts(4, (), PRICES.iloc[36:], num_samples=50)
    law = ours.predict_proba(X=PRICES)
    np.testing.assert_allclose(law.mean()["sales"], found.paths[:, [1, 3], 0].mean(axis=0))
    np.testing.assert_allclose(law.spl.loc[7, "sales"], found.paths[7, [1, 3], 0])


def test_several_columns_keep_their_order():
    y = pd.DataFrame({"a": SALES, "b": 100 - 3 * SALES + np.cos(STEPS)})
    ours = LinearAttentionForecaster(**SETTINGS).fit(y, fh=[1, 2])
    (found,) = plain(y).forecasts(2, (), num_samples=50)
    np.testing.assert_allclose(ours.predict(), found.means)
    quantiles = ours.predict_quantiles(alpha=[0.2, 0.7])
    for place, name in enumerate(y):
        paths = found.paths[..., place]
        np.testing.assert_allclose(quantiles[name].T, np.quantile(paths, [0.2, 0.7], axis=0))
        np.testing.assert_allclose(ours.predict_var(cov=True)[name], np.cov(paths.T))
    np.testing.assert_allclose(ours.predict_proba().mean(), found.paths.mean(axis=0))


@pytest.mark.parametrize("fit_anew", [False, True])
def test_an_update_continues_from_the_new_values(fit_anew):
    y, later = SALES.iloc[:36], SALES.iloc[36:]
    ours = LinearAttentionForecaster(**SETTINGS).fit(y, fh=[1])
    ours.update(later, update_params=fit_anew)
    expected = plain(SALES) if fit_anew else plain(y).update(SALES)
    (found,) = expected.forecasts(1, (), num_samples=50)
    np.testing.assert_allclose(ours.predict(), found.means[:, 0])


def test_what_is_missing_of_X_is_named(fitted):
    ours, _ = fitted
    with pytest.raises(ValueError, match="'price'.* of the steps to come, got one in data row 2"):
        ours.predict(X=PRICES.iloc[[36, 38, 39]])
    with pytest.raises(ValueError, match="expected the inputs .*price.*offer"):
        ours.predict()


def test_steps_within_the_data_are_refused(fitted):
    ours, _ = fitted
    with pytest.raises(NotImplementedError, match="in-sample"):
        ours.predict(fh=[-1, 1], X=PRICES)
