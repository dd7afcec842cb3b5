"""Times: dates are read in one way or refused, and a grid is that of days, months or hours."""

import datetime

import numpy as np
import pandas as pd
import pytest

from ssmlin.data import TableStream, future_times, read_table, select_columns, select_panel
from ssmlin.data._times import find_date_format, parse_times

pytestmark = pytest.mark.quick

MONTHS = pd.date_range("2020-01-01", periods=18, freq="MS")
DAYS = pd.date_range("2020-01-20", periods=18)
BERLIN = "Europe/Berlin"


def times_of(times, **options):
    frame = pd.DataFrame({"t": times, "y": np.arange(len(times))})
    return select_columns(frame, ["y"], time="t", **options).times


def from_file(tmp_path, texts, **options):
    """Times of a text file, of the whole table; a stream must read them, too."""
    path = tmp_path / "data.csv"
    path.write_text("t;y\n" + "".join(f"{text};{i}\n" for i, text in enumerate(texts)))
    stream = TableStream(path, ["y"], time="t", chunk_rows=4, **options)
    assert stream.summary.num_rows == len(texts)
    found = select_columns(read_table(path), ["y"], time="t", **options)
    assert found.date_format == stream.date_format
    return found.times


@pytest.mark.parametrize("as_numbers", [False, True])
@pytest.mark.parametrize(
    ("times", "written"),
    [(MONTHS, "%Y%m"), (DAYS, "%Y%m%d"), (MONTHS, "%Y%m%d"), (DAYS, "%Y%m%d%H")],
)
def test_integers_that_are_dates(tmp_path, times, written, as_numbers):
    texts = times.strftime(written)
    found = times_of(texts.astype(int)) if as_numbers else from_file(tmp_path, texts)
    assert list(found) == list(times)
    assert list(future_times(found, 1)) == [times[-1] + times.freq]


@pytest.mark.parametrize(
    "written",
    ["%Y-%m-%d", "%Y/%m/%d", "%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%d.%m.%y", "%m/%d/%y", "%d-%b-%Y",
     "%d %B %Y", "%d%b%Y", "%b %d, %Y", "%d. %B %Y", "%d.%m.%Y %H:%M", "%m/%d/%Y %I:%M %p",
     "%d/%m/%Y %H:%M:%S"],
)  # fmt: skip
def test_days_that_one_format_reads(tmp_path, written):
    assert list(from_file(tmp_path, DAYS.strftime(written))) == list(DAYS)


@pytest.mark.parametrize(
    "written", ["%Y-%m", "%Y/%m", "%m/%Y", "%Y.%m", "%m.%Y", "%b-%y", "%b %Y", "%B %Y", "%Y-%b"]
)
def test_months_that_one_format_reads(tmp_path, written):
    texts = list(MONTHS.strftime(written))
    assert list(from_file(tmp_path, texts)) == list(MONTHS)
    late = MONTHS[9:12].strftime(written)  # two digits each, as numbers have
    assert list(from_file(tmp_path, late)) == list(MONTHS[9:12])


@pytest.mark.parametrize("text", ["{}Q{}", "{}-Q{}", "{} Q{}"])
def test_quarters(tmp_path, text):
    quarters = pd.date_range("2000-01-01", periods=6, freq="QS")
    texts = [text.format(time.year, time.quarter) for time in quarters]
    assert list(from_file(tmp_path, texts)) == list(quarters)
    texts = [f"Q{time.quarter} {time.year}" for time in quarters]
    assert list(from_file(tmp_path, texts, date_format="Q%q %Y")) == list(quarters)


