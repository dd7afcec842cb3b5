"""Time and memory against T and d, and how far from the floors of the machine."""

from collections.abc import Sequence
from functools import partial

import jax
import numpy as np

from . import harness
from .harness import Table, Timing

WORK = {
    "log-likelihood": harness.loglik,
    "filter": harness.filter,
    "gradient": harness.gradient,
}
LENGTHS, QUICK_LENGTHS = (1_000, 10_000, 100_000, 1_000_000), (16, 32)
LONGEST_GRADIENT = 100_000
LENGTHS_DIM = 16
DIMS, QUICK_DIMS = (4, 8, 16, 32, 64, 128), (4, 8)
DIMS_LENGTH, QUICK_DIMS_LENGTH = 2_000, 16
# The log-likelihood is to take at most this many times its floor, from this d on.
MOST_FLOORS, FROM_DIM = 5, 32


def run(quick: bool) -> None:
    """Print the tables."""
    lengths = QUICK_LENGTHS if quick else LENGTHS
    dims = QUICK_DIMS if quick else DIMS
    steps = QUICK_DIMS_LENGTH if quick else DIMS_LENGTH
    harness.remark("Medians in milliseconds, temporary memory in MB, seconds to compile; m = 1.")
    along_t = _measure([(length, LENGTHS_DIM) for length in lengths], quick)
    along_d = _measure([(steps, d) for d in dims], quick)
    _print_slopes(along_t, lengths, along_d, dims)
    _print_floors(along_t | along_d, quick)


type Measured = dict[tuple[int, int], dict[str, Timing]]


def _measure(sizes: Sequence[tuple[int, int]], quick: bool) -> Measured:
    """Time each work at each (T, d), and print it."""
    table = Table("T, d", *WORK, *(f"{work}, MB" for work in WORK), "compile, s")
    measured = {}
    for size in sizes:
        problem = harness.gated_deltanet(*size, 1)
        timings = {
            name: harness.measure(function, *problem, quick=quick)
            for name, function in WORK.items()
            if name != "gradient" or size[0] <= LONGEST_GRADIENT
        }
        measured[size] = timings
        there = [timings.get(name) for name in WORK]
        table.row(
            harness.sizes(*size),
            *(timing and harness.milliseconds(timing) for timing in there),
            *(timing and harness.megabytes(timing) for timing in there),
            " / ".join(f"{timing.compile_time:.1f}" for timing in timings.values()),
        )
        jax.clear_caches()
    return measured


def _print_slopes(
    along_t: Measured, lengths: Sequence[int], along_d: Measured, dims: Sequence[int]
) -> None:
    harness.remark("Fitted exponents: time or memory grows as T or d to this power.")
    table = Table("work", "time, T", "memory, T", "time, d", "memory, d")
    for work in WORK:
        cells = []
        for measured, sizes in ((along_t, lengths), (along_d, dims)):
            there = [
                (n, timings[work])
                for n, timings in zip(sizes, measured.values(), strict=True)
                if work in timings
            ]
            for quantity in (lambda x: x.median, lambda x: x.temporary):
                cells.append(_exponent([(n, quantity(timing)) for n, timing in there]))
        table.row(work, *cells)


def _exponent(points: Sequence[tuple[int, float | None]]) -> str:
    """The slope of the logarithms, by least squares."""
    positive = [(n, y) for n, y in points if y]
    if len(positive) < 2:
        return "–"
    n, y = np.log(np.array(positive)).T
    return f"{np.polyfit(n, y, 1)[0]:.2f}"


def _operations(d: int, m: int) -> int:
    """Floating point operations that a step of the log-likelihood cannot do without.

    With A = α (I − β k kᵀ): P z and P u take 2 · 2 d². The write P ← α² P − a kᵀ − k aᵀ − s g gᵀ
    takes 1 + 2 + 2 + 2 an entry. The means need M u and M h (2 · 2 m d) and α M − b kᵀ + e gᵀ
    (1 + 2 + 2 an entry). What is linear in d is left out.
    """
    return 4 * d**2 + 7 * d**2 + 4 * m * d + 5 * m * d


def _print_floors(measured: Measured, quick: bool) -> None:
    floors = harness.floors(quick)
    product, fresh, fresh_numpy, warm = (harness.figure(rate / 1e9) for rate in floors)
    harness.remark(
        f"Floors, measured in this run: a float32 matrix product of 1024³ does {product} GFLOP/s; "
        f"memory just asked for is written at {fresh} GB/s by XLA and {fresh_numpy} GB/s by NumPy; "
        f"memory in use is read and written in place at {warm} GB/s. The log-likelihood's floor is "
        "its operations at the first rate, the filter's is what it returns at the better one of "
        "the next two."
    )
    rate = max(floors.fresh, floors.fresh_numpy)
    table = Table(
        "T, d",
        "log-likelihood, ms",
        "floor, ms",
        "times the floor",
        "target",
        "filter, ms",
        "floor, ms",
        "times the floor",
    )
    for (steps, d), timings in measured.items():
        least = steps * _operations(d, 1) / floors.product
        problem = jax.eval_shape(partial(harness.gated_deltanet, steps, d, 1))
        outputs = jax.tree.leaves(jax.eval_shape(harness.filter, *problem))
        written = sum(x.size * x.dtype.itemsize for x in outputs) / rate
        ratio = timings["log-likelihood"].median / least
        table.row(
            harness.sizes(steps, d),
            harness.figure(1e3 * timings["log-likelihood"].median),
            harness.figure(1e3 * least),
            harness.times(ratio),
            harness.limit(ratio, MOST_FLOORS) if d >= FROM_DIM else None,
            harness.figure(1e3 * timings["filter"].median),
            harness.figure(1e3 * written),
            harness.times(timings["filter"].median / written),
        )
