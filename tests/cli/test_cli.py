"""The command line, as a user calls it."""

import csv

import pytest
from typer.testing import CliRunner

from ssmlin.cli.app import app
from ssmlin.evaluation import demo
from ssmlin.mechanisms import MECHANISMS

runner = CliRunner()


def test_help_names_the_commands():
    result = runner.invoke(app, ["--help"])
    assert result.exit_code == 0
    for command in ("demo", "compare", "mechanisms", "bench"):
        assert command in result.output
        assert runner.invoke(app, [command, "--help"]).exit_code == 0


def test_mechanisms_lists_all(monkeypatch):
    result = runner.invoke(app, ["mechanisms"])
    assert result.exit_code == 0
    for name in MECHANISMS:
        assert name[:8] in result.output


def test_an_unknown_option_is_an_error():
    assert runner.invoke(app, ["demo", "--nothing"]).exit_code == 2
    assert runner.invoke(app, ["demo", "--workers", "0"]).exit_code == 2


@pytest.mark.slow
def test_demo_writes_what_it_names(tmp_path, monkeypatch):
    # The baselines have their own tests; here the way from data to files is walked.
    full = demo.forecasters
    kept = ("bayesian_memory", "gated_deltanet", "autoregression")
    monkeypatch.setattr(
        demo, "forecasters", lambda lags: tuple(f for f in full(lags) if f.name in kept)
    )
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
