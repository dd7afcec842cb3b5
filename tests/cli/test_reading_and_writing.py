"""What the commands read and write: the right rows, the user's names, and nothing half done."""

import sys
from io import StringIO
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import xarray
from rich.console import Console
from typer.testing import CliRunner

import ssmlin
from ssmlin import LinearAttentionSSM
from ssmlin._files import written_whole
from ssmlin.cli import _printing as printing
from ssmlin.cli import _scores as scores_printed
from ssmlin.cli._app import app
from ssmlin.comparison._frames import check_labels
from ssmlin.data import Scaling, read_table, select_columns, select_panel
from ssmlin.forecasting import _posterior_draws as posterior_draws
from ssmlin.learning._datatree import time_labels
from ssmlin.models import Forecast, load

HORIZON = 6
PLAIN = Scaling((0.0,), (1.0,), (0.0,), (1.0,))
DAYS = pd.date_range("2023-01-01", periods=36)


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def refused(result, message):
    """Whether a command ended with a message and no traceback."""
    assert result.exit_code == 2 and isinstance(result.exception, SystemExit), result.output
    assert message in " ".join(result.output.split()), result.output


def model_file(path, *, lags=0, inputs=(), scalings=None, target="y", time=None, series=None):
    """A model as `ssmlin fit` writes it, but not fitted."""
    model = LinearAttentionSSM("mamba2", 1, lags + len(inputs), 2, num_lags=lags)
    params, props = model.initialize()
    scalings = {"": PLAIN} if scalings is None else scalings
    notes = {"targets": [target], "inputs": list(inputs), "time": time, "series": series,
             "log": False, "scalings": {k: v.to_dict() for k, v in scalings.items()}}  # fmt: skip
    model.save(path, params, props, notes)
    return path


@pytest.fixture
def told(monkeypatch):
    """Forecasts that say which inputs they were given, or count the steps."""

    def forecast(self, params, emissions, inputs, *, horizon, future_inputs, num_samples, **_):
        means = jnp.arange(horizon)[:, None] if future_inputs is None else future_inputs[:, :1]
        ends = jnp.stack([means] * 3)
        samples = jnp.broadcast_to(means, (num_samples, *means.shape))
        return Forecast(means, means, jnp.array([0.5, 0.8, 0.95]), ends - 1, ends + 1, samples)

    monkeypatch.setattr(LinearAttentionSSM, "forecast", forecast)


# ------------------------------------------------------------------------------ inputs to come


