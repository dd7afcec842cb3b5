"""How the commands read files: the same options everywhere, kept in a model's notes."""

import inspect
import sqlite3

import pandas as pd
import pytest
from typer.testing import CliRunner

from ssmlin import LinearAttentionSSM
from ssmlin.cli._app import app
from ssmlin.cli._comparing import compare
from ssmlin.cli._fitting import fit, forecast, load_and_update, sample
from ssmlin.cli._options import Reading, read
from ssmlin.forecasting import _recipe as recipe
from ssmlin.forecasting._fitting import RecipeFit
from ssmlin.models import load_notes

pytestmark = pytest.mark.quick

runner = CliRunner()
NAMES = ("encoding", "decimal", "thousands", "date_format", "query", "table_name")


@pytest.mark.parametrize("command", [compare, fit, forecast, sample])
def test_every_command_that_reads_has_the_options(command):
    assert set(NAMES) <= set(inspect.signature(command).parameters)
    help_text = runner.invoke(app, [command.__name__, "--help"], env={"COLUMNS": "200"}).output
    for name in NAMES:
        assert f"--{name.removesuffix('_name').replace('_', '-')}" in help_text


@pytest.mark.parametrize("command", [["compare"], ["fit"], ["fit", "--window", "5"]])
@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("t;y|1;1.234|2;980|3;1.310", [], "'1.234' in column 'y', data row 1"),
        ("t;y|01/02/2020;1|02/02/2020;3|03/02/2020;2", ["--time", "t"], "--date-format"),
        ("t;y|1;1|2;3|3;2", ["--decimal", "x"], "decimal: expected '.' or ','"),
        ("t;y|1;1|2;3|3;2", ["--encoding", "nonsense"], "encoding: expected the name of one"),
        ("t;y|1;1|2;3|3;2", ["--table", "data"], "expected a database"),
        ("t;y|0;1|1;3|9000;2", ["--time", "t"], "8998 of them between 1.0|rise by equal steps"),
    ],
)
def test_what_is_in_doubt_ends_a_command_before_any_work(tmp_path, command, text, options, message):
    path = tmp_path / "data.csv"
    path.write_text(text.replace("|", "\n") + "\n")
    output = tmp_path / "output"
    result = runner.invoke(
        app, [*command, str(path), "-y", "y", *options, "--output", str(output), "--quiet"]
    )
    assert result.exit_code == 2 and isinstance(result.exception, SystemExit)
    said = " ".join(result.output.split())
    assert any(one in said for one in message.split("|"))
    assert [one.name for one in tmp_path.iterdir()] == ["data.csv"]


def test_a_model_reads_the_next_file_as_it_read_the_first(tmp_path, monkeypatch):
    """Two days that alone can be read in two ways; an option that is given anew decides."""
    first, second = tmp_path / "first.csv", tmp_path / "second.csv"
    rows = [f"{day.strftime('%d/%m/%Y')};{i},5" for i, day in
            enumerate(pd.date_range("2020-01-20", periods=14))]  # fmt: skip
    first.write_text("\n".join(["t;y", *rows]), encoding="utf-16")
    second.write_text("\n".join(["t;y", *rows[-2:]]), encoding="utf-16")

    def unfitted(*args, **kwargs):
        model = LinearAttentionSSM("mamba2", 1, 0, 2)
        return RecipeFit(model, model.initialize()[0], 0.0, 7)
        yield  # a plan that asks for no fit

    monkeypatch.setattr(recipe, "plan_sequences", unfitted)
    command = ["fit", first, "-y", "y", "--time", "t", "--encoding", "utf-16", "--transform",
               "none", "--output", tmp_path / "model", "-q"]  # fmt: skip
    result = runner.invoke(app, [str(word) for word in command])
    assert result.exit_code == 0, result.output
    notes = load_notes(tmp_path / "model")
    assert notes["reading"] == {"encoding": "utf-16", "date_format": "%d/%m/%Y"}
    assert notes["decimal"] == ","  # found in the file, for streams

    def days(reading):
        (columns,) = load_and_update(
            tmp_path / "model", second, reading, to_fit=True, progress=False
        ).state_.panel.values()
        return [str(time.date()) for time in columns.times]

    assert days(Reading()) == ["2020-02-01", "2020-02-02"]
    # 1 and 2 February are 2 January and 2 February, a month apart.
    assert days(Reading(date_format="%m/%d/%Y")) == ["2020-01-02", "2020-02-02"]


def test_options_given_anew_override_notes():
    noted = Reading(encoding="latin-1", decimal=",", thousands=".").notes()
    assert noted == {"encoding": "latin-1", "decimal": ",", "thousands": "."}
    assert Reading().after(noted) == Reading(**noted)
    assert Reading(decimal=".").after(noted) == Reading(encoding="latin-1", decimal=".")
    assert Reading(query="q", table="t").notes() == {}


def test_names_of_series_are_as_written_on_the_command_line(tmp_path):
    path = tmp_path / "panel.csv"
    path.write_text("id,y\n1.0,1\n1.0,2\n1,3\n1,4\n")
    assert list(read(path, ["y"], [], None, "id", Reading())) == ["1.0", "1"]


@pytest.mark.parametrize("column", [["2020-01", "2020-02"], ["3.1.2020", "13.1.2020"]])
def test_dates_that_are_not_used_are_told_of(tmp_path, capsys, column):
    path = tmp_path / "data.csv"
    rows = [f"{day};{number};{number};a" for number, day in enumerate(column)]
    path.write_text("\n".join(["the day;y;x;name", *rows]))
    read(path, ["y"], [], None, None, Reading())
    assert "--time 'the day' takes the dates" in capsys.readouterr().err
    read(path, ["y"], [], "the day", None, Reading())
    read(path, ["y"], [], "x", None, Reading())
    assert capsys.readouterr().err == ""


def test_a_table_of_a_database(tmp_path):
    connection = sqlite3.connect(tmp_path / "a.db")
    for name, values in {"one": [1.0, 2.0], "two": [3.0, 5.0]}.items():
        pd.DataFrame({"y": values}).to_sql(name, connection, index=False)
    connection.close()
    (columns,) = read(tmp_path / "a.db", ["y"], [], None, None, Reading(table="two")).values()
    assert columns.values.ravel().tolist() == [3, 5]
