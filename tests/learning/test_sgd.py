"""Fitting: any optimiser, early stopping, batches, missing data, failures."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import ssmlin
from ssmlin.learning import sgd


@pytest.fixture(scope="module")
def problem():
    """Data drawn from a model whose regression weights differ from the start's."""
    model = ssmlin.LinearAttentionSSM("gated_deltanet", 1, 2, 2, gates="constant")
    rng = np.random.default_rng(0)
    u = jnp.asarray(rng.normal(size=(80, 2)))
    y = jnp.asarray(u @ np.array([[1.0], [-0.5]]) + 0.3 * rng.normal(size=(80, 1)))
    params, props = model.initialize(jax.random.key(0))
    params = jax.tree.map(lambda x: x.astype(jnp.float64), params)
    return model, params, props, y, u


@pytest.mark.parametrize(
    "optimizer",
    [
        None,
        optax.adam(1e-2),
        optax.adamw(1e-2),
        optax.lbfgs(),
        optax.sgd(optax.constant_schedule(0.05)),
    ],
    ids=["default", "adam", "adamw", "lbfgs", "sgd"],
)
def test_any_optimizer_lowers_the_loss(problem, optimizer):
    model, params, props, y, u = problem
    fitted, losses = model.fit_sgd(
        params, props, y, u, optimizer, num_epochs=40, validation_fraction=0.0, progress=False
    )
    assert losses.shape == (40,)
    assert losses[-1] < losses[0] - 0.05
    count = y.size

    def loss(p):
        return -(model.log_prior(p) + model.marginal_log_prob(p, y, u)) / count

    # The losses are what they say, and the best parameters seen come back.
    np.testing.assert_allclose(losses[0], loss(params), rtol=1e-9)
    np.testing.assert_allclose(loss(fitted), losses.min(), rtol=1e-9)


def test_frozen_parameters_do_not_move(problem):
    model, params, props, y, u = problem
    fitted, _ = model.fit_sgd(params, props, y, u, num_epochs=20, progress=False)
    np.testing.assert_array_equal(fitted.initial.mean, params.initial.mean)
    np.testing.assert_array_equal(fitted.emissions.noise, params.emissions.noise)


def test_validation_part_is_not_fitted(problem):
    model, params, props, y, u = problem
    changed = y.at[64:].add(100.0)
    options = dict(num_epochs=20, patience=None, progress=False)
    _, one = model.fit_sgd(params, props, y, u, **options)
    _, two = model.fit_sgd(params, props, changed, u, **options)
    np.testing.assert_array_equal(one, two)
    _, three = model.fit_sgd(params, props, changed, u, validation_fraction=0.0, **options)
    assert not np.allclose(one, three)


def test_early_stopping_returns_the_best_epoch(problem):
    model, params, props, y, u = problem
    # The validation part contradicts the training part: every step away makes it worse.
    against = y.at[64:].set(-y[64:])
    fitted, history = model.fit_sgd(
        params, props, against, u, num_epochs=400, patience=30, progress=False, return_history=True
    )
    assert history.stopped_early and history.best_epoch < 10
    assert len(history.losses) == len(history.scores) < 100
    held = -model.log_predictive(fitted, against, u)[64:].sum() / 16
    np.testing.assert_allclose(held, history.scores[history.best_epoch], rtol=1e-9)


def test_a_gain_within_its_error_is_no_gain():
    in_train = jnp.arange(20) < 10
    data = sgd._Data(jnp.zeros((1, 20, 1)), None, in_train)
    rng = np.random.default_rng(0)
    noise = jnp.asarray(rng.normal(size=(1, 20)))
    zero = jnp.zeros((1, 20))
    inf = jnp.asarray(jnp.inf)
    assert not sgd._is_better(noise - noise[:, 10:].mean(), zero, inf, inf, data)
    assert sgd._is_better(0.1 * noise + 1.0, zero, inf, inf, data)
    assert not sgd._is_better(0.1 * noise - 1.0, zero, inf, inf, data)
    # What happens in the training part does not count.
    assert not sgd._is_better(zero.at[:, :10].set(5.0), zero, inf, inf, data)


