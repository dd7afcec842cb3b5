"""Exported models against the library: NumPy alone, and StableHLO."""

import ast
import importlib.util
import json
import subprocess
import sys

import jax
import numpy as np
import pytest
from scipy import stats
from test_online_filter import CASES, make
from tiers import cases, slow
from typer.testing import CliRunner

import ssmlin
from ssmlin.cli._app import app
from ssmlin.data import Columns, Scaling, box_cox
from ssmlin.forecasting import FittedAttention, ForecasterState, Layout
from ssmlin.models import IntegratedRowCov
from ssmlin.serving import SeriesState, export_model
from ssmlin.serving._numpy_runtime import student_quantile


def imported(path):
    """The exported module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def sunspots(difference, seen=200):
    """A forecaster that goes on after the first years, and all years; a season is made up."""
    from statsmodels.datasets import sunspots

    frame = sunspots.load_pandas().data
    values, years = frame[["SUNACTIVITY"]].to_numpy() + 1, frame["YEAR"].to_numpy()
    values[150] = np.nan  # the steps of which this is a lag are left out
    columns = Columns(values[:seen], np.zeros((seen, 0)), years[:seen], ("y",), (), "number")
    model = ssmlin.LinearAttentionSSM(
        "bayesian_memory", 1, 5, 6, num_lags=2, row_cov=IntegratedRowCov(discount=0.9)
    )
    params, _ = model.initialize(jax.random.key(0))
    made = ssmlin.Forecaster()
    made.state_ = ForecasterState(
        Layout(("y",), (), "year"), {"": FittedAttention(model, params, 4)},
        {"": Scaling.fit(columns, (0.5,), difference)}, {"": columns}, {}, {},
    )  # fmt: skip
    return made, values[:, 0]


@pytest.mark.float32
@pytest.mark.parametrize("difference", [0, slow(1)])
def test_the_numpy_module_agrees_on_real_data_and_imports_nothing_else(difference, tmp_path):
    made, values = sunspots(difference)
    made.save(tmp_path / "model.safetensors")
    call = ["export", str(tmp_path / "model.safetensors"), "--output", str(tmp_path / "spots")]
    result = CliRunner().invoke(app, [*call, "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["files"] == [
        str(tmp_path / f"spots.{x}") for x in ("py", "npz")
    ]
    assert CliRunner().invoke(app, call).exit_code == 2  # files are there
    ast.parse((tmp_path / "spots.py").read_text(), feature_version=(3, 9))
    code = f"""
import sys
before = set(sys.modules)
sys.path.insert(0, {str(tmp_path)!r})
import json, spots
model = spots.load()
state, said = model.init(), []
for value in {values[200:240].tolist()}:
    state, seen = model.step(state, [value])
    ahead = model.predict(state)
    said.append([seen.location[0], seen.scale[0, 0], seen.df[0], ahead.median[0],
                 *(end[0] for end in ahead.interval(95))])
known = sys.stdlib_module_names | {{"spots", "numpy"}}
print(json.dumps([sorted({{name.split(".")[0] for name in set(sys.modules) - before}} - known),
                  [[float(x) for x in row] for row in said]]))
