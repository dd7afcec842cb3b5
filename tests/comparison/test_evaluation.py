"""Baselines against their libraries' own numbers, and the comparison's honesty."""

import dataclasses
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiers import cases

import ssmlin
from ssmlin.comparison import (
    Candidate,
    EvaluationOptions,
    compare_models,
    compare_series,
    evaluate,
    grid,
)
from ssmlin.comparison._split import train_test_split
from ssmlin.comparison.baselines._attention_regression import fit_attention_regression
from ssmlin.comparison.baselines._attention_variants import ATTENTIONS
from ssmlin.comparison.baselines._autoregression import fit_autoregression
from ssmlin.comparison.baselines._hmm_models import fit_arhmm, fit_gaussian_hmm
from ssmlin.comparison.baselines._lds_model import fit_lds
from ssmlin.comparison.baselines._naive import fit_naive
from ssmlin.comparison.baselines._statsmodels_models import fit_sarimax, fit_unobserved_components
from ssmlin.data import Series
from ssmlin.demonstration import load_macro, load_sunspots
from ssmlin.demonstration._datasets import DATASETS
from ssmlin.forecasting import (
    Ahead,
    Fitted,
    Observed,
    Predictive,
    choose_num_lags,
    fit_attention,
    lags_and_inputs,
)


@pytest.fixture(scope="module")
def wave():
    rng = np.random.default_rng(1)
    phase = np.arange(60)[:, None] * 0.6 + np.array([0.0, 1.0])
    return np.sin(phase) + 0.3 * rng.normal(size=(60, 2))


@pytest.fixture(scope="module")
def driven(wave):
    """The wave with an input."""
    return Observed(wave, np.random.default_rng(5).normal(size=(60, 1)))


