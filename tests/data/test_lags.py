"""Lags and values carried forward, against plain loops, for arrays of NumPy and of JAX."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssmlin.data import carried_forward, lagged

pytestmark = pytest.mark.quick

Y = np.arange(1.0, 9.0).reshape(4, 2)
GAPS = np.array([[np.nan, 1.0], [2.0, np.nan], [np.nan, np.nan], [3.0, 4.0], [np.nan, 5.0]])


@pytest.mark.parametrize("module", [np, jnp])
@pytest.mark.parametrize("num_lags", [0, 1, 3, 6])
def test_lags_are_the_values_before_a_step(module, num_lags):
    before = -np.ones((num_lags, 2)) * np.arange(1, num_lags + 1)[:, None]
    expected = np.empty((5, num_lags, 2))
    for t in range(5):
        for lag in range(1, num_lags + 1):
            expected[t, lag - 1] = Y[t - lag] if t >= lag else before[num_lags + t - lag]
    found = lagged(module.asarray(Y), num_lags, module.asarray(before))
    assert isinstance(found, np.ndarray) == (module is np)
    np.testing.assert_array_equal(found, expected)
    zeros = lagged(module.asarray(Y > 2), num_lags)
    assert zeros.dtype == bool
    inside = np.arange(5)[:, None] >= np.arange(1, num_lags + 1)
    np.testing.assert_array_equal(zeros, inside[..., None] & (expected > 2))


@pytest.mark.parametrize("module", [np, jnp])
def test_the_last_observed_value_is_carried_forward(module):
    expected, last = [], np.array([7.0, 8.0])
    for row in GAPS:
        last = np.where(np.isnan(row), last, row)
        expected.append(last)
    found = carried_forward(module.asarray(GAPS), module.asarray([7.0, 8.0]))
    np.testing.assert_array_equal(found, expected)
    expected[0][0] = np.nan  # where there is nothing before
    np.testing.assert_array_equal(carried_forward(module.asarray(GAPS)), expected)


def test_both_work_under_a_trace():
    found = jax.jit(lambda y: (lagged(y, 2), carried_forward(y)))(jnp.asarray(GAPS))
    np.testing.assert_array_equal(found[0], lagged(GAPS, 2))
    np.testing.assert_array_equal(found[1], carried_forward(GAPS))
