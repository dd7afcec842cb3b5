"""The row covariance integrated out, against matrix-t densities, quadrature and NumPy loops."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads
from oracles import MECHANISMS
from problems import make_problem, uniform
from scipy import integrate, stats
from scipy.special import gammaln, multigammaln

import ssmlin
from ssmlin import PosteriorMatrixLGSSM, RowCovLaw
from ssmlin.inference import integrate_row_covs, log_gamma_ratio, row_cov_laws
from ssmlin.models import IntegratedRowCov

T, M = 6, 2
FULL = RowCovLaw(jnp.asarray(4.5), jnp.array([[1.0, 0.3], [0.3, 0.5]]))
DIAGONAL = RowCovLaw(jnp.array([3.0, 5.0]), jnp.array([1.0, 0.4]))


def emission_law(dense):
    """Means (T, m) of the emissions and the covariance (T, T) of each column, relative to Σ."""
    a, b, q, h, r, m0, p0, _ = dense
    steps = len(a)
    mean, cov, means = m0, p0, []
    cross, gram = [], np.zeros((steps, steps))  # cross[s] = Cov(row of S_s, row of S_t)
    for t in range(steps):
        mean = mean @ a[t] + b[t]
        means.append(mean @ h[t])
        cov = a[t].T @ cov @ a[t] + q[t]
        cross = [c @ a[t] for c in cross] + [cov]
        for s in range(t + 1):
            gram[s, t] = gram[t, s] = h[s] @ cross[s] @ h[t]
    return np.array(means), gram + np.diag(r)


def matrix_t(y, means, gram, df, scale):
    """Log density of y − means ~ N(0, Σ ⊗ gram) with Σ ~ IW(df, scale), rows with NaN left out."""
    seen = ~np.isnan(y).any(axis=1)
    e, k = (y - means)[seen], gram[np.ix_(seen, seen)]
    n, m = e.shape
    total = scale + e.T @ np.linalg.solve(k, e)
    return (
        multigammaln((df + n) / 2, m)
        - multigammaln(df / 2, m)
        - 0.5 * n * m * np.log(np.pi)
        - 0.5 * m * np.linalg.slogdet(k)[1]
        + 0.5 * df * np.linalg.slogdet(scale)[1]
        - 0.5 * (df + n) * np.linalg.slogdet(total)[1]
    )


@jax.jit
def integrated(lgssm, y, prior):
    posterior = ssmlin.matrix_lgssm_filter(lgssm, y, store="loglik")
    return ssmlin.integrate_row_cov(posterior, y, prior, store="all")


@pytest.mark.parametrize("name", MECHANISMS)
def test_marginal_density_is_matrix_t(name):
    problem = make_problem(name, d=3, m=M)
    y = problem.emissions.copy()
    y[2] = np.nan
    y[4, 1] = np.nan  # Σ is full, so the whole step counts as missing
    lgssm, law = uniform(problem.lgssm), emission_law(problem.dense)
    got = integrated(lgssm, jnp.asarray(y), FULL)
    expected = matrix_t(y, *law, *map(np.asarray, FULL))
    np.testing.assert_allclose(got.marginal_loglik, expected, atol=1e-10)
    assert (got.log_predictive[jnp.array([2, 4])] == 0).all()
    rows = integrated(lgssm, jnp.asarray(problem.emissions), DIAGONAL)
    expected = sum(
        matrix_t(problem.emissions[:, [i]], law[0][:, [i]], law[1], float(df), np.eye(1) * scale)
        for i, (df, scale) in enumerate(zip(*DIAGONAL, strict=True))
    )
    np.testing.assert_allclose(rows.marginal_loglik, expected, atol=1e-10)


def test_marginal_density_is_the_integral_over_the_variance():
    problem = make_problem("gated_deltanet", steps=3, m=1)
    y = jnp.asarray(problem.emissions)
    prior = RowCovLaw(jnp.array([3.0]), jnp.array([0.8]))

    @jax.jit
    def likelihood(variance):
        lgssm = replace(problem.lgssm, row_cov=variance * jnp.eye(1))
        return jnp.exp(ssmlin.matrix_lgssm_filter(lgssm, y, store="loglik").marginal_loglik)

    law = stats.invgamma(1.5, scale=0.4)
    value, _ = integrate.quad(
        lambda v: float(likelihood(v)) * law.pdf(v), 0, np.inf, epsabs=0, epsrel=1e-9
    )
    posterior = ssmlin.matrix_lgssm_filter(problem.lgssm, y, store="loglik")
    got = ssmlin.integrate_row_cov(posterior, y, prior)
    np.testing.assert_allclose(got.marginal_loglik, np.log(value), atol=1e-7)
    # The posterior mean of the variance, by quadrature too.
    first, _ = integrate.quad(
        lambda v: v * float(likelihood(v)) * law.pdf(v), 0, np.inf, epsabs=0, epsrel=1e-9
    )
    np.testing.assert_allclose(got.row_cov.mean(), [first / value], rtol=1e-6)
    as_matrix = RowCovLaw(prior.df[0], prior.scale[:, None])
    full = ssmlin.integrate_row_cov(posterior, y, as_matrix)
    np.testing.assert_allclose(full.log_predictive, got.log_predictive, atol=1e-12)


def filtered(means, scales):
    """A posterior of which only the predictive moments matter."""
    nothing = jnp.zeros(())
    return PosteriorMatrixLGSSM(nothing, nothing, jnp.asarray(means), jnp.asarray(scales), nothing)


def student_loop(y, means, scales, df, scale):
    """The recursion of Quintana and West, step by step, with SciPy's densities."""
    m, terms = len(scale), []
    for observed, mean, s in zip(y, means, scales, strict=True):
        if np.isnan(observed).any():
            terms.append(0.0)
            continue
        n = df - m + 1
        terms.append(stats.multivariate_t(mean, s * scale / n, n).logpdf(observed))
        e = observed - mean
        scale, df = scale + np.outer(e, e) / s, df + 1
    return np.array(terms), df, scale


