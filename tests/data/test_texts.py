"""Numbers and names in text: what can be read in two ways is refused, and names stay as written."""

import datetime
import json
import sqlite3
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssmlin.data import TableStream, read_table, select_columns, select_panel, series_ids

pytestmark = pytest.mark.quick


def write(tmp_path, text, name="data.csv", encoding="utf-8"):
    path = tmp_path / name
    path.write_bytes(text.encode(encoding))
    return path


def both_ways(path, column="y", **options):
    """A column of a whole table and of a stream, which are the same or raise the same."""
    whole = select_columns(read_table(path, **options), [column]).values.ravel()
    stream = TableStream(path, [column], chunk_rows=2, **options)
    np.testing.assert_array_equal(np.concatenate([y for y, _ in stream.pieces()]).ravel(), whole)
    return whole.tolist()


def refused_both_ways(path, message, **options):
    with pytest.raises(ValueError, match=message):
        select_columns(read_table(path, **options), ["y"])
    with pytest.raises(ValueError, match=message):
        _ = TableStream(path, ["y"], **options).summary


NAN = float("nan")


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ("t;y|1;2|2;3,5|3;4,5", [2, 3.5, 4.5]),  # the first row is whole
        ("t;y|1;1.234.567,89|2;3,5", [1234567.89, 3.5]),
        ("t;y|1;1.234.567|2;980", [1234567, 980]),
        ("t;y|1;12.5|2;980", [12.5, 980]),
        ("t;y|1;-1,5|2;-0,250|3;1e3", [-1.5, -0.25, 1000]),
        ("t;y|1;1 234,5|2;1\u00a0234,5|3;1\u202f234|4;-2", [1234.5, 1234.5, 1234, -2]),
        ("t;y|1;1'234.5|2;3", [1234.5, 3]),
        ("t;y;z|1;1.234;0,25|2;980;1,75", [1234, 980]),  # another column decides
        ("t;y;z|1;1,234;0.125|2;980;3.75", [1234, 980]),
        ("y,u|1.234,1|2.345,1", [1.234, 2.345]),  # a comma separates
        ('y,u|"1,234.5",1|980,1', [1234.5, 980]),
        ('y,u|"1,5",1|"2,5",1', [1.5, 2.5]),
        ('y,u|"1","2"|"3","4"', [1, 3]),
        ("y|NA|1|n/a|2|NULL|#N/A", [NAN, 1, NAN, 2, NAN, NAN]),
        ("y,u|,1| ,2|1,2| 2 ,2", [NAN, NAN, 1, 2]),
        ("y,u|1,1|2", [1, 2]),
        ("y|True|false|TRUE", [1, 0, 1]),
        ("y|1e5|2E-3|1.5e+10", [1e5, 2e-3, 1.5e10]),
        ("y|007|12", [7, 12]),
        ("y|+1.5|.5|2.", [1.5, 0.5, 2]),
    ],
)
def test_numbers_are_read_as_all_rows_say(tmp_path, rows, expected):
    path = write(tmp_path, rows.replace("|", "\n") + "\n")
    np.testing.assert_array_equal(both_ways(path), expected)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("y\tu|1,234\t5|1,310\t6|980\t7", "'1,234' in column 'y', data row 1.*1234 or 1.234"),
        ("t;y|1;980|2;1.234", "'1.234' in column 'y', data row 2.*--decimal"),
        ('y,u|"1,234",1|980,1', "'1,234' in column 'y'"),
        ("t;y;z|1;1.234;31.12|2;980;30.11", "'1.234' in column 'y'"),  # z may be days
        ("t;y|1;1,5|2;1.5", "finite numbers in column 'y', got '1,5' in data row 1; --decimal"),
        ("t;y|1;3,5|2;4,5|3;oops|4;2,5", "got 'oops' in data row 3$"),
        ("t;y|1;0,123|2;1.5", "got '0,123' in data row 1"),
        ("t;y|1;1,5|2;12.34,5", "'12.34,5' in data row 2|got '1,5' in data row 1"),
        ("y|$5|6", r"got '\$5' in data row 1"),
        ("y|6|5%", "got '5%' in data row 2"),
        ("y|6|(5)", r"got '\(5\)' in data row 2"),
        ("y|6|5 EUR", "got '5 EUR' in data row 2"),
        ("y|6|\u22125", "in data row 2"),
        ("y|6|1_000", "got '1_000' in data row 2"),
        ("y|6|0x1F", "got '0x1F' in data row 2"),
        ("y|1,5|2,5", "rows of 1 fields, got longer ones"),
        ("y,u|1,2|1,5,2", "Expected 2 fields in line 3, saw 3"),
    ],
)
def test_what_can_be_read_in_two_ways_or_in_none_is_refused(tmp_path, rows, message):
    name = "data.tsv" if "\t" in rows else "data.csv"
    refused_both_ways(write(tmp_path, rows.replace("|", "\n") + "\n", name), message)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"decimal": "."}, [1234, 1310, 980]),
        ({"thousands": ","}, [1234, 1310, 980]),
        ({"decimal": ","}, [1.234, 1.31, 980]),
        ({"thousands": "."}, [1.234, 1.31, 980]),
    ],
)
def test_options_say_how_numbers_are_written(tmp_path, options, expected):
    path = write(tmp_path, "y\tu\n1,234\t5\n1,310\t6\n980\t7\n", "sales.tsv")
    assert both_ways(path, **options) == expected


