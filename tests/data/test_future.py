"""Inputs of the steps to come are those of their own time and series."""

import numpy as np
import pandas as pd
import pytest

from ssmlin.data import _future as future
from ssmlin.data import free_name, future_inputs, future_times, series_of_rows

pytestmark = pytest.mark.quick

STEPS, HORIZON = 20, 6
CLOCKS = {
    "numbers": 0.1 * np.arange(40),
    "days": pd.date_range("2023-01-01", periods=40),
    "month ends": pd.date_range("2023-01-31", periods=40, freq="ME"),
    "hours in UTC": pd.date_range("2023-01-01", periods=40, freq="h", tz="UTC"),
}


def make(times, rows, **columns):
    """A table whose input tells its step."""
    written = times if isinstance(times, np.ndarray) else times.astype(str)
    frame = pd.DataFrame({"t": written, "u": np.arange(len(times)) * 1.0, **columns})
    return frame.iloc[rows]


@pytest.mark.parametrize("clock", CLOCKS)
@pytest.mark.parametrize(
    "rows",
    [range(20, 26), range(25, 19, -1), range(40), range(39, -1, -1), [3, 25, 20, 22, 21, 24, 23]],
    ids=["exact", "reversed", "all", "all reversed", "mixed"],
)
def test_each_step_takes_the_row_of_its_time(clock, rows):
    times = CLOCKS[clock]
    found = future_inputs(make(times, rows), times[:STEPS], HORIZON, ["u"], "t")
    assert found.tolist() == [[20], [21], [22], [23], [24], [25]]


DAYS = CLOCKS["days"]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (make(DAYS, range(21, 30)), "none for 2023-01-21; fill_inputs="),
        (make(DAYS, [20, 22, 25]), "none for 2023-01-22, 2023-01-24, 2023-01-25; fill"),
        (make(DAYS, range(20)), r"none for 2023-01-21, .*, \.\.\. \(6 in all\); fill"),
        (make(DAYS, [20, 21, 22, 21, 23, 24, 25]), "got 2023-01-22 .* in data rows 2 and 4"),
        (make(DAYS + pd.Timedelta("1h"), range(30)), "got 2023-01-20 01:00:00, .* between them"),
        (make(DAYS.tz_localize("UTC"), range(30)), "zone in column 't', no time zone, got UTC"),
        (make(np.arange(40.0), range(30)), "expected dates in column 't'.*, got numbers"),
        (make(DAYS, range(30)).drop(columns="u"), "columns: expected a column 'u', got t"),
        (make(DAYS, range(30)).drop(columns="t"), "columns: expected a column 't', got u"),
        (make(DAYS, range(20, 30)).assign(u=["1", "2", "x", *"1234567"]), "'x' in data row 3"),
        (make(DAYS, range(20, 30)).assign(u=[1, np.nan] * 5), "'u'.* in data rows 2, 4, 6; fill"),
        (make(DAYS, range(20, 30)).assign(u=[1, np.inf] * 5), "got inf in data row 2"),
    ],
)
def test_a_table_that_does_not_say_them_is_refused(table, message):
    with pytest.raises(ValueError, match=message):
        future_inputs(table, DAYS[:STEPS], HORIZON, ["u"], "t")


def test_what_is_in_other_rows_does_not_matter():
    table = make(DAYS, range(40)).astype({"u": object})
    table.loc[[0, 5], "u"], table.loc[30, "u"] = "nothing", np.inf
    doubled = pd.concat([table, table[:10], table[30:]])
    found = future_inputs(doubled, DAYS[:STEPS], HORIZON, ["u"], "t")
    assert found.ravel().tolist() == [20, 21, 22, 23, 24, 25]


def test_series_are_joined_by_name():
    one = make(DAYS, range(25, 19, -1), shop="7")
    other = make(DAYS, range(20, 26), shop="007")
    table = pd.concat([one, other.assign(u=other.u + 100)])
    for name, expected in (("7", 20), ("007", 120)):
        found = future_inputs(table, DAYS[:STEPS], HORIZON, ["u"], "t", "shop", name)
        assert found.ravel().tolist() == list(range(expected, expected + 6))
    with pytest.raises(ValueError, match="series: expected rows of '8' in column 'shop', got none"):
        future_inputs(table, DAYS[:STEPS], HORIZON, ["u"], "t", "shop", "8")
    with pytest.raises(ValueError, match="series '7': time: expected a row for each step"):
        future_inputs(table[1:], DAYS[:STEPS], HORIZON, ["u"], "t", "shop", "7")


@pytest.mark.parametrize("rows", [6, 19])
def test_without_times_the_rows_are_the_steps_to_come(rows):
    table = make(DAYS, range(rows))
    found = future_inputs(table, np.arange(STEPS), HORIZON, ["u"])
    assert found.ravel().tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("rows", [5, 20, 26, 40])
def test_without_times_rows_that_may_be_the_history_are_refused(rows):
    message = f"rows: expected .*6.*, got {rows}"
    with pytest.raises(ValueError, match=message):
        future_inputs(make(DAYS, range(rows)), np.arange(STEPS), HORIZON, ["u"])
    # Exactly the steps to come are theirs, however short the history is.
    assert len(future_inputs(make(DAYS, range(6)), np.arange(2), HORIZON, ["u"])) == 6


def test_one_time_does_not_say_how_long_a_step_is():
    with pytest.raises(ValueError, match="times: expected at least 2"):
        future_times(DAYS[:1], 3)


def test_names_of_the_user_stay():
    assert free_name("mean", ["y", None]) == "mean"
    assert free_name("mean", ["mean", "mean_"]) == "mean__"
    assert free_name("mean", [" mean"]) == "mean_"  # names are stripped when a file is read


@pytest.mark.parametrize("written", ["dates", "text", "numbers"])
def test_the_rows_of_many_series_are_brought_together_once(monkeypatch, written):
    """The oracle takes the rows of each series by itself."""
    asked = []
    monkeypatch.setattr(
        future, "series_of_rows", lambda column: asked.append(0) or series_of_rows(column)
    )
    times = {"dates": DAYS, "text": DAYS, "numbers": 202001.0 + np.arange(40)}[written]
    given = DAYS.strftime("%d.%m.%Y") if written == "text" else times
    table = pd.concat(
        pd.DataFrame({"s": name, "t": given, "u": np.arange(40.0) + 100 * i})
        for i, name in enumerate("abc")
    ).sample(frac=1, random_state=0)
    date_format = {"text": "%d.%m.%Y", "numbers": "number"}.get(written)
    plan = future.FutureTable(table, ["u"], "t", "s", date_format)
    for name in "bca":
        own = table[table.s == name]
        expected = future_inputs(own, times[:STEPS], HORIZON, ["u"], "t", date_format=date_format)
        np.testing.assert_array_equal(plan.inputs(times[:STEPS], HORIZON, name), expected)
    assert len(asked) == 1
    with pytest.raises(ValueError, match="series: expected rows of 'd' in column 's', got none"):
        plan.inputs(times[:STEPS], HORIZON, "d")
    if written == "text":  # what is wrong with one series is no matter of the others
        table.loc[table.s == "a", "t"] = "never"
        plan = future.FutureTable(table, ["u"], "t", "s", date_format)
        assert plan.inputs(times[:STEPS], HORIZON, "b")[0] == 120
        with pytest.raises(ValueError, match="series 'a': time: expected dates .* got 'never'"):
            plan.inputs(times[:STEPS], HORIZON, "a")
