"""Regression through each attention: against softmax, the past alone, paths, missing values."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from tiers import cases

from ssmlin.attention import karat_attention, slim_projection
from ssmlin.comparison._registry import DEFAULT, forecasters
from ssmlin.comparison.baselines import _attention_regression
from ssmlin.comparison.baselines._attention_models import SoftmaxRegression
from ssmlin.comparison.baselines._attention_parameters import ParamsAttentionRegression
from ssmlin.comparison.baselines._attention_regression import fit_attention_regression
from ssmlin.comparison.baselines._attention_variants import ATTENTIONS
from ssmlin.forecasting import Ahead, Observed, known_lags, lags_and_inputs

T, M, P = 26, 2, 3
#: Settings with which short series have several blocks, groups and windows.
SMALL = {
    "softmax": {},
    "slim": {},
    "xattention": {"threshold": 0.5, "block_size": 4, "stride": 2},
    "grouped": {"group_size": 3},
    "multi_token": {"query_size": 2, "key_size": 5},
    "karat": {"window": 5, "rank": 3},
}


def problem(name, seed=0, **settings):
    """A model with random parameters, and a series with inputs."""
    model = ATTENTIONS[name](**SMALL[name] | settings)
    rng = np.random.default_rng(seed)
    arrays = [jnp.asarray(rng.normal(size=shape)) for shape in model.shapes(M, P + 1, 4)]
    own = jax.tree.map(
        lambda x: jnp.asarray(x + 0.3 * rng.normal(size=x.shape)), model.init_own(jax.random.key(0))
    )
    params = ParamsAttentionRegression(
        *arrays, jnp.asarray(0.2), jnp.asarray(rng.normal(size=(M, P + 1))), jnp.eye(M) + 0.3, own
    )
    return model, params, jnp.asarray(rng.normal(size=(T, M))), jnp.asarray(rng.normal(size=(T, P)))


def loop_means(params, y, u):
    """The equation of the module, step by step."""
    queries, keys, values, recency, weights, _ = (np.asarray(x, np.float64) for x in params[:6])
    means = []
    for t in range(len(y)):
        x = np.append(u[t], 1.0)
        scores, read = [0.0], [np.zeros(y.shape[1])]
        for s in range(t):
            if np.isfinite(y[s]).all():
                k = keys @ np.append(u[s], 1.0)
                scores.append((queries @ x) @ k / np.sqrt(len(k)) - recency * (t - s - 1))
                read.append(values @ y[s])
        share = np.exp(np.array(scores) - max(scores))
        means.append(weights @ x + (share / share.sum()) @ np.array(read))
    return np.array(means)


def softmax_problem():
    rng = np.random.default_rng(0)
    y, u = rng.normal(size=(15, 2)), rng.normal(size=(15, 3))
    y[4, 0] = np.nan
    shapes = ((4, 4), (4, 4), (2, 2), (), (2, 4))
    arrays = [jnp.asarray(rng.normal(size=shape)) for shape in shapes]
    arrays[3] = jnp.asarray(0.2)
    return ParamsAttentionRegression(*arrays, jnp.eye(2) * 0.5 + 0.1), y, u


def test_the_softmax_regression_equals_a_loop_and_looks_back_only():
    params, y, u = softmax_problem()
    model = SoftmaxRegression()
    means_of, terms_of = jax.jit(model.means), jax.jit(model.log_predictive)
    means = np.asarray(means_of(params, y, u))
    assert np.allclose(means, loop_means(params, y, u), atol=1e-12)
    later = y.copy()
    later[9:] += 1
    assert np.array_equal(means[:10], means_of(params, later, u)[:10])
    terms = np.asarray(terms_of(params, y, u))
    law = stats.multivariate_normal(cov=np.asarray(params.noise))
    seen = np.isfinite(y).all(axis=1)
    assert np.allclose(terms[seen], law.logpdf((y - means)[seen]), atol=1e-10)
    assert terms[4] == 0
    grad = jax.jit(jax.grad(lambda p: model.log_predictive(p, y, u).sum()))(params)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(grad))


def test_paths_of_softmax_attention_follow_its_law():
    rng = np.random.default_rng(1)
    observed = Observed.of(np.cumsum(rng.normal(size=(50, 1)), axis=0) / 3)
    fitted = fit_attention_regression(observed, 0, num_lags=1, num_epochs=20)
    law = fitted.predict(observed)
    paths = fitted.simulate(observed, Ahead(np.array([20, 49]), 1, 4000))
    for i, origin in enumerate((20, 49)):
        assert paths[i, :, 0].mean() == pytest.approx(law.mean[origin, 0], abs=0.05)
        assert paths[i, :, 0].var() == pytest.approx(law.scales[origin, 0, 0, 0], rel=0.1)


# ------------------------------------------------------------------------------ all attentions


def identity(name):
    """Settings and parameters with which an attention is softmax attention; those of softmax."""
    _, softmax, y, u = problem("softmax")
    if name == "xattention":
        return {"threshold": 1.0}, softmax, softmax, y, u
    if name == "grouped":
        return {"group_size": 1}, softmax, softmax, y, u
    if name == "multi_token":  # of two heads, one reads nothing
        model, params, _, _ = problem(name)
        params = params._replace(
            queries=params.queries.at[:4].set(softmax.queries),
            keys=params.keys.at[:4].set(softmax.keys),
            values=params.values.at[:M].set(softmax.values).at[M:].set(0.0),
            weights=softmax.weights,
            own=model.init_own(),
        )
        return {}, params, softmax, y, u
    # Slim: y_s takes part in the keys, but queries do not look at it, and only it is a value. The
    # root of the keys' size divides the scores.
    size = M + P + 1
    keys = jax.scipy.linalg.block_diag(jnp.eye(M), softmax.keys)
    values = jnp.concatenate([softmax.values.T, jnp.zeros((P + 1, M))])
    queries = jnp.concatenate([jnp.zeros((M, P + 1)), softmax.queries * (size / (P + 1)) ** 0.5])
    projection = size * slim_projection(keys.T, values).T
    return {}, softmax._replace(queries=queries, keys=keys, values=projection), softmax, y, u


@pytest.mark.parametrize("name", ["slim", "xattention", "grouped", "multi_token"])
def test_each_attention_can_be_softmax_attention(name):
    settings, params, softmax, y, u = identity(name)
    model = ATTENTIONS[name](**SMALL[name] | settings)
    expected = loop_means(softmax, np.asarray(y), np.asarray(u))
    np.testing.assert_allclose(jax.jit(model.means)(params, y, u), expected, atol=1e-9)
    if settings:  # with others it is not
        other = jax.jit(ATTENTIONS[name](**SMALL[name]).means)(params, y, u)
        assert np.abs(other - expected).max() > 1e-3


def test_karat_equals_attention_of_the_last_tokens():
    model, params, y, u = problem("karat")
    found = jax.jit(model.means)(params, y, u)
    attend = jax.jit(partial(karat_attention, causal=False))
    y, u = np.asarray(y), np.asarray(u)
    ones = np.column_stack([u, np.ones(T)])
    q, k, v = ones @ params.queries.T, ones @ params.keys.T, y @ params.values.T
    for t in (0, 2, 9, T - 1):
        past = range(t - model.window, t)  # none before the first step: zeros
        keys, values = (
            np.stack([x[s] if s >= 0 else np.zeros_like(x[0]) for s in past]) for x in (k, v)
        )
        values *= np.exp(-0.2 * np.arange(model.window)[::-1])[:, None]
        queries = np.broadcast_to(q[t], keys.shape)
        read = attend(params.own, queries, keys, values)[-1]
        np.testing.assert_allclose(found[t], ones[t] @ params.weights.T + read, atol=1e-12)


@pytest.mark.parametrize("name", ATTENTIONS)
def test_only_the_past_is_looked_at(name):
    model, params, y, u = problem(name)
    means = jax.jit(model.means)
    found = np.asarray(means(params, y, u))
    for t in range(T):
        changed_y, changed_u = np.array(y), np.array(u)
        changed_y[t:] += 3.0
        changed_u[t + 1 :] -= 2.0
        later = np.asarray(means(params, changed_y, changed_u))
        np.testing.assert_allclose(later[: t + 1], found[: t + 1], atol=1e-12)
        assert t > T - 3 or np.abs(later[t + 2] - found[t + 2]).max() > 1e-6
    # How long the series is plays no role.
    np.testing.assert_allclose(means(params, y[:19], u[:19]), found[:19], atol=1e-12)


@pytest.mark.parametrize("name", ATTENTIONS)
def test_missing_values_poison_nothing(name):
    model, params, y, u = problem(name)
    partly = np.array(y)
    partly[0] = partly[7, 0] = partly[12:17] = np.nan
    terms = jax.jit(model.log_predictive)
    found = np.asarray(terms(params, partly, u))
    seen = np.isfinite(partly).all(axis=1)
    assert np.isfinite(found).all() and (found[~seen] == 0).all()
    other = partly.copy()
    other[7, 1] += 5.0
    np.testing.assert_allclose(terms(params, other, u), found, rtol=1e-12)

    def log_density(params):
        return model.log_predictive(params, partly, u).sum()

    # All parameters, the attention's own as well, have a gradient.
    for gradient in jax.tree.leaves(jax.jit(jax.grad(log_density))(params)):
        assert np.isfinite(gradient).all() and np.abs(gradient).max() > 1e-6
    prior = jax.tree.leaves(jax.jit(jax.grad(model.log_prior))(params)._replace(noise=()))
    assert all(np.abs(x).max() > 0 for x in prior)


@pytest.mark.parametrize("name", ATTENTIONS)
@pytest.mark.float32
def test_paths_are_made_of_one_step_laws(name):
    """Without noise the steps of a path are the means of the series that it goes on from."""
    num_lags = 1  # with one input more: the width of the problem
    model, params, y, u = problem(name)
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params)
    params = params._replace(weights=0.3 * params.weights, noise=1e-12 * jnp.eye(M))
    means = jax.jit(model.means)
    values = np.asarray(y, np.float64)
    observed = Observed(values, np.asarray(u, np.float64)[:, :1])
    paths = model.simulate(params, num_lags, observed, Ahead(np.array([12, 18]), 3, 5))
    assert paths.shape == (2, 5, 3, M)
    for origin, several in zip((12, 18), paths, strict=True):
        longer = observed._replace(values=values.copy())
        for h in range(3):
            inputs = np.asarray(lags_and_inputs(longer, num_lags), np.float32)
            emissions = np.asarray(longer.values, np.float32)
            emissions[:num_lags] = np.nan
            mean = np.asarray(means(params, emissions, inputs))[origin + h]
            np.testing.assert_allclose(several[:, h], np.broadcast_to(mean, (5, M)), atol=1e-4)
            longer.values[origin + h] = mean


def test_a_missing_lag_is_refused():
    values = np.random.default_rng(0).normal(size=(40, 1))
    values[[5, 39]] = np.nan
    message = "values: expected lags that are known for an attention.*missing value at step 6"
    with pytest.raises(ValueError, match=message):
        fit_attention_regression(Observed.of(values), 0, num_lags=1)
    # The last value is no lag of any step.
    assert known_lags(Observed.of(values[6:]), 1, "it").values.shape == (34, 1)


def test_attentions_are_known_by_name():
    train = Observed.of(np.random.default_rng(0).normal(size=(40, 1)))
    names = ("softmax_attention", "slim_attention", "xattention", "grouped_attention",
             "multi_token_attention", "karat_attention")  # fmt: skip
    found = forecasters(train, names)
    assert [one.name for one in found] == list(names)
    fits = [one.fit.keywords["fit"] for one in found]  # with or without a season
    assert [fit.keywords["attention"] for fit in fits] == list(ATTENTIONS)
    everything = [one.name for one in forecasters(train, ("all",))]
    assert set(names) <= set(everything) and len(everything) == len(set(everything))
    assert set(DEFAULT) & set(names) == {"softmax_attention"}
    with pytest.raises(ValueError, match="attention: expected one of 'softmax', 'slim'"):
        fit_attention_regression(train, 0, num_lags=1, attention="linear")


# Of the others, whether the length plays a role is tested above, without a fit.
@pytest.mark.parametrize("name", cases(ATTENTIONS, "softmax", "xattention"))
def test_padding_a_short_series_changes_nothing(name, monkeypatch):
    rng = np.random.default_rng(8)
    series = Observed(np.cumsum(rng.normal(size=(45, 2)), axis=0) / 3, rng.normal(size=(45, 1)))
    found = []
    for few in (0, 512):
        monkeypatch.setattr(_attention_regression, "_FEW_STEPS", few)
        fitted = fit_attention_regression(
            series.until(33), 0, num_lags=1, attention=name, key_dim=2, num_epochs=10
        )
        found.append(fitted.predict(series).log_prob(series.values))
    np.testing.assert_allclose(*found, rtol=2e-4, atol=2e-4)
