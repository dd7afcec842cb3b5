"""What the model reduces to: the delta rule, Longhorn, ridge regression."""

import jax.numpy as jnp
import numpy as np
import pytest

import ssmlin

T, D, M = 8, 3, 2


def memory_with_reset(keys, values, variance, noise, decay):
    """bayesian_memory whose P is set to `variance`·I before every write: one filter a step."""
    mean = jnp.zeros((M, D))
    states = []
    for k, v, a in zip(keys, values, decay, strict=True):
        # The covariance of the step's start is such that P⁻ = variance·I: it decays to zero
        # and the process noise puts it back.
        lgssm = ssmlin.matrix_lgssm(
            "bayesian_memory",
            keys=k[None],
            decay=a[None],
            initial_mean=mean,
            initial_cov=np.zeros((D, D)),
            process_noise=variance,
            emission_noise=noise,
        )
        mean = ssmlin.matrix_lgssm_filter(lgssm, v[None]).filtered_means[-1]
        states.append(mean)
    return np.stack(states)


@pytest.fixture(scope="module")
def tokens():
    rng = np.random.default_rng(0)
    keys, values = rng.normal(size=(T, D)), rng.normal(size=(T, M))
    return keys, values, rng.uniform(0.5, 1.0, size=(T, D)), rng.uniform(0.5, 1.0, size=T)


def rule(name, keys, values, **gates):
    return ssmlin.linear_attention(
        name, keys=keys, values=values, queries=keys, return_states=True, **gates
    )[1]


def test_covariance_reset_gives_the_delta_rule(tokens):
    keys, values, decay, alpha = tokens
    variance, noise = 0.7, 0.4
    length = np.sum(keys**2, axis=1)
    # β for unit keys: σ²‖k‖²/(σ²‖k‖² + r), and the value is v/‖k‖.
    beta = variance * length / (variance * length + noise)
    scaled = values / np.sqrt(length)[:, None]
    assert (beta < 1).all()
    ones = np.ones((T, D))
    for name, a, gates in (
        ("deltanet", ones, {}),
        ("gated_deltanet", alpha[:, None] * ones, {"alpha": alpha}),
        ("kda", decay, {"decay": decay}),
    ):
        reset = memory_with_reset(keys, values, variance, noise, a)
        expected = rule(name, keys, scaled, beta=beta, **gates)
        np.testing.assert_allclose(reset, expected, atol=1e-12, err_msg=name)


def test_covariance_reset_gives_longhorn(tokens):
    keys, values, _, alpha = tokens
    states = []
    for beta in (0.3, 0.9):
        reset = memory_with_reset(keys, values, 1.0, 1 / beta, np.ones((T, D)))
        np.testing.assert_allclose(reset, rule("longhorn", keys, values, beta=beta), atol=1e-12)
        states.append(reset)
    assert np.abs(states[0] - states[1]).max() > 1e-3


def test_static_memory_is_ridge_regression(tokens):
    keys, values, _, _ = tokens
    noise, ridge = 0.4, 1.7
    lgssm = ssmlin.matrix_lgssm(
        "bayesian_memory",
        keys=keys,
        alpha=1.0,
        value_dim=M,
        initial_cov=noise / ridge * np.eye(D),
        emission_noise=noise,
    )
    posterior = ssmlin.matrix_lgssm_filter(lgssm, values)
    gram = np.linalg.inv(keys.T @ keys + ridge * np.eye(D))
    np.testing.assert_allclose(posterior.filtered_means[-1], values.T @ keys @ gram, atol=1e-12)
    np.testing.assert_allclose(posterior.filtered_covariances[-1], noise * gram, atol=1e-12)
