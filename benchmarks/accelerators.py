"""What an accelerator gains: drivers and lengths of chunks, short and batched sequences, dynamax.

All programs of a table are compiled first, side by side, since a program of an accelerator takes
seconds to compile.
"""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

import dynamax.linear_gaussian_ssm as dynamax
import jax
import jax.numpy as jnp

import ssmlin
from ssmlin.inference import RegressionLaw, batch_options, dynamic_regressions
from ssmlin.inference._methods import METHODS, Chosen
from ssmlin.inference.matrix import _problem as planning

from . import harness
from .harness import Contestant, Table, Timing


def by_autodiff(*arguments: Any, **options: Any) -> Any:
    """The gradient as JAX takes it, without the adjoint recursion."""
    return harness.gradient(*arguments, gradient="autodiff", **options)


WORK = {
    "log-likelihood": harness.loglik,
    "gradient": harness.gradient,
    "gradient, autodiff": by_autodiff,
    "smoother": harness.smoother,
}
LENGTHS, QUICK_LENGTHS = (10_000, 100_000, 1_000_000), (16,)
CHUNKS, QUICK_CHUNKS = (16, 64, 256), (4,)
# Beyond, a scan over time takes minutes, and the elements of single steps do not fit.
LONGEST_SEQUENTIAL, LONGEST_ASSOCIATIVE = 10_000, 100_000
SHORT, QUICK_SHORT = (32, 64, 128, 256), (8,)
BATCHES, QUICK_BATCHES = (1, 64, 1024), (2,)
DIM = 16
SERIES, QUICK_SERIES = (1_428, 65_536), (4,)
REGRESSORS, MONTHS = 14, 126


def run(quick: bool = False) -> None:
    """Print the tables."""
    _long(quick)
    _short(quick)
    _series(quick)
    _dynamax(quick)


def problem(steps: int, d: int, batch: int | None = None) -> tuple[ssmlin.MatrixLGSSM, jax.Array]:
    """A gated_deltanet of random tokens, and random emissions: a draw would need a scan."""
    if batch is not None:
        return jax.vmap(partial(_problem, steps, d))(jax.random.split(jax.random.key(0), batch))
    return _problem(steps, d, jax.random.key(0))


def _problem(steps: int, d: int, key: jax.Array) -> tuple[ssmlin.MatrixLGSSM, jax.Array]:
    keys = jax.random.split(key, 6)
    normal, uniform = jax.random.normal, jax.random.uniform
    lgssm = ssmlin.matrix_lgssm(
        "gated_deltanet",
        keys=normal(keys[0], (steps, d)),
        values=normal(keys[1], (steps, 1)),
        queries=normal(keys[2], (steps, d)) / d**0.5,
        alpha=uniform(keys[3], (steps), minval=0.9),
        beta=uniform(keys[4], (steps)),
        process_noise=0.1,
        emission_noise=0.3,
    )
    return lgssm, normal(keys[5], (steps, 1))


def compiled_together[Name](
    contestants: Mapping[Name, Contestant], options: dict[str, str] | None = None
) -> dict[Name, Contestant]:
    """The contestants, compiled in threads; those that the compiler refuses are left out."""
    lowered = {
        name: jax.jit(one.function, compiler_options=options).lower(*one.arguments)
        for name, one in contestants.items()
    }
    with ThreadPoolExecutor(8) as pool:
        futures = {name: pool.submit(one.compile) for name, one in lowered.items()}
    found = {}
    for name, future in futures.items():
        try:
            found[name] = Contestant(future.result(), contestants[name].arguments, jit=False)
        except jax.errors.JaxRuntimeError as error:
            harness.remark(f"Not compiled: {name}: {str(error).splitlines()[0]}")
    return found


def _timed[Name](
    contestants: Mapping[Name, Contestant], quick: bool, options: dict[str, str] | None = None
) -> dict[Name, Timing]:
    """Timings, each by itself; one that needs too much memory is left out."""
    found = {}
    for name, one in compiled_together(contestants, options).items():
        try:
            found[name] = harness.measure_together({name: one}, quick)[name]
        except jax.errors.JaxRuntimeError as error:
            harness.remark(f"Not run: {name}: {str(error).splitlines()[0]}")
    return found


def _cell(timings: Mapping[Any, Timing], name: Any) -> str | None:
    return harness.milliseconds(timings[name]) if name in timings else None


