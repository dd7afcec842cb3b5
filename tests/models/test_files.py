"""Saved models: a bitwise round trip, and what may not be saved or loaded."""

import dataclasses
import json
import os
import stat

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dynamax.parameters import ParameterProperties
from safetensors.numpy import load_file, save_file

import ssmlin
from ssmlin import _files
from ssmlin.learning._log_posterior import property_leaves
from ssmlin.mechanisms import MECHANISMS
from ssmlin.models import DiagonalNoise, IntegratedRegression, IntegratedRowCov, IsotropicNoise

MODELS = {
    "plain": dict(mechanism="gated_deltanet", emission_dim=2, input_dim=3, key_dim=2, num_lags=1),
    "full": dict(mechanism="deltaproduct", emission_dim=2, row_cov="full", process_noise="write",
                 negative_eigenvalues=True, num_steps=3, regression="weights"),
    "memory": dict(mechanism="bayesian_memory", emission_dim=1, input_dim=2, key_dim=3,
                   gates="constant", process_noise="none",
                   prior=ssmlin.ShrinkagePrior(0.1 + 0.2, process_noise=(1 / 3, 2.0))),
    "parts": dict(mechanism="mamba2", emission_dim=2, input_dim=1, key_dim=2,
                  process_noise=DiagonalNoise(prior=(0.1, 1 / 3)),
                  row_cov=IntegratedRowCov("full", discount=0.9, series_variance=4.0),
                  regression=IntegratedRegression(bias=False), missing="rows"),
}  # fmt: skip


@pytest.fixture(params=MODELS)
def model(request):
    return ssmlin.LinearAttentionSSM(**MODELS[request.param])


@pytest.fixture
def small():
    model = ssmlin.LinearAttentionSSM("mamba2", 1, 0, 1)
    return model, *model.initialize(jax.random.key(0))


def test_the_round_trip_is_bitwise(model, tmp_path):
    rng = np.random.default_rng(0)
    y = jnp.asarray(rng.normal(size=(9, model.emission_dim)))
    u = jnp.asarray(rng.normal(size=(9, model.input_dim)))
    params, props = model.initialize(jax.random.key(1), emissions=y, inputs=u)
    fixed = ParameterProperties(False, props.initial.variances.constrainer)
    props = props._replace(initial=props.initial._replace(variances=fixed))
    path = tmp_path / "model"
    model.save(path, params, props)
    assert [p.name for p in tmp_path.iterdir()] == ["model"]
    loaded, new_params, new_props = ssmlin.load(path)
    assert loaded == model and repr(loaded) == repr(model) and loaded.prior == model.prior
    assert jax.tree.structure(new_params) == jax.tree.structure(params)
    for a, b in zip(jax.tree.leaves(new_params), jax.tree.leaves(params), strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()
    pairs = list(zip(property_leaves(new_props), property_leaves(props), strict=True))
    assert [a.trainable for a, _ in pairs] == [b.trainable for _, b in pairs]
    assert [type(a.constrainer) for a, _ in pairs] == [type(b.constrainer) for _, b in pairs]
    one, two = model.filter(params, y, u), loaded.filter(new_params, y, u)
    np.testing.assert_array_equal(one.filtered_means, two.filtered_means)
    np.testing.assert_array_equal(one.log_predictive, two.log_predictive)


def test_every_mechanism_has_a_file(tmp_path):
    for name in MECHANISMS:
        model = ssmlin.LinearAttentionSSM(name, 1, 1, 2)
        shapes, props = jax.eval_shape(model.initialize)
        params = jax.tree.map(lambda x: np.full(x.shape, 0.5, x.dtype), shapes)
        model.save(tmp_path / name, params)
        loaded, loaded_params, loaded_props = ssmlin.load(tmp_path / name)
        assert repr(loaded) == repr(model)
        assert jax.tree.structure(loaded_params) == jax.tree.structure(params)
        flags = [p.trainable for p in property_leaves(props)]
        assert [p.trainable for p in property_leaves(loaded_props)] == flags


def test_arrays_have_the_names_of_the_parameters(small, tmp_path):
    model, params, props = small
    model.save(tmp_path / "m.safetensors", params, props)
    arrays = load_file(tmp_path / "m.safetensors")
    np.testing.assert_array_equal(arrays["tokens.alpha.value"], params.tokens.alpha.value)
    assert stat.S_IMODE(os.stat(tmp_path / "m.safetensors").st_mode) == 0o666 & ~_umask()


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.mark.parametrize("precise", [True, False])
def test_double_precision(small, tmp_path, precise):
    model, params, _ = small
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64) / 3, params)
    model.save(tmp_path / "m", params)
    with jax.enable_x64(precise):
        if precise:
            _, loaded, _ = ssmlin.load(tmp_path / "m")
        else:
            with pytest.warns(RuntimeWarning, match="path: .*double precision"):
                _, loaded, _ = ssmlin.load(tmp_path / "m")
    for a, b in zip(jax.tree.leaves(loaded), jax.tree.leaves(params), strict=True):
        assert a.dtype == (jnp.float64 if precise else jnp.float32)
        np.testing.assert_array_equal(a, np.asarray(b).astype(a.dtype))