@settings(max_examples=8, deadline=None, derandomize=True)
@given(steps=st.integers(1, 7), m=st.integers(1, 4), seed=st.integers(0, 2**16))
def test_recursion_for_any_shape_and_missing_pattern(steps, m, seed):
    rng = np.random.default_rng(seed)
    means, scales = rng.normal(size=(steps, m)), rng.uniform(0.2, 3.0, size=steps)
    y = means + rng.standard_t(3, size=(steps, m))
    y[rng.random(size=(steps, m)) < rng.choice([0.0, 0.2, 1.0])] = np.nan
    mask, length = rng.random(steps) < 0.8, int(rng.integers(0, steps + 1))
    kept = np.where((mask & (np.arange(steps) < length))[:, None], y, np.nan)
    df, root = m - 1 + rng.uniform(0.5, 5), rng.normal(size=(m, m))
    scale = root @ root.T + 0.1 * np.eye(m)
    got = ssmlin.integrate_row_cov(
        filtered(means, scales),
        y,
        RowCovLaw(df, jnp.asarray(scale)),
        mask=mask,
        length=length,
        store="all",
    )
    terms, last_df, last_scale = student_loop(kept, means, scales, df, scale)
    np.testing.assert_allclose(got.log_predictive, terms, atol=1e-9)
    np.testing.assert_allclose(got.row_cov.df, last_df, rtol=1e-12)
    np.testing.assert_allclose(got.row_cov.scale, last_scale, rtol=1e-10, atol=1e-12)
    for t in range(steps):
        _, df_t, scale_t = student_loop(kept[:t], means[:t], scales[:t], df, scale)
        np.testing.assert_allclose(got.predictive_row_cov.df[t], df_t, rtol=1e-12)
        np.testing.assert_allclose(got.predictive_row_cov.scale[t], scale_t, rtol=1e-9, atol=1e-12)

    # Rows with scales of their own and single entries missing: each by itself.
    scales = rng.uniform(0.2, 3.0, size=(steps, m))
    law = RowCovLaw(jnp.asarray(rng.uniform(1, 5, m)), jnp.asarray(rng.uniform(0.1, 2, m)))
    got = ssmlin.integrate_row_cov(filtered(means, scales), y, law, store="all")
    total = np.zeros(steps)
    for i in range(m):
        terms, last_df, last_scale = student_loop(
            y[:, [i]], means[:, [i]], scales[:, i], float(law.df[i]), np.eye(1) * law.scale[i]
        )
        total += terms
        np.testing.assert_allclose(got.row_cov.df[i], last_df, rtol=1e-12)
        np.testing.assert_allclose(got.row_cov.scale[i], last_scale[0, 0], rtol=1e-10)
    np.testing.assert_allclose(got.log_predictive, total, atol=1e-9)


