"""Collections from long frames, and what a comparison over them says."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from ssmlin.comparison.collections import (
    MODELS,
    USUAL,
    Attempt,
    CollectionModel,
    compare_collection,
    conclusions,
    forecast_collection,
    forecaster_model,
    hold_out,
    hold_out_frame,
    normal_quantiles,
)
from ssmlin.data import TableFiles


def long_frame(values, freq="MS", **columns):
    parts = []
    for name, y in values.items():
        times = pd.date_range("2020-01-01", periods=len(y), freq=freq)
        parts.append(pd.DataFrame({"unique_id": name, "ds": times, "y": y}).assign(**columns))
    return pd.concat(parts, ignore_index=True)


# ------------------------------------------------------------------------------------ frames


def test_the_times_say_the_season_and_where_steps_are_missing():
    months = long_frame({"a": np.arange(20.0), "b": np.arange(30.0) ** 2})
    collection = hold_out_frame(months, 4)
    assert {(one.period, one.horizon, one.group) for one in collection} == {(12, 4, "all")}
    assert {one.period for one in hold_out_frame(months, 4, 3)} == {3}
    assert {one.period for one in hold_out_frame(months, 4, time_col=None)} == {1}
    holes = months.drop(index=[5, 6, 26])
    with pytest.warns(RuntimeWarning, match="2 steps are missing.*; 1 more series likewise"):
        found = hold_out_frame(holes, 4)
    for one, whole in zip(found, collection, strict=True):
        missing = np.isnan(one.train)
        assert missing.sum() == (2 if one.name == "a" else 1)
        np.testing.assert_array_equal(one.train[~missing], whole.train[~missing])


def test_a_table_in_files_is_as_a_frame(tmp_path):
    frame = long_frame({"a": np.arange(20.0), "empty": np.full(9, np.nan), "b": np.arange(9.0)})
    mixed = frame.sample(frac=1, random_state=0)
    mixed.to_csv(tmp_path / "mixed.csv", index=False)
    with pytest.warns(RuntimeWarning, match="left out: 1 of 3 series, empty"):
        expected = hold_out_frame(mixed, 4)
    with pytest.warns(RuntimeWarning, match="left out: 1 of 3 series, empty"):
        found = hold_out_frame(TableFiles(tmp_path, chunk_rows=7), 4)
    for one, other in zip(found, expected, strict=True):
        assert (one.name, one.period) == (other.name, other.period)
        np.testing.assert_array_equal(one.train, other.train)
        np.testing.assert_array_equal(one.test, other.test)
    with pytest.raises(ValueError, match="group_col: expected none with files, got 'ds'"):
        hold_out_frame(TableFiles(tmp_path), 4, group_col="ds")


def test_a_season_is_that_of_most_series_of_a_group():
    monthly = long_frame({f"m{k}": np.arange(20.0) for k in range(3)}, kind="x")
    daily = long_frame({f"d{k}": np.arange(20.0) for k in range(2)}, freq="D", kind="y")
    both = pd.concat([monthly, daily], ignore_index=True)
    found = hold_out_frame(both, 2, group_col="kind")
    assert {(one.group, one.period) for one in found} == {("x", 12), ("y", 7)}
    with pytest.warns(RuntimeWarning, match="another season than most.*2 of 5 series, d0, d1$"):
        found = hold_out_frame(both, 2)
    assert {one.period for one in found} == {12}


def test_series_that_cannot_be_scored_are_left_out():
    gone = np.array([1.0, 2, 3, 4, np.nan, np.nan])  # nothing to score by
    one_seen = np.array([np.nan, np.nan, np.nan, 1, 2, 3])
    values = {"long": np.arange(6.0), "short": np.arange(2.0), "gone": gone, "one": one_seen,
              "none": np.full(6, np.nan)}  # fmt: skip
    with pytest.warns(RuntimeWarning, match="left out: 4 of 5 series, short, gone, one, none$"):
        found = hold_out_frame(long_frame(values), 2)
    assert [one.name for one in found] == ["long"]
    with pytest.raises(ValueError, match="horizon: expected at least one series .* among 5"):
        hold_out_frame(long_frame(values), 9)
    with pytest.raises(ValueError, match="columns: expected names among .*did you mean 'y'"):
        hold_out_frame(long_frame(values), 2, target_col="yy")
    with pytest.raises(ValueError, match="frame: expected a column 'kind'"):
        hold_out_frame(long_frame(values), 2, group_col="kind")


# ------------------------------------------------------------------------------------ models


def test_the_usual_models_are_known():
    assert USUAL[0] == "seasonal_naive" and set(USUAL) < set(MODELS)
    assert not any(MODELS[name].what_is_missing() for name in ("seasonal_naive", "hierarchical"))
    absent = replace(MODELS["theta"], module="nothing_of_this_name.models")
    assert "nothing_of_this_name" in absent.what_is_missing()


class LastValue:
    """A forecaster that refuses a frame with a series that does not vary."""

    def fit(self, data):
        self.last = data.groupby("unique_id")["y"].last()
        assert (data.groupby("unique_id")["y"].std() > 0).all()

    def sample_paths(self, horizon, *, num_samples, seed):
        rows = [(key, path, level) for key, level in self.last.items()
                for path in range(num_samples) for _ in range(horizon)]  # fmt: skip
        return pd.DataFrame(rows, columns=["unique_id", "path", "y"])


def test_a_series_that_does_not_vary_harms_no_other():
    values = {"a": [1.0, 3, 5, 7], "flat": [2.0, 2, 2, 2], "b": [4.0, 1, 9, 2]}
    model = forecaster_model(lambda season: LastValue(), "last", num_paths=3)
    found = forecast_collection(model, hold_out(values, 1))
    assert found.failures == ("", "ValueError: train: expected values that vary", "")
    assert [x[0, 0] for x in found.quantiles] == [5, 2, 9]
    flat = forecast_collection(model, hold_out({"flat": values["flat"]}, 1))
    assert flat.num_failures == 1


# ------------------------------------------------------------------------------- conclusions

H = 4


def forecasts_of(errors, spread):
    """A model whose medians are wrong by so much, with normal intervals of this spread."""

    def forecast(collection, seed):
        return Attempt([
            normal_quantiles(one.test + error, np.full(H, spread))
            for one, error in zip(collection, errors, strict=True)
        ])  # fmt: skip

    return forecast


def compared(models, n=40):
    """Random walks of unit steps, with models by (scale of the error, spread)."""
    rng = np.random.default_rng(3)
    values = {f"s{k}": rng.normal(size=30).cumsum() for k in range(n)}
    made = [
        CollectionModel(name, forecasts_of(rng.normal(scale=error, size=(n, H)), spread))
        for name, (error, spread) in models.items()
    ]
    return compare_collection(hold_out(values, H), made)["all"]


def test_the_first_sentence_names_models_that_cannot_be_told_apart():
    first = conclusions(compared({"one": (0.2, 0.2), "two": (0.2, 0.2)}))[0]
    assert first.startswith("Best by average rank of CRPS over 40 series are ")
    assert "one (1." in first and "two (1." in first and "seasonal_naive" not in first
    assert "which cannot be told apart; critical difference 0.52." in first
    first = conclusions(compared({"good": (0.05, 0.05), "bad": (0.4, 0.4)}))[0]
    assert first.startswith("Best") and " is good (1.0" in first and "ahead of bad (2" in first
    same = compared({"same": (0.2, 0.2)}, n=3)
    assert conclusions(same)[0].startswith("No model can be told to be better than another")
    alone = compare_collection(hold_out([np.arange(9.0) ** 2], 2), ["seasonal_naive"])["all"]
    assert conclusions(alone)[:2] == (
        "Only seasonal_naive was compared.",
        "There is no other model to measure seasonal naive by.",
    )


def test_a_model_that_failed_on_all_series_is_not_among_the_best():
    values = {f"s{k}": np.random.default_rng(k).normal(size=30).cumsum() for k in range(12)}
    oracle = forecasts_of(np.zeros((12, H)), 20.0)  # too wide: worse than seasonal naive

    def broken(collection, seed):
        raise ArithmeticError("no")

    models = [CollectionModel("wide", oracle), CollectionModel("broken", broken)]
    comparison = compare_collection(hold_out(values, H), models)["all"]
    assert comparison.forecasts["broken"].num_failures == 12
    first = conclusions(comparison)[0]
    assert first.startswith("Best") and " is seasonal_naive (1.50), ahead of wide (3.00)" in first


def test_the_second_sentence_is_the_skill_of_the_best():
    comparison = compared({"good": (0.05, 0.05), "bad": (0.4, 0.4)})
    row = comparison.relative("crps").loc["good"]
    second = conclusions(comparison)[1]
    assert f"CRPS of good is {100 * row['skill']:.1f} % below that of seasonal naive" in second
    assert f"{100 * row['skill_low']:.1f} to {100 * row['skill_high']:.1f} %" in second
    assert "may be none" not in second
    comparison = compared({"worse": (30.0, 1.0)})
    row = comparison.relative("crps").loc["worse"]
    second = conclusions(comparison)[1]
    assert second.startswith("Seasonal naive itself is best: the CRPS of worse is")
    assert f"{-100 * row['skill']:.1f} % above" in second


@pytest.mark.parametrize(
    ("spread", "n", "verdict"),
    [
        (0.2, 40, "can be trusted: 9"),
        (0.1, 40, "cannot be trusted, they are too narrow"),
        (0.6, 40, "cannot be trusted, they are too wide"),
        (0.16, 3, "may be too narrow, but chance alone may explain it"),
    ],
)
def test_the_third_sentence_judges_the_intervals_of_the_best(spread, n, verdict):
    comparison = compared({"one": (0.2, spread)}, n)
    assert comparison.ordered()[0] == "one"
    third = conclusions(comparison)[2]
    assert f"The 95 % intervals of one {verdict}" in third
    assert f"{100 * comparison.scores['one'].coverage_95.mean():.1f} % of the held-out" in third


def test_nothing_is_said_of_series_that_never_change():
    comparison = compare_collection(hold_out([np.ones(9)], 2), ["seasonal_naive"])["all"]
    with pytest.raises(ValueError, match="got none among 1"):
        conclusions(comparison)


def test_models_stand_in_the_order_of_their_ranks():
    comparison = compared({"bad": (0.4, 0.4), "good": (0.05, 0.05)})
    assert comparison.models == ("seasonal_naive", "bad", "good")
    assert comparison.ordered() == ("good", "bad", "seasonal_naive")
