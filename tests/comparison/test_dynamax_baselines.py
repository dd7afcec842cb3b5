"""The HMMs and the LDS against dynamax, and how many programs they compile."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from dynamax.hidden_markov_model import (
    GaussianHMM,
    LinearAutoregressiveHMM,
    LinearRegressionHMM,
)
from dynamax.linear_gaussian_ssm import LinearGaussianSSM
from tiers import cases, slow

from ssmlin.comparison.baselines import _lds_model, _padding
from ssmlin.comparison.baselines._hmm_models import (
    fit_arhmm,
    fit_gaussian_hmm,
    switching_predictive,
)
from ssmlin.comparison.baselines._lds_fit import em_program, sgd_program
from ssmlin.comparison.baselines._lds_model import (
    fit_lds,
    lds_predictive,
    padded_series,
    resized,
)
from ssmlin.comparison.baselines._switching import (
    EmissionPrior,
    SwitchingParams,
    filter_states,
    fit_switching,
    gaussian_prior,
)
from ssmlin.forecasting import Observed


@pytest.fixture(scope="module")
def wave():
    rng = np.random.default_rng(1)
    phase = np.arange(60)[:, None] * 0.6 + np.array([0.0, 1.0])
    return np.sin(phase) + 0.3 * rng.normal(size=(60, 2))


def ours(params):
    """Parameters of a dynamax HMM as those of a switching regression."""
    emissions = params.emissions
    weights = (
        emissions.means[..., None]
        if hasattr(emissions, "means")
        else np.concatenate([emissions.weights, emissions.biases[..., None]], axis=-1)
    )
    return SwitchingParams(
        *(
            np.asarray(x)
            for x in (
                params.initial.probs,
                params.transitions.transition_matrix,
                weights,
                emissions.covs,
            )
        )
    )


def stacked(params):
    """One start."""
    return jax.tree.map(lambda x: np.asarray(x)[None], params)


def with_ones(u):
    return np.column_stack([u, np.ones(len(u))])


def assert_close(a, b, **tolerance):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, **tolerance)


# ------------------------------------------------------------------------------------- the HMMs


def test_hmm_density_and_filter_are_dynamaxs(wave):
    model = GaussianHMM(3, 2)
    y = jnp.asarray(wave)
    params, props = model.initialize(jax.random.PRNGKey(0), method="kmeans", emissions=y)
    law = switching_predictive(ours(params), wave, np.ones((60, 1)))
    np.testing.assert_allclose(
        law.log_prob(wave).sum(), jax.jit(model.marginal_log_prob)(params, y), rtol=1e-10
    )
    theirs = jax.jit(model.filter)(params, y)
    for slots in (1, 8):
        found = filter_states(ours(params), wave, np.ones((60, 1)), slots)
        np.testing.assert_allclose(found.filtered, theirs.filtered_probs, atol=1e-13)
        np.testing.assert_allclose(found.predicted, theirs.predicted_probs, atol=1e-13)


def test_arhmm_density_is_dynamaxs(wave):
    model = LinearAutoregressiveHMM(2, 1, num_lags=2)
    y = jnp.asarray(wave[:12, :1])
    params, _ = model.initialize(jax.random.PRNGKey(0))
    u = model.compute_inputs(y)
    law = switching_predictive(ours(params), np.asarray(y), with_ones(u))
    np.testing.assert_allclose(
        law.log_prob(np.asarray(y)).sum(),
        jax.jit(model.marginal_log_prob)(params, y, u),
        rtol=1e-10,
    )


@pytest.mark.parametrize("slots", [slow(1), 7])
def test_em_of_the_hmm_is_dynamaxs(wave, slots):
    model = GaussianHMM(3, 2)
    y = jnp.asarray(wave)
    params, props = model.initialize(jax.random.PRNGKey(2), method="kmeans", emissions=y)
    theirs, _ = model.fit_em(params, props, y, num_iters=20, verbose=False)
    found = fit_switching(
        stacked(ours(params)), wave, np.ones((60, 1)), gaussian_prior(2), 20, slots
    )
    assert_close(found, ours(theirs), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("slots", [slow(1), 7])
def test_em_of_the_arhmm_is_dynamaxs(wave, slots):
    model = LinearRegressionHMM(2, 3, 2)
    rng = np.random.default_rng(3)
    u = rng.normal(size=(60, 3))
    params, props = model.initialize(jax.random.PRNGKey(2))
    theirs, _ = model.fit_em(
        params, props, jnp.asarray(wave), jnp.asarray(u), num_iters=20, verbose=False
    )
    found = fit_switching(stacked(ours(params)), wave, with_ones(u), EmissionPrior(), 20, slots)
    assert_close(found, ours(theirs), rtol=1e-7, atol=1e-9)


def test_the_best_start_is_kept_and_none_is_an_error(wave):
    model = GaussianHMM(2, 2)
    y = jnp.asarray(wave)
    starts = [
        ours(model.initialize(jax.random.PRNGKey(i), method="kmeans", emissions=y)[0])
        for i in range(3)
    ]
    broken = starts[1]._replace(covs=np.full_like(starts[1].covs, np.nan))
    args = (wave, np.ones((60, 1)), gaussian_prior(2), 3)
    single = [fit_switching(stacked(one), *args) for one in (starts[0], starts[2])]
    scores = [switching_predictive(one, *args[:2]).log_prob(wave).sum() for one in single]
    three = jax.tree.map(lambda *x: np.stack(x), starts[0], broken, starts[2])
    assert_close(fit_switching(three, *args), single[int(np.argmax(scores))], rtol=1e-9)
    with pytest.raises(ArithmeticError, match="no start gave a finite likelihood"):
        fit_switching(stacked(broken), *args)


# -------------------------------------------------------------------------------------- the LDS


def lds(seed, dim, m, width):
    """A model of dynamax, parameters with inputs and a bias, and their properties."""
    model = LinearGaussianSSM(dim, m, width)
    rng = np.random.default_rng(seed)
    params, props = model.initialize(
        jax.random.PRNGKey(seed),
        dynamics_weights=jnp.asarray(0.9 * np.linalg.qr(rng.normal(size=(dim, dim)))[0]),
        dynamics_bias=jnp.asarray(0.2 * rng.normal(size=dim)),
        dynamics_input_weights=jnp.asarray(rng.normal(size=(dim, width))),
        emission_input_weights=jnp.asarray(rng.normal(size=(m, width))),
    )
    return model, params, props


@pytest.mark.parametrize("width", [0, 2])
def test_lds_density_is_dynamaxs(wave, width):
    model, params, _ = lds(3, 3, 2, width)
    u = np.random.default_rng(0).normal(size=(60, width))
    data = (wave, u) if width else (wave,)
    np.testing.assert_allclose(
        lds_predictive(params, wave, u).log_prob(wave).sum(),
        model.marginal_log_prob(params, *map(jnp.asarray, data)),
        rtol=1e-7,
    )


@pytest.mark.parametrize(("m", "width"), [slow(1, 0), (2, 2)])
def test_steps_of_the_lds_are_dynamaxs(wave, m, width):
    """Up to the 1e-9 that dynamax adds to what it solves with."""
    model, params, props = lds(4, 3, m, width)
    y, u = wave[:, :m], np.random.default_rng(0).normal(size=(60, width))
    data = tuple(map(jnp.asarray, (y, u) if width else (y,)))
    # One entry of the state is padded, which EM leaves at zero.
    starts, series = stacked(resized(params, 4)), padded_series(y, u)
    theirs, _ = model.fit_em(params, props, *data, num_iters=5, verbose=False)
    found, log_likelihood = em_program(starts, series, 5)
    assert_close(resized(found, 3), theirs, rtol=1e-5, atol=1e-6)
    assert_close(found, resized(resized(found, 3), 4), atol=0)
    np.testing.assert_allclose(log_likelihood, model.marginal_log_prob(theirs, *data), rtol=1e-5)
    theirs, _ = model.fit_sgd(params, props, *data, optimizer=optax.adam(1e-2), num_epochs=5)
    found, log_likelihood = sgd_program(stacked(params), series, 5)
    assert_close(found, theirs, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(log_likelihood, model.marginal_log_prob(theirs, *data), rtol=1e-5)


# ---------------------------------------------------------------------------------- the padding


FITS = {
    "hmm": (fit_gaussian_hmm, {"num_states": 2}),
    "arhmm": (fit_arhmm, {"num_states": 2, "num_lags": 1}),
    "lds": (fit_lds, {"state_dim": 2}),
    "lds, sgd": (fit_lds, {"state_dim": 2, "method": "sgd"}),
}


@pytest.mark.parametrize("name", cases(FITS, "arhmm", "lds"))
def test_padding_changes_nothing(wave, name, monkeypatch):
    fit, setting = FITS[name]
    y = wave[:, :1]
    series = Observed(y, np.random.default_rng(5).normal(size=(60, 1)))
    # Adam amplifies rounding: after 1000 epochs laws differ by a percent.
    monkeypatch.setattr(_lds_model, "_SGD_EPOCHS", 50)
    laws = []
    for shortest in (8, 100):
        monkeypatch.setattr(_padding, "_SHORTEST", shortest)
        laws.append(fit(series.until(45), 0, **setting).predict(series))
    np.testing.assert_allclose(*(law.log_prob(y) for law in laws), rtol=1e-5)


class Programs:
    """Counts what is compiled, or taken from the cache."""

    def __init__(self):
        self.count = 0

    def __call__(self, event, seconds, **_):
        self.count += event == "/jax/core/compile/backend_compile_duration"


@pytest.mark.parametrize("name", [slow("hmm"), "arhmm", "lds"])
def test_fits_share_programs(name):
    rng = np.random.default_rng(6)
    m = 3  # no other test has so many columns
    series = Observed.of(np.cumsum(rng.normal(size=(90, m)), axis=0) / 5)
    sizes = {
        "hmm": (fit_gaussian_hmm, [{"num_states": k} for k in (2, 4, 8)]),
        "arhmm": (
            fit_arhmm,
            [{"num_states": k, "num_lags": lags} for k in (2, 3) for lags in (1, 2)],
        ),
        "lds": (fit_lds, [{"state_dim": dim} for dim in (2, 4, 6)]),
    }
    fit, settings = sizes[name]
    programs = Programs()
    jax.monitoring.register_event_duration_secs_listener(programs)
    try:
        for setting in settings:
            for end in (60, 75):
                fit(series.until(end), 0, **setting).predict(series)
    finally:
        jax.monitoring.unregister_event_duration_listener(programs)
    assert 1 <= programs.count <= 3  # the filter is one, which other models share
