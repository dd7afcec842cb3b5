"""The command line, as a user calls it."""

import csv
import json

import numpy as np
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
    found = json.loads(as_json.output)
    assert float(rows[0]["log_density"]) == pytest.approx(found[0]["log_density"], rel=1e-9)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.csv", "-y", "y"], "none.csv: expected a CSV or TSV file"),
        (["data.csv", "-y", "z"], "expected columns among t, y, u, text; got 'z'"),
        (["data.csv", "-y", "text"], "finite numbers in column 'text', got 'word' in data row 1"),
        (
            ["data.csv", "-y", "u", "--inputs", "y"],
            "no missing values in the input 'y', got one in",
        ),
        (["data.csv", "-y", "y", "--models", "arima"], "models: expected names among all"),
        (["data.csv", "-y", "y", "--test-fraction", "2"], "test_fraction: expected"),
        (["data.csv", "-y", "y", "--horizon", "80"], "horizon: expected at most the 27"),
        (["data.csv", "-y", "y", "--output", "data.csv"], "expected a file that does not exist"),
        (["short.csv", "-y", "y"], "expected at least two rows, got 1"),
        (["empty.csv", "-y", "y"], "expected a CSV or TSV file with a header"),
        (["latin.csv", "-y", "y"], "expected a CSV or TSV file with a header"),
        (["infinite.csv", "-y", "y"], "got inf in data row 2"),
        (["constant.csv", "-y", "y"], "'y' constant"),
        (["ragged.csv", "-y", "y"], "expected a CSV or TSV file with a header"),
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
    (folder / "ragged.csv").write_text("y\n1\n1,2,3\n4\n")
    before = {path: path.read_bytes() for path in folder.iterdir()}
    result = runner.invoke(
        app, ["compare", *arguments, *([] if "--models" in arguments else CHEAP)]
    )
    assert result.exit_code == 2 and isinstance(result.exception, SystemExit)
    assert message in " ".join(result.output.split())
    assert before == {path: path.read_bytes() for path in folder.iterdir()}
