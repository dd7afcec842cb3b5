"""Baselines against dynamax's own numbers, and the comparison's honesty."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dynamax.hidden_markov_model import GaussianHMM, LinearAutoregressiveHMM
from dynamax.linear_gaussian_ssm import LinearGaussianSSM

from ssmlin.evaluation import (
    Fitted,
    Forecaster,
    OneStep,
    Series,
    evaluate,
    grid,
    load_macro,
    load_sunspots,
    train_test_split,
)
from ssmlin.evaluation.attention import fit_attention
from ssmlin.evaluation.baselines import (
    choose_num_lags,
    fit_arhmm,
    fit_autoregression,
    fit_gaussian_hmm,
    fit_lds,
    hmm_one_step,
    lds_one_step,
)


@pytest.fixture(scope="module")
def wave():
    rng = np.random.default_rng(1)
    phase = np.arange(60)[:, None] * 0.6 + np.array([0.0, 1.0])
    return np.sin(phase) + 0.3 * rng.normal(size=(60, 2))


def test_hmm_density_is_dynamaxs(wave):
    model = GaussianHMM(3, 2)
    y = jnp.asarray(wave)
    params, _ = model.initialize(jax.random.PRNGKey(0), method="kmeans", emissions=y)
    one_step = hmm_one_step(model, params, y)
    np.testing.assert_allclose(
        one_step.log_density.sum(), model.marginal_log_prob(params, y), rtol=1e-10
    )


def test_arhmm_density_is_dynamaxs_and_integrates_to_one(wave):
    model = LinearAutoregressiveHMM(2, 1, num_lags=2)
    y = jnp.asarray(wave[:12, :1])
    params, _ = model.initialize(jax.random.PRNGKey(0))
    u = model.compute_inputs(y)
    one_step = hmm_one_step(model, params, y, u)
    np.testing.assert_allclose(
        one_step.log_density.sum(), model.marginal_log_prob(params, y, u), rtol=1e-10
    )
    points = np.linspace(-8, 8, 81)
    # The last row takes every value of the grid, given the same earlier rows.
    density = np.exp(
        [hmm_one_step(model, params, y.at[-1, 0].set(x), u).log_density[-1] for x in points]
    )
    np.testing.assert_allclose(np.trapezoid(density, points), 1, rtol=1e-6)
    np.testing.assert_allclose(
        np.trapezoid(points * np.array(density), points), one_step.means[-1, 0], rtol=1e-6
    )


def test_lds_density_is_dynamaxs(wave):
    model = LinearGaussianSSM(3, 2)
    params, _ = model.initialize(jax.random.PRNGKey(3), dynamics_bias=jnp.array([0.1, -0.2, 0.3]))
    y = jnp.asarray(wave)
    np.testing.assert_allclose(
        lds_one_step(params, y).log_density.sum(), model.marginal_log_prob(params, y), rtol=1e-7
    )


@pytest.mark.parametrize("num_lags", [1, 3])
def test_autoregression_against_a_plain_loop(wave, num_lags):
    rows = [
        np.concatenate([*(wave[t - lag] for lag in range(1, num_lags + 1)), [1.0]])
        for t in range(num_lags, 60)
    ]
    design, targets = np.array(rows[: 45 - num_lags]), wave[num_lags:45]
    weights = np.linalg.solve(design.T @ design, design.T @ targets)
    errors = targets - design @ weights
    cov = errors.T @ errors / (len(errors) - 2 * num_lags - 1)
    fitted = fit_autoregression(wave[:45], 0, num_lags=num_lags)
    one_step = fitted.predict(wave)
    for row, y, mean, density in zip(
        rows[45 - num_lags :],
        wave[45:],
        one_step.means[45:],
        one_step.log_density[45:],
        strict=True,
    ):
        error = y - row @ weights
        np.testing.assert_allclose(mean, row @ weights, rtol=1e-9)
        expected = -0.5 * (
            error @ np.linalg.inv(cov) @ error + np.log(np.linalg.det(2 * np.pi * cov))
        )
        np.testing.assert_allclose(density, expected, rtol=1e-9)
    assert fitted.num_parameters == 2 * (2 * num_lags + 1) + 3


def test_order_of_an_autoregression_is_found():
    rng = np.random.default_rng(0)
    y = np.zeros((400, 1))
    for t in range(3, 400):
        y[t] = 0.5 * y[t - 1] - 0.6 * y[t - 3] + rng.normal(size=1)
    assert choose_num_lags(y) == 3
    assert choose_num_lags(rng.normal(size=(12, 3))) == 1


SETTINGS = {
    "autoregression": (fit_autoregression, {"num_lags": 2}),
    "hmm": (fit_gaussian_hmm, {"num_states": 2}),
    "arhmm": (fit_arhmm, {"num_states": 2, "num_lags": 1}),
    "lds": (fit_lds, {"state_dim": 2}),
    "gated_deltanet": (
        fit_attention,
        {"mechanism": "gated_deltanet", "num_lags": 1, "key_dim": 2, "num_epochs": 20},
    ),
    "bayesian_memory": (
        fit_attention,
        {"mechanism": "bayesian_memory", "num_lags": 2, "num_epochs": 20},
    ),
}


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.float32
def test_a_step_is_predicted_from_earlier_ones_only(wave, name):
    fit, setting = SETTINGS[name]
    fitted = fit(wave[:45], 0, **setting)
    assert not jax.config.read("jax_enable_x64")
    before = fitted.predict(wave)
    assert before.means.dtype == np.float64 and np.isfinite(before.log_density).all()
    other = wave.copy()
    other[52] += 1.0
    after = fitted.predict(other)
    np.testing.assert_allclose(after.means[:53], before.means[:53], rtol=1e-6)
    assert np.abs(after.means[53] - before.means[53]).max() > 1e-4


def test_lds_em_stays_finite_where_covariances_are_nearly_singular():
    time = np.arange(120.0)[:, None]
    rng = np.random.default_rng(0)
    y = np.sin(0.55 * time) + 0.5 * np.sin(0.2 * time) + 0.1 * rng.normal(size=(120, 1))
    lds, ar = fit_lds(y[:90], 0, state_dim=6), fit_autoregression(y[:90], 0, num_lags=1)
    assert lds.predict(y).log_density[90:].mean() > ar.predict(y).log_density[90:].mean()


# ---------------------------------------------------------------------- choosing and failing


def constant(train, seed, *, mean, fail=False):
    if fail:
        raise RuntimeError("made to fail")

    def predict(values):
        return OneStep(-0.5 * np.sum((values - mean) ** 2, axis=1), np.full_like(values, mean))

    return Fitted(predict, 1)


def test_settings_are_chosen_on_the_end_of_the_training_part():
    values = np.concatenate([np.zeros(40), np.full(10, 1.0), np.full(20, 5.0)])[:, None]
    result = evaluate(Forecaster("c", constant, grid(mean=(0.0, 1.0, 5.0))), values, 50)
    assert result.setting == {"mean": 1.0}
    np.testing.assert_allclose(result.log_density, -8.0)
    np.testing.assert_allclose(result.rmse, 4.0)


def test_failures_are_reported_not_dropped():
    values = np.zeros((30, 1))
    settings = grid(mean=(0.0, 1.0), fail=(True,))
    result = evaluate(Forecaster("c", constant, settings), values, 20)
    assert result.failure == "RuntimeError: made to fail" and np.isnan(result.log_density)
    some = evaluate(Forecaster("c", constant, (*settings, {"mean": 2.0})), values, 20)
    assert some.failure is None and some.setting == {"mean": 2.0}
    nan = evaluate(Forecaster("c", constant, grid(mean=(np.nan,))), values, 20)
    assert "not finite" in nan.failure


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
    assert (len(split.train), len(split.test)) == (30, 10)
    np.testing.assert_allclose(split.train.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(split.train.std(axis=0), 1, rtol=1e-12)
    other = values.copy()
    other[30:] = 1e6
    np.testing.assert_array_equal(train_test_split(made_up(other), 0.25).train, split.train)


def test_bad_series():
    good = made_up(np.random.default_rng(0).normal(size=(20, 1)))
    for fraction in (0.0, 1.0, 0.01, 0.99):
        with pytest.raises(ValueError, match="test_fraction: expected"):
            train_test_split(good, fraction)
    for values, message in (
        (np.arange(10.0), r"series.values: expected a finite array of shape \(T, m\)"),
        (np.full((10, 1), np.nan), "series.values: expected a finite array"),
        (np.ones((10, 1)), "series.values: expected varying columns, got 'c0' constant"),
    ):
        with pytest.raises(ValueError, match=message):
            train_test_split(dataclasses.replace(good, values=values))
