"""Several processes, joined by jax.distributed on the loopback address, do what one does."""

import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from processes_program import fit, flat
from tiers import slow

HERE = Path(__file__).parent
PROGRAM = HERE / "processes_program.py"
SECONDS = 900


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def started(what, number, folder):
    paths = [*map(str, (HERE, HERE / "inference", HERE.parent))]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "JAX_PLATFORMS": "cpu"}
    port = free_port()
    return [
        subprocess.Popen(
            [sys.executable, str(PROGRAM), what, str(number), str(place), str(port), str(folder)],
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )  # fmt: skip
        for place in range(number)
    ]


def run(what, number, folder):
    """Exit codes and outputs of all processes; again where another program took the port."""
    for _ in range(3):
        processes, ended = started(what, number, folder), []
        until = time.monotonic() + SECONDS
        try:
            for one in processes:
                out, err = one.communicate(timeout=max(1.0, until - time.monotonic()))
                ended.append((one.returncode, out, err))
        finally:
            for one in processes:
                one.kill()
        if not any("ddress already in use" in err for _, _, err in ended):
            break
    return ended


def results(number, folder):
    return [np.load(folder / f"{place}.npz") for place in range(number)]


@pytest.fixture(scope="module")
def one_process():
    return fit()


@pytest.mark.parametrize("number", [slow(2), pytest.param(4, marks=pytest.mark.calibration)])
def test_the_numbers_of_one_process(number, tmp_path, one_process):
    for code, _, err in run("same", number, tmp_path):
        assert code == 0, err[-3000:]
    params, history = one_process
    for one in results(number, tmp_path):
        np.testing.assert_allclose(one["params"], flat(params), atol=1e-6, rtol=1e-6)
        np.testing.assert_allclose(one["losses"], history.losses, atol=1e-6)


@pytest.mark.slow
def test_a_process_that_is_killed(tmp_path, one_process):
    """The others end and say why, and fewer of them go on from the checkpoint."""
    *others, killed = run("dies", 3, tmp_path)
    assert killed[0] == -9
    assert all(code not in (0, -9) for code, _, _ in others)  # nor were they stopped by us
    for _, out, err in others:
        # A sum that fails is told by the fit; who still waits is stopped by JAX.
        assert "live until the fit is done" in out + err or "another task died" in err
    assert (tmp_path / "fit_batches.safetensors").exists()
    shutil.copytree(tmp_path, alone := tmp_path / "alone")
    for code, _, err in run("resume", 2, tmp_path):
        assert code == 0, err[-3000:]
    params, history = fit(alone)
    assert len(history.losses) > 3 and history.converged
    for one in results(2, tmp_path):
        np.testing.assert_allclose(one["params"], flat(params), atol=1e-6, rtol=1e-6)
        np.testing.assert_allclose(one["losses"], history.losses, atol=1e-6)
    np.testing.assert_allclose(history.losses[-1], one_process[1].losses[-1], atol=1e-4)
