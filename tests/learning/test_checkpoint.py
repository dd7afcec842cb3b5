"""Checkpoints: killed work goes on to bitwise the same end, and no failure costs the old file.

Run as a script this file is the process that is killed.
"""

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
import warnings
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from dynamax.parameters import ParameterProperties
from tensorflow_probability.substrates.jax import bijectors as tfb
from walk import Walk

import ssmlin
from ssmlin import _files, learning
from ssmlin.learning import _checkpoint as checkpoint
from ssmlin.learning import _plans as plans
from ssmlin.learning._checkpoint import Checkpoint, digest
from ssmlin.learning._log_posterior import property_leaves

SAVE = Checkpoint.save


def make():
    """A small model with three sequences."""
    model = ssmlin.LinearAttentionSSM("mamba2", 1, 1, 2, gates="constant")
    rng = np.random.default_rng(0)
    u = jnp.asarray(rng.normal(size=(3, 20, 1)))
    y = jnp.asarray(0.5 * np.asarray(u) + rng.normal(size=(3, 20, 1)))
    return model, *model.initialize(jax.random.key(1), emissions=y, inputs=u), y, u


def fit_model(directory):
    model, *problem = make()
    return model.fit_sgd(
        *problem, batch_size=2, num_epochs=25, shuffle=True, key=jax.random.key(2), window_size=7,
        num_restarts=2, patience=40, checkpoint_dir=directory, progress=False, return_history=True,
    )  # fmt: skip


def fit_walk(directory):
    return fit(directory, 25)


def fit_by_em(directory):
    model, *problem = make()
    return model.fit_em(
        *problem, num_iters=12, gradient_steps=1, checkpoint_dir=directory, progress=False
    )


def sample(directory, algorithm="nuts"):
    model, *problem = make()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # so few draws are not good for much
        draws = ssmlin.sample_posterior(
            jax.random.key(3), model, *problem, variables="process_noise", num_chains=2,
            num_warmup=60, num_samples=60, algorithm=algorithm, checkpoint_dir=directory,
            progress=False,
        )  # fmt: skip
    return {name: x.values for name, x in draws.posterior.data_vars.items()}


WORK = {
    "walk": fit_walk,
    "sgd": fit_model,
    "em": fit_by_em,
    "nuts": sample,
    "smc": partial(sample, algorithm="smc"),
}


def die_slowly(work, directory, moment):
    """Work, and say when it is the moment to be killed."""
    checkpoint._SECONDS_BETWEEN = plans._SECONDS_PER_CALL = 0.0
    saves = 0

    def wait(handle):
        print("now", flush=True)
        time.sleep(600)

    def save(self, state, **options):
        nonlocal saves
        if saves == 3 and moment == "writing":
            os.fsync = wait
        SAVE(self, state, **options)
        saves += 1
        if saves >= 2 and moment == "working":
            print("now", flush=True)
            time.sleep(0.02)

    Checkpoint.save = save
    WORK[work](directory)


def kill(work, directory, moment):
    """Start the work in another process and kill it."""
    cache = jax.config.jax_compilation_cache_dir
    root = str(Path(ssmlin.__file__).parents[1])
    environment = os.environ | {"PYTHONPATH": root, "JAX_ENABLE_X64": "1"}
    environment |= {"JAX_COMPILATION_CACHE_DIR": cache} if cache else {}
    arguments = [sys.executable, __file__, work, str(directory), moment]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, env=environment) as child:
        assert child.stdout.readline() == b"now\n"
        time.sleep(0.1 * np.random.default_rng().random())
        child.send_signal(signal.SIGKILL)
    assert child.returncode == -signal.SIGKILL


def assert_same(one, two):
    assert jax.tree.structure(one) == jax.tree.structure(two)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


@pytest.fixture
def saves(monkeypatch):
    """Save at every opportunity, and list whether it was forced; a new start forces the first."""
    done = []

    def save(self, state, force=False):
        SAVE(self, state, force=force)
        done.append(force)

    monkeypatch.setattr(checkpoint, "_SECONDS_BETWEEN", 0.0)
    monkeypatch.setattr(Checkpoint, "save", save)
    return done


@pytest.mark.parametrize(
    ("work", "moment"),
    [
        ("walk", "working"),
        ("walk", "writing"),
        pytest.param("sgd", "working", marks=pytest.mark.slow),
        pytest.param("em", "working", marks=pytest.mark.calibration),
        pytest.param("nuts", "working", marks=pytest.mark.calibration),
        pytest.param("smc", "working", marks=pytest.mark.calibration),
    ],
)
def test_killed_work_ends_with_the_same_bits(work, moment, tmp_path, saves):
    expected = WORK[work](tmp_path / "whole")
    assert saves[0]
    kill(work, tmp_path / "killed", moment)
    names = [path.name for path in (tmp_path / "killed").iterdir()]
    assert len(names) == 2 if moment == "writing" else len(names) >= 1
    saves.clear()
    assert_same(WORK[work](tmp_path / "killed"), expected)
    assert not saves[0]  # it went on
    assert len(saves) > 1 or moment == "working"
    assert len(list((tmp_path / "killed").iterdir())) == 1
    saves.clear()
    assert_same(WORK[work](tmp_path / "killed"), expected)
    assert saves == [False]  # nothing was left to do


