"""Series of a population step by step, against the population that is given all steps at once."""

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from scipy import integrate
from tiers import slow
from typer.testing import CliRunner

import ssmlin
from ssmlin._buckets import bucket
from ssmlin.cli._app import app
from ssmlin.data import Columns
from ssmlin.forecasting import CollectionState, Layout, MixtureLaw
from ssmlin.forecasting._collection_fit import Population, conditioned
from ssmlin.forecasting._collection_members import InputScale, members_of
from ssmlin.forecasting._history import History
from ssmlin.models import HierarchicalRegression

KNOWN, STEPS = 70, 90
PERIOD = 5  # of which there are harmonics
MONTHS = pd.date_range("2015-03-01", periods=STEPS + 5, freq="MS")


def columns(seed, inputs=(), steps=STEPS):
    rng = np.random.default_rng(seed)
    wave = 0.2 * np.sin(np.arange(steps) * 2 * np.pi / PERIOD + seed)
    y = np.exp(3 + wave + 0.1 * rng.normal(size=steps).cumsum())[:, None]
    return Columns(y, rng.normal(size=(steps, len(inputs))), MONTHS[:steps], ("y",), inputs)


def part(whole, start, end):
    return whole._replace(**{
        name: getattr(whole, name)[start:end] for name in ("values", "inputs", "times")
    })  # fmt: skip


def forecaster(inputs=()):
    """One that is not fitted: two models of any parameters, and the first steps of two series."""
    history = History(PERIOD)
    model = HierarchicalRegression(history.num_regressors + 2 * len(inputs))
    rng = np.random.default_rng(0)
    start = model.initialize()[0]._replace(
        decay=jnp.float32(0.9), discount=jnp.float32(0.95),
        noise=jnp.full(model.num_regressors, 1e-3, jnp.float32),
    )  # fmt: skip
    populations = [
        Population(power, model, start._replace(
            coefficients=(0.1 * rng.normal(size=model.num_regressors)).astype(np.float32)
        ))
        for power in (1.0, 0.0)
    ]  # fmt: skip
    panel = {name: part(columns(i, inputs), 0, KNOWN) for i, name in enumerate("ab")}
    made = ssmlin.Forecaster(pooling="hierarchical")
    layout = Layout(("y",), inputs, "month", "shop")
    made.state_ = CollectionState(
        layout, panel, tuple(populations), history, InputScale.of(panel), notes={}
    )
    return made


def fed(online, whole, start, end, state=None):
    state = online.init() if state is None else state
    for t in range(start, end):
        state, _ = online.step(state, whole.values[t], whole.inputs[t], whole.times[t])
    return state


def in_units(member, units, num_past):
    """The same member, whose changes are divided by another number."""
    ratio = member.scale / units
    regressors = member.regressors.copy()
    regressors[:, :num_past] *= ratio
    count = np.count_nonzero(~np.isnan(member.targets))
    return member._replace(
        targets=member.targets * ratio, regressors=regressors, last=member.last * ratio,
        log_slope=member.log_slope + count * np.log(ratio),
    )  # fmt: skip


@pytest.mark.parametrize("inputs", [(), slow(("u",))])
def test_a_known_series_has_the_numbers_of_all_its_steps_in_the_units_of_the_fit(inputs):
    made, whole = forecaster(inputs), columns(1, inputs)
    whole.values[[76, 77, 78, 81, 83]] = np.nan
    online = ssmlin.OnlineForecaster(made, "b")
    (state,) = fed(online, whole, KNOWN, STEPS).filter
    collection = made.state_
    for k, population in enumerate(collection.populations):
        args = population.power, collection.regressors, collection.input_scale
        (member,) = members_of([(whole, 0)], *args)
        (before,) = members_of([(part(whole, 0, KNOWN), 0)], *args)
        assert abs(member.scale / before.scale - 1) > 1e-3
        member = in_units(member, before.scale, len(collection.regressors.weights))
        expected = conditioned(population, [member], bucket(1), 96)
        found = jax.tree.map(lambda x, k=k: np.asarray(x)[k : k + 1], state.states)
        for name in ("mean", "cov"):
            np.testing.assert_allclose(getattr(found, name), getattr(expected, name), atol=1e-5)
        np.testing.assert_allclose(found.variance.scale, expected.variance.scale, rtol=1e-5)
        np.testing.assert_allclose(found.variance.df, expected.variance.df, rtol=1e-5)
        score = expected.log_likelihoods[0] + member.log_slope
        np.testing.assert_allclose(state.scores[k], score, rtol=1e-5)
        np.testing.assert_allclose(state.recent[k], member.last, rtol=1e-12)
        # Three ranges and thirty usual changes beyond what was seen.
        y = whole.values[~np.isnan(whole.values)]
        z = (y if population.power else np.log(y)) / before.scale
        bounds = [z.min() - 3 * np.ptp(z) - 30, z.max() + 3 * np.ptp(z) + 30]
        if not population.power:
            usual = np.sqrt(np.mean(np.diff(y) ** 2))
            bounds[1] = np.log(y.max() + 3 * np.ptp(y) + 30 * usual) / before.scale
        found = state.extent.bounds(state.units[k : k + 1], population.power)[0]
        np.testing.assert_allclose(found, bounds, rtol=1e-9)
    # What has no logarithm leaves the model of the values alone.
    state = online.init()
    for value in (20.0, -1.0, 20.0):
        state, _ = online.step(state, [value], np.zeros(len(inputs)))
    assert np.isfinite(state.filter[0].scores).tolist() == [True, False]
    (law,) = online.predict(state, np.zeros(len(inputs))).law.columns
    assert law.weights.tolist() == [1.0] and law.powers.tolist() == [1.0]


