"""The transformation on the command line: chosen, asked for, kept, said, and undone."""

import json

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from ssmlin import LinearAttentionSSM
from ssmlin.cli._app import app
from ssmlin.data import Scaling
from ssmlin.forecasting import _recipe as recipe
from ssmlin.forecasting import _streams as streams
from ssmlin.forecasting._fitting import RecipeFit
from ssmlin.models import load_notes

CHEAP = ["--models", "persistence", "--quiet", "--workers", "1"]


def call(*arguments, code=0):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output + str(result.exception)
    return " ".join(result.output.split())


@pytest.fixture(scope="module")
def walk():
    return np.exp(np.cumsum(0.1 * np.random.default_rng(0).normal(size=(300, 2)), axis=0))


@pytest.fixture
def data(tmp_path, walk):
    """A walk of logarithms, and one that is not positive."""
    path = tmp_path / "data.csv"
    pd.DataFrame({"y": walk[:, 0], "z": walk[:, 1] - walk[:, 1].mean()}).to_csv(path, index=False)
    return path


def test_compare_says_what_models_see(data, tmp_path):
    asked = ["compare", data, "-y", "y", *CHEAP]
    assert "models see the logarithm of y" in call(*asked)
    assert "models see the logarithm of y" in call(*asked[:-2], "--log", "--workers", 1)
    assert "models see the power 0.5 of y" in call(*asked, "--transform", "0.5")
    assert "models see" not in call(*asked, "--transform", "none")
    both = call("compare", data, "-y", "y", "-y", "z", *CHEAP)
    assert "models see the logarithm of y" in both and "of z" not in both
    report = tmp_path / "report.html"
    call(*asked, "--report", report)
    assert "Models see the logarithm of y." in report.read_text()
    panel = tmp_path / "panel.csv"
    frame = pd.read_csv(data)
    linear = 20 + np.random.default_rng(0).normal(size=len(frame))
    frames = [frame.assign(s="a"), frame.assign(s="b", y=linear)]
    pd.concat(frames).to_csv(panel, index=False)
    said = call("compare", panel, "-y", "y", "--series", "s", *CHEAP)
    assert "models see the logarithm of y in 1 series" in said


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--transform", "sqrt"], "transform: expected auto, none, log, box-cox or a number >= 0"),
        (["--transform", "none", "--log"], "--log: expected no other --transform beside it, got"),
        (["--log", "-y", "z"], "transform: expected positive values in column 'z', got -"),
    ],
)
def test_bad_transformations_are_told_in_words(data, options, message):
    for command in (["compare", *CHEAP], ["fit", "--quiet"]):
        assert message in call(command[0], data, "-y", "y", *command[1:], *options, code=2)
    assert [path.name for path in data.parent.iterdir()] == ["data.csv"]


@pytest.fixture
def unfitted(monkeypatch):
    """The fit is that of others: here it is the start, and what it was given is kept."""
    given = []

    def plan_sequences(recommendation, emissions, inputs, seed, **options):
        m = emissions.shape[-1]
        model = LinearAttentionSSM("mamba2", m, m, 2, num_lags=1)
        params, _ = model.initialize()
        given.append(inputs)
        return RecipeFit(model, params, 0.0, 7)
        yield  # a plan that asks for no fit

    monkeypatch.setattr(recipe, "plan_sequences", plan_sequences)
    return given


@pytest.mark.parametrize("options", [[], ["--log"], ["--transform", "0.5"], ["--difference", "1"]])
def test_the_file_of_a_model_keeps_the_power(data, tmp_path, unfitted, walk, options):
    model = tmp_path / "m.safetensors"
    said = call("fit", data, "-y", "y", "--lags", 1, "--quiet", "--output", model, *options)
    power = 0.5 if "0.5" in options else 0.0
    assert f"the model sees the {'power 0.5' if power else 'logarithm'} of y" in said
    is_chosen = options in ([], ["--difference", "1"])
    assert ("chosen on all of the data" in said) == is_chosen
    notes = load_notes(model)
    scaling = Scaling.from_dict(notes["scalings"][""])
    assert scaling.power == (power,) and "log" not in notes
    x = np.sqrt(walk[:, 0]) if power else np.log(walk[:, 0])
    x = np.append(np.nan, np.diff(x)) if "--difference" in options else x
    expected = (x - np.nanmean(x)) / np.nanstd(x)
    lagged = np.asarray(unfitted[0])[0, 1:, 0]
    np.testing.assert_allclose(lagged, expected[:-1], rtol=1e-5, atol=1e-6)


