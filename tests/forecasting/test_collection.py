"""Forecasts of many series by one hierarchical regression."""

import copy

import jax
import numpy as np
import pandas as pd
import pytest
from scipy import stats

import ssmlin
from ssmlin.data import TableFiles
from ssmlin.forecasting import _collection_fit
from ssmlin.forecasting._collection_fit import conditioned
from ssmlin.forecasting._collection_members import members_of
from ssmlin.forecasting._collection_paths import Starts, sample_paths
from ssmlin.forecasting._history import History

HORIZON, STEPS = 5, 30


def panel(count=12, seed=0):
    """A long frame of monthly series of unequal lengths and sizes, with an input."""
    rng = np.random.default_rng(seed)
    parts = []
    for i in range(count):
        steps = STEPS + i % 3
        months = pd.date_range("2020-01-01", periods=steps, freq="MS")
        wave = np.sin(np.arange(steps) * np.pi / 6 + i)
        promo = (rng.random(steps) < 0.3).astype(float)
        y = 10.0**i * (20 + 3 * wave + 0.3 * rng.normal(size=steps).cumsum() + 4 * promo)
        parts.append(pd.DataFrame({"unique_id": f"s{i}", "ds": months, "y": y, "promo": promo}))
    return pd.concat(parts, ignore_index=True)


def forecaster(**settings):
    settings = {"transform": "none", "num_epochs": 15, "season": None} | settings
    return ssmlin.Forecaster(pooling="hierarchical", **settings)


@pytest.fixture(scope="module")
def fitted():
    with pytest.warns(RuntimeWarning, match="still improving"):
        return forecaster().fit(panel())


# --------------------------------------------------------------------- what of the past predicts


def test_the_regressors_are_what_they_say():
    values = np.random.default_rng(1).normal(size=40).cumsum()
    history = History(period=12)
    found = history.regressors(values)
    t = 30  # of which two seasons are known
    past = values[:t][::-1]
    np.testing.assert_allclose(found[t, :3], past[:3] - past[1:4])
    rate, average = 0.7, 0.0
    weights = rate * (1 - rate) ** np.arange(history.length)
    weights[-1] += 1 - weights.sum()
    average = np.sum(
        weights * np.concatenate([past, np.full(history.length, past[-1])])[: history.length]
    )
    np.testing.assert_allclose(found[t, 7], average - past[0])
    np.testing.assert_allclose(found[t, 8], past[11] - past[12])  # the same month's change
    np.testing.assert_allclose(found[t, 9], past[23] - past[24])
    np.testing.assert_allclose(found[t, 12], past[11] - past[0])
    np.testing.assert_allclose(found[t, 13], past[:12].mean() - past[0])
    assert found.shape[1] == history.num_regressors
    assert found[t, 14] == 1
    np.testing.assert_allclose(found[t, 15], np.cos(2 * np.pi * t / 12))


@pytest.mark.parametrize(
    "history", [History(), History(4), History(7), History(12), History(None, 3)]
)
def test_a_level_says_nothing_and_the_future_is_not_seen(history):
    values = np.random.default_rng(2).normal(size=30)
    found = history.regressors(values)
    np.testing.assert_allclose(history.regressors(values + 100), found, atol=1e-10)
    both = history.regressors(np.stack([values, values]))
    np.testing.assert_array_equal(both, np.stack([found, found]))
    later = values.copy()
    later[20:] += 9
    np.testing.assert_array_equal(history.regressors(later)[:21], found[:21])
    # What a path continues from gives the regressors of the next step.
    last = history.weights @ history.before(values, 20)
    np.testing.assert_allclose(last, found[20, : len(history.weights)], atol=1e-12)


@pytest.mark.parametrize("history", [History(), History(12)])
def test_a_short_series_has_steps_to_predict(history):
    steps = np.arange(4, 41)
    first = history.first_step(steps)
    assert (first >= 1).all() and (steps - first >= 3).all()
    assert first[-1] == (history.period or 5)


# --------------------------------------------------------------------- forecasts


def test_the_frame_has_the_names_and_times_of_the_data(fitted):
    frame = fitted.predict(HORIZON, levels=(50, 95))
    assert list(frame.columns) == ["unique_id", "ds", "mean", "lo-95", "lo-50", "hi-50", "hi-95"]
    assert list(frame.unique_id.unique()) == [f"s{i}" for i in range(12)]
    ends = panel().groupby("unique_id", sort=False).ds.max()
    firsts = frame.groupby("unique_id", sort=False).ds.min()
    assert (firsts == ends + pd.DateOffset(months=1)).all()
    assert (frame["lo-95"] < frame["lo-50"]).all() and (frame["lo-50"] < frame["mean"]).all()
    again = fitted.predict(HORIZON, levels=(50, 95))
    pd.testing.assert_frame_equal(frame, again)


