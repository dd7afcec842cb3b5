"""What the benchmarks share: timing, the machine and its floors, tables, and the usual problem."""

import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import ssmlin
from ssmlin import MatrixLGSSM

# ----------------------------------------------------------------------------------- timing


class Contestant(NamedTuple):
    """A computation to be timed.

    Attributes:
        function: what is called.
        arguments: what with; arrays, pytrees of them or a model.
        jit: whether JAX compiles it first.
    """

    function: Callable[..., Any]
    arguments: tuple[Any, ...] = ()
    jit: bool = True


@dataclass(frozen=True)
class Timing:
    """What was measured of a computation.

    Args:
        compile_time: seconds until it was ready to run.
        quartiles: of the run time, in seconds.
        temporary: bytes that the compiled program needs beside arguments and results.
        value: the result where it is a single number.
    """

    compile_time: float
    quartiles: np.ndarray
    temporary: int | None = None
    value: float | None = None

    @property
    def median(self) -> float:
        """Median of the run time, in seconds."""
        return float(self.quartiles[1])


@dataclass
class _Race:
    """A contestant under way: `calls` calls make a sample, and there are to be `repeats`."""

    call: Callable[[], Any]
    compile_time: float
    temporary: int | None
    value: float | None
    calls: int
    repeats: int
    warm: bool
    samples: list[float] = field(default_factory=list)

    def time(self) -> None:
        if self.warm:
            jax.block_until_ready(self.call())
        begin = time.perf_counter()
        for _ in range(self.calls):
            jax.block_until_ready(self.call())
        self.samples.append((time.perf_counter() - begin) / self.calls)

    def timing(self) -> Timing:
        quartiles = np.percentile(self.samples, [25, 50, 75])
        return Timing(self.compile_time, quartiles, self.temporary, self.value)


# A shorter sample would show the clock.
_SHORTEST_SAMPLE = 2e-3
# Up to here a sample comes after a call that is not timed: others leave the caches cold.
_WARMED = 50e-3


@contextmanager
def compiled_anew(anew: bool = True) -> Iterator[None]:
    """Without JAX's cache of compiled programs, if so."""
    from jax.experimental.compilation_cache import compilation_cache

    before = jax.config.jax_enable_compilation_cache
    if anew:
        jax.config.update("jax_enable_compilation_cache", False)
        compilation_cache.reset_cache()  # it has looked at the setting once
    try:
        yield
    finally:
        if anew:
            jax.config.update("jax_enable_compilation_cache", before)
            compilation_cache.reset_cache()


def measure_together[Name](
    contestants: Mapping[Name, Contestant], quick: bool = False
) -> dict[Name, Timing]:
    """Time several computations turn by turn, so that they share the noise of the machine.

    Each is called for about a second in all, at least 3 and at most 31 times; the calls of the slow
    ones are spread evenly over those of the fast ones.
    """
    races = {name: _prepare(contestant, quick) for name, contestant in contestants.items()}
    rounds = max((race.repeats for race in races.values()), default=0)
    for k in range(rounds):
        for race in races.values():
            if k * race.repeats % rounds < race.repeats:
                race.time()
    return {name: race.timing() for name, race in races.items()}


def measure(function: Callable[..., Any], *arguments: Any, quick: bool = False) -> Timing:
    """Time one computation by itself."""
    return measure_together({"": Contestant(function, arguments)}, quick)[""]


def _prepare(contestant: Contestant, quick: bool) -> _Race:
    """Compile, warm up, and see how many samples the time allows."""
    function, temporary = contestant.function, None
    begin = time.perf_counter()
    if contestant.jit:
        function = jax.jit(function).lower(*contestant.arguments).compile()
        analysis = function.memory_analysis()
        temporary = None if analysis is None else analysis.temp_size_in_bytes
    compile_time = time.perf_counter() - begin
    call = partial(function, *contestant.arguments)
    result = jax.tree.leaves(jax.block_until_ready(call()))
    value = float(result[0]) if len(result) == 1 and np.ndim(result[0]) == 0 else None
    del result  # it may be large

    begin = time.perf_counter()
    jax.block_until_ready(call())
    duration = max(time.perf_counter() - begin, 1e-7)
    calls = max(1, round(_SHORTEST_SAMPLE / duration))
    least, most, seconds = (1, 3, 0.02) if quick else (3, 31, 1.0)
    repeats = int(np.clip(seconds / (calls * duration), least, most))
    warm = duration < _WARMED
    return _Race(call, compile_time, temporary, value, calls, repeats, warm)