@pytest.mark.float32
def test_forecasts_of_a_transformed_series_are_in_the_units_of_the_file(tmp_path, walk):
    from scipy import stats

    y = 30 * walk[:40, :1]
    pd.DataFrame({"y": y[:, 0]}).to_csv(tmp_path / "data.csv", index=False)
    model = LinearAttentionSSM("mamba2", 1, 0, 1)
    params, props = model.initialize()
    for power in (0.5, "log of before"):
        scaling = Scaling((5.0,), (0.25,), (), (), (0.0 if power == "log of before" else 0.5,))
        notes = {"targets": ["y"], "inputs": [], "time": None, "series": None,
                 "scalings": {"": scaling.to_dict()}}  # fmt: skip
        if power == "log of before":
            del notes["scalings"][""]["power"]
            notes["scalings"][""]["log"] = notes["log"] = True
        file, ahead = tmp_path / f"{power}.safetensors", tmp_path / f"{power}.csv"
        model.save(file, params, props, notes)
        call("forecast", file, tmp_path / "data.csv", "--horizon", 1, "--output", ahead)
        row = pd.read_csv(ahead).iloc[0]
        x = np.log(y) if power == "log of before" else 2 * (np.sqrt(y) - 1)
        found = model.forecast(params, jnp.asarray((x - 5) / 0.25), horizon=1)
        mean, half = float(found.means[0, 0]), float(found.upper[-1][0, 0] - found.means[0, 0])
        ends = 5 + 0.25 * (mean + half * stats.norm.ppf([0.1, 0.9]) / stats.norm.ppf(0.975))
        expected = np.exp(ends) if power == "log of before" else (1 + ends / 2) ** 2
        np.testing.assert_allclose(row[["lower_80", "upper_80"]].to_numpy(float), expected,
                                   rtol=1e-3)  # fmt: skip
    # A later value that the logarithm does not take is an error, and nothing is written.
    pd.DataFrame({"y": [*y[:, 0], -2.0]}).to_csv(tmp_path / "later.csv", index=False)
    files = sorted(tmp_path.iterdir())
    said = call("forecast", file, tmp_path / "later.csv", "--output", tmp_path / "x.csv", code=2)
    assert "positive values in column 'y', got -2.0 at step 41" in said
    assert sorted(tmp_path.iterdir()) == files


def test_a_stream_chooses_on_its_first_rows(tmp_path, walk, monkeypatch):
    from ssmlin.data import TableStream

    monkeypatch.setattr(streams, "ROWS_TO_CHOOSE", 200)
    path = tmp_path / "data.csv"
    frame = pd.DataFrame(walk, columns=["a", "b"])
    frame.loc[[9, 250], "a"] = np.nan
    frame.to_csv(path, index=False)

    def power(transform):
        return streams.choose_stream_powers(TableStream(path, ["a", "b"]), transform)

    assert power("auto") == power("log") == (0.0, 0.0) and power("none") == (1.0, 1.0)
    stream = TableStream(path, ["a", "b"], power=[0.0, 0.5], chunk_rows=70)
    found = np.concatenate([values for values, _ in stream.pieces()])
    expected = np.stack([np.log(frame.a), 2 * (np.sqrt(frame.b) - 1)], axis=1)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    np.testing.assert_allclose(stream.summary.scaling.mean, np.nanmean(expected, axis=0))
    assert stream.summary.scaling.power == (0.0, 0.5)
    # What comes later is training data, too: one value that is not positive, and no logarithm.
    frame.loc[280, "b"] = 0.0
    frame.to_csv(path, index=False)
    assert power("auto") == (0.0, 1.0)
    with pytest.raises(ValueError, match="positive values in column 'b', got 0.0 at step 281"):
        _ = TableStream(path, ["a", "b"], power=power("log"), chunk_rows=70).summary


def test_json_names_the_power(data, tmp_path, unfitted):
    model = tmp_path / "m.safetensors"
    said = call("fit", data, "-y", "y", "-y", "z", "--lags", 1, "--json", "--output", model)
    assert json.loads(said)["power"] == {"y": 0.0, "z": 1.0}
