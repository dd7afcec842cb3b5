"""Windows of any size give the terms of the whole, with all that is integrated out."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from dynamax.parameters import ParameterProperties
from tiers import cases

import ssmlin
from ssmlin.learning import fit_stream
from ssmlin.models import IntegratedRowCov, StateLaw

T, M, D = 12, 2, 2
CASES = {
    "diagonal": {"row_cov": "integrated_diagonal"},
    "forgetting": {"row_cov": IntegratedRowCov(discount=0.9)},
    "full": {"row_cov": "integrated_full"},
    "all": {"row_cov": IntegratedRowCov("full", discount=0.9), "regression": "integrated"},
    "entries": {"row_cov": IntegratedRowCov(discount=0.9)},
    "entries given Σ": {},
    "approximate": {"row_cov": "integrated_diagonal", "covariance": "diagonal"},
    "isotropic": {"covariance": "isotropic"},
    "reset": {"covariance": "reset"},
}  # fmt: skip


def make(case):
    """A model away from its start, and data of which some steps are missing."""
    model = ssmlin.LinearAttentionSSM("mamba2", M, 1, D, gates="constant", **CASES[case])
    rng = np.random.default_rng(0)
    y = rng.normal(size=(T, M)).cumsum(axis=0) * np.linspace(0.3, 1, T)[:, None]
    y[2] = y[7] = np.nan
    if case.startswith("entries"):
        y[5, 0] = np.nan
    u = jnp.asarray(rng.normal(size=(T, 1)))
    params, props = model.initialize(jax.random.key(1), process_noise=0.1)
    values = params.tokens.values
    values = values._replace(bias=values.bias + 0.7)
    params = params._replace(tokens=params.tokens._replace(values=values))
    return model, params, props, jnp.asarray(y), u


def frozen(props):
    return jax.tree.map(
        lambda prop: ParameterProperties(False, prop.constrainer),
        props,
        is_leaf=lambda x: isinstance(x, ParameterProperties),
    )


#: Whose gradient is looked at, too; it takes long to compile.
WITH_GRADIENT = ("all", "entries")


@pytest.mark.parametrize("case", cases(CASES, "diagonal", "all", "entries", "approximate"))
def test_windows_of_any_size_give_the_terms_of_the_whole_and_their_gradient(case):
    model, params, _, y, u = make(case)
    seen = model.given_missing(y)

    def windows(params):
        law, found = seen.initial_law(params), []
        for start, end in ((0, 5), (5, 12)):
            terms, law = seen.filter_window(params, law, y[start:end], u[start:end])
            found.append(terms)
        return jnp.concatenate(found)

    def whole(params):
        return seen.log_predictive(params, y, u)

    @jax.jit
    def run(params):
        if case not in WITH_GRADIENT:
            return (windows(params), None), (whole(params), None)
        sums = [lambda p, f=f: (f(p).sum(), f(p)) for f in (windows, whole)]
        both = [jax.value_and_grad(f, has_aux=True)(params) for f in sums]
        return [(terms, grad) for (_, terms), grad in both]

    (terms, found), (expected_terms, expected) = run(params)
    np.testing.assert_allclose(terms, expected_terms, rtol=1e-10, atol=1e-12)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-9)


def test_a_window_is_student_t():
    """Against SciPy: one step after a law of Σ and a state that is known."""
    from scipy import stats

    model, params, _, _, u = make("all")
    k = model.initial_law(params).mean.shape[1]
    law = StateLaw(
        jnp.zeros((M, k)), jnp.eye(k), ssmlin.RowCovLaw(jnp.asarray(7.0), 2 * jnp.eye(M))
    )
    y = jnp.asarray([[1.0, -0.5]])
    terms, after = model.filter_window(params, law, y, u[:1])
    one = model.to_lgssm(params, u[:1])
    a, b, q = (np.asarray(one.to_dense()[name][0]) for name in "ABQ")
    h = np.asarray(one.readout[0])
    scale = h @ (a.T @ a + q) @ h + float(one.emission_noise[0])
    # Before an observed step n = ν − m + 1 and Ψ are discounted, which leaves Ψ / n.
    n = 0.9 * (7.0 - M + 1)
    psi = 0.9 * 2 * np.eye(M)
    expected = stats.multivariate_t(b @ h, scale * psi / n, n).logpdf(np.asarray(y[0]))
    np.testing.assert_allclose(terms[0], expected, rtol=1e-9)
    error = np.asarray(y[0]) - b @ h
    np.testing.assert_allclose(after.row_cov.scale, psi + np.outer(error, error) / scale, rtol=1e-9)
    np.testing.assert_allclose(after.row_cov.student_df, n + 1, rtol=1e-12)


@pytest.mark.parametrize("case", ["all", "entries"])
def test_fits_by_windows_and_streams_maximise_the_same(case):
    model, params, props, y, u = make(case)
    terms = model.given_missing(y).log_predictive(params, y, u)
    count = int(np.isfinite(y).sum())
    if case == "all":
        _, losses = model.fit_sgd(
            params, props, y, u, optax.sgd(0.0), num_epochs=1, window_size=4,
            validation_fraction=0.0, progress=False,
        )  # fmt: skip
        expected = -(model.log_prior(params) + terms.sum()) / count
        np.testing.assert_allclose(losses[0], expected, rtol=1e-9)
    windows = [(y[i : i + 4], u[i : i + 4]) for i in (0, 4, 8)]
    _, found = fit_stream(model, params, frozen(props), lambda: windows, 3, count, progress=False)
    np.testing.assert_allclose(found[0], terms.reshape(3, 4).sum(axis=1), rtol=1e-9)


def test_what_cannot_be_told():
    model, params, props, y, u = make("full")
    partly = y.at[1, 0].set(jnp.nan)
    read = lambda: [(partly, u)]  # noqa: E731
    with pytest.raises(ValueError, match="emissions: expected none that are partly missing"):
        fit_stream(model, params, props, read, 1, 19, progress=False)
    with pytest.raises(ValueError, match="emissions: expected none that are partly missing"):
        model.fit_sgd(params, props, partly, u, progress=False)
    mean, cov, _ = model.initial_law(params)
    with pytest.raises(ValueError, match="law: expected one with the law of Σ"):
        model.filter_window(params, (mean, cov), y, u)
