"""What the matrix and the dense functions share: chunks of time, and the choice of the method."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ssmlin
from ssmlin.inference._chunks import ChunkMap, compose, cut_time
from ssmlin.inference._methods import MATRIX, choose_method
from ssmlin.inference.dense import _driver as dense_driver
from ssmlin.inference.dense import _problem as dense
from ssmlin.inference.matrix import _driver as matrix_driver
from ssmlin.inference.matrix import _problem as matrix

pytestmark = pytest.mark.quick


@pytest.mark.parametrize("length", [None, 1, 3, 20])
def test_chunks_join_to_what_was_cut(length):
    x = jnp.arange(1.0, 15.0).reshape(7, 2)
    cut = cut_time(7, length)
    chunks = cut.split(x)
    assert chunks.shape == (cut.num, cut.length, 2)
    assert (cut.num - 1) * cut.length < 7 <= cut.num * cut.length == 7 + cut.extra
    np.testing.assert_array_equal(chunks.reshape(-1, 2)[7:], 0.0)
    np.testing.assert_array_equal(cut.join(chunks), x)


def test_composed_maps_act_as_one_after_the_other():
    rng = np.random.default_rng(0)

    def random_map():
        a, b, c = (jnp.asarray(rng.normal(size=size)) for size in ((3, 3), (2, 3), (3, 3)))
        return ChunkMap(a, b, c + c.T)

    def act(on, x, p):
        return x @ on.transition + on.offset, on.transition.T @ p @ on.transition + on.quadratic

    first, second = random_map(), random_map()
    x, p = rng.normal(size=(2, 3)), np.eye(3)
    for ours, expected in zip(
        act(compose(first, second), x, p), act(second, *act(first, x, p)), strict=True
    ):
        np.testing.assert_allclose(ours, expected, atol=1e-12)
    assert compose(first._replace(quadratic=None), second).quadratic is None


@pytest.mark.parametrize(
    ("backend", "steps", "batch", "expected"),
    [
        ("cpu", 10**6, 1, "sequential"),
        ("gpu", 127, 1, "sequential"),
        ("gpu", 128, 1, "chunked"),
        ("gpu", 10**6, 511, "chunked"),
        ("gpu", 10**6, 512, "sequential"),  # the batch keeps the accelerator busy
    ],
)
def test_auto_for_matrix_states(monkeypatch, backend, steps, batch, expected):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    sizes = {"num_timesteps": steps, "batch": batch}
    assert choose_method("auto", MATRIX, **sizes) == expected
    assert choose_method("associative", MATRIX, **sizes) == "associative"


def test_chunks_are_shorter_on_an_accelerator(monkeypatch):
    assert matrix.driver_of("chunked", "autodiff", 10**6) == matrix.Chunked(None)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert matrix.driver_of("chunked", "autodiff", 10**6) == matrix.Chunked(125)
    assert matrix.driver_of("chunked", "autodiff", 100) == matrix.Chunked(16)


@pytest.mark.parametrize("method", ["sequential", "chunked", "associative"])
def test_products_are_in_full_precision(method):
    """An accelerator rounds the factors of others."""
    y = np.sin(np.arange(6.0))[:, None]
    model = ssmlin.LinearAttentionSSM("gated_deltanet", 1, 1, 2, num_lags=1)
    inputs = model.compute_inputs(y)
    params, _ = model.initialize(emissions=y, inputs=inputs)

    def loss(params):
        return model.marginal_log_prob(params, y, inputs, method=method)

    programs = (
        jax.make_jaxpr(jax.grad(loss))(params),
        jax.make_jaxpr(lambda p: model.smoother(p, y, inputs, method=method))(params),
    )
    for program in programs:
        text = str(program)
        assert text.count("dot_general[") == text.count("precision=(Precision.HIGHEST") > 0
        assert "precision=None" not in text


def test_drivers_have_one_interface_and_compare_by_value():
    for method in ("sequential", "associative", "chunked"):
        assert isinstance(dense.DRIVERS[method], dense_driver.Driver)
        for gradient in ("adjoint", "autodiff"):
            driver = matrix.driver_of(method, gradient, 9)
            assert isinstance(driver, matrix_driver.Driver)
            assert driver == matrix.driver_of(method, gradient, 9)
    assert matrix.Chunked() == matrix.driver_of("chunked", "autodiff", 9)
    assert matrix.Chunked(1) == matrix.driver_of("associative", "autodiff", 9)
