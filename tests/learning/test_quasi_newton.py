"""L-BFGS: it reaches minima, leaves what is not finite, and fits reach the optimum by it."""

import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiers import slow

import ssmlin
from ssmlin import learning
from ssmlin.learning import lbfgs, minimise


def valley(x):
    """Rosenbrock's function, in a dictionary of two shapes."""
    x = jnp.concatenate([x["a"].ravel(), x["b"]])
    return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def test_the_minimum_is_reached_and_no_step_goes_up():
    start = {"a": jnp.full((2, 2), -1.0), "b": jnp.zeros(1)}
    x = minimise(valley, start, num_steps=200, tolerance=1e-9)
    np.testing.assert_allclose(jnp.concatenate([x["a"].ravel(), x["b"]]), 1.0, atol=1e-8)
    # Fewer steps end higher, and never above the start.
    values = [float(valley(minimise(valley, start, num_steps=n))) for n in (0, 1, 4, 16)]
    assert values[0] == float(valley(start)) and (np.diff(values) < 0).all()


def test_a_step_into_nothing_is_tried_again_shorter():
    """The first step, along the gradient, ends where the logarithm is not a number."""

    def loss(x):
        return jnp.sum(x - 1e-2 * jnp.log(x))

    x = minimise(loss, jnp.full(2, 0.3), num_steps=50, tolerance=1e-10)
    np.testing.assert_allclose(x, 1e-2, rtol=1e-6)
    bad = jnp.array([-1.0, 1.0])
    np.testing.assert_array_equal(minimise(loss, bad, num_steps=3), bad)


def test_an_update_needs_one_gradient_only():
    """The loss stands once in a program, which optax's own line search has three times."""

    def step(x, state):
        value, grad = jax.value_and_grad(lambda x: jnp.sum(jnp.tanh(x) ** 2))(x)
        updates, state = lbfgs().update(grad, state, x, value=value)
        return optax.apply_updates(x, updates), state

    x = jnp.ones(3)
    assert str(jax.make_jaxpr(step)(x, lbfgs().init(x))).count("tanh ") == 1


def drifting_regression(seed, steps, scale):
    """Coefficients that drift, inputs of unit variance."""
    rng = np.random.default_rng(seed)
    x, w, y = rng.normal(size=(steps, 2)), rng.normal(size=2), np.zeros((steps, 1))
    for t in range(steps):
        w = 0.98 * w + np.sqrt(0.05) * rng.normal(size=2)
        y[t] = w @ x[t] + 0.5 * rng.normal()
    return jnp.asarray(scale * y), jnp.asarray(x)


@pytest.mark.parametrize("scale", [slow(0.5), 4.0])
def test_the_recipe_reaches_the_optimum(scale):
    """On all steps, from the regression on; Adam's 500 steps end ten nats below it."""
    y, u = drifting_regression(0, 160, scale)
    model = ssmlin.LinearAttentionSSM("bayesian_memory", 1, 2, 2)
    start, props = model.initialize(emissions=y, inputs=u)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        params, history = model.fit(y, u, progress=False)
    assert history.converged and not history.stopped_early and len(history.losses) < 150
    _, log_probs = model.fit_em(start, props, y, u, 40, progress=False)
    reached = model.log_prior(params) + model.marginal_log_prob(params, y, u)
    assert reached > log_probs[-1] - 0.01


def test_a_limit_of_epochs_is_told_once():
    y, u = drifting_regression(1, 160, 1.0)
    model = ssmlin.LinearAttentionSSM("bayesian_memory", 1, 2, 2)
    with pytest.warns(RuntimeWarning, match="num_epochs: .* after 5 epochs; give") as caught:
        model.fit(y, u, num_epochs=5, progress=False)
    # It is about the caller's line, not about one of the package.
    package = str(Path(ssmlin.__file__).parent)
    assert len(caught) == 1 and not caught[0].filename.startswith(package)


def test_a_line_search_wants_all_the_data():
    y, u = drifting_regression(1, 20, 1.0)
    model = ssmlin.LinearAttentionSSM("bayesian_memory", 1, 2, 2)
    params, props = model.initialize()
    for options in ({"window_size": 5}, {"batch_size": 1}):
        ys, us = jnp.stack([y, y]), jnp.stack([u, u])
        with pytest.raises(ValueError, match="optimizer: expected one without a line search"):
            learning.fit_sgd(model, params, props, ys, us, lbfgs(), progress=False, **options)


def test_trainable_numbers_are_counted():
    model = ssmlin.LinearAttentionSSM("gated_deltanet", 2, 3, 4, gates="constant")
    params, props = model.initialize()
    # Keys, queries and values of three inputs and one; two gates; q, P_0, D and d, and Σ.
    expected = 4 * (4 + 4 + 2) + 2 + 1 + 4 + 2 * 4 + 2
    assert learning.num_trainable(params, props) == expected
    with pytest.raises(ValueError, match="props: expected properties matching the"):
        learning.num_trainable(params, props.tokens)
