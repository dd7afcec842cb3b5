"""The choice of a transformation, and scores that do not depend on it."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import scoringrules
from scipy import integrate, stats
from series import PASSENGERS

import ssmlin
from ssmlin.comparison import (
    Candidate,
    compare_models,
    compare_series,
    pooled_frame,
    score,
    score_paths,
)
from ssmlin.comparison._averaging import average
from ssmlin.comparison._result_files import ResultFolder
from ssmlin.comparison._scores import _QUANTILES, Units, _quantiles
from ssmlin.comparison._split import train_test_split
from ssmlin.data import Scaling, Series
from ssmlin.forecasting import Observed, Predictive, choose_powers, choose_regression
from ssmlin.forecasting._powers import log_likelihoods

pytestmark = pytest.mark.quick


def autoregressive(seed, steps=300, phi=0.9):
    rng = np.random.default_rng(seed)
    y = np.zeros(steps)
    for t in range(1, steps):
        y[t] = phi * y[t - 1] + rng.normal()
    return y


def choose(y, *args, **options):
    return choose_powers([Observed.of(y.reshape(len(y), -1))], *args, **options)


# ------------------------------------------------------------------------------ the choice


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_power_of_simulated_series_is_found(seed):
    rng = np.random.default_rng(seed)
    walk = np.exp(np.cumsum(0.1 * rng.normal(size=300)))
    linear = 20 + autoregressive(seed)
    squares = (10 + autoregressive(seed)).clip(0.1) ** 2
    assert choose(np.stack([walk, linear, squares], axis=1)) == (0.0, 1.0, 0.5)
    # What is missing, and the units, change nothing; the season may be told in vain.
    for y, power in ((walk, 0.0), (linear, 1.0), (squares, 0.5)):
        gappy = np.where(rng.uniform(size=300) < 0.02, np.nan, 1000 * y)
        assert choose(gappy) == choose(y, period=7) == (power,)
    found = choose(np.stack([walk, squares], axis=1), "box-cox")
    np.testing.assert_allclose(found, [0, 0.5], atol=0.2)


def test_the_likelihood_is_scipys_where_nothing_is_lagged():
    y = np.random.default_rng(3).gamma(4.0, size=60)
    series, powers = Observed.of(y[:, None]), [1.0, 0.5, 0.25, 0.0]
    assert choose_regression(series)[0] == 0
    found = log_likelihoods(series, powers, None, 0)
    expected = [stats.boxcox_llf(power, y) for power in powers]
    np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_all_powers_are_judged_on_the_same_steps():
    """Else the Jacobian would not cancel other units."""
    y = np.exp(autoregressive(0, 120) / 3)
    y[[5, 40, 41, 77]] = np.nan
    for difference in (0, 1, 4):
        one, other = (
            log_likelihoods(Observed.of(c * y[:, None]), [1.0, 0.5, 0.0], 6, difference)
            for c in (1.0, 1e4)
        )
        np.testing.assert_allclose(other - other[0], one - one[0], atol=1e-6)


def test_nothing_is_transformed_without_reason():
    y = 20 + autoregressive(5)
    assert choose(y - 20) == (1.0,)  # not positive
    assert choose(np.array([1.0, 2.0, 4.0])) == (1.0,)  # too short
    assert choose(np.full(30, np.nan)) == (1.0,)
    assert choose(np.arange(1.0, 50.0)) == (1.0,)  # a line is no curve
    # Less than two nats are not enough, which "box-cox" does not ask for.
    found = log_likelihoods(Observed.of(y[:, None]), [1.0, 0.5, 0.0], None, 0)
    assert 0 < found.max() - found[0] < 2
    assert choose(y) == (1.0,) != choose(y, "box-cox")
    assert choose(y, "none") == (1.0,) and choose(y, "log") == (0.0,)
    assert choose(y, 0.3) == choose(y, "0.3") == (0.3,)


def test_series_that_share_parameters_share_their_powers():
    short = [np.exp(autoregressive(seed, 40) / 5)[:, None] for seed in range(6)]
    alone = [choose_powers([Observed.of(y)])[0] for y in short]
    assert set(alone) != {0.0}  # one says too little
    assert choose_powers([Observed.of(y) for y in short]) == (0.0,)
    # One that is not positive rules the others out.
    assert choose_powers([Observed.of(y) for y in [*short, short[0] - 1]]) == (1.0,)


@pytest.mark.parametrize("transform", ["sqrt", -1, np.nan, np.inf, True, None])
def test_other_transformations_are_refused(transform):
    with pytest.raises(ValueError, match="transform: expected auto, none, log, box-cox or a numb"):
        choose(np.arange(1.0, 9.0), transform)
    with pytest.raises(ValueError, match="transform: expected"):
        ssmlin.compare(np.arange(1.0, 30.0), transform=transform)


def test_passengers_grow_by_factors():
    assert choose(PASSENGERS, period=12) == (0.0,)
    assert choose(np.diff(PASSENGERS)) == (1.0,)


# ------------------------------------------------------------------------------ scores


def logged(spread=0.3, level=2.0):
    """Units of a series of logarithms, and a law of three steps in them."""
    scaling = Scaling((level,), (spread,), (), (), (0.0,))
    law = Predictive.gaussian(np.array([[-1.0], [0.0], [1.5]]), np.array([[0.49]]))
    return Units(scaling, (4.0,)), law


def test_scores_of_a_law_of_logarithms_are_those_of_the_log_normal():
    units, law = logged()
    z = np.array([[-0.2], [0.9], [1.4]])
    y = np.exp(2.0 + 0.3 * z) / 4  # in standard deviations of the training part
    mean, deviation = 2.0 + 0.3 * law.means[:, 0] - np.log(4), 0.3 * 0.7
    theirs = stats.lognorm(deviation, scale=np.exp(mean))
    found = score(law, z, units=units)
    np.testing.assert_allclose(found.log_density[:, None], theirs.logpdf(y), rtol=1e-10)
    crps = scoringrules.crps_lognormal(y, mean, deviation)
    np.testing.assert_allclose(found.crps, crps, rtol=3e-3)
    assert np.array_equal(found.energy, found.crps[:, 0])
    np.testing.assert_allclose(found.errors, y - theirs.mean(), atol=1e-3)
    np.testing.assert_allclose(found.deviations, np.abs(y - theirs.median()), rtol=1e-9)
    np.testing.assert_allclose(found.pit, theirs.cdf(y), rtol=1e-10)
    # Paths that are draws of the same law.
    draws = law.sample(np.random.default_rng(0), 4000)[:, :, None]
    paths = score_paths(draws, z[:, None], units)
    np.testing.assert_allclose(paths.crps[:, 0], crps, rtol=0.1)
    np.testing.assert_allclose(paths.errors[:, 0], y - theirs.mean(), atol=0.02)
    np.testing.assert_allclose(paths.ranks[:, 0], theirs.cdf(y), atol=0.03)


@pytest.mark.parametrize("df", [None, np.full((1, 2), 3.0)])
def test_densities_of_two_columns_integrate_to_one(df):
    scaling = Scaling((1.0, 2.0), (0.5, 0.8), (), (), (0.5, 0.0))
    units = Units(scaling, (2.0, 3.0))
    cov = np.array([[[0.09, 0.03], [0.03, 0.04]], [[0.05, 0.0], [0.0, 0.02]]])
    law = Predictive(np.array([[0.4, 0.6]]), np.array([[[0.0, 0.1], [0.3, -0.2]]]), cov[None], df)
    a, b = (np.linspace(-4, 4, 301) for _ in range(2))
    z = np.stack(np.meshgrid(a, b, indexing="ij"), axis=-1)
    y = units.back(z)
    tall = Predictive(*(np.repeat(x, z[..., 0].size, axis=0) for x in law[:3]))
    tall = tall._replace(df=None if df is None else np.repeat(df, z[..., 0].size, axis=0))
    flat = z.reshape(-1, 2)
    density = np.exp(tall.log_prob(flat) + units.log_jacobian(flat)).reshape(301, 301)
    inner = integrate.trapezoid(density, y[0, :, 1], axis=1)
    assert integrate.trapezoid(inner, y[:, 0, 0]) == pytest.approx(1, abs=5e-3)
    # And the scores see these densities.
    at = np.abs(flat - [0.1, 0.0]).sum(axis=1).argmin()
    found = score(law, flat[[at]], units=units)
    assert found.log_density[0] == pytest.approx(np.log(density.ravel()[at]), rel=1e-9)
    assert np.isfinite(found.energy).all() and found.crps.shape == (1, 2)


@pytest.mark.parametrize("df", [None, 4.0])
def test_quantiles_of_mixtures_are_those_of_a_search(df):
    rng = np.random.default_rng(0)
    scales = np.array([0.3, 1e-4, 5.0])[None, :, None, None] ** 2
    law = Predictive(rng.dirichlet(np.ones(3), 4), rng.normal(size=(4, 3, 1)),
                     np.broadcast_to(scales, (4, 3, 1, 1)),
                     None if df is None else np.full((4, 3), df))  # fmt: skip
    found = _quantiles(law)
    for level in (0, 20, 99, 150, 198):
        assert np.abs(law.cdf(found[:, level]) - _QUANTILES[level]).max() < 2e-3


def test_laws_beyond_the_range_of_a_transformation_have_scores():
    units = Units(Scaling((1.0,), (1.0,), (), (), (0.5,)), (1.0,))
    law = Predictive.gaussian(np.array([[0.0]]), np.array([[1e4]]))
    found = score(law, np.array([[0.5]]), units=units)
    assert all(np.isfinite(x).all() for x in found)
    paths = np.array([-1e3, 0.0, 1e3, 1e200])[None, :, None, None]
    assert not any(np.isnan(x).any() for x in score_paths(paths, np.zeros((1, 1, 1)), units))


# ------------------------------------------------------------------------------ comparisons

CHEAP = ("persistence", "seasonal_naive", "autoregression")


def compared(y, transform="auto", models=CHEAP, **options):
    series = Series("s", y.reshape(len(y), -1), np.arange(len(y)), ("y",), "", None, 12)
    return compare_models(series, models, transform=transform, progress=False, **options)


def test_passengers_are_inside_the_intervals():
    before, found = (compared(PASSENGERS, transform) for transform in ("none", "auto"))
    assert found.split.scaling.power == (0.0,)
    assert found.split.transformation == "the logarithm of y"
    assert found.to_frame().attrs["power"] == {"y": 0.0}
    scores = {}
    for comparison in (before, found):
        for result in comparison.results:
            scores.setdefault(result.name, []).append(result.scores)
    for name, level in (("persistence", 0.395), ("autoregression", 0.279)):
        old, new = scores[name]
        assert old.coverage(0.8) == pytest.approx(level, abs=0.03) and new.coverage(0.8) > 0.7
        assert new.log_density.mean() > old.log_density.mean() + 1
        assert new.summary()["crps"] < old.summary()["crps"]


def test_scores_are_those_of_the_values_whatever_the_models_see():
    x = 0.3 * autoregressive(1, 120)
    y = np.exp(x)
    as_logs, of_logs = compared(y, "log", horizon=3), compared(x, "none", horizon=3)
    split = of_logs.split
    held_out = slice(split.num_train, None)
    gain = np.log(np.std(y[: split.num_train])) - np.log(split.scaling.scale[0]) - x[held_out]
    for one, other in zip(as_logs.results, of_logs.results, strict=True):
        assert one.name == other.name
        found = one.scores.log_density
        np.testing.assert_allclose(found, other.scores.log_density + gain, rtol=1e-8)
        np.testing.assert_allclose(one.scores.pit, other.scores.pit, rtol=1e-8)
        assert one.paths.summary()["path_coverage_80"] == other.paths.summary()["path_coverage_80"]
        assert not np.isclose(one.paths.crps, other.paths.crps).any()
    first, second = (compared(c * y, "log").results[0].scores for c in (1.0, 50.0))
    for a, b in zip(first, second, strict=True):  # nor do units matter
        np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-9)


def test_where_nothing_is_chosen_nothing_changes():
    y = 20 + autoregressive(0, 120)
    one, other = (compared(y, transform, horizon=3) for transform in ("auto", "none"))
    assert one.split.units is None and one.split.transformation == ""
    for a, b in zip(one.results, other.results, strict=True):
        assert a.name == b.name
        for x, z in ((a.scores, b.scores), (a.paths, b.paths)):
            assert all(np.array_equal(u, v) for u, v in zip(x, z, strict=True))


def test_held_out_values_choose_nothing_and_must_be_possible():
    walk = np.exp(np.cumsum(0.1 * np.random.default_rng(0).normal(size=200)))
    series = Series("walk", walk[:, None], np.arange(200), ("y",), "")
    assert train_test_split(series).scaling.power == (1.0,)  # unless it is asked for
    split = train_test_split(series, transform="auto")
    other = walk.copy()
    other[140:] = 5 + 0.01 * np.arange(60)
    changed = dataclasses.replace(series, values=other[:, None])
    assert train_test_split(changed, transform="auto").scaling == split.scaling
    other[160] = -1.0
    for transform in ("auto", "log", 0.5, "box-cox"):
        with pytest.raises(ValueError, match=r"positive values in column 'y', got -1.0 at step 16"):
            ssmlin.compare(pd.DataFrame({"y": other}), models=CHEAP[:1], transform=transform,
                           progress=False)  # fmt: skip
    table = ssmlin.compare(other, models=CHEAP[:1], transform="none", progress=False)
    assert np.isfinite(table.log_density[0])
    # A training value that is not positive says itself that nothing can be transformed.
    other[10] = 0.0
    table = ssmlin.compare(other, models=CHEAP[:1], progress=False)
    assert table.attrs["power"] == {"y0": 1.0}


def test_an_average_and_series_together_are_scored_alike():
    found = compared(PASSENGERS, "auto", CHEAP[:1], horizon=2)
    one = found.results[0]
    whole = average([one, one], found.split, 2)
    np.testing.assert_allclose(whole.scores.log_density, one.scores.log_density, rtol=1e-9)
    np.testing.assert_allclose(whole.scores.crps, one.scores.crps, rtol=1e-3)
    assert whole.paths.crps.mean() == pytest.approx(one.paths.crps.mean(), rel=0.1)
    line = Series("line", 20 + autoregressive(0, 90)[:, None], np.arange(90), ("y",), "")
    air = Series("air", PASSENGERS[:, None], np.arange(144), ("y",), "", None, 12)
    table = pooled_frame(compare_series([line, air], CHEAP[:1], progress=False))
    assert table.attrs["power"] == {"line": {"y": 1.0}, "air": {"y": 0.0}}


def test_files_of_results_know_the_units(tmp_path):
    data, units = Observed.of(np.zeros((9, 1))), logged()[0]
    other = dataclasses.replace(units, spread=(5.0,))
    paths = {
        ResultFolder(tmp_path).path("s", Candidate("f", average), data, 5, x)
        for x in (None, units, other)
    }
    assert len(paths) == 3
