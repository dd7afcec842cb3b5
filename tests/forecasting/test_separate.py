"""A model for each series: fitted in one program, each as by itself; one that fails harms none."""

import numpy as np
import pandas as pd
import pytest

import ssmlin
from ssmlin import Forecaster
from ssmlin.forecasting._separate import common_lengths
from ssmlin.learning._epochs import run_epochs

H = 2
FEW = {"num_samples": 20}


def series(seed, steps):
    rng = np.random.default_rng(seed)
    y = np.zeros(steps + 10)
    for t in range(2, len(y)):
        y[t] = 0.9 * y[t - 1] - 0.5 * (seed % 2) * y[t - 2] + rng.normal()
    return 50 + 3 * y[10:]


def frame(**several):
    return pd.concat(
        [pd.DataFrame({"unique_id": name, "ds": np.arange(len(y)), "y": y})
         for name, y in several.items()]
    )  # fmt: skip


def forecaster(**settings):
    return Forecaster(**{"pooling": "separate", "season": None, "transform": "none"} | settings)


@pytest.mark.float32
def test_a_series_that_fails_is_named_and_harms_no_other(tmp_path):
    table = frame(good=series(0, 30), flat=np.ones(30), more=np.ones(3), other=series(1, 26))
    options = {"lags": 1, "num_epochs": 2, "discounts": (1.0,)}
    before = run_epochs._cache_size()
    with pytest.warns(RuntimeWarning) as told:
        fitted = forecaster(**options).fit(table)
    assert run_epochs._cache_size() <= before + 1
    (said,) = [str(one.message) for one in told if "could not be fitted" in str(one.message)]
    assert said == (
        "2 of 4 series could not be fitted and are not forecast: 'flat' (transform: expected "
        "varying values of column 'y' after it); and 1 more: 'more'"
    )
    assert list(fitted.state_.fits) == ["good", "other"]
    found = fitted.predict(H, **FEW)
    missing = found.groupby("unique_id", sort=False)["mean"].apply(lambda x: x.isna().all())
    assert missing.to_dict() == {"good": False, "flat": True, "more": True, "other": False}
    assert found["ds"].tolist() == [30, 31, 30, 31, 3, 4, 26, 27]
    # As without the series that failed, after a file and an update, too.
    fitted.save(tmp_path / "f")
    again = ssmlin.load(tmp_path / "f").update(table)
    pd.testing.assert_frame_equal(again.predict(H, **FEW), found)
    with pytest.warns(RuntimeWarning, match="still improving"):
        alone = forecaster(**options).fit(frame(good=series(0, 30), other=series(1, 26)))
    names = found.unique_id.isin(["good", "other"])
    pd.testing.assert_frame_equal(
        alone.predict(H, **FEW), found[names].reset_index(drop=True), rtol=1e-4
    )
    with pytest.raises(ValueError, match="series 'flat': transform: expected varying values"):
        forecaster(**options).fit(frame(flat=np.ones(30), more=np.zeros(20)))
    # The step of its times is not known, so that it has no steps to come.
    with pytest.raises(ValueError, match="series 'one': rows: expected at least 2, got 1"):
        forecaster(**options).fit(frame(good=series(0, 30), one=np.ones(1)))


def test_lengths_are_few_and_none_is_doubled_twice():
    lengths = [100, 140, 120, 70, 69, 30, 5]
    rooms = common_lengths(lengths)
    assert len(set(rooms)) == 4
    for length, room in zip(lengths, rooms, strict=True):
        assert length <= room <= 2.5 * max(length, 8)
    assert common_lengths([]) == []


@pytest.mark.slow
@pytest.mark.float32
def test_fits_are_those_by_themselves():
    """Of series that choose other lags and have other lengths; oracle: a forecaster for each."""
    several = {"a": series(0, 60), "b": series(1, 48)}
    fitted = forecaster().fit(frame(**several))
    lags = {one.model.num_lags for one in fitted.state_.fits.values()}
    assert len(lags) > 1
    found = fitted.predict(H, levels=(95,), **FEW)
    for name, y in several.items():
        alone = forecaster().fit(frame(x=y))
        expected = alone.predict(H, levels=(95,), **FEW)
        width = (expected["hi-95"] - expected["lo-95"]).to_numpy()
        ours = found[found.unique_id == name]
        for column in ("mean", "lo-95", "hi-95"):
            apart = np.abs(ours[column].to_numpy() - expected[column].to_numpy()) / width
            assert apart.max() < 0.02, (name, column)
        np.testing.assert_allclose(
            fitted.state_.validation[name], alone.state_.validation[""], rtol=1e-3
        )