@pytest.mark.parametrize(
    "inputs, what",
    [((), "gaps"), (("u",), "gaps"), ((), "a negative value"), slow((), "few values")],
)
def test_a_new_series_is_forecast_as_after_an_update(inputs, what):
    made, start = forecaster(inputs), KNOWN + 2
    whole, end = columns(7, inputs), {"few values": start + 4}.get(what, STEPS)
    if what == "gaps":
        whole.values[[start + 5, start + 9, start + 10, STEPS - 1]] = np.nan
    if what == "a negative value":  # which has no logarithm
        whole.values[start + 6] = -1.0
    online = ssmlin.OnlineForecaster(made, "new")
    outside = np.random.default_rng(1).normal(size=(3, len(inputs)))
    if what == "few values":
        state = fed(online, whole, start, end - 1)
        assert np.isnan(online.predict(state).mean).all()
    state = fed(online, whole, start, end)
    found = online.forecast(state, 3, (80,), outside, num_samples=4000, seed=3)
    collection = made.state_.with_panel({"new": part(whole, start, end)}, made.state_.layout)
    future = {"new": outside if inputs else None}
    (expected,) = collection.forecasts(3, (80,), future, num_samples=4000, seed=3)
    assert list(found.times) == list(expected.times) == list(MONTHS[end : end + 3])
    np.testing.assert_allclose(found.paths, expected.paths, rtol=1e-4)
    np.testing.assert_allclose(found.upper, expected.upper, rtol=1e-4)
    # The law of one step is that of the paths, which are drawn.
    one = online.predict(state, outside[0])
    middle, width = expected.means[0, 0], (expected.upper - expected.lower)[0, 0, 0]
    (lower,), (upper,) = one.intervals((80,))
    np.testing.assert_allclose(
        [one.mean[0], lower[0], upper[0]],
        [middle, expected.lower[0, 0, 0], expected.upper[0, 0, 0]], atol=0.1 * width,
    )  # fmt: skip


def test_a_mixture_has_the_quantiles_and_the_mean_of_its_density():
    law = MixtureLaw(
        np.array([0.5, 0.2, 0.3]), np.array([1.0, 0.0, 0.5]), np.array([2.0, 0.1, 0.4]),
        np.array([4.0, 21.0, 9.0]), np.array([0.8, 4.0, 2.0]), np.array([7.0, 9.0, 12.0]),
        np.array([[-np.inf, np.inf]] * 3),
    )  # fmt: skip

    def integral(function, end):
        return integrate.quad(function, -60, end, limit=500, points=[0.0, 8.0])[0]

    levels = np.array([0.03, 0.5, 0.9])
    density = np.vectorize(lambda y: np.exp(law.log_density(y)))
    found = law.quantiles(levels)
    np.testing.assert_allclose([integral(density, end) for end in found], levels, atol=1e-6)
    # Without a bound the logarithm's Student-t has no mean.
    bounded = law._replace(bounds=law.bounds.clip(-1e3, 32.0), weights=np.array([1e-9, 1e-9, 1.0]))
    mean = integral(lambda y: y * np.exp(bounded.log_density(y)), 200)
    np.testing.assert_allclose(bounded.expectation(), mean, rtol=1e-3)


def test_what_is_saved_goes_on_in_the_middle(tmp_path):
    made, whole = forecaster(), columns(1)
    whole.values[[75, 76]] = np.nan
    for name, start, stop in (("b", KNOWN, 76), ("new", KNOWN, 74), ("none", KNOWN, KNOWN)):
        online = ssmlin.OnlineForecaster(made, name)
        state = fed(online, whole, start, stop)
        online.save(tmp_path / name, state)
        again = fed(online, whole, stop, 80, online.load(tmp_path / name))
        state = fed(online, whole, stop, 80, state)
        for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(again), strict=True):
            np.testing.assert_array_equal(a, b)
    with pytest.raises(ValueError, match="state: expected one of the forecaster with series"):
        online.load(tmp_path / "b")
    other = forecaster()
    changed = [x._replace(params=x.params._replace(decay=jnp.float32(0.8)))
               for x in other.state_.populations]  # fmt: skip
    other.state_ = CollectionState(
        made.state_.layout, made.state_.history, tuple(changed), made.state_.regressors,
        made.state_.input_scale,
    )  # fmt: skip
    with pytest.raises(ValueError, match="state: expected one of the population"):
        ssmlin.OnlineForecaster(other, "b").load(tmp_path / "b")


