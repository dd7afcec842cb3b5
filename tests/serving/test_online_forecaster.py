"""A forecaster step by step, and rows of text, against a forecaster that is given all steps."""

import dataclasses
import json

import jax
import numpy as np
import pandas as pd
import pytest
from tiers import slow
from typer.testing import CliRunner

import ssmlin
from ssmlin.cli._app import app
from ssmlin.data import Columns, Scaling
from ssmlin.forecasting import FittedAttention, ForecasterState, Layout, with_lags
from ssmlin.models import IntegratedRowCov, StateLaw
from ssmlin.serving import RowStream

STEPS, SEEN = 40, 30
MONTHS = pd.date_range("2020-01-01", periods=STEPS + 1, freq="MS")
CASES = {
    "logarithm and season": {"power": (0.0,), "seasonal": 4},
    "differences and inputs": {"power": (0.5,), "difference": 1, "inputs": ("u",)},
}
pytestmark = pytest.mark.float32
PER_CASE = pytest.mark.parametrize("case", ["logarithm and season", slow("differences and inputs")])


def series(inputs=()):
    rng = np.random.default_rng(0)
    y = np.exp(2 + 0.1 * rng.normal(size=(STEPS, 1)).cumsum(axis=0))
    return Columns(
        y, rng.normal(size=(STEPS, len(inputs))), MONTHS[:STEPS], ("y",), inputs, "ISO8601"
    )


def until(columns, end):
    return columns._replace(
        values=columns.values[:end], inputs=columns.inputs[:end], times=columns.times[:end]
    )


def forecaster(case):
    """One that is not fitted: parameters where they start, and the first steps as its data."""
    power, difference, inputs = case["power"], case.get("difference", 0), case.get("inputs", ())
    columns = until(series(inputs), SEEN)
    seasonal = case.get("seasonal")
    width = 2 + len(inputs) + (seasonal - 1 if seasonal else 0)
    model = ssmlin.LinearAttentionSSM(
        "bayesian_memory", 1, width, width + 1, num_lags=2, row_cov=IntegratedRowCov(discount=0.9)
    )
    params, _ = model.initialize(jax.random.key(0))
    made = ssmlin.Forecaster()
    made.state_ = ForecasterState(
        Layout(("y",), inputs, "month"), {"": FittedAttention(model, params, seasonal)},
        {"": Scaling.fit(columns, power, difference)}, {"": columns}, {}, {},
    )  # fmt: skip
    return made


@PER_CASE
def test_predictions_are_those_of_a_forecaster_that_is_given_all_steps(case, tmp_path):
    made, columns = forecaster(CASES[case]), series(CASES[case].get("inputs", ()))
    online = ssmlin.OnlineForecaster(made)
    state = online.init()
    for t in range(SEEN, STEPS):
        if t == SEEN + 5:
            online.save(tmp_path / "state", state)
            state = online.load(tmp_path / "state")
        state, prediction = online.step(
            state, columns.values[t], columns.inputs[t], columns.times[t]
        )
        assert prediction.time == columns.times[t] and prediction.log_density != 0
    outside = np.ones((3, columns.inputs.shape[1]))
    future = outside if outside.shape[1] else None
    made.state_ = made.state_.with_panel({"": columns}, made.state_.layout)
    (expected,) = made.state_.forecasts(3, (80,), {"": future}, num_samples=4000, seed=0)
    found = online.forecast(state, 3, (80,), outside, num_samples=4000)
    assert list(found.times) == list(expected.times)
    # The roots of covariances whose eigenvalues are close differ, and the paths with them.
    np.testing.assert_allclose(found.means, expected.means, 0.02)
    np.testing.assert_allclose(found.upper, expected.upper, rtol=0.02)
    if isinstance(state.filter.belief, StateLaw):
        y, u = with_lags(made.model_, made.state_.observed()[""])
        posterior = made.model_.filter(made.params_, y, u)
        law = state.filter.belief
        np.testing.assert_allclose(law.mean, posterior.filtered_means[-1], atol=1e-6)
        np.testing.assert_allclose(law.cov, posterior.filtered_covariances[-1], atol=1e-6)
    one = online.predict(state, outside[0])
    assert one.time == MONTHS[STEPS]
    np.testing.assert_allclose(one.mean, expected.means[0], 0.02)
    ends = one.intervals((80,))
    np.testing.assert_allclose(ends, (expected.lower[:, 0], expected.upper[:, 0]), rtol=0.02)


def test_log_densities_are_of_the_units_of_the_series():
    """The density of the law in the units, by differences of its distribution function."""
    online = ssmlin.OnlineForecaster(forecaster(CASES["logarithm and season"]))
    state, prediction = online.step(online.init(), [8.0])
    law = prediction.law.standard
    from scipy import stats

    z = stats.t(law.student_df[0], law.means[0, 0], np.sqrt(law.scales[0, 0, 0]))
    ends = (
        np.log(np.array([8 - 1e-4, 8 + 1e-4])) - online.series.scaling.mean[0]
    ) / online.series.scaling.scale[0]
    density = np.diff(z.cdf(ends)).item() / 2e-4
    assert prediction.log_density == pytest.approx(np.log(density), abs=1e-3)