"""
    done = subprocess.run(
        [sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True
    )
    others, found = json.loads(done.stdout)
    assert others == []
    # The same steps, from the same state: draws of what is missing are left out of an export.
    online = ssmlin.OnlineForecaster(made)
    from ssmlin.serving._export import _after_data

    last = box_cox(online.columns.values[200 - difference :], (0.5,))
    state = SeriesState(_after_data(online), 0, last)
    for value, row in zip(values[200:240], found, strict=True):
        state, one = online.step(state, [value])
        ahead = online.predict(state)
        law = one.law
        expected = [law.means[0, 0], law.scales[0, 0, 0], law.student_df[0]]
        np.testing.assert_allclose(row[:3], expected, rtol=1e-5, atol=1e-5)
        median, _ = ahead.intervals((1e-9,))
        ends = [end[0, 0] for end in ahead.intervals((95,))]
        np.testing.assert_allclose(row[3:], [median[0, 0], *ends], rtol=2e-5)


@pytest.mark.parametrize("case", cases(CASES, "entries"))
def test_the_numpy_filter_is_the_online_filter(case, tmp_path):
    model, params, y, u = make(case)
    if model.covariance != "full":
        with pytest.raises(ValueError, match="covariance: expected 'full'"):
            export_model((model, params), tmp_path / "small")
        return
    path, _ = export_model((model, params), tmp_path / "small")
    exported = imported(path).load()
    online = ssmlin.OnlineFilter(model, params)
    state, expected = exported.init(), online.init()
    for emission, inputs in zip(y, u, strict=True):
        state, one = exported.step(state, emission, inputs)
        expected, law = online.step(expected, emission, inputs)
        np.testing.assert_allclose(one.location, law.means[0], atol=1e-9)
        np.testing.assert_allclose(one.scale, law.scales[0], atol=1e-9)
    np.testing.assert_allclose(state["mean"], expected.belief.mean, atol=1e-9)
    np.testing.assert_allclose(state["cov"], expected.belief.cov, atol=1e-9)
    if expected.belief.row_cov is not None:
        np.testing.assert_allclose(state["nu"], expected.belief.row_cov.df, atol=1e-9)
        np.testing.assert_allclose(state["psi"], expected.belief.row_cov.scale, atol=1e-9)


@pytest.mark.parametrize("df", [2.3, 4.0, 33.0, 999.0, 1001.0, 1e7])
def test_quantiles_of_students_t_are_those_of_scipy(df):
    for share in (0.501, 0.75, 0.9, 0.975, 0.9995):
        assert student_quantile(share, df) == pytest.approx(stats.t.ppf(share, df), abs=1e-9)


def test_missing_lags_and_values_that_do_not_fit_are_refused(tmp_path):
    model = ssmlin.LinearAttentionSSM("bayesian_memory", 1, 1, 2, num_lags=1)
    params, _ = model.initialize()
    path, _ = export_model((model, params), tmp_path / "small")
    exported = imported(path).load()
    with pytest.raises(ValueError, match="draws"):
        exported.step(exported.init(), [np.nan])
    with pytest.raises(ValueError, match="values: expected shape"):
        exported.step(exported.init(), [1.0, 2.0])
    with pytest.raises(ValueError, match="format: expected one of"):
        export_model((model, params), tmp_path / "small", "torch")
    result = CliRunner().invoke(app, ["export", "a.safetensors", "--output", "no-name"])
    assert result.exit_code == 2 and "Python can import" in result.stderr


@pytest.mark.slow
@pytest.mark.parametrize("case", ["full", "entries given Σ"])
def test_stablehlo_takes_any_number_of_series(case, tmp_path):
    pytest.importorskip("flatbuffers")
    from jax import export

    model, params, y, u = make(case)
    path, text, rest = export_model((model, params), tmp_path / "small", "stablehlo")
    assert "stablehlo" in text.read_text()
    step = jax.jit(export.deserialize(bytearray(path.read_bytes())).call)
    start = dict(np.load(rest))
    json.loads(bytes(start.pop("about")))
    del start["last"]
    online = ssmlin.OnlineFilter(model, params)
    series = 3
    state = {name: np.stack([x] * series) for name, x in start.items()}
    each = [online.init()] * series
    for t in (0, 1, 2, 5, 6):  # among them a row that is missing and one that is partly missing
        values = np.stack([y[t] + i for i in range(series)])
        state, found = step(state, values, np.stack([u[t]] * series))
        for i in range(series):
            each[i], law = online.step(each[i], values[i], u[t])
            np.testing.assert_allclose(found["location"][i], law.means[0], atol=1e-9)
            np.testing.assert_allclose(found["scale"][i], law.scales[0], atol=1e-9)
            np.testing.assert_allclose(found["log_density"][i], law.log_density, atol=1e-9)
