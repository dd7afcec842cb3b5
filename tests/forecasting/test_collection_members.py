"""Series are prepared in batches; each by itself, as a plain loop, is the oracle."""

import numpy as np
import pandas as pd
import pytest

from ssmlin.data import Columns, box_cox, first_place
from ssmlin.forecasting._collection_members import InputScale, members_of
from ssmlin.forecasting._history import History

pytestmark = pytest.mark.quick


def alone(columns, power, history, scale):
    """One series, by loops over its steps."""
    values = columns.values[:, 0]
    there = np.flatnonzero(~np.isnan(values))
    if len(there) < 4 or (power != 1 and values[there].min() <= 0):
        return None
    first, end = there[0], there[-1] + 1
    y, u = values[first:end], scale.apply(columns.inputs)[first:end]
    steps, seen = np.arange(len(y)), ~np.isnan(y)
    z = box_cox(y[:, None], (power,))[:, 0]
    z = np.interp(steps, steps[seen], z[seen])
    both = np.array([t > 0 and seen[t] and seen[t - 1] for t in steps])
    changes = np.array([z[t] - z[t - 1] for t in steps if both[t]])
    changes = changes if len(changes) else np.diff(z)
    unit = max(np.sqrt(np.mean(changes**2)), 1e-3 * np.sqrt(np.mean(z**2)), 1e-12)
    z = z / unit
    begin = history.first_step(np.array([len(z)]))[0]
    start = first_place(columns.times) + first

    def before(t):
        return np.array([z[max(t - 1 - j, 0)] for j in range(history.length)])

    regressors = [
        np.concatenate([
            history.weights @ before(t), history.places(np.array([start + t]))[0], u[t],
            u[t] - u[max(t - 1, 0)],
        ])
        for t in steps[begin:]
    ]  # fmt: skip
    targets = [z[t] - z[t - 1] if both[t] else np.nan for t in steps[begin:]]
    kept = [y[t] for t in steps[begin:] if both[t]]
    bounds = [z.min() - 3 * np.ptp(z) - 30, z.max() + 3 * np.ptp(z) + 30]
    if power != 1:
        known = y[seen]
        high = known.max() + 3 * np.ptp(known) + 30 * np.sqrt(np.mean(np.diff(known) ** 2))
        bounds[1] = box_cox(np.array([[high]]), (power,))[0, 0] / unit
    slope = -len(kept) * np.log(unit)
    slope += (power - 1) * np.log(kept).sum() if power != 1 else 0.0
    return (targets, regressors, before(len(z)), unit, bounds, slope, len(values) - end,
            start + len(z))  # fmt: skip


def series():
    """Of many lengths, with gaps, missing ends, and values that are constant or not positive."""
    rng = np.random.default_rng(0)
    made = []
    for i, steps in enumerate([40, 7, 30, 4, 41, 26, 30, 12, 3]):
        months = pd.date_range("2019-01-01", periods=60, freq="MS")[i : i + steps]
        y = 20 + rng.normal(size=steps).cumsum()
        if i in (2, 5):
            y[[5, 6, 11, -1]] = np.nan
        if i == 6:
            y[:3], y[-4:] = np.nan, np.nan
        if i == 4:
            y[7] = -1.0
        if i == 7:
            y[:] = 3.0
        if i == 1:
            y[1::2] = np.nan  # no two steps that follow each other
        u = rng.normal(size=(steps, 2))
        made.append(Columns(y[:, None], u, months, ("y",), ("a", "b")))
    return made


@pytest.mark.parametrize("power", [1.0, 0.5, 0.0])
@pytest.mark.parametrize("history", [History(12), History(), History(4, 2)], ids=str)
def test_a_batch_is_as_its_series_alone(power, history):
    panel = {str(i): one for i, one in enumerate(series())}
    scale = InputScale.of(panel)
    found = members_of([(one, 0) for one in panel.values()], power, history, scale)
    assert sum(one is None for one in found) == (1 if power == 1 else 2)
    for one, columns in zip(found, panel.values(), strict=True):
        expected = alone(columns, power, history, scale)
        assert (one is None) == (expected is None)
        if one is not None:
            for got, value in zip(one, expected, strict=True):
                np.testing.assert_allclose(got, value, rtol=1e-9, atol=1e-9)


def test_a_batch_of_nothing_usable():
    panel = {"short": series()[-1]}
    assert members_of([(panel["short"], 0)], 1.0, History(), InputScale.of(panel)) == [None]
