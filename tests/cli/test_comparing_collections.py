"""`ssmlin compare-collection`, as a user calls it."""

import json

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from ssmlin.cli._app import app
from ssmlin.comparison.collections import compare_collection, hold_out

runner = CliRunner()
OPTIONS = ["-y", "sales", "--series", "shop", "--time", "month", "--horizon", "3",
           "--models", "autoregression", "--quiet"]  # fmt: skip


@pytest.fixture
def panel(tmp_path):
    """A file of four shops, one of which never changes, and its values by shop."""
    rng = np.random.default_rng(0)
    values = {f"shop {k}": 20 + rng.normal(size=30).cumsum() for k in range(3)}
    values["closed"] = np.zeros(30)
    months = pd.date_range("2020-01-01", periods=30, freq="MS")
    frame = pd.concat(
        pd.DataFrame({"shop": name, "month": months, "sales": y}) for name, y in values.items()
    )
    path = tmp_path / "shops.csv"
    frame.to_csv(path, index=False)
    return path, values


def test_scores_and_report_are_those_of_the_function(panel, tmp_path):
    path, values = panel
    output, report = tmp_path / "scores.csv", tmp_path / "report.html"
    files = ["--output", str(output), "--report", str(report)]
    result = runner.invoke(app, ["compare-collection", str(path), *OPTIONS, *files])
    assert result.exit_code == 0, result.output
    # Monthly times say that a season has twelve steps.
    expected = compare_collection(hold_out(values, 3, 12), ["autoregression"])["all"]
    found = pd.read_csv(output, keep_default_na=False, na_values={"mase": "", "crps": ""})
    ours, theirs = (
        frame.set_index(["model", "series"])["crps"].sort_index()
        for frame in (found, expected.to_frame())
    )
    pd.testing.assert_series_equal(ours, theirs)
    assert found.loc[(found.model == "autoregression") & (found.series == "closed"),
                     "failure"].item().startswith("ValueError")  # fmt: skip
    assert "autoregression failed on 1 of 4 series" in result.output
    assert "Ten series at random" in report.read_text()
    assert sorted(one.name for one in tmp_path.iterdir()) == [
        "report.html", "scores.csv", "shops.csv"
    ]  # fmt: skip
    again = runner.invoke(app, ["compare-collection", str(path), *OPTIONS, *files])
    assert again.exit_code == 2 and "--output: expected a file that does not" in again.output


def test_json_holds_the_summary(panel, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = runner.invoke(app, ["compare-collection", str(panel[0]), *OPTIONS, "--json"])
    assert result.exit_code == 0, result.output
    naive, regression = json.loads(result.output)
    assert naive["model"] == "seasonal_naive" and naive["ratio"] == 1
    assert regression["failures"] == 1 and 0 < regression["ratio"] < 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--models", "nothing"], "models: expected names among"),
        (["--horizon", "30"], "expected more than 30 steps"),
    ],
)
def test_what_cannot_be_compared_is_told(panel, tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    result = runner.invoke(app, ["compare-collection", str(panel[0]), *OPTIONS, *options])
    assert result.exit_code == 2 and message in result.output
