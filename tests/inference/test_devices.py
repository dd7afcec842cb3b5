"""Batches and chunks spread over several devices give what one device gives."""

import os
import subprocess
import sys

import pytest
from tiers import slow

PROGRAM = """
import sys

sys.path[:0] = {paths!r}
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from problems import make_problem

import ssmlin

jax.config.update("jax_enable_x64", True)
n = {devices}
assert jax.device_count() == n
mesh = jax.make_mesh((n,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))


def spread(tree):
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec("x")))


def close(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(np.asarray(x), np.asarray(y), atol=1e-10)


problems = [make_problem("gated_deltanet", steps=6, seed=i, m=1) for i in range(8)]
batch = jax.tree.map(lambda *x: jnp.stack(x), *(p.lgssm for p in problems))
y = jnp.stack([p.emissions for p in problems])
loss = lambda lgssm, y: ssmlin.matrix_lgssm_filter(lgssm, y, store="loglik").marginal_loglik.sum()
for run in (jax.jit(ssmlin.matrix_lgssm_smoother), jax.jit(jax.grad(loss))):
    close(run(spread(batch), spread(y)), run(batch, y))

# One sequence, its time spread over the devices, by the drivers that are parallel in time.
problem = make_problem("gated_deltanet", steps=64, m=1)
y = jnp.asarray(problem.emissions)
single = ssmlin.matrix_lgssm_filter(problem.lgssm, y)
for method in ("chunked", "associative"):
    # map_time leaves the initial law and the row covariance where they are.
    spread_lgssm = problem.lgssm.map_time(spread)
    posterior = jax.jit(lambda l, y: ssmlin.matrix_lgssm_filter(l, y, method=method))(
        spread_lgssm, spread(y)
    )
    close(posterior, single)
print("passed")
"""


@pytest.mark.parametrize("devices", [slow(2), pytest.param(8, marks=pytest.mark.calibration)])
def test_several_devices(devices, request):
    paths = [str(request.config.rootpath / p) for p in ("tests", "tests/inference")]
    flags = f"--xla_force_host_platform_device_count={devices}"
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(paths=paths, devices=devices)],
        env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "passed" in done.stdout
