"""What a step is: business days and other grids, holidays, and how dates are written.

The oracle is pandas, whose offsets count days one by one.
"""

import copy
import pickle
import warnings

import numpy as np
import pandas as pd
import pytest

from ssmlin.data import (
    Calendar,
    TableStream,
    first_place,
    future_inputs,
    future_times,
    grid_step,
    label_format,
    select_columns,
    written_as,
)
from ssmlin.forecasting import season_of

pytestmark = pytest.mark.quick

DAYS = pd.bdate_range("2023-11-06", periods=45)  # a Monday; nine weeks
HOLIDAYS = ("2023-12-25", "2023-12-26", "2024-01-01", "2024-01-15")
IS_HOLIDAY = DAYS.isin(pd.DatetimeIndex(HOLIDAYS))


def times_of(times, calendar=None, **columns):
    frame = pd.DataFrame({"t": times, "y": np.arange(len(times)) % 7.0, **columns})
    return select_columns(frame, ["y"], list(columns), "t", calendar=calendar)


@pytest.mark.parametrize("zone", [None, "Europe/Berlin"])
def test_weekends_that_are_never_there_are_no_gaps(zone):
    days = (DAYS + pd.Timedelta("16h")).tz_localize(zone)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        times = times_of(days[:40]).times
    assert list(times) == list(days[:40]) and grid_step(times) == ("business days", 1.0)
    assert list(future_times(times, 5)) == list(days[40:]) and season_of(times) == 5
    # The grid goes with a part that shows no weekend, and is counted wherever it begins.
    assert list(future_times(times[:3], 7)) == list(days[3:10])
    assert list(future_times(times[:1], 9)) == list(days[1:10])
    assert first_place(times[7:]) - first_place(times) == 7


def test_holidays_are_missing_steps_or_left_out():
    seen = DAYS[~IS_HOLIDAY]
    with pytest.warns(RuntimeWarning, match="3 business days are missing in column 't': 2023-12-25,"
                      " 2023-12-26, 2024-01-01; .*holidays= .--holidays. leaves"):  # fmt: skip
        found = times_of(seen)
    assert list(found.times) == list(DAYS)
    assert np.isnan(found.values[:, 0]).tolist() == IS_HOLIDAY.tolist()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = times_of(seen, Calendar(holidays=HOLIDAYS))
    assert list(found.times) == list(seen)
    offset = pd.offsets.CustomBusinessDay(holidays=list(HOLIDAYS))
    following = pd.date_range(seen[-1] + offset, periods=9, freq=offset)
    assert list(future_times(found.times, 9)) == list(following)
    assert pd.Timestamp("2024-01-15") not in following
    assert list(future_times(found.times[-1:], 9)) == list(following)


@pytest.mark.parametrize(
    ("kept", "step"),
    [
        (slice(0, 5), ("seconds", 86_400.0)),  # no weekend between them
        (slice(0, None, 5), ("seconds", 7 * 86_400.0)),  # Mondays
        (slice(0, 10), ("business days", 1.0)),
    ],
)
def test_what_does_not_show_business_days_is_a_grid_of_other_days(kept, step):
    assert grid_step(times_of(DAYS[kept]).times) == step


def test_days_with_a_weekend_among_them_are_days():
    days = pd.date_range("2023-11-06", periods=30).drop(["2023-11-11", "2023-11-18"])
    with pytest.warns(RuntimeWarning, match="2 steps are missing in column 't'; they"):
        assert len(times_of(days).times) == 30
    # Weekdays alone show nothing where most of them are missing.
    few = pd.DatetimeIndex(["2023-11-06", "2023-11-07", "2023-11-15", "2023-11-20", "2023-11-22"])
    with pytest.warns(RuntimeWarning, match="12 steps are missing"):
        assert len(times_of(few).times) == 17


@pytest.mark.parametrize(
    "freq", ["D", "2D", "W-WED", "MS", "ME", "BMS", "BME", "QS", "QE", "BQE", "QS-FEB", "YS", "YE",
             "h", "15min", "2B"]
)  # fmt: skip
def test_grids_go_on_as_pandas_does_also_if_they_are_named(freq):
    whole = pd.date_range("2020-03-02", periods=40, freq=freq)
    # That every second business day is a step, no dates show.
    for calendar in (Calendar(freq), *([] if freq == "2B" else [Calendar()])):
        found = times_of(whole[:30], calendar).times
        assert list(found) == list(whole[:30])
        assert list(future_times(found, 10)) == list(whole[30:])
    kept = np.array([0, 1, 3, *range(6, 30)])
    with pytest.warns(RuntimeWarning, match="3 (steps|business days) are missing"):
        assert list(times_of(whole[kept], Calendar(freq)).times) == list(whole[:30])


