"""Fits of no data, of little, and of series of which some have none."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ssmlin
from ssmlin.learning import fit_em, fit_sgd
from ssmlin.models._parts import log_normal_mode, statistic

T, M = 12, 2


@pytest.fixture(scope="module")
def problem():
    model = ssmlin.LinearAttentionSSM("bayesian_memory", M, 1, 2, gates="constant")
    rng = np.random.default_rng(0)
    y, u = jnp.asarray(rng.normal(size=(2, T, M))), jnp.asarray(rng.normal(size=(2, T, 1)))
    return model, *model.initialize(), y, u


def test_no_data_is_refused(problem):
    model, params, props, y, u = problem
    nothing = jnp.full_like(y, jnp.nan)
    match = "emissions: expected at least one observed value to fit, got none"
    for fit in (model.fit_em, model.fit_sgd, partial(fit_em, model), partial(fit_sgd, model)):
        with pytest.raises(ValueError, match=match):
            fit(params, props, nothing, u, progress=False)
    with pytest.raises(ValueError, match=match):
        model.fit(nothing, u, progress=False)
    # Of the first four fifths.
    with pytest.raises(ValueError, match=match):
        model.fit_sgd(params, props, nothing.at[0, -1].set(1.0), u, progress=False)


@pytest.mark.parametrize("use_prior", [True, False])
def test_em_never_decreases_where_there_is_little(problem, use_prior):
    model, params, props, y, u = problem
    nothing = jnp.full_like(y, jnp.nan)
    for data in (
        y.at[1].set(jnp.nan).at[0, :, 1].set(jnp.nan),  # no second series, no second column
        nothing.at[0, 4, 0].set(1.0),  # a single value
        nothing.at[:, -1, 1].set(-1.0),
    ):
        found, log_probs = model.fit_em(
            params, props, data, u, 5, use_prior=use_prior, gradient_steps=0, progress=False
        )
        assert np.isfinite(log_probs).all() and np.diff(log_probs).min() > -1e-9
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(found))


@pytest.mark.float32
def test_a_scale_without_evidence_is_the_mode_of_its_prior():
    median, spread = 1e-3, 1.5
    nothing = jnp.zeros((), jnp.float32)
    moment = statistic(jnp.float32(0.3), nothing, nothing)
    found = log_normal_mode(moment, nothing, (median, spread))
    np.testing.assert_allclose(found, median * np.exp(-(spread**2)), rtol=1e-5)
    # Rounding that leaves no evidence, or less than none, does not end at zero.
    n = jnp.float32(50.0)
    found = statistic(jnp.float32(0.3), jnp.float32(-50 / 0.6 * 1.0001), n)
    assert 0 < found < 1e-5 and log_normal_mode(found, n, (median, spread)) > 0


def test_the_start_of_a_column_without_data_is_that_of_none(problem):
    model, _, _, y, u = problem
    model = ssmlin.LinearAttentionSSM(**model.settings | {
        "prior": ssmlin.ShrinkagePrior(series_variance=4.0)})  # fmt: skip
    start, _ = model.initialize()
    of_none, _ = model.initialize(emissions=jnp.full_like(y, jnp.nan), inputs=u)
    for a, b in zip(jax.tree.leaves(of_none), jax.tree.leaves(start), strict=True):
        np.testing.assert_allclose(a, b)
    one = jnp.full_like(y, jnp.nan).at[..., 0].set(y[..., 0])
    whole, _ = model.initialize(emissions=y, inputs=u)
    for column in (one, one.at[0, 3, 1].set(2.0)):
        found, _ = model.initialize(emissions=column, inputs=u)
        np.testing.assert_allclose(found.row_cov.covariance[0], whole.row_cov.covariance[0])
        np.testing.assert_allclose(found.row_cov.covariance[1], 4.0, rtol=1e-3)
    integrated = ssmlin.LinearAttentionSSM("mamba2", M, 1, 2, regression="integrated")
    (a, _), (b, _) = (
        integrated.initialize(emissions=e, inputs=i)
        for e, i in ((None, None), (jnp.full_like(y, jnp.nan), u))
    )
    for x, z in zip(a.regression, b.regression, strict=True):
        np.testing.assert_allclose(x, z)


def test_series_too_short_to_hold_anything_out_are_fitted(problem):
    """Of four steps a fifth is none, so padding at their end is all that is not fitted."""
    model, params, props, y, u = problem
    few = y.at[:, 4:].set(jnp.nan)
    fitted, history = model.fit_sgd(
        params, props, few, u, num_epochs=5, progress=False, return_history=True
    )
    np.testing.assert_allclose(history.scores, history.losses)
    assert history.best_epoch > 0 and history.losses[history.best_epoch] < history.losses[0]
    assert any((a != b).any() for a, b in zip(*map(jax.tree.leaves, (fitted, params)), strict=True))
