"""The parts of one-step predictions, against ridge regression and against the predictions."""

import jax.numpy as jnp
import numpy as np
import pytest

import ssmlin
from ssmlin.forecasting import (
    Ahead,
    FittedAttention,
    Observed,
    decompose,
    predictive,
    sample_paths,
    with_season,
)

RNG = np.random.default_rng(0)
STEPS, PERIOD = 24, 4
OBSERVED = Observed(RNG.normal(size=(STEPS, 2)), RNG.normal(size=(STEPS, 1)))


def attention(regression):
    """A memory that is written to, one lag of two columns, an input, and three harmonics."""
    model = ssmlin.LinearAttentionSSM(
        "mamba2", 2, 2 + 1 + 3, 2, num_lags=1, regression=regression, row_cov="identity"
    )
    params, _ = model.initialize()
    tokens = params.tokens
    values = tokens.values._replace(weights=jnp.asarray(RNG.normal(size=(2, 6)), jnp.float32))
    return model, params._replace(tokens=tokens._replace(values=values))


def test_an_integrated_regression_is_split_as_ridge_regression():
    model, params = attention("integrated")
    tokens = params.tokens
    silent = tokens.values._replace(weights=jnp.zeros_like(tokens.values.weights))
    still = params.regression._replace(noise=jnp.zeros(()), variance=jnp.asarray(0.5))
    params = params._replace(
        tokens=tokens._replace(values=silent),
        regression=still,
        initial=params.initial._replace(variances=jnp.full(2, 1e-9)),
        process_noise=params.process_noise._replace(scale=jnp.asarray(1e-9)),
    )
    parts = decompose(FittedAttention(model, params, PERIOD), OBSERVED)
    assert list(parts) == ["level", "lags", "inputs", "season", "memory"]
    y = OBSERVED.values
    inputs = with_season(OBSERVED, PERIOD).inputs
    lags = np.concatenate([np.zeros((1, 2)), y[:-1]])
    x = np.concatenate([lags, inputs, np.ones((STEPS, 1))], axis=1)
    noise = float(params.row_cov.noise)
    for t in range(2, STEPS):  # the first step is a lag alone
        seen = x[1:t]
        coefficients = np.linalg.solve(
            seen.T @ seen + noise / 0.5 * np.eye(x.shape[1]), seen.T @ y[1:t]
        )
        added = x[t][:, None] * coefficients
        for name, rows in {"lags": slice(2), "inputs": slice(2, 3), "season": slice(3, 6),
                           "level": slice(6, 7)}.items():  # fmt: skip
            np.testing.assert_allclose(parts[name][t], added[rows].sum(axis=0), atol=2e-4)
    np.testing.assert_allclose(parts["memory"], 0, atol=2e-4)


@pytest.mark.parametrize("regression", ["none", "learned"])
def test_parts_add_up_to_the_predictive_mean(regression):
    model, params = attention(regression)
    fit = FittedAttention(model, params, PERIOD)
    parts = decompose(fit, OBSERVED)
    mean = predictive(model, params, with_season(OBSERVED, PERIOD)).mean
    np.testing.assert_allclose(sum(parts.values()), mean, atol=1e-5)
    if regression == "none":
        assert list(parts) == ["memory"]
    assert np.abs(parts["memory"]).max() > 0.01


def test_missing_lags_are_refused():
    model, params = attention("none")
    gap = OBSERVED._replace(values=np.where(np.arange(STEPS)[:, None] == 5, np.nan, RNG.normal()))
    with pytest.raises(ValueError, match="observed: expected lags that are known"):
        decompose(FittedAttention(model, params, PERIOD), gap)


@pytest.mark.float32
def test_paths_of_a_model_without_lags_begin_at_its_predictions():
    model = ssmlin.LinearAttentionSSM("mamba2", 1, 1, 2, regression="learned", row_cov="identity")
    params, _ = model.initialize()
    weights = jnp.full_like(params.regression.weights, 3.0)
    params = params._replace(regression=params.regression._replace(weights=weights))
    observed, origins = Observed(OBSERVED.values[:, :1], OBSERVED.inputs), np.array([10, 20])
    paths = sample_paths(model, params, observed, Ahead(origins, 3, 2000))
    assert paths.shape == (2, 2000, 3, 1)
    law = predictive(model, params, observed)
    error = 4 * paths.std() / np.sqrt(2000)
    np.testing.assert_allclose(paths[:, :, 0].mean(axis=1), law.mean[origins], atol=error)