# ------------------------------------------------------------------------ fit_sgd's arguments


ARGUMENTS = {
    "model": Walk(),
    "params": {"drift": jnp.asarray(0.0), "spread": jnp.asarray(1.0)},
    "props": {"drift": ParameterProperties(), "spread": ParameterProperties(True, tfb.Softplus())},
    "emissions": jnp.cumsum(jnp.asarray(np.random.default_rng(0).normal(size=(2, 30, 1))), axis=1),
    "inputs": jnp.ones((2, 30)),
    "optimizer": None,
    "batch_size": 1,
    "shuffle": True,
    "key": jax.random.key(0),
    "validation_fraction": 0.3,
    "patience": 100,
    "window_size": 10,
    "num_restarts": 1,
}
OTHERS = {
    "model": Walk(2.0),
    "params": {"drift": jnp.asarray(1e-12), "spread": jnp.asarray(1.0)},
    "props": {"drift": ParameterProperties(False), "spread": ARGUMENTS["props"]["spread"]},
    "constrainer": {
        "drift": ParameterProperties(),
        "spread": ParameterProperties(True, tfb.Softplus(low=jnp.asarray(1e-6))),
    },
    "emissions": ARGUMENTS["emissions"].at[1, 29, 0].set(np.nan),
    "inputs": ARGUMENTS["inputs"].at[0, 0].set(2.0),
    "optimizer": optax.sgd(1e-2, momentum=0.9),
    "batch_size": None,
    "shuffle": False,
    "key": jax.random.key(1),
    "validation_fraction": 0.0,
    "patience": None,
    "window_size": 5,
    "num_restarts": 2,
}


def fit(directory, num_epochs=5, **changes):
    return learning.fit_sgd(
        **ARGUMENTS | changes, num_epochs=num_epochs, checkpoint_dir=directory, progress=False
    )


def test_the_checkpoint_of_another_call_is_left_alone(tmp_path):
    expected = fit(tmp_path)
    (path,) = tmp_path.iterdir()
    before = path.read_bytes()
    for name, value in OTHERS.items():
        name = "props" if name == "constrainer" else name
        changes = {name: value}
        if name == "num_restarts":
            changes["params"] = jax.tree.map(lambda x: jnp.stack([x, x]), ARGUMENTS["params"])
        with pytest.raises(ValueError, match=f"checkpoint_dir: .* another .*{name}"):
            fit(tmp_path, **changes)
        assert path.read_bytes() == before
    assert_same(fit(tmp_path), expected)


def test_a_fit_is_prolonged_but_not_shortened(tmp_path, saves):
    fit(tmp_path, 7)
    assert_same(fit(tmp_path, 40), fit(None, 40))
    with pytest.raises(ValueError, match="num_epochs: expected at least the 40 epochs"):
        fit(tmp_path, 39)
    # One that stopped early is at its end.
    stopped = fit(tmp_path / "early", 200, patience=3)
    assert stopped[1].stopped_early
    assert_same(fit(tmp_path / "early", 300, patience=3), stopped)


@pytest.mark.slow
def test_both_fits_of_the_recipe_have_a_checkpoint(tmp_path):
    model, _, _, y, u = make()
    options = dict(num_epochs=8, num_restarts=2, window_size=10, progress=False)
    expected = model.fit(y, u, checkpoint_dir=tmp_path, **options)
    assert expected[1].best_epoch > 0
    assert len(list(tmp_path.rglob("fit_sgd.safetensors"))) == 2
    assert_same(model.fit(y, u, checkpoint_dir=tmp_path, **options), expected)
    assert_same(model.fit(y, u, **options), expected)


# ------------------------------------------------------------------------------------ failures


@pytest.fixture(params=["full disk", "limit", "removed", "read-only"])
def breakage(request, tmp_path):
    """A directory, and how to break and to mend it."""
    directory = tmp_path / "small"
    directory.mkdir()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill():
        with pytest.raises(OSError), (directory / "filler").open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))

    if request.param == "full disk":
        mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(directory)]
        if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
            pytest.skip("mounting a small file system is not allowed here")
        yield directory, fill, (directory / "filler").unlink
        subprocess.run(["umount", str(directory)], check=True)
    elif request.param == "limit":
        yield (
            directory,
            lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard)),
            lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard)),
        )
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    elif request.param == "removed":
        aside = tmp_path / "aside"
        yield directory, lambda: directory.rename(aside), lambda: aside.rename(directory)
    else:
        if os.geteuid() == 0:
            pytest.skip("no directory is read-only for root")
        yield directory, lambda: directory.chmod(0o500), lambda: directory.chmod(0o700)
        directory.chmod(0o700)