def test_ends_of_february_and_april_are_last_days_and_months_count_from_year_0():
    ends = pd.DatetimeIndex(["2024-02-29", "2024-04-30"])
    assert future_times(ends, 2).strftime("%m-%d").tolist() == ["06-30", "08-31"]
    thirtieths = pd.DatetimeIndex(["2023-12-30", "2024-01-30", "2024-02-29", "2024-03-30"])
    assert future_times(thirtieths, 2).strftime("%m-%d").tolist() == ["04-30", "05-30"]
    # Seasons in the files of models begin where they did: at the months of a year times 12.
    assert first_place(pd.date_range("2024-03-01", periods=2, freq="MS")) == 2024 * 12 + 3


def test_a_step_that_is_said_may_be_shorter_than_all_that_are_seen():
    even = pd.date_range("2020-01-01", periods=6, freq="2MS")
    with pytest.warns(RuntimeWarning, match="5 steps are missing"):
        found = times_of(even, Calendar("M")).times
    assert list(found) == list(pd.date_range("2020-01-01", periods=11, freq="MS"))


@pytest.mark.parametrize(
    ("times", "freq", "message"),
    [
        (pd.date_range("2023-11-10", periods=9), "B", "days in column 't', got 2023-11-11, a Satu"),
        (DAYS, "W", "freq: expected steps of 'W' in column 't', got 2023-11-06.* by 2023-11-07"),
        (DAYS, "MS", "freq: expected steps of 'MS' in column 't', got 2023-11-06"),
        (np.arange(9), "D", "freq: expected dates in column 't', got numbers"),
    ],
)
def test_dates_that_are_not_what_is_said_of_them_are_refused(times, freq, message):
    with pytest.raises(ValueError, match=message):
        times_of(times, Calendar(freq))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("fortnight",), "freq: expected B .business days., D, .*, got 'fortnight'"),
        (("0D",), "freq: expected .* got '0D'"),
        (("SME",), "freq: expected .* got 'SME'"),
        ((None, ["Christmas"]), "holidays: expected dates such as 2024-12-25, got 'Christmas'"),
        ((None, ["2024-13-25"]), "holidays: expected dates such as 2024-12-25: "),
        (("D", ["2024-12-25"]), "holidays: expected none unless a step is a business day"),
    ],
)
def test_calendars_that_are_none(arguments, message):
    with pytest.raises(ValueError, match=message):
        Calendar(*arguments)


def test_a_calendar_is_copied_and_pickled():
    calendar = Calendar("B", HOLIDAYS)
    for other in (copy.deepcopy(calendar), pickle.loads(pickle.dumps(calendar))):
        assert other == calendar and other.step == calendar.step
        assert not np.is_busday(HOLIDAYS[0], busdaycal=other.days)


def test_a_row_on_a_holiday_and_a_calendar_without_times_are_refused():
    with pytest.raises(ValueError, match="freq: expected business days .*, got 2023-12-25, a holi"):
        times_of(DAYS, Calendar(holidays=HOLIDAYS))
    with pytest.raises(ValueError, match="freq: expected a column of times .--time. with it"):
        select_columns(pd.DataFrame({"y": [1.0, 2.0]}), ["y"], calendar=Calendar("D"))


def test_business_days_in_a_stream(tmp_path):
    path = tmp_path / "a.csv"
    pd.DataFrame({"t": DAYS, "y": range(45)}).to_csv(path, index=False)
    assert TableStream(path, ["y"], time="t", chunk_rows=4).summary.num_rows == 45


# ------------------------------------------------------------------------------ missing inputs


