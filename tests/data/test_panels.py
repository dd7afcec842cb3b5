"""Panels are read at once; each series by itself is the oracle."""

import warnings

import numpy as np
import pandas as pd
import pytest

from ssmlin.data import is_dates, select_columns, select_panel, series_ids
from ssmlin.data._times import find_date_format

pytestmark = pytest.mark.quick


def one_by_one(frame, series, targets, inputs=(), time=None, date_format=None, *, to_fit=True):
    """Group, then read each series alone."""
    if time is not None and date_format is None:
        date_format = find_date_format(frame[time])
    panel = {}
    for name, rows in frame.groupby(series_ids(frame[series]), sort=False):
        try:
            panel[name] = select_columns(rows, targets, inputs, time, date_format, to_fit=to_fit)
        except ValueError as error:
            raise ValueError(f"series {name!r}: {error}") from error
    return panel


def frame_of(time, names=None, seed=0):
    """Five series of unequal lengths that begin at different times; `time` makes their times."""
    rng = np.random.default_rng(seed)
    parts = []
    for i, (first, steps) in enumerate([(0, 9), (3, 4), (0, 9), (2, 7), (5, 2)]):
        parts.append(pd.DataFrame({
            "id": f"s{i}" if names is None else names[i],
            "t": time(first + np.arange(steps)),
            "y": rng.normal(size=steps),
            "z": rng.integers(0, 9, steps) + np.arange(steps) * 0.5,
            "u": rng.random(steps) < 0.5,
        }))  # fmt: skip
    return pd.concat(parts, ignore_index=True)


def months(freq="MS", **how):
    return lambda n: pd.date_range("2020-01-01", periods=20, freq=freq, **how)[n]


TIMES = {
    "months": months(),
    "month ends": months("ME"),
    "hours": months("h"),
    "local days over a change of the clock": lambda n: pd.date_range(
        "2020-03-22", periods=20, freq="D", tz="Europe/Berlin"
    )[n],
    "text": lambda n: months("D")(n + 9).strftime("%d.%m.%Y"),
    "ISO": lambda n: months("D")(n).strftime("%Y-%m-%d"),
    "months as numbers": lambda n: months()(n).strftime("%Y%m").astype(int),
    "periods": lambda n: pd.period_range("2020-01", periods=20, freq="M")[n],
    "days as objects": lambda n: np.array(months("D")(n).date, dtype=object),
    "categories": lambda n: pd.Categorical(months("D")(n).strftime("%Y-%m-%d")),
    "counts": lambda n: n,
    "tenths": lambda n: n * 0.1,
}
NAMES = {
    "text": None,
    "numbers": [30, 4, 5, 7, 1],
    "words and numbers": ["7", 8, "007", True, 70],
    "dates": list(pd.date_range("2020-01-01", periods=5)),
}


def check_same(frame, targets, inputs=(), time=None, **how):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        found = select_panel(frame, "id", targets, inputs, time, **how)
        expected = one_by_one(frame, "id", targets, inputs, time, **how)
    assert list(found) == list(expected)
    for name, one in expected.items():
        got = found[name]
        np.testing.assert_array_equal(got.values, one.values)
        np.testing.assert_array_equal(got.inputs, one.inputs)
        assert is_dates(got.times) == is_dates(one.times)
        assert list(got.times) == list(one.times)
        assert got[3:] == one[3:]


@pytest.mark.parametrize("kind", TIMES)
@pytest.mark.parametrize("change", ["none", "shuffled", "gaps", "missing values"])
def test_all_at_once_is_as_one_by_one(kind, change):
    frame = frame_of(TIMES[kind])
    inputs = ("u",)
    if change == "shuffled":
        frame = frame.sample(frac=1, random_state=0)
    elif change == "gaps":
        frame, inputs = frame.drop(index=[2, 3, 12, 20]), ()
    elif change == "missing values":
        frame.loc[[0, 4, 14], "y"] = np.nan
    check_same(frame, ["y", "z"], inputs, "t")
    check_same(frame, ["y"], to_fit=False)


@pytest.mark.parametrize("kind", NAMES)
def test_names_of_any_type(kind):
    frame = frame_of(TIMES["counts"], NAMES[kind]).sample(frac=1, random_state=1)
    check_same(frame, ["y"], (), "t")
    if kind == "text":
        check_same(frame.assign(id=frame.id.astype("category")), ["y"], (), "t")


def wrong(frame, row, **values):
    frame = frame.astype(dict.fromkeys(values, object))
    frame.loc[row, list(values)] = list(values.values())
    return frame


@pytest.mark.filterwarnings("ignore:time:RuntimeWarning")
@pytest.mark.parametrize(
    ("change", "how"),
    [
        (lambda frame: wrong(frame, 11, y="x"), {}),
        (lambda frame: wrong(frame, 11, y=np.inf), {}),
        (lambda frame: wrong(frame, 15, u=None), {"inputs": ["u"]}),
        (lambda frame: frame.assign(y=frame.y.where(frame.id != "s2")), {}),
        (lambda frame: frame.assign(y=frame.y.where(frame.id != "s2", 1.0)), {}),
        (lambda frame: frame.drop(index=30), {}),
        (lambda frame: wrong(frame, 12, t=4), {"time": "t"}),
        (lambda frame: wrong(frame, 12, t=4.3), {"time": "t"}),
        (lambda frame: wrong(frame.iloc[::-1], 12, t=4), {"time": "t"}),
        (lambda frame: frame.drop(index=10), {"time": "t", "inputs": ["u"]}),
        (lambda frame: wrong(frame, 12, t=None), {"time": "t"}),
        (lambda frame: wrong(frame, 12, t="May"), {"time": "t"}),
        (lambda frame: wrong(frame, 12, id=""), {}),
        (lambda frame: wrong(frame, 12, id=None).astype({"id": "string"}), {}),
        (lambda frame: wrong(frame, 12, id=1.5), {}),
        (lambda frame: frame, {"targets": ["y", "y"]}),
        (lambda frame: frame, {"targets": []}),
        (lambda frame: frame, {"inputs": ["price"]}),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_as_one_by_one(change, how):
    frame = change(frame_of(TIMES["counts"]))
    how = {"targets": ["y"]} | how
    with pytest.raises(ValueError) as expected:
        one_by_one(frame, "id", **how)
    with pytest.raises(ValueError) as found:
        select_panel(frame, "id", **how)
    assert str(found.value) == str(expected.value)


def test_a_word_among_dates_of_few_days_is_counted_by_rows():
    """A third of the distinct texts are months, and most of the rows."""
    times = ["202001", "202099", "202098"] + ["202001"] * 5
    frame = pd.DataFrame({"id": "a", "t": times, "y": np.arange(8.0)})
    for read in (select_panel, one_by_one):
        with pytest.raises(ValueError, match="as most rows are, got '202099' in data row 2"):
            read(frame, "id", ["y"], time="t")


def test_series_share_times_and_arrays():
    panel = select_panel(frame_of(TIMES["months"]), "id", ["y"], time="t")
    assert panel["s0"].times is panel["s2"].times
    assert panel["s0"].values.base is panel["s4"].values.base
