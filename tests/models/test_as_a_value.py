"""Models are values: they do not change, and equal ones are the same."""

import copy
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ssmlin
from ssmlin import learning

T = 12


def make(**options):
    return ssmlin.LinearAttentionSSM("bayesian_memory", 1, 1, 2, **{"num_lags": 1} | options)


def test_a_model_does_not_change_once_it_is_made():
    model = make()
    for name in ("key_dim", "mechanism", "new"):
        with pytest.raises(AttributeError, match=f"{name}: expected no change of a model once"):
            setattr(model, name, 5)
    with pytest.raises(AttributeError, match="key_dim: expected no change"):
        del model.key_dim
    with pytest.raises(AttributeError, match="num_lags"):
        copy.deepcopy(model).num_lags = 2
    assert model.key_dim == 2 and not hasattr(model, "new")


def test_models_of_equal_settings_are_one_to_a_compiled_program():
    prior = ssmlin.ShrinkagePrior(process_noise=[0.01, 1], series_variance=jnp.asarray(2.0))
    same = make(prior=prior), make(prior=ssmlin.ShrinkagePrior(process_noise=(0.01, 1.0),
                                                               series_variance=2.0))  # fmt: skip
    assert same[0] == same[1] == pickle.loads(pickle.dumps(same[0])) == copy.copy(same[1])
    assert len(set(same)) == 1
    assert len({model.given_missing(jnp.zeros((3, 1))) for model in same}) == 1
    others = [make(), make(row_cov="full"), make(num_lags=0), make(row_cov="integrated_diagonal"),
              make(covariance="diagonal")]  # fmt: skip
    assert len({*same, *others}) == 6 and make() != "a model"
    traced = []

    def program(model, x):
        traced.append(model)
        return x

    compiled = jax.jit(program, static_argnums=0)
    for model in (*same, *others):
        compiled(model, 1.0)
    assert len(traced) == 6


def test_inputs_by_position_are_the_emissions_before_the_first():
    y = jnp.arange(3.0)[:, None]
    u = make(num_lags=1).compute_inputs(y, jnp.asarray([[7.0]]))
    np.testing.assert_array_equal(u, [[7.0], [0.0], [1.0]])
    with pytest.raises(TypeError):
        make().compute_inputs(y, None, jnp.ones((3, 1)))


def test_parameters_are_given_by_name():
    model = make(gates="constant", row_cov="full")
    params, _ = model.initialize(
        jax.random.key(0), "prior", alpha=0.5, initial_mean=None, row_cov=[[2.0]],
        process_noise=0.0, emissions=jnp.ones((3, 1)), inputs=jnp.ones((3, 1)),
    )  # fmt: skip
    expected, _ = model.initialize(jax.random.key(0))
    assert params.tokens.alpha.value == 0.5 and params.process_noise.scale == 0
    np.testing.assert_array_equal(params.row_cov.covariance, [[2.0]])
    np.testing.assert_array_equal(params.initial.mean, expected.initial.mean)
    np.testing.assert_array_equal(params.regression.bias, expected.regression.bias)
    for wrong, message in (
        ({"alpha": 1.5}, "alpha: expected a value in its range, got 1.5"),
        ({"alpha": jnp.ones(2)}, r"alpha: expected shape \(\), got \(2,\)"),
        ({"row_cov": [[-1.0]]}, "row_cov: expected a value in its range"),
        ({"regression_bias": [float("nan")]}, "regression_bias: expected finite"),
    ):
        with pytest.raises(ValueError, match=message):
            model.initialize(**wrong)
    with pytest.raises(TypeError, match="dynamics_weights: expected a parameter of this model"):
        model.initialize(dynamics_weights=jnp.eye(2))
    with pytest.raises(ValueError, match="method: expected one of"):
        model.initialize(method="kmeans")


@pytest.fixture(scope="module")
def fitted():
    model = make(gates="constant")
    y = jnp.asarray(np.random.default_rng(0).normal(size=(2, T, 1)))
    u = jax.vmap(model.compute_inputs)(y)
    params, props = model.initialize(emissions=y, inputs=u)
    return model, params, props, y, u


def test_em_under_vmap_and_as_a_function(fitted):
    """As dynamax's, which is compiled as one program without a bar; and without the method."""
    model, params, props, y, u = fitted
    run = jax.jit(jax.vmap(lambda y, u: model.fit_em(params, props, y, u, 2, False,
                                                     gradient_steps=0)))  # fmt: skip
    _, log_probs = run(y, u)
    for i in range(2):
        _, expected = learning.fit_em(
            model, params, props, y[i : i + 1], u[i : i + 1], 2, gradient_steps=0, progress=False
        )
        np.testing.assert_allclose(log_probs[i], expected, rtol=1e-9)
    whole = model.log_prior(params) + model.marginal_log_prob(params, y[0], u[0])
    np.testing.assert_allclose(log_probs[0, 0], whole, rtol=1e-9)
    integrated = make(row_cov="integrated_diagonal")
    with pytest.raises(ValueError, match="row_cov: expected one that is not integrated out"):
        learning.fit_em(integrated, params, props, y, u, progress=False)


def test_forecast_under_jit(fitted):
    model, params, _, y, u = fitted

    def forecast(y, levels):
        return model.forecast(params, y, u[0], 2, num_samples=7, levels=levels)

    expected = forecast(y[0], (0.5, 0.9))
    for found in (
        jax.jit(lambda y: forecast(y, (0.5, 0.9)))(y[0]),
        jax.jit(forecast)(y[0], jnp.asarray([0.5, 0.9])),
    ):
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9)
    with pytest.raises(ValueError, match="levels: expected numbers in"):
        jax.eval_shape(lambda y: forecast(y, (0.5, 1.5)), y[0])


def test_what_depends_on_values_says_so_under_a_trace(fitted):
    model, params, props, y, u = fitted
    with pytest.raises(TypeError, match="emissions: expected an array of known values"):
        jax.eval_shape(lambda y: model.fit_sgd(params, props, y, u, progress=False)[0], y)
    posterior = model.filter(params, y[0], u[0], store="loglik")
    prior = ssmlin.RowCovLaw(jnp.asarray([3.0]), jnp.asarray([1.0]))
    with pytest.raises(TypeError, match="discount: expected a number"):
        jax.eval_shape(
            lambda x: ssmlin.integrate_row_cov(posterior, y[0], prior, discount=x), jnp.asarray(0.9)
        )
