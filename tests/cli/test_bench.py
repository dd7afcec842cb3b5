"""The benchmarks run and print what they say."""

import json

import pytest
from typer.testing import CliRunner

from ssmlin.cli._app import _benchmarks, app

runner = CliRunner()
NAMES = list(_benchmarks().BENCHMARKS)


def test_list_names_all():
    result = runner.invoke(app, ["bench", "--list"])
    assert result.exit_code == 0
    assert all(f"{name}: " in result.output for name in NAMES)
    as_json = runner.invoke(app, ["bench", "--list", "--json"])
    assert list(json.loads(as_json.output)) == NAMES


def test_an_unknown_name_is_an_error():
    result = runner.invoke(app, ["bench", "nothing"])
    assert result.exit_code == 2
    assert "filtering" in result.output and "nothing" in result.output


@pytest.mark.calibration
def test_tables_are_complete():
    result = runner.invoke(app, ["bench", "filtering", "--quick"], catch_exceptions=False)
    assert result.exit_code == 0
    rows = [line for line in result.output.splitlines() if line.startswith("|")]
    assert len(rows) >= 5
    assert "nan" not in result.output


@pytest.mark.slow
def test_tables_as_json():
    result = runner.invoke(app, ["bench", "batches", "--quick", "--json"], catch_exceptions=False)
    assert result.exit_code == 0
    found = json.loads(result.output)
    (section,) = found["sections"]
    assert section["title"] == "Batches" and "float32" in found["machine"]
    assert sum(len(table) for table in section["tables"]) >= 3
    assert "nan" not in result.output