def test_columns_of_two_decimal_marks(tmp_path):
    path = write(tmp_path, "a;y\n0,5;1.5\n1,5;2.5\n1.234;3.5\n2.345;4.5\n")
    assert both_ways(path, "a") == [0.5, 1.5, 1234, 2345]
    stream = TableStream(path, ["y", "a"], chunk_rows=2)
    found = np.concatenate([y for y, _ in stream.pieces()])
    assert found.tolist() == [[1.5, 0.5], [2.5, 1.5], [3.5, 1234], [4.5, 2345]]


def test_groups_of_three_digits_do_not_begin_with_zero(tmp_path):
    path = write(tmp_path, "t;y\n1;0,123\n2;1,234\n")
    refused_both_ways(path, "got '0,123' in data row 1", decimal=".")
    refused_both_ways(path, "got '0,123' in data row 1", thousands=",")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"decimal": "x"}, "decimal: expected '.' or ',', got 'x'"),
        ({"thousands": "ab"}, "thousands: expected one mark, such as ',', got 'ab'"),
        ({"thousands": ".", "decimal": "."}, "another mark than decimal, got '.' twice"),
        ({"encoding": "nonsense"}, "encoding: expected the name of one.*got 'nonsense'"),
    ],
)
def test_options_that_cannot_be(tmp_path, options, message):
    refused_both_ways(write(tmp_path, "y\n1\n2\n"), message, **options)


@pytest.mark.parametrize(("encoding", "byte"), [("latin-1", "0xf6"), ("utf-16", "0xff")])
def test_other_encodings_are_named(tmp_path, encoding, byte):
    path = write(tmp_path, "y;größe\n1,5;1\n2,5;2\n", encoding=encoding)
    refused_both_ways(path, f"utf-8, got byte {byte}.*--encoding.*such as {encoding}")
    assert both_ways(path, encoding=encoding) == [1.5, 2.5]


numbers = st.decimals(-(10**7), 10**7, allow_nan=False, allow_infinity=False, places=2)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(numbers, min_size=2, max_size=6), st.sampled_from(["., ", ",.\u00a0", ".,,", ",.."])
)
def test_any_way_to_write_two_decimals_is_read(tmp_path_factory, values, marks):
    decimal, _, thousands = marks
    texts = [f"{value:,.2f}".translate({44: thousands, 46: decimal}) for value in values]
    path = write(tmp_path_factory.mktemp("marks"), "y;u\n" + "".join(f"{x};a\n" for x in texts))
    expected = [float(value) for value in values]
    if len(set(expected)) > 1:
        assert both_ways(path) == expected