@pytest.fixture
def promo(tmp_path):
    """A model with an input, its history, and where the inputs to come are to be."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"day": DAYS, "y": rng.normal(size=36), "u": np.arange(36) * 1.0})
    frame[:30].to_csv(tmp_path / "history.csv", index=False)
    model_file(tmp_path / "m", inputs=["u"], time="day")
    return frame, tmp_path


def ahead(folder, horizon=HORIZON):
    return run("forecast", folder / "m", folder / "history.csv", "--future", folder / "plan.csv",
               "--horizon", horizon, "--samples", 2, "--output", folder / "f.csv")  # fmt: skip


@pytest.mark.parametrize(
    "order", [slice(30, 36), slice(35, 29, -1), slice(36), slice(35, None, -1)]
)
def test_inputs_to_come_are_joined_by_time(told, promo, order):
    frame, folder = promo
    frame[order].to_csv(folder / "plan.csv", index=False)
    assert ahead(folder).exit_code == 0
    found = pd.read_csv(folder / "f.csv")
    assert found["day"].tolist() == DAYS[30:].strftime("%Y-%m-%d").tolist()
    assert found["mean"].tolist() == [30, 31, 32, 33, 34, 35]


def test_what_the_plan_does_not_say_is_named_and_nothing_is_written(told, promo):
    frame, folder = promo
    frame.drop(index=[32]).to_csv(folder / "plan.csv", index=False)
    refused(ahead(folder), "--future: time: expected a row for each step to come in column 'day', "
                           "got none for 2023-02-02")  # fmt: skip
    (folder / "plan.csv").write_text("day,u\n2023-01-31,\n")
    refused(ahead(folder, 1), "--future: inputs: expected no missing values in column 'u'")
    (folder / "plan.csv").unlink()
    refused(ahead(folder), "--future: source: expected a file")
    assert not (folder / "f.csv").exists()


def test_inputs_to_come_of_a_panel_are_joined_by_time_and_series(told, promo):
    frame, folder = promo
    several = pd.concat([frame.assign(shop=shop, u=frame.u + 100 * i)
                         for i, shop in enumerate(["north", "south"])])  # fmt: skip
    several[several.day < DAYS[30]].to_csv(folder / "history.csv", index=False)
    scalings = {"north": PLAIN, "south": PLAIN}
    (folder / "m").unlink()
    model_file(folder / "m", inputs=["u"], time="day", series="shop", scalings=scalings)
    other = several.assign(shop="east", u=-1.0)
    pd.concat([several[::-1], other]).to_csv(folder / "plan.csv", index=False)
    assert ahead(folder).exit_code == 0
    found = pd.read_csv(folder / "f.csv").set_index("shop")["mean"]
    assert found["north"].tolist() == [30, 31, 32, 33, 34, 35]
    assert found["south"].tolist() == [130, 131, 132, 133, 134, 135]
    (folder / "f.csv").unlink()
    pd.concat([several[:36], other]).to_csv(folder / "plan.csv", index=False)
    refused(ahead(folder), "--future: series: expected rows of 'south' in column 'shop', got none")
    assert not (folder / "f.csv").exists()


# ------------------------------------------------------------------------------ names


@pytest.mark.parametrize(
    ("target", "time", "series"),
    [
        ("step", None, None),
        ("path", "mean", None),
        ("mean", "path", "column"),
        ("lower_80", "column", "step"),
        ("column", None, "step"),
        ("step", "upper_95", "mean"),
        ("y", None, "path"),
    ],
)
def test_columns_of_any_name_are_forecast_and_read_back(told, tmp_path, target, time, series):
    frame = pd.DataFrame({target: np.sin(np.arange(12.0))})
    for name, values in ((time, np.arange(12) * 0.5), (series, ["one"] * 12)):
        if name is not None:
            frame[name] = values
    frame.to_csv(tmp_path / "history.csv", index=False)
    model_file(tmp_path / "m", target=target, time=time, series=series,
               scalings={"" if series is None else "one": PLAIN})  # fmt: skip
    result = run("forecast", tmp_path / "m", tmp_path / "history.csv", "--horizon", 3, "--samples",
                 2, "--output", tmp_path / "f.csv", "--paths", tmp_path / "p.csv")  # fmt: skip
    assert result.exit_code == 0, result.output
    found, paths = read_table(tmp_path / "f.csv"), read_table(tmp_path / "p.csv")
    times = np.arange(12, 15) * (1 if time is None else 0.5)
    for table in (found, paths):
        width = (9 if table is found else 3) + (series is not None)
        assert len(set(table.columns)) == len(table.columns) == width
        if time is not None:
            assert table[time][:3].tolist() == times.tolist()
        if series is not None:
            assert set(table[series]) == {"one"}
    assert paths[target].tolist() == [0, 1, 2] * 2
    taken = (time, series)
    assert found["mean_" if "mean" in taken else "mean"].tolist() == [0, 1, 2]
    assert found["upper_95_" if "upper_95" in taken else "upper_95"].tolist() == [1, 2, 3]
    # What was written goes where a history does.
    if series is None:
        back = select_columns(paths[:3], [target], time=time)
    else:
        back = select_panel(paths[:3], series, [target], time=time)["one"]
    assert back.values.ravel().tolist() == [0, 1, 2]


def test_two_outputs_are_two_files(tmp_path):
    model_file(tmp_path / "m")
    (tmp_path / "a.csv").write_text("y\n1\n2\n")
    both = tmp_path / "both"
    refused(run("forecast", tmp_path / "m", tmp_path / "a.csv", "--output", both, "--paths", both),
            "--output: expected another file than that of --paths")  # fmt: skip
    refused(run("compare", tmp_path / "a.csv", "-y", "y", "--output", both, "--report", both),
            "--output: expected another file than that of --report")  # fmt: skip


# ------------------------------------------------------------------------------ few rows


@pytest.mark.float32
@pytest.mark.parametrize("rows", [2, 1])
def test_a_forecast_goes_on_from_rows_that_do_not_vary(tmp_path, rows):
    """The model has its scaling; compared with the model itself on standardised rows."""
    scaling = Scaling((0.1,), (2.0,), (), ())
    path = model_file(tmp_path / "m", lags=1, scalings={"": scaling})
    (tmp_path / "a.csv").write_text("y\n" + "0.3\n" * rows)
    result = run("forecast", path, tmp_path / "a.csv", "--horizon", 2, "--samples", 50, "--output",
                 tmp_path / "f.csv")  # fmt: skip
    assert result.exit_code == 0, result.output
    found = pd.read_csv(tmp_path / "f.csv")
    assert found["step"].tolist() == [rows, rows + 1]
    model, params, _ = load(path)
    y = jnp.full((rows, 1), 0.1)
    mask = jnp.arange(rows) > 0  # the first row is a lag only
    expected = model.forecast(
        params, y, model.compute_inputs(y), 2, key=jax.random.key(0), num_samples=50, mask=mask
    )
    for column, value in (("mean", expected.means), ("upper_95", expected.upper[2])):
        assert np.allclose(found[column], 0.1 + 2 * np.asarray(value)[:, 0], atol=1e-5)


def test_what_a_forecast_cannot_do_without_is_told(told, tmp_path):
    path = model_file(tmp_path / "lags", lags=3)
    (tmp_path / "two.csv").write_text("y\n1\n2\n")
    to = ("--output", tmp_path / "f.csv")
    refused(run("forecast", path, tmp_path / "two.csv", *to),
            "rows: expected at least the 3 that the model goes on from, got 2")  # fmt: skip
    path = model_file(tmp_path / "timed", time="t")
    (tmp_path / "one.csv").write_text("t,y\n2020-01-01,1\n")
    refused(run("forecast", path, tmp_path / "one.csv", *to),
            "times: expected at least 2, which say how long a step is, got 1")  # fmt: skip
    # A series that the fit knew may be constant; one that it did not know has no scale then.
    path = model_file(tmp_path / "panel", series="shop", scalings={"old": PLAIN})
    (tmp_path / "new.csv").write_text("shop,y\nold,3\nold,3\nnew,1\nnew,2\n")
    assert run("forecast", path, tmp_path / "new.csv", *to).exit_code == 0
    (tmp_path / "f.csv").unlink()
    for cells, got in ((("new,4", "new,4"), "4.0 alone"), (("new,4", "new,"), "1 values")):
        (tmp_path / "flat.csv").write_text("\n".join(["shop,y", "old,3", "old,3", *cells]))
        refused(run("forecast", path, tmp_path / "flat.csv", *to),
                "series 'new': the model was fitted without it, so its scale is taken from these "
                f"rows: expected varying values in column 'y', got {got}")  # fmt: skip
    assert not (tmp_path / "f.csv").exists()


# ------------------------------------------------------------------------------ writing


@pytest.mark.parametrize("links", [True, False])
def test_a_new_file_replaces_none_that_came_meanwhile(tmp_path, monkeypatch, links):
    def link(*args):
        raise OSError("no links here")

    if not links:
        monkeypatch.setattr("os.link", link)
    path = tmp_path / "a.csv"
    with written_whole(path, new=True) as temporary:
        temporary.write_text("whole")
        assert not path.exists() and temporary.suffix == ".csv"
    with pytest.raises(FileExistsError), written_whole(path, new=True):
        raise AssertionError("not even begun")
    path.unlink()
    with pytest.raises(FileExistsError), written_whole(path, new=True) as temporary:
        temporary.write_text("late")
        path.write_text("meanwhile")
    assert path.read_text() == "meanwhile"
    with written_whole(path) as temporary:
        temporary.write_text("replaced")
    assert path.read_text() == "replaced" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("broken", [1, 2])
def test_a_forecast_that_cannot_be_written_leaves_nothing(told, tmp_path, monkeypatch, broken):
    model_file(tmp_path / "m")
    (tmp_path / "a.csv").write_text("y\n1\n2\n")
    before, calls, to_csv = set(tmp_path.iterdir()), [], pd.DataFrame.to_csv

    def stopping(self, path, **options):
        to_csv(self, path, **options)
        calls.append(path)
        if len(calls) == broken:
            raise OSError("no space left")

    command = ("forecast", tmp_path / "m", tmp_path / "a.csv", "--output", tmp_path / "f.csv.gz",
               "--paths", tmp_path / "p.csv")  # fmt: skip
    with monkeypatch.context() as patch:
        patch.setattr(pd.DataFrame, "to_csv", stopping)
        refused(run(*command), "no space left")
    assert set(tmp_path.iterdir()) == before
    assert run(*command).exit_code == 0
    assert len(read_table(tmp_path / "f.csv.gz")) == 12 and len(read_table(tmp_path / "p.csv")) > 12


def test_what_would_stop_the_draws_from_being_written_is_found_before(tmp_path, monkeypatch):
    model_file(tmp_path / "m")
    (tmp_path / "a.csv").write_text("y\n1\n2\n3\n")
    command = ("sample", tmp_path / "m", tmp_path / "a.csv", "--output", tmp_path / "d.nc", "-q")
    before = set(tmp_path.iterdir())

    def never(*args, **kwargs):
        raise AssertionError("the sampling began")

    class Broken:
        def to_netcdf(self, path, **options):
            path.write_bytes(b"half")
            raise ValueError("cannot serialise")

    with monkeypatch.context() as patch:
        patch.setattr(posterior_draws, "sample_over_gaps", never)
        patch.setitem(sys.modules, "h5netcdf", None)
        refused(run(*command), "--output: expected the packages for NetCDF")
        patch.undo()
        patch.setattr(posterior_draws, "sample_over_gaps", never)
        refused(run(*command[:3], "--output", tmp_path / "no" / "d.nc"), "expected a folder that")
        refused(run(*command[:3], "--output", tmp_path / ("x" * 250)), "expected a file that can")
    with monkeypatch.context() as patch:
        patch.setattr(posterior_draws, "sample_over_gaps", lambda *args, **kwargs: Broken())
        refused(run(*command), "cannot serialise")
    assert set(tmp_path.iterdir()) == before


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin"])
def test_times_of_a_zone_are_instants_in_files_of_draws(tmp_path, zone):
    times = pd.date_range("2024-03-30 12:00", periods=40, freq="h", tz=zone)  # the clocks change
    expected = times.tz_convert("UTC").tz_localize(None).to_numpy()
    for given in (times, list(times), pd.Series(times)):
        labels = time_labels(given, 40)
        xarray.Dataset(coords={"time": labels}).to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
        with xarray.open_dataset(tmp_path / "a.nc", engine="h5netcdf") as found:
            assert (found["time"].to_numpy() == expected).all()
    assert time_labels([1990, 1991], 2).tolist() == [1990, 1991]


def test_draws_of_a_series_with_a_time_zone_are_written(tmp_path, monkeypatch):
    times = pd.date_range("2020-01-01", periods=12, freq="h", tz="UTC")
    frame = pd.DataFrame({"t": times.strftime("%Y-%m-%dT%H:%M:%SZ"), "y": np.arange(12) * 5 % 7})
    frame.to_csv(tmp_path / "a.csv", index=False)
    model_file(tmp_path / "m", time="t")

    def sampled(*args, time, **options):
        gates = (("chain", "draw", "time"), np.zeros((2, 30, 12)))
        draws = {"alpha": (("chain", "draw"), np.random.default_rng(0).normal(size=(2, 30)))}
        posterior = xarray.Dataset(draws | {"alpha_t": gates}, {"time": time_labels(time, 12)})
        return xarray.DataTree.from_dict({"posterior": posterior})

    monkeypatch.setattr(posterior_draws, "sample_over_gaps", sampled)
    result = run("sample", tmp_path / "m", tmp_path / "a.csv", "--output", tmp_path / "d.nc", "-q")
    assert result.exit_code == 0, result.output
    with xarray.open_dataset(tmp_path / "d.nc", group="posterior", engine="h5netcdf") as found:
        assert (found["time"].to_numpy() == times.tz_localize(None).to_numpy()).all()


# ------------------------------------------------------------------------------ comparisons


def scored(*names, failure=""):
    """A table as `compare` makes it."""
    row = {"log_density": -123.456, "log_density_se": 0.1, "difference": -12.345,
           "difference_se": 1.234, "crps": 0.1, "energy": 0.2, "rmse": 0.3, "mae": 0.4,
           "coverage_50": 0.5, "coverage_80": 0.8, "coverage_95": 0.95, "pit_p": 0.03,
           "path_crps": 0.6, "num_parameters": 9, "seconds": 1.5, "setting": "num_lags=12, x=3",
           "failure": failure, "warnings": ""}  # fmt: skip
    return pd.DataFrame([{"model": name} | row for name in names])


def on_a_screen(monkeypatch, width):
    """Whatever prints sees so many columns."""
    for module in (scores_printed, printing):
        monkeypatch.setattr(module, "console", Console(width=width, file=StringIO(), markup=False))


#: What the line below a table says of the series.
COMPARED = {"": SimpleNamespace(split=SimpleNamespace(
    spread=[2.0], series=SimpleNamespace(columns=("y",)), transformation=""
))}  # fmt: skip


@pytest.mark.parametrize("width", [40, 60, 80, 100, 200])
def test_a_table_has_the_columns_that_fit_and_cuts_nothing(width, monkeypatch, capsys):
    on_a_screen(monkeypatch, width)
    names = ("multi_token_attention", "unobserved_components")
    scores_printed.print_scores(scored(*names), "[a] title", False, COMPARED)
    out = capsys.readouterr().out
    assert "…" not in out and all(f"  {name} " in out for name in names)
    assert out.count("-123.456") == 2
    assert max(len(line.rstrip()) for line in out.splitlines()) <= width
    assert ("CRPS" in out) == (width > 60) and ("95 %" in out) == (width > 80)
    assert ("-12.345 ± 1.234" in out) == (width >= 60)


def test_wide_tables_have_all_columns(monkeypatch, capsys):
    on_a_screen(monkeypatch, 80)
    frame = scored("multi_token_attention")
    scores_printed.print_scores(frame, "title", True, COMPARED)
    out = capsys.readouterr().out
    shown = frame.drop(columns=["failure", "warnings"])
    for name, value in shown.iloc[0].items():
        assert name in out and (f"{value:.3f}" if isinstance(value, float) else str(value)) in out
    assert "…" not in out


def test_when_all_models_fail(tmp_path):
    table = ssmlin.compare([0.0, 1.0, 4.0], models=["persistence"], progress=False)
    good = ssmlin.compare(np.sin(np.arange(30.0)), models=["persistence"], progress=False)
    assert list(table.columns) == list(good.columns)
    assert np.isnan(table.log_density[0]) and "period: expected several" in table.failure[0]
    data = tmp_path / "a.csv"
    data.write_text("y,shop\n0,b\n1,b\n4,b\n" + "".join(f"{i * i % 7},a\n" for i in range(40)))
    common = ("compare", data, "-y", "y", "-q", "--workers", 1, "--models", "persistence")
    (tmp_path / "three.csv").write_text("y\n0\n1\n4\n")
    for more in (["--json"], ["--output", tmp_path / "o", "--report", tmp_path / "r"]):
        result = run("compare", tmp_path / "three.csv", *common[2:], *more)
        assert result.exit_code == 1 and isinstance(result.exception, SystemExit)
        assert "Error: models: expected one that can be fitted" in result.output
        assert "period: expected several periods" in result.output
    assert not (tmp_path / "o").exists() and not (tmp_path / "r").exists()
    # Of several series one alone has a result.
    result = run(*common, "--series", "shop", "--output", tmp_path / "table.csv")
    assert result.exit_code == 1 and "can be fitted to all series, got none" in result.output
    assert "persistence failed on 1 of 2 series, first on b: ValueError: period" in result.output
    found = pd.read_csv(tmp_path / "table.csv").set_index("series")
    assert np.isfinite(found.log_density["a"]) and np.isnan(found.log_density["b"])


def test_a_series_may_be_called_all(tmp_path):
    data = tmp_path / "a.csv"
    lines = [f"{shop},{(i + k) * i % 7}" for k, shop in enumerate(["all", "b"]) for i in range(40)]
    data.write_text("\n".join(["shop,y", *lines]))
    result = run("compare", data, "-y", "y", "--series", "shop", "-q", "--workers", 1, "--models",
                 "persistence", "--output", tmp_path / "table.csv")  # fmt: skip
    assert result.exit_code == 0, result.output
    rows = [line for line in result.output.splitlines() if line.startswith("  persistence")]
    assert len(rows) == 1
    found = pd.read_csv(tmp_path / "table.csv").set_index("series")["log_density"]
    assert list(found.index) == ["all_", "all", "b"]
    assert found["all_"] == pytest.approx((found["all"] + found["b"]) / 2)


def test_rows_of_emissions_and_inputs_are_the_same_steps():
    y = pd.Series(np.sin(np.arange(30.0)), pd.date_range("2024-01-01", periods=30))
    u = pd.DataFrame({"u": np.cos(np.arange(30.0))}, y.index)
    for inputs in (None, u, u.reset_index(drop=True), u.to_numpy()):
        check_labels(y, inputs)
    check_labels(y.to_numpy(), u)
    with pytest.raises(ValueError, match="inputs: expected the labels of the emissions, got 2024-01"
                       "-02 00:00:00 in row 1 in the place of 2024-01-01"):  # fmt: skip
        check_labels(y, u.shift(freq="D"))
    with pytest.raises(ValueError, match="emissions: expected dates that rise, got 2024-01-30"):
        ssmlin.compare(y[::-1], models=["persistence"], progress=False)
    with pytest.raises(ValueError, match="inputs: expected dates that rise"):
        ssmlin.compare(y, u[::-1], models=["persistence"], progress=False)


def test_a_streamed_fit_refuses_a_table_whose_lags_are_mostly_missing(tmp_path):
    rows = ["i,y", *(f"{i},{i % 7 if i % 2 else ''}" for i in range(80))]
    (tmp_path / "a.csv").write_text("\n".join(rows))
    result = run("fit", tmp_path / "a.csv", "-y", "y", "--lags", 1, "--window", 20, "--transform",
                 "none", "--output", tmp_path / "m", "-q")  # fmt: skip
    refused(result, "--window: expected values and their 1 lags in at least half of the 80 rows")
