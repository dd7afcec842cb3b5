"""Forecasts are written as they are made."""

import numpy as np
import pandas as pd
import pytest

from ssmlin.cli import _tables
from ssmlin.forecasting import Layout, SeriesForecast

pytestmark = pytest.mark.quick


def forecasts(count=5, horizon=3, paths=4):
    rng = np.random.default_rng(0)
    for i in range(count):
        draws = rng.normal(size=(paths, horizon, 1))
        times = pd.date_range("2024-01-01", periods=horizon, freq="MS")
        ends = np.quantile(draws, [0.1], axis=0), np.quantile(draws, [0.9], axis=0)
        yield SeriesForecast(f"0{i}", times, ("y",), draws.mean(axis=0), (80,), *ends, draws)


@pytest.mark.parametrize("ending", ["csv", "csv.gz", "parquet"])
def test_parts_make_the_whole(tmp_path, monkeypatch, ending):
    monkeypatch.setattr(_tables, "_SERIES", 2)
    output, paths = tmp_path / f"f.{ending}", tmp_path / f"p.{ending}"
    layout = Layout(("y",), time="ds", series="shop")
    taken = []

    def made():
        for one in forecasts():
            taken.append(one.name)
            yield one

    seen = [len(taken) for _ in _tables.write_forecasts(made(), layout, output, paths)]
    assert seen == [2, 4, 5]  # nothing is made before it can be written
    whole = list(forecasts())
    for path, expected in ((output, _tables.forecast_file(whole, layout)),
                           (paths, _tables.paths_file(whole, layout))):  # fmt: skip
        if ending == "parquet":
            found = pd.read_parquet(path)
        else:
            found = pd.read_csv(path, dtype={"shop": str}, parse_dates=["ds"])
        pd.testing.assert_frame_equal(found, expected, check_dtype=False, rtol=1e-12)
