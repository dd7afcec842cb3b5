"""One of the processes that tests of several processes start.

`python processes_program.py WHAT NUMBER PLACE PORT FOLDER`
"""

import os
import signal
import sys
import time
from pathlib import Path

import jax
import numpy as np

from ssmlin.learning import _batches, _checkpoint, fit_batches
from ssmlin.models import HierarchicalRegression

#: How long processes wait for each other, in seconds: long, since a busy machine may starve them.
PATIENCE = 300
#: How long a process that was killed may go unnoticed, where that is the thing tested.
HEARTBEAT = 20


def fit(folder=None, num_steps=60):
    """A fit of two batches of eight sequences, some of whose values are missing."""
    rng = np.random.default_rng(0)
    h = rng.normal(size=(2, 8, 20, 2))
    y = h @ np.array([2.0, -1.0]) + rng.normal(size=(2, 8, 20))
    y[0, 3, 5:9] = np.nan
    model = HierarchicalRegression(2)
    params, props = model.initialize(np.float64)
    count = int(np.count_nonzero(~np.isnan(y)))
    return fit_batches(
        model, params, props, [(y, h)], count, num_steps=num_steps, checkpoint_dir=folder,
        progress=False,
    )  # fmt: skip


def flat(params):
    return np.concatenate([np.ravel(x) for x in jax.tree.leaves(params)])


def connect(number, place, port, heartbeat):
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(
        f"127.0.0.1:{port}", number, place, initialization_timeout=PATIENCE,
        heartbeat_timeout_seconds=heartbeat, shutdown_timeout_seconds=PATIENCE,
    )  # fmt: skip
    assert jax.device_count() == number == jax.process_count()


def save(folder, place, result):
    params, history = result
    np.savez(folder / f"{place}.npz", params=flat(params), losses=history.losses)


def same_numbers(number, place, folder):
    """The filter and the fit over all processes."""
    import mesh_program

    mesh = mesh_program.mesh_of(time=number)
    lgssm, y = mesh_program.sequence(11)
    ours = mesh_program.gradient(lgssm, y, mesh=mesh)
    mesh_program.close(ours, mesh_program.gradient(lgssm, y))
    ours = mesh_program.matrix_lgssm_smoother(lgssm, y, mesh=mesh)
    mesh_program.close(ours, mesh_program.matrix_lgssm_smoother(lgssm, y))
    save(folder, place, fit())


def one_dies(number, place, folder):
    """The last process is killed after three steps; how long the others go on."""
    _checkpoint._SECONDS_BETWEEN = 0
    stands_still, since = _batches._stands_still, time.monotonic()

    def after_step(losses):
        nonlocal since
        since = time.monotonic()
        if len(losses) == 3 and place == number - 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return stands_still(losses)

    _batches._stands_still = after_step
    try:
        fit(folder)
    except RuntimeError as error:
        print(f"after {time.monotonic() - since:.1f} s: {error}", flush=True)
        raise


def resume(number, place, folder):
    save(folder, place, fit(folder))


if __name__ == "__main__":
    what, number, place, port, folder = sys.argv[1:]
    jax.config.update("jax_enable_x64", True)
    connect(int(number), int(place), port, HEARTBEAT if what == "dies" else PATIENCE)
    run = {"same": same_numbers, "dies": one_dies, "resume": resume}[what]
    run(int(number), int(place), Path(folder))
