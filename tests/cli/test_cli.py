"""The command line, as a user calls it."""

import csv
import json

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from tiers import slow
from typer.testing import CliRunner

from ssmlin.cli._app import app
from ssmlin.demonstration import _demo as demo
from ssmlin.mechanisms import MECHANISMS

runner = CliRunner()


def test_help_names_the_commands():
    result = runner.invoke(app, ["--help"])
    assert result.exit_code == 0
    for command in ("demo", "compare", "fit", "forecast", "sample", "mechanisms", "bench"):
        assert command in result.output
        assert runner.invoke(app, [command, "--help"]).exit_code == 0


def test_mechanisms_lists_all(monkeypatch):
    result = runner.invoke(app, ["mechanisms"])
    assert result.exit_code == 0
    for name in MECHANISMS:
        assert f" {name} " in result.output  # as --mechanism wants it


def test_an_unknown_option_is_an_error():
    assert runner.invoke(app, ["demo", "--nothing"]).exit_code == 2
    assert runner.invoke(app, ["demo", "--workers", "0"]).exit_code == 2


@pytest.mark.slow
def test_demo_writes_what_it_names(tmp_path, monkeypatch):
    # The baselines have their own tests; here the way from data to files is walked.
    kept = ("bayesian_memory", "gated_deltanet", "autoregression")
    monkeypatch.setattr(demo, "_MODELS", kept)
    result = runner.invoke(app, ["demo", "--output", str(tmp_path), "--workers", "1", "--quiet"])
    assert result.exit_code == 0, result.output
    for name in ("comparison.csv", "predictions.png"):
        assert name in result.output.replace("\n", "")
    rows = list(csv.DictReader((tmp_path / "comparison.csv").open()))
    assert len(rows) == 6 and all(row["failure"] == "" for row in rows)
    scores = {(r["series"], r["model"]): float(r["log_density"]) for r in rows}
    for series in ("sunspots", "macro"):
        # A flexible model that is wrong and sure of itself is what the defaults must prevent.
        for model in ("bayesian_memory", "gated_deltanet"):
            assert scores[series, model] > scores[series, "autoregression"] - 0.15
    assert (tmp_path / "predictions.png").stat().st_size > 20_000


@pytest.fixture
def data(tmp_path):
    """A CSV file: a column that follows another, with a gap."""
    rng = np.random.default_rng(0)
    u = rng.normal(size=90)
    y = 3 + 2 * u + 0.1 * rng.normal(size=90)
    lines = [f"{i},{a!r},{b!r},word" for i, (a, b) in enumerate(np.stack([y, u], 1).tolist())]
    lines[10] = "10,,0.5,word"
    path = tmp_path / "data.csv"
    path.write_text("\n".join(["t,y,u,text", *lines]))
    return path


CHEAP = ["--models", "persistence,autoregression", "--quiet", "--workers", "1"]


