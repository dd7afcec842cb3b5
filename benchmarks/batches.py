"""Batches of sequences of unequal lengths, against single sequences and against vmap."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ssmlin import MatrixLGSSM

from . import harness
from .harness import Contestant, Table

STEPS, QUICK_STEPS = 1_000, 8
DIMS, QUICK_DIMS = (4, 8, 16), (4,)
BATCHES, QUICK_BATCHES = (8, 32, 128), (3,)
WORK: dict[str, Callable[..., Any]] = {
    "log-likelihood": harness.loglik,
    "filter": harness.filter,
    "gradient": harness.gradient,
}
# The gain in a sequence's time over a single sequence's, by d.
TARGETS = {8: 4, 16: 2}


def run(quick: bool) -> None:
    """Print the table."""
    steps = QUICK_STEPS if quick else STEPS
    harness.remark(
        f"T = {harness.sizes(steps)}, m = 1, lengths between T / 2 and T. Medians in "
        "microseconds a sequence; the gain is that of the batch over the single sequence."
    )
    table = Table("d", "B", "work", "single", "batch", "vmap", "gain", "target", "over vmap")
    for d in QUICK_DIMS if quick else DIMS:
        for num in QUICK_BATCHES if quick else BATCHES:
            problem = _problem(steps, d, num)
            single = jax.tree.map(lambda x: x[0], problem)
            for work, function in WORK.items():
                call = _with_length(function)
                timings = harness.measure_together(
                    {
                        "single": Contestant(call, single),
                        "batch": Contestant(call, problem),
                        "vmap": Contestant(jax.vmap(call), problem),
                    },
                    quick,
                )
                each = {
                    name: timing.median / (1 if name == "single" else num)
                    for name, timing in timings.items()
                }
                gain = each["single"] / each["batch"]
                table.row(
                    d,
                    num,
                    work,
                    *(harness.figure(1e6 * seconds) for seconds in each.values()),
                    harness.times(gain),
                    harness.target(gain, TARGETS[d]) if d in TARGETS else None,
                    harness.times(each["vmap"] / each["batch"]),
                )
                jax.clear_caches()


def _with_length(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda lgssm, emissions, length: function(lgssm, emissions, length=length)


def _problem(steps: int, d: int, num: int) -> tuple[MatrixLGSSM, jax.Array, jax.Array]:
    """Models and emissions with a leading batch axis, and the sequences' lengths."""
    keys = jax.random.split(jax.random.key(0), num)
    problem = jax.jit(jax.vmap(lambda key: harness.gated_deltanet(steps, d, 1, key=key)))(keys)
    return *problem, jnp.linspace(steps // 2, steps, num).astype(int)
