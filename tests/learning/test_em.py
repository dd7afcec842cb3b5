"""Expectation maximisation: monotone, the same M-steps as by dense smoothing, the same optimum."""

from functools import partial, reduce

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dynamax.parameters import from_unconstrained, to_unconstrained
from jax.flatten_util import ravel_pytree
from scipy.optimize import minimize
from tiers import cases

import ssmlin

OPTIONS = dict(progress=False)


def make(mechanism="gated_deltanet", m=2, steps=30, seed=0, **options):
    """A model at a random place away from its start, and data that it did not make."""
    rng = np.random.default_rng(seed)
    model = ssmlin.LinearAttentionSSM(mechanism, m, 2, 2, **options)
    u = jnp.asarray(rng.normal(size=(steps, 2)))
    y = jnp.asarray(rng.normal(size=(steps, m)) + np.asarray(u) @ rng.normal(size=(2, m)))
    params, props = model.initialize(jax.random.key(seed), emissions=y, inputs=u)
    if options.get("process_noise") != "none":
        q = params.process_noise.scale
        params = params._replace(process_noise=params.process_noise._replace(scale=q + 0.1))
    return model, params, props, y, u


@partial(jax.jit, static_argnums=(0, 4))
def _objective(model, params, y, u, use_prior):
    value = model.log_predictive(params, y, u).sum()
    return value + model.log_prior(params) if use_prior else value


def objective(model, params, y, u, use_prior=True):
    return _objective(model.given_missing(y), params, y, u, use_prior)


CASES = [
    ("gated_deltanet", {"row_cov": "full"}),
    ("mamba2", {"row_cov": "identity", "process_noise": "diagonal"}),
    ("deltanet", {"process_noise": "write"}),
    ("bayesian_memory", {}),
    ("kda", {"process_noise": "stationary", "row_cov": "full"}),
    ("rwkv7", {"process_noise": "none"}),
    ("deltaproduct", {"process_noise": "write", "row_cov": "identity"}),
    ("gla", {"gates": "constant"}),
    ("longhorn", {"process_noise": "diagonal", "row_cov": "full"}),
    ("vanilla", {"regression": "bias"}),
]


#: With and without a prior, gradient steps, and noise that writes; the memory.
CORE = (0, 2, 3, 5)


@pytest.mark.parametrize("case", cases(range(len(CASES)), *CORE), ids=[name for name, _ in CASES])
def test_never_decreases(case):
    mechanism, options = CASES[case]
    use_prior = case % 2 == 0
    gradient_steps = 2 if case % 3 == 0 else 0  # closed forms alone must not decrease it either
    model, params, props, y, u = make(mechanism, **options)
    fitted, log_probs = model.fit_em(
        params, props, y, u, 12, gradient_steps=gradient_steps, use_prior=use_prior, **OPTIONS
    )
    np.testing.assert_allclose(log_probs[0], objective(model, params, y, u, use_prior), rtol=1e-9)
    assert np.diff(log_probs).min() > -1e-8 * abs(log_probs[0])
    assert log_probs[-1] > log_probs[0] + 0.1
    assert objective(model, fitted, y, u, use_prior) >= log_probs[-1]
    np.testing.assert_array_equal(fitted.initial.mean, params.initial.mean)


@pytest.fixture(scope="module")
def padded():
    """Two sequences, one of them shorter, with entries missing."""
    model, params, props, y, u = make(steps=40)
    y = y.at[3, 0].set(jnp.nan).at[8].set(jnp.nan)
    ys = jnp.stack([y, jnp.where(jnp.arange(40)[:, None] < 25, -y, jnp.nan)])
    us = jnp.stack([u, jnp.where(jnp.arange(40)[:, None] < 25, u**2, 0.0)])
    return model, params, props, ys, us


def test_missing_entries_batches_and_padding(padded):
    model, params, props, ys, us = padded
    _, log_probs = model.fit_em(params, props, ys, us, 10, gradient_steps=1, **OPTIONS)
    seen = model.given_missing(ys)
    one, two = (_objective(seen, params, y, u, False) for y, u in zip(ys, us, strict=True))
    expected = model.log_prior(params) + one + two
    np.testing.assert_allclose(log_probs[0], expected, rtol=1e-9)
    assert np.diff(log_probs).min() > -1e-8 * abs(log_probs[0])