def test_a_state_does_not_grow():
    made = forecaster()
    online = ssmlin.OnlineForecaster(made, "new")
    whole = columns(3, steps=75)
    state = fed(online, whole._replace(times=[None] * 75), 0, 65)
    shapes = [np.shape(x) for x in jax.tree.leaves(state)]
    state = fed(online, whole._replace(times=[None] * 75), 65, 75, state)
    assert [np.shape(x) for x in jax.tree.leaves(state)] == shapes


def test_what_a_population_cannot_follow_is_refused():
    made = forecaster()
    made.state_ = CollectionState(
        made.state_.layout, made.state_.history, made.state_.populations[1:],
        made.state_.regressors, made.state_.input_scale,
    )  # fmt: skip
    with pytest.raises(ValueError, match="series: expected one of a, b, got None"):
        ssmlin.OnlineForecaster(made)
    online = ssmlin.OnlineForecaster(made, "a")
    with pytest.raises(ValueError, match="values: expected a positive number in 'y'"):
        online.step(online.init(), [-1.0])
    with pytest.raises(ValueError, match="forecaster: expected .* for an export"):
        ssmlin.serving.export_model(made, "nothing")


def test_rows_of_many_series_come_in_any_order(tmp_path):
    made = forecaster()
    made.save(tmp_path / "model")
    wholes = {"b": columns(1), "new": columns(7)}
    rows = [
        f"{name},{MONTHS[t].date()},{wholes[name].values[t, 0]}"
        for t in range(KNOWN, KNOWN + 8)
        for name in wholes
    ]
    rows.insert(5, ",2021-08-01,3.0")
    call = ["stream", str(tmp_path / "model"), "--levels", "80", "--state", str(tmp_path / "state")]
    lines, said = [], []
    for given in (rows[:9], rows[9:]):  # the second call goes on
        result = CliRunner().invoke(app, call, input="\n".join(["shop,month,y", *given]))
        assert result.exit_code == 0, result.output
        lines += result.stdout.splitlines()[1:]
        said.append(result.stderr)
    assert "row 6 skipped: series: expected a name" in said[0] and "1 skipped" in said[0]
    assert "going on after 8 rows" in said[1] and "skipped" not in said[1]
    loaded = ssmlin.load(tmp_path / "model")
    for name, whole in wholes.items():
        online = ssmlin.OnlineForecaster(loaded, name)
        ahead = online.predict(fed(online, whole, KNOWN, KNOWN + 8))
        last = [line for line in lines if line.startswith(f"{name},")][-1].split(",")
        assert last[1:3] == [str(MONTHS[KNOWN + 8].date()), "y"]
        expected = [ahead.mean[0], *(end[0, 0] for end in ahead.intervals((80,)))]
        np.testing.assert_allclose(np.array(last[3:], float), expected, rtol=1e-6)
    # Of one series alone rows need not say which.
    result = CliRunner().invoke(
        app, [*call[:4], "--series", "b"], input=f"month,y\n{MONTHS[KNOWN].date()},20\n"
    )
    assert result.exit_code == 0 and result.stdout.splitlines()[1].startswith("b,")


def test_a_stream_goes_on_after_files(tmp_path):
    """A model that was fitted to files has no series to go on from, and says so."""
    made = forecaster()
    with_series, without = tmp_path / "with", tmp_path / "without"
    made.save(with_series)
    (tmp_path / "shops").mkdir()
    for i, name in enumerate("ab"):
        known = part(columns(i), 0, KNOWN)
        pd.DataFrame({"shop": name, "month": known.times, "y": known.values[:, 0]}).to_csv(
            tmp_path / "shops" / f"{name}.csv", index=False
        )
    made.update(str(tmp_path / "shops"))
    made.save(without)
    given = f"shop,month,y\nb,{MONTHS[KNOWN].date()},20\n"

    def run(*call):
        return CliRunner().invoke(app, ["stream", *map(str, call)], input=given)

    refused = run(without)
    assert refused.exit_code == 2 and "series that forecasts go on from" in refused.stderr
    with pytest.raises(ValueError, match="data: expected the series that forecasts go on from"):
        ssmlin.OnlineForecaster(ssmlin.load(without), "b")
    found, expected = run(without, "--after", tmp_path / "shops"), run(with_series)
    assert found.exit_code == 0, found.stderr
    assert found.stdout == expected.stdout
