"""A model, its parameters and properties come back from a file as they were."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ssmlin
from ssmlin.learning.target import property_leaves

OPTIONS = [
    {},
    {"gates": "constant", "row_cov": "full", "process_noise": "diagonal"},
    {"prior": ssmlin.ShrinkagePrior(noise_floor=0.1), "num_lags": 2, "row_cov": "identity"},
]


@pytest.mark.parametrize("mechanism", list(ssmlin.MECHANISMS))
@pytest.mark.parametrize("case", range(len(OPTIONS)))
def test_round_trip(tmp_path, mechanism, case):
    model = ssmlin.LinearAttentionSSM(mechanism, 2, 4, 2, **OPTIONS[case])
    params, props = model.initialize(jax.random.key(1))
    free = props.initial.mean
    free = type(free)(trainable=not free.trainable, constrainer=free.constrainer)
    props = props._replace(initial=props.initial._replace(mean=free))
    model.save(tmp_path / "model", params, props)
    loaded, new, new_props = ssmlin.load(tmp_path / "model")
    assert repr(loaded) == repr(model)
    assert jax.tree.structure(new) == jax.tree.structure(params)
    for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(new), strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.dtype == b.dtype
    for a, b in zip(property_leaves(props), property_leaves(new_props), strict=True):
        assert a.trainable == b.trainable
        assert type(a.constrainer) is type(b.constrainer)
    if case == 0 and mechanism == "rwkv7":
        y, u = jnp.ones((5, 2)), jnp.ones((5, 4))
        a, b = (m.filter(p, y, u).marginal_loglik for m, p in ((model, params), (loaded, new)))
        assert a == b


def test_bad_files(tmp_path):
    model = ssmlin.LinearAttentionSSM("mamba2", 1, 2, 2)
    params, _ = model.initialize(jax.random.key(1))
    path = tmp_path / "model"
    with pytest.raises(FileNotFoundError):
        ssmlin.load(path)
    with pytest.raises(OSError):
        model.save(tmp_path / "not" / "there", params)
    other = ssmlin.LinearAttentionSSM("mamba2", 1, 2, 3)
    with pytest.raises(ValueError, match=r"params: expected dynamics.keys.bias of shape \(3,\)"):
        other.save(path, params)
    assert not path.exists()

    class Mine(ssmlin.MECHANISMS["mamba2"]):
        name = "mine"

    with pytest.raises(ValueError, match="registered mechanism"):
        ssmlin.LinearAttentionSSM(Mine(), 1, 2, 2).save(path, params)
    model.save(path, params)
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(ValueError, match="path: expected a file of ssmlin with a model"):
        ssmlin.load(path)


def test_double_precision_where_it_is_single(tmp_path):
    model = ssmlin.LinearAttentionSSM("mamba2", 1, 2, 2)
    params, _ = model.initialize(jax.random.key(1))
    wide = jax.tree.map(lambda x: x.astype(jnp.float64), params)
    model.save(tmp_path / "model", wide)
    with jax.enable_x64(False), pytest.warns(RuntimeWarning, match="rounded"):
        _, new, _ = ssmlin.load(tmp_path / "model")
    assert {x.dtype for x in jax.tree.leaves(new)} == {jnp.dtype("float32")}
