"""Fitting window by window, unequal lengths, and leave-future-out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ssmlin
from ssmlin.learning import fit_stream, leave_future_out, pointwise_log_likelihood


def problem(steps=240):
    rng = np.random.default_rng(0)
    y = np.zeros((steps, 1))
    for t in range(1, steps):
        y[t] = 0.8 * y[t - 1] + 0.3 * rng.normal()
    model = ssmlin.LinearAttentionSSM("bayesian_memory", 1, 1, 2, num_lags=1)
    y = jnp.asarray(y)
    u = model.compute_inputs(y)
    params, props = model.initialize(emissions=y[:40], inputs=u[:40])
    return model, params, props, y, u


def read(y, u, size):
    return lambda: ((y[i : i + size], u[i : i + size]) for i in range(0, len(y), size))


def test_predictions_before_the_first_step_are_those_of_one_filter():
    model, params, props, y, u = problem()
    _, found = fit_stream(model, params, props, read(y, u, 40), 6, 240, progress=False)
    whole = model.log_predictive(params, y, u)
    assert found[0, 0] == pytest.approx(float(whole[:40].sum()), rel=1e-9)
    assert found.shape == (1, 6) and np.isfinite(found).all()


def test_a_stream_reaches_what_fitting_in_memory_reaches():
    model, params, props, y, u = problem()
    found, _ = fit_stream(model, params, props, read(y, u, 40), 6, 240, num_epochs=60,
                          progress=False)  # fmt: skip
    whole, _ = model.fit_sgd(params, props, y, u, num_epochs=400, validation_fraction=0.0,
                             progress=False)  # fmt: skip

    def objective(params):
        return float(model.log_prior(params) + model.marginal_log_prob(params, y, u))

    assert objective(found) > objective(params) + 1
    assert objective(found) > objective(whole) - 2


class Stopped(Exception):
    pass


def test_a_stream_that_is_stopped_goes_on_and_ends_the_same(tmp_path, monkeypatch):
    model, params, props, y, u = problem()
    arguments = (model, params, props), (6, 240)
    monkeypatch.setattr("ssmlin.learning._checkpoint._SECONDS_BETWEEN", 0.0)

    def run(windows, folder=None):
        first, last = arguments
        return fit_stream(*first, windows, *last, num_epochs=2, checkpoint_dir=folder,
                          progress=False)  # fmt: skip

    calls = []

    def stops():
        calls.append(0)
        for number, window in enumerate(read(y, u, 40)()):
            if len(calls) == 2 and number == 3:
                raise Stopped
            yield window

    with pytest.raises(Stopped):
        run(stops, tmp_path)
    again, found = run(read(y, u, 40), tmp_path)
    whole, expected = run(read(y, u, 40))
    assert np.array_equal(found, expected)
    for x, z in zip(jax.tree.leaves(again), jax.tree.leaves(whole), strict=True):
        assert np.array_equal(x, z)
    with pytest.raises(ValueError, match="num_epochs"):
        fit_stream(*arguments[0], read(y, u, 40), *arguments[1], num_epochs=3,
                   checkpoint_dir=tmp_path, progress=False)  # fmt: skip


def test_windows_must_be_as_many_as_said_and_bad_ones_are_passed_over():
    model, params, props, y, u = problem()
    for number in (5, 7):
        with pytest.raises(ValueError, match="windows: expected"):
            fit_stream(model, params, props, read(y, u, 40), number, 240, progress=False)
    bad = u.at[50].set(jnp.inf)
    with pytest.warns(RuntimeWarning, match="1 windows had a loss"):
        found, _ = fit_stream(model, params, props, read(y, bad, 40), 6, 240, progress=False)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(found))


def test_series_of_unequal_length_are_judged_by_their_own_ends():
    model, params, props, y, u = problem(80)
    short = jnp.where(jnp.arange(80)[:, None] < 40, y, jnp.nan)
    both, inputs = jnp.stack([y, short]), jnp.stack([u, u])
    _, history = model.fit_sgd(params, props, both, inputs, num_epochs=1, progress=False,
                               return_history=True)  # fmt: skip
    terms = np.asarray(model.log_predictive(params, y, u))
    held_out = np.concatenate([terms[64:80], terms[32:40]])
    assert float(history.scores[0]) == pytest.approx(-held_out.mean(), rel=1e-9)
    fitted = terms[:64].sum() + terms[:32].sum() + float(model.log_prior(params))
    assert float(history.losses[0]) == pytest.approx(-fitted / 96, rel=1e-9)


def test_leave_future_out_is_the_sum_of_predictions_of_refits():
    model, params, props, y, u = problem(30)
    options = {"algorithm": "laplace", "num_samples": 40, "variables": "process_noise",
               "progress": False}  # fmt: skip
    key = jax.random.key(1)
    exact = leave_future_out(key, model, params, props, y, u, min_observations=26, method="exact",
                             **options)  # fmt: skip
    total = 0.0
    for t in range(26, 30):
        held = jnp.where(jnp.arange(30)[:, None] < t, y, jnp.nan)
        draws = ssmlin.sample_posterior(
            key, model, params, props, held, u, trajectories=False, **options
        )
        terms = pointwise_log_likelihood(model, params, draws, y, u).values[..., t]
        total += float(jax.nn.logsumexp(terms) - np.log(terms.size))
    assert exact.elpd == pytest.approx(total, rel=1e-6)
    quick = leave_future_out(key, model, params, props, y, u, min_observations=26, **options)
    assert quick.elpd == pytest.approx(exact.elpd, abs=0.5)
    with pytest.raises(ValueError, match="min_observations"):
        leave_future_out(key, model, params, props, y, u, min_observations=30, **options)