def test_compare(data, tmp_path):
    table = tmp_path / "table.csv"
    options = ["--inputs", "u", "--horizon", "3", "--output", str(table)]
    result = runner.invoke(app, ["compare", str(data), "-y", "y", *options, *CHEAP])
    assert result.exit_code == 0, result.output
    assert "autoregression" in result.output and "table.csv" in result.output.replace("\n", "")
    rows = list(csv.DictReader(table.open()))
    assert [row["model"] for row in rows] == ["autoregression", "persistence"]
    assert float(rows[0]["rmse"]) < 0.2 and float(rows[0]["path_crps"]) > 0
    as_json = runner.invoke(
        app, ["compare", str(data), "-y", "y", "--inputs", "u", "--json", *CHEAP]
    )
    found = json.loads(as_json.output)["models"]
    assert float(rows[0]["log_density"]) == pytest.approx(found[0]["log_density"], rel=1e-9)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.csv", "-y", "y"], "expected a file, got none at none.csv"),
        (["data.csv", "-y", "z"], "names among t, y, u, text; got 'z'"),
        (["data.csv", "-y", "text"], "finite numbers in column 'text', got 'word' in data row 1"),
        (
            ["data.csv", "-y", "u", "--inputs", "y"],
            "no missing values in column 'y', got one in",
        ),
        (["data.csv", "-y", "y", "--models", "arima"], "models: expected names among all"),
        (["data.csv", "-y", "y", "--test-fraction", "2"], "test_fraction: expected"),
        (["data.csv", "-y", "y", "--horizon", "80"], "horizon: expected at most the 27"),
        (["data.csv", "-y", "y", "--output", "data.csv"], "expected a file that does not exist"),
        (["short.csv", "-y", "y"], "rows: expected at least 2, got 1"),
        (["empty.csv", "-y", "y"], "expected a header"),
        (["latin.csv", "-y", "y"], "expected text in utf-8"),
        (["infinite.csv", "-y", "y"], "got inf in data row 2"),
        (["constant.csv", "-y", "y"], "varying values in column 'y'"),
        (["ragged.csv", "-y", "y"], "Expected 2 fields in line 3"),
    ],
)
def test_bad_files_and_options_are_told_in_words(data, arguments, message, monkeypatch):
    folder = data.parent
    monkeypatch.chdir(folder)
    (folder / "short.csv").write_text("y\n1\n")
    (folder / "empty.csv").write_text("")
    (folder / "latin.csv").write_bytes("y,größe\n1,2\n".encode("latin-1"))
    (folder / "infinite.csv").write_text("y\n1\ninf\n2\n")
    (folder / "constant.csv").write_text("y\n" + "1\n" * 30)
    (folder / "ragged.csv").write_text("y,u\n1,2\n1,2,3\n4,5\n")
    before = {path: path.read_bytes() for path in folder.iterdir()}
    result = runner.invoke(
        app, ["compare", *arguments, *([] if "--models" in arguments else CHEAP)]
    )
    assert result.exit_code == 2 and isinstance(result.exception, SystemExit)
    assert message in " ".join(result.output.split())
    assert before == {path: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.slow
@pytest.mark.float32
def test_from_a_file_to_forecasts_and_draws(data, tmp_path):
    """Fit, forecast in the file's units, sample; the model remembers columns and scaling."""
    import arviz

    from ssmlin.data import Scaling
    from ssmlin.models import load, load_notes

    model, ahead, paths = tmp_path / "m.safetensors", tmp_path / "f.csv", tmp_path / "p.csv"
    options = ["--inputs", "u", "--time", "t", "--lags", "1", "--epochs", "30", "--quiet"]
    fit = ["fit", str(data), "-y", "y", "--output", str(model), *options]
    result = runner.invoke(app, fit)
    assert result.exit_code == 0, result.output
    assert runner.invoke(app, fit).exit_code == 2  # nothing is overwritten
    notes = load_notes(model)
    assert notes["targets"] == ["y"] and notes["time"] == "t"
    assert len(Scaling.from_dict(notes["scalings"][""]).mean) == 1

    future = tmp_path / "future.csv"
    future.write_text("t,u\n91,-1.0\n92,0.0\n90,1.0\n")
    command = ["forecast", str(model), str(data), "--horizon", "3", "--output", str(ahead)]
    missing = runner.invoke(app, command)
    assert missing.exit_code == 2 and "--future: expected a file" in missing.output
    result = runner.invoke(app, [*command, "--future", str(future), "--paths", str(paths)])
    assert result.exit_code == 0, result.output
    rows = list(csv.DictReader(ahead.open()))
    assert [float(row["t"]) for row in rows] == [90, 91, 92]
    # y = 3 + 2 u with noise of sd 0.1
    for row, u in zip(rows, (1.0, -1.0, 0.0), strict=True):
        assert abs(float(row["mean"]) - 3 - 2 * u) < 0.2
        widths = [float(row[f"upper_{n}"]) - float(row[f"lower_{n}"]) for n in (50, 80, 95)]
        assert 0.05 < widths[0] < widths[1] < widths[2] < 1.0
    with paths.open() as file:
        drawn = [float(row["y"]) for row in csv.DictReader(file) if float(row["t"]) == 91]
    assert len(drawn) == 1000
    assert np.mean(drawn) == pytest.approx(float(rows[1]["mean"]), abs=0.02)

    output = tmp_path / "draws.nc"
    chains = ["--chains", "2", "--warmup", "60", "--draws", "40", "--quiet"]
    sample = ["sample", str(model), str(data), "--output", str(output), *chains]
    result = runner.invoke(app, sample)
    assert result.exit_code == 0, result.output
    draws = arviz.from_netcdf(str(output))
    assert draws.posterior["alpha_t"].sizes == {"chain": 2, "draw": 40, "time": 90}
    assert draws.posterior["time"].values[-1] == 89
    assert load(model)[0].num_lags == 1


def test_a_file_of_something_else_is_no_model(data):
    result = runner.invoke(app, ["forecast", str(data), str(data)])
    assert result.exit_code == 2 and "expected a file of ssmlin with a model" in result.output


def run(*arguments):
    """A command that must succeed."""
    result = runner.invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output + str(result.exception)
    return result


@pytest.mark.float32
@pytest.mark.parametrize("integrated", [slow(False), True])
def test_forecasts_are_those_of_a_dense_kalman_recursion(tmp_path, integrated):
    """Intervals in the file's units, Gaussian or, with Σ unknown, Student-t."""
    from scipy import stats

    from ssmlin import LinearAttentionSSM
    from ssmlin.data import Scaling

    rng = np.random.default_rng(0)
    y, u = 50 + 10 * rng.normal(size=(30, 1)), rng.normal(size=(34, 2))
    y[4] = np.nan
    row_cov = "integrated_diagonal" if integrated else "diagonal"
    model = LinearAttentionSSM("mamba2", 1, 2, 3, row_cov=row_cov)
    params, props = model.initialize()
    scaling = Scaling((50.0,), (10.0,), (0.0, 0.0), (1.0, 1.0))
    notes = {"targets": ["y"], "inputs": ["a", "b"], "time": None, "series": None, "log": False,
             "scalings": {"": scaling.to_dict()}}  # fmt: skip
    model.save(tmp_path / "m.safetensors", params, props, notes)
    frame = np.column_stack([y, u[:30]])
    lines = [",".join("" if np.isnan(x) else repr(float(x)) for x in row) for row in frame]
    (tmp_path / "data.csv").write_text("\n".join(["y,a,b", *lines]))
    lines = [",".join(repr(float(x)) for x in row) for row in u[30:]]
    (tmp_path / "future.csv").write_text("\n".join(["a,b", *lines]))
    run("forecast", tmp_path / "m.safetensors", tmp_path / "data.csv", "--horizon", 4, "--future",
        tmp_path / "future.csv", "--output", tmp_path / "f.csv")  # fmt: skip
    found = pd.read_csv(tmp_path / "f.csv")

    dense = model.to_lgssm(params, jnp.asarray(u)).to_dynamax()
    F, b, Q = (np.asarray(x, float) for x in (dense.dynamics.weights, dense.dynamics.bias,
                                              dense.dynamics.cov))  # fmt: skip
    H, c, R = (np.asarray(x, float) for x in (dense.emissions.weights, dense.emissions.bias,
                                              dense.emissions.cov))  # fmt: skip
    mean, cov = np.asarray(dense.initial.mean, float), np.asarray(dense.initial.cov, float)
    prior = model.row_cov.law(params.row_cov) if integrated else None
    df, scale = (float(prior.student_df[0]), float(prior.scale[0])) if integrated else (0, 0)
    rows = float(np.squeeze(params.row_cov.covariance))
    for t in range(34):
        if t > 0:
            mean, cov = F[t] @ mean + b[t], F[t] @ cov @ F[t].T + Q[t]
        s = (H[t] @ cov @ H[t].T + R[t])[0, 0]
        predicted = (H[t] @ mean + c[t])[0]
        if t >= 30:
            law = stats.norm(predicted, np.sqrt(s))
            if integrated:
                law = stats.t(df, predicted, np.sqrt(s / rows * scale / df))
            row = found.iloc[t - 30]
            assert row["mean"] == pytest.approx(50 + 10 * predicted, abs=2e-3)
            for level in (50, 80, 95):
                ends = law.ppf([0.5 - level / 200, 0.5 + level / 200])
                given = row[[f"lower_{level}", f"upper_{level}"]].to_numpy(float)
                assert np.allclose(given, 50 + 10 * ends, rtol=2e-4)
        elif np.isfinite(y[t, 0]):
            error = (y[t, 0] - 50) / 10 - predicted
            gain = cov @ H[t].T / s
            mean, cov = mean + gain[:, 0] * error, cov - s * gain @ gain.T
            df, scale = df + 1, scale + error**2 / s * rows


@pytest.mark.float32
def test_a_panel_from_file_to_forecast(tmp_path):
    """Series of unequal length share a model; each comes back in its own units."""
    rng = np.random.default_rng(0)
    rows = [
        {"shop": shop, "day": t, "y": level + 0.1 * level * np.sin(t) + 0.01 * rng.normal()}
        for shop, level, steps in (("a", 10.0, 60), ("b", 1000.0, 40))
        for t in range(steps)
    ]
    data = tmp_path / "data.csv"
    pd.DataFrame(rows).to_csv(data, index=False)
    model, ahead, paths = (tmp_path / name for name in ("m.safetensors", "f.csv", "p.csv"))
    said = run("fit", data, "-y", "y", "--series", "shop", "--time", "day", "--lags", 2, "--epochs",
               20, "--output", model, "--json")  # fmt: skip
    assert json.loads(said.stdout)["num_lags"] == 2
    run("forecast", model, data, "--horizon", 3, "--output", ahead, "--paths", paths)
    found = pd.read_csv(ahead).set_index(["shop", "day"])
    for shop, level, start in (("a", 10.0, 60), ("b", 1000.0, 40)):
        for t in range(start, start + 3):
            expected = level + 0.1 * level * np.sin(t)
            assert found.loc[(shop, t), "mean"] == pytest.approx(expected, rel=0.02)
    assert len(pd.read_csv(paths)) == 2 * 1000 * 3
    table = run("compare", data, "-y", "y", "--series", "shop", "--time", "day", "--json", *CHEAP)
    series = [row["series"] for row in json.loads(table.output)["models"]]
    assert series == ["all"] * 2 + ["a"] * 2 + ["b"] * 2


@pytest.mark.float32
@pytest.mark.parametrize("option", [slow(("--difference", 1)), ("--window", 50)])
def test_differences_and_streams_come_back_in_the_units_of_the_file(tmp_path, option):
    rng = np.random.default_rng(0)
    y = 500 + 3 * np.cumsum(0.5 + 0.1 * rng.normal(size=400))
    data = tmp_path / "data.csv"
    pd.DataFrame({"y": y}).to_csv(data, index=False)
    model, ahead = tmp_path / "m.safetensors", tmp_path / "f.csv"
    run("fit", data, "-y", "y", "--lags", 1, "--epochs", 10, "--output", model, "--quiet", *option)
    run("forecast", model, data, "--horizon", 5, "--output", ahead)
    found = pd.read_csv(ahead)
    slope = 1.5 if option[0] == "--difference" else 0
    expected = y[-1] + slope * np.arange(1, 6)
    allowed = 2 if option[0] == "--difference" else 0.1 * np.ptp(y)
    assert np.abs(found["mean"] - expected).max() < allowed
    assert (found["lower_95"] < found["mean"]).all() and (found["mean"] < found["upper_95"]).all()


@pytest.mark.float32
def test_what_ctrl_c_stopped_goes_on(data, tmp_path, monkeypatch):
    import jax

    from ssmlin.learning._checkpoint import Checkpoint
    from ssmlin.models import load

    def fit(name):
        options = ["--lags", "1", "--epochs", "60", "--quiet"]
        return ["fit", str(data), "-y", "u", *options, "--output", str(tmp_path / name)]

    saves, save = [], Checkpoint.save

    def stopping(self, state, *args, **kwargs):
        save(self, state, *args, **kwargs)
        saves.append(0)
        if len(saves) == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "save", stopping)
        stopped = runner.invoke(app, fit("m.safetensors"))
    assert stopped.exit_code == 130 and "goes on from" in stopped.output
    folder = tmp_path / "m.safetensors.checkpoint"
    assert folder.is_dir() and not (tmp_path / "m.safetensors").exists()
    assert runner.invoke(app, fit("m.safetensors")).exit_code == 0
    assert not folder.exists()
    assert runner.invoke(app, fit("other.safetensors")).exit_code == 0
    one, other = (load(tmp_path / name)[1] for name in ("m.safetensors", "other.safetensors"))
    for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert np.array_equal(x, y)


