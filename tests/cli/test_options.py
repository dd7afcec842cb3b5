"""One set of options: each command that takes one means the same by it."""

import inspect
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

import ssmlin
from ssmlin import LinearAttentionSSM
from ssmlin.cli import _options as options
from ssmlin.cli._app import app
from ssmlin.cli._comparing import compare
from ssmlin.cli._fitting import fit, forecast, sample
from ssmlin.forecasting import _fitting as fitting
from ssmlin.forecasting import _recipe as recipe
from ssmlin.forecasting._fitting import RecipeFit
from ssmlin.models import Forecast

pytestmark = pytest.mark.quick

RNG = np.random.default_rng(0)
#: Months from a December on, which are at the first place of their season.
MONTHS = pd.date_range("2001-12-01", periods=200, freq="MS")
OF_FILES = ("inputs", "time", "series", "freq", "holidays", "fill_inputs")
OF_FITS = ("period", "transform", "log")


def call(*arguments, code=0):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output + str(result.exception)
    return " ".join(result.output.split())


@pytest.mark.parametrize("command", [compare, fit, forecast, sample])
def test_each_option_is_the_same_in_every_command(command):
    taken = inspect.signature(command).parameters
    wanted = OF_FILES if command in (forecast, sample) else OF_FILES + OF_FITS
    for name in wanted:
        title = "".join(word.capitalize() for word in name.split("_"))
        assert taken[name].annotation is getattr(options, f"{title}Option")
        assert taken[name].default == inspect.signature(fit).parameters[name].default


@pytest.fixture
def asked(monkeypatch):
    """What the recipe is asked to fit, by either command; nothing is fitted."""
    given = []

    def plan_sequences(recommendation, emissions, inputs, seed, *, discounts, num_epochs, **_):
        given.append((recommendation, (seed, tuple(discounts), num_epochs), emissions, inputs))
        raise ValueError("asked")
        yield  # a plan that asks for no fit

    monkeypatch.setattr(fitting, "plan_sequences", plan_sequences)
    monkeypatch.setattr(recipe, "plan_sequences", plan_sequences)
    return given


@pytest.mark.parametrize("mechanism", ["bayesian_memory", "mamba2"])
@pytest.mark.parametrize(
    ("more", "num_inputs"),
    [([], 12), (["--period", 12, "--log"], 12), (["--period", 1], 1), (["--period", 5], 1),
     (["--transform", "0.5", "--period", "1"], 1)],
)  # fmt: skip
def test_what_compare_chooses_fit_fits(tmp_path, asked, mechanism, more, num_inputs):
    """The same transformation, lags, season, discounts, seed and data."""
    wave = np.sin(2 * np.pi * np.arange(200) / 12)
    y, u = np.exp(3 + 0.4 * wave + 0.1 * RNG.normal(size=200)), RNG.normal(size=200)
    frame = pd.DataFrame({"month": MONTHS.strftime("%Y-%m"), "y": y, "u": u})
    frame.to_csv(tmp_path / "all.csv", index=False)
    frame[:140].to_csv(tmp_path / "train.csv", index=False)
    common = ["-y", "y", "--time", "month", "--inputs", "u", "-q", *more]
    call("compare", tmp_path / "all.csv", *common, "--models", mechanism, "--workers", 1, code=1)
    fitted = call("fit", tmp_path / "train.csv", *common, "--mechanism", mechanism, code=2)
    assert "Error: asked" in fitted
    (compared, chosen, *ys), (ours, *zs) = asked
    assert chosen == zs.pop(0)
    assert replace(compared, mechanism=compared.mechanism.name) == ours
    assert ours.num_inputs == num_inputs
    for one, other in zip(ys, zs, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-9)


@pytest.fixture
def told(monkeypatch):
    """Fits that are none, and forecasts that say which inputs they were given."""

    def plan_sequences(recommendation, emissions, inputs, seed, **_):
        model = recommendation.model()
        return RecipeFit(model, model.initialize()[0], 0.0, 7)
        yield  # a plan that asks for no fit

    def forecast(self, params, emissions, inputs, *, horizon, future_inputs, num_samples, **_):
        means = np.zeros((horizon, 1)) if future_inputs is None else future_inputs[:, :1]
        samples = np.broadcast_to(means, (num_samples, *means.shape))
        return Forecast(
            means, means, np.array([0.5, 0.8, 0.95]), *np.stack([[means] * 3] * 2), samples
        )

    monkeypatch.setattr(recipe, "plan_sequences", plan_sequences)
    monkeypatch.setattr(LinearAttentionSSM, "forecast", forecast)


FEW = ["--lags", 1, "--transform", "none", "-q"]