def test_minibatches_and_padding(problem):
    model, params, props, y, u = problem
    ys, us = y[:60].reshape(3, 20, 1), u[:60].reshape(3, 20, 2)
    full, full_losses = model.fit_sgd(
        params, props, ys, us, num_epochs=3, validation_fraction=0.0, progress=False
    )
    expected = sum(model.marginal_log_prob(params, a, b) for a, b in zip(ys, us, strict=True))
    np.testing.assert_allclose(
        full_losses[0], -(model.log_prior(params) + expected) / 60, rtol=1e-9
    )
    # Two of three a step: the last minibatch has one sequence and one of weight zero.
    _, losses = model.fit_sgd(
        params,
        props,
        ys,
        us,
        batch_size=2,
        shuffle=True,
        num_epochs=30,
        progress=False,
        key=jax.random.key(3),
        validation_fraction=0.0,
        patience=None,
    )
    assert np.isfinite(losses).all() and losses[-1] < losses[0]
    # A padded sequence counts like the short one.
    padded_y = jnp.concatenate([y[:15], jnp.full((5, 1), jnp.nan)])[None]
    padded_u = jnp.concatenate([u[:15], jnp.zeros((5, 2))])[None]
    options = dict(num_epochs=5, validation_fraction=0.0, progress=False)
    one, _ = model.fit_sgd(params, props, padded_y, padded_u, **options)
    two, _ = model.fit_sgd(params, props, y[:15], u[:15], **options)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-8)


def test_partly_missing_data_are_fitted_exactly():
    model = ssmlin.LinearAttentionSSM("mamba2", 2, 1, 2, gates="constant")
    rng = np.random.default_rng(0)
    u, y = jnp.asarray(rng.normal(size=(20, 1))), rng.normal(size=(20, 2))
    y[3, 0] = y[7] = np.nan
    y = jnp.asarray(y)
    params, props = model.initialize(jax.random.key(0), emissions=y, inputs=u)
    _, losses = model.fit_sgd(
        params, props, y, u, num_epochs=3, validation_fraction=0.0, progress=False
    )
    expected = model.log_prior(params) + model.marginal_log_prob(params, y, u)
    np.testing.assert_allclose(losses[0], -expected / 37, rtol=1e-9)


def test_steps_that_are_not_finite_are_not_taken(problem):
    model, params, props, y, u = problem

    # A step size that explodes for a while; what came before must survive.
    schedule = optax.piecewise_constant_schedule(1e-2, {10: 1e300, 13: 1e-300})
    with pytest.warns(RuntimeWarning, match="not finite"):
        fitted, losses = model.fit_sgd(
            params,
            props,
            y,
            u,
            optax.sgd(schedule),
            num_epochs=20,
            validation_fraction=0.0,
            patience=None,
            progress=False,
        )
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(fitted))
    best = -(model.log_prior(fitted) + model.marginal_log_prob(fitted, y, u)) / y.size
    np.testing.assert_allclose(best, np.nanmin(losses), rtol=1e-9)


def test_a_bad_start_is_an_error(problem):
    model, params, props, y, u = problem
    bias = jnp.full_like(params.emissions.bias, jnp.nan)
    params = params._replace(emissions=params.emissions._replace(bias=bias))
    with pytest.raises(ValueError, match="params: expected a finite loss"):
        model.fit_sgd(params, props, y, u, num_epochs=2, progress=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"validation_fraction": 1.0}, "validation_fraction"),
        ({"num_epochs": 0}, "num_epochs"),
        ({"batch_size": 0}, "batch_size"),
    ],
)
def test_bad_options(problem, options, message):
    model, params, props, y, u = problem
    with pytest.raises(ValueError, match=message):
        model.fit_sgd(params, props, y, u, progress=False, **options)
    with pytest.raises(ValueError, match="emissions"):
        model.fit_sgd(params, props, y[:, 0], u, progress=False)


def test_fitting_again_does_not_compile_again(problem):
    model, params, props, y, u = problem
    options = dict(num_epochs=3, progress=False)
    model.fit_sgd(params, props, y, u, **options)
    before = sgd._run._cache_size()
    model.fit_sgd(params, props, y + 1, u, validation_fraction=0.5, num_epochs=27, progress=False)
    assert sgd._run._cache_size() == before


