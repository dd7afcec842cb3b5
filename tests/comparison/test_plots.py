"""Figures show the numbers they are given, and say what is wrong with them."""

import arviz
import numpy as np
import pytest
from matplotlib.figure import Figure

from ssmlin import Forecast
from ssmlin.comparison import plots

RNG = np.random.default_rng(0)
STEPS = 12


@pytest.fixture(scope="module")
def draws():
    variables = {
        "alpha": RNG.uniform(size=(2, 50)),
        "beta": RNG.uniform(size=(2, 50)),
        "alpha_t": RNG.uniform(size=(2, 50, STEPS)),
        "decay_t": RNG.uniform(size=(2, 50, STEPS, 3)),
    }
    return arviz.from_dict(
        {"posterior": variables},
        dims={"alpha_t": ["time"], "decay_t": ["time", "column"]},
        coords={"time": np.arange(1900, 1900 + STEPS)},
    )


def lines(axis):
    return [line.get_ydata() for line in axis.get_lines()]


def test_losses():
    figure = plots.loss_figure({"one": [3.0, 2.0], "two": np.arange(4.0)})
    first, second = lines(figure.axes[0])
    np.testing.assert_array_equal(first, [3, 2])
    np.testing.assert_array_equal(second, np.arange(4))
    with pytest.raises(ValueError, match="losses: expected at least one"):
        plots.loss_figure({})


def test_through_arviz(draws):
    for function in (plots.trace_figure, plots.pair_figure):
        figure = function(draws)
        assert isinstance(figure, Figure)
        text = " ".join(axis.get_xlabel() + axis.get_ylabel() for axis in figure.axes)
        assert "alpha" in text and "beta" in text and "alpha_t" not in text
        with pytest.raises(ValueError, match="variables: expected names among alpha, beta"):
            function(draws, "gamma")


def test_gates(draws):
    figure = plots.gate_figure(draws, level=0.5)
    assert [axis.get_ylabel() for axis in figure.axes] == ["α_t", "decay_t"]
    x = draws.posterior["alpha_t"].values.reshape(-1, STEPS)
    np.testing.assert_allclose(lines(figure.axes[0])[0], np.median(x, axis=0))
    assert figure.axes[0].get_lines()[0].get_xdata()[0] == 1900
    assert len(lines(figure.axes[1])) == 3
    band = figure.axes[0].collections[0].get_paths()[0].vertices
    assert band[:, 1].min() == pytest.approx(np.quantile(x, 0.25, axis=0).min())
    with pytest.raises(ValueError, match="trajectories"):
        plots.gate_figure(arviz.from_dict({"posterior": {"alpha": np.ones((1, 4))}}))


def test_norm_of_the_memory():
    states = RNG.normal(size=(2, 30, STEPS, 2, 3))
    figure = plots.state_norm_figure(states)
    norms = np.sqrt((states**2).sum(axis=(-2, -1))).reshape(-1, STEPS)
    np.testing.assert_allclose(lines(figure.axes[0])[0], np.median(norms, axis=0))
    with pytest.raises(ValueError, match="states: expected shape"):
        plots.state_norm_figure(states[0, 0])
    with pytest.raises(ValueError, match="times: expected 12 labels, got 3"):
        plots.state_norm_figure(states, times=[1, 2, 3])


def test_predictions():
    y, predicted = RNG.normal(size=(STEPS, 2)), RNG.normal(size=(4, 50, STEPS, 2))
    ends = RNG.normal(size=(2, 2, 5, 2))
    forecast = Forecast(np.ones((5, 2)), np.ones((5, 2, 2)), np.array([0.5, 0.9]), *ends)
    times = 2000 + 0.25 * np.arange(STEPS)
    figure = plots.predictive_figure(y, predicted, forecast, times=times, columns=["a", "b"])
    assert [axis.get_ylabel() for axis in figure.axes] == ["a", "b"]
    observed, middle, ahead = figure.axes[1].get_lines()
    np.testing.assert_array_equal(observed.get_ydata(), y[:, 1])
    np.testing.assert_allclose(middle.get_ydata(), np.median(predicted[..., 1], axis=(0, 1)))
    np.testing.assert_allclose(ahead.get_xdata(), times[-1] + 0.25 * np.arange(1, 6))
    assert len(figure.axes[0].collections) == 3
    with pytest.raises(ValueError, match="predictions: expected shape"):
        plots.predictive_figure(y, predicted[..., :1])
