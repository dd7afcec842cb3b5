"""The mechanisms and the deterministic recurrence against the formulas, token by token."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import (
    GATES,
    MECHANISMS,
    MULTI_STEP,
    SIGNED,
    blocked_matrix_states,
    dense_operators,
    random_tokens,
    unrolled_states,
)
from tiers import KINDS, cases, pairs

import ssmlin

pytestmark = pytest.mark.quick

METHODS = ("sequential", "associative", "chunked")


def test_every_registered_mechanism_is_tested():
    assert tuple(ssmlin.MECHANISMS) == MECHANISMS
    for name, cls in ssmlin.MECHANISMS.items():
        assert cls.name == name
        assert tuple(cls.gates) == GATES[name]
        assert cls.signed_gate == SIGNED.get(name)
        assert cls.multi_step == (name in MULTI_STEP)
        assert not inspect.isabstract(cls)
        assert cls.transition_formula and cls.drift_formula and cls.source


@pytest.mark.parametrize("name", MECHANISMS)
def test_operators_are_those_of_the_table(name):
    tokens = random_tokens(name, signed=True)
    lgssm = ssmlin.matrix_lgssm(name, **tokens, negative_eigenvalues=name in SIGNED)
    a, b = dense_operators(name, tokens)
    dense = lgssm.to_dense()
    np.testing.assert_allclose(dense["A"], a, atol=1e-12)
    np.testing.assert_allclose(dense["B"], b, atol=1e-12)
    num_steps = 2 if name in MULTI_STEP else 1
    assert lgssm.transition.rank == ssmlin.MECHANISMS[name]().rank(num_steps)


# Every mechanism with one driver, one of each kind with all of them.
@pytest.mark.parametrize(
    ("name", "method"),
    pairs(
        MECHANISMS,
        METHODS,
        lambda name, method: name in KINDS or METHODS[MECHANISMS.index(name) % 3] == method,
    ),
)
def test_all_drivers_equal_the_blocked_matrix_product(name, method):
    tokens = random_tokens(name, steps=7)
    a, b = dense_operators(name, tokens)
    start = np.random.default_rng(5).normal(size=(2, 3))
    outputs, states = ssmlin.linear_attention(
        name, **tokens, initial_state=start, method=method, return_states=True
    )
    expected = blocked_matrix_states(a, b, start)
    np.testing.assert_allclose(states, expected, atol=1e-10)
    np.testing.assert_allclose(
        outputs, np.einsum("tmd,td->tm", expected, tokens["queries"]), atol=1e-10
    )
    from_zero = ssmlin.linear_attention(name, **tokens, method=method, return_states=True)[1]
    np.testing.assert_allclose(from_zero, unrolled_states(a, b), atol=1e-10)


@pytest.mark.parametrize(
    ("name", "multi_step"),
    [(name, "combined") for name in MECHANISMS] + [(name, "reindexed") for name in MULTI_STEP],
)
def test_outputs_are_the_same_where_no_state_is_kept(name, multi_step):
    tokens = random_tokens(name, steps=7)
    start = np.random.default_rng(5).normal(size=(2, 3))
    states = blocked_matrix_states(*dense_operators(name, tokens), start)
    outputs = ssmlin.linear_attention(name, **tokens, initial_state=start, multi_step=multi_step)
    np.testing.assert_allclose(
        outputs, np.einsum("tmd,td->tm", states, tokens["queries"]), atol=1e-10
    )


@pytest.mark.float32
def test_outputs_alone_need_no_memory_for_states():
    steps, d, m = 1000, 32, 32
    shapes = {"keys": (steps, d), "queries": (steps, d), "values": (steps, m), "alpha": (steps,)}
    tokens = {name: jnp.zeros(shape, jnp.float32) for name, shape in shapes.items()}

    def temporary(method):
        function = jax.jit(lambda x: ssmlin.linear_attention("mamba2", **x, method=method))
        return function.lower(tokens).compile().memory_analysis().temp_size_in_bytes

    few = 8192
    assert temporary("auto") < 4 * steps * (2 * d + m) + few
    # The other drivers make all states.
    assert temporary("chunked") > 4 * steps * m * d


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", MULTI_STEP)
def test_micro_steps_reindexed_or_combined_agree(name, method):
    tokens = random_tokens(name, steps=5, n_h=3, signed=True)
    options = dict(method=method, negative_eigenvalues=True, return_states=True)
    combined = ssmlin.linear_attention(name, **tokens, multi_step="combined", **options)
    reindexed = ssmlin.linear_attention(name, **tokens, multi_step="reindexed", **options)
    np.testing.assert_allclose(combined[1], reindexed[1], atol=1e-12)
    np.testing.assert_allclose(combined[0], reindexed[0], atol=1e-12)


@pytest.mark.parametrize("steps", [1, 63, 64, 65, 130])
def test_chunks_of_any_length(steps):
    tokens = random_tokens("gated_deltanet", steps=steps)
    expected = ssmlin.linear_attention("gated_deltanet", **tokens, method="sequential")
    chunked = ssmlin.linear_attention("gated_deltanet", **tokens, method="chunked")
    np.testing.assert_allclose(chunked, expected, atol=1e-11)


@pytest.mark.parametrize("name", cases(MECHANISMS, *KINDS))
def test_gradients_reach_every_token_and_agree_between_drivers(name):
    tokens = random_tokens(name)

    def loss(tokens, method):
        return jnp.sum(jnp.tanh(ssmlin.linear_attention(name, **tokens, method=method)))

    start = np.ones((2, 3)) if name == "bayesian_memory" else None

    def loss_from(tokens, method):
        out = ssmlin.linear_attention(name, **tokens, initial_state=start, method=method)
        return jnp.sum(jnp.tanh(out))

    by_scan = jax.grad(loss_from)(tokens, "sequential")
    by_chunks = jax.grad(loss_from)(tokens, "chunked")
    for token, gradient in by_scan.items():
        np.testing.assert_allclose(gradient, by_chunks[token], atol=1e-10, err_msg=token)
        unused = name == "bayesian_memory" and token in ("values", "keys")
        assert bool(np.any(np.asarray(gradient) != 0)) != unused, token


def test_zero_keys_give_finite_values_and_gradients():
    tokens = random_tokens("deltanet")
    tokens["keys"][2] = 0.0

    def loss(keys):
        return jnp.sum(ssmlin.linear_attention("deltanet", **tokens | {"keys": keys}) ** 2)

    value, gradient = jax.value_and_grad(loss)(jnp.asarray(tokens["keys"]))
    assert np.isfinite(value) and np.isfinite(np.asarray(gradient)).all()


def test_scalar_gates_are_broadcast_and_batches_are_vmapped():
    tokens = random_tokens("gated_deltanet")
    tokens["alpha"], tokens["beta"] = 0.9, 0.5
    full = tokens | {"alpha": np.full(6, 0.9), "beta": np.full(6, 0.5)}
    one = ssmlin.linear_attention("gated_deltanet", **tokens)
    np.testing.assert_allclose(one, ssmlin.linear_attention("gated_deltanet", **full))
    batched = {name: jnp.stack([x, x]) for name, x in full.items()}
    both = jax.vmap(lambda kw: ssmlin.linear_attention("gated_deltanet", **kw))(batched)
    np.testing.assert_allclose(both, jnp.stack([one, one]), atol=1e-14)


#: Single steps of these may stretch a vector.
STRETCHING = ("rwkv7", "gated_deltanet2")


def test_transition_norms_stay_below_one_except_where_they_are_known_not_to():
    for name in MECHANISMS:
        signed = name in SIGNED
        for seed in range(20):
            tokens = random_tokens(name, seed=seed, signed=signed)
            a, _ = dense_operators(name, tokens)
            if name not in STRETCHING:
                assert np.linalg.norm(a, 2, axis=(1, 2)).max() <= 1 + 1e-12, name
    extreme = {
        "keys": np.ones((1, 2)),
        "values": np.ones((1, 1)),
        "queries": np.ones((1, 2)),
        "decay": np.ones((1, 2)),
        "removal_key": np.ones((1, 2)),
        "removal_rate": np.array([[1.0, 0.0]]),
    }
    a = ssmlin.matrix_lgssm("rwkv7", **extreme).to_dense()["A"][0]
    np.testing.assert_allclose(np.linalg.norm(a, 2), 1.1441, atol=1e-4)


@pytest.mark.parametrize(
    ("signed", "bound", "overlap"), [(False, 2 / np.sqrt(3), 1 / 3), (True, np.sqrt(2), 1 / 2)]
)
def test_separate_gates_stretch_by_no_more_than_their_sharp_bound(signed, bound, overlap):
    """The largest norm is where b is at its ends and its share of the key is `overlap`."""
    worst = {
        "keys": np.sqrt([[overlap, 1 - overlap]]),
        "values": np.ones((1, 1)),
        "queries": np.ones((1, 2)),
        "decay": np.ones((1, 2)),
        "erase": np.array([[2.0 if signed else 1.0, 0.0]]),
        "write": np.ones((1, 1)),
    }
    model = ssmlin.matrix_lgssm("gated_deltanet2", **worst, negative_eigenvalues=signed)
    np.testing.assert_allclose(np.linalg.norm(model.to_dense()["A"][0], 2), bound, rtol=1e-12)
    low = -1 if signed else 0
    for d in (1, 2, 3):
        tokens = random_tokens("gated_deltanet2", steps=2000, d=d, signed=signed)
        # Half of the gates at the ends of their interval, where norms are largest.
        rng = np.random.default_rng(d)
        ends = np.where(rng.random((2000, d)) < 0.5, 0.0, 2.0 if signed else 1.0)
        tokens["erase"] = np.where(rng.random((2000, d)) < 0.5, ends, tokens["erase"])
        a, _ = dense_operators("gated_deltanet2", tokens)
        assert np.linalg.norm(a, 2, axis=(1, 2)).max() <= bound + 1e-12
        eigenvalues = np.linalg.eigvals(a)
        assert np.abs(eigenvalues.imag).max() < 1e-6
        assert low - 1e-9 <= eigenvalues.real.min() and eigenvalues.real.max() <= 1 + 1e-9


@pytest.mark.parametrize("limit", ["kda", "gated_deltanet"])
def test_gates_that_are_equal_in_all_channels_give_the_mechanisms_with_one_gate(limit):
    tokens = random_tokens(limit)
    expected = ssmlin.matrix_lgssm(limit, **tokens, write_noise=0.3).to_dense()
    beta = tokens.pop("beta")[:, None]
    decay = tokens.pop("decay") if limit == "kda" else tokens.pop("alpha")[:, None]
    gates = {"decay": decay, "erase": beta, "write": beta}
    found = ssmlin.matrix_lgssm("gated_deltanet2", **tokens, **gates, write_noise=0.3).to_dense()
    for name in ("A", "B", "Q"):
        np.testing.assert_allclose(found[name], expected[name], atol=1e-14, err_msg=name)


def test_where_nothing_is_written_values_and_gradients_are_finite():
    tokens = random_tokens("gated_deltanet2")
    tokens["write"][2] = 0.0

    def total(write):
        model = ssmlin.matrix_lgssm("gated_deltanet2", **tokens | {"write": write}, write_noise=0.3)
        return sum(jnp.sum(x) for x in model.to_dense().values())

    value, gradient = jax.value_and_grad(total)(jnp.asarray(tokens["write"]))
    assert np.isfinite(value) and np.isfinite(gradient).all()


def test_parity_needs_negative_eigenvalues_and_has_them():
    bits = np.random.default_rng(0).integers(0, 2, 4096).astype(float)
    parity = np.cumsum(bits) % 2
    ones = np.ones((4096, 1))
    # A one turns S into 1 − S (α = −1, write 1); a zero keeps S.
    out = ssmlin.linear_attention(
        "mamba2",
        keys=ones,
        queries=ones,
        values=bits[:, None],
        alpha=1 - 2 * bits,
        negative_eigenvalues=True,
    )
    np.testing.assert_array_equal(out[:, 0], parity)
    out = ssmlin.linear_attention(
        "deltanet",
        keys=ones,
        queries=ones,
        values=0.5 * ones,
        beta=2 * bits,
        negative_eigenvalues=True,
    )
    np.testing.assert_array_equal(out[:, 0], parity)


def test_runs_in_float32_and_keeps_it():
    tokens = random_tokens("rwkv7", dtype=np.float32)
    assert ssmlin.linear_attention("rwkv7", **tokens).dtype == jnp.float32