def test_the_recipe_on_noise_and_on_an_autoregression():
    """Held out, the fit may not lose more than its parameters explain (ΔAIC-like: k/n nats)."""
    rng = np.random.default_rng(1)
    noise = rng.normal(size=(300, 1))
    wave = np.zeros((300, 1))
    for t in range(2, 300):
        wave[t] = 1.2 * wave[t - 1] - 0.6 * wave[t - 2] + 0.5 * rng.normal(size=1)
    for y, truth in (
        (noise, lambda y, u: -0.5 * np.log(2 * np.pi) - 0.5 * y**2),
        (
            wave,
            lambda y, u: (
                -0.5 * np.log(2 * np.pi * 0.25)
                - 0.5 * (y - u @ np.array([[1.2], [-0.6]])) ** 2 / 0.25
            ),
        ),
    ):
        model = ssmlin.LinearAttentionSSM("gated_deltanet", 1, 2, 4, num_lags=2)
        emissions = jnp.asarray(y)
        inputs = model.compute_inputs(emissions)
        params, _ = model.fit(emissions[:200], inputs[:200], progress=False, num_epochs=200)
        ours = model.log_predictive(params, emissions, inputs)[200:].mean()
        best = truth(y, np.asarray(inputs))[200:].mean()
        parameters = sum(x.size for x in jax.tree.leaves(params))
        assert ours > best - parameters / 200


@pytest.mark.parametrize("validation_fraction", [0.0, 0.25])
def test_restarts_are_the_best_of_separate_fits(problem, validation_fraction):
    model, params, props, y, u = problem
    options = dict(
        num_epochs=60, patience=15, validation_fraction=validation_fraction,
        progress=False, return_history=True,
    )  # fmt: skip
    key = jax.random.key(5)
    best, history = model.fit_sgd(params, props, y, u, key=key, num_restarts=3, **options)
    train = slice(0, 80 - int(validation_fraction * 80))
    starts = [params]
    for i in (1, 2):
        start, _ = model.initialize(jax.random.fold_in(key, i), emissions=y[train], inputs=u[train])
        start = jax.tree.map(lambda x: x.astype(jnp.float64), start)
        starts.append(
            start._replace(
                initial=start.initial._replace(mean=params.initial.mean),
                emissions=start.emissions._replace(noise=params.emissions.noise),
            )
        )
    separate = [model.fit_sgd(start, props, y, u, **options) for start in starts]
    scores = [float(h.scores[h.best_epoch]) for _, h in separate]
    assert history.restart == int(np.argmin(scores))
    expected, alone = separate[history.restart]
    np.testing.assert_allclose(history.losses, alone.losses, rtol=1e-8)
    assert (history.best_epoch, history.stopped_early) == (alone.best_epoch, alone.stopped_early)
    for a, b in zip(jax.tree.leaves(best), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-8)
    before = sgd._run._cache_size()
    model.fit_sgd(params, props, y, u, key=jax.random.key(6), num_restarts=3, **options)
    assert sgd._run._cache_size() == before


def test_restarts_by_line_search_and_by_the_recipe(problem):
    model, params, props, y, u = problem
    _, losses = model.fit_sgd(
        params, props, y, u, optax.lbfgs(), num_epochs=20, num_restarts=2,
        validation_fraction=0.0, progress=False,
    )  # fmt: skip
    assert losses[-1] < losses[0]
    _, history = model.fit(y, u, num_epochs=20, num_restarts=2, progress=False)
    assert history.restart in (0, 1)


def test_windows_cover_the_likelihood_and_a_single_one_is_the_ordinary_fit(problem):
    model, params, props, y, u = problem
    seen = model.given_missing(y[None])
    law, terms = seen.initial_law(params), []
    for start in range(0, 80, 16):
        part = slice(start, start + 16)
        term, law = seen.filter_window(params, law, y[part], u[part])
        terms.append(term)
    np.testing.assert_allclose(
        jnp.concatenate(terms), model.log_predictive(params, y, u), rtol=1e-9
    )
    options = dict(num_epochs=20, validation_fraction=0.0, patience=None, progress=False)
    whole, losses = model.fit_sgd(params, props, y, u, **options)
    one, same = model.fit_sgd(params, props, y, u, window_size=100, **options)
    np.testing.assert_allclose(losses, same, rtol=1e-9)
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(one), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-9)
    _, by_windows = model.fit_sgd(params, props, y, u, window_size=24, **options)
    assert by_windows[-1] < by_windows[0] - 0.05