def dense_moments(lgssm, y):
    """Mean and covariance of (vec S_0, ..., vec S_T) given y, by conditioning one big Gaussian."""
    a, b, q = (np.asarray(lgssm.to_dense()[k]) for k in "ABQ")
    rows, steps = np.asarray(lgssm.row_cov), len(y)
    m, d = lgssm.initial_mean.shape
    n = m * d
    mean = np.zeros((steps + 1, n))
    cov = np.zeros((steps + 1, n, steps + 1, n))
    mean[0] = np.asarray(lgssm.initial_mean).ravel()
    cov[0, :, 0] = np.kron(rows, np.asarray(lgssm.initial_cov))
    for t in range(1, steps + 1):
        f = np.kron(np.eye(m), a[t - 1].T)
        mean[t] = f @ mean[t - 1] + b[t - 1].ravel()
        for s in range(t):
            cov[t, :, s] = f @ cov[t - 1, :, s]
            cov[s, :, t] = cov[t, :, s].T
        cov[t, :, t] = f @ cov[t - 1, :, t - 1] @ f.T + np.kron(rows, q[t - 1])
    size = (steps + 1) * n
    mean, cov = mean.ravel(), cov.reshape(size, size)
    h = np.zeros((steps * m, size))
    for t in range(steps):
        block = np.kron(np.eye(m), np.asarray(lgssm.readout[t])[None])
        h[t * m : (t + 1) * m, (t + 1) * n : (t + 2) * n] = block
    r = np.kron(np.diag(np.asarray(lgssm.emission_noise)), rows)
    target = (np.asarray(y) - np.asarray(lgssm.emission_bias)).ravel()
    gain = cov @ h.T @ np.linalg.inv(h @ cov @ h.T + r)
    return (
        (mean + gain @ (target - h @ mean)).reshape(steps + 1, m, d),
        (cov - gain @ h @ cov).reshape(steps + 1, m, d, steps + 1, m, d),
        a,
        b,
    )


@pytest.mark.parametrize("row_cov", ["full", "diagonal", "identity"])
def test_m_steps_are_those_of_the_smoothed_moments(row_cov):
    """Every closed form without a prior, from moments of the whole path in NumPy."""
    model, params, _, y, u = make(steps=7, row_cov=row_cov)
    lgssm = model.to_lgssm(params, u)
    mean, cov, a, b = dense_moments(lgssm, y)
    m, d, steps = 2, 2, 7
    rows = np.asarray(lgssm.row_cov)
    inverse = np.linalg.inv(rows)

    def second(x, x_cov):
        """E[X W Xᵀ] summed over columns with W = I, for X of mean x and covariance x_cov."""
        return x @ x.T + np.einsum("icjc->ij", x_cov)

    shocks = np.zeros((m, m))
    for t in range(1, steps + 1):
        x = mean[t] - mean[t - 1] @ a[t - 1] - b[t - 1]
        now, before = cov[t, :, :, t], cov[t - 1, :, :, t - 1]
        across = np.einsum("icje,ef->icjf", cov[t, :, :, t - 1], a[t - 1])
        past = np.einsum("iejf,ec,fg->icjg", before, a[t - 1], a[t - 1])
        both = now - across - across.transpose(2, 3, 0, 1) + past
        shocks += second(x, both)
    q = float(params.process_noise.scale)
    args, blocks = (y[None], u[None]), model.closed_form_blocks(params)

    @jax.jit
    def updates(params):
        score = jax.grad(lambda p: objective(model, p, y, u, False))(params)
        return [
            model.closed_form_update(params, score, block, *args, use_prior=False)
            for block in (blocks[0], blocks[2 if row_cov == "identity" else 1])
        ]

    new, new_row_cov = updates(params)
    expected_q = np.trace(inverse @ shocks) / (steps * m * d)
    np.testing.assert_allclose(new.process_noise.scale, expected_q, rtol=1e-8)
    start = mean[0] - np.asarray(params.initial.mean)
    start_cov = cov[0, :, :, 0]
    for j in range(d):
        square = np.outer(start[:, j], start[:, j]) + start_cov[:, j, :, j]
        np.testing.assert_allclose(
            new.initial.variances[j], np.trace(inverse @ square) / m, rtol=1e-8
        )
    # D and d: least squares of y less what the state explains.
    explained = np.einsum("tmd,td->tm", mean[1:], np.asarray(lgssm.readout))
    design = np.concatenate([u, np.ones((steps, 1))], axis=1)
    theta = np.linalg.lstsq(design, np.asarray(y) - explained, rcond=None)[0].T
    np.testing.assert_allclose(new.regression.weights, theta[:, :2], rtol=1e-7)
    np.testing.assert_allclose(new.regression.bias, theta[:, 2], rtol=1e-7)

    error = np.asarray(y) - np.asarray(lgssm.emission_bias) - explained
    h = np.asarray(lgssm.readout)
    noise = error.T @ error
    for t in range(steps):
        noise += np.einsum("icje,c,e->ij", cov[t + 1, :, :, t + 1], h[t], h[t])
    if row_cov == "identity":
        np.testing.assert_allclose(
            new_row_cov.row_cov.noise, np.trace(noise) / (steps * m), rtol=1e-8
        )
        return
    total = shocks / q + noise / float(params.row_cov.noise)
    total += (start / np.asarray(params.initial.variances)) @ start.T
    total += np.einsum("icjc,c->ij", start_cov, 1 / np.asarray(params.initial.variances))
    expected = total / (d + steps * d + steps)
    expected = expected if row_cov == "full" else np.diag(expected)
    np.testing.assert_allclose(new_row_cov.row_cov.covariance, expected, rtol=1e-8)
    np.testing.assert_allclose(new_row_cov.initial.mean, mean[0], rtol=1e-8, atol=1e-10)