def test_business_days_of_a_panel_are_forecast_as_they_are_written(tmp_path, told):
    """A second file, too short to show business days, goes on as the first; oracle: pandas."""
    days = pd.bdate_range("2012-11-01", "2012-12-31").drop(["2012-12-25", "2012-12-26"])
    frame = pd.concat(
        pd.DataFrame({"shop": shop, "day": days.strftime("%-d.%m.%Y"), "y": RNG.normal(size=41)})
        for shop in ("north", "south")
    )
    frame.to_csv(tmp_path / "a.csv", index=False)
    frame.groupby("shop").tail(3).to_csv(tmp_path / "later.csv", index=False)
    common = ["fit", tmp_path / "a.csv", "-y", "y", "--series", "shop", "--time", "day", *FEW]
    said = call(*common, "--output", tmp_path / "m")
    assert "2 business days are missing in column 'day': 2012-12-25, 2012-12-26; they are" in said
    following = pd.bdate_range("2013-01-01", periods=4)
    for model, more, expected in (
        ("m", [], following),
        ("m", ["--holidays", "2013-01-01,2012-12-25"], following[1:]),
        ("m2", [], following[1:]),
    ):
        if model == "m2":
            lines = "2012-12-25\n2012-12-26\n2013-01-01\n"
            (tmp_path / "holidays.txt").write_text(lines)
            holidays = ["--holidays", tmp_path / "holidays.txt"]
            assert "missing" not in call(*common, *holidays, "--output", tmp_path / "m2")
        to = tmp_path / "f.csv"
        call("forecast", tmp_path / model, tmp_path / "later.csv", "--horizon", len(expected),
             "--time", "day", *more, "--output", to, "-q")  # fmt: skip
        found = pd.read_csv(to).groupby("shop")["day"].apply(list)
        assert found["north"] == found["south"] == expected.strftime("%-d.%m.%Y").tolist()
        to.unlink()
    said = call("forecast", tmp_path / "m", tmp_path / "later.csv", "--series", "city", code=2)
    assert "--series: expected shop, as in the fit, got city" in said
    said = call("forecast", tmp_path / "m", tmp_path / "a.csv", "--freq", "W", code=2)
    assert "freq: expected steps of 'W' in column 'day'" in said
    assert "--freq: expected B (business days)" in call(*common, "--freq", "fortnight", code=2)


def test_missing_inputs_are_named_at_once_or_filled(tmp_path, told):
    days = pd.date_range("2022-01-01", periods=40)
    frame = pd.DataFrame({"day": days, "y": RNG.normal(size=40), "u": np.arange(40.0)})
    frame[:30].drop(index=[7, 8, 20]).to_csv(tmp_path / "a.csv", index=False)
    frame[31:].drop(index=[33, 34]).to_csv(tmp_path / "plan.csv", index=False)
    common = ["fit", tmp_path / "a.csv", "-y", "y", "--time", "day", "--inputs", "u", *FEW]
    said = call(*common, code=2)
    assert "a row at 2022-01-08, 2022-01-09, 2022-01-21 in column 'day', since" in said
    assert "(--fill-inputs) takes the last known ones" in said
    call(*common, "--fill-inputs", "--output", tmp_path / "m")
    kept = ssmlin.load(tmp_path / "m").state_.panel[""].inputs.ravel()
    assert kept.tolist() == [*range(7), 6, 6, *range(9, 20), 19, *range(21, 30)]
    # The same rule holds for the steps to come, also for a model whose fit needed none.
    frame[:30].to_csv(tmp_path / "whole.csv", index=False)
    call("fit", tmp_path / "whole.csv", *common[2:], "--output", tmp_path / "strict")
    ahead = [
        "--future",
        tmp_path / "plan.csv",
        "--horizon",
        6,
        "-q",
        "--output",
        tmp_path / "f.csv",
    ]
    said = call("forecast", tmp_path / "strict", tmp_path / "whole.csv", *ahead, code=2)
    assert (
        "--future: time: expected a row for each step to come in column 'day', got none for" in said
    )
    assert "2022-01-31, 2022-02-03, 2022-02-04; fill_inputs= (--fill-inputs) takes" in said
    scale = ssmlin.load(tmp_path / "m").state_.scalings[""]
    for model, more in (("strict", ["--fill-inputs"]), ("m", [])):
        said = call("forecast", tmp_path / model, tmp_path / "whole.csv", *ahead, *more)
        assert "3 of 6 steps to come are without u; they take the last known values" in said
        scale = ssmlin.load(tmp_path / model).state_.scalings[""]
        found = pd.read_csv(tmp_path / "f.csv")["mean"] * scale.input_scale[0] / scale.scale[0]
        (tmp_path / "f.csv").unlink()
        shown = (found - scale.mean[0] * scale.input_scale[0] / scale.scale[0]) + scale.input_mean[
            0
        ]
        np.testing.assert_allclose(shown, [29, 31, 32, 32, 32, 35], rtol=1e-5)