def test_marks_that_come_late_are_asked_for(tmp_path, monkeypatch):
    """A stream decides by its first rows; what comes later is read in the same way or refused."""
    monkeypatch.setattr("ssmlin.data._tables.ROWS_FOR_MARKS", 3)
    whole = "".join(f"{i};{i}\n" for i in range(9))
    assert both_ways(write(tmp_path, f"t;y\n{whole}9;1,5\n10;2,345\n"))[-2:] == [1.5, 2.345]
    refused_both_ways(
        write(tmp_path, f"t;y\n{whole}9;1.234\n"), "'1.234' in column 'y', data row 10"
    )
    path = write(tmp_path, f"t;y\n1;0,5\n{whole}9;1.5\n")
    with pytest.raises(ValueError, match="got '1.5' in data row 11"):
        _ = TableStream(path, ["y"], chunk_rows=2).summary


@pytest.mark.parametrize("text", ["1", "0.25"])
def test_only_columns_in_doubt_are_read_as_text(tmp_path, monkeypatch, text):
    """Reading texts is slow, so columns of many decimals are read once."""
    calls = []
    read = pd.read_csv
    monkeypatch.setattr(pd, "read_csv", lambda *a, **k: calls.append(k) or read(*a, **k))
    read_table(write(tmp_path, f"y,z\n{text},0.123456\n2,0.5\n"))
    assert [call.get("usecols") for call in calls] == [None, ["y"]]


# ------------------------------------------------------------------------------------- types


@pytest.mark.parametrize(
    "column",
    [
        pd.array([1, None, 0], dtype="Int64"),
        pd.array([1, None, 0], dtype="Float32"),
        pd.array([True, None, False], dtype="boolean"),
        pd.array(["1", None, "0"], dtype="string"),
        [True, None, False],
        [1, None, "0"],
        [Decimal("1.0"), None, Decimal(0)],
        pd.Categorical(["1", None, "0"]),
        *(pytest.param(kind, id=kind) for kind in ("int64", "double", "bool", "string", "decimal")),
    ],
)
def test_columns_of_any_type(tmp_path, column):
    if isinstance(column, str):
        pa = pytest.importorskip("pyarrow")
        values = [1, None, 0] if column != "string" else ["1", None, "0"]
        values = [Decimal("1.0"), None, Decimal(0)] if column == "decimal" else values
        arrow = pa.decimal128(5, 2) if column == "decimal" else pa.type_for_alias(column)
        column = pd.array(values, dtype=pd.ArrowDtype(arrow))
    frame = pd.DataFrame({"y": column})
    np.testing.assert_array_equal(select_columns(frame, ["y"]).values.ravel(), [1, np.nan, 0])
    if frame.y.dtype != object:  # in a file, whole and piece by piece
        pytest.importorskip("pyarrow")
        frame.to_parquet(tmp_path / "a.parquet")
        np.testing.assert_array_equal(both_ways(tmp_path / "a.parquet"), [1, np.nan, 0])


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (pd.to_timedelta([1, 2], unit="h"), "got durations"),
        (pd.period_range("2020", periods=2, freq="M"), "got dates"),
        ([1 + 2j, 3], r"got \(1\+2j\) in data row 1"),
        ([datetime.date(2020, 1, 1)] * 2, "got datetime.date"),
        ([1, [2]], r"got \[2\] in data row 2"),
        (pd.array(["1", "x"], dtype="string"), "got 'x' in data row 2"),
    ],
)
def test_columns_that_are_no_numbers(column, message):
    with pytest.raises(ValueError, match=message):
        select_columns(pd.DataFrame({"y": column}), ["y"])


def test_columns_named_by_numbers():
    frame = pd.DataFrame([[1.0, 2], [2, 3]])
    assert select_columns(frame, ["0"], ["1"]).targets == ("0",)
    assert select_columns(frame, [0], [1]).inputs.ravel().tolist() == [2, 3]
    with pytest.raises(ValueError, match="names among 0, 1; got 'price'"):
        select_columns(frame, ["price"])
    for columns in ([0, "0"], ["0", "0"]):
        with pytest.raises(ValueError, match="columns of different names, got '0' twice"):
            select_columns(frame.set_axis(columns, axis=1), ["0"])
    assert list(select_panel(pd.DataFrame([["a", 1.0], ["a", 2.0]]), 0, [1])) == ["a"]


