"""Nothing is lost: killed runs resume to the same result, and bad files and disks are told."""

import os
import resource
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ssmlin
from ssmlin import _files
from ssmlin.learning import checkpoint as module
from ssmlin.learning.checkpoint import Checkpoint, digest

STATE = {"x": jnp.arange(4.0), "key": jax.random.key(3), "n": jnp.asarray(2)}
ARGUMENTS = {"data": np.ones(3), "options": (1, None)}

# Runs one kind of work with checkpoints, slowly where it is to be killed, and keeps its result.
CHILD = """
import sys, time, warnings
import jax, jax.numpy as jnp, numpy as np
import ssmlin
from ssmlin.learning import checkpoint, samplers

work, directory, output, slow = sys.argv[1:]
warnings.simplefilter("ignore")
checkpoint._SECONDS_BETWEEN = 0.0
save = checkpoint.Checkpoint.save
def slowly(self, *args, **options):
    save(self, *args, **options)
    time.sleep(0.3)
if slow == "slow":
    checkpoint.Checkpoint.save = slowly
model = ssmlin.LinearAttentionSSM("gated_deltanet", 1, 2, 2, gates="constant")
rng = np.random.default_rng(0)
u = jnp.asarray(rng.normal(size=(40, 2)), jnp.float32)
y = jnp.asarray(rng.normal(size=(40, 1)), jnp.float32)
params, props = model.initialize(emissions=y, inputs=u)
options = dict(checkpoint_dir=directory, progress=False)
if work == "sgd":
    result = model.fit_sgd(params, props, y, u, num_epochs=400, patience=None,
                           return_history=True, **options)
elif work == "em":
    result = model.fit_em(params, props, y, u, 30, gradient_steps=0, **options)
else:
    draws = ssmlin.sample_posterior(
        jax.random.key(0), model, params, props, y, u, algorithm=work,
        variables=("alpha", "beta"), num_chains=2, num_warmup=100, num_samples=100, **options)
    result = [draws.posterior[name].values for name in ("alpha", "beta")]
np.savez(output, *map(np.asarray, jax.tree.leaves(result)))
"""


def start(work, directory, output, slow, cache):
    environment = {
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PLATFORMS": "cpu",
        "PATH": os.environ["PATH"],
    }
    command = [sys.executable, "-c", CHILD, work, str(directory), str(output), slow]
    return subprocess.Popen(command, env=environment, cwd=Path(ssmlin.__file__).parents[1])


@pytest.mark.slow
@pytest.mark.parametrize(("work", "kills"), [("sgd", 2), ("em", 1), ("nuts", 1), ("smc", 1)])
def test_a_killed_run_resumes_to_the_same_result(work, kills, tmp_path):
    cache = tmp_path / "cache"
    whole, resumed = tmp_path / "whole.npz", tmp_path / "resumed.npz"
    assert start(work, tmp_path / "a", whole, "fast", cache).wait() == 0
    for _ in range(kills):
        child = start(work, tmp_path / "b", resumed, "slow", cache)
        saved = []
        while len(saved) < 1 + kills and child.poll() is None:
            time.sleep(0.02)
            for path in (tmp_path / "b").glob("*.safetensors"):
                changed = path.stat().st_mtime_ns
                saved += [] if changed in saved else [changed]
        child.send_signal(signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL, "the run ended before it was killed"
    assert not resumed.exists()
    (tmp_path / "b" / f".{next((tmp_path / 'b').glob('*.safetensors')).name}.left").touch()
    assert start(work, tmp_path / "b", resumed, "fast", cache).wait() == 0
    assert len(list((tmp_path / "b").iterdir())) == 1, "temporary files are left"
    with np.load(whole) as a, np.load(resumed) as b:
        assert a.files == b.files
        for name in a.files:
            np.testing.assert_array_equal(a[name], b[name])


def saved(folder):
    Checkpoint(folder, "work", ARGUMENTS).save(STATE, force=True)
    return folder / "work.safetensors"


def test_round_trip(tmp_path):
    saved(tmp_path / "made" / "here")
    state = Checkpoint(tmp_path / "made" / "here", "work", ARGUMENTS).load(STATE)
    np.testing.assert_array_equal(state["x"], STATE["x"])
    assert jax.random.bits(state["key"]) == jax.random.bits(STATE["key"])
    assert state["n"].shape == ()
    assert Checkpoint(tmp_path, "other", ARGUMENTS).load(STATE) is None
    assert Checkpoint(None, "work", ARGUMENTS).load(STATE) is None
    Checkpoint(None, "work", ARGUMENTS).save(STATE, force=True)


def test_writes_are_seconds_apart(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    checkpoint = Checkpoint(tmp_path, "work", ARGUMENTS)
    checkpoint.save(STATE, force=True)
    for when, expected in ((1.0, 0), (6.0, 7), (7.0, 7)):
        now[0] = when
        checkpoint.save(STATE | {"n": jnp.asarray(7 if when > 1 else 5)})
        n = int(Checkpoint(tmp_path, "work", ARGUMENTS).load(STATE)["n"])
        assert n == (expected or 2)


def test_another_call_is_told_and_the_file_stays(tmp_path):
    before = saved(tmp_path).read_bytes()
    other = Checkpoint(tmp_path, "work", ARGUMENTS | {"data": np.ones(3) + 1e-9})
    with pytest.raises(ValueError, match=r"checkpoint_dir: .* made with another data"):
        other.load(STATE)
    with pytest.raises(ValueError, match="this version"):
        Checkpoint(tmp_path, "work", ARGUMENTS).load(STATE | {"x": jnp.ones((2, 2))})
    assert (tmp_path / "work.safetensors").read_bytes() == before
    assert digest((1, None)) != digest((1, 0))
    assert digest(np.float32(1)) != digest(np.float64(1))


@pytest.mark.parametrize("place", np.linspace(0, 0.999, 12))
@pytest.mark.parametrize("damage", ["flipped", "cut"])
def test_damaged_files(tmp_path, place, damage):
    path = saved(tmp_path)
    data = bytearray(path.read_bytes())
    at = int(place * len(data))
    data = data[:at] if damage == "cut" else data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :]
    path.write_bytes(data)
    with pytest.raises(ValueError, match="checkpoint_dir: expected a"):
        Checkpoint(tmp_path, "work", ARGUMENTS).load(STATE)
    assert path.read_bytes() == data


def test_foreign_files(tmp_path):
    path = tmp_path / "work.safetensors"
    for content in (b"hello", b"\0" * 100):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="damaged or foreign"):
            Checkpoint(tmp_path, "work", ARGUMENTS).load(STATE)
    _files.write_arrays(path, "model", {"a": np.ones(1)}, {})
    with pytest.raises(ValueError, match="with a model"):
        Checkpoint(tmp_path, "work", ARGUMENTS).load(STATE)