AMBIGUOUS = {
    "01.02.2020": ([*MONTHS[:12].strftime("%d.%m.%Y")], "2020-02-01 by '%d.%m.%Y'.*2020-01-02 by "
                   "'%m.%d.%Y'.*--date-format"),
    "01/02/2020": ([*MONTHS.strftime("%d/%m/%Y")], "2020-02-01 by.*2020-01-02 by"),
    "01-02-20": ([*MONTHS.strftime("%d-%m-%y")], "got '01-02-20' in data row 2"),
    "01022020": ([*MONTHS.strftime("%d%m%Y")], "a number or 2020-01-01 by '%d%m%Y'"),
    "200120": ([*DAYS.strftime("%y%m%d")], "a number or 2020-01-20 by '%y%m%d'"),
    "2020020": ([*DAYS.strftime("%Y%j")], "a number or 2020-01-20 by '%Y%j'"),
    "20001": (["20001", "20002"], "a number or 2000-01-01 by '%Y%q'"),
    "a typing error": (["20200227", "20200228", "20200229", "20200230"], "got '20200230' in data "
                       "row 4"),
    "two orders": (["01/02/2020", "13/02/2020", "02/13/2020"], "got '02/13/2020' in data row 3"),
    "1960": (["Jan-60", "Feb-60"], "got 'Jan-60' in data row 1, which may be 1960 or 2060"),
    "now": (["2020-01-01", "now"], "got 'now' in data row 2"),
    "weeks": (["2020-W01", "2020-W02"], "got '2020-W01' in data row 1"),
    "hours": (["12:00", "13:00"], "got '12:00' in data row 1"),
    "missing": (["2020-01-01", "NA"], "no missing times in 't', got one in data row 2"),
    "zones": (["2020-01-01T00:00+01:00", "2020-01-01T01:00+02:00"], "one time zone.*in data row 2"),
}  # fmt: skip


@pytest.mark.parametrize("name", AMBIGUOUS)
def test_what_can_be_read_in_two_ways_or_in_none_is_refused(tmp_path, name):
    texts, message = AMBIGUOUS[name]
    with pytest.raises(ValueError, match=message):
        times_of(texts)
    path = tmp_path / "data.csv"
    path.write_text("t,y\n" + "".join(f"{text},{i}\n" for i, text in enumerate(texts)))
    with pytest.raises(ValueError, match=message):
        _ = TableStream(path, ["y"], time="t").summary


@pytest.mark.parametrize(
    ("written", "times"),
    [("%d.%m.%Y", MONTHS), ("%m/%d/%Y", MONTHS), ("%d%m%Y", DAYS), ("%y%m%d", DAYS)],
)
def test_a_given_format_decides(tmp_path, written, times):
    assert list(from_file(tmp_path, times.strftime(written), date_format=written)) == list(times)


def test_numbers_stay_numbers(tmp_path):
    for texts in (["1990", "1991"], ["1990.0", "1990.25", "1990.5"], ["001", "002"], ["10000",
                  "20000"], ["1577836800", "1577840400"], ["-1", "0"], ["0,5", "1,0"]):  # fmt: skip
        expected = [float(text.replace(",", ".")) for text in texts]
        assert list(from_file(tmp_path, texts)) == expected
    assert list(from_file(tmp_path, ["202001", "202002"], date_format="number")) == [202001, 202002]
    # A counter runs through what are no months.
    assert list(times_of(range(202001, 202041))) == list(range(202001, 202041))
    with pytest.raises(ValueError, match="got 2020.01 in data row 1, which is a number or a month"):
        times_of([2020.01, 2020.02, 2020.03])
    with pytest.raises(ValueError, match="got '01/02/2020' in data row 1; date_format="):
        times_of(["01/02/2020", "02/02/2020"], date_format="number")
    with pytest.raises(ValueError, match="date_format: expected a format of strptime, got '%Q'"):
        times_of(["01/02/2020", "02/02/2020"], date_format="%Q")


def test_the_format_is_that_of_all_series_together():
    frame = pd.DataFrame(
        {"id": list("aabb"), "t": ["01/02/2020", "02/02/2020", "13/02/2020", "14/02/2020"],
         "y": [1, 2, 3, 4]}
    )  # fmt: skip
    panel = select_panel(frame, "id", ["y"], time="t")
    assert [str(time.date()) for time in panel["a"].times] == ["2020-02-01", "2020-02-02"]
    assert panel["a"].date_format == "%d/%m/%Y"


