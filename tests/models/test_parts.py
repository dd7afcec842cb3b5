"""Parts: values with an interface, made by name or as objects; own kinds; what cannot be."""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ssmlin
from ssmlin.learning import paths
from ssmlin.models import (
    PROCESS_NOISES,
    REGRESSIONS,
    ROW_COVS,
    Contribution,
    IntegratedRegression,
    IntegratedRowCov,
    IsotropicNoise,
    LearnedRegression,
    LearnedRowCov,
    Part,
    ScaledNoise,
    ShrinkagePrior,
)

pytestmark = pytest.mark.quick

T = 5


def make(**options):
    return ssmlin.LinearAttentionSSM("mamba2", 2, 1, 2, **options)


def test_parts_are_values_with_one_interface():
    kinds = [*PROCESS_NOISES.values(), *REGRESSIONS.values(), *ROW_COVS.values(), *make().parts]
    assert all(isinstance(part, Part) for part in kinds)
    assert len(set(kinds)) == len(kinds)
    for part in kinds:
        assert replace(part) == part and hash(replace(part)) == hash(part)


def test_a_name_is_the_part_with_its_defaults():
    named = make(process_noise="isotropic", row_cov="full", regression="integrated")
    given = make(
        process_noise=IsotropicNoise(), row_cov=LearnedRowCov("full"),
        regression=IntegratedRegression(),
    )  # fmt: skip
    assert named == given and hash(named) == hash(given)
    assert given.settings["row_cov"] == "full" and repr(named) == repr(given)
    one = make(row_cov=IntegratedRowCov("full", discount=0.9))
    again = ssmlin.LinearAttentionSSM(**one.settings)
    assert again == one and again.settings["row_cov"] == IntegratedRowCov("full", discount=0.9)


def test_the_prior_sets_what_a_part_leaves_open():
    prior = ShrinkagePrior(process_noise=(0.2, 1.0), skip_scale=3.0, series_variance=4.0)
    regression = LearnedRegression(scale=0.5)
    model = make(prior=prior, regression=regression, row_cov=IntegratedRowCov("full"))
    assert model.process_noise.prior == (0.2, 1.0)
    assert model.regression.scale == 0.5
    assert model.row_cov.series_variance == 4.0 and model.row_cov.noise_floor == prior.noise_floor
    params, _ = model.initialize()
    assert params.process_noise.scale == pytest.approx(0.2)
    assert model.prior_distributions(params)["regression.bias"].distribution.scale[0] == 0.5


@dataclass(frozen=True)
class DoubledNoise(ScaledNoise):
    """Q_t = 2 q I: all that a new kind has to say."""

    def contribute(self, params, inputs, sizes):
        return Contribution({"process_noise": 2 * params.scale})


def test_a_kind_of_noise_of_ones_own():
    own, known = make(process_noise=DoubledNoise()), make()
    y = jnp.asarray(np.random.default_rng(0).normal(size=(T, 2)))
    u = jnp.ones((T, 1))
    params, props = own.initialize(process_noise=0.3)
    doubled, _ = known.initialize(process_noise=0.6)
    np.testing.assert_allclose(
        own.marginal_log_prob(params, y, u), known.marginal_log_prob(doubled, y, u), rtol=1e-9
    )
    law = own.prior_distributions(params)["process_noise.scale"]
    shift = law.log_prob(jnp.asarray(0.3)) - law.log_prob(jnp.asarray(0.6))
    np.testing.assert_allclose(own.log_prior(params) - known.log_prior(doubled), shift, rtol=1e-6)
    assert props.process_noise.scale.trainable
    assert "process_noise.scale" in own.closed_form_blocks(params)[0]


def test_entries_that_are_missing_are_a_field_of_the_model():
    model = make()
    y = jnp.asarray(np.random.default_rng(0).normal(size=(T, 2))).at[2, 0].set(jnp.nan)
    u = jnp.ones((T, 1))
    params, _ = model.initialize()
    expected = model.log_predictive(params, y, u)
    given = model.given_missing(y)
    assert given.missing == "entries" and given != model
    np.testing.assert_array_equal(given.log_predictive(params, y, u), expected)
    # Under a trace the model says it, and a call may say otherwise.
    traced = jax.jit(lambda y: (given.log_predictive(params, y, u),
                                given.log_predictive(params, y, u, missing="rows")))(y)  # fmt: skip
    np.testing.assert_allclose(traced[0], expected, rtol=1e-9)
    assert traced[1][2] == 0 and expected[2] != 0
    assert given.initial_law(params).cov.shape == (2, 2, 2)
    assert model.given_missing(y.at[2].set(jnp.nan)).missing == "rows"


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"process_noise": "pink"}, ValueError, "process_noise: expected one of 'isotropic'"),
        ({"regression": 3}, TypeError, "regression: expected a name or a Regression, got 3"),
        ({"row_cov": IsotropicNoise()}, TypeError, "row_cov: expected a name or a RowCov"),
        ({"prior": {"skip_scale": 1.0}}, TypeError, "prior: expected a ShrinkagePrior or None"),
        ({"mechanism": "deltanet", "process_noise": "stationary"}, ValueError,
         "process_noise: expected another kind for 'deltanet', which has no decay"),
        ({"row_cov": "full", "missing": "entries"}, ValueError, "missing: expected 'rows'"),
        ({"covariance": "reset", "missing": "entries"}, ValueError, "missing: expected 'rows'"),
    ],
)  # fmt: skip
def test_combinations_that_make_no_sense(options, error, message):
    settings = {"mechanism": "mamba2", "emission_dim": 2} | options
    with pytest.raises(error, match=message):
        ssmlin.LinearAttentionSSM(**settings)


@pytest.mark.parametrize("row_cov", ["identity", "diagonal", "full", "integrated_full"])
@pytest.mark.parametrize("regression", ["learned", "integrated"])
def test_densities_of_priors_are_those_of_their_distributions(row_cov, regression):
    """Closed forms against TensorFlow Probability, for every kind of prior, and at the bounds."""
    options = dict(row_cov=row_cov, regression=regression, process_noise="diagonal")
    for negative in (False, True):
        model = make(negative_eigenvalues=negative, **options)
        params, _ = model.initialize(jax.random.key(2), alpha=0.7)
        laws = model.prior_distributions(params)
        expected = 0.0
        for path, x in zip(paths(params), jax.tree.leaves(params), strict=True):
            expected += laws[path].log_prob(x) if path in laws else 0.0
        np.testing.assert_allclose(model.log_prior(params), expected, rtol=1e-12)
        assert np.isfinite(model.log_prior(model.initialize(alpha=1.0)[0]))