def test_what_does_not_fit_is_refused():
    online = ssmlin.OnlineForecaster(forecaster(CASES["logarithm and season"]))
    state = online.init()
    for time, said in (
        ("2022-01-01", "or later"),
        ("2022-07-15", "regular"),
        (3.0, "expected one"),
    ):
        given = time if isinstance(time, float) else pd.Timestamp(time)
        with pytest.raises(ValueError, match=f"time: .*{said}"):
            online.step(state, [1.0], time=given)
    with pytest.raises(ValueError, match="positive number in 'y'"):
        online.step(state, [-1.0])
    with pytest.raises(ValueError, match="series: expected one of"):
        ssmlin.OnlineForecaster(forecaster(CASES["logarithm and season"]), "other")
    with pytest.raises(ValueError, match="call fit first"):
        ssmlin.OnlineForecaster(ssmlin.Forecaster())


def test_rows_go_in_and_predictions_come_out(tmp_path, monkeypatch):
    made, columns = forecaster(CASES["logarithm and season"]), series()
    made.save(tmp_path / "model")
    lines = [f"{columns.times[t].date()};{columns.values[t, 0]}" for t in range(SEEN, SEEN + 5)]
    # Malformed rows, and one that repeats a time.
    given = ["month;y", *lines[:2], "2022-09-01;word", lines[1], lines[2], lines[3] + ";1"]
    call = ["stream", str(tmp_path / "model"), "--levels", "80", "--state", str(tmp_path / "state")]
    result = CliRunner().invoke(app, call, input="\n".join(given).encode() + b"\n\xff;1\n")
    assert result.exit_code == 0, result.output
    rows = [line.split(",") for line in result.stdout.splitlines()]
    assert rows[0] == ["month", "column", "mean", "lower_80", "upper_80"]
    assert [row[0] for row in rows[1:]] == ["2022-08-01", "2022-09-01", "2022-10-01"]
    assert "7 rows, 4 skipped" in result.stderr and "row 3 skipped: columns:" in result.stderr
    # The same call goes on, and a row that is known already is skipped.
    given = ["month;y", lines[2], lines[3]]
    again = CliRunner().invoke(app, [*call, "--json"], input="\n".join(given))
    assert again.exit_code == 0 and "1 skipped" in again.stderr
    assert "going on after 3 rows" in again.stderr
    online = ssmlin.OnlineForecaster(ssmlin.load(tmp_path / "model"))
    state = online.init()
    for t in range(4):
        state, _ = online.step(state, columns.values[SEEN + t], time=columns.times[SEEN + t])
    expected = online.predict(state)
    record = json.loads(again.stdout.splitlines()[0])
    lower, upper = expected.intervals((80,))
    np.testing.assert_allclose(
        [record["mean"], record["lower_80"], record["upper_80"]],
        [expected.mean[0], lower[0, 0], upper[0, 0]], rtol=1e-5,
    )  # fmt: skip
    for header, said in (("month;x", "expected the columns month, y"), ("y;month;y", "'y' twice")):
        result = CliRunner().invoke(app, call, input=f"{header}\n1;2;3\n")
        assert result.exit_code == 2 and said in result.stderr


@pytest.mark.parametrize("given, noted", [(",", {}), (None, {"decimal": ","})])
def test_where_commas_are_decimal_a_point_never_is(given, noted):
    made = forecaster(CASES["logarithm and season"])
    made.state_ = dataclasses.replace(made.state_, notes=noted)  # what the file of the fit showed
    stream = RowStream(made, decimal=given)
    texts = {"3,5": 3.5, "1.234,5": 1234.5, "1.234": 1234.0, "7": 7.0}
    for month, (text, expected) in zip(MONTHS[SEEN:], texts.items(), strict=False):
        assert stream.take({"month": str(month.date()), "y": text}).values == [expected]
    with pytest.raises(ValueError, match="columns: expected a finite number .* got '12.5'"):
        stream.take({"month": str(MONTHS[SEEN + 4].date()), "y": "12.5"})


@pytest.mark.parametrize(
    "error, code", [(KeyboardInterrupt, 130), (BrokenPipeError, 141), (RuntimeError, 1)]
)
def test_a_stream_that_is_stopped_keeps_its_state(error, code, tmp_path, monkeypatch):
    made, columns = forecaster(CASES["logarithm and season"]), series()
    made.save(tmp_path / "model")
    take = RowStream.take

    def once(self, row):
        if self.num_rows == 1:
            raise error
        return take(self, row)

    monkeypatch.setattr(RowStream, "take", once)
    monkeypatch.setattr("ssmlin.cli._streaming._no_more_output", lambda: None)
    rows = [f"{columns.times[t].date()},{columns.values[t, 0]}" for t in (SEEN, SEEN + 1)]
    path = tmp_path / "state"
    result = CliRunner().invoke(
        app, ["stream", str(tmp_path / "model"), "--state", str(path)],
        input="\n".join(["month,y", *rows]),
    )  # fmt: skip
    assert result.exit_code == code, result.output
    stream = RowStream(ssmlin.load(tmp_path / "model"))
    stream.load(path)
    assert stream.num_rows == 1