def test_a_fit_outlives_its_checkpoint(breakage, saves, monkeypatch):
    directory, break_it, mend = breakage
    path, contents = directory / "fit_sgd.safetensors", []
    expected = fit(None, 60)
    saves.clear()
    count = Checkpoint.save

    def save(self, state, **options):
        count(self, state, **options)
        if len(saves) == 2:
            contents.append(path.read_bytes())
            break_it()

    monkeypatch.setattr(Checkpoint, "save", save)
    with pytest.warns(RuntimeWarning, match="checkpoint_dir: .* could not be replaced") as caught:
        result = fit(directory, 60)
    mend()
    assert len(saves) > 5 and len(caught) == 1
    assert_same(result, expected)
    assert path.read_bytes() == contents[0]
    assert [p.name for p in directory.iterdir()] == [path.name]
    assert_same(fit(directory, 60), expected)
    assert path.read_bytes() != contents[0]


def test_a_directory_that_cannot_be_written_is_an_error_at_once(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setattr(plans, "run_epochs", None)  # no work is done
    for directory in (tmp_path / "file", tmp_path / "file" / "inside"):
        with pytest.raises(ValueError, match="checkpoint_dir: expected a directory that can be"):
            fit(directory)

    def fail(*args):
        raise OSError("no space")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(ValueError, match="checkpoint_dir: .* can be written, got .*no space"):
        fit(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_any_damage_is_found_and_left_alone(tmp_path):
    state = {"x": jnp.arange(3.0), "key": jax.random.key(4), "n": jnp.asarray(7)}

    def open_it(name="work"):
        return Checkpoint(tmp_path, name, {"a": 1})

    assert open_it().load(state) is None
    open_it().save(state, force=True)
    assert_same(
        jax.tree.map(jax.random.key_data, open_it().load(state)["key"]),
        jax.random.key_data(state["key"]),
    )
    np.testing.assert_array_equal(open_it().load(state)["x"], state["x"])
    path = tmp_path / "work.safetensors"
    whole = path.read_bytes()
    damaged = [whole[:size] for size in [*range(0, len(whole), 5), len(whole) - 1]]
    for i in range(len(whole)):
        damaged.append(whole[:i] + bytes([whole[i] ^ (1 << i % 8)]) + whole[i + 1 :])
    for data in damaged:
        path.write_bytes(data)
        with pytest.raises(ValueError, match="checkpoint_dir: expected a file of ssmlin with a"):
            open_it().load(state)
        assert path.read_bytes() == data
    # Another work's, another kind of state's, and no file at all.
    path.write_bytes(whole)
    path.rename(tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="got one with a checkpoint of work"):
        open_it("other").load(state)
    (tmp_path / "other.safetensors").rename(path)
    with pytest.raises(ValueError, match="of this version of ssmlin"):
        open_it().load(state | {"x": jnp.arange(3)})
    path.unlink()
    path.mkdir()
    with pytest.raises(ValueError, match="checkpoint_dir: expected a file that can be read"):
        open_it().load(state)


def test_leftovers_of_killed_writers_are_removed(tmp_path):
    for name in (".work.safetensors.0a1b", ".other.safetensors.0a1b", "work.txt"):
        (tmp_path / name).touch()
    Checkpoint(tmp_path, "work", {})
    assert sorted(p.name for p in tmp_path.iterdir()) == [".other.safetensors.0a1b", "work.txt"]


def test_writings_keep_their_distance(tmp_path, monkeypatch):
    now, written = [100.0], []
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(checkpoint, "write_arrays", lambda *args: written.append(now[0]))
    work = Checkpoint(tmp_path, "work", {})
    for now[0] in (101.0, 104.9, 105.0, 109.0, 111.0):
        work.save({}, force=now[0] == 101.0)
    assert written == [101.0, 109.0]


def test_digests_tell_values_apart_but_not_processes():
    model, params, props, y, u = make()
    optimizer = optax.chain(optax.clip(1.0), optax.adamw(1e-2))
    flags = [(p.trainable, p.constrainer) for p in property_leaves(props)]
    things = [model, params, flags, optimizer.init(params), y, jax.random.key(0), None, ("a", 1)]
    assert len({digest(x) for x in things}) == len(things)
    assert digest(y) != digest(y.at[0, 0, 0].add(1e-15)) != digest(y.astype(jnp.float32))

    class Plain:
        pass

    assert digest(Plain()) == digest(Plain()) and digest([Plain()]) != digest([object()])


def test_the_format_is_told_apart(tmp_path, monkeypatch):
    fit(tmp_path)
    monkeypatch.setattr(_files, "_FORMAT", 2)
    with pytest.raises(ValueError, match="checkpoint_dir: .* of format 2, got format 1"):
        fit(tmp_path)


if __name__ == "__main__":
    die_slowly(*sys.argv[1:])