def test_a_series_in_other_units_is_forecast_in_them(fitted):
    data = panel()
    data["y"] *= np.where(data.unique_id == "s3", 7.0, 1.0)
    before = fitted.predict(HORIZON)
    after = ssmlin.Forecaster.update(clone(fitted), data).predict(HORIZON)
    factor = np.where(before.unique_id == "s3", 7.0, 1.0)
    np.testing.assert_allclose(after["mean"], before["mean"] * factor, rtol=2e-3)
    np.testing.assert_allclose(after["hi-95"], before["hi-95"] * factor, rtol=2e-3)


def clone(fitted):
    """A forecaster of its own with what another one knows."""
    other = forecaster()
    other.state_ = fitted.state_
    return other


def test_the_first_step_has_the_law_of_the_filter(fitted):
    """Exactly Student-t, against quantiles of paths."""
    state = fitted.state_
    (population,) = state.populations
    (member,) = members_of([(state.panel["s2"], 0)], 1.0, state.regressors, state.input_scale)
    known = conditioned(population, [member], 8, 64)
    step = np.array([member.next_step])
    h = np.concatenate([state.regressors.weights @ member.last, state.regressors.places(step)[0]])
    params = population.params
    cov = np.asarray(params.decay) ** 2 * known.cov[0] + np.diag(params.noise)
    mean = params.coefficients + params.decay * (known.mean[0] - params.coefficients)
    df, scale = float(known.variance.df[0]), float(known.variance.scale[0])
    spread = np.sqrt(scale / df * (h @ cov @ h + 1))
    law = stats.t(df, member.last[0] + h @ mean, spread)
    starts = Starts(
        known.mean, known.cov, known.variance, member.last[None], np.array([[-1e6, 1e6]])
    )
    beside = np.asarray(state.regressors.places(step))[None]
    paths = sample_paths(
        population.model, params, state.regressors, starts, beside, 40_000, 0, 8
    )[0, :, 0]  # fmt: skip
    for share in (0.05, 0.25, 0.5, 0.75, 0.95):
        hits = np.mean(paths < law.ppf(share))
        assert abs(hits - share) < 5 * np.sqrt(share * (1 - share) / 40_000)


def test_gaps_are_bridged_and_missing_ends_are_forecast_over(fitted):
    data = panel()
    rows = data.index[data.unique_id == "s4"]
    gap, end = data.copy(), data.copy()
    gap.loc[rows[10:13], "y"] = np.nan
    end.loc[rows[-2:], "y"] = np.nan
    whole = fitted.predict(HORIZON).query("unique_id == 's4'")
    of_gap = clone(fitted).update(gap).predict(HORIZON).query("unique_id == 's4'")
    of_end = clone(fitted).update(end).predict(HORIZON).query("unique_id == 's4'")
    assert (of_gap.ds.array == whole.ds.array).all() and (of_end.ds.array == whole.ds.array).all()
    wide = (of_end["hi-95"] - of_end["lo-95"]).iloc[0]
    assert wide > 1.2 * (whole["hi-95"] - whole["lo-95"]).iloc[0]
    assert np.isfinite(of_gap.drop(columns=["unique_id", "ds"]).to_numpy()).all()


def test_the_value_after_a_gap_is_not_predicted_by_the_line_that_leads_to_it(fitted):
    data = panel()
    rows = data.index[data.unique_id == "s2"]
    data.loc[rows[10:14], "y"] = np.nan
    state = clone(fitted).update(data).state_
    (member,) = members_of([(state.panel["s2"], 0)], 1.0, state.regressors, state.input_scale)
    begin = state.regressors.first_step(np.array([STEPS + 2]))[0]
    np.testing.assert_array_equal(
        np.flatnonzero(np.isnan(member.targets)) + begin, np.arange(10, 15)
    )
    y = data.y[rows].to_numpy()
    size = np.sqrt(np.nanmean(np.diff(y) ** 2))  # a missing value leaves out both changes
    np.testing.assert_allclose(member.scale, size)


def test_a_new_series_is_forecast_without_a_fit(fitted):
    other = panel(3, seed=5)
    other["unique_id"] = "new-" + other.unique_id
    frame = clone(fitted).update(other).predict(2)
    assert list(frame.unique_id.unique()) == ["new-s0", "new-s1", "new-s2"]
    # It does not matter which other series there are.
    alone = clone(fitted).update(other[other.unique_id == "new-s0"]).predict(2)
    np.testing.assert_allclose(alone["mean"], frame["mean"][:2], rtol=0.05)


