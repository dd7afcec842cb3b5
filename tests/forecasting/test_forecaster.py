"""The forecaster: every form of data, the caller's names and units, agreement with its parts."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

import ssmlin
from ssmlin import Forecaster
from ssmlin.data import TableStream
from ssmlin.data._grids import first_place
from ssmlin.forecasting import StatsForecastInterface, season_of
from ssmlin.forecasting import _recipe as recipe
from ssmlin.forecasting import _streams as streams
from ssmlin.forecasting._fitting import RecipeFit
from ssmlin.models import load as load_model

T, H = 24, 2
MONTHS = pd.date_range("2020-01-01", periods=T, freq="MS", name="month")
FEW = {"num_samples": 20}


def values(seed=0, steps=T):
    return 50 + np.random.default_rng(seed).normal(size=steps).cumsum().round(3)


@pytest.fixture
def unfitted(monkeypatch):
    """Fits that return the start of the model, since most tests ask for other things."""

    def plan_sequences(recommendation, emissions, inputs, seed, **options):
        model = recommendation.model()
        return RecipeFit(model, model.initialize(jax.random.key(seed))[0], 0.0, 7)
        yield  # a plan that asks for no fit

    monkeypatch.setattr(recipe, "plan_sequences", plan_sequences)


def forecaster(**settings):
    return Forecaster(**{"lags": 1, "season": None, "transform": "none"} | settings)


@pytest.fixture(scope="module")
def sales():
    """A real fit, with its series."""
    with jax.enable_x64(False):
        series = pd.Series(values(), MONTHS, name="sales")
        yield forecaster(num_epochs=2, discounts=(1.0,)).fit(series), series


# ------------------------------------------------------------------------------ forms of data

LONG = pd.DataFrame(
    {
        "unique_id": ["b"] * T + ["a"] * T,
        "ds": [*MONTHS, *MONTHS],
        "y": [*values(0), *values(1)],
        "price": 1.0,
    }
)
ONE = pd.Series(values(), MONTHS)
FORMS = {
    "Series": (ONE.rename_axis(None), {}, ["ds", "mean"]),
    "named Series": (ONE.rename("sales").rename_axis("when"), {}, ["when", "mean"]),
    "array": (values(), {}, ["ds", "mean"]),
    "column": (values()[:, None], {}, ["ds", "mean"]),
    "numbers": (values().tolist(), {}, ["ds", "mean"]),
    "jax": (jnp.asarray(values()), {}, ["ds", "mean"]),
    "wide frame": (pd.DataFrame({"y": values()}, MONTHS), {}, ["month", "mean"]),
    "wide frame with times": (
        pd.DataFrame({"y": values(), "ds": MONTHS}), {}, ["ds", "mean"]),
    "chosen column": (
        pd.DataFrame({"a": values(), "b": "text"}, MONTHS), {"target_col": ["a"]}, ["month", "mean"]
    ),
    "long frame": (LONG, {}, ["unique_id", "ds", "mean"]),
    "other names": (
        LONG.rename(columns={"unique_id": "shop", "ds": "t", "y": "sales"}),
        {"id_col": "shop", "time_col": "t", "target_col": "sales"},
        ["shop", "t", "mean"],
    ),
    "list": ([values(0), values(1)], {}, ["unique_id", "ds", "mean"]),
    "list of Series": ([ONE.rename("b"), pd.Series(values(1), MONTHS, name="a")], {},
                       ["unique_id", "month", "mean"]),
}  # fmt: skip


@pytest.mark.float32
@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_data_is_the_same_series(form, unfitted):
    data, names, columns = FORMS[form]
    fitted = forecaster().fit(data, **names)
    panel = fitted.state_.panel
    for i, one in enumerate(panel.values()):
        np.testing.assert_allclose(one.values[:, 0], values(i), rtol=1e-6)
    frame = fitted.predict(H, levels=(80,), **FEW)
    assert list(frame.columns) == [*columns, "lo-80", "hi-80"]
    assert len(frame) == H * len(panel)
    if len(panel) > 1:
        expected = [0, 0, 1, 1] if form == "list" else ["b", "b", "a", "a"]
        assert frame[columns[0]].tolist() == expected
    times = frame[columns[-2]][:H].tolist()
    is_dated = "array" not in form and form not in ("column", "numbers", "jax", "list")
    dates = pd.date_range("2022-01-01", periods=H, freq="MS")
    assert times == (dates.tolist() if is_dated else [T, T + 1])
    # Data that come later are read in the same way.
    again = fitted.update(data).predict(H, levels=(80,), **FEW)
    pd.testing.assert_frame_equal(again, frame)


@pytest.mark.float32
def test_columns_of_a_wide_frame_are_modelled_jointly_and_keep_their_names(unfitted):
    wide = pd.DataFrame({7: values(0), "b": values(1)}, MONTHS)
    fitted = forecaster().fit(wide)
    assert fitted.model_.emission_dim == 2 and fitted.model_.row_cov.structure == "full"
    frame = fitted.predict(H, levels=(), **FEW)
    assert frame["column"].tolist() == [7, 7, "b", "b"]
    paths = fitted.sample_paths(H, **FEW)
    assert list(paths.columns) == ["path", "month", 7, "b"] and len(paths) == 20 * H
    assert paths["path"].tolist()[:5] == [0, 0, 1, 1, 2]
    # The means of a model with lags are those of its paths.
    means = frame.pivot(index="month", columns="column", values="mean")
    averages = paths.groupby("month")[[7, "b"]].mean()
    np.testing.assert_allclose(averages[[7, "b"]], means[[7, "b"]], rtol=1e-6)


@pytest.mark.float32
@pytest.mark.parametrize(
    ("index", "following"),
    [
        (pd.RangeIndex(1990, 1990 + T, name="year"), [2014, 2015]),
        (pd.period_range("2020-01", periods=T, freq="M"), list(
            pd.period_range("2022-01", periods=2, freq="M"))),
        (pd.date_range("2020-03-29", periods=T, tz="Europe/Berlin"), list(
            pd.date_range("2020-04-22", periods=2, tz="Europe/Berlin"))),
        (np.arange(T) * 0.5, [12.0, 12.5]),
    ],
)  # fmt: skip
def test_times_go_on_as_they_are(index, following, unfitted, tmp_path):
    whole = pd.Series(values().round().astype(int), index)
    fitted = forecaster().fit(whole)
    frame = fitted.predict(H, **FEW)
    name = "year" if getattr(index, "name", None) == "year" else "ds"
    assert frame[name].tolist() == following
    assert type(frame[name].tolist()[0]) is type(following[0])
    fitted.save(tmp_path / "f")
    pd.testing.assert_frame_equal(ssmlin.load(tmp_path / "f").predict(H, **FEW), frame)


@pytest.mark.float32
@pytest.mark.parametrize(
    ("times", "settings", "following"),
    [
        ([f"{2000 + i // 4}Q{i % 4 + 1}" for i in range(T)], {}, ["2006Q1", "2006Q2"]),
        ([202000 + i for i in range(1, 13)], {}, [202101, 202102]),
        (pd.bdate_range("2024-01-02", periods=3), {"freq": "B"},
         [pd.Timestamp("2024-01-05"), pd.Timestamp("2024-01-08")]),
        (pd.bdate_range("2024-01-02", periods=3), {"holidays": ["2024-01-08"]},
         [pd.Timestamp("2024-01-05"), pd.Timestamp("2024-01-09")]),
        (pd.bdate_range("2024-01-02", periods=3), {}, [pd.Timestamp("2024-01-05"),
         pd.Timestamp("2024-01-08")]),  # the index says it
    ],
)  # fmt: skip
def test_dates_go_on_as_they_are_written_and_as_the_calendar_says(
    times, settings, following, unfitted, tmp_path
):
    index = times if not settings and not isinstance(times, list) else pd.Index(list(times))
    fitted = forecaster(**settings).fit(pd.Series(values(steps=len(times)), index))
    frame = fitted.predict(H, **FEW)
    assert frame["ds"].tolist() == following
    assert type(frame["ds"].tolist()[0]) is type(following[0])
    fitted.save(tmp_path / "f")
    again = ssmlin.load(tmp_path / "f")
    pd.testing.assert_frame_equal(again.predict(H, **FEW), frame)
    # One row tells no step, but the calendar goes with the model.
    if not isinstance(times, list):
        pd.testing.assert_series_equal(
            again.update(pd.Series(values()[:2], index[-2:])).predict(H, **FEW)["ds"], frame["ds"]
        )


@pytest.mark.float32
def test_missing_inputs_are_filled_on_demand(unfitted):
    sales, price = pd.Series(values(), MONTHS), pd.Series(values(1), MONTHS, name="price")
    gappy, filled = price.copy(), price.copy()
    gappy.iloc[[5, 6]], filled.iloc[[5, 6]] = np.nan, price.iloc[4]
    fitted = forecaster(fill_inputs=True).fit(sales, gappy)
    strict = forecaster().fit(sales, filled)
    plan = [price.iloc[-1], price.iloc[-1]]
    expected = strict.predict(H, future_inputs=plan, **FEW)
    for plan in (None, [np.nan, np.nan]):
        with pytest.warns(RuntimeWarning, match="2 of 2 steps to come are without price"):
            found = fitted.predict(H, future_inputs=plan, **FEW)
        pd.testing.assert_frame_equal(found, expected)
    with pytest.raises(ValueError, match="no missing values in column 'price', got 2 in data rows 6"
                       ", 7; fill_inputs="):  # fmt: skip
        forecaster().fit(sales, gappy)


# ------------------------------------------------------------------------------ what is forecast


@pytest.mark.float32
def test_forecasts_are_those_of_the_model_in_the_callers_units(sales):
    fitted, series = sales
    frame = fitted.predict(3, levels=(50, 95), num_samples=100, seed=4)
    assert list(frame.columns) == ["month", "mean", "lo-95", "lo-50", "hi-50", "hi-95"]
    model, params = fitted.model_, fitted.params_
    mean, sd = series.mean(), series.std(ddof=0)
    y = jnp.asarray(((series - mean) / sd).to_numpy()[:, None], jnp.float32)
    found = model.forecast(params, y, model.compute_inputs(y), 3, key=jax.random.key(4),
                           num_samples=100, levels=(0.5, 0.95), mask=jnp.arange(T) > 0)  # fmt: skip
    for name, x in (("mean", found.means), ("lo-50", found.lower[0]), ("hi-95", found.upper[1])):
        np.testing.assert_allclose(frame[name], mean + sd * np.asarray(x)[:, 0], rtol=1e-5)


@pytest.mark.float32
def test_other_units_give_the_same_forecasts_in_these(unfitted):
    one, other = (
        forecaster(**options).fit(1000 * values() + 7e4 * (i % 2)).predict(H, **FEW)
        for i, options in enumerate(({}, {}))
    )
    np.testing.assert_allclose(one.iloc[:, 1:] + 7e4, other.iloc[:, 1:], rtol=1e-5)
    logs = forecaster(transform="log").fit(values()), forecaster(transform="log").fit(9 * values())
    one, other = (fitted.predict(H, **FEW) for fitted in logs)
    np.testing.assert_allclose(9 * one.iloc[:, 1:], other.iloc[:, 1:], rtol=1e-4)
    steps = forecaster(difference=1).fit(np.arange(T) + 0.01 * values()).predict(H, **FEW)
    assert (np.abs(steps["mean"] - T - 0.5 - np.arange(H)) < 1).all()


@pytest.mark.float32
def test_inputs_to_come_are_joined_by_time_or_in_order(unfitted):
    frame = pd.DataFrame({"y": values(), "u": values(1), "month": MONTHS})
    fitted = forecaster().fit(frame, ["u"], time_col="month")
    assert fitted.model_.input_dim == 2
    ahead = pd.DataFrame({"u": [50.0, 60.0], "month": pd.date_range("2022-01-01", periods=2,
                                                                  freq="MS")})  # fmt: skip
    expected = fitted.predict(H, future_inputs=ahead, **FEW)
    for plan in (ahead[::-1], ahead.set_index("month"), np.array([[50.0], [60.0]])):
        pd.testing.assert_frame_equal(fitted.predict(H, future_inputs=plan, **FEW), expected)
    beside = forecaster().fit(pd.Series(values(), MONTHS), frame.set_index("month")["u"])
    found = beside.predict(H, future_inputs=np.array([50.0, 60.0]), **FEW)
    pd.testing.assert_frame_equal(found, expected)
    both = forecaster().fit([values(0), values(1)], [values(1), values(0)])
    plans = [np.array([50.0, 60.0]), np.array([1.0, 2.0])]
    found = both.predict(H, future_inputs=plans, **FEW)
    np.testing.assert_allclose(found["mean"][:H], expected["mean"], rtol=1e-5)
    other = both.predict(H, future_inputs=plans[::-1], **FEW)
    assert not np.allclose(found["mean"], other["mean"])


def test_a_season_is_that_of_the_times_wherever_the_data_begin(unfitted):
    for freq, steps in (("MS", 12), ("QS", 4), ("W", 52), ("D", 7), ("h", 24), ("YS", None),
                        ("min", None), ("30min", 48)):  # fmt: skip
        assert season_of(pd.date_range("2024-01-01", periods=20, freq=freq)) == steps
    assert season_of(np.arange(9)) is None
    assert first_place(MONTHS[5:]) - first_place(MONTHS) == 5
    assert first_place(np.arange(0.3, 2, 0.1)) - first_place(np.arange(0.1, 2, 0.1)) == 2
    months = pd.date_range("2010-01-01", periods=120, freq="MS")
    wave = np.sin(2 * np.pi * months.month / 12) + 0.3 * np.random.default_rng(0).normal(size=120)
    fitted = forecaster(season="auto").fit(pd.Series(wave, months))
    assert fitted.state_.only_fit.seasonal == 12 and fitted.model_.num_lags == 1
    whole = fitted.state_.observed()[""].inputs
    later = fitted.update(pd.Series(wave, months)[7:]).state_.observed()[""].inputs
    np.testing.assert_allclose(later, whole[7:], atol=1e-9)
    assert forecaster(season="auto").fit(wave).state_.only_fit.seasonal is None
    # Of a season that is said the criterion decides, too: these harmonics are no worth here.
    assert forecaster(season=12).fit(wave).state_.only_fit.seasonal == 12
    assert forecaster(season=5).fit(wave).state_.only_fit.seasonal is None


@pytest.mark.float32
def test_series_share_a_model_or_have_one_each(unfitted, tmp_path):
    shared, apart = (forecaster(pooling=p).fit(LONG) for p in ("auto", "separate"))
    assert len(shared.state_.fits) == 1 and list(apart.state_.fits) == ["b", "a"]
    assert shared.state_.scalings == apart.state_.scalings
    with pytest.raises(ValueError, match="pooling: expected one model, got 2"):
        _ = apart.model_
    new = LONG.assign(unique_id=LONG.unique_id.replace("a", "new"))
    assert set(shared.update(new).predict(H, **FEW).unique_id) == {"b", "new"}
    with pytest.raises(ValueError, match="series 'new': expected one of the fitted series"):
        apart.update(new)
    apart.save(tmp_path / "f")
    again = ssmlin.load(tmp_path / "f")
    pd.testing.assert_frame_equal(again.predict(H, **FEW), apart.predict(H, **FEW))
    assert again.pooling == "separate" and again.lags == 1


@pytest.mark.float32
def test_a_file_is_a_forecaster_and_a_model(sales, tmp_path):
    fitted, series = sales
    fitted.save(tmp_path / "f")
    again = ssmlin.load(tmp_path / "f")
    pd.testing.assert_frame_equal(again.predict(H), fitted.predict(H))
    assert load_model(tmp_path / "f")[0] == fitted.model_
    assert repr(again) == repr(fitted)
    fitted.model_.save(tmp_path / "m", fitted.params_)
    assert ssmlin.load(tmp_path / "m")[0] == fitted.model_
    with pytest.raises(ValueError, match="path: expected a file that Forecaster.save or"):
        Forecaster.load(tmp_path / "m")


@pytest.mark.float32
@pytest.mark.parametrize("refit", [False, True])
def test_cross_validation_is_what_forecasts_by_hand_are(refit, unfitted):
    series = pd.Series(values(), MONTHS, name="sales")
    table = forecaster().fit(series[:-1]).update(series)
    table = table.cross_validation(H, 2, step=3, levels=(80,), refit=refit, num_samples=20)
    assert list(table.columns) == ["month", "cutoff", "y", "mean", "lo-80", "hi-80"]
    first = T - H - 3
    by_hand = forecaster().fit(series[:first])
    for i, cutoff in enumerate((first, first + 3)):
        if i and refit:
            by_hand = forecaster().fit(series[:cutoff])
        elif i:
            by_hand.update(series[:cutoff])
        rows = table[H * i : H * (i + 1)].reset_index(drop=True)
        assert (rows["cutoff"] == MONTHS[cutoff - 1]).all()
        assert rows["y"].tolist() == series[cutoff : cutoff + H].tolist()
        expected = by_hand.predict(H, levels=(80,), **FEW)
        pd.testing.assert_frame_equal(rows.drop(columns=["cutoff", "y"]), expected)


# ------------------------------------------------------------------------------ statsforecast

PRICED = LONG.assign(price=np.arange(2.0 * T))
LEVELS = [80, 95]


@pytest.mark.float32
def test_statsforecasts_methods_are_those_of_the_forecaster(unfitted):
    sf = StatsForecastInterface(forecaster(), alias="linear")
    future = PRICED.assign(ds=PRICED["ds"] + pd.DateOffset(months=T))
    found = sf.forecast(h=H, df=PRICED, X_df=future, level=LEVELS)
    ours = forecaster().fit(PRICED, ["price"])
    expected = ours.predict(H, LEVELS, future).sort_values(["unique_id", "ds"], ignore_index=True)
    pd.testing.assert_frame_equal(found.set_axis(expected.columns, axis=1), expected)
    assert list(found.columns[2:]) == [
        "linear", "linear-lo-95", "linear-lo-80", "linear-hi-80", "linear-hi-95"
    ]  # fmt: skip
    found = sf.cross_validation(h=H, df=PRICED, n_windows=2, step_size=3, refit=False)
    expected = ours.cross_validation(H, 2, step=3, levels=()).rename(columns={"mean": "linear"})
    by = ["unique_id", "cutoff", "ds"]
    pd.testing.assert_frame_equal(found, expected.sort_values(by, ignore_index=True))
    assert sf.predict(H, future).columns.tolist() == ["unique_id", "ds", "linear"]


@pytest.mark.slow
@pytest.mark.float32
def test_statsforecasts_frames_are_those_of_the_library(unfitted):
    """All but the forecasts themselves; every argument of ours is one of theirs."""
    library = pytest.importorskip("statsforecast")
    from statsforecast.models import Naive

    theirs = library.StatsForecast([Naive(alias="linear")], freq="MS")
    ours = StatsForecastInterface(forecaster(), alias="linear")
    for method in ("predict", "forecast", "cross_validation"):
        known = inspect.signature(getattr(library.StatsForecast, method)).parameters
        assert set(inspect.signature(getattr(ours, method)).parameters) <= set(known)
    data = LONG.drop(columns="price")
    for method, options in (
        ("forecast", {"h": H, "level": LEVELS}),
        ("cross_validation", {"h": H, "n_windows": 2, "step_size": 3, "level": LEVELS}),
    ):
        found = getattr(ours, method)(df=data, **options)
        expected = getattr(theirs, method)(df=data, **options)
        assert set(found.columns) == set(expected.columns)  # their order is a model's own
        same = [x for x in ("unique_id", "ds", "cutoff", "y") if x in expected]
        pd.testing.assert_frame_equal(found[same], expected[same], check_dtype=False)


@pytest.mark.float32
def test_what_is_shown_is_short_and_says_what_is_fitted(sales):
    fitted, series = sales
    assert repr(Forecaster()) == "Forecaster()" and "not fitted" in Forecaster()._repr_html_()
    assert repr(forecaster()) == "Forecaster(lags=1, season=None, transform='none')"
    shown = fitted._repr_html_()
    for name, value in {"num_series": 1, "num_steps": T, "num_lags": 1}.items():
        assert f'>{name}</th><td style="text-align: left">{value}</td>' in shown
    (found,) = fitted.forecasts(H)
    for thing in (fitted.state_, found, fitted.model_):
        assert len(repr(thing)) < 600 and thing._repr_html_().startswith("<table>")
    dataset = found.to_xarray()
    np.testing.assert_array_equal(dataset["mean"][:, 0], fitted.predict(H)["mean"])
    np.testing.assert_array_equal(
        dataset["upper"].sel(level=95, column="sales"), fitted.predict(H)["hi-95"]
    )
    assert dataset["paths"].sizes == {"sample": 1000, "time": H, "column": 1}
    assert pd.Timestamp(dataset["time"].values[0]) == series.index[-1] + series.index.freq


@pytest.mark.float32
def test_few_series_in_a_file_are_as_those_of_a_frame(unfitted, tmp_path):
    path = tmp_path / "few.csv"
    LONG.to_csv(path, index=False)
    found = forecaster().fit(str(path), inputs="price")
    expected = forecaster().fit(LONG, inputs="price")
    future = LONG.tail(H).assign(ds=pd.date_range("2022-01-01", periods=H, freq="MS"))
    future = pd.concat([future, future.assign(unique_id="b")])
    means = [one.predict(H, future_inputs=future, **FEW)["mean"] for one in (found, expected)]
    np.testing.assert_array_equal(*means)
    path.write_text("unique_id,ds,y\na,1,7\na,2,7\nb,1,1\nb,2,2\n")
    for options, message in (
        ({}, "series 'a': targets: expected varying values in column 'y', got .*few.csv"),
        ({"id_col": None}, "id_col: expected the column .*read_table reads a file of one series"),
        ({"inputs": np.ones(4)}, "inputs: expected names of columns of the files, got ndarray"),
        ({"target_col": "sales"}, "columns: expected names among unique_id, ds, y; got 'sales'"),
    ):
        with pytest.raises(ValueError, match=message):
            forecaster().fit(path, **options)


@pytest.mark.float32
def test_a_picture_has_history_means_and_bands(unfitted):
    figure = forecaster().fit(LONG).plot(H, levels=(50, 80), num_steps=10)
    assert len(figure.axes) == 2
    observed, mean = figure.axes[0].lines
    assert observed.get_ydata().tolist() == values()[-10:].tolist() and len(mean.get_ydata()) == H
    wide, narrow = (x.get_paths()[0].vertices[:, 1] for x in figure.axes[0].collections)
    assert np.ptp(wide) > np.ptp(narrow)


@pytest.mark.float32
def test_a_stream_is_fitted_and_gone_on_from(tmp_path, monkeypatch):
    path = tmp_path / "data.csv"
    pd.DataFrame({"y": values(steps=60)}).to_csv(path, index=False)

    def fit_stream(model, params, props, windows, num_windows, num_values, **options):
        assert (num_windows, num_values, len(list(windows()))) == (3, 59, 3)
        return params, np.full((2, num_windows), -39.0)

    monkeypatch.setattr("ssmlin.learning.fit_stream", fit_stream)
    fitted = forecaster(discounts=(1.0,)).fit_stream(TableStream(path, ["y"]), window=20)
    assert fitted.state_.validation == {"": -39.0 / 20}
    assert fitted.state_.chosen_on == f"the first {streams.ROWS_TO_CHOOSE} rows"
    with pytest.raises(ValueError, match="data: expected the series that forecasts go on from"):
        fitted.predict(1)
    fitted.update(pd.read_csv(path))
    assert np.isfinite(fitted.predict(H, **FEW)["mean"]).all()
    with pytest.raises(ValueError, match="season: expected 'auto' or None for a streamed fit"):
        forecaster(season=12).fit_stream(TableStream(path, ["y"]))


# ------------------------------------------------------------------------------ messages


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lags": -1}, "lags: expected 'auto' or an integer >= 0, got -1"),
        ({"season": 1}, "season: expected 'auto' or an integer >= 2, got 1"),
        ({"pooling": "hierarchical", "mechanism": "mamba2"}, "pooling: expected .* got 'hierarch"),
        ({"pooling": "hierarchical", "difference": 1}, "difference: expected 0 with hierarchical"),
        ({"pooling": "all"}, "pooling: expected one of"),
        ({"mechanism": "mamba"}, "mechanism: expected"),
        ({"difference": -1}, "difference: expected"),
        ({"freq": "fortnight"}, "freq: expected B"),
        ({"holidays": ["Easter"]}, "holidays: expected dates"),
        ({"discounts": ()}, "discounts: expected"),
    ],
)
def test_bad_settings_are_told_at_once(settings, message):
    with pytest.raises(ValueError, match=message):
        Forecaster(**settings)


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        ("text", {}, "source: expected a file, a folder with .* got none at text"),
        (np.zeros((2, 2, 2)), {}, "data: expected a pandas Series or frame, an array"),
        (np.ones(9), {}, "targets: expected varying values in column 'y'"),
        (pd.DataFrame({"y": values(), "b": "word"}, MONTHS), {}, "numbers in column 'b', got 'wo"),
        (LONG.assign(y="word"), {}, "series 'b': columns: expected finite numbers in column 'y'"),
        (LONG, {"id_col": "shop"}, "series: expected a column of its own among"),
        (LONG, {"target_col": "sales"}, "columns: expected names among .* got 'sales'"),
        (LONG, {"time_col": "when"}, "columns: expected names among .* got 'when'"),
        (LONG, {"inputs": ["cost"]}, "columns: expected names among .* got 'cost'"),
        (
            LONG.iloc[np.r_[0, : 2 * T]],
            {},
            "series 'b': time: expected each time once in column 'ds', got .* series= ",
        ),
        (values(), {"inputs": values(steps=3)}, f"inputs: expected {T} rows, as the data have"),
        (ONE, {"inputs": pd.Series(values())}, "inputs: expected the index of the data, got 0 in"),
        ([values(), ONE], {}, "data: expected a list of series of the same kind"),
        ([values(), values(1)], {"inputs": values()}, "inputs: expected a list of 2"),
        (values(steps=1), {}, "rows: expected at least 2, got 1"),
    ],
)
def test_bad_data_are_told_with_the_column_and_the_row(data, options, message, unfitted):
    with pytest.raises(ValueError, match=message):
        forecaster().fit(data, **options)


def test_what_a_forecast_needs_is_told(unfitted):
    with pytest.raises(ValueError, match="forecaster: expected a fitted one, call fit first"):
        forecaster().predict(1)
    with pytest.raises(ValueError, match="lags: expected fewer than the 24 steps, got 24"):
        forecaster(lags=T).fit(values())
    with pytest.raises(ValueError, match="transform: expected positive values in column 'y'"):
        forecaster(transform="log").fit(values() - 50)
    fitted = forecaster().fit(pd.Series(values(), MONTHS), values(1))
    for arguments, message in (
        ((0,), "horizon: expected an integer >= 1"),
        ((1, (95, 100)), "levels: expected percentages in"),
        ((1, ("95",)), "levels: expected percentages in"),
        ((1, (0.95,)), "levels: expected percentages in .*such as 95, got .0.95"),
        ((1,), "future_inputs: expected the inputs x1 of the steps to come, got none"),
        ((2, (), np.ones(1)), "future_inputs: rows: expected 2, one for each step"),
        ((2, (), np.ones((2, 3))), "future_inputs: expected 1 columns, x1; got 3"),
    ):
        with pytest.raises(ValueError, match=message):
            fitted.predict(*arguments)
    with pytest.raises(ValueError, match="inputs: expected x1, as in the fit, got none"):
        fitted.update(pd.Series(values(), MONTHS))
    with pytest.raises(ValueError, match="data: expected them with times, like those of the fit"):
        fitted.update(values(), values(1))
    plain = forecaster().fit(values())
    with pytest.raises(ValueError, match="future_inputs: expected none"):
        plain.predict(1, future_inputs=np.ones(1))
    with pytest.raises(ValueError, match="num_windows: expected at least 2 steps before the first"):
        plain.cross_validation(12, 12)