@pytest.mark.parametrize(
    "times",
    [
        [datetime.date(2020, 1, 30), datetime.date(2020, 1, 31)],
        pd.Series(pd.to_datetime(["2020-01-30", "2020-01-31"])),
        pd.Categorical(["2020-01-30", "2020-01-31"]),
        pd.period_range("2020-01-30", periods=2, freq="D"),
        pd.array([20200130, 20200131], dtype="Int64"),
        [20200130.0, 20200131.0],
        "arrow",
    ],
    ids=str,
)
def test_dates_of_any_type(times):
    if isinstance(times, str):
        pa = pytest.importorskip("pyarrow")
        days = [datetime.date(2020, 1, 30), datetime.date(2020, 1, 31)]
        times = pd.array(days, dtype=pd.ArrowDtype(pa.date32()))
    found = times_of(times)
    assert [str(t.date()) for t in [*found, *future_times(found, 1)]] == [
        "2020-01-30", "2020-01-31", "2020-02-01"]  # fmt: skip


@pytest.mark.parametrize(
    ("times", "message"),
    [
        ([pd.Timestamp("2020-01-01"), "13/01/2020"], "all rows.*got '13/01/2020' in data row 2"),
        ([pd.Timestamp("2020-01-01", tz=BERLIN), pd.Timestamp("2020-01-02", tz="UTC")], "one time"),
        (pd.to_timedelta([1, 2], unit="h"), "got durations"),
        ([True, False], "got booleans"),
        ([1, np.inf], "got inf in data row 2"),
    ],
)
def test_times_that_are_none(times, message):
    with pytest.raises(ValueError, match=message):
        times_of(times)


# ------------------------------------------------------------------------------------- grids


@pytest.mark.parametrize(
    ("start", "frequency"),
    [("2024-03-28", "D"), ("2024-10-25", "D"), ("2024-03-30 20:00", "h"), ("2024-10-26 20:00", "h"),
     ("2024-03-17", "W"), ("2024-01-01", "MS"), ("2024-01-31", "ME"), ("2024-03-30 20:00", "15min"),
     ("2023-10-01", "QS")],
)  # fmt: skip
def test_the_change_of_clocks(tmp_path, start, frequency):
    """Local midnights are a grid of days, hours of what has passed, whole, ahead and in a stream.

    Oracle: pandas.date_range, which has both kinds of offsets.
    """
    whole = pd.date_range(start, periods=30, freq=frequency, tz=BERLIN)
    assert list(times_of(whole)) == list(whole)
    kept = np.array([0, 1, 2, 4, 5, 9, 10, 11])
    with pytest.warns(RuntimeWarning, match="4 steps are missing"):
        found = times_of(whole[kept])
    assert list(found) == list(whole[:12])
    assert list(future_times(found, 18)) == list(whole[12:])
    assert list(future_times(whole[:2], 28)) == list(whole[2:])
    pytest.importorskip("pyarrow")
    pd.DataFrame({"t": whole, "y": range(30)}).to_parquet(tmp_path / "a.parquet")
    stream = TableStream(tmp_path / "a.parquet", ["y"], time="t", chunk_rows=4)
    assert stream.summary.num_rows == 30


def test_two_local_times_a_day_and_a_time_that_the_clock_skips():
    noons = pd.date_range("2024-03-29 12:00", periods=5, tz=BERLIN)
    both = noons.append(pd.date_range("2024-03-29", periods=5, tz=BERLIN)).sort_values()
    assert list(times_of(both)) == list(both)
    nights = pd.date_range("2024-03-29 02:30", periods=2, tz=BERLIN)
    ahead = future_times(times_of(nights), 2)
    assert [str(time) for time in ahead] == [
        "2024-03-31 03:00:00+02:00",
        "2024-04-01 02:30:00+02:00",
    ]