def test_series_that_are_too_short_are_told_and_harm_no_other(fitted):
    data = panel()
    rows = data.index[data.unique_id == "s1"]
    with pytest.warns(RuntimeWarning) as told:
        frame = forecaster(num_epochs=2).fit(data.drop(rows[3:])).predict(2)
    assert any("1 of 12 series have fewer than 4 observed values" in str(x.message) for x in told)
    missing = frame[frame["mean"].isna()]
    assert list(missing.unique_id.unique()) == ["s1"] and len(frame) == 24


def test_a_constant_series_stays_where_it_is():
    data = panel()
    data.loc[data.unique_id == "s5", "y"] = 8.0
    with pytest.warns(RuntimeWarning, match="still improving"):
        frame = forecaster(num_epochs=2).fit(data).predict(2)
    mine = frame[frame.unique_id == "s5"]
    np.testing.assert_allclose(mine["mean"], 8.0, rtol=0.01)


def test_what_is_saved_is_what_is_loaded(fitted, tmp_path):
    path = tmp_path / "many.safetensors"
    fitted.save(path, notes={"mine": 1})
    loaded = ssmlin.load(path)
    pd.testing.assert_frame_equal(loaded.predict(2), fitted.predict(2))
    assert loaded.state_.notes["mine"] == 1 and loaded.pooling == "hierarchical"
    with pytest.raises(ValueError, match="path: expected a file of ssmlin with a model, got one w"):
        ssmlin.models.load(path)


def test_cross_validation_forecasts_what_was_observed(fitted):
    with pytest.warns(RuntimeWarning, match="still improving"):
        table = fitted.cross_validation(3, 2, step=2, levels=(80,))
    assert len(table) == 12 * 2 * 3 and set(table.columns) >= {"cutoff", "y", "mean", "lo-80"}
    scale = 10.0 ** table.unique_id.str[1:].astype(int)
    assert (np.abs(table["mean"] - table["y"]) / scale < 15).all()


@pytest.fixture
def stored(tmp_path):
    """The panel in files of which no one is in the order of the series, read in small pieces."""
    data = panel().sort_values("ds", kind="stable")
    for i, rows in enumerate(np.array_split(np.arange(len(data)), 2)):
        data.iloc[rows].to_parquet(tmp_path / f"{i}.parquet", index=False)
    return TableFiles(tmp_path, chunk_rows=50)