@pytest.mark.parametrize("num_lags", [1, 3])
def test_autoregression_against_statsmodels(wave, num_lags):
    from statsmodels.tsa.api import VAR

    fitted = fit_autoregression(Observed.of(wave[:45]), 0, num_lags=num_lags)
    theirs = VAR(wave[:45]).fit(num_lags, trend="c")
    law = fitted.predict(Observed.of(wave))
    for t in range(45, 60):
        mean = theirs.forecast(wave[:t], 1)[0]
        np.testing.assert_allclose(law.mean[t], mean, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(law.scales[50, 0], theirs.sigma_u, rtol=1e-9)
    assert fitted.num_parameters == 2 * (2 * num_lags + 1) + 3


def test_autoregression_leaves_out_what_is_missing():
    rng = np.random.default_rng(0)
    y, u = np.zeros((300, 1)), rng.normal(size=(300, 1))
    for t in range(1, 300):
        y[t] = 0.6 * y[t - 1] + 2 * u[t] + 0.1 * rng.normal()
    y[50:60] = np.nan
    found = fit_autoregression(Observed(y[:280], u[:280]), 0, num_lags=1)
    law = found.predict(Observed(y, u))
    np.testing.assert_allclose(law.mean[285:], 0.6 * y[284:-1] + 2 * u[285:], atol=0.1)


@pytest.mark.parametrize("num_lags", [1, 3])
def test_lags_of_the_baselines_are_those_of_the_models(num_lags):
    rng = np.random.default_rng(0)
    y, u = rng.normal(size=(30, 2)), rng.normal(size=(30, 1))
    y[rng.uniform(size=y.shape) < 0.3] = np.nan
    y[:3, 0] = np.nan
    found = lags_and_inputs(Observed(y, u), num_lags)
    expected = ssmlin.lagged_inputs(jnp.asarray(y), num_lags)
    np.testing.assert_array_equal(found, np.column_stack([expected, u]))


def test_order_of_an_autoregression_is_found():
    rng = np.random.default_rng(0)
    y = np.zeros((400, 1))
    for t in range(3, 400):
        y[t] = 0.5 * y[t - 1] - 0.6 * y[t - 3] + rng.normal(size=1)
    assert choose_num_lags(Observed.of(y)) == 3
    assert choose_num_lags(Observed.of(rng.normal(size=(12, 3)))) == 0


ATTENTION = {"num_epochs": 20, "key_dim": 2, "num_lags": 1}
SETTINGS = {
    "persistence": (fit_naive, {}),
    "season": (fit_naive, {"period": 3}),
    "autoregression": (fit_autoregression, {"num_lags": 2}),
    "sarimax": (fit_sarimax, {"order": (1, 1, 1)}),
    "unobserved_components": (fit_unobserved_components, {"level": "llevel", "autoregressive": 1}),
    "hmm": (fit_gaussian_hmm, {"num_states": 2}),
    "arhmm": (fit_arhmm, {"num_states": 2, "num_lags": 1}),
    "lds": (fit_lds, {"state_dim": 2}),
    "gated_deltanet": (fit_attention, ATTENTION | {"mechanism": "gated_deltanet"}),
    "bayesian_memory": (
        fit_attention,
        {"mechanism": "bayesian_memory", "num_lags": 2, "num_epochs": 20, "discounts": (0.9,)},
    ),
    "gaussian": (
        fit_attention,
        ATTENTION | {"mechanism": "mamba2", "row_cov": "diagonal"},
    ),
} | {name: (fit_attention_regression, ATTENTION | {"attention": name}) for name in ATTENTIONS}


#: Not the baselines of dynamax, which have tests of their own, and one attention of each kind.
CORE = ("persistence", "season", "autoregression", "unobserved_components",
        "gated_deltanet", "softmax")  # fmt: skip


@pytest.mark.parametrize("name", cases(SETTINGS, *CORE))
@pytest.mark.float32
def test_a_step_is_predicted_from_earlier_ones_only(driven, name):
    fit, setting = SETTINGS[name]
    fitted = fit(driven.until(45), 0, **setting)
    assert not jax.config.read("jax_enable_x64")
    before = fitted.predict(driven)
    assert before.means.dtype == np.float64
    assert np.isfinite(before.log_prob(driven.values)[45:]).all()
    other = driven._replace(values=driven.values.copy())
    other.values[52] += 1.0
    after = fitted.predict(other)
    np.testing.assert_allclose(after.mean[45:53], before.mean[45:53], rtol=1e-5, atol=1e-6)
    later = 55 if name == "season" else 53
    assert np.abs(after.mean[later] - before.mean[later]).max() > 1e-4

    # So are paths, and what they begin with is the one-step law.
    ahead = Ahead(np.array([47, 52]), horizon=3, num_samples=2000, seed=1)
    paths = fitted.simulate(driven, ahead)
    assert paths.shape == (2, 2000, 3, 2)
    np.testing.assert_allclose(fitted.simulate(other, ahead), paths, rtol=1e-4, atol=1e-4)
    variances = np.einsum("tk,tkm->tm", before.weights, before.deviations**2 + before.means**2)
    variances = (variances - before.mean**2)[[47, 52]]
    if before.df is not None:
        df = before.df[[47, 52]]
        variances = variances * df / (df - 2)
    error = (paths[:, :, 0].mean(axis=1) - before.mean[[47, 52]]) / np.sqrt(variances / 2000)
    assert np.abs(error).max() < 5
    np.testing.assert_allclose(paths[:, :, 0].var(axis=1), variances, rtol=0.35)


def test_lds_em_stays_finite_where_covariances_are_nearly_singular():
    time = np.arange(120.0)[:, None]
    rng = np.random.default_rng(0)
    y = np.sin(0.55 * time) + 0.5 * np.sin(0.2 * time) + 0.1 * rng.normal(size=(120, 1))
    train, whole = Observed.of(y[:90]), Observed.of(y)
    lds, ar = fit_lds(train, 0, state_dim=6), fit_autoregression(train, 0, num_lags=1)
    ours, theirs = (f.predict(whole).log_prob(y)[90:].mean() for f in (lds, ar))
    assert ours > theirs


@pytest.mark.slow
def test_the_discount_follows_a_changing_variance():
    """Noise whose level jumps: the discounted law covers both parts, the constant one does not."""
    rng = np.random.default_rng(3)
    level = np.where(np.arange(240) % 80 < 40, 0.3, 2.0)[:, None]
    y = level * rng.normal(size=(240, 1))
    options = dict(mechanism="bayesian_memory", num_lags=1, num_epochs=10)
    train, whole = Observed.of(y[:160]), Observed.of(y)
    scores = {}
    for discounts in ((1.0,), (1.0, 0.9)):
        fitted = fit_attention(train, 0, discounts=discounts, **options)
        scores[discounts] = fitted.predict(whole).log_prob(y)[160:].mean()
    assert scores[1.0, 0.9] > scores[(1.0,)] + 0.1


# ---------------------------------------------------------------------- choosing and failing


def constant(train, seed, *, mean, fail=False):
    if fail:
        raise RuntimeError("made to fail")

    def predict(observed):
        return Predictive.gaussian(np.full_like(observed.values, mean), np.eye(1))

    return Fitted(predict, len(train.values))


NORMALIZER = -0.5 * np.log(2 * np.pi)


def test_settings_are_chosen_on_the_end_of_the_training_part():
    values = np.concatenate([np.zeros(40), np.full(10, 1.0), np.full(20, 5.0)])[:, None]
    choice = Candidate("c", constant, grid(mean=(0.0, 1.0, 5.0)))
    result = evaluate(choice, Observed.of(values), 50)
    assert result.setting == {"mean": 1.0} and result.num_parameters == 50
    np.testing.assert_allclose(result.log_density, -8.0 + NORMALIZER)
    np.testing.assert_allclose(result.rmse, 4.0)


def test_failures_are_reported_not_dropped():
    values = Observed.of(np.zeros((30, 1)))
    settings = grid(mean=(0.0, 1.0), fail=(True,))
    result = evaluate(Candidate("c", constant, settings), values, 20)
    assert result.failure == "RuntimeError: made to fail" and np.isnan(result.log_density)
    some = evaluate(Candidate("c", constant, (*settings, {"mean": 2.0})), values, 20)
    assert some.failure is None and some.setting == {"mean": 2.0}
    nan = evaluate(Candidate("c", constant, grid(mean=(np.nan,))), values, 20)
    assert "not finite" in nan.failure


def complaining(train, seed, *, mean):
    warnings.simplefilter("always")  # as statsmodels does when it is imported
    for _ in range(2):
        warnings.warn(f"no\nconvergence at {mean}", RuntimeWarning, stacklevel=1)
    warnings.warn("this will change", FutureWarning, stacklevel=1)
    return constant(train, seed, mean=mean)


def test_warnings_are_told_with_the_model_and_reach_nobody_raw(tmp_path, capfd):
    values = np.sin(np.arange(40.0))[:, None]
    series = Series("made up", values, np.arange(40), ("y",), "the test")
    models = [Candidate("loud", complaining, grid(mean=(9.0, 0.0))), Candidate("calm", fit_naive)]
    with warnings.catch_warnings(record=True) as caught:
        for _ in range(2):  # fitted, then from its file
            found = compare_models(series, models, checkpoint_dir=tmp_path, progress=False)
            table = found.to_frame().set_index("model")
            # Of the setting that was chosen.
            assert table.warnings["loud"] == "RuntimeWarning: no convergence at 0.0 (2 times)"
            assert table.warnings["calm"] == ""
    assert caught == [] and capfd.readouterr().err == ""


def test_names_of_models_and_series_are_different():
    series = Series("made up", np.sin(np.arange(40.0))[:, None], np.arange(40), ("y",), "")
    for name, others in (("persistence", ["persistence"]), ("average", ["average", "mamba2"])):
        with pytest.raises(ValueError, match=f"models of different names, got '{name}' twice"):
            compare_models(series, [*others, Candidate(name, fit_naive)], progress=False)
    with pytest.raises(ValueError, match="series of different names, got 'made up' twice"):
        compare_series([series, series], ["persistence"], progress=False)


def test_refits_see_all_steps_before_their_block():
    fitted_on = []

    def fit(train, seed):
        fitted_on.append(len(train.values))
        return constant(train, seed, mean=float(len(train.values)))

    options = EvaluationOptions(num_refits=2)
    result = evaluate(Candidate("c", fit), Observed.of(np.zeros((50, 1))), 20, options=options)
    assert fitted_on == [20, 30, 40]
    np.testing.assert_allclose(result.predictive.mean[:, 0], np.repeat([20.0, 30.0, 40.0], 10))


# ---------------------------------------------------------------------- comparing


def autoregressive(steps, seed=0):
    rng = np.random.default_rng(seed)
    y = np.zeros(steps)
    for t in range(1, steps):
        y[t] = 0.8 * y[t - 1] + rng.normal()
    return 3 + 10 * y


def test_comparison():
    import pandas as pd

    y = autoregressive(200)
    broken = Candidate("broken", constant, grid(mean=(0.0,), fail=(True,)))
    models = ["persistence", "autoregression", broken]
    table = ssmlin.compare(y, models=models, horizon=4, progress=False)
    assert list(table.model) == ["autoregression", "persistence", "broken"]
    assert table.failure[2] == "RuntimeError: made to fail" and np.isnan(table.log_density[2])
    assert (table.difference[0], table.difference_se[0]) == (0, 0)
    np.testing.assert_allclose(
        table.difference[1], table.log_density[1] - table.log_density[0], rtol=1e-9
    )
    assert 0 < table.path_crps[0] < table.path_crps[1]
    # Units do not matter, the seed says all, and DataFrames are taken.
    frame = pd.DataFrame({"level": 5 * y - 2})
    again = ssmlin.compare(frame, models=models, horizon=4, progress=False)
    for name in ("log_density", "crps", "path_crps"):
        np.testing.assert_allclose(again[name], table[name], rtol=1e-6)


def test_comparison_uses_inputs_and_leaves_out_missing_steps():
    rng = np.random.default_rng(0)
    u = rng.normal(size=150)
    y = 2 * u + 0.1 * rng.normal(size=150)
    y[[20, 130]] = np.nan
    models = ["autoregression", "persistence", "lds"]
    table = ssmlin.compare(y, u, models=models, progress=False).set_index("model")
    assert table.rmse["autoregression"] < 0.1 < table.rmse["persistence"]
    assert "no missing values" in table.failure["lds"]


def test_unseen_steps_change_no_fit():
    y = autoregressive(120)
    other = y.copy()
    other[-20:] = 0.0
    models = ["autoregression"]
    one, two = (
        compare_models(Series("s", x[:, None], np.arange(120), ("y",), ""), models, progress=False)
        for x in (y, other)
    )
    kept = slice(0, 16)
    np.testing.assert_array_equal(
        one.results[0].predictive.mean[kept], two.results[0].predictive.mean[kept]
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"models": ["hmmm"]}, "models: expected names among all, persistence.*got 'hmmm'"),
        ({"models": []}, "models: expected at least one"),
        ({"test_fraction": 1.5}, "test_fraction"),
        ({"horizon": 0}, "horizon"),
        ({"horizon": 100}, "horizon: expected at most the 30 held-out steps"),
        ({"num_refits": -1}, "num_refits"),
        ({"period": 1}, "period: expected an integer > 1"),
        ({"inputs": np.ones(7)}, "series.inputs: expected"),
        ({"emissions": ["a", "b"]}, "emissions: expected numbers"),
        ({"emissions": np.ones((3, 3, 3))}, "emissions: expected shape"),
        ({"emissions": np.ones(100)}, "varying columns"),
    ],
)
def test_bad_comparisons(change, message):
    arguments = {"emissions": autoregressive(100), "progress": False} | change
    with pytest.raises(ValueError, match=message):
        ssmlin.compare(**arguments)