@pytest.fixture
def full_disk():
    """The kernel refuses files of more than some bytes, as a full disk would."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    def fill(size=16):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))

    yield fill
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    signal.signal(signal.SIGXFSZ, handler)


def test_a_disk_that_fills_up(tmp_path, full_disk):
    checkpoint = Checkpoint(tmp_path, "work", ARGUMENTS)
    checkpoint.save(STATE, force=True)
    before = (tmp_path / "work.safetensors").read_bytes()
    full_disk()
    with pytest.warns(RuntimeWarning, match="the work goes on") as caught:
        for _ in range(3):
            checkpoint.save(STATE | {"n": jnp.asarray(5)}, force=True)
    assert len(caught) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["work.safetensors"]
    assert (tmp_path / "work.safetensors").read_bytes() == before
    with pytest.raises(ValueError, match="checkpoint_dir: expected a directory that can be"):
        Checkpoint(tmp_path, "first", ARGUMENTS).save(STATE, force=True)


def test_a_directory_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ValueError, match="checkpoint_dir: expected a directory"):
            Checkpoint(folder, "work", ARGUMENTS)
    sealed = tmp_path / "sealed"
    sealed.mkdir(mode=0o500)
    try:
        (sealed / "probe").touch()
    except PermissionError:
        with pytest.raises(ValueError, match="checkpoint_dir: expected a directory"):
            Checkpoint(sealed, "work", ARGUMENTS).save(STATE, force=True)
    # A folder that disappears is a late failure.
    gone = Checkpoint(tmp_path / "gone", "work", ARGUMENTS)
    (tmp_path / "gone").rmdir()
    with pytest.raises(ValueError, match="checkpoint_dir"):
        gone.save(STATE, force=True)


def test_fits_end_at_once_when_done_and_can_be_prolonged(tmp_path):
    model = ssmlin.LinearAttentionSSM("mamba2", 1, 1, 2, gates="constant")
    y = jnp.sin(jnp.arange(30.0))[:, None]
    u = jnp.ones((30, 1))
    params, props = model.initialize(emissions=y, inputs=u)
    options = dict(patience=None, progress=False)

    def fit(folder, num_epochs):
        return model.fit_sgd(
            params, props, y, u, num_epochs=num_epochs, checkpoint_dir=folder, **options
        )

    first, losses = fit(tmp_path / "a", 40)
    written = (tmp_path / "a" / "fit_sgd.safetensors").stat().st_mtime_ns
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again, same = fit(tmp_path / "a", 40)
    assert (tmp_path / "a" / "fit_sgd.safetensors").stat().st_mtime_ns == written
    np.testing.assert_array_equal(losses, same)
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(a, b)
    _, longer = fit(tmp_path / "a", 80)
    _, whole = fit(tmp_path / "b", 80)
    np.testing.assert_array_equal(longer, whole)
    with pytest.raises(ValueError, match="another emissions"):
        model.fit_sgd(params, props, 2 * y, u, checkpoint_dir=tmp_path / "a", **options)
    with pytest.raises(ValueError, match="another model"):
        ssmlin.LinearAttentionSSM("retnet", 1, 1, 2).fit_sgd(
            params, props, y, u, checkpoint_dir=tmp_path / "a", **options
        )
