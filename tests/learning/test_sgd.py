"""Fitting: any optimiser, early stopping, batches, missing data, failures."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from dynamax.parameters import ParameterProperties, from_unconstrained, to_unconstrained
from tensorflow_probability.substrates.jax import bijectors as tfb
from tiers import slow
from walk import Walk

import ssmlin
from ssmlin import learning
from ssmlin.learning import _epochs as epochs
from ssmlin.learning import _runs as runs
from ssmlin.learning._epochs import Candidate, EpochSettings, Limits, run_epochs, start_fit
from ssmlin.learning._loss import Batch, FitData, Objective, Window, Windows, padded
from ssmlin.learning._loss import log_predictive as log_predictive_by_windows
from ssmlin.learning._loss import loss as loss_of_a_fit
from ssmlin.models import StateLaw
from ssmlin.models import _fitting as fitting


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
        slow(optax.adam(1e-2)),
        slow(optax.adamw(1e-2)),
        slow(optax.lbfgs()),
        slow(optax.sgd(optax.constant_schedule(0.05))),
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
    np.testing.assert_array_equal(fitted.row_cov.noise, params.row_cov.noise)


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


def test_patience_waits_as_long_as_scores_fall(problem, monkeypatch):
    model, params, props, y, u = problem
    # As if every gain were within its error.
    monkeypatch.setattr(epochs, "is_better", lambda *args: jnp.asarray(False))
    slow = optax.sgd(2e-3)  # its own program, compiled with that
    _, history = model.fit_sgd(
        params, props, y, u, slow, num_epochs=30, patience=3, progress=False, return_history=True
    )
    assert (np.diff(history.scores) < 0).all() and len(history.scores) == 30
    assert history.best_epoch == 0 and not history.stopped_early


def test_a_gain_within_its_error_is_no_gain():
    in_train = jnp.arange(20)[None] < 10
    data = FitData(jnp.zeros((1, 20, 1)), None, in_train)
    rng = np.random.default_rng(0)
    noise = jnp.asarray(rng.normal(size=(1, 20)))
    zero = jnp.zeros((1, 20))

    def gains(terms):
        new, old = (Candidate(None, x, jnp.asarray(jnp.inf), jnp.asarray(0)) for x in (terms, zero))
        return epochs.is_better(new, old, data)

    assert not gains(noise - noise[:, 10:].mean())
    assert gains(0.1 * noise + 1.0)
    assert not gains(0.1 * noise - 1.0)
    # What happens in the training part does not count.
    assert not gains(zero.at[:, :10].set(5.0))


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
    bias = jnp.full_like(params.regression.bias, jnp.nan)
    params = params._replace(regression=params.regression._replace(bias=bias))
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
    before = run_epochs._cache_size()
    model.fit_sgd(params, props, y + 1, u, validation_fraction=0.5, num_epochs=27, progress=False)
    assert run_epochs._cache_size() == before


@pytest.mark.parametrize("optimizer", [slow(None), ssmlin.learning.lbfgs()])
def test_series_of_nearby_lengths_share_a_program_and_nothing_else(problem, optimizer):
    """Padded with missing steps to a common length, each is fitted as it is by itself."""
    model, params, props, y, u = problem
    options = dict(optimizer=optimizer, num_epochs=12, progress=False)
    fits = {}
    for steps in (len(y) - 3, len(y) - 1):
        cut = y[None, :steps], u[None, :steps]
        shared, history = model.fit_sgd(params, props, *cut, return_history=True, **options)
        alone, expected = learning.fit_sgd(model, params, props, *cut, **options)
        assert_close(shared, alone, rtol=1e-6, atol=1e-8)
        np.testing.assert_allclose(history.scores, expected.scores, rtol=1e-7)
        fits[steps] = run_epochs._cache_size()
    one, other = fits.values()
    assert other == one + 1  # the one that was not padded


def assert_close(one, two, **tolerance):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        np.testing.assert_allclose(a, b, **tolerance)


@pytest.fixture(scope="module")
def batch(problem):
    """Three sequences of 25 steps, some missing, whose start is far from the best."""
    model, params, props, y, u = problem
    ys, us = y[:75].reshape(3, 25, 1), u[:75].reshape(3, 25, 2)
    return model, params, props, ys.at[1, 9].set(np.nan).at[0, 20:].set(np.nan), us


def by_windows_of(model, data, size, number):
    return Objective(model.given_missing(data.emissions), Windows(size, number))


def test_one_window_is_the_ordinary_fit(batch):
    model, *problem = batch
    options = dict(num_epochs=15, progress=False, return_history=True)
    one, history = model.fit_sgd(*problem, **options)
    two, windowed = model.fit_sgd(*problem, window_size=99, **options)
    assert_close(one, two, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(history.losses, windowed.losses, rtol=1e-10)
    np.testing.assert_allclose(history.scores, windowed.scores, rtol=1e-10)
    assert windowed.best_epoch == history.best_epoch > 0


def test_windows_of_frozen_parameters_add_up(batch):
    model, params, props, y, u = batch
    terms = jax.vmap(lambda y, u: model.log_predictive(params, y, u))(y, u)
    _, history = model.fit_sgd(
        params, props, y, u, optax.sgd(0.0), window_size=7, num_epochs=2, validation_fraction=0.3,
        progress=False, return_history=True,
    )  # fmt: skip
    # Seven tenths of each sequence, the padding at its end left out, are fitted.
    lengths = [1 + np.flatnonzero(np.isfinite(one[:, 0]))[-1] for one in np.asarray(y)]
    ends = np.array([n - int(0.3 * n) for n in lengths])
    fitted = np.arange(25) < ends[:, None]
    seen, found = np.isfinite(np.asarray(y))[..., 0], np.asarray(terms)
    loss = -(model.log_prior(params) + found[fitted].sum()) / (seen & fitted).sum()
    np.testing.assert_allclose(history.losses, loss, rtol=1e-10)
    score = -found[~fitted].sum() / (seen & ~fitted).sum()
    np.testing.assert_allclose(history.scores, score, rtol=1e-9)

    data = padded(FitData(y, u, jnp.ones((3, 25), bool)), 3)
    objective = by_windows_of(model, data, 7, 4)
    by_windows = log_predictive_by_windows(params, objective, data, jnp.arange(3))
    np.testing.assert_allclose(by_windows[:, :25], terms, rtol=1e-9, atol=1e-9)
    np.testing.assert_array_equal(by_windows[:, 25:], 0.0)


def test_a_window_starts_from_the_law_before_it(batch):
    """The gradient of a window: of its steps' densities given the law before, held fixed."""
    model, params, props, y, u = batch
    data = FitData(y, u, jnp.ones((3, 25), bool))
    objective = by_windows_of(model, data, 5, 5)
    everything = Batch(jnp.arange(3), jnp.ones(3))
    before = [model.filter(params, y[b, :15], u[b, :15], store="last") for b in range(3)]
    laws = StateLaw(
        jnp.concatenate([p.filtered_means for p in before]),
        jnp.concatenate([p.filtered_covariances for p in before]),
    )
    values = np.isfinite(np.asarray(y)).sum()
    share = np.isfinite(np.asarray(y[:, 15:20])).sum() / values

    def loss(unconstrained):
        p = from_unconstrained(unconstrained, props)
        total = share * model.log_prior(p)
        for b in range(3):
            steps = (y[b, 15:20], u[b, 15:20])
            total += model.filter_window(p, StateLaw(laws.mean[b], laws.cov[b]), *steps)[0].sum()
        return -5 * total / values

    @jax.jit
    @jax.value_and_grad
    def window_loss(unconstrained, window):
        return loss_of_a_fit(unconstrained, objective, props, data, everything, window)[0]

    start = to_unconstrained(params, props)
    value, grad = window_loss(start, Window(3, laws))
    expected, expected_grad = jax.jit(jax.value_and_grad(loss))(start)
    np.testing.assert_allclose(value, expected, rtol=1e-10)
    assert_close(grad, expected_grad, rtol=1e-8, atol=1e-12)
    # The first window's law is the model's, with its gradient; what is given does not count.
    _, one = window_loss(start, Window(0, laws))
    _, two = window_loss(start, Window(0, jax.tree.map(jnp.zeros_like, laws)))
    assert_close(one, two, rtol=0)
    # The prior, which both see, does not tell the columns apart; the data do.
    assert np.ptp(one.initial.variances) > 1e-3 and np.ptp(grad.initial.variances) < 1e-12


