"""The dense core: dynamax's functions, against dynamax and against the joint law of everything."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dynamax.linear_gaussian_ssm import inference as dynamax
from dynamax.linear_gaussian_ssm.inference import (
    ParamsLGSSM,
    ParamsLGSSMDynamics,
    ParamsLGSSMEmissions,
    ParamsLGSSMInitial,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import covariance_matrix, dynamax_without_jitter
from tiers import cases, slow

from ssmlin.inference import lgssm_filter, lgssm_posterior_sample, lgssm_smoother
from ssmlin.inference._chunks import cut_time
from ssmlin.inference._methods import DENSE, choose_method
from ssmlin.inference.dense import _filter as filtering
from ssmlin.inference.dense import _smoother as smoothing
from ssmlin.inference.dense._model import product

METHODS = ("sequential", "associative", "chunked")
T, D, N, P = 5, 3, 2, 2


def make(varying=False, steps=T, d=D, n=N, p=P, seed=0):
    """Parameters with everything there is, emissions and inputs; NumPy arrays throughout."""
    rng = np.random.default_rng(seed)
    lead = (steps,) if varying else ()

    def normal(*shape):
        return rng.normal(size=(*lead, *shape))

    def cov(size):
        if not varying:
            return covariance_matrix(rng, size)
        return np.stack([covariance_matrix(rng, size) for _ in range(steps)])

    params = ParamsLGSSM(
        ParamsLGSSMInitial(rng.normal(size=d), covariance_matrix(rng, d)),
        ParamsLGSSMDynamics(0.6 * normal(d, d), normal(d), normal(d, p), cov(d)),
        ParamsLGSSMEmissions(normal(n, d), normal(n), normal(n, p), cov(n)),
    )
    return jax.tree.map(jnp.asarray, params), rng.normal(size=(steps, n)), rng.normal(
        size=(steps, p)
    )  # fmt: skip


def change(params, **fields):
    """Parameters with fields replaced, named as in `dynamics_cov`."""
    for name, value in fields.items():
        group, field = name.split("_", 1)
        params = params._replace(**{group: getattr(params, group)._replace(**{field: value})})
    return params


def without(y, *entries):
    """Emissions with entries missing."""
    y = np.array(y)
    for entry in entries:
        y[entry] = np.nan
    return y


def joint(params, y, u):
    """Log-likelihood, smoothed means, joint covariance of all states, by conditioning one law.

    It inverts only the covariance of the entries observed, and shares no recursion with the code.
    """
    steps, n = y.shape
    d = params.initial.mean.shape[0]
    at = lambda x, ndim, t: np.asarray(x)[t] if x.ndim > ndim else np.asarray(x)  # noqa: E731
    mean, cov = np.asarray(params.initial.mean), np.asarray(params.initial.cov)
    means, law = [], np.zeros((steps * d, steps * d))
    dynamics, emission = params.dynamics, params.emissions
    for t in range(steps):
        if t:
            f = at(dynamics.weights, 2, t)
            push = at(dynamics.input_weights, 2, t) @ u[t] + at(dynamics.bias, 1, t)
            mean, cov = f @ mean + push, f @ cov @ f.T + at(dynamics.cov, 2, t)
        means.append(mean)
        cross = cov
        for s in range(t, steps):
            if s > t:
                cross = cross @ at(dynamics.weights, 2, s).T
            here, there = slice(t * d, (t + 1) * d), slice(s * d, (s + 1) * d)
            law[here, there], law[there, here] = cross, cross.T
    path = np.concatenate(means)
    h = np.zeros((steps * n, steps * d))
    r = np.zeros((steps * n, steps * n))
    offset = np.zeros(steps * n)
    for t in range(steps):
        rows = slice(t * n, (t + 1) * n)
        h[rows, t * d : (t + 1) * d] = at(emission.weights, 2, t)
        r[rows, rows] = at(emission.cov, 2, t)
        offset[rows] = at(emission.input_weights, 2, t) @ u[t] + at(emission.bias, 1, t)
    seen = ~np.isnan(y.ravel())
    h, r = h[seen], r[np.ix_(seen, seen)]
    e = (y.ravel() - offset)[seen] - h @ path
    s = h @ law @ h.T + r
    gain = np.linalg.solve(s, h @ law).T
    loglik = -0.5 * (
        len(e) * np.log(2 * np.pi) + np.linalg.slogdet(s)[1] + e @ np.linalg.solve(s, e)
    )
    return loglik, (path + gain @ e).reshape(steps, d), law - gain @ h @ law


def assert_smoothed(posterior, oracle, atol=1e-9):
    loglik, means, law = oracle
    steps, d = means.shape
    blocks = [slice(t * d, (t + 1) * d) for t in range(steps)]
    np.testing.assert_allclose(posterior.marginal_loglik, loglik, atol=atol)
    np.testing.assert_allclose(posterior.smoothed_means, means, atol=atol)
    covs = np.stack([law[b, b] for b in blocks])
    np.testing.assert_allclose(posterior.smoothed_covariances, covs, atol=atol)
    for t in range(steps - 1):
        cross = law[blocks[t], blocks[t + 1]] + np.outer(means[t], means[t + 1])
        np.testing.assert_allclose(posterior.smoothed_cross_covariances[t], cross, atol=atol)


def assert_same(ours, theirs, atol=1e-9):
    assert type(ours) is type(theirs)
    for name, expected in theirs._asdict().items():
        value = getattr(ours, name)
        assert (value is None) == (expected is None), name
        if expected is not None:
            np.testing.assert_allclose(value, expected, atol=atol, err_msg=name)


def forms():
    """Every form in which dynamax takes its parameters: (params, y, u)."""
    static, y, u = make()
    varying, *_ = make(varying=True)
    diagonal, diagonals = (
        jnp.array([0.5, 2.0]),
        jnp.abs(jax.random.normal(jax.random.key(0), (T, N))),
    )
    nothing = dict.fromkeys(("dynamics_bias", "emissions_bias", "dynamics_input_weights",
                             "emissions_input_weights"))  # fmt: skip
    # A function of t; dynamax asks the emissions' weights for their shape.
    called = change(
        varying,
        **{
            f"{group}_{name}": getattr(getattr(varying, group), name).__getitem__
            for group in ("dynamics", "emissions")
            for name in ("weights", "bias", "input_weights", "cov")
            if (group, name) not in (("emissions", "weights"), ("emissions", "cov"))
        },
    )
    return {
        "static": (static, y, u),
        "varying": (varying, y, u),
        "functions": (called, y, u),
        "diagonal": (change(static, emissions_cov=diagonal), y, u),
        "varying diagonal": (change(static, emissions_cov=diagonals), y, u),
        "varying full": (change(static, emissions_cov=varying.emissions.cov), y, u),
        "varying rows": (change(static, emissions_weights=varying.emissions.weights), y, u),
        "varying dynamics": (static._replace(dynamics=varying.dynamics), y, u),
        "no inputs": (change(static, **nothing), y, None),
        "inputs not used": (change(static, **nothing), y, u),
        "empty weights": (
            change(static, dynamics_input_weights=jnp.zeros((D, 0)),
                   emissions_input_weights=jnp.zeros((N, 0))), y, None),
    }  # fmt: skip


@pytest.mark.parametrize(
    "name", cases(forms(), "static", "varying", "functions", "varying rows", "no inputs")
)
def test_every_form_of_the_parameters_as_dynamax(name):
    params, y, u = forms()[name]
    with dynamax_without_jitter():
        v = None if u is None else jnp.asarray(u)
        filtered, smoothed = jax.jit(
            lambda y: [f(params, y, v) for f in (dynamax.lgssm_filter, dynamax.lgssm_smoother)]
        )(y)
    assert_same(lgssm_filter(params, y, u), filtered)
    assert_same(lgssm_smoother(params, y, u), smoothed)


@pytest.mark.parametrize("varying", [slow(False), True])
@pytest.mark.parametrize("method", METHODS)
def test_drivers_against_the_joint_law_with_missing_entries(method, varying):
    params, y, u = make(varying)
    y = without(y, (0, 0), (2, 1), (3,))
    oracle = joint(params, y, u)
    assert_smoothed(lgssm_smoother(params, y, u, method=method), oracle)
    filtered = lgssm_filter(params, y, u, method=method)
    np.testing.assert_allclose(filtered.marginal_loglik, oracle[0], atol=1e-9)
    for t in (1, 4):  # what is filtered is what is smoothed of a shorter series
        later = (slice(t + 1, None),)
        means, law = joint(params, without(y, later), u)[1:]
        np.testing.assert_allclose(filtered.filtered_means[t], means[t], atol=1e-9)
        block = slice(t * D, (t + 1) * D)
        np.testing.assert_allclose(filtered.filtered_covariances[t], law[block, block], atol=1e-9)


SINGULAR = {
    "no process noise": {"dynamics_cov": jnp.zeros((D, D))},
    "certain start": {"initial_cov": jnp.zeros((D, D))},
    "deterministic": {"dynamics_cov": jnp.zeros((D, D)), "initial_cov": jnp.zeros((D, D))},
    "process noise of rank 1": {"dynamics_cov": jnp.ones((D, D))},
    "emission noise of rank 1": {"emissions_cov": jnp.array([[1.0, 2.0], [2.0, 4.0]])},
    "no emission noise": {"emissions_cov": jnp.zeros((N, N))},
    "an entry without noise": {"emissions_cov": jnp.array([[0.0, 0.0], [0.0, 1.0]])},
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", SINGULAR)
def test_singular_covariances(name, method):
    params, y, u = make()
    params = change(params, **SINGULAR[name])
    y = without(y, (1, 1))
    assert_smoothed(lgssm_smoother(params, y, u, method=method), joint(params, y, u), 1e-8)


def test_exact_emissions_of_a_state_without_noise_of_its_own():
    """A position seen exactly, whose velocity alone is noisy: fine one step after the other."""
    params = change(
        make(d=2, n=1, steps=4)[0],
        dynamics_weights=jnp.array([[1.0, 1.0], [0.0, 1.0]]),
        dynamics_cov=jnp.diag(jnp.array([0.0, 0.3])),
        emissions_weights=jnp.array([[1.0, 0.0]]),
        emissions_cov=jnp.zeros((1, 1)),
    )
    _, y, u = make(d=2, n=1, steps=4)
    assert_smoothed(lgssm_smoother(params, y, u), joint(params, y, u), 1e-8)
    # No element can hold an exact constraint: loud, not wrong.
    assert np.isnan(lgssm_filter(params, y, u, method="associative").marginal_loglik)


def test_a_certain_entry_is_left_out():
    zero = jnp.zeros((D, D))
    params, y, u = make()
    params = change(params, dynamics_cov=zero, initial_cov=zero, emissions_cov=jnp.zeros(N))
    posterior = lgssm_smoother(params, y, u)
    assert posterior.marginal_loglik == 0.0
    np.testing.assert_array_equal(posterior.smoothed_covariances, 0.0)


@pytest.mark.parametrize(("d", "n"), [(2, 18), slow(16, 1), slow(18, 2)])
def test_many_entries_and_many_states(d, n):
    """Past the sizes where loops are unrolled and products are sums."""
    params, y, u = make(steps=3, d=d, n=n)
    y = without(y, (1, 0))
    assert_smoothed(lgssm_smoother(params, y, u), joint(params, y, u), 1e-8)


@settings(max_examples=5, deadline=None)
@given(
    steps=st.integers(1, 4),
    d=st.integers(1, 3),
    n=st.integers(1, 3),
    seed=st.integers(0, 100),
    method=st.sampled_from(METHODS),
    data=st.data(),
)
def test_any_shape_and_any_pattern_of_missing_entries(steps, d, n, seed, method, data):
    params, y, u = make(steps=steps, d=d, n=n, seed=seed)
    mask = data.draw(st.lists(st.booleans(), min_size=steps * n, max_size=steps * n))
    y = np.where(np.reshape(mask, y.shape), np.nan, y)
    if steps == n:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            posterior = lgssm_smoother(params, y, u, method=method)
    else:
        posterior = lgssm_smoother(params, y, u, method=method)
    assert posterior.smoothed_cross_covariances.shape == (steps - 1, d, d)
    assert_smoothed(posterior, joint(params, y, u), 1e-8)


# ------------------------------------------------------------------------------- gradients


def everything(params, y, u, method):
    """A number that every output takes part in (the sampler in one driver: time to compile)."""
    key = jax.random.key(1)
    path = lgssm_posterior_sample(key, params, y, u) if method == "sequential" else 0.0
    posterior = lgssm_smoother(params, y, u, method=method)
    return sum(jnp.sum(jnp.sin(x)) for x in jax.tree.leaves((path, posterior)))


@pytest.mark.parametrize(
    ("method", "varying"),
    [
        slow("sequential", False),
        ("sequential", True),
        slow("associative", True),
        slow("chunked", True),
    ],
)
def test_gradients_with_missing_entries(method, varying):
    params, y, u = make(varying, steps=3)
    y = without(y, (0, 0), (2,))
    if varying:  # what leads to the first step is ignored
        dynamics = jax.tree.map(lambda x: x.at[0].set(jnp.nan), params.dynamics)
        params = change(params._replace(dynamics=dynamics), emissions_input_weights=None)
        u = without(u, (0,))
    value = jax.jit(lambda params, u: everything(params, y, u, method))
    gradient = jax.jit(jax.grad(value, argnums=(0, 1)))(params, u)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradient))
    rng = np.random.default_rng(0)
    direction = jax.tree.map(lambda x: rng.normal(size=x.shape), (params, u))
    # Covariances must stay symmetric: only the symmetric part means anything.
    direction = jax.tree.map(
        lambda x: x + x.swapaxes(-1, -2) if x.shape[-2:] in ((D, D), (N, N)) and x.ndim > 1 else x,
        direction,
    )
    step = 1e-5

    def moved(sign):
        return value(*jax.tree.map(lambda x, v: x + sign * step * v, (params, u), direction))

    slope = sum(
        np.sum(g * v)
        for g, v in zip(jax.tree.leaves(gradient), jax.tree.leaves(direction), strict=True)
    )
    np.testing.assert_allclose(slope, (moved(1) - moved(-1)) / (2 * step), rtol=1e-5)


@pytest.mark.parametrize("name", cases(SINGULAR, "deterministic"))
def test_gradients_of_singular_covariances_are_finite(name):
    params, y, u = make()
    params = change(params, **SINGULAR[name])
    y = without(y, (1, 1))
    gradient = jax.jit(jax.grad(lambda params: everything(params, y, u, "sequential")))(params)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradient))


def test_a_function_need_not_know_the_first_step():
    params, y, u = make()

    def value(rate):
        f = params.dynamics.weights
        return lgssm_filter(
            change(params, dynamics_weights=lambda t: f * jnp.sqrt(rate / t)), y, u
        ).marginal_loglik

    assert np.isfinite(jax.jit(jax.grad(value))(0.5))


# --------------------------------------------------------------------------------- sampling


@pytest.mark.parametrize("method", ["sequential", slow("chunked")])
def test_draws_have_the_moments_of_the_posterior(method):
    params, y, u = make()
    params = change(params, dynamics_cov=jnp.ones((D, D)))  # singular
    y = without(y, (0, 0), (3,))
    keys = jax.random.split(jax.random.key(0), 20_000)
    draws = jax.vmap(lambda key: lgssm_posterior_sample(key, params, y, u, method=method))(keys)
    _, means, law = joint(params, y, u)
    draws = np.asarray(draws).reshape(len(keys), -1)
    scale = np.sqrt(np.diag(law))
    assert np.all(np.abs(draws.mean(0) - means.ravel()) < 6 * scale / np.sqrt(len(keys)) + 1e-9)
    error = np.abs(np.cov(draws.T) - law) / np.maximum(np.outer(scale, scale), 1e-12)
    assert error.max() < 6 * np.sqrt(2 / len(keys))


def test_jitter_is_taken_as_by_dynamax():
    params, y, u = make()
    key = jax.random.key(0)
    path = lgssm_posterior_sample(key, params, y, u, 1e-3)
    np.testing.assert_array_equal(path, lgssm_posterior_sample(key, params, y, u))


# ------------------------------------------------------------------------- transformations


@pytest.mark.parametrize("method", cases(METHODS, "sequential"))
def test_vmap_scan_and_checkpoint(method):
    params, y, u = make(steps=3)
    ys = np.stack([without(y, (0, 1)), without(y, (1, 0)), without(y, (2,), (0, 0))])

    def loglik(y):
        return lgssm_filter(params, y, u, method=method).marginal_loglik

    expected = [loglik(y) for y in ys]
    np.testing.assert_allclose(jax.vmap(loglik)(ys), expected, atol=1e-10)
    np.testing.assert_allclose(jax.lax.map(loglik, ys), expected, atol=1e-10)
    if method == "sequential":
        gradients = [jax.jit(jax.grad(f))(ys[0]) for f in (loglik, jax.checkpoint(loglik))]
        np.testing.assert_allclose(*gradients, atol=1e-10)


def test_a_second_call_compiles_nothing():
    params, y, u = forms()["functions"]
    for function in (lgssm_filter, lgssm_smoother):
        function(params, y, u)
    before = filtering._filter._cache_size(), smoothing._smoother._cache_size()
    for function in (lgssm_filter, lgssm_smoother):
        function(params, y + 1.0, u)
    assert before == (filtering._filter._cache_size(), smoothing._smoother._cache_size())


@pytest.mark.float32
def test_single_precision():
    params, y, u = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), make())
    for method in ("sequential", "chunked"):
        posterior = lgssm_smoother(params, y, u, method=method)
        assert {x.dtype for x in jax.tree.leaves(posterior)} == {np.dtype(np.float32)}
        oracle = joint(*jax.tree.map(lambda x: np.asarray(x, np.float64), (params, y, u)))
        assert_smoothed(posterior, oracle, 2e-4)


@pytest.mark.float32
def test_covariances_stay_symmetric_where_the_state_is_not_stable():
    params, *_ = make(steps=2)
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(D, D)))[0]
    params = change(params, dynamics_weights=jnp.asarray(1.1 * rotation))
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params)
    rng = np.random.default_rng(0)
    y, u = rng.normal(size=(400, N)), rng.normal(size=(400, P))
    covs = lgssm_filter(params, y, u).filtered_covariances
    scale = jnp.abs(covs).max()
    assert float(jnp.abs(covs - covs.mT).max()) < 1e-5 * scale


def test_integers_and_numpy_arrays():
    params, y, u = make()
    params = change(params, dynamics_weights=np.eye(D, dtype=int), emissions_bias=np.arange(N))
    as_floats = jax.tree.map(lambda x: jnp.asarray(x, float), params)
    assert_same(lgssm_filter(params, y, u), lgssm_filter(as_floats, jnp.asarray(y), u), 1e-12)


def test_products_of_small_matrices():
    rng = np.random.default_rng(0)
    for shape, other in (((16, 16), (16, 16)), ((16, 3), (3, 5)), ((4, 7, 7), (4, 7, 7)),
                         ((4, 9, 9), (4, 9, 9)), ((4, 3, 3), (3, 3))):  # fmt: skip
        a, b = (jnp.asarray(rng.normal(size=size)) for size in (shape, other))
        np.testing.assert_allclose(product(a, b), a @ b, atol=1e-12)


# ------------------------------------------------------------------------------- arguments


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"dynamics_cov": jnp.ones((T - 1, D, D))}, "dynamics.cov: expected shape (T, D, D)"),
        ({"dynamics_weights": jnp.ones((D, D + 1))}, "dynamics.weights: expected shape (D, D)"),
        ({"dynamics_weights": None}, "dynamics.weights: expected an array, got None"),
        ({"emissions_weights": jnp.ones((N + 1, D))}, "emissions.weights: expected shape (N, D)"),
        ({"emissions_cov": jnp.ones((N + 1,))}, "emissions.cov: expected shape (N)"),
        ({"emissions_cov": lambda t: jnp.eye(N)}, "emissions.cov: expected an array, got a func"),
        ({"emissions_bias": jnp.ones((T, N + 1))}, "emissions.bias: expected shape (T, N)"),
        ({"dynamics_input_weights": jnp.ones((D, 1))}, "p) with N = 2, p = 1"),
        ({"initial_mean": jnp.ones((1, D))}, "initial.mean: expected shape (D)"),
    ],
)
def test_wrong_parameters(fields, message):
    params, y, u = make()
    # dynamax asserts; code that looks for either error keeps working.
    for error in (ValueError, AssertionError):
        with pytest.raises(error) as caught:
            lgssm_filter(change(params, **fields), y, u)
        assert message in str(caught.value)


def test_wrong_data():
    params, y, u = make()
    with pytest.raises(ValueError, match="emissions: expected finite values or NaN"):
        lgssm_filter(params, np.where(y == y[0, 0], np.inf, y), u)
    with pytest.raises(ValueError, match=r"emissions: expected shape \(T, N\)"):
        lgssm_filter(params, y[0], u)
    with pytest.raises(ValueError, match="at least one time step"):
        lgssm_filter(params, y[:0], u[:0])
    with pytest.raises(ValueError, match=r"inputs: expected shape \(T, p\)"):
        lgssm_filter(params, y, u[:-1])
    with pytest.raises(ValueError, match="inputs: expected an array, got None"):
        lgssm_filter(params, y)
    with pytest.raises(ValueError, match="method: expected one of 'auto'"):
        lgssm_filter(params, y, u, method="parallel")
    with pytest.raises(TypeError, match="emissions: expected real numbers"):
        lgssm_filter(params, y.astype(complex), u)
    with pytest.raises(TypeError, match="emissions: expected an array"):
        lgssm_filter(params, "y", u)


def test_an_ambiguous_emission_noise_is_static_as_in_dynamax():
    params, y, u = make(steps=N)
    with pytest.warns(UserWarning, match="emissions.cov: shape"):
        posterior = lgssm_smoother(params, y, u)
    assert_smoothed(posterior, joint(params, y, u))


def test_auto_is_sequential_on_a_cpu_and_associative_on_an_accelerator(monkeypatch):
    def chosen(steps):
        return choose_method("auto", DENSE, num_timesteps=steps)

    assert chosen(10_000) == "sequential"
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert chosen(10_000) == "associative"
    assert chosen(10) == "sequential"
    assert [cut_time(10, length).length for length in (None, 1, 20)] == [4, 1, 10]
