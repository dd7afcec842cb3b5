"""The dense drop-in functions against dynamax's, on models that do not vary in time."""

from collections.abc import Callable
from typing import Any

import dynamax.linear_gaussian_ssm as dynamax
import jax
import jax.numpy as jnp
from dynamax.linear_gaussian_ssm.inference import ParamsLGSSM, make_lgssm_params

import ssmlin

from . import harness
from .harness import Table

STEPS, QUICK_STEPS = 10_000, 8
DIMS, QUICK_DIMS = (4, 8, 16, 32, 64), (8,)
# The gain over dynamax that is to be reached: never slower, and more where the state is small.
LEAST, LEAST_SMALL, SMALL = 1, 1.5, 16


def _functions(filter: Any, smoother: Any, sampler: Any) -> dict[str, Callable[..., Any]]:
    return {
        "log-likelihood": lambda params, y: filter(params, y).marginal_loglik,
        "filter": filter,
        "smoother": smoother,
        harness.SAMPLE: sampler,
    }


LIBRARIES = {
    name: _functions(library.lgssm_filter, library.lgssm_smoother, library.lgssm_posterior_sample)
    for name, library in (("ssmlin", ssmlin), ("dynamax", dynamax))
}


def run(quick: bool) -> None:
    """Print the table."""
    steps = QUICK_STEPS if quick else STEPS
    harness.remark(f"T = {harness.sizes(steps)}; D states, N emissions. Medians in milliseconds.")
    table = Table("D, N", "work", *LIBRARIES, "ratio", "target", "compile, s")
    for dim in QUICK_DIMS if quick else DIMS:
        for num in sorted({1, dim // 4}):
            problem = _problem(steps, dim, num)
            entries = {
                name: harness.contestants(functions, *problem)
                for name, functions in LIBRARIES.items()
            }
            for work in LIBRARIES["ssmlin"]:
                our, their = harness.measure_together(
                    {name: does[work] for name, does in entries.items()}, quick
                ).values()
                ratio = their.median / our.median
                table.row(
                    harness.sizes(dim, num),
                    work,
                    harness.milliseconds(our),
                    harness.milliseconds(their),
                    harness.times(ratio),
                    harness.target(ratio, LEAST_SMALL if dim <= SMALL else LEAST),
                    f"{our.compile_time:.1f} / {their.compile_time:.1f}",
                )
            jax.clear_caches()


def _problem(steps: int, dim: int, num: int) -> tuple[ParamsLGSSM, jax.Array]:
    """A stable model with full covariances, and emissions drawn from it."""
    keys = jax.random.split(jax.random.key(0), 5)
    rotation = jnp.linalg.qr(jax.random.normal(keys[0], (dim, dim)))[0]

    def covariance(key: jax.Array, size: int) -> jax.Array:
        root = jax.random.normal(key, (size, size)) / size**0.5
        return 0.1 * (root @ root.T + jnp.eye(size))

    params = make_lgssm_params(
        initial_mean=jnp.zeros(dim),
        initial_cov=jnp.eye(dim),
        dynamics_weights=0.95 * rotation,
        dynamics_cov=covariance(keys[1], dim),
        emissions_weights=jax.random.normal(keys[2], (num, dim)),
        emissions_cov=covariance(keys[3], num),
    )
    return params, dynamax.lgssm_joint_sample(params, keys[4], steps)[1]
