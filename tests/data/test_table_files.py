"""Series of tables in files; the table that is read whole is the oracle."""

import tracemalloc
import warnings

import numpy as np
import pandas as pd
import pytest
from test_panels import NAMES, TIMES, frame_of

from ssmlin.data import TableFiles, is_dates, read_table, select_panel, store_panel

pytestmark = pytest.mark.quick

#: No series fits into so few rows, nor does a piece end where a series does.
FEW_ROWS = 4


def written(folder, frame, ending, parts=1):
    """Files with the rows of a table, one after another."""
    folder.mkdir(exist_ok=True)
    for i, rows in enumerate(np.array_split(np.arange(len(frame)), parts)):
        part, path = frame.iloc[rows], folder / f"part-{i}.{ending}"
        if ending == "parquet":
            part.to_parquet(path, index=False)
        else:
            part.to_csv(path, index=False)
    return folder


def whole(folder, **how):
    """The table of all files, as if it were one file."""
    parts = [read_table(path, text=["id"], **how) for path in sorted(folder.iterdir())]
    return pd.concat(parts, ignore_index=True)


def check_same(folder, targets, inputs=(), time=None, *, reading=None, **how):
    reading = reading or {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        expected = select_panel(whole(folder, **reading), "id", targets, inputs, time, **how)
        files = TableFiles(folder, chunk_rows=FEW_ROWS, **reading)
        found = store_panel(files, "id", targets, inputs, time, **how)
    assert list(found) == list(expected) and len(found) == len(expected)
    for name in [*expected, next(iter(expected))]:
        got, one = found[name], expected[name]
        np.testing.assert_array_equal(got.values, one.values)
        np.testing.assert_array_equal(got.inputs, one.inputs)
        assert is_dates(got.times) == is_dates(one.times)
        assert list(got.times) == list(one.times) and got[3:] == one[3:]
        assert getattr(got.times, "freq", None) == getattr(one.times, "freq", None)
    return found


@pytest.mark.parametrize(
    ("kind", "change"),
    [(kind, "by time") for kind in TIMES]
    + [("months", change) for change in ("none", "shuffled", "gaps", "missing values")],
)
@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_pieces_are_as_the_whole(tmp_path, kind, change, ending):
    frame, inputs = frame_of(TIMES[kind]), ("u",)
    if change == "shuffled":
        frame = frame.sample(frac=1, random_state=0)
    elif change == "by time":
        frame = frame.iloc[np.argsort(frame.groupby("id").cumcount(), kind="stable")]
    elif change == "gaps":
        frame, inputs = frame.drop(index=[2, 3, 12, 20]), ()
    elif change == "missing values":
        frame.loc[[0, 4, 14], "y"] = np.nan
    if ending == "csv" and "change of the clock" in kind:
        pytest.skip("as text they are of two time zones, which is refused")
    folder = written(tmp_path / "table", frame, ending, parts=2)
    check_same(folder, ["y", "z"], inputs, "t")
    if change == "shuffled":
        check_same(folder, ["y"], to_fit=False)


@pytest.mark.parametrize("ending", ["csv.gz", "parquet"])
def test_names_stay_as_they_are_written(tmp_path, ending):
    for i, names in enumerate((NAMES["numbers"], ["NA", "nan", "007", "7", "a b"])):
        frame = frame_of(TIMES["counts"], names).sample(frac=1, random_state=1)
        found = check_same(written(tmp_path / str(i), frame, ending), ["y"], (), "t")
        assert found.names_are_numbers == (i == 0 and ending == "parquet")


def test_business_days_and_marks_of_numbers_are_kept(tmp_path):
    days = pd.bdate_range("2012-11-01", "2012-12-31")
    frame = pd.concat(
        pd.DataFrame({"id": name, "t": days.strftime("%-d.%m.%Y"), "y": np.arange(43) * 1000.5})
        for name in "ab"
    )
    frame["y"] = frame["y"].map("{:,.2f}".format).str.translate(str.maketrans(",.", ".,"))
    folder = written(tmp_path / "german", frame, "csv")
    for reading in ({}, {"decimal": ","}):
        found = check_same(folder, ["y"], (), "t", date_format="%d.%m.%Y", reading=reading)
        assert found["b"].values[-1] == 42021 and found.date_format == "%d.%m.%Y"
    shown = [*found.first_and_last_times]
    assert shown == [*frame.t] and found["a"].times.freq == days.freq


def test_resolutions_may_differ_and_clocks_may_not(tmp_path):
    frame = frame_of(TIMES["hours"])
    folder = written(tmp_path / "hours", frame[frame.id < "s3"], "parquet")
    later = frame[frame.id >= "s3"]
    later.assign(t=later.t.astype("M8[s]")).to_parquet(folder / "z.parquet", index=False)
    check_same(folder, ["y"], (), "t")
    later.assign(t=later.t.dt.tz_localize("UTC")).to_parquet(folder / "z.parquet", index=False)
    with pytest.raises(ValueError, match=r"no time zone, got dates of UTC from .* 1 on .*z\.par"):
        store_panel(TableFiles(folder), "id", ["y"], (), "t")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a,2020-02-30,1", "dates of the format .* got '2020-02-30' in data row 6;"),
        ("a,2020-01-06,x", "finite numbers in column 'y', got 'x' in data row 6"),
        (",2020-01-06,1", "a name in every row of 'id', got none in data row 6"),
        ("a,,1", "no missing times in 't', got one in data row 6"),
        ("a,2020-01-06,1,2", "rows of 3 fields, got longer ones|Expected 3 fields in line 7"),
    ],
)
def test_what_is_wrong_in_a_row_is_told_with_its_file(tmp_path, line, message):
    rows = [f"{name},2020-01-{day:02},{day}" for name in "ab" for day in range(1, 10)]
    first, second = tmp_path / "a.csv", tmp_path / "b.csv"
    first.write_text("\n".join(["id,t,y", *rows]).replace("a,", "c,").replace("b,", "d,"))
    rows[5] = line
    second.write_text("\n".join(["id,t,y", *rows]))
    with pytest.raises(ValueError, match=rf"(?s)({message}).*b\.csv"):
        store_panel(TableFiles(tmp_path, chunk_rows=FEW_ROWS), "id", ["y"], (), "t")


