"""Products of float32 numbers in float32, also on accelerators."""

from collections.abc import Callable
from functools import wraps

import jax


def in_full_precision[**P, R](function: Callable[P, R]) -> Callable[P, R]:
    """The function with all matrix products that are traced in it in the precision of its arrays.

    Without it an accelerator rounds the factors of float32 products to ten bits or fewer (TF32,
    bfloat16), which moved smoothed means by 1e-4 on an H200, and a covariance may then be none.
    """

    @wraps(function)
    def traced(*args: P.args, **kwargs: P.kwargs) -> R:
        with jax.default_matmul_precision("highest"):
            return function(*args, **kwargs)

    return traced