# ---------------------------------------------------------------------- the machine's floors


class Floors(NamedTuple):
    """What the machine can do.

    Attributes:
        product: operations a second of a float32 matrix product.
        fresh: bytes a second that XLA writes into memory that it has just asked for.
        fresh_numpy: the same for NumPy, which on Linux asks for large pages.
        warm: bytes a second, read and written in place.
    """

    product: float
    fresh: float
    fresh_numpy: float
    warm: float


def floors(quick: bool = False) -> Floors:
    """Measure what the machine can do."""
    n, size = 1024, 2**25  # 128 MiB, beyond every cache and never kept by an allocator
    matrix, state = jnp.ones((n, n)), jnp.zeros(size)
    increment = jax.jit(lambda x: x + 1, donate_argnums=0)

    def in_place() -> jax.Array:
        nonlocal state
        state = increment(state)
        return state

    timings = measure_together(
        {
            "product": Contestant(partial(jnp.matmul, precision="highest"), (matrix, matrix)),
            "fresh": Contestant(partial(jnp.full, size), (jnp.float32(1.0),)),
            "fresh_numpy": Contestant(lambda: np.full(size, np.float32(1.0)), jit=False),
            "warm": Contestant(in_place, jit=False),
        },
        quick,
    )
    amounts = {"product": 2 * n**3, "fresh": 4 * size, "fresh_numpy": 4 * size, "warm": 8 * size}
    return Floors(**{name: amount / timings[name].median for name, amount in amounts.items()})