def test_what_cannot_be_saved(small, tmp_path):
    model, params, props = small

    class Mine(MECHANISMS["mamba2"]):
        pass

    class MyModel(ssmlin.LinearAttentionSSM):
        pass

    mine = ssmlin.LinearAttentionSSM(Mine(), 1, 0, 1)
    with pytest.raises(ValueError, match="mechanism: expected one of ssmlin.MECHANISMS.*Mine"):
        mine.save(tmp_path / "m", params)

    class MyNoise(IsotropicNoise):
        pass

    own = ssmlin.LinearAttentionSSM("mamba2", 1, 0, 1, process_noise=MyNoise())
    with pytest.raises(ValueError, match="process_noise: expected a kind that ssmlin.*MyNoise"):
        own.save(tmp_path / "m", params)
    with pytest.raises(ValueError, match="model: expected a LinearAttentionSSM.*MyModel"):
        MyModel("mamba2", 1, 0, 1).save(tmp_path / "m", params)
    wide = params._replace(regression=params.regression._replace(bias=jnp.zeros(2)))
    with pytest.raises(ValueError, match=r"params: .*regression.bias of shape \(1,\), got \(2,\)"):
        model.save(tmp_path / "m", wide)
    without = params._replace(regression=params.regression._replace(bias=None))
    with pytest.raises(ValueError, match=r"params: .*regression.bias of shape \(1,\), got None"):
        model.save(tmp_path / "m", without)
    with pytest.raises(ValueError, match="props: "):
        model.save(tmp_path / "m", params, props._replace(initial=None))
    assert not list(tmp_path.iterdir())
    with pytest.raises(OSError):
        model.save(tmp_path / "nowhere" / "m", params)
    with pytest.raises(OSError):
        ssmlin.load(tmp_path / "m")


def test_any_damage_is_found(small, tmp_path):
    model, params, props = small
    path = tmp_path / "m"
    model.save(path, params, props)
    whole = path.read_bytes()
    for size in [*range(0, len(whole), 7), len(whole) - 1]:
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match="path: expected a file of ssmlin"):
            ssmlin.load(path)
    for i in range(len(whole)):
        path.write_bytes(whole[:i] + bytes([whole[i] ^ (1 << i % 8)]) + whole[i + 1 :])
        with pytest.raises(ValueError, match="path: expected a file of ssmlin"):
            ssmlin.load(path)
    path.write_bytes(whole + b"\0")
    with pytest.raises(ValueError, match="path: expected a file of ssmlin"):
        ssmlin.load(path)


def test_foreign_files_and_other_versions(small, tmp_path, monkeypatch):
    model, params, props = small
    path = tmp_path / "m"
    for write in (
        lambda: save_file({"x": np.zeros(3)}, path),
        lambda: path.write_text(json.dumps({"settings": {}})),
        lambda: np.save(path.open("wb"), np.zeros(3)),
        lambda: _files.write_arrays(path, "checkpoint", {}, {}),
    ):
        write()
        with pytest.raises(ValueError, match="path: expected a file of ssmlin with a model, got"):
            ssmlin.load(path)
    with monkeypatch.context() as patch:
        patch.setattr(_files, "_FORMAT", 99)
        model.save(path, params, props)
    with pytest.raises(ValueError, match="path: expected .* of format 1, got format 99"):
        ssmlin.load(path)
    # A model with a setting that this version does not know, and one whose arrays do not fit it.
    arrays = {"initial.mean": np.zeros((1, 1))}
    plain = model.settings | {"prior": dataclasses.asdict(model.prior)}
    for settings in (plain | {"new": 1}, plain):
        description = {"settings": settings, "trainable": {}}
        _files.write_arrays(path, "model", arrays, description)
        with pytest.raises(ValueError, match="path: expected a model of this version"):
            ssmlin.load(path)


def test_a_failed_writing_leaves_the_old_file(small, tmp_path, monkeypatch):
    model, params, props = small
    path = tmp_path / "m"
    model.save(path, params, props)
    before = path.read_bytes()

    def fail(*args):
        raise OSError("no space")

    for name in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, fail)
            with pytest.raises(OSError, match="no space"):
                model.save(path, jax.tree.map(lambda x: x + 1, params), props)
        assert path.read_bytes() == before
        assert [p.name for p in tmp_path.iterdir()] == ["m"]
