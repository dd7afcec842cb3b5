"""Which method a call uses, and how "auto" chooses.

All thresholds are in the table below. They follow the measurements in docs/benchmarks.md.
"""

import math
from typing import Literal, NamedTuple, get_args

import jax

from ssmlin import _checks

Chosen = Literal["sequential", "associative", "chunked"]
Method = Literal["auto", "sequential", "associative", "chunked"]

METHODS: tuple[str, ...] = get_args(Method)


class Thresholds(NamedTuple):
    """When "auto" leaves the sequential method on an accelerator, and for which.

    Attributes:
        sequential_below: shorter sequences are scanned step by step.
        batch: from so many sequences on they are scanned step by step, whatever their length: they
            keep an accelerator busy.
        parallel: the method of the others.
    """

    sequential_below: int
    batch: float
    parallel: Chosen


MATRIX = Thresholds(sequential_below=128, batch=512, parallel="chunked")
DENSE = Thresholds(sequential_below=257, batch=math.inf, parallel="associative")


def choose_method(
    method: Method, thresholds: Thresholds, *, num_timesteps: int, batch: int = 1
) -> Chosen:
    """Return `method`, or for "auto" the fastest one.

    On a CPU this is the sequential scan. On an accelerator a step of a scan costs some
    microseconds whatever its size, so there it is a parallel one.

    Args:
        method: one of :data:`METHODS`.
        thresholds: those of the model's kind.
        num_timesteps: T.
        batch: the number of sequences.

    Raises:
        ValueError: an unknown method.
    """
    _checks.one_of("method", method, METHODS)
    if method != "auto":
        return method
    if jax.default_backend() == "cpu" or num_timesteps < thresholds.sequential_below:
        return "sequential"
    return "sequential" if batch >= thresholds.batch else thresholds.parallel


def chunk_length(num_timesteps: int) -> int | None:
    """The steps of a chunk of the chunked method; None for about √T.

    On an accelerator a step of the scans costs more than a round of the scan that joins the chunks,
    so they are shorter there.
    """
    if jax.default_backend() == "cpu":
        return None
    return max(16, math.isqrt(num_timesteps) // 8)