def test_a_report_from_the_command_line(data, tmp_path):
    report = tmp_path / "report.html"
    run("compare", data, "-y", "y", "--inputs", "u", "--report", report, *CHEAP)
    text = report.read_text()
    assert "autoregression" in text and "ssmlin" in text
    assert 0 < text.index("Best over 27 held-out steps is autoregression") < text.index("<table")
    assert text.index("intervals of autoregression") < text.index("<table")
    again = runner.invoke(app, ["compare", str(data), "-y", "y", "--report", str(report), *CHEAP])
    assert again.exit_code == 2 and "--report: expected a file that does not" in again.output
    panel = ["compare", str(data), "-y", "y", "--series", "text", "--report", "r.html", *CHEAP]
    assert runner.invoke(app, panel).exit_code == 2


def test_mechanisms_as_json():
    rows = json.loads(run("mechanisms", "--json").output)
    assert [row["name"] for row in rows] == list(MECHANISMS)
    assert all(row["transition"] and row["source"] for row in rows)


def test_many_series_are_fitted_as_a_population_and_forecast(tmp_path):
    rng = np.random.default_rng(0)
    days = pd.date_range("2024-01-01", periods=20, freq="D").strftime("%Y-%m-%d")
    rows = [(f"shop {i}", day, 50 + i + x) for i in range(10)
            for day, x in zip(days, rng.normal(size=20).cumsum(), strict=True)]  # fmt: skip
    data, model, out = (tmp_path / name for name in ("shops.csv", "m.safetensors", "f.csv"))
    pd.DataFrame(rows, columns=["shop", "day", "y"]).to_csv(data, index=False)
    columns = ["-y", "y", "--series", "shop", "--time", "day"]
    said = run("fit", data, *columns, "--epochs", 2, "--log", "--output", model, "--json")
    assert "still improving" in said.stderr
    assert json.loads(said.stdout)["pooling"] == "hierarchical"
    run("forecast", model, data, "--horizon", 2, "--output", out)
    found = pd.read_csv(out)
    assert len(found) == 20 and set(found.day) == {"2024-01-21", "2024-01-22"}
    # A folder is read in pieces, and a model's file is then without the series.
    folder, other, again = (tmp_path / name for name in ("shops", "m2.safetensors", "f2.csv"))
    folder.mkdir()
    for i, part in enumerate((slice(130), slice(130, None))):
        pd.read_csv(data)[part].to_csv(folder / f"{i}.csv", index=False)
    run("fit", folder, *columns, "--epochs", 2, "--log", "--output", other)
    assert other.stat().st_size < model.stat().st_size
    run("forecast", other, folder / "*.csv", "--horizon", 2, "--output", again)
    pd.testing.assert_frame_equal(pd.read_csv(again), found, rtol=1e-9)
    refused = runner.invoke(
        app, ["sample", str(model), str(data), "--output", str(tmp_path / "s.nc")]
    )
    assert refused.exit_code == 2 and "shared or separate pooling" in refused.output