@pytest.mark.parametrize("prior", [FULL, DIAGONAL], ids=["full", "diagonal"])
def test_gradients_through_the_filter_are_those_of_finite_differences(prior):
    problem = make_problem("gated_deltanet")
    y = problem.emissions.copy()
    y[1] = y[3, 0] = np.nan
    y, weights = jnp.asarray(y), jnp.arange(1.0, T + 1)  # steps weigh differently
    which = "rows" if prior is FULL else "entries"

    @jax.jit
    def value(x):
        lgssm = replace(
            problem.lgssm,
            readout=problem.lgssm.readout * x["h"],
            emission_noise=problem.lgssm.emission_noise * x["r"],
            initial_mean=problem.lgssm.initial_mean + x["m"],
            row_cov=jnp.eye(M),
            independent_rows=True,
        )
        posterior = ssmlin.matrix_lgssm_filter(lgssm, y, store="loglik", missing=which)
        scale = prior.scale + 0.1 * (x["psi"] @ x["psi"].T if prior is FULL else x["psi"][0] ** 2)
        law = RowCovLaw(prior.df * x["r"], scale)
        return ssmlin.integrate_row_cov(posterior, y, law).log_predictive @ weights

    at = {
        "h": jnp.asarray(1.1),
        "r": jnp.asarray(0.9),
        "m": jnp.full((M, 3), 0.1),
        "psi": jnp.array([[0.3, -0.2], [0.5, 0.4]]),
    }
    check_grads(value, (at,), order=1, modes=["rev"], atol=1e-6, rtol=1e-6)
    # Forward over reverse, as Hessians are taken.
    rng = np.random.default_rng(0)
    direction = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape)), at)
    grad = jax.jit(jax.grad(value))
    _, slope = jax.jvp(grad, (at,), (direction,))
    up, down = (
        grad(jax.tree.map(lambda x, v, s=s: x + s * 1e-5 * v, at, direction)) for s in (1, -1)
    )
    for got, high, low in zip(*map(jax.tree.leaves, (slope, up, down)), strict=True):
        np.testing.assert_allclose(got, (high - low) / 2e-5, rtol=1e-5, atol=1e-5)