def test_the_same_optimum_as_by_gradients():
    model, params, props, y, u = make("bayesian_memory", m=1, steps=60)
    by_em, log_probs = model.fit_em(params, props, y, u, 40, **OPTIONS)
    start, unravel = ravel_pytree(to_unconstrained(params, props))

    def constrained(x):
        return from_unconstrained(unravel(x), props)

    loss = jax.jit(jax.value_and_grad(lambda x: -objective(model, constrained(x), y, u)))
    found = minimize(loss, start, jac=True, method="BFGS", options={"maxiter": 500})
    by_gradients = constrained(found.x)
    np.testing.assert_allclose(log_probs[-1], -found.fun, atol=1e-3)
    for path in ("row_cov.covariance", "regression.weights", "regression.bias"):
        a, b = (reduce(getattr, path.split("."), p) for p in (by_em, by_gradients))
        np.testing.assert_allclose(a, b, atol=0.02)


def test_what_is_not_trainable_stays():
    model, params, props, y, u = make(row_cov="full")
    frozen = jax.tree.map(
        lambda p: type(p)(trainable=False, constrainer=p.constrainer),
        (props.regression, props.row_cov),
        is_leaf=lambda p: hasattr(p, "trainable"),
    )
    # The first state's mean, fixed by default, can be learned.
    free = props.initial._replace(mean=props.regression.bias)
    some = props._replace(regression=frozen[0], row_cov=frozen[1], initial=free)
    fitted, log_probs = model.fit_em(params, some, y, u, 5, **OPTIONS)
    before, after = ((p.regression, p.row_cov) for p in (params, fitted))
    for a, b in zip(jax.tree.leaves(after), jax.tree.leaves(before), strict=True):
        np.testing.assert_array_equal(a, b)
    assert np.abs(fitted.initial.mean).max() > 0
    assert log_probs[-1] > log_probs[0] and np.diff(log_probs).min() > -1e-9


def test_bad_input(padded):
    model, params, props, y, u = padded
    with pytest.raises(ValueError, match="num_iters"):
        model.fit_em(params, props, y, u, 0, **OPTIONS)
    with pytest.raises(ValueError, match="emissions: expected shape"):
        model.fit_em(params, props, y[..., :1], u, **OPTIONS)
    bias = jnp.full_like(params.regression.bias, jnp.nan)
    bad = params._replace(regression=params.regression._replace(bias=bias))
    with pytest.raises(ValueError, match="params: expected a finite log posterior"):
        model.fit_em(bad, props, y, u, gradient_steps=1, **OPTIONS)


@pytest.mark.float32
def test_single_precision():
    model, params, props, y, u = make("bayesian_memory", steps=200, row_cov="full")
    _, log_probs = model.fit_em(params, props, y, u, 10, gradient_steps=2, **OPTIONS)
    assert log_probs.dtype == jnp.float32
    # Sums of 200 terms of size 3, each right to 6e-8.
    assert np.diff(log_probs).min() > -2e-3 and log_probs[-1] > log_probs[0] + 0.1