def test_series_in_files_are_fitted_and_forecast_as_those_of_a_frame(fitted, stored, tmp_path):
    with pytest.warns(RuntimeWarning, match="still improving"):
        found = forecaster().fit(stored)
    # In the order of their first rows, which is that of the frame.
    few = {"levels": (80,), "num_samples": 50}
    expected = fitted.predict(HORIZON, **few)
    pd.testing.assert_frame_equal(found.predict(HORIZON, **few), expected, rtol=1e-9)
    parts = list(found.predict_batches(HORIZON, size=5, **few))
    assert [len(part) // HORIZON for part in parts] == [5, 5, 2]
    pd.testing.assert_frame_equal(pd.concat(parts, ignore_index=True), expected, rtol=1e-9)
    # The file of the model is without the series, which any other call names again.
    path = tmp_path / "model"
    found.save(path)
    again = ssmlin.load(path)
    with pytest.raises(ValueError, match="data: expected the series .* call update first"):
        again.predict(1)
    again.update([str(one) for one in stored.paths])
    pd.testing.assert_frame_equal(again.predict(HORIZON, **few), expected, rtol=1e-9)
    copied = copy.deepcopy(again)
    again.update(stored.paths[0])
    pd.testing.assert_frame_equal(copied.predict(HORIZON, **few), expected, rtol=1e-9)


def test_several_columns_are_series_of_one_population():
    data = panel(10)
    data["z"] = data.groupby("unique_id").y.transform(lambda x: x.max() - x)
    with pytest.warns(RuntimeWarning, match="still improving"):
        found = forecaster(num_epochs=2).fit(data, target_col=["y", "z"])
    frame = found.predict(2)
    assert len(frame) == 10 * 2 * 2 and set(frame.column) == {"y", "z"}
    assert found.sample_paths(2, 3).columns.tolist() == ["unique_id", "path", "ds", "y", "z"]


def test_an_input_is_told_from_the_rest():
    with pytest.warns(RuntimeWarning, match="still improving"):
        found = forecaster(num_epochs=60).fit(panel(16), inputs=["promo"])
    assert found.state_.regressors.num_regressors + 2 == found.model_.num_regressors
    ends = panel(16).groupby("unique_id", sort=False).ds.max()
    future = pd.concat([
        pd.DataFrame({"unique_id": name, "promo": (1.0, 0.0),
                      "ds": pd.date_range(end + pd.DateOffset(months=1), periods=2, freq="MS")})
        for name, end in ends.items()
    ])  # fmt: skip
    with_promo = found.predict(2, future_inputs=future)
    without = found.predict(2, future_inputs=future.assign(promo=0.0))
    scale = 10.0 ** with_promo.unique_id.str[1:].astype(int)
    effect = ((with_promo["mean"] - without["mean"]) / scale).to_numpy().reshape(-1, 2)
    assert 2.5 < effect[:, 0].mean() < 5.5  # 4 by construction
    with pytest.raises(ValueError, match="future_inputs: expected the inputs promo"):
        found.predict(2)


def test_logarithms_are_mixed_in_where_values_are_positive():
    data = panel(12)
    data.loc[data.unique_id == "s0", "y"] -= 30  # negative values
    with pytest.warns(RuntimeWarning, match="still improving"):
        found = forecaster(num_epochs=3, transform="auto").fit(data)
    assert [one.power for one in found.state_.populations] == [1.0, 0.0]
    frame = found.predict(2)
    assert np.isfinite(frame["mean"]).all() and frame["mean"].iloc[0] < 0
    with pytest.raises(ValueError, match="transform: expected one model, got one of the values"):
        _ = found.model_


def test_a_value_that_has_no_logarithm_is_told():
    data = panel()
    data.loc[7, "y"] = 0.0
    with pytest.raises(
        ValueError, match="series 's0': transform: expected positive values .* got 0"
    ):
        forecaster(transform="log").fit(data)


def test_a_fit_that_begins_with_some_series_ends_as_low(monkeypatch, tmp_path):
    columns = ssmlin.Forecaster(lags=2, season=None, pooling="hierarchical", num_epochs=1)
    with pytest.warns(RuntimeWarning, match="still improving"):
        state = columns.fit(panel(24)).state_
    monkeypatch.setattr(_collection_fit, "_BATCH", 3)
    parts = [(one, 0) for one in state.panel.values()]
    members = members_of(parts, 1.0, state.regressors, state.input_scale)

    def fit(least, folder=None):
        monkeypatch.setattr(_collection_fit, "_LEAST_VALUES", least)
        return _collection_fit.fit_population(
            members, seed=0, num_steps=300, folder=folder, progress=False
        )

    _, _, plain = fit(10**6)
    _, params, found = fit(1, tmp_path)
    assert found.converged and found.losses[-1] < plain.losses[-1] + 1e-5
    assert len(found.losses) < len(plain.losses)
    assert len(list(tmp_path.iterdir())) == 3
    _, again, _ = fit(1, tmp_path)  # goes on from what is there
    np.testing.assert_allclose(again.coefficients, params.coefficients, atol=1e-2)


def test_ten_series_are_pooled_hierarchically_and_fewer_are_not():
    recipe = ssmlin.Forecaster()
    assert [recipe.pooling_of(n) for n in (1, 9, 10)] == ["shared", "shared", "hierarchical"]
    assert ssmlin.Forecaster("mamba2").pooling_of(50) == "shared"
    assert ssmlin.Forecaster(difference=1).pooling_of(50) == "shared"


@pytest.mark.slow
def test_intervals_of_simulated_series_cover():
    """Series that follow the model, fitted by it: a share of the futures is in the intervals."""
    rng = np.random.default_rng(3)
    count, steps = 300, 60
    trend = rng.normal(0, 0.3, count)
    size = np.exp(rng.normal(size=count))
    changes = np.zeros((count, steps + 8))
    rho = np.clip(rng.normal(0.3, 0.2, count), -0.9, 0.9)
    for t in range(1, steps + 8):
        changes[:, t] = trend + rho * (changes[:, t - 1] - trend) + rng.normal(size=count)
    y = 100 + size[:, None] * changes.cumsum(axis=1)
    found = ssmlin.Forecaster(season=None, transform="none").fit(list(y[:, :steps]))
    frame = found.predict(8, levels=(50, 80, 95))
    observed = y[:, steps:].ravel()
    for level in (50, 80, 95):
        inside = (frame[f"lo-{level}"] <= observed) & (observed <= frame[f"hi-{level}"])
        # Steps of a series depend on each other, so that there are some 300 independent ones.
        assert abs(inside.mean() - level / 100) < 4 * np.sqrt(level * (100 - level) / 300) / 100
    assert jax.tree.leaves(found.state_.populations[0].params)