# ---------------------------------------------------------------------- data


def made_up(values):
    values = np.asarray(values)
    columns = tuple(f"c{i}" for i in range(values.shape[-1]))
    return Series("made up", values, np.arange(len(values), dtype=float), columns, "the test")


def test_series():
    sunspots, macro = load_sunspots(), load_macro()
    assert sunspots.values.shape == (309, 1)
    # The highest yearly number is that of 1957, 190.2.
    assert sunspots.times[sunspots.values.argmax()] == 1957
    np.testing.assert_allclose(sunspots.values.max() ** 2, 190.2)
    assert macro.values.shape == (202, 5) and macro.times[0] == 1959.25
    np.testing.assert_allclose(macro.values[0, 0], 100 * np.log(2778.801 / 2710.349))


def test_standardisation_sees_the_training_part_only():
    values = np.random.default_rng(0).normal(3.0, 2.0, size=(40, 2))
    split = train_test_split(made_up(values), 0.25)
    assert (len(split.train.values), len(split.test)) == (30, 10)
    np.testing.assert_allclose(split.train.values.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(split.train.values.std(axis=0), 1, rtol=1e-12)
    other = values.copy()
    other[30:] = 1e6
    found = train_test_split(made_up(other), 0.25).train
    np.testing.assert_array_equal(found.values, split.train.values)


def test_bad_series():
    good = made_up(np.random.default_rng(0).normal(size=(20, 1)))
    for fraction in (0.0, 1.0, 0.01, 0.99):
        with pytest.raises(ValueError, match="test_fraction: expected"):
            train_test_split(good, fraction)
    for values, message in (
        (np.arange(10.0), r"series.values: expected an array of shape \(T, m\)"),
        (np.full((10, 1), np.nan), "series.values: expected an array"),
        (np.ones((10, 1)), "series.values: expected varying columns, got 'c0' constant"),
    ):
        with pytest.raises(ValueError, match=message):
            train_test_split(dataclasses.replace(good, values=values))

    with pytest.raises(ValueError, match="series.inputs: expected a finite array"):
        train_test_split(dataclasses.replace(good, inputs=np.full((20, 1), np.nan)))


@pytest.mark.parametrize("name", DATASETS)
def test_real_series_are_whole(name):
    series = DATASETS[name]()
    assert series.name == name and np.isfinite(series.values).all()
    assert len(series.values) == len(series.times) >= 100
    assert series.values.shape[1] == len(series.columns)
    assert (np.diff(series.times) > 0).all()