@pytest.fixture(scope="module")
def walk():
    """Three walks of 40 steps, and where to start."""
    rng = np.random.default_rng(3)
    u = rng.normal(size=(3, 40))
    y = jnp.asarray(np.cumsum(0.7 * u + 0.4 * rng.normal(size=u.shape), axis=1)[:, :, None])
    params = {"drift": jnp.asarray(0.0), "spread": jnp.asarray(1.0)}
    props = {"drift": ParameterProperties(), "spread": ParameterProperties(True, tfb.Softplus())}
    return Walk(), params, props, y, jnp.asarray(u)


def test_windows_learn_and_take_minibatches(walk):
    fitted, history = learning.fit_sgd(
        *walk, optax.adam(3e-2), 2, 60, True, jax.random.key(1), window_size=7, progress=False
    )
    assert np.isfinite(history.losses).all() and history.losses[-1] < history.losses[0] - 0.3
    np.testing.assert_allclose(fitted["drift"], 0.7, atol=0.1)
    np.testing.assert_allclose(fitted["spread"], 0.4, atol=0.1)


@pytest.mark.slow
def test_memory_of_the_gradient_grows_with_the_window_only(problem):
    model, params, props, _, _ = problem

    def memory(steps, size):
        data = FitData(
            jnp.zeros((1, steps, 1)), jnp.zeros((1, steps, 2)), jnp.ones((1, steps), bool)
        )
        objective = by_windows_of(model, data, size, steps // size)
        optimizer = runs._with_extra_args(runs.default_optimizer())
        settings = EpochSettings(objective, optimizer, 1, False, 1)
        state = start_fit(params, settings, props, data)
        limits = Limits(1, 1, False)
        lowered = run_epochs.lower(state, jax.random.key(0), limits, settings, props, data)
        return lowered.compile().memory_analysis().temp_size_in_bytes

    short, long = memory(64, 16), memory(1024, 16)
    # Of all steps only their terms are kept, to choose the best epoch by. A gradient through them
    # all keeps a hundred numbers a step.
    assert long - short < 6 * 8 * (1024 - 64)


def test_windows_that_cannot_be(batch):
    model, params, props, y, u = batch
    for size in (0, -1):
        with pytest.raises(ValueError, match="window_size: expected an integer >= 1"):
            model.fit_sgd(params, props, y, u, window_size=size, progress=False)
    two = ssmlin.LinearAttentionSSM("mamba2", 2, 1, 2, gates="constant")
    params, props = two.initialize()

    class Plain:
        log_prior, log_predictive = two.log_prior, two.log_predictive

    with pytest.raises(ValueError, match="window_size: expected None for a model without"):
        learning.fit_sgd(Plain(), params, props, jnp.zeros((1, 10, 2)), window_size=4)


@pytest.mark.parametrize("validation_fraction", [0.0, 0.25])
@pytest.mark.parametrize(
    "optimizer",
    [None, pytest.param(optax.lbfgs(), marks=pytest.mark.calibration)],
    ids=["adam", "lbfgs"],
)
def test_restarts_are_the_best_of_separate_fits(batch, optimizer, validation_fraction):
    model, given, props, y, u = batch
    key = jax.random.key(8)
    # A given start that is not the best, with something in it that is not trainable.
    given = given._replace(row_cov=given.row_cov._replace(covariance=jnp.asarray([9.0])))
    fixed = ParameterProperties(False, props.initial.variances.constrainer)
    props = props._replace(initial=props.initial._replace(variances=fixed))
    options = dict(
        optimizer=optimizer, num_epochs=12, validation_fraction=validation_fraction,
        batch_size=2, shuffle=True, key=key, progress=False, return_history=True,
    )  # fmt: skip
    if optimizer is not None:  # which wants all the data, and makes much of rounding errors
        options |= dict(num_epochs=6, batch_size=3)
    first = learning.train_part(y, validation_fraction)
    starts = [given]
    for i in (1, 2):
        start, _ = model.initialize(jax.random.fold_in(key, i), emissions=first, inputs=u)
        starts.append(start._replace(initial=given.initial))
        starts[-1] = starts[-1]._replace(row_cov=start.row_cov._replace(noise=given.row_cov.noise))
    fits = [model.fit_sgd(start, props, y, u, **options) for start in starts]
    scores = [history.scores.min() if validation_fraction == 0 else
              history.scores[history.best_epoch] for _, history in fits]  # fmt: skip
    best = int(np.argmin(scores))
    together, history = model.fit_sgd(given, props, y, u, num_restarts=3, **options)
    assert history.restart == best
    assert optimizer is not None or best > 0
    assert_close(together, fits[best][0], rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(history.losses, fits[best][1].losses, rtol=1e-8)
    np.testing.assert_allclose(history.scores, fits[best][1].scores, rtol=1e-8)
    assert history[2:] == fits[best][1]._replace(restart=best)[2:]
    before = run_epochs._cache_size(), start_fit._cache_size()
    model.fit_sgd(given, props, y + 1, u, num_restarts=3, **options | {"num_epochs": 7})
    assert (run_epochs._cache_size(), start_fit._cache_size()) == before


def test_a_bad_restart_loses(walk):
    model, params, *data = walk
    options = dict(num_epochs=5, num_restarts=2, progress=False)
    starts = {"drift": jnp.asarray([jnp.nan, 0.0]), "spread": jnp.ones(2)}
    with pytest.warns(RuntimeWarning, match="5 gradient steps were not finite"):
        fitted, history = learning.fit_sgd(model, starts, *data, **options)
    assert history.restart == 1
    alone, _ = learning.fit_sgd(model, params, *data, num_epochs=5, progress=False)
    assert_close(fitted, alone, rtol=1e-10)
    starts = starts | {"drift": jnp.full(2, jnp.nan)}
    with pytest.raises(ValueError, match=r"params: expected a finite loss .* got \[nan, nan\]"):
        learning.fit_sgd(model, starts, *data, **options)
    with pytest.raises(ValueError, match="params: expected a leading axis .* got drift of shape"):
        learning.fit_sgd(model, params, *data, **options)


def test_restarts_stop_by_themselves(walk):
    """One start has no patience left while another goes on; what it was stays its result."""
    model, params, *data = walk
    fixed = ParameterProperties(False, tfb.Softplus())
    data[0] = data[0] | {"spread": fixed}
    options = dict(
        num_epochs=60, patience=3, progress=False, validation_fraction=0.0,
        optimizer=optax.sgd(0.05, momentum=0.9),
    )  # fmt: skip
    # One starts at the best drift there is.
    steps, u = jnp.diff(data[1][..., 0], prepend=0.0), data[2]
    best = jnp.sum(u * steps) / (jnp.sum(u**2) + 1)
    starts = [params | {"drift": x} for x in (best, best - 4.0)]
    alone = [learning.fit_sgd(model, start, *data, **options) for start in starts]
    lengths = [len(history.losses) for _, history in alone]
    assert lengths[0] < lengths[1] < 60
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *starts)
    together = learning.fit_sgd(model, stacked, *data, num_restarts=2, **options)
    assert together[1].restart == 0 and together[1].stopped_early
    assert_close(together[0], alone[0][0], rtol=1e-10)
    np.testing.assert_allclose(together[1].losses, alone[0][1].losses, rtol=1e-10)


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


@pytest.mark.parametrize("best", [1, 3])
def test_the_recipe_ends_with_as_many_epochs_as_were_best(best, monkeypatch):
    """On all of the data, too: what it returns has seen them, be it one."""
    rng = np.random.default_rng(0)
    emissions = jnp.asarray(1 + np.sin(np.arange(80.0))[:, None] + 0.1 * rng.normal(size=(80, 1)))
    model = ssmlin.LinearAttentionSSM("bayesian_memory", 1, 2, 3, num_lags=2)
    inputs = model.compute_inputs(emissions)
    options = {"optimizer": optax.sgd(0.01), "progress": False}
    everything = {"validation_fraction": 0.0, "patience": None, "return_history": True}
    start, props = model.initialize(emissions=emissions, inputs=inputs)
    data = emissions, inputs
    losses = model.fit_sgd(start, props, *data, num_epochs=5, **options, **everything)[1].losses
    assert np.all(np.diff(losses) < 0)  # so that the last epoch is the best

    original = fitting.plan_fit_sgd

    def plan_fit_sgd(*args, **kwargs):
        fitted, history = yield from original(*args, **kwargs)
        if kwargs["validation_fraction"] > 0:
            history = history._replace(best_epoch=best)  # whatever the validation part says
        return fitted, history

    monkeypatch.setattr(fitting, "plan_fit_sgd", plan_fit_sgd)
    with pytest.warns(RuntimeWarning, match="num_epochs: the fit was still improving"):
        params, _ = model.fit(*data, num_epochs=5, **options)
    monkeypatch.undo()
    reached = model.fit_sgd(params, props, *data, num_epochs=1, **options, **everything)[1].losses
    np.testing.assert_allclose(reached[0], losses[best], rtol=1e-9)
