"""Forecasts as frames and datasets, with the times that follow those of the data; what is shown."""

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

import ssmlin
from ssmlin import Forecast
from ssmlin.models import forecast_dataset

pytestmark = pytest.mark.quick

H, M = 3, 2
MEANS = np.arange(6.0).reshape(H, M)
WIDTHS = np.array([1.0, 2.0])[:, None, None]
FORECAST = Forecast(
    jnp.asarray(MEANS),
    jnp.broadcast_to(jnp.eye(M), (H, M, M)),
    jnp.array([0.8, 0.95]),
    jnp.asarray(MEANS - WIDTHS),
    jnp.asarray(MEANS + WIDTHS),
    jnp.zeros((4, H, M)),
)


def dates(start, count, freq):
    return pd.date_range(start, periods=count, freq=freq)


@pytest.mark.parametrize(
    ("index", "following"),
    [
        (None, [1, 2, 3]),
        (pd.RangeIndex(4, 10, 2, name="i"), [10, 12, 14]),
        (pd.Index([1990, 1991, 1992], name="year"), [1993, 1994, 1995]),
        (dates("2024-01", 3, "ME"), dates("2024-04", 3, "ME")),
        (pd.DatetimeIndex(["2024-01-01", "2024-02-01"]), dates("2024-03", 3, "MS")),
        (dates("2024-01-04", 2, "B"), dates("2024-01-08", 3, "D")),
        (pd.period_range("2024-01", periods=3, freq="M"),
         pd.period_range("2024-04", periods=3, freq="M")),
    ],
)  # fmt: skip
def test_the_index_goes_on_from_that_of_the_data(index, following):
    frame = FORECAST.to_frame(after=index, columns=["a", "b"])
    assert list(frame.index) == list(following)
    assert index is None or (frame.index.name == index.name and frame.index.dtype == index.dtype)


def test_a_frame_has_the_means_and_the_ends():
    frame = FORECAST.to_frame(columns=["a", "b"])
    ends = {"mean": 0, "lo-95": -2, "lo-80": -1, "hi-80": 1, "hi-95": 2}
    assert list(frame["b"].columns) == list(ends)
    for name, width in ends.items():
        np.testing.assert_array_equal(frame["b", name], MEANS[:, 1] + width)
    one = Forecast(
        *(x[..., :1] for x in FORECAST[:2]), FORECAST.levels, *(x[..., :1] for x in FORECAST[3:])
    )
    pd.testing.assert_frame_equal(one.to_frame(), frame["a"])
    with pytest.raises(ValueError, match="columns: expected 2 names, got 1"):
        FORECAST.to_frame(columns=["a"])


def test_a_dataset_has_the_same_with_labels():
    found = FORECAST.to_xarray(columns=["a", "b"])
    np.testing.assert_array_equal(found["lower"].sel(level=95, column="b"), MEANS[:, 1] - 2)
    assert float(found["covariance"].sel(time=2, column="a", other_column="b")) == 0
    assert found["paths"].dims == ("sample", "time", "column")
    without = forecast_dataset(range(H), ["a", "b"], MEANS, [80, 95], *FORECAST[3:5], None)
    assert "paths" not in without


def test_what_is_shown_is_short_inside_a_traced_function_too():
    assert "samples=float" in repr(FORECAST) and len(repr(FORECAST)) < 300
    ones = np.ones((4, 1))
    lgssm = ssmlin.matrix_lgssm("vanilla", keys=ones, values=ones, queries=ones, emission_noise=1.0)
    shapes = jax.eval_shape(ssmlin.matrix_lgssm_filter, lgssm, ones)
    assert "filtered_means=float64(4, 1, 1)" in repr(shapes)
    seen = []
    jax.make_jaxpr(lambda x: seen.append(repr(shapes._replace(marginal_loglik=x))))(1.0)
    assert "marginal_loglik=float64()" in seen[0]
    number = shapes._replace(marginal_loglik=jnp.float64(-1.25))
    assert "marginal_loglik=-1.25" in repr(number)
    assert '<td style="text-align: left">-1.25</td>' in number._repr_html_()
