"""`ssmlin compare --series ... --horizon ...`, as a user calls it."""

import json
import sys

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from ssmlin.cli._app import app
from ssmlin.comparison.collections import MODELS, compare_collection, conclusions, hold_out

runner = CliRunner()
PANEL = ["-y", "sales", "--series", "shop", "--time", "month", "--horizon", "3"]
OPTIONS = [*PANEL, "--models", "autoregression", "--quiet"]


@pytest.fixture
def panel(tmp_path, monkeypatch):
    """A file of twelve shops, one of which never changes and one has a gap, and their values."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    values = {f"shop {k}": 20 + rng.normal(size=30).cumsum() for k in range(11)}
    values["closed"] = np.zeros(30)
    values["shop 1"][7] = np.nan
    path = tmp_path / "shops.csv"
    _write(path, values)
    return path, values


def _write(path, values):
    pd.concat(
        pd.DataFrame({"shop": name, "month": pd.date_range("2020-01-01", periods=len(y), freq="MS"),
                      "sales": y})
        for name, y in values.items()
    ).to_csv(path, index=False)  # fmt: skip


def compare(path, *options):
    return runner.invoke(app, ["compare", str(path), *map(str, options)])


def test_scores_and_report_are_those_of_the_function(panel, tmp_path):
    path, values = panel
    output, report = tmp_path / "scores.csv", tmp_path / "report.html"
    result = compare(path, *OPTIONS, "--output", output, "--report", report)
    assert result.exit_code == 0, result.output
    # Monthly times say that a season has twelve steps.
    expected = compare_collection(hold_out(values, 3, 12), ["autoregression"])["all"]
    found = pd.read_csv(output, keep_default_na=False, na_values={"mase": "", "crps": ""})
    ours, theirs = (
        frame.set_index(["model", "series"])["crps"].sort_index()
        for frame in (found, expected.to_frame())
    )
    pd.testing.assert_series_equal(ours, theirs)
    failed = found[(found.model == "autoregression") & (found.failure != "")]
    assert set(failed.series) == {"closed"}
    assert "autoregression failed on 1 of 12 series" in result.output
    assert (
        "first on closed: ValueError: train: expected differences that are not all" in result.output
    )
    text = report.read_text()
    assert "Ten series at random" in text and "by average rank of CRPS over 11 series" in text
    assert sorted(one.name for one in tmp_path.iterdir()) == [
        "report.html", "scores.csv", "shops.csv"
    ]  # fmt: skip
    again = compare(path, *OPTIONS, "--output", output)
    assert again.exit_code == 2 and "--output: expected a file that does not" in again.output


def test_the_conclusions_come_first(panel):
    path, values = panel
    found = compare_collection(hold_out(values, 3, 12), ["autoregression"])["all"]
    (best, *_) = found.ordered()
    first, second, third = conclusions(found)
    printed = compare(path, *OPTIONS).stdout
    assert " ".join(printed.split()).startswith(f"{first} {second} {third} ")
    assert all(len(line) <= 80 for line in printed.splitlines()[:8])
    assert best in first and "critical difference" in first
    assert f"{100 * abs(found.relative().loc['autoregression', 'skill']):.1f} %" in second
    coverage = found.summary().loc[best, "coverage_95"]
    assert best in third and f"{100 * coverage:.1f} % of the held-out values" in third


def test_json_holds_the_conclusions_and_the_summary(panel):
    found = json.loads(compare(panel[0], *OPTIONS, "--json").stdout)
    assert (found["series"], found["horizon"], found["period"]) == (12, 3, 12)
    assert found["fit"] is None  # no model of ours was compared
    assert len(found["conclusions"]) == 3 and found["critical_difference"] > 0
    rows = {row["model"]: row for row in found["models"]}
    assert rows["seasonal_naive"]["ratio"] == rows["seasonal_naive"]["mase_ratio"] == 1
    assert rows["autoregression"]["failures"] == 1 and 0 < rows["autoregression"]["ratio"] < 2
    yearly = compare(panel[0], *OPTIONS, "--period", 1, "--json")
    assert json.loads(yearly.stdout)["period"] == 1


def test_series_that_are_too_short_are_left_out_and_named(panel, tmp_path):
    path, values = panel
    more = {f"new {k}": np.arange(4.0) for k in range(6)} | {"nothing": np.full(9, np.nan)}
    _write(tmp_path / "more.csv", values | more)
    result = compare(tmp_path / "more.csv", *OPTIONS, "--json")
    assert json.loads(result.stdout)["series"] == len(values)
    assert "left out: 7 of 19 series, new 0, new 1, new 2, new 3, new 4, ..." in result.stderr
    _write(tmp_path / "short.csv", more)
    result = compare(tmp_path / "short.csv", *OPTIONS)
    assert result.exit_code == 2 and "--horizon: expected at least one series" in result.stderr


def test_models_that_are_not_installed_are_left_out_unless_they_are_named(panel, monkeypatch):
    monkeypatch.delitem(sys.modules, "statsforecast.models", raising=False)
    monkeypatch.setitem(sys.modules, "statsforecast", None)
    asked = []

    def naive_alone(collection, models, *args, **kwargs):
        asked.extend(models)
        return compare_collection(collection, ["seasonal_naive"])

    monkeypatch.setattr("ssmlin.comparison.collections.compare_collection", naive_alone)
    result = compare(panel[0], *PANEL)
    assert result.exit_code == 0, result.output
    assert asked == ["seasonal_naive", "autoregression", "hierarchical"]
    for expected in (
        "Left out: theta, optimized_theta, auto_ets, auto_arima",
        "ssmlin[collections]",
    ):
        assert expected in result.stderr
    assert result.stdout.startswith("Only seasonal_naive was compared.")
    result = compare(panel[0], *PANEL, "--models", "theta")
    assert result.exit_code == 2 and "--models: theta: statsforecast" in result.stderr


def test_progress_is_told_on_standard_error(panel):
    result = compare(panel[0], *PANEL, "--models", "autoregression")
    assert "shops all, autoregression: begins" in result.stderr
    assert "begins" not in result.stdout
    assert "begins" not in compare(panel[0], *OPTIONS).stderr


def test_what_was_stopped_goes_on_unless_the_data_are_others(panel, monkeypatch):
    path, values = panel
    calls, forecast = [], MODELS["autoregression"].forecast

    def counted(collection, seed):
        calls.append(len(collection))
        return forecast(collection, seed)

    model = type(MODELS["autoregression"])("autoregression", counted)
    monkeypatch.setitem(MODELS, "autoregression", model)
    for _ in range(2):
        assert compare(path, *OPTIONS, "--checkpoint", "kept").exit_code == 0
    assert len(calls) == 1
    _write(path, values | {"shop 2": values["shop 2"] + 1})
    assert compare(path, *OPTIONS, "--checkpoint", "kept").exit_code == 0
    assert len(calls) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--models", "nothing"], "--models: expected names among seasonal_naive"),
        (["--horizon", "30"], "--horizon: expected at least one series with 2 values before"),
        (["--time", "mont"], "got 'mont'; did you mean 'month'?"),
        (["--series", "store"], "series: expected a column of its own among shop, month, sales"),
        (["-y", "month"], "--target: expected one column with --series and --horizon, got 2"),
        (["--workers", "1"], "--workers: expected none with --series and --horizon"),
        (["--log"], "--log: expected none with --series and --horizon"),
    ],
)
def test_what_cannot_be_compared_is_told(panel, options, message):
    result = compare(panel[0], *OPTIONS, *options)
    assert result.exit_code == 2 and message in " ".join(result.output.split())


def test_what_cannot_be_read_is_told_with_its_series(panel, tmp_path):
    text = panel[0].read_text().replace("shop 3,2020-02-01,", "shop 3,2020-02-01,word")
    panel[0].write_text(text)
    result = compare(panel[0], *OPTIONS)
    said = " ".join(result.output.split())
    assert result.exit_code == 2 and "series 'shop 3': columns: expected finite numbers" in said


def test_where_no_model_can_be_fitted_the_command_fails(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _write(tmp_path / "lines.csv", {"a": np.arange(20.0), "b": 2 * np.arange(20.0)})
    result = compare(tmp_path / "lines.csv", *OPTIONS)
    assert result.exit_code == 1 and "got none but seasonal_naive" in result.stderr
    _write(tmp_path / "flat.csv", {"a": np.ones(20), "b": np.ones(20)})
    result = compare(tmp_path / "flat.csv", *OPTIONS)
    assert result.exit_code == 2 and "a series whose training part changes" in result.stderr


@pytest.mark.slow
def test_a_population_takes_gaps_and_series_that_never_change(panel):
    result = compare(panel[0], *PANEL, "--models", "hierarchical,autoregression", "--json")
    rows = {row["model"]: row for row in json.loads(result.stdout)["models"]}
    assert rows["hierarchical"]["failures"] == 1  # the closed shop
    assert rows["hierarchical"]["ratio"] < 1