def test_what_is_wrong_with_a_series_is_told_with_its_name_and_the_files(tmp_path):
    for i, name in enumerate("ab"):
        (tmp_path / f"{name}.csv").write_text(f"id,t,y\n{name},1,5\nsame,7,{i}\n{name},2,7\n")
    with pytest.raises(ValueError, match=r"series 'same': time: .* got 7.*a\.csv and 1 more\)"):
        store_panel(TableFiles(tmp_path), "id", ["y"], (), "t")


def test_sources(tmp_path):
    folder = written(tmp_path / "a", frame_of(TIMES["counts"]), "csv", parts=3)
    (folder / "_SUCCESS").write_text("")
    (folder / "notes.md").write_text("")
    (folder / "_old").mkdir()
    (folder / "_old" / "x.csv").write_text("id\n")
    (folder / "deep").mkdir()
    (folder / "deep" / "x.csv").write_text("id\n")
    assert [path.name for path in TableFiles(folder).paths] == [
        "x.csv", "part-0.csv", "part-1.csv", "part-2.csv"]  # fmt: skip
    assert len(TableFiles(str(folder / "part-*.csv")).paths) == 3
    assert len(TableFiles([folder / "part-0.csv", str(folder / "part-[12].csv")]).paths) == 3
    for source in (tmp_path / "no.csv", tmp_path / "*.parquet", []):
        with pytest.raises(ValueError, match="source: expected"):
            TableFiles(source)
    files = TableFiles(folder / "part-*.csv", chunk_rows=FEW_ROWS)
    assert files.num_series("id", 2) == 2 and files.num_series("id", 99) == 5
    with pytest.raises(ValueError, match="'shop'; did you|among id, t, y.*'shop'.*part-0"):
        store_panel(files, "shop", ["y"])
    with pytest.raises(ValueError, match="each column once, got"):
        store_panel(files, "id", ["y"], ["y"])


@pytest.mark.parametrize("order", ["by series", "by time"])
def test_memory_does_not_grow_with_the_series(tmp_path, order):
    """Of what NumPy and Python hold; whole tables of these sizes differ by a factor of eight."""
    peaks = []
    for count in (20, 20, 160):  # the first one loads what it needs
        frame = pd.DataFrame(
            {"id": np.repeat(np.arange(count), 100), "y": np.arange(100.0 * count)}
        )
        if order == "by time":
            frame = frame.iloc[np.argsort(np.tile(np.arange(100), count), kind="stable")]
        folder = written(tmp_path / "table", frame, "parquet")
        tracemalloc.start()
        panel = store_panel(TableFiles(folder, chunk_rows=1000), "id", ["y"])
        assert sum(len(one.values) for one in panel.values()) == 100 * count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        np.testing.assert_array_equal(panel["1"].values[:, 0], np.arange(100.0, 200))
    assert peaks[2] < 1.6 * peaks[1]
