"""The three drivers of the filter, what `auto` takes of them, and those of the recurrence."""

from functools import partial
from typing import Any

import dynamax.linear_gaussian_ssm as dynamax
import jax

import ssmlin

from . import harness
from .harness import Contestant, Table

METHODS = ("sequential", "chunked", "associative")
WORK = {
    "log-likelihood": harness.loglik,
    "filter": harness.filter,
    "smoother": harness.smoother,
}
SIZES = ((1_000, 4, 1), (10_000, 16, 1), (2_000, 16, 16), (4_096, 32, 1))
QUICK_SIZES = ((8, 3, 2),)
RECURRENCE_SIZES = ((10_000, 16, 1), (10_000, 16, 16), (2_000, 64, 64))
LONG_SIZES = tuple((steps, d, 1) for d in (4, 16) for steps in (10_000, 100_000, 1_000_000))
# `auto` is to take no driver that is slower than the best one by more than this.
TOLERANCE = 1.1


def run(quick: bool) -> None:
    """Print the tables."""
    _filters(QUICK_SIZES if quick else SIZES, quick)
    if jax.default_backend() != "cpu":
        _long_filters(QUICK_SIZES if quick else LONG_SIZES, quick)
    _recurrence(QUICK_SIZES if quick else RECURRENCE_SIZES, quick)


def _filters(sizes: tuple[tuple[int, int, int], ...], quick: bool) -> None:
    harness.remark("Filter and smoother: medians in milliseconds, seconds to compile.")
    table = Table("T, d, m", "work", *METHODS, "auto takes", "compile, s")
    for size in sizes:
        problem = harness.gated_deltanet(*size)
        for work, function in WORK.items():
            variants = {method: partial(function, method=method) for method in METHODS}
            timings = harness.measure_together(
                {method: Contestant(f, problem) for method, f in variants.items()}, quick
            )
            # `auto` has no program of its own, so its program says what it takes.
            auto = _program(partial(function, method="auto"), problem)
            taken = next(name for name, f in variants.items() if _program(f, problem) == auto)
            ratio = timings[taken].median / min(timing.median for timing in timings.values())
            slow = f", {harness.times(ratio)} the best" if ratio > TOLERANCE else ""
            table.row(
                harness.sizes(*size),
                work,
                *(harness.milliseconds(timing) for timing in timings.values()),
                taken + slow,
                " / ".join(f"{timing.compile_time:.1f}" for timing in timings.values()),
            )
            jax.clear_caches()


def _program(function: Any, problem: tuple) -> str:
    return jax.jit(function).lower(*problem).as_text()


def _long_filters(sizes: tuple[tuple[int, int, int], ...], quick: bool) -> None:
    harness.remark(
        "Long sequences, the filter with all outputs, against dynamax's parallel filter: medians "
        "in milliseconds, and the ratio to the faster one of ours."
    )
    methods = ("chunked", "associative")
    table = Table("T, d, m", *methods, "dynamax parallel", "ratio", "compile, s")
    for size in sizes:
        lgssm, emissions = harness.gated_deltanet(*size)
        race = {
            method: Contestant(partial(harness.filter, method=method), (lgssm, emissions))
            for method in methods
        }
        theirs = Contestant(dynamax.parallel_lgssm_filter, (lgssm.to_dynamax(), emissions))
        timings = harness.measure_together({**race, "dynamax": theirs}, quick)
        ours = min(timings[method].median for method in methods)
        table.row(
            harness.sizes(*size),
            *(harness.milliseconds(timing) for timing in timings.values()),
            harness.times(timings["dynamax"].median / ours),
            " / ".join(f"{timing.compile_time:.1f}" for timing in timings.values()),
        )
        jax.clear_caches()


def _recurrence(sizes: tuple[tuple[int, int, int], ...], quick: bool) -> None:
    harness.remark(
        "The deterministic recurrence, `linear_attention`: medians in milliseconds, seconds to "
        "compile."
    )
    table = Table("T, d, m", *METHODS, "compile, s")
    for steps, d, m in sizes:
        keys = jax.random.split(jax.random.key(0), 5)
        tokens = {
            "keys": jax.random.normal(keys[0], (steps, d)),
            "values": jax.random.normal(keys[1], (steps, m)),
            "queries": jax.random.normal(keys[2], (steps, d)),
            "alpha": jax.random.uniform(keys[3], (steps,)),
            "beta": jax.random.uniform(keys[4], (steps,)),
        }
        race = {method: Contestant(partial(_attend, method), (tokens,)) for method in METHODS}
        timings = harness.measure_together(race, quick).values()
        table.row(
            harness.sizes(steps, d, m),
            *(harness.milliseconds(timing) for timing in timings),
            " / ".join(f"{timing.compile_time:.1f}" for timing in timings),
        )
        jax.clear_caches()


def _attend(method: str, tokens: dict[str, jax.Array]) -> Any:
    return ssmlin.linear_attention("gated_deltanet", **tokens, method=method)