@pytest.mark.float32
@pytest.mark.parametrize("kind", ["full", "diagonal"])
def test_single_precision(kind):
    rng = np.random.default_rng(0)
    steps, m = 4000, 3
    means, scales = rng.normal(size=(steps, m)), rng.uniform(0.5, 2.0, size=steps)
    y = means + rng.normal(size=(steps, m)) @ rng.normal(size=(m, m))
    y[0] += 1e3
    means, scales, y = (x.astype(np.float32) for x in (means, scales, y))
    wide = [x.astype(np.float64) for x in (y, means, scales)]
    if kind == "full":
        law = RowCovLaw(jnp.asarray(5.0), 0.05 * jnp.eye(m))
        terms, _, scale = student_loop(*wide, 5.0, 0.05 * np.eye(m))
    else:
        law = RowCovLaw(jnp.full(m, 3.0), jnp.full(m, 0.05))
        rows = [student_loop(wide[0][:, [i]], wide[1][:, [i]], wide[2], 3.0, 0.05 * np.eye(1))
                for i in range(m)]  # fmt: skip
        terms, scale = sum(r[0] for r in rows), np.array([r[2][0, 0] for r in rows])

    got = ssmlin.integrate_row_cov(filtered(means, scales), y, law)
    assert got.log_predictive.dtype == got.row_cov.scale.dtype == jnp.float32
    assert got.row_cov.sample(jax.random.key(0)).dtype == jnp.float32
    np.testing.assert_allclose(got.log_predictive, terms, rtol=2e-4, atol=2e-4)
    np.testing.assert_allclose(got.marginal_loglik, terms.sum(), rtol=1e-5)
    np.testing.assert_allclose(got.row_cov.scale, scale, rtol=1e-3)

    # An outlier beside which the prior scale is lost.
    @jax.value_and_grad
    def total(means):
        return ssmlin.integrate_row_cov(filtered(means, scales), far, law).marginal_loglik

    far = jnp.asarray(y).at[0].add(1e6)
    assert all(np.isfinite(x).all() for x in total(jnp.asarray(means)))


@pytest.mark.parametrize("law", [FULL, DIAGONAL], ids=["full", "diagonal"])
def test_draws_of_the_row_covariance(law):
    law = law._replace(df=law.df + 6)  # so that the draws have a fourth moment
    n = 20_000
    draws = law.sample(jax.random.key(0), (n,))
    assert draws.shape == (n, *law.scale.shape)
    error = np.std(draws, axis=0) / np.sqrt(n)
    assert (np.abs(draws.mean(0) - law.mean()) < 4 * error).all()
    if law.is_diagonal:
        for i in range(M):
            expected = stats.invgamma(law.df[i] / 2, scale=law.scale[i] / 2)
            assert stats.kstest(draws[:, i], expected.cdf).pvalue > 1e-3
        np.testing.assert_allclose(law.mean(), law.scale / (law.df - 2))
    else:
        reference = stats.invwishart(float(law.df), np.asarray(law.scale))
        np.testing.assert_allclose(law.mean(), reference.mean(), rtol=1e-12)
        other = reference.rvs(n, random_state=0)
        for f in (np.linalg.det, lambda x: x[:, 0, 0], lambda x: x[:, 0, 1], lambda x: x[:, 1, 1]):
            assert stats.ks_2samp(f(np.asarray(draws)), f(other)).pvalue > 1e-3
    # A law for every step, with one draw from each.
    many = jax.tree.map(lambda x: jnp.stack([x, 2 * x, 3 * x]), law)
    assert many.is_diagonal == law.is_diagonal
    assert many.sample(jax.random.key(0)).shape == (3, *law.scale.shape)
    np.testing.assert_allclose(many.mean()[0], law.mean())


def test_no_mean_below_three_degrees_of_freedom():
    assert jnp.isnan(RowCovLaw(jnp.array([2.0]), jnp.ones(1)).mean()).all()
    assert jnp.isnan(RowCovLaw(jnp.asarray(3.0), jnp.eye(2)).mean()).all()


