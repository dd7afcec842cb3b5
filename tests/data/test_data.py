"""Users' files: every format gives the same table, and every mistake a message in words."""

import json
import sqlite3
import warnings

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from ssmlin import LinearAttentionSSM
from ssmlin.data import (
    Scaling,
    TableStream,
    future_times,
    read_table,
    select_columns,
    select_panel,
)
from ssmlin.data._scaling import box_cox, inverse_box_cox

pytestmark = pytest.mark.quick

FRAME = pd.DataFrame({"t": [1.0, 2.0, 3.0], "y": [0.5, np.nan, -2.25], "u": [1.0, 0.0, 1.0]})


def write_duckdb(path):
    duckdb = pytest.importorskip("duckdb")
    with duckdb.connect(str(path)) as connection:
        connection.register("frame", FRAME)
        connection.execute("CREATE TABLE data AS SELECT * FROM frame")


def write_sqlite(path):
    connection = sqlite3.connect(path)
    FRAME.to_sql("data", connection, index=False)
    connection.close()


WRITERS = {
    "a.csv": lambda p: FRAME.to_csv(p, index=False),
    "semicolon.csv": lambda p: FRAME.to_csv(p, index=False, sep=";", decimal=","),
    "bom.csv": lambda p: FRAME.to_csv(p, index=False, encoding="utf-8-sig"),
    "a.tsv": lambda p: FRAME.to_csv(p, index=False, sep="\t"),
    "pipe.txt": lambda p: FRAME.to_csv(p, index=False, sep="|"),
    "a.csv.gz": lambda p: FRAME.to_csv(p, index=False),
    "a.csv.xz": lambda p: FRAME.to_csv(p, index=False),
    "a.parquet": lambda p: FRAME.to_parquet(p),
    "a.xlsx": lambda p: FRAME.to_excel(p, index=False),
    "a.jsonl": lambda p: FRAME.to_json(p, orient="records", lines=True),
    "a.npz": lambda p: np.savez(p, **{name: FRAME[name].to_numpy() for name in FRAME}),
    "a.sqlite": write_sqlite,
    "a.duckdb": write_duckdb,
}


@pytest.mark.parametrize("name", WRITERS)
def test_all_formats_hold_the_same_table(name, tmp_path):
    path = tmp_path / name
    WRITERS[name](path)
    before = path.read_bytes()
    pd.testing.assert_frame_equal(read_table(path), FRAME, check_dtype=False)
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_arrays_queries_and_frames(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(6.0).reshape(3, 2))
    assert read_table(tmp_path / "a.npy")["y1"].tolist() == [1, 3, 5]
    write_sqlite(tmp_path / "a.db")
    found = read_table(tmp_path / "a.db", query="SELECT y FROM data WHERE t > 2")
    assert found.y.tolist() == [-2.25]
    assert len(read_table(tmp_path / "a.db", table="data")) == 3
    assert read_table(FRAME) is FRAME


def bad_file(name, content, message, **options):
    return pytest.param(name, content, message, options, id=f"{name}: {message[:30]}")


@pytest.mark.parametrize(
    ("name", "content", "message", "options"),
    [
        bad_file("none.csv", None, "expected a file, got none at"),
        bad_file("a.doc", b"y\n1\n", "a name that ends in .csv"),
        bad_file("plain", b"y\n1\n", "got no ending"),
        bad_file("a.csv", b"", "a header with the names of the columns"),
        bad_file("a.csv", b"\n\n1\n", "a header with the names of the columns"),
        bad_file("a.csv", b"y,u\n", "at least one row and one column, got 0 and 2"),
        bad_file("a.csv", b"y,y\n1,2\n", "columns of different names, got 'y' twice"),
        bad_file("a.csv", b"y,u\n1,2,3\n", "rows of 2 fields, got longer ones"),
        bad_file("a.csv", b"y,u\n1,2\n1,2,3,4\n", "Expected 2 fields in line 3, saw 4"),
        bad_file("a.csv", "größe\n1\n".encode("latin-1"), "text in utf-8, got byte 0xf6"),
        bad_file("a.csv", b'y,u\n"1,2\n', "readable csv file"),
        bad_file("a.csv.gz", b"y\n1\n", "readable csv file"),
        bad_file("a.csv.xz", b"y\n1\n", "readable csv file"),
        bad_file("a.csv", b"\xff\xfe\x00\x01", "text in utf-8"),
        bad_file("a.parquet", b"nothing", "readable parquet file"),
        bad_file("a.xlsx", b"nothing", "readable xlsx file"),
        bad_file("a.jsonl", b"{]", "readable jsonl file"),
        bad_file("a.npy", b"nothing", "readable npy file"),
        bad_file("a.npz", b"nothing", "readable npz file"),
        bad_file("a.db", b"nothing at all, " * 99, "file is not a database"),
        bad_file("a.sqlite", b"", "the table among none, got no name"),
        bad_file("a.duckdb", b"nothing", "a DuckDB database"),
        bad_file("a.csv", b"y\n1\n", "expected a database", table="data"),
        bad_file("a.db", b"", "a table or a query, got both", table="data", query="SELECT 1"),
    ],
)
def test_bad_files(name, content, message, options, tmp_path):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match="source: |table: |query: ") as caught:
        read_table(path, **options)
    assert message.lower() in str(caught.value).lower()
    assert content is None or path.read_bytes() == content


