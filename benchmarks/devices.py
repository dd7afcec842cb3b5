"""Time spread over devices: forced ones on the cores of this host, or its accelerators."""

import os
import sys
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ssmlin import MatrixLGSSM

from . import harness
from .harness import Contestant, Table

WORK = {
    "log-likelihood": harness.loglik,
    "gradient": harness.gradient,
    "smoother": harness.smoother,
}
SIZE, QUICK_SIZE = (100_000, 16, 1), (16, 3, 1)
FORCED, QUICK_FORCED = (2, 8), (2,)


def run(quick: bool = False) -> None:
    """Print the tables."""
    size = QUICK_SIZE if quick else SIZE
    harness.remark(
        f"gated_deltanet, T, d, m = {harness.sizes(*size)}: medians in milliseconds by the clock; "
        "beside them the gain over one device without a mesh in the same process, and the MB of "
        "temporary memory that the compiled program asks of each device."
    )
    table = Table("devices", *(f"{name}{what}" for name in WORK for what in ("", ", gain", ", MB")))
    if jax.default_backend() != "cpu":
        for count in sorted({2**k for k in range(8)} & set(range(1, jax.device_count() + 1))):
            table.row(f"{count} × {jax.devices()[0].device_kind}", *_cells(count, size, quick))
        return
    for count in QUICK_FORCED if quick else FORCED:
        cells = _in_a_process_of(count, size, quick)
        table.row(f"{count}, forced on {os.cpu_count()} cores", *cells)


def _in_a_process_of(count: int, size: tuple[int, int, int], quick: bool) -> list[str]:
    """The cells of `count` devices: JAX makes them when it starts."""
    import json
    import subprocess

    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={count}"
    code = (
        "import json, jax\n"
        f"from {__name__} import _cells\n"
        f"with jax.enable_x64(False): cells = _cells({count}, {size}, {quick})\n"
        "print(json.dumps(cells))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"XLA_FLAGS": flags.strip()},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise RuntimeError(f"{count} devices: {done.stderr}")
    cells: list[str] = json.loads(done.stdout.splitlines()[-1])
    return cells


def _cells(count: int, size: tuple[int, int, int], quick: bool) -> list[str]:
    """Median, gain and memory of each work on a mesh of `count` devices."""
    mesh = Mesh(np.array(jax.devices()[:count]), ("time",))
    problem = harness.gated_deltanet(*size)
    spread = _spread(mesh, size[0], problem)
    cells = []
    for function in WORK.values():
        race = {
            "alone": Contestant(function, problem),
            "spread": Contestant(partial(function, mesh=mesh), spread),
        }
        timings = harness.measure_together(race, quick)
        alone, together = timings["alone"], timings["spread"]
        gain = harness.times(alone.median / together.median)
        cells += [harness.milliseconds(together), gain, harness.megabytes(together)]
        jax.clear_caches()
    return cells


def _spread(mesh: Mesh, steps: int, problem: tuple[MatrixLGSSM, jax.Array]) -> Any:
    """The problem with its steps on the devices of the mesh."""

    def place(x: jax.Array) -> jax.Array:
        over_time = x.ndim > 0 and x.shape[0] == steps
        spec = PartitionSpec("time") if over_time else PartitionSpec()
        return jax.device_put(x, NamedSharding(mesh, spec))

    return jax.tree.map(place, problem)