def test_errors_name_the_argument():
    y = jnp.zeros((T, M))
    shared, by_rows = filtered(y, jnp.ones(T)), filtered(y, jnp.ones((T, M)))
    with pytest.raises(TypeError, match="prior: expected a RowCovLaw"):
        ssmlin.integrate_row_cov(shared, y, (3.0, jnp.ones(M)))
    with pytest.raises(ValueError, match="prior.scale: expected shape"):
        ssmlin.integrate_row_cov(shared, y, RowCovLaw(3.0, jnp.ones(3)))
    with pytest.raises(ValueError, match="prior.scale: expected finite values > 0"):
        ssmlin.integrate_row_cov(shared, y, RowCovLaw(3.0, jnp.array([1.0, 0.0])))
    with pytest.raises(ValueError, match="prior.scale: expected finite values > 0"):
        ssmlin.integrate_row_cov(shared, y, RowCovLaw(3.0, jnp.ones((2, 2))))
    with pytest.raises(ValueError, match="prior.df: expected finite values > 1"):
        ssmlin.integrate_row_cov(shared, y, RowCovLaw(1.0, jnp.eye(M)))
    with pytest.raises(ValueError, match="prior.df: expected shape"):
        ssmlin.integrate_row_cov(shared, y, RowCovLaw(jnp.ones(M), jnp.eye(M)))
    with pytest.raises(ValueError, match="prior: expected a diagonal"):
        ssmlin.integrate_row_cov(by_rows, y, FULL)
    with pytest.raises(ValueError, match="emissions: expected shape"):
        ssmlin.integrate_row_cov(shared, y[:3], FULL)
    with pytest.raises(ValueError, match="posterior: expected emission_means"):
        ssmlin.integrate_row_cov(filtered(y[None], jnp.ones((1, T))), y, FULL)
    with pytest.raises(ValueError, match="store"):
        ssmlin.integrate_row_cov(shared, y, FULL, store="means")


@pytest.mark.parametrize("diagonal", [True, False])
def test_a_discount_forgets_before_observed_steps(diagonal):
    """Against a plain loop, with gaps, and its gradient against finite differences."""
    rng = np.random.default_rng(2)
    steps, m, delta = 9, 2, 0.8
    y = rng.normal(size=(steps, m))
    y[[3, 4]] = np.nan
    means, scales = rng.normal(size=(steps, m)), rng.uniform(0.5, 2, size=steps)
    posterior = PosteriorMatrixLGSSM(
        marginal_loglik=jnp.zeros(()), log_predictive=jnp.zeros(steps),
        emission_means=jnp.asarray(means), emission_scales=jnp.asarray(scales),
        row_cov=jnp.eye(m),
    )  # fmt: skip
    scale = np.array([[1.0, 0.3], [0.3, 2.0]])
    prior = RowCovLaw(jnp.asarray(5.0), jnp.asarray(scale))
    if diagonal:
        prior = RowCovLaw(jnp.asarray([4.0, 5.0]), jnp.asarray([1.0, 2.0]))
    found = ssmlin.integrate_row_cov(posterior, jnp.asarray(y), prior, discount=delta, store="all")
    n, psi = np.asarray(prior.student_df), np.asarray(prior.scale)
    for t in range(steps):
        before = found.predictive_row_cov
        np.testing.assert_allclose(before.student_df[t], delta * n, rtol=1e-12)
        np.testing.assert_allclose(before.scale[t], delta * psi, rtol=1e-12)
        if np.isnan(y[t]).any():
            assert found.log_predictive[t] == 0
            continue
        w = (y[t] - means[t]) / np.sqrt(scales[t])
        n, psi = delta * n, delta * psi
        if diagonal:
            laws = stats.t(n, means[t], np.sqrt(scales[t] * psi / n))
            expected = laws.logpdf(y[t]).sum()
            psi = psi + w**2
        else:
            law = stats.multivariate_t(means[t], scales[t] * psi / n, n)
            expected = law.logpdf(y[t])
            psi = psi + np.outer(w, w)
        np.testing.assert_allclose(found.log_predictive[t], expected, rtol=1e-10)
        n = n + 1
    np.testing.assert_allclose(found.row_cov.student_df, n, rtol=1e-12)
    np.testing.assert_allclose(found.row_cov.scale, psi, rtol=1e-12)

    def total(means, scale):
        law = prior._replace(scale=scale if diagonal else 0.5 * (scale + scale.T))
        given = posterior._replace(emission_means=means)
        return ssmlin.integrate_row_cov(given, jnp.asarray(y), law, discount=delta).marginal_loglik

    check_grads(total, (jnp.asarray(means), prior.scale), order=1, modes=["rev"])