def test_databases_are_not_changed_and_tables_are_named(tmp_path):
    path = tmp_path / "a.db"
    write_sqlite(path)
    for query, message in (
        ("DROP TABLE data", "readonly|read-only|readable"),
        ("SELEKT", "syntax"),
    ):
        with pytest.raises(ValueError, match=message):
            read_table(path, query=query)
    with pytest.raises(ValueError, match="the table among data, got 'other'"):
        read_table(path, table="other")
    assert len(read_table(path)) == 3


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=200), st.sampled_from(["a.csv", "a.tsv", "a.jsonl", "a.npy", "a.db"]))
def test_any_bytes_are_a_table_or_a_value_error(tmp_path_factory, data, name):
    path = tmp_path_factory.mktemp("fuzz") / name
    path.write_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            frame = read_table(path)
            select_columns(frame, [frame.columns[0]])
        except ValueError:
            pass
    assert path.read_bytes() == data


# ------------------------------------------------------------------------------------- columns


def make(**columns):
    return pd.DataFrame(columns)


@pytest.mark.parametrize(
    ("frame", "arguments", "message"),
    [
        (FRAME, {"targets": ["x"]}, "names among t, y, u; got 'x'"),
        (make(price=[1, 2]), {"targets": ["prise"]}, "did you mean 'price'"),
        (FRAME, {"targets": []}, "targets: expected at least one"),
        (FRAME, {"targets": ["y"], "inputs": ["y"]}, "'y' twice"),
        (FRAME, {"targets": ["y", "y"]}, "'y' twice"),
        (FRAME[:1], {"targets": ["y"]}, "rows: expected at least 2, got 1"),
        (make(y=[1, "two", 3]), {"targets": ["y"]}, "got 'two' in data row 2"),
        (make(y=[1, np.inf, 3]), {"targets": ["y"]}, "got inf in data row 2"),
        (make(y=["1", "-inf"]), {"targets": ["y"]}, "got '-inf' in data row 2"),
        (make(y=["1", "1e999"]), {"targets": ["y"]}, "'1e999' in data row 2"),
        (make(y=[2.0, 2.0, np.nan]), {"targets": ["y"]}, "got a constant"),
        (make(y=[np.nan, np.nan]), {"targets": ["y"]}, "values in column 'y', got none"),
        (make(y=pd.to_datetime(["2020-01-01", "2020-01-02"])), {"targets": ["y"]}, "got dates"),
        (FRAME, {"targets": ["t"], "inputs": ["y"]}, "column 'y', got one in data row 2"),
        (FRAME, {"targets": ["u"], "time": "y"}, "no missing times in 'y', got one in data row 2"),
        (make(t=["2020-01-01", "soon"], y=[1, 2]), {"time": "t"}, "got 'soon' in data row 2"),
        (make(t=[1, 1, 2], y=[1, 2, 3]), {"time": "t"}, "got 1.0 in data rows 1 and 2"),
        (make(t=[3, 1, 3], y=[1, 2, 3]), {"time": "t"}, "got 3.0 in data rows 1 and 3"),
        (make(t=[0, 1, 2.5], y=[1, 2, 3]), {"time": "t"}, "got 1.0 followed by 2.5"),
        (make(t=["2020-01-01T00+01:00", "2020-01-02T00+02:00"], y=[1, 2]), {"time": "t"}, "zone"),
        (make(t=[1, 3, 4], y=[1, 2, 3], u=[1, 2, 3]), {"inputs": ["u"], "time": "t"},
         "expected a row at 2.0"),
    ],
)  # fmt: skip
def test_bad_columns(frame, arguments, message):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        with pytest.raises(ValueError) as caught:
            select_columns(frame, **{"targets": ["y"]} | arguments)
    assert message in str(caught.value)


