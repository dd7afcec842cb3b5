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
    """When "auto" leaves the sequential method on an accelerator, and when the associative one.

    Attributes:
        sequential_below: shorter sequences are scanned step by step.
        associative_below: the bytes of the elements of all steps up to which the associative scan
            is used; beyond, the chunked one, which needs less memory.
    """

    sequential_below: int
    associative_below: float


MATRIX = Thresholds(sequential_below=64, associative_below=2**33)
DENSE = Thresholds(sequential_below=257, associative_below=math.inf)


def choose_method(
    method: Method, thresholds: Thresholds, *, num_timesteps: int, step_bytes: int, batch: int = 1
) -> Chosen:
    """Return `method`, or for "auto" the fastest one.

    On a CPU this is the sequential scan. On an accelerator a step of a scan costs some tens of
    microseconds whatever its size, so there it is the associative scan, while its elements fit
    into memory. A large batch keeps an accelerator busy by itself.

    Args:
        method: one of :data:`METHODS`.
        thresholds: those of the model's kind.
        num_timesteps: T.
        step_bytes: the memory that the element of one step takes.
        batch: the number of sequences.

    Raises:
        ValueError: an unknown method.
    """
    _checks.one_of("method", method, METHODS)
    if method != "auto":
        return method
    if jax.default_backend() == "cpu" or num_timesteps < thresholds.sequential_below:
        return "sequential"
    if batch >= num_timesteps:
        return "sequential"
    fits = num_timesteps * step_bytes < thresholds.associative_below
    return "associative" if fits else "chunked"