def _chunks_of(length: int, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with "chunked" taking chunks of so many steps."""

    def traced(*arguments: Any) -> Any:
        before = planning.driver_of
        planning.driver_of = lambda *a, **o: replace(before(*a, **o), length=length)
        try:
            return function(*arguments, method="chunked")
        finally:
            planning.driver_of = before

    return traced


def _long(quick: bool) -> None:
    harness.remark(
        f"One sequence, d = {DIM}, m = 1: medians in milliseconds. `chunked` cuts into about √T "
        "chunks; beside it, chunks of so many steps."
    )
    chunks = QUICK_CHUNKS if quick else CHUNKS
    table = Table("T", "work", *METHODS[1:], *(f"chunks of {n}" for n in chunks))
    for steps in QUICK_LENGTHS if quick else LENGTHS:
        arguments = problem(steps, DIM)
        race: dict[tuple[str, str | int], Contestant] = {}
        for work, function in WORK.items():
            for method in METHODS[1:]:
                longest = {"sequential": LONGEST_SEQUENTIAL, "associative": LONGEST_ASSOCIATIVE}
                if steps <= longest.get(method, steps):
                    whole = partial(function, method=method)
                    race[work, method] = Contestant(whole, arguments)
            for n in () if function is by_autodiff else chunks:
                race[work, n] = Contestant(_chunks_of(n, function), arguments)
        timings = _timed(race, quick)
        for work in WORK:
            cells = (_cell(timings, (work, one)) for one in (*METHODS[1:], *chunks))
            table.row(f"{steps:,}".replace(",", " "), work, *cells)
        jax.clear_caches()


def _short(quick: bool) -> None:
    harness.remark(
        f"Short sequences and batches, d = {DIM}, m = 1: the log-likelihood, medians in "
        "milliseconds."
    )
    methods: tuple[Chosen, ...] = ("sequential", "associative")
    table = Table("B", "T", *methods)
    race = {
        (batch, steps, method): Contestant(
            partial(harness.loglik, method=method), problem(steps, DIM, batch)
        )
        for batch in (QUICK_BATCHES if quick else BATCHES)
        for steps in (QUICK_SHORT if quick else SHORT)
        for method in methods
    }
    timings = _timed(race, quick)
    for batch, steps in dict.fromkeys((batch, steps) for batch, steps, _ in race):
        table.row(batch, steps, *(_cell(timings, (batch, steps, method)) for method in methods))
    jax.clear_caches()


def _series(quick: bool) -> None:
    steps = 8 if quick else MONTHS
    harness.remark(
        f"Many series that share a law, d = {REGRESSORS}, T = {steps}: the log-likelihood and its "
        "gradient, medians in milliseconds, and microseconds a step and series."
    )
    table = Table("series", "ms", "µs a step and series")
    race = {}
    for count in QUICK_SERIES if quick else SERIES:
        keys = jax.random.split(jax.random.key(0), 2)
        h = jax.random.normal(keys[0], (count, steps, REGRESSORS))
        y = jax.random.normal(keys[1], (count, steps))
        race[count] = Contestant(_regressions, (_law(), y, h))
    for count, timing in _timed(race, quick, batch_options()).items():
        each = 1e6 * timing.median / (steps * count)
        table.row(
            f"{count:,}".replace(",", " "), harness.milliseconds(timing), harness.figure(each)
        )


def _law() -> RegressionLaw:
    return RegressionLaw(
        jnp.zeros(REGRESSORS), 0.1 * jnp.eye(REGRESSORS), jnp.array(0.99),
        jnp.full(REGRESSORS, 1e-3),
    )  # fmt: skip


def _regressions(law: RegressionLaw, y: jax.Array, h: jax.Array) -> Any:
    def loss(law: RegressionLaw) -> jax.Array:
        errors, scales = dynamic_regressions(law, y, h)[:2]
        return -0.5 * jnp.sum(errors**2 / scales + jnp.log(scales))

    return jax.value_and_grad(loss)(law)


def _dynamax(quick: bool) -> None:
    harness.remark(
        f"The filter with all it returns, d = {DIM}, m = 1, against dynamax's: medians in "
        "milliseconds."
    )
    table = Table("T", "auto", "dynamax, parallel", "ratio", "dynamax, sequential", "ratio")
    for steps in QUICK_LENGTHS if quick else LENGTHS[:2]:
        lgssm, emissions = problem(steps, DIM)
        theirs = lgssm.to_dynamax()
        race = {
            "auto": Contestant(harness.filter, (lgssm, emissions)),
            "parallel": Contestant(dynamax.parallel_lgssm_filter, (theirs, emissions)),
        }
        if steps <= LONGEST_SEQUENTIAL:
            race["sequential"] = Contestant(dynamax.lgssm_filter, (theirs, emissions))
        timings = _timed(race, quick)
        cells = [_cell(timings, "auto")]
        for name in ("parallel", "sequential"):
            there = name in timings and "auto" in timings
            ratio = timings[name].median / timings["auto"].median if there else None
            cells += [_cell(timings, name), ratio and harness.times(ratio)]
        table.row(f"{steps:,}".replace(",", " "), *cells)
        jax.clear_caches()