def test_text_booleans_and_gaps():
    frame = make(y=["1", "", None, "2.5"], u=[True, False, True, True])
    found = select_columns(frame, ["y"], ["u"])
    np.testing.assert_array_equal(found.values[:, 0], [1, np.nan, np.nan, 2.5])
    np.testing.assert_array_equal(found.inputs[:, 0], [1, 0, 1, 1])


@pytest.mark.parametrize("frequency", ["D", "h", "MS", "ME", "QS", "YE", "W-WED", "7min"])
def test_times_are_put_on_their_grid(frequency):
    whole = pd.date_range("2021-01-31 05:00", periods=14, freq=frequency)
    kept = [4, 0, 1, 2, 7, 6, 10, 3]
    frame = make(t=whole[kept].astype(str), y=np.array(kept, float))
    with pytest.warns(RuntimeWarning, match="in the order of 't'|3 steps are missing"):
        found = select_columns(frame, ["y"], time="t")
    expected = np.arange(11.0)
    expected[[5, 8, 9]] = np.nan
    np.testing.assert_array_equal(found.values[:, 0], expected)
    assert list(found.times) == list(whole[:11])
    assert list(future_times(found.times, 3)) == list(whole[11:14])


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.sampled_from([0.0, 0.3, 0.5, 1.0, 2.0]), min_size=1, max_size=3),
    st.integers(0, 2**32 - 1),
)
def test_scaling_is_undone(power, seed):
    m = len(power)
    rng = np.random.default_rng(seed)
    values = np.exp(rng.normal(size=(12, m))) * 10.0 ** rng.integers(-3, 4, size=m)
    frame = pd.DataFrame(values, columns=[f"y{i}" for i in range(m)]).assign(u=rng.normal(size=12))
    columns = select_columns(frame, [f"y{i}" for i in range(m)], ["u"])
    scaling = Scaling.from_dict(json.loads(json.dumps(Scaling.fit(columns, power).to_dict())))
    assert scaling.power == tuple(power)
    z, u = scaling.apply(columns)
    np.testing.assert_allclose(z.mean(axis=0), 0, atol=1e-9)
    np.testing.assert_allclose(z.std(axis=0), 1, rtol=1e-9)
    np.testing.assert_allclose(u.std(axis=0), 1, rtol=1e-9)
    np.testing.assert_allclose(scaling.invert(z), values, rtol=1e-6)
    # Increasing, so quantiles go through.
    assert (np.diff(scaling.invert(np.sort(z, axis=0)), axis=0) >= 0).all()


def test_logarithms_of_what_is_not_positive():
    with pytest.raises(ValueError, match="positive values in column 'y', got 0.0 at step 2"):
        Scaling.fit(select_columns(make(y=[1.0, 0.0, 3.0]), ["y"]), [0.0])


@pytest.mark.parametrize("power", [0.0, 0.3, 0.5, 1.0, 2.0])
def test_powers_are_those_of_scipy_and_go_back_from_anywhere(power):
    y = np.geomspace(1e-3, 1e6, 40)
    x = box_cox(y[:, None], [power])
    expected = y if power == 1 else stats.boxcox(y, power)
    np.testing.assert_allclose(x[:, 0], expected, rtol=1e-12)
    np.testing.assert_allclose(inverse_box_cox(x, [power])[:, 0], y, rtol=1e-9)
    # A Gaussian law reaches beyond all that the transformation gives.
    wide = np.concatenate([-np.geomspace(1e30, 1e-3, 300), np.geomspace(1e-3, 1e30, 300)])
    back = inverse_box_cox(wide[:, None], [power])[:, 0]
    assert np.isfinite(back**2).all() and (np.diff(back) >= 0).all()
    assert power == 1 or back[0] == 0


