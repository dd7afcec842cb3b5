"""One set of options: each command that takes one means the same by it."""

import inspect
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from ssmlin import LinearAttentionSSM
from ssmlin.cli import _options as options
from ssmlin.cli._app import app
from ssmlin.cli._comparing import compare
from ssmlin.cli._fitting import fit, forecast, sample
from ssmlin.forecasting import _fitting as fitting
from ssmlin.forecasting import _recipe as recipe
from ssmlin.forecasting._fitting import RecipeFit

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

    def fit_sequences(recommendation, emissions, inputs, seed, *, discounts, num_epochs, **_):
        given.append((recommendation, emissions, inputs, seed, tuple(discounts), num_epochs))
        raise ValueError("asked")

    monkeypatch.setattr(fitting, "fit_sequences", fit_sequences)
    monkeypatch.setattr(recipe, "fit_sequences", fit_sequences)
    return given


@pytest.mark.parametrize("mechanism", ["bayesian_memory", "mamba2"])
@pytest.mark.parametrize(
    ("more", "num_inputs"),
    [([], 12), (["--period", 12, "--log"], 12), (["--period", 1], 1), (["--period", 5], 1),
     (["--transform", "0.5", "--period", "1"], 1)],
)  # fmt: skip
def test_what_compare_chooses_fit_fits(tmp_path, asked, mechanism, more, num_inputs):
    """The same transformation, lags, season, discounts, seed and data, to the last bit."""
    wave = np.sin(2 * np.pi * np.arange(200) / 12)
    y, u = np.exp(3 + 0.4 * wave + 0.1 * RNG.normal(size=200)), RNG.normal(size=200)
    frame = pd.DataFrame({"month": MONTHS.strftime("%Y-%m"), "y": y, "u": u})
    frame.to_csv(tmp_path / "all.csv", index=False)
    frame[:140].to_csv(tmp_path / "train.csv", index=False)
    common = ["-y", "y", "--time", "month", "--inputs", "u", "-q", *more]
    call("compare", tmp_path / "all.csv", *common, "--models", mechanism, "--workers", 1, code=1)
    fitted = call("fit", tmp_path / "train.csv", *common, "--mechanism", mechanism, code=2)
    assert "Error: asked" in fitted
    (compared, *ys), (ours, *zs) = asked
    assert replace(compared, mechanism=compared.mechanism.name) == ours
    assert ours.num_inputs == num_inputs
    for one, other in zip(ys, zs, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.fixture
def unfitted(monkeypatch):
    def fit_sequences(recommendation, emissions, inputs, seed, **_):
        width = inputs.shape[-1]
        model = LinearAttentionSSM("mamba2", 1, width, 2, num_lags=recommendation.num_lags)
        return RecipeFit(model, model.initialize()[0], 0.0, 7)

    monkeypatch.setattr(recipe, "fit_sequences", fit_sequences)
