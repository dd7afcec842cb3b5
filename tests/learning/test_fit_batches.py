"""Fits to batches where the answer has a closed form: ridge regression, badly conditioned."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dynamax.parameters import ParameterProperties

from ssmlin.learning import fit_batches, loss_curvature


class Weights(NamedTuple):
    weights: object


class Ridge:
    """Sequences of T values, each a regression with the same weights."""

    def __hash__(self):
        return 0

    def __eq__(self, other):
        return isinstance(other, Ridge)

    def log_prior(self, params):
        return -0.5 * jnp.sum(params.weights**2)

    def log_likelihoods(self, params, targets, regressors):
        return -0.5 * jnp.sum((targets - regressors @ params.weights) ** 2, axis=1)


@pytest.fixture(scope="module")
def problem():
    """Three batches of 4 sequences of 5 steps, with scales from one to a thousand."""
    rng = np.random.default_rng(0)
    scales = np.logspace(0, 3, 6)
    h = rng.normal(size=(3, 1, 4, 5, 6)) * scales
    y = h @ (rng.normal(size=6) / scales) + rng.normal(size=(3, 1, 4, 5))
    params, props = Weights(jax.device_put(np.zeros(6))), Weights(ParameterProperties())
    return params, props, list(zip(y, h, strict=True)), y.size


def test_the_curvature_is_that_of_the_loss(problem):
    params, props, batches, count = problem
    found = loss_curvature(Ridge(), params, props, batches, count)
    h = np.concatenate([h.reshape(-1, 6) for _, h in batches])
    expected = (h.T @ h + np.eye(6)) / count
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


def test_with_the_curvature_of_a_batch_few_steps_are_enough(problem):
    params, props, batches, count = problem
    h = np.concatenate([h.reshape(-1, 6) for _, h in batches])
    y = np.concatenate([y.ravel() for y, _ in batches])
    expected = np.linalg.solve(h.T @ h + np.eye(6), h.T @ y)
    curvature = loss_curvature(Ridge(), params, props, batches[:1], count // 3)
    steps = []
    for one in (None, curvature):
        found, fit = fit_batches(
            Ridge(), params, props, batches, count, num_steps=500, curvature=one, progress=False
        )
        steps.append(int(np.argmax(fit.losses < fit.losses[-1] + 1e-6)))
    # Of curvatures below 1e-4 of the largest nothing is believed.
    np.testing.assert_allclose(found.weights, expected, rtol=1e-3)
    assert steps[1] < steps[0]


def test_a_checkpoint_in_scaled_coordinates_goes_on(problem, tmp_path):
    params, props, batches, count = problem
    curvature = loss_curvature(Ridge(), params, props, batches[:1], count // 3)

    def fit(num_steps, folder):
        return fit_batches(
            Ridge(), params, props, batches, count, num_steps=num_steps, curvature=curvature,
            checkpoint_dir=folder, progress=False,
        )  # fmt: skip

    fit(3, tmp_path)
    found, resumed = fit(200, tmp_path)
    whole, once = fit(200, None)
    assert resumed.losses[:3].tolist() == once.losses[:3].tolist()
    assert abs(resumed.losses[-1] - once.losses[-1]) < 1e-6