def test_a_discount_out_of_range():
    posterior = PosteriorMatrixLGSSM(
        marginal_loglik=jnp.zeros(()), log_predictive=jnp.zeros(1),
        emission_means=jnp.zeros((1, 1)), emission_scales=jnp.ones(1), row_cov=jnp.eye(1),
    )  # fmt: skip
    law = RowCovLaw(jnp.ones(1), jnp.ones(1))
    for discount in (0.0, 1.1):
        with pytest.raises(ValueError, match="discount: expected a number in"):
            ssmlin.integrate_row_cov(posterior, jnp.zeros((1, 1)), law, discount=discount)
    with pytest.raises(ValueError, match="discount: expected a number in"):
        IntegratedRowCov(discount=0.5)


@pytest.mark.parametrize("by_rows", [True, False])
@pytest.mark.parametrize("diagonal", [True, False])
def test_several_discounts_at_once_and_the_laws_alone(diagonal, by_rows):
    """Against one discount after the other."""
    if by_rows and not diagonal:
        return
    rng = np.random.default_rng(3)
    steps, m, discounts = 11, 2, np.array([1.0, 0.9, 0.8])
    y = rng.normal(size=(steps, m))
    y[[3, 4]] = np.nan
    if by_rows:
        y[6, 1] = np.nan
    scales = rng.uniform(0.5, 2, size=(steps, m) if by_rows else steps)
    posterior = filtered(rng.normal(size=(steps, m)), scales)
    scale = np.array([[1.0, 0.3], [0.3, 2.0]])
    law = RowCovLaw(jnp.asarray(5.0), jnp.asarray(scale))
    if diagonal:
        law = RowCovLaw(jnp.asarray([4.0, 5.0]), jnp.asarray([1.0, 2.0]))
    priors = jax.tree.map(lambda x: jnp.stack([x, x, 2 * x]), law)
    found = integrate_row_covs(posterior, y, priors, discounts)
    for i, discount in enumerate(discounts):
        prior = jax.tree.map(lambda x, i=i: x[i], priors)
        one = ssmlin.integrate_row_cov(posterior, y, prior, discount=float(discount), store="all")
        np.testing.assert_allclose(found.marginal_loglik[i], one.marginal_loglik, rtol=1e-10)
        np.testing.assert_allclose(found.log_predictive[i], one.log_predictive, rtol=1e-10)
        for a, b in zip(found.row_cov, one.row_cov, strict=True):
            np.testing.assert_allclose(a[i], b, rtol=1e-10)
        laws = row_cov_laws(posterior, y, prior, discount)
        last = one.row_cov.discount(float(discount))
        for a, b, c in zip(laws, one.predictive_row_cov, last, strict=True):
            np.testing.assert_allclose(a[:-1], b, rtol=1e-10)
            np.testing.assert_allclose(a[-1], c, rtol=1e-10)


@pytest.mark.parametrize("h", [0.5, 1.0, 3.5])
def test_ratios_of_gammas_do_not_cancel(h):
    """Against exact products of integers, and SciPy's functions where those do not cancel."""
    x = np.concatenate([np.geomspace(1e-3, 50.0, 40), [1e3, 1e6]])
    found = np.asarray(log_gamma_ratio(jnp.asarray(x), h))
    np.testing.assert_allclose(found[:-2], (gammaln(x + h) - gammaln(x))[:-2], atol=1e-12)
    if h == 1.0:
        np.testing.assert_allclose(found, np.log(x), atol=5e-13)
    single = np.asarray(log_gamma_ratio(jnp.asarray(x, jnp.float32), h))
    np.testing.assert_allclose(single, found, atol=2e-6, rtol=5e-7)
