"""Which cases of a test `make test` runs; the others, marked `slow`, are for `make test-all`."""

from collections.abc import Callable, Iterable
from itertools import product
from typing import Any

import pytest

#: One mechanism of each kind: no gate, the delta rule, keys of its own for removal, several steps
#: a token, a memory with a covariance.
KINDS = ("vanilla", "gated_deltanet", "rwkv7", "gated_deltaproduct", "bayesian_memory")


def slow(*values: Any) -> Any:
    """A case that `make test` leaves out."""
    return pytest.param(*values, marks=pytest.mark.slow)


def cases(values: Iterable[Any], *core: Any) -> list[Any]:
    """All values as cases; those that are not in `core` are slow."""
    return [value if value in core else slow(value) for value in values]


def pairs(
    first: Iterable[Any], second: Iterable[Any], is_core: Callable[[Any, Any], bool]
) -> list[Any]:
    """All pairs of values as cases of two arguments; those that are not core are slow."""
    return [pair if is_core(*pair) else slow(*pair) for pair in product(first, second)]
