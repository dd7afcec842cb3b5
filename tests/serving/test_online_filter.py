"""The filter one step at a time against the filter of all steps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiers import cases

import ssmlin
from ssmlin.models import IntegratedRowCov, Particles
from ssmlin.serving._online_state import one_step

T, M, D = 12, 2, 2
CASES = {
    "full": {"row_cov": IntegratedRowCov("full", discount=0.9), "regression": "integrated"},
    "entries": {"row_cov": IntegratedRowCov(discount=0.9)},
    "entries given Σ": {},
    "identity": {"row_cov": "identity"},
    "approximate": {"row_cov": "integrated_diagonal", "covariance": "diagonal"},
    "reset": {"covariance": "reset"},
}  # fmt: skip


def per_case(*quick):
    return pytest.mark.parametrize("case", cases(CASES, *quick))


def make(case):
    """A model away from its start, and data of which some steps are missing."""
    model = ssmlin.LinearAttentionSSM("mamba2", M, 1, D, gates="constant", **CASES[case])
    rng = np.random.default_rng(0)
    y = rng.normal(size=(T, M)).cumsum(axis=0) * np.linspace(0.3, 1, T)[:, None]
    y[2] = y[7] = np.nan
    if case.startswith("entries"):
        y[5, 0] = np.nan
    u = rng.normal(size=(T, 1))
    params, _ = model.initialize(jax.random.key(1), process_noise=0.1)
    values = params.tokens.values
    values = values._replace(bias=values.bias + 0.7)
    return model, params._replace(tokens=params.tokens._replace(values=values)), y, u


def run(online, y, u, state=None):
    state, found = online.init() if state is None else state, []
    for emission, inputs in zip(y, u, strict=True):
        state, prediction = online.step(state, emission, inputs)
        found.append(prediction)
    return state, found


def close(a, b, tolerance=1e-9):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, tolerance, tolerance), a, b)


@per_case("entries")
def test_steps_are_the_numbers_of_the_batch_filter(case, tmp_path):
    model, params, y, u = make(case)
    seen = model.given_missing(jnp.asarray(y))
    lag = 5 if model.covariance == "full" else 0

    @jax.jit
    def batch(params):
        posterior = seen.filter(params, y, u)
        row_cov = None
        if model.row_cov.is_integrated:
            row_cov = seen.row_cov_posterior(params, posterior, y, store="all")
        return posterior, row_cov, seen.smoother(params, y, u) if lag else None

    posterior, row_cov, smoothed = batch(params)
    online = ssmlin.OnlineFilter(model, params, lag=lag)
    half, first = run(online, y[:6], u[:6])
    # Saved in the middle, and continued by another filter.
    online.save(tmp_path / "state", half)
    again = ssmlin.OnlineFilter(model, params, lag=lag)
    state, second = run(again, y[6:], u[6:], again.load(tmp_path / "state"))
    steps = first + second
    law = state.belief
    close(law.mean, posterior.filtered_means[-1])
    close(law.cov, posterior.filtered_covariances[-1])
    close([one.log_density for one in steps], list(posterior.log_predictive))
    close([one.mean for one in steps], list(posterior.emission_means))
    if row_cov is not None:
        close(law.row_cov, row_cov.row_cov)
        close([one.student_df for one in steps], list(row_cov.predictive_row_cov.student_df))
    if smoothed is not None:
        found = online.smooth(state)
        close(found.means, smoothed.smoothed_means[-5:])
        close(found.covariances, smoothed.smoothed_covariances[-5:])
        close(found.row_cov, smoothed.row_cov)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_forecasts_are_those_of_the_model(case):
    model, params, y, u = make(case)
    seen = model.given_missing(jnp.asarray(y))
    online = ssmlin.OnlineFilter(model, params)
    state, _ = run(online, y, u)
    many, laws = online.steps(online.init(), y, u)
    close(many.belief, state.belief)
    close(laws.log_density, seen.log_predictive(params, y, u))
    # The law of the next emission is what a forecast says of it.
    nothing = np.zeros((1, 1))
    ahead = seen.forecast(params, y, u, 1, future_inputs=nothing, levels=(0.8,))
    close(online.forecast(state, 1, future_inputs=nothing, levels=(0.8,)), ahead)
    lower, upper = online.predict(state, nothing[0]).intervals([0.8])
    close((lower, upper), (ahead.lower[:, 0], ahead.upper[:, 0]), 1e-5)
    close(online.predict(state, nothing[0]).covariance, ahead.covariances[0])


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_smoothing_goes_back_over_the_last_steps(case):
    model, params, y, u = make(case)
    if model.covariance != "full":
        with pytest.raises(ValueError, match="lag: expected 0"):
            ssmlin.OnlineFilter(model, params, lag=5)
        return
    seen = model.given_missing(jnp.asarray(y))
    online = ssmlin.OnlineFilter(model, params, lag=5)
    state, _ = run(online, y[:3], u[:3])  # fewer steps than it may go back
    found = online.smooth(state)
    close(found.means, seen.smoother(params, y[:3], u[:3]).smoothed_means)
    state, _ = run(online, y[3:], u[3:], state)
    found = online.smooth(state)
    means, deviations = seen.posterior_predictive(params, y, u)
    close((found.emission_means, found.emission_deviations), (means[-5:], deviations[-5:]))


def gappy():
    """A model with lags, data with gaps after the third step, and the particle filter of them."""
    model = ssmlin.LinearAttentionSSM(
        "bayesian_memory", 1, 2, 3, num_lags=1, row_cov=IntegratedRowCov(discount=0.9)
    )
    rng = np.random.default_rng(0)
    y = rng.normal(size=(T, 1)).cumsum(axis=0)
    outside = rng.normal(size=(T, 1))
    mask = np.arange(T) > 0  # the first step serves as a lag alone
    params, _ = model.initialize(jax.random.key(1))
    y[[3, 8]] = np.nan
    inputs = np.concatenate([model_lags(y), outside], axis=1)
    expected = model.particle_filter(params, y, inputs, num_particles=50, mask=mask)
    online = ssmlin.OnlineFilter(model, params, num_particles=50, lag=3)
    return online, y, outside, mask, expected


def test_missing_lags_are_drawn_as_the_particle_filter_draws_them():
    """With its key: the numbers are the same, and not only their law."""
    online, y, outside, mask, expected = gappy()
    state, laws = online.steps(online.init(), y, outside, mask=mask)
    close(state.belief, expected.last)
    close(laws.log_density, expected.log_predictive)
    close(laws.means, expected.emission_means)
    with pytest.raises(ValueError, match="without missing lags"):
        online.smooth(state)


@pytest.mark.slow
def test_draws_begin_where_a_lag_is_missing_for_the_first_time(tmp_path):
    online, y, outside, mask, expected = gappy()
    state = online.init()
    for t in range(T):
        assert isinstance(state.belief, Particles) == (t > 3)
        state, one = online.step(state, y[t], outside[t], mask=mask[t])
        close(one.log_density, expected.log_predictive[t])
        close(one.mean, np.exp(expected.log_weights[t]) @ expected.emission_means[t])
    close(state.belief, expected.last)
    online.save(tmp_path / "state", state)
    close(online.load(tmp_path / "state"), state, 0)
    ahead = online.forecast(state, 3, future_inputs=np.zeros((3, 1)))
    assert ahead.samples.shape == (1000, 3, 1) and np.isfinite(ahead.means).all()
    low, high = online.predict(state, np.zeros(1)).intervals([0.5, 0.9])
    drawn = np.quantile(np.asarray(ahead.samples[:, 0]), [0.25, 0.05, 0.75, 0.95], axis=0)
    close(np.concatenate([low, high]), drawn, 0.25)


def model_lags(y):
    return np.concatenate([np.zeros((1, 1)), y[:-1]])


@pytest.mark.slow
def test_a_model_with_lags_keeps_them_itself():
    model = ssmlin.LinearAttentionSSM("bayesian_memory", 1, 2, 3, num_lags=2)
    y = np.sin(np.arange(T))[:, None]
    u = model.compute_inputs(y)
    params, _ = model.initialize(jax.random.key(0), emissions=y, inputs=u)
    online = ssmlin.OnlineFilter(model, params)
    state, _ = run(online, y, np.zeros((T, 0)))
    close(state.belief.mean, model.filter(params, y, u).filtered_means[-1])
    expected = model.forecast(params, y, u, 4, num_samples=20)
    close(online.forecast(state, 4, num_samples=20), expected)


def test_what_does_not_fit_is_refused(tmp_path):
    model, params, y, u = make("full")
    online = ssmlin.OnlineFilter(model, params)
    state = online.init()
    with pytest.raises(ValueError, match="inputs: expected the exogenous inputs, of shape"):
        online.step(state, y[0])
    with pytest.raises(ValueError, match="emission: expected shape"):
        online.step(state, y[0, :1], u[0])
    with pytest.raises(ValueError, match="partly missing"):
        online.step(state, np.array([np.nan, 0.0]), u[0])
    with pytest.raises(ValueError, match="an infinity"):
        online.step(state, np.array([np.inf, 0.0]), u[0])
    online.save(tmp_path / "state", state)
    other = ssmlin.OnlineFilter(model, params._replace(initial=params.initial._replace(
        variances=2 * params.initial.variances)))  # fmt: skip
    with pytest.raises(ValueError, match="state: expected one of the filter"):
        other.load(tmp_path / "state")


def test_a_step_is_the_same_program_and_the_state_has_the_same_shapes():
    model, params, y, u = make("entries")
    online = ssmlin.OnlineFilter(model, params, lag=5)
    state, _ = run(online, y[:6], u[:6])
    shapes, compiled = jax.tree.map(jnp.shape, state), one_step._cache_size()
    state, _ = run(online, y[6:], u[6:], state)
    assert jax.tree.map(jnp.shape, state) == shapes
    assert one_step._cache_size() == compiled
