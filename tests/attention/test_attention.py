"""The softmax side against loops over its formulas; what each claims, and that none looks ahead."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssmlin import attention
from ssmlin.attention import (
    antidiagonal_scores,
    choose_blocks,
    grouped_attention,
    init_karat,
    init_multi_token,
    karat_attention,
    karat_weights,
    multi_token_attention,
    slim_attention,
    slim_projection,
    softmax_attention,
    xattention,
)

T, D, M = 13, 3, 2


def tokens(steps=T, seed=0, dtype=jnp.float64):
    rng = np.random.default_rng(seed)
    shapes = ((steps, D), (steps, D), (steps, M))
    return tuple(jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes)


def random_multi_token(heads, value_dim, seed=0):
    rng = np.random.default_rng(seed)
    params = init_multi_token(heads, value_dim, query_size=3, key_size=5)
    return jax.tree.map(lambda x: x + jnp.asarray(0.3 * rng.normal(size=x.shape)), params)


def as_two_heads(function):
    """A function of heads as one of single tokens: two heads, the second one reversed features."""

    def apply(q, k, v):
        stacked = (jnp.stack([x, x[:, ::-1]], axis=1) for x in (q, k, v))
        return function(*stacked).reshape(len(q), -1)

    return apply


KARAT = init_karat(jax.random.key(0), T, rank=4, num_frequencies=3)
MULTI = random_multi_token(2, M)
SLIM = jnp.asarray(np.random.default_rng(1).normal(size=(2 * D, 2 * M)))
CAUSAL = {
    "softmax": softmax_attention,
    "grouped": lambda q, k, v: grouped_attention(q, k, v, group_size=3),
    "karat": lambda q, k, v: karat_attention(KARAT, q, k, v),
    "multi_token": as_two_heads(lambda q, k, v: multi_token_attention(MULTI, q, k, v)),
    "slim": as_two_heads(lambda q, k, v: slim_attention(q, k, SLIM)),
    "xattention": lambda q, k, v: xattention(q, k, v, block_size=4, stride=2, method="masked"),
}


@pytest.mark.parametrize("name", CAUSAL)
def test_a_later_token_changes_nothing_earlier(name):
    q, k, v = tokens()
    before = CAUSAL[name](q, k, v)
    # XAttention chooses its blocks by sums over tiles, which end with their last token.
    at = 8 if name == "xattention" else 7
    later = [x.at[at:].add(1.5) for x in (q, k, v)]
    after = CAUSAL[name](*later)
    np.testing.assert_allclose(after[:at], before[:at], atol=1e-12)
    assert not np.allclose(after[at:], before[at:])


@pytest.mark.parametrize("name", CAUSAL)
def test_works_under_transformations_and_in_single_precision(name):
    q, k, v = tokens()
    function = CAUSAL[name]
    plain = function(q, k, v)
    np.testing.assert_allclose(jax.jit(function)(q, k, v), plain, atol=1e-12)
    batched = jax.jit(jax.vmap(function))(*(jnp.stack([x, 2 * x]) for x in (q, k, v)))
    np.testing.assert_allclose(batched[0], plain, atol=1e-12)
    np.testing.assert_allclose(batched[1], function(2 * q, 2 * k, 2 * v), atol=1e-12)
    grads = jax.jit(jax.grad(lambda *x: jnp.sum(function(*x) ** 2), argnums=(0, 1, 2)))(q, k, v)
    assert all(np.isfinite(g).all() for g in grads)
    single = jax.jit(function)(*(x.astype(jnp.float32) for x in (q, k, v)))
    # About 10² roundings of numbers of order one.
    np.testing.assert_allclose(single, plain, atol=1e-5 * max(1.0, float(jnp.abs(plain).max())))


@pytest.mark.parametrize("name", [n for n in CAUSAL if n not in ("multi_token", "slim")])
def test_bad_shapes_are_told_in_words(name):
    q, k, v = tokens()
    with pytest.raises(ValueError, match="keys: expected the queries' shape"):
        CAUSAL[name](q, k[:-1], v)
    with pytest.raises(ValueError, match="values: expected shape"):
        CAUSAL[name](q, k, v[:-1])
    with pytest.raises(TypeError, match="queries"):
        CAUSAL[name](jnp.ones((T, D), int), k, v)


def test_all_that_is_public_is_documented_with_its_source():
    for name in attention.__all__:
        assert getattr(attention, name).__doc__


# ------------------------------------------------------------------------------ grouped


def test_groups_equal_a_loop_and_are_exact_where_keys_are_equal():
    q, k, v = (np.asarray(x) for x in tokens())
    found = grouped_attention(*tokens(), group_size=3)
    for t in range(T):
        start = t // 3 * 3
        weight, read = [], []
        for g in range(0, start, 3):
            weight.append(3 * np.exp(q[t] @ k[g : g + 3].mean(0) / np.sqrt(D)))
            read.append(v[g : g + 3].mean(0))
        for s in range(start, t + 1):
            weight.append(np.exp(q[t] @ k[s] / np.sqrt(D)))
            read.append(v[s])
        expected = np.array(weight) @ np.array(read) / sum(weight)
        np.testing.assert_allclose(found[t], expected, atol=1e-12)
    q, k, v = tokens()
    np.testing.assert_allclose(grouped_attention(q, k, v, group_size=1),
                               softmax_attention(q, k, v), atol=1e-12)  # fmt: skip
    same = jnp.repeat(k[:5], 3, axis=0)[:T]
    np.testing.assert_allclose(grouped_attention(q, same, v, group_size=3),
                               softmax_attention(q, same, v), atol=1e-12)  # fmt: skip


# ------------------------------------------------------------------------------ slim


def heads_problem(condition, dtype=np.float64, seed=0):
    """Hidden states and weights of three heads, W_K of a given condition number."""
    rng = np.random.default_rng(seed)
    width = 6
    left, _ = np.linalg.qr(rng.normal(size=(width, width)))
    right, _ = np.linalg.qr(rng.normal(size=(width, width)))
    wk = left @ np.diag(np.geomspace(1, 1 / condition, width)) @ right
    wv, wq = rng.normal(size=(width, width)), rng.normal(size=(width, width))
    x = rng.normal(size=(T, width))
    return tuple(jnp.asarray(a, dtype) for a in (x, wq, wk, wv))


def slim_error(condition, dtype):
    x, wq, wk, wv = heads_problem(condition, dtype)
    split = lambda y: y.reshape(T, 3, 2)  # noqa: E731
    found = slim_attention(split(x @ wq), split(x @ wk), slim_projection(wk, wv))
    exact = heads_problem(condition)
    x, wq, wk, wv = exact
    every_head = jax.jit(jax.vmap(softmax_attention, in_axes=1, out_axes=1))
    expected = every_head(split(x @ wq), split(x @ wk), split(x @ wv))
    return float(jnp.abs(found - expected).max())


def test_slim_attention_is_attention_and_its_error_grows_with_the_condition():
    assert slim_error(10.0, np.float64) < 1e-12
    errors = [slim_error(condition, np.float32) for condition in (1.0, 1e2, 1e4)]
    assert errors[0] < 1e-5
    # Rounding of the keys is multiplied by up to the condition number.
    assert 5 * errors[0] < errors[1] and 5 * errors[1] < errors[2] < 1e4 * 1e-5


def test_slim_attention_refuses_what_it_cannot_do():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="square matrix .*multi-query"):
        slim_projection(jnp.asarray(rng.normal(size=(6, 2))), jnp.eye(6))
    with pytest.raises(ValueError, match="invertible matrix, got one of rank 5"):
        slim_projection(jnp.diag(jnp.arange(6.0)), jnp.eye(6))
    q = jnp.ones((T, 4, 2))
    with pytest.raises(ValueError, match="as many key heads as query heads"):
        slim_attention(q, q[:, :1], jnp.eye(8))
    with pytest.raises(ValueError, match="projection: expected shape"):
        slim_attention(q, q, jnp.eye(7))


# ------------------------------------------------------------------------------ KArAt


def test_karat_equals_a_loop():
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(T, T))
    found = karat_weights(KARAT, jnp.asarray(scores))
    a, b, w = (np.asarray(x) for x in KARAT)
    for t in range(T):
        units = np.zeros(4)
        for s in range(t + 1):
            for n in range(3):
                angle = (n + 1) * scores[t, s]
                units += a[:, s, n] * np.cos(angle) + b[:, s, n] * np.sin(angle)
        expected = np.where(np.arange(T) <= t, w @ units, 0.0)
        np.testing.assert_allclose(found[t], expected, atol=1e-12)
    assert (np.asarray(found) < 0).any()  # these weights need not be positive
    with pytest.raises(ValueError, match="params: expected parameters for 5 tokens"):
        karat_attention(KARAT, *(x[:5] for x in tokens()))


def test_karat_learns_an_activation_through_all_its_parameters():
    """Diagonal scores through one unit each can become any function of their series."""
    x = jnp.linspace(-1.5, 1.5, 40)
    params = init_karat(jax.random.key(1), 1, rank=2, num_frequencies=5)
    target = jnp.tanh(2 * x)

    def loss(params):
        found = jax.vmap(lambda s: karat_weights(params, s[None, None])[0, 0])(x)
        return jnp.mean((found - target) ** 2)

    value = jax.jit(jax.value_and_grad(loss))
    _, grad = value(params)
    assert all(np.abs(g).max() > 1e-3 for g in grad)
    for _ in range(400):
        now, grad = value(params)
        params = jax.tree.map(lambda p, g: p - 0.2 * g, params, grad)
    assert now < 1e-3


# ------------------------------------------------------------------------------ multi-token


def test_multi_token_attention_equals_a_loop():
    heads = 2
    rng = np.random.default_rng(2)
    q, k, v = (rng.normal(size=(T, heads, n)) for n in (D, D, M))
    found = multi_token_attention(MULTI, jnp.asarray(q), jnp.asarray(k), jnp.asarray(v))
    kernel, mixing, norm = (np.asarray(x) for x in MULTI)
    weights = np.zeros((heads, T, T))
    for h in range(heads):
        for t in range(T):
            scores = np.full(T, -np.inf)
            for s in range(t + 1):
                scores[s] = sum(
                    kernel[h, i, j + 2] * (q[t - i, h] @ k[s - j, h]) / np.sqrt(D)
                    for i in range(3)
                    for j in range(-2, 3)
                    if 0 <= t - i and 0 <= s - j <= t - i
                )
            share = np.exp(scores - scores.max())
            weights[h, t] = share / share.sum()
    mixed = np.einsum("gh,hts->gts", mixing, weights)
    read = np.einsum("hts,shm->thm", mixed, v)
    expected = norm * read / np.sqrt(np.mean(read**2, axis=-1, keepdims=True))
    np.testing.assert_allclose(found, expected, atol=1e-7)


def test_the_identity_of_multi_token_attention_is_attention():
    q, k, v = (jnp.stack([x, -x], axis=1) for x in tokens())
    found = multi_token_attention(init_multi_token(2, None), q, k, v)
    expected = jax.jit(jax.vmap(softmax_attention, in_axes=1, out_axes=1))(q, k, v)
    np.testing.assert_allclose(found, expected, atol=1e-12)
    with pytest.raises(ValueError, match="key_size: expected an odd number"):
        init_multi_token(2, None, key_size=4)
    with pytest.raises(ValueError, match="params: expected those of 2 heads"):
        multi_token_attention(init_multi_token(3, None), q, k, v)


# ------------------------------------------------------------------------------ XAttention


def test_the_estimate_is_the_sum_over_antidiagonals():
    q, k, _ = tokens(12)
    scores, stride = np.asarray(q @ k.T), 3
    found = antidiagonal_scores(q, k, stride)
    for i in range(4):
        for j in range(4):
            tile = scores[3 * i : 3 * i + 3, 3 * j : 3 * j + 3]
            np.testing.assert_allclose(found[i, j], np.trace(tile[::-1]), atol=1e-12)


@pytest.mark.parametrize("method", ["blocks", "masked"])
@pytest.mark.parametrize("steps", [12, 13, 5])
def test_a_threshold_of_one_is_full_attention(method, steps):
    q, k, v = tokens(steps)
    found = xattention(q, k, v, threshold=1.0, block_size=4, stride=2, method=method)
    np.testing.assert_allclose(found, softmax_attention(q, k, v), atol=1e-12)


def test_both_methods_agree_and_blocks_hold_the_mass_that_was_asked_for():
    rng = np.random.default_rng(3)
    q, k = (jnp.asarray(3 * rng.normal(size=(64, D))) for _ in range(2))
    v = jnp.asarray(rng.normal(size=(64, M)))
    last = 0
    for threshold in (0.3, 0.6, 0.9, 1.0):
        kept = np.asarray(choose_blocks(q, k, threshold, block_size=8, stride=2))
        assert kept[:, 0].all() and np.diag(kept).all() and not np.triu(kept, 1).any()
        assert kept.sum() >= last
        last = kept.sum()
        # The estimate itself, by its formula.
        scores = np.asarray(antidiagonal_scores(q, k, 2)) / (np.sqrt(D) * 2)
        scores = np.where(np.tri(32, dtype=bool), scores, -np.inf)
        weights = np.exp(scores - scores.max(axis=1, keepdims=True))
        weights /= weights.sum(axis=1, keepdims=True)
        mass = weights.reshape(8, 4, 8, 4).sum(axis=(1, 3)) / 4
        assert ((mass * kept).sum(axis=1) >= threshold - 1e-12).all()
        for row in range(8):  # and no smaller set would do
            without = np.sort(mass[row])[::-1]
            needed = int((np.cumsum(without) < threshold - 1e-12).sum()) + 1
            assert kept[row].sum() <= needed + 2
        both = [xattention(q, k, v, threshold=threshold, block_size=8, stride=2, method=method)
                for method in ("blocks", "masked")]  # fmt: skip
        np.testing.assert_allclose(*both, atol=1e-12)


def test_fewer_blocks_are_kept_where_attention_is_concentrated():
    rng = np.random.default_rng(4)
    directions = rng.normal(size=(8, 16))
    topic = np.repeat(rng.permutation(8), 16)
    q = k = jnp.asarray(4 * directions[topic] + 0.1 * rng.normal(size=(128, 16)))
    kept = choose_blocks(q, k, 0.9, block_size=16, stride=4)
    spread = choose_blocks(0 * q, k, 0.9, block_size=16, stride=4)
    assert int(kept.sum()) <= 16 < 30 < int(spread.sum())
    v = jnp.asarray(rng.normal(size=(128, 2)))
    found = xattention(q, k, v, block_size=16, stride=4)
    np.testing.assert_allclose(found, softmax_attention(q, k, v), atol=1e-3)


def test_bad_numbers_are_told_in_words():
    q, k, v = tokens()
    with pytest.raises(ValueError, match="block_size: expected a multiple of 4, got 6"):
        xattention(q, k, v, block_size=6, stride=4)
    with pytest.raises(ValueError, match="threshold: expected a number in"):
        xattention(q, k, v, threshold=0.0, block_size=4, stride=2)