# ------------------------------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("one", "other"),
    [("007", "7"), ("12E3", "12000"), ("0012", "0034"), ("12345678901234567890",
     "12345678901234567891"), ("NA", "DE"), ("1", "2"), ("a", "A")],
)  # fmt: skip
def test_names_of_series_are_texts_as_written(tmp_path, one, other):
    path = write(tmp_path, f"id,y\n{one},1\n{one},2\n{other},3\n{other},4\n")
    panel = select_panel(read_table(path), "id", ["y"])
    assert {k: v.values.ravel().tolist() for k, v in panel.items()} == {one: [1, 2], other: [3, 4]}


@pytest.mark.parametrize(
    ("one", "other"), [("1.0", "1"), ("+7", "7"), ("1.50", "1.5"), ("-0", "0")]
)
def test_names_that_are_numbers_are_read_as_text_or_refused(tmp_path, one, other):
    path = write(tmp_path, f"id,y\n{one},1\n{one},2\n{other},3\n{other},4\n")
    with pytest.raises(ValueError, match=r"whole numbers in column 'id'.*text=\['id'\]"):
        select_panel(read_table(path), "id", ["y"])
    assert list(select_panel(read_table(path, text=["id"]), "id", ["y"])) == [one, other]


@pytest.mark.parametrize("ending", ["csv", "parquet", "xlsx", "jsonl", "db", "duckdb"])
def test_names_are_those_of_the_file_in_every_format(tmp_path, ending):
    path = tmp_path / f"panel.{ending}"
    frame = pd.DataFrame({"id": ["007", "007", "7", "7", "NA", "NA"], "y": [1.0, 2, 3, 4, 5, 6]})
    if ending == "csv":
        frame.to_csv(path, index=False)
    elif ending == "parquet":
        pytest.importorskip("pyarrow")
        frame.to_parquet(path)
    elif ending == "xlsx":
        pytest.importorskip("openpyxl")
        frame.to_excel(path, index=False)
    elif ending == "jsonl":
        path.write_text("\n".join(json.dumps(row) for row in frame.to_dict("records")))
    elif ending == "db":
        connection = sqlite3.connect(path)
        frame.to_sql("panel", connection, index=False)
        connection.close()
    else:
        duckdb = pytest.importorskip("duckdb")
        with duckdb.connect(str(path)) as connection:
            connection.register("frame", frame)
            connection.execute("CREATE TABLE panel AS SELECT * FROM frame")
    for options in ({}, {"text": ["id"]}):
        panel = select_panel(read_table(path, **options), "id", ["y"])
        assert {k: len(v.values) for k, v in panel.items()} == {"007": 2, "7": 2, "NA": 2}


def test_series_ids():
    assert series_ids(pd.Series([7, "007", True])) == ["7", "007", "True"]
    assert series_ids(pd.Series(["b", "a"], dtype="category")) == ["b", "a"]
    for missing in (None, "", np.nan):
        with pytest.raises(ValueError, match="got none in data row 2"):
            series_ids(pd.Series(["a", missing], name="id", dtype=object))
    with pytest.raises(ValueError, match="got 1.5 in data row 1"):
        series_ids(pd.Series([1.5, 2.0]))


def test_text_cells_of_a_workbook_take_the_options(tmp_path):
    pytest.importorskip("openpyxl")
    path = tmp_path / "a.xlsx"
    pd.DataFrame({"y": ["1,5", "2,5"], "t": ["2020-01", "2020-02"]}).to_excel(path, index=False)
    with pytest.raises(ValueError, match="got '1,5' in data row 1; --decimal"):
        select_columns(read_table(path), ["y"])
    assert select_columns(read_table(path, decimal=","), ["y"]).values.ravel().tolist() == [
        1.5,
        2.5,
    ]


def test_compare_takes_the_same_columns():
    """Dates in a frame were numbers of microseconds, and missing booleans an error."""
    from ssmlin import compare
    from ssmlin.comparison._frames import read_table as read_argument

    dates = pd.DataFrame({"y": pd.date_range("2020", periods=30)})
    with pytest.raises(ValueError, match="emissions: expected numbers.*column 'y', got dates"):
        compare(dates, models=["persistence"], progress=False)
    values, names, _ = read_argument(
        "emissions", pd.DataFrame({3: pd.array([True, None], "boolean")})
    )
    np.testing.assert_array_equal(values, [[1], [np.nan]])
    assert names == ("3",)