def test_slopes_of_a_scaling_are_its_derivatives():
    columns = select_columns(make(a=[1.0, 4.0, 9.0], b=[3.0, 1.0, 2.0]), ["a", "b"])
    scaling, step = Scaling.fit(columns, [0.0, 0.5]), 1e-6
    z, _ = scaling.apply(columns)
    ahead, _ = scaling.apply(columns._replace(values=columns.values + step))
    np.testing.assert_allclose(np.exp(scaling.log_slopes(z)), (ahead - z) / step, rtol=1e-5)


def test_bad_powers_and_files_of_before():
    columns = select_columns(make(y=[1.0, 2.0, 3.0]), ["y"])
    for power in ([-1.0], [np.nan], [0.0, 1.0]):
        with pytest.raises(ValueError, match="power: expected 1 numbers >= 0"):
            Scaling.fit(columns, power)
    with pytest.raises(ValueError, match="powers are finite numbers, got the power 999"):
        Scaling.fit(columns, [999.0])
    old = {"mean": [1.0, 2.0], "scale": [1.0, 1.0], "input_mean": [], "input_scale": []}
    assert Scaling.from_dict(old | {"log": True, "difference": 3}).power == (0.0, 0.0)
    assert Scaling.from_dict(old | {"log": False, "difference": 0}).power == (1.0, 1.0)


# ------------------------------------------------------------------------------ differences


@pytest.mark.parametrize("power", [(1.0, 1.0), (0.0, 0.5)])
@pytest.mark.parametrize("lag", [1, 4])
def test_differences_are_brought_back(lag, power):
    rng = np.random.default_rng(0)
    y = np.exp(np.cumsum(rng.normal(size=(40, 2)), axis=0) / 10)
    whole = select_columns(pd.DataFrame(y, columns=["a", "b"]), ["a", "b"])
    seen = whole._replace(values=y[:30], inputs=whole.inputs[:30], times=whole.times[:30])
    scaling = Scaling.fit(seen, power, lag)
    z, _ = scaling.apply(seen)
    assert np.isnan(z[:lag]).all() and np.allclose(np.nanmean(z, axis=0), 0)
    assert np.allclose(np.nanstd(z, axis=0), 1)
    ahead, _ = scaling.apply(whole)
    paths = np.stack([ahead[30:], ahead[30:] + 1])
    back = scaling.continue_paths(paths, seen)
    assert np.allclose(back[0], y[30:]) and not np.allclose(back[1], y[30:])
    assert Scaling.from_dict(scaling.to_dict()) == scaling
    with pytest.raises(ValueError, match="difference: expected 0"):
        scaling.invert(z)
    gap = seen._replace(values=np.where(np.arange(30)[:, None] == 29, np.nan, y[:30]))
    with pytest.raises(ValueError, match=r"expected the last \d values.*at step 30"):
        scaling.continue_paths(paths, gap)


def test_differences_that_say_nothing_are_refused():
    line = select_columns(pd.DataFrame({"y": np.arange(9.0)}), ["y"])
    with pytest.raises(ValueError, match="varying differences of column 'y'"):
        Scaling.fit(line, difference=1)
    with pytest.raises(ValueError, match="at most 8 steps, got 9"):
        Scaling.fit(line, difference=9)


# ------------------------------------------------------------------------------ panels, streams


def test_a_panel_is_taken_apart():
    frame = pd.DataFrame({"id": ["x", "y"] * 4, "t": [1, 1, 2, 2, 3, 3, 4, 4], "v": range(8)})
    panel = select_panel(frame, "id", ["v"], time="t")
    assert list(panel) == ["x", "y"]
    assert panel["y"].values.ravel().tolist() == [1, 3, 5, 7]
    with pytest.raises(ValueError, match="series: expected a column of its own"):
        select_panel(frame, "nothing", ["v"])
    with pytest.raises(ValueError, match="in every row of 'id', got none in data row 3"):
        select_panel(frame.assign(id=["x", "y", None, *"yxyxy"]), "id", ["v"])
    with pytest.raises(ValueError, match="series 'x': targets: expected varying"):
        select_panel(frame.assign(v=[1, 2, 1, 3, 1, 4, 1, 5]), "id", ["v"])