def test_utc_in_a_stream(tmp_path):
    whole = pd.date_range("2020", periods=30, freq="h", tz="UTC")
    texts = whole.strftime("%Y-%m-%dT%H:%M:%SZ")
    assert list(from_file(tmp_path, texts)) == list(whole)
    path = tmp_path / "data.csv"
    path.write_text("t,y\n" + "".join(f"{text},{i}\n" for i, text in enumerate(texts.delete(13))))
    with pytest.raises(ValueError, match=r"12:00:00\+00:00 and .*14:00.* in data rows 13 and 14"):
        _ = TableStream(path, ["y"], time="t", chunk_rows=4).summary


def test_zones_that_differ_between_the_pieces_of_a_stream(tmp_path):
    path = tmp_path / "data.csv"
    times = ["2020-01-01T00:00+01:00", "2020-01-01T01:00+01:00", "2020-01-01T03:00+02:00"]
    path.write_text("t,y\n" + "".join(f"{time},{i}\n" for i, time in enumerate(times)))
    with pytest.raises(ValueError, match="one time zone in 't', got 2020-01-01 03:00.* row 3"):
        _ = TableStream(path, ["y"], time="t", chunk_rows=2).summary


def test_months_in_a_stream(tmp_path):
    path = tmp_path / "data.csv"
    pd.DataFrame({"t": MONTHS, "y": range(18)}).to_csv(path, index=False)
    assert TableStream(path, ["y"], time="t", chunk_rows=4).summary.num_rows == 18
    pd.DataFrame({"t": MONTHS.delete(9), "y": range(17)}).to_csv(path, index=False)
    with pytest.raises(ValueError, match="2020-09-01.* and 2020-11-01.* in data rows 9 and 10"):
        _ = TableStream(path, ["y"], time="t", chunk_rows=4).summary


def test_a_stream_keeps_to_its_format(tmp_path):
    path = tmp_path / "data.csv"
    texts = [*DAYS[:6].strftime("%d/%m/%Y"), *DAYS[6:].strftime("%m/%d/%Y")]
    path.write_text("t,y\n" + "".join(f"{text},{i}\n" for i, text in enumerate(texts)))
    with pytest.raises(
        ValueError, match="'%d/%m/%Y' in column 't', got '01/26/2020' in data row 7"
    ):
        _ = TableStream(path, ["y"], time="t", chunk_rows=6).summary


@pytest.mark.parametrize(
    ("times", "message"),
    [
        ([0, 1, 2, 3, 1e6], "got 999996 for 5 rows, 999996 of them between 3.0 and 1000000.0"),
        (["2020-01-01", "2020-01-02", "2220-01-01"], "between 2020-01-02 .* and 2220-01-01"),
        ([0, 1, *range(6, 60, 5)], "at most 3 missing steps for each row"),
    ],
)
def test_a_grid_of_far_more_gaps_than_rows_is_refused(times, message):
    with pytest.raises(ValueError, match=message):
        times_of(times)


def test_three_gaps_a_row_are_taken():
    with pytest.warns(RuntimeWarning, match="9 steps are missing"):
        assert list(times_of([0, 1, 11])) == list(range(12))
    with pytest.raises(ValueError, match="got 10 for 3 rows"):
        times_of([0, 1, 12])


def test_a_column_that_pandas_wrote_as_the_index(tmp_path):
    pytest.importorskip("pyarrow")
    frame = pd.DataFrame({"y": [1.0, 2.0]}, index=pd.Index(DAYS[:2], name="day"))
    frame.to_parquet(tmp_path / "a.parquet")
    found = select_columns(read_table(tmp_path / "a.parquet"), ["y"], time="day")
    assert list(found.times) == list(DAYS[:2])
    assert TableStream(tmp_path / "a.parquet", ["y"], time="day").summary.num_rows == 2


def test_what_is_found_reads_the_same_again():
    column = pd.Series(DAYS.strftime("%d/%m/%Y"), name="t")
    found = find_date_format(column)
    assert found == "%d/%m/%Y"
    # Rows that alone could be read in two ways.
    assert list(parse_times(pd.Series(["01/02/2020"]), found)) == [pd.Timestamp("2020-02-01")]
    assert find_date_format(pd.Series(DAYS)) is None
