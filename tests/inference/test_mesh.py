"""Time and batches over the devices of a mesh, in processes with devices of their own."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from problems import make_problem

import ssmlin

PROGRAM = Path(__file__).with_name("mesh_program.py")


def run_program(what, devices):
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"
    paths = [str(PROGRAM.parent), str(PROGRAM.parent.parent), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, str(PROGRAM), what],
        env=os.environ
        | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "passed" in done.stdout


def test_two_devices():
    run_program("quick", 2)


@pytest.mark.slow
@pytest.mark.parametrize("what", ["numbers", "forms"])
def test_eight_devices(what):
    run_program(what, 8)


@pytest.mark.parametrize(
    ("axes", "batch", "message"),
    [
        (("x",), False, r"mesh: expected axes named 'time' or 'batch', got \('x',\)"),
        (("batch",), False, "mesh: expected a batch for the axis 'batch', got one sequence"),
    ],
)
def test_meshes_that_do_not_fit(axes, batch, message):
    problem = make_problem("gated_deltanet", steps=6)
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), axes)
    with pytest.raises(ValueError, match=message):
        ssmlin.matrix_lgssm_filter(problem.lgssm, problem.emissions, mesh=mesh)


def test_what_is_no_mesh():
    problem = make_problem("gated_deltanet", steps=6)
    with pytest.raises(TypeError, match="mesh: expected a jax.sharding.Mesh, got int"):
        ssmlin.matrix_lgssm_filter(problem.lgssm, problem.emissions, mesh=2)


def test_a_model_with_a_mesh_is_the_model(tmp_path):
    """Where it is computed is no part of what a file and a checkpoint hold."""
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("time",))
    model = ssmlin.LinearAttentionSSM("mamba2")
    spread = ssmlin.LinearAttentionSSM(**model.settings | {"mesh": mesh})
    assert spread != model
    assert repr(spread) == repr(model)
    spread.save(tmp_path / "model.safetensors", spread.initialize()[0])
    assert ssmlin.load(tmp_path / "model.safetensors")[0] == model


@pytest.mark.parametrize("mesh", [2, "batch"])
def test_a_mesh_that_a_model_cannot_take(mesh):
    got = "2" if mesh == 2 else r"\('batch',\)"
    if mesh == "batch":
        mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), (mesh,))
    with pytest.raises(ValueError, match=f"mesh: expected a jax.sharding.Mesh .* got {got}"):
        ssmlin.LinearAttentionSSM("mamba2", mesh=mesh)
