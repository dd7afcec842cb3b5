"""What the matrix and the dense functions share: chunks of time, and the choice of the method."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

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
    ("backend", "steps", "step_bytes", "batch", "expected"),
    [
        ("cpu", 10**6, 1, 1, "sequential"),
        ("gpu", 63, 1, 1, "sequential"),
        ("gpu", 64, 1, 1, "associative"),
        ("gpu", 64, 1, 64, "sequential"),  # the batch keeps the accelerator busy
        ("gpu", 65, 1, 64, "associative"),
        ("gpu", 2**20, 2**13 - 1, 1, "associative"),
        ("gpu", 2**20, 2**13, 1, "chunked"),  # 8 GiB of elements
    ],
)
def test_auto_for_matrix_states(monkeypatch, backend, steps, step_bytes, batch, expected):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    sizes = {"num_timesteps": steps, "step_bytes": step_bytes, "batch": batch}
    assert choose_method("auto", MATRIX, **sizes) == expected
    assert choose_method("chunked", MATRIX, **sizes) == "chunked"


def test_drivers_have_one_interface_and_compare_by_value():
    for room, interface in ((matrix, matrix_driver.Driver), (dense, dense_driver.Driver)):
        assert all(isinstance(driver, interface) for driver in room.DRIVERS.values())
    assert matrix.Chunked() == matrix.DRIVERS["chunked"] != matrix.DRIVERS["associative"]
