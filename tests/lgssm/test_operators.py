"""Every structured operator against its dense twin."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssmlin.lgssm import DPLR, DiagPlusLowRank, LowRank, Operator

pytestmark = pytest.mark.quick


def draw_dplr(rng, lead, d, k):
    return DPLR(
        jnp.asarray(rng.normal(size=(*lead, d))),
        jnp.asarray(rng.normal(size=(*lead, d, k))),
        jnp.asarray(rng.normal(size=(*lead, d, k))),
    )


# One column, more rank than columns, and no low-rank part are among these: (d, k1, k2).
SHAPES = list(itertools.product((1, 4), (0, 3), (0, 2)))


@pytest.mark.parametrize(("d", "k1", "k2"), SHAPES)
def test_transition_algebra_is_that_of_the_dense_matrices(d, k1, k2):
    rng = np.random.default_rng(0)
    first, then = draw_dplr(rng, (2,), d, k1), draw_dplr(rng, (2,), d, k2)
    rows = jnp.asarray(rng.normal(size=(2, 3, d)))
    composed = first.compose(then)
    assert composed.rank == k1 + k2
    np.testing.assert_allclose(composed.to_dense(), first.to_dense() @ then.to_dense(), atol=1e-12)
    np.testing.assert_allclose(first.apply(rows), rows @ first.to_dense(), atol=1e-12)
    np.testing.assert_allclose(first.T.to_dense(), first.to_dense().mT, atol=0)


@pytest.mark.parametrize(("d", "k1", "k2"), SHAPES)
def test_drift_algebra_is_that_of_the_dense_matrices(d, k1, k2):
    rng = np.random.default_rng(0)

    def draw(k):
        return LowRank(
            jnp.asarray(rng.normal(size=(2, 3, k))), jnp.asarray(rng.normal(size=(2, d, k)))
        )

    one, two, a = draw(k1), draw(k2), draw_dplr(rng, (2,), d, k2)
    np.testing.assert_allclose(
        one.apply_transition(a).to_dense(), one.to_dense() @ a.to_dense(), atol=1e-12
    )
    np.testing.assert_allclose(one.add(two).to_dense(), one.to_dense() + two.to_dense(), atol=1e-12)


def draw_operators(rng, d=3, k=2):
    """One of each kind, all d × d."""
    factor = jnp.asarray(rng.normal(size=(2, d, k)))
    return [
        draw_dplr(rng, (2,), d, k),
        LowRank(jnp.asarray(rng.normal(size=(2, d, 1))), jnp.asarray(rng.normal(size=(2, d, 1)))),
        DiagPlusLowRank(jnp.asarray(rng.uniform(size=(2, d))), factor),
        DiagPlusLowRank(None, factor),
    ]


@pytest.mark.parametrize("kind", range(4))
def test_all_operators_have_one_interface(kind):
    rng = np.random.default_rng(0)
    operators = draw_operators(rng)
    operator, rows = operators[kind], rng.normal(size=(2, 4, 3))
    dense = np.asarray(operator.to_dense())
    transposed = np.swapaxes(dense, 1, 2)
    assert isinstance(operator, Operator) and type(operator.T) is type(operator)
    np.testing.assert_allclose(operator.T.to_dense(), transposed, atol=1e-14)
    np.testing.assert_allclose(operator.apply(jnp.asarray(rows)), rows @ dense, atol=1e-12)
    np.testing.assert_allclose(
        operator.apply_transpose(jnp.asarray(rows)), rows @ transposed, atol=1e-12
    )
    # From the left with arrays of JAX and of NumPy, from the right with columns.
    np.testing.assert_allclose(jnp.asarray(rows) @ operator, rows @ dense, atol=1e-12)
    np.testing.assert_allclose(rows @ operator, rows @ dense, atol=1e-12)
    columns = jnp.asarray(np.swapaxes(rows, 1, 2))
    np.testing.assert_allclose(operator @ columns, dense @ columns, atol=1e-12)
    for other in operators:
        product = operator @ other
        assert isinstance(product, Operator) and product.rank <= operator.rank + other.rank
        np.testing.assert_allclose(product.to_dense(), dense @ other.to_dense(), atol=1e-12)


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_noise_is_applied_and_drawn_as_its_dense_twin(rank):
    rng = np.random.default_rng(rank)
    # One diagonal entry is zero: with rank 0 the covariance is singular.
    noise = DiagPlusLowRank(
        jnp.asarray([[0.5, 0.0, 1.0]]), jnp.asarray(rng.normal(size=(1, 3, rank)))
    )
    rows = jnp.asarray(rng.normal(size=(1, 2, 3)))
    dense = np.diag([0.5, 0.0, 1.0]) + np.asarray(noise.factor[0] @ noise.factor[0].T)
    np.testing.assert_allclose(noise.to_dense()[0], dense, atol=1e-12)
    np.testing.assert_allclose(noise.apply(rows)[0], rows[0] @ dense, atol=1e-12)
    draws = np.asarray(noise.sample(jax.random.key(0), 40_000))[0]
    np.testing.assert_allclose(np.cov(draws.T), dense, atol=0.06 * max(1, dense.max()))


def test_operators_are_pytrees():
    a = draw_dplr(np.random.default_rng(0), (5,), 3, 1)
    doubled = jax.tree.map(lambda x: 2 * x, a)
    assert isinstance(doubled, DPLR)
    np.testing.assert_allclose(doubled.diag, 2 * a.diag)
    first = jax.tree.map(lambda x: x[0], a)
    np.testing.assert_allclose(first.to_dense(), a.to_dense()[0])
