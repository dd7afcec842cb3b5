"""Inputs of zero that a model is given more change nothing: neither its law nor its fit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dynamax.parameters import from_unconstrained, to_unconstrained
from tiers import cases

import ssmlin
from ssmlin.learning import carry_out, carry_out_together
from ssmlin.models import plan_fit, widened
from ssmlin.models._widening import narrowed


def series(seed, steps=24):
    rng = np.random.default_rng(seed)
    y = np.zeros((steps, 1))
    for t in range(2, steps):
        y[t] = 0.8 * y[t - 1] - 0.4 * y[t - 2] + rng.normal()
    return jnp.asarray(y)


def make(mechanism, num_lags):
    """As the recipe makes them: keys that are the inputs, or the weights integrated out."""
    writes = mechanism != "bayesian_memory"
    return ssmlin.LinearAttentionSSM(
        mechanism, 1, num_lags, 2 if writes else num_lags + 1, num_lags=num_lags,
        regression="integrated" if writes else "learned", row_cov="integrated_diagonal",
    )  # fmt: skip


MECHANISMS = cases(sorted(ssmlin.MECHANISMS), "bayesian_memory")


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_a_wide_model_is_the_same_model(mechanism):
    """Densities and gradients; what was added has none, so that no fit moves it."""
    model, y = make(mechanism, 2), series(0)
    u = model.compute_inputs(y)
    params, _ = model.initialize(jax.random.key(1), emissions=y, inputs=u)
    wide, more, v = widened(model, params, u, 5)
    assert wide.input_dim == 5 and v.shape == (24, 5) and wide.num_lags == 0

    def objective(model, u):
        def value(free):
            p = from_unconstrained(free, model.param_props)
            terms = model.log_predictive(p, y, u)
            return terms.sum() + model.log_prior(p), terms

        return jax.jit(jax.grad(value, has_aux=True))

    # Away from the start, where values are zero and many gradients with them.
    rng = np.random.default_rng(0)
    free = jax.tree.map(lambda x: x + 0.1 * rng.normal(size=x.shape), params_free(model, params))
    moved = from_unconstrained(free, model.param_props)
    wide, more, v = widened(model, moved, u, 5)
    one, terms = objective(model, u)(free)
    other, same = objective(wide, v)(params_free(wide, more))
    np.testing.assert_allclose(same, terms, rtol=1e-9, atol=1e-10)
    cut = narrowed(other, one)
    for a, b in zip(jax.tree.leaves(cut), jax.tree.leaves(one), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-9)
    for x, y in zip(jax.tree.leaves(other), jax.tree.leaves(one), strict=True):
        added = np.array(x)
        added[tuple(slice(n) for n in y.shape)] = 0.0
        if added.shape != (5 + 1, 5 + 1):  # the fixed basis of integrated weights
            np.testing.assert_allclose(added, 0.0, atol=1e-9)
    back = narrowed(more, moved)
    for a, b in zip(jax.tree.leaves(back), jax.tree.leaves(moved), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_regressor_of_one_stays_the_last():
    """Of weights that are integrated out: the same regressors, and zeros."""
    model, rng = make("gated_deltanet", 2), np.random.default_rng(0)
    params, _ = model.initialize()
    basis, u = rng.normal(size=(3, 3)), rng.normal(size=(4, 2))
    params = params._replace(regression=params.regression._replace(basis=jnp.asarray(basis)))
    _, more, v = widened(model, params, u, 4)
    ones = np.ones((4, 1))
    found = np.concatenate([v, ones], axis=1) @ np.asarray(more.regression.basis).T
    np.testing.assert_allclose(found[:, :3], np.concatenate([u, ones], axis=1) @ basis.T)
    np.testing.assert_array_equal(found[:, 3:], 0.0)


def params_free(model, params):
    return to_unconstrained(params, model.param_props)


@pytest.mark.slow
def test_fits_of_several_widths_and_lengths_are_those_by_themselves():
    """Together in one program, of which nothing is seen in what they find."""
    alone, plans = [], []
    for seed, (steps, num_lags) in enumerate(((24, 1), (20, 2), (24, 0))):
        model, y = make("bayesian_memory", num_lags), series(seed, steps)
        u = model.compute_inputs(y)
        alone.append(carry_out(plan_fit(model, y, u), "alone", progress=False))
        y = jnp.pad(y, ((0, 24 - steps), (0, 0)), constant_values=jnp.nan)
        u = jnp.pad(u, ((0, 24 - steps), (0, 0)))
        plans.append(plan_fit(model, y, u, input_dim=2))
    together = carry_out_together(plans, "together", progress=False)
    for (one, history), (two, other) in zip(alone, together, strict=True):
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)
        scores = (x.scores[x.best_epoch] for x in (history, other))
        np.testing.assert_allclose(*scores, rtol=1e-5)


def test_models_that_cannot_be_widened():
    model = make("bayesian_memory", 2)
    params, _ = model.initialize()
    with pytest.raises(ValueError, match="input_dim: expected at least 2, got 1"):
        widened(model, params, jnp.zeros((3, 2)), 1)
    model = ssmlin.LinearAttentionSSM(**model.settings | {"process_noise": "diagonal"})
    params, _ = model.initialize()
    with pytest.raises(ValueError, match="process_noise: expected one scale for all keys"):
        widened(model, params, jnp.zeros((3, 2)), 3)
