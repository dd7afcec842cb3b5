"""What `ssmlin compare` says first, and the command that it names; nothing is fitted."""

import functools
import json
import shlex
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import typer
from rich.cells import cell_len
from typer.testing import CliRunner

import ssmlin.cli
from ssmlin.cli import _verdicts as verdicts
from ssmlin.cli._app import app
from ssmlin.comparison import Comparison, Result, Scores, train_test_split, verdict
from ssmlin.forecasting import FittedAttention

pytestmark = pytest.mark.quick

runner = CliRunner()
N = 60


@pytest.fixture
def file(tmp_path, monkeypatch):
    """A file whose names need care in a shell."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"day": np.arange(2 * N), "y z": np.exp(rng.normal(size=2 * N)),
                          "it's": rng.normal(size=2 * N)})  # fmt: skip
    frame.to_csv("my data.csv", index=False)
    return "my data.csv"


@pytest.fixture
def compared(monkeypatch):
    """Has the command compare nothing: scores are made up, the same for each series."""
    kept = {}

    def fake(several, models, test_fraction, *, transform, **options):
        rng = np.random.default_rng(1)
        pit = rng.permutation((np.arange(N) + 0.5) / N)[:, None]
        fit = FittedAttention(SimpleNamespace(num_lags=3), None, 12)
        results = []
        for name, level, details in kept["table"]:
            errors = np.full((N, 1), 0.3)
            scores = Scores(level + 0.1 * rng.normal(size=N), errors, errors[:, 0], errors, errors,
                            pit)  # fmt: skip
            results.append(
                Result(name, {}, scores, None, None, 1, 0.0, fit if details else None,
                       warnings=("A: b (30 times)", "C: d") if name == "sarimax" else ())
            )  # fmt: skip
        kept["found"] = {
            one.name: Comparison(train_test_split(one, 0.5, transform), tuple(results))
            for one in several
        }
        return kept["found"]

    kept["table"] = [("sarimax", 0.0, False), ("mamba2", -0.2, True), ("persistence", -2.0, False)]
    monkeypatch.setattr("ssmlin.comparison.compare_series", fake)
    return kept


@pytest.fixture
def fits(monkeypatch):
    """Keeps what `ssmlin fit` is called with."""
    calls = []

    @functools.wraps(verdicts.fit)
    def fake(**arguments):
        calls.append(arguments)
        if arguments.get("as_json"):
            typer.echo(json.dumps({"output": str(arguments["output"])}))

    monkeypatch.setattr(verdicts, "fit", fake)
    return calls


def compare(file, *options, code=0):
    result = runner.invoke(app, ["compare", file, "-y", "y z", "-q", *map(str, options)])
    assert result.exit_code == code, result.output + str(result.exception)
    return result


def parsed(command):
    """The arguments of `ssmlin fit` in a command, as a shell and the program read it."""
    name, subcommand, *words = shlex.split(command)
    assert (name, subcommand) == ("ssmlin", "fit")
    return typer.main.get_command(app).commands["fit"].make_context("fit", words).params


def command_in(result):
    return next(line for line in result.stdout.splitlines() if line.startswith("ssmlin fit"))


def test_the_verdict_comes_first_and_fits_the_screen(file, compared):
    result = compare(file, "--log")
    said = verdict(compared["found"])
    words = " ".join(result.stdout.split())
    assert words.startswith(" ".join(said.sentences) + " " + said.choice.reason)
    lines = result.stdout.splitlines()
    assert all(len(line) <= 80 for line in lines if not line.startswith("ssmlin fit"))
    (unit,) = compared["found"][file].split.spread
    assert f"in standard deviations of the training part (y z: {unit:.4g})" in words
    assert "31 warnings of libraries (sarimax 31)" in words and "A: b" not in words


def test_the_command_says_what_was_compared(file, compared):
    result = compare(file, "--inputs", "it's", "--time", "day", "--decimal", ".", "--log",
                     "--seed", 5, "--horizon", 2, "--workers", 1)  # fmt: skip
    found = parsed(command_in(result))
    wanted = {"target": ["y z"], "inputs": "it's", "time": "day", "decimal": ".", "seed": 5,
              "mechanism": "mamba2", "lags": 3, "period": 12, "transform": "log"}  # fmt: skip
    assert str(found.pop("file")) == file
    assert {name: found[name] for name in wanted} == wanted
    default = parsed("ssmlin fit x --target y")
    others = found.keys() - wanted.keys()
    assert {name: found[name] for name in others} == {name: default[name] for name in others}


def test_several_series_are_fitted_as_they_were_compared(file, compared):
    frame = pd.read_csv(file).assign(shop="a")
    pd.concat([frame, frame.assign(shop="b")]).to_csv("two.csv", index=False)
    found = parsed(command_in(compare("two.csv", "--series", "shop", "--transform", "none")))
    assert (found["series"], found["pooling"], found["transform"]) == ("shop", "separate", "none")


def test_fit_fits_what_the_command_says(file, compared, fits, tmp_path):
    result = compare(file, "--fit", "m.safetensors")
    assert "--output m.safetensors" in command_in(result)
    (arguments,) = fits
    found = parsed(command_in(result))
    assert {name: str(x) for name, x in arguments.items() if name != "quiet"} == {
        name: str(found[name]) for name in arguments.keys() - {"quiet"}
    }
    as_json = json.loads(compare(file, "--fit", "m.safetensors", "--json").stdout)
    assert as_json["model"] == {"output": "m.safetensors"} and len(fits) == 2
    assert as_json["fit"] == command_in(result)
    said = verdict(compared["found"])
    assert as_json["conclusions"] == [said.which, said.by_how_much, said.trusted]
    assert as_json["advice"] == list(said.advice) and as_json["best"] == list(said.best)
    deviations = as_json["units"]["standard_deviations"]
    assert deviations == {"y z": compared["found"][file].split.spread[0]}
    assert [row["model"] for row in as_json["models"]] == ["sarimax", "mamba2", "persistence"]


def test_what_cannot_be_fitted_is_told(file, compared, fits):
    compared["table"] = [("sarimax", 0.0, False)]
    result = compare(file)
    assert "ssmlin fit" not in result.stdout and "Only sarimax was compared" in result.stdout
    said = compare(file, "--fit", "m.safetensors", code=1).stderr
    assert "expected a linear attention to fit, got none" in said and not fits
    Path("there.safetensors").write_text("")
    for options, words in (
        (["--fit", "there.safetensors"], "--fit: expected a file that does not exist"),
        (["--fit", "m", "--report", "m"], "--fit, got m for both"),
    ):
        assert words in " ".join(compare(file, *options, code=2).output.split())


def test_the_command_without_arguments_shows_what_most_people_want(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["ssmlin"])
    ssmlin.cli.main()
    lines = capsys.readouterr().out.splitlines()
    examples = [line.strip() for line in lines if line.startswith("  ssmlin")]
    assert [line.split()[1] for line in examples] == ["compare", "fit", "forecast"]
    assert all(len(line) <= 80 for line in lines)
    commands = typer.main.get_command(app).commands
    for line in examples:  # each is one that the program understands
        _, name, *words = shlex.split(line)
        commands[name].make_context(name, words)


def test_brackets_in_help_are_kept():
    assert "ssmlin[bench]" in runner.invoke(app, ["bench", "--help"]).output


def test_mechanisms_are_listed_in_full_on_80_columns(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    lines = runner.invoke(app, ["mechanisms"]).output.splitlines()
    assert max(cell_len(line) for line in lines) <= 80 and "…" not in "".join(lines)