def test_inputs_of_steps_without_a_row_take_the_last_known_ones():
    days = pd.date_range("2024-01-01", periods=8)
    frame = pd.DataFrame({"t": days, "y": np.arange(8.0), "u": np.arange(8.0), "v": 1.0})
    frame.loc[4, "v"] = np.nan
    gaps = frame.drop(index=[2, 3, 6]).iloc[::-1]
    with pytest.warns(RuntimeWarning):
        found = select_columns(gaps, ["y"], ["u", "v"], "t", fill_inputs=True)
    expected = frame[["u", "v"]].drop(index=[2, 3, 6]).reindex(range(8)).ffill()
    np.testing.assert_array_equal(found.inputs, expected)
    assert np.isnan(found.values[:, 0]).tolist() == [i in (2, 3, 6) for i in range(8)]
    with pytest.raises(ValueError, match="column 'v', got one in data row 3; fill_inputs= .--fill"):
        select_columns(gaps[::-1], ["y"], ["u", "v"], "t")
    missing = pytest.warns(RuntimeWarning, match="3 steps are missing")
    message = (
        "at 2024-01-03, 2024-01-04, 2024-01-07 in column 't', .* got none; fill_inputs= .--fill"
    )
    with missing, pytest.raises(ValueError, match=message):
        select_columns(gaps[::-1], ["y"], ["u"], "t")
    frame.loc[:1, "u"] = np.nan
    with pytest.raises(ValueError, match="a first value of 'u' to go on from, got none at 2024-01-0"
                       "1, 2024-01-02"):  # fmt: skip
        select_columns(frame, ["y"], ["u"], "t", fill_inputs=True)


def test_inputs_to_come_go_on_from_those_of_the_history():
    days = pd.date_range("2024-01-01", periods=9)
    plan = pd.DataFrame({"t": days[[8, 5]], "u": [8.0, 5.0], "v": [np.nan, 50.0]})
    last = np.array([3.0, 30.0])
    with pytest.warns(RuntimeWarning, match="4 of 5 steps to come are without u, v; they take"):
        found = future_inputs(plan, days[:4], 5, ["u", "v"], "t", last=last)
    assert found.tolist() == [[3, 30], [5, 50], [5, 50], [5, 50], [8, 50]]
    with pytest.warns(RuntimeWarning, match="2 of 4 steps to come are without u; they take"):
        in_order = future_inputs(plan[["u"]], np.arange(4), 4, ["u"], last=last[:1])
    assert in_order.ravel().tolist() == [8, 5, 5, 5]
    with pytest.raises(
        ValueError, match="none for 2024-01-05, 2024-01-07, 2024-01-08; fill_inputs"
    ):
        future_inputs(plan, days[:4], 5, ["u"], "t")


# ------------------------------------------------------------------------------ labels


@pytest.mark.parametrize(
    ("texts", "read_by", "following"),
    [
        (["2012-11", "2012-12"], "ISO8601", "2013-01"),
        (["2000Q3", "2000Q4"], "%YQ%q", "2001Q1"),
        (["Q1/2000", "Q2/2000"], "Q%q/%Y", "Q3/2000"),
        (["30.12.2012", "31.12.2012"], "%d.%m.%Y", "01.01.2013"),
        (["30.9.2012", "1.10.2012"], "%d.%m.%Y", "2.10.2012"),
        (["12/31/2012", "1/1/2013"], "%m/%d/%Y", "1/2/2013"),
        (["Nov 2012", "Dec 2012"], "%b %Y", "Jan 2013"),
        (["2012-01-01T09:00", "2012-01-01T10:00"], "ISO8601", "2012-01-01T11:00"),
        (["2012-01-01 9:05 PM", "2012-01-01 10:05 PM"], "%Y-%m-%d %I:%M %p", "2012-01-01 11:05 PM"),
        ([201211, 201212], "%Y%m", "201301"),
    ],
)
def test_dates_to_come_are_written_as_they_are(texts, read_by, following):
    column = pd.Series(texts, name="t")
    found = select_columns(pd.DataFrame({"t": column, "y": [1.0, 2.0]}), ["y"], time="t")
    assert found.date_format == read_by
    form = label_format(column, found.date_format)
    assert written_as(found.times, form) == [str(text) for text in texts]
    assert written_as(future_times(found.times, 1), form) == [following]


@pytest.mark.parametrize(
    "column",
    [
        pd.Series(DAYS),
        pd.Series([1990, 1991]),
        pd.Series(["2012-01-01T09:00Z", "2012-01-01T10:00Z"]),
    ],
)
def test_what_is_no_text_or_has_a_zone_has_no_form(column):
    columns = select_columns(pd.DataFrame({"t": column, "y": range(len(column))}), ["y"], time="t")
    assert label_format(column, columns.date_format) is None