def machine() -> str:
    """The machine and the versions, in one line."""
    packages = ("ssmlin", "jax", "dynamax", "cuthbert", "statsmodels", "numpy")
    return (
        f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, "
        f"{jax.default_backend()} ({jax.devices()[0].device_kind}), float32; "
        + ", ".join(f"{name} {_version(name)}" for name in packages)
        + time.strftime(", %B %Y.")
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


# ----------------------------------------------------------------------------------- tables

_kept: list[dict[str, Any]] | None = None  # None: nothing is kept


@contextmanager
def keep() -> Iterator[list[dict[str, Any]]]:
    """Inside it sections, tables and remarks are kept in the list it gives, too."""
    global _kept
    _kept = []
    try:
        yield _kept
    finally:
        _kept = None


class Table:
    """A Markdown table, printed row by row.

    Args:
        headings: of the columns.
    """

    def __init__(self, *headings: str):
        self._headings = headings
        self._rows: list[dict[str, Any]] | None = None
        print()
        self.row(*headings)
        self.row(*["---"] * len(headings))
        if _kept is not None:
            self._rows = []
            _kept[-1]["tables"].append(self._rows)

    def row(self, *cells: Any) -> None:
        """Print a row; None leaves its cell empty."""
        if len(cells) != len(self._headings):
            raise ValueError(f"cells: expected {len(self._headings)}, got {len(cells)}")
        if self._rows is not None:
            self._rows.append(dict(zip(self._headings, cells, strict=True)))
        print("|", " | ".join("" if c is None else str(c) for c in cells), "|", flush=True)


def section(title: str, description: str) -> None:
    """Begin a section, with none of the programs that the one before it has compiled."""
    jax.clear_caches()
    text = f"{description[:1].upper()}{description[1:]}."
    if _kept is not None:
        _kept.append({"title": title, "description": text, "tables": [], "remarks": []})
    print(f"\n## {title}\n\n{text}", flush=True)


def remark(text: str) -> None:
    """Print a paragraph."""
    if _kept is not None:
        _kept[-1]["remarks"].append(text)
    print(f"\n{text}", flush=True)


def figure(x: float) -> str:
    """A number to three digits, without an exponent unless it is tiny: 1.65, 38.1, 2 860."""
    if not np.isfinite(x):
        return str(x)
    if abs(x) >= 1000:
        digits = max(0, len(str(int(abs(x)))) - 3)
        return f"{round(x, -digits):,.0f}".replace(",", " ")
    return f"{x:.3g}"


def milliseconds(timing: Timing) -> str:
    """The median with the middle half's range: 1.65 (1.62-1.69)."""
    low, middle, high = (figure(1e3 * x) for x in timing.quartiles)
    return f"{middle} ({low}-{high})"


def megabytes(timing: Timing) -> str:
    """Memory that the program needs for itself."""
    return "unknown" if timing.temporary is None else figure(timing.temporary / 1e6)


def times(ratio: float) -> str:
    """A ratio: 14 ×."""
    return f"{figure(round(ratio) if ratio >= 10 else round(ratio, 2))} ×"


def target(ratio: float, least: float) -> str:
    """A target that the ratio has to reach, and whether it does."""
    return f"≥ {least:g} ×, {'met' if ratio >= least else 'missed'}"


def limit(ratio: float, most: float) -> str:
    """A target that the ratio must not pass, and whether it holds."""
    return f"≤ {most:g} ×, {'met' if ratio <= most else 'missed'}"


def sizes(*numbers: int) -> str:
    """Sizes as one cell: 10 000, 16, 1."""
    return ", ".join(f"{n:,}".replace(",", " ") for n in numbers)


# ----------------------------------------------------------------- the problem and the work


def gated_deltanet(
    steps: int,
    d: int,
    m: int,
    *,
    process_noise: Any = 0.1,
    write_noise: float | None = None,
    key: jax.Array | None = None,
) -> tuple[MatrixLGSSM, jax.Array]:
    """A gated_deltanet of random tokens, and emissions drawn from it."""
    keys = jax.random.split(jax.random.key(0) if key is None else key, 6)
    normal, uniform = jax.random.normal, jax.random.uniform
    lgssm = ssmlin.matrix_lgssm(
        "gated_deltanet",
        keys=normal(keys[0], (steps, d)),
        values=normal(keys[1], (steps, m)),
        queries=normal(keys[2], (steps, d)) / d**0.5,
        alpha=uniform(keys[3], (steps,), minval=0.9),
        beta=uniform(keys[4], (steps,)),
        process_noise=process_noise,
        write_noise=write_noise,
        emission_noise=0.3,
    )
    return lgssm, ssmlin.matrix_lgssm_sample(keys[5], lgssm)[1][0]


def loglik(lgssm: MatrixLGSSM, emissions: jax.Array, **options: Any) -> jax.Array:
    """The log-likelihood, nothing kept over time."""
    return ssmlin.matrix_lgssm_filter(lgssm, emissions, store="loglik", **options).marginal_loglik


def gradient(lgssm: MatrixLGSSM, emissions: jax.Array, **options: Any) -> MatrixLGSSM:
    """The gradient of the log-likelihood with respect to every array of the model."""
    return jax.grad(lambda lgssm: loglik(lgssm, emissions, **options).sum())(lgssm)


filter = ssmlin.matrix_lgssm_filter
smoother = ssmlin.matrix_lgssm_smoother
SAMPLE = "posterior sample"


def contestants(
    functions: Mapping[str, Callable[..., Any]], model: Any, emissions: jax.Array
) -> dict[str, Contestant]:
    """A contestant for each work on this model.

    The key of a sampler is an argument too: XLA would otherwise draw while it compiles.
    """
    problem, key = (model, emissions), jax.random.key(1)
    return {
        name: Contestant(function, (key, *problem) if name == SAMPLE else problem)
        for name, function in functions.items()
    }
