"""dynamax's interface: the same arguments in the same places, and every difference documented."""

import inspect
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dynamax.hidden_markov_model import LinearAutoregressiveHMM
from dynamax.linear_gaussian_ssm import LinearGaussianSSM
from dynamax.ssm import SSM

import ssmlin

pytestmark = pytest.mark.quick

T, M, D = 6, 2, 2
CONVENTIONS = Path(__file__).parents[2] / "docs" / "conventions.md"
#: Methods of dynamax's that do not take the same arguments, or are not there, in ours.
DIFFERENT = {"forecast", "e_step", "m_step", "initialize_m_step_state"}


def public(kind):
    functions = inspect.getmembers(kind, inspect.isfunction)
    return {name: function for name, function in functions if not name.startswith("_")}


def by_position(function):
    parameters = inspect.signature(function).parameters.values()
    return [p.name for p in parameters if p.kind == p.POSITIONAL_OR_KEYWORD]


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        (SSM, None),
        (LinearGaussianSSM, sorted(public(LinearGaussianSSM).keys() - {"initialize"})),
        (LinearAutoregressiveHMM, ["compute_inputs"]),
    ],
)
def test_positions_of_arguments_are_dynamaxs(kind, names):
    theirs = public(kind)
    for name in theirs if names is None else names:
        if name in DIFFERENT:
            continue
        ours = by_position(getattr(ssmlin.LinearAttentionSSM, name))
        expected = by_position(theirs[name])
        assert ours[: len(expected)] == expected, name


def test_a_start_has_a_key_a_method_and_parameters_by_name():
    theirs = by_position(LinearAutoregressiveHMM.initialize)
    ours = by_position(ssmlin.LinearAttentionSSM.initialize)
    assert ours == theirs[:3] == ["self", "key", "method"]


def test_every_difference_is_in_the_conventions():
    text = CONVENTIONS.read_text()
    for name in DIFFERENT:
        assert f"`{name}`" in text, name


@pytest.fixture(scope="module")
def case():
    """A model whose operators do not change over time, as dynamax's own model has them."""
    model = ssmlin.LinearAttentionSSM("mamba2", M, 0, D, row_cov="diagonal")
    y = jnp.asarray(np.random.default_rng(0).normal(size=(T, M)))
    params, props = model.initialize(jax.random.key(0), emissions=y, process_noise=0.3)
    values = params.tokens.values._replace(bias=jnp.asarray([0.5, -0.3]))
    return model, params._replace(tokens=params.tokens._replace(values=values)), props, y


def test_posterior_predictive_is_dynamaxs(case):
    model, params, _, y = case
    dense = model.to_lgssm(params, num_timesteps=T).to_dynamax()
    static = dense._replace(
        dynamics=jax.tree.map(lambda x: x[0], dense.dynamics)._replace(
            input_weights=jnp.zeros((M * D, 0))
        ),
        emissions=jax.tree.map(lambda x: x[0], dense.emissions)._replace(
            input_weights=jnp.zeros((M, 0))
        ),
    )
    expected = LinearGaussianSSM(M * D, M).posterior_predictive(static, y)
    found = model.posterior_predictive(params, y)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_posterior_predictive_interpolates_single_entries(case):
    model, params, _, y = case
    y = y.at[2, 0].set(jnp.nan).at[4].set(jnp.nan)
    dense = model.to_lgssm(params, num_timesteps=T).to_dynamax()
    posterior = ssmlin.lgssm_smoother(dense, y)
    h, c, r = dense.emissions.weights, dense.emissions.bias, dense.emissions.cov
    means = jnp.einsum("tij,tj->ti", h, posterior.smoothed_means) + c
    covariances = h @ posterior.smoothed_covariances @ h.mT + r
    found = model.posterior_predictive(params, y)
    np.testing.assert_allclose(found[0], means, rtol=1e-8)
    np.testing.assert_allclose(
        found[1] ** 2, jnp.diagonal(covariances, axis1=1, axis2=2), rtol=1e-8
    )


def test_what_has_another_order_or_is_not_there_says_so(case):
    model, params, _, y = case
    with pytest.raises(ValueError, match="inputs: expected an array or None, got 3; the order"):
        model.forecast(params, y, 3)
    with pytest.raises(NotImplementedError):
        model.e_step(params, y)
    with pytest.raises(NotImplementedError):
        model.m_step(params, None, None, None)