def _stream_frame():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.normal(3, 2, size=(103, 3)), columns=["a", "b", "u"])
    frame.insert(0, "t", np.arange(103) * 0.5)
    frame.loc[[7, 59, 60], "a"] = np.nan
    return frame


@pytest.mark.parametrize("ending", ["csv", "tsv", "csv.gz", "parquet"])
def test_a_stream_gives_what_the_whole_table_gives(tmp_path, ending):
    frame, path = _stream_frame(), tmp_path / f"data.{ending}"
    if ending == "parquet":
        frame.to_parquet(path)
    else:
        frame.to_csv(path, index=False, sep="\t" if ending == "tsv" else ",")
    stream = TableStream(path, ["a", "b"], ["u"], "t", chunk_rows=10)
    columns = select_columns(read_table(path), ["a", "b"], ["u"], "t")
    scaling = Scaling.fit(columns)
    found = stream.summary
    assert found.num_rows == 103 and found.num_values == 203
    for name in ("mean", "scale", "input_mean", "input_scale"):
        assert np.allclose(getattr(found.scaling, name), getattr(scaling, name), atol=1e-12)
    model = LinearAttentionSSM("mamba2", 2, 5, 2, num_lags=2, row_cov="full")
    for size in (7, 25, 200):
        windows = list(stream.windows(size, 2))
        assert len(windows) == -(-103 // size)
        assert all(y.shape == (size, 2) and u.shape == (size, 5) for y, u in windows)
        y, u = (np.concatenate(x) for x in zip(*windows, strict=True))
        assert np.isnan(y[103:]).all() and (u[103:] == 0).all()
        values, inputs = scaling.apply(columns)
        lags = model.compute_inputs(jnp.asarray(values), exogenous=jnp.asarray(inputs))
        # What has a missing lag is left out, and passed over with the value observed last.
        known = ~np.isnan(lags).any(axis=1)
        assert not known.all()
        values[:2] = values[~known] = np.nan
        assert np.allclose(y[:103], values, atol=1e-6, equal_nan=True)
        carried = pd.DataFrame(scaling.apply(columns)[0]).ffill().fillna(0.0).to_numpy()
        expected = model.compute_inputs(jnp.asarray(carried), exogenous=jnp.asarray(inputs))
        assert np.allclose(u[:103], expected, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.assign(a=["x" if i == 77 else 1.0 for i in range(103)]), "in data row 78"),
        (lambda f: f.assign(u=f.u.where(f.index != 31)), "column 'u', got one in data row 32"),
        (lambda f: f.drop(index=55), "rise by equal steps, got 27.0 and 28.0 in data rows 55 and"),
        (lambda f: f.iloc[::-1], "rise by equal steps"),
        (lambda f: f.assign(b=1.0), "varying values in column 'b'"),
        (lambda f: f.head(1), "rows: expected at least 2, got 1"),
        (lambda f: f.rename(columns={"b": "c"}), "got 'b'"),
    ],
)
def test_bad_streams_are_told_in_words(tmp_path, change, message):
    path = tmp_path / "data.csv"
    change(_stream_frame()).to_csv(path, index=False)
    with pytest.raises(ValueError, match=message):
        _ = TableStream(path, ["a", "b"], ["u"], "t", chunk_rows=10).summary


def test_a_stream_of_another_kind_is_refused(tmp_path):
    path = tmp_path / "data.xlsx"
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="CSV, TSV or Parquet to read piece by piece"):
        _ = TableStream(path, ["a"]).summary
    with pytest.raises(ValueError, match="source: expected a file"):
        _ = TableStream(tmp_path / "none.csv", ["a"]).summary


def test_blank_lines_in_a_single_column_are_not_passed_over(tmp_path):
    path = tmp_path / "one.csv"
    path.write_text("y\n1\n\n3\n")
    with pytest.raises(ValueError, match="a missing value is written as NA.*one in data row 2"):
        read_table(path)
    with pytest.raises(ValueError, match="one in data row 2"):
        _ = TableStream(path, ["y"]).summary
    path.write_text("y\n1\nNA\n3\n\n\n")  # what comes after the last row is no row
    assert np.allclose(read_table(path)["y"], [1, np.nan, 3], equal_nan=True)
