"""Options of XLA for programs that compute many sequences at once."""

from functools import cache

import jax


@cache
def batch_options() -> dict[str, str]:
    """Options for :func:`jax.jit` of programs with large batches on a CPU; none elsewhere.

    XLA hands sums over leading axes to a library that takes up to twenty times as long for them.

    Examples:
        >>> from ssmlin.inference import batch_options
        >>> isinstance(batch_options(), dict)
        True
    """
    options = {"xla_cpu_experimental_ynn_fusion_type": ""}
    if jax.default_backend() != "cpu":
        return {}
    try:
        jax.jit(lambda: 0, compiler_options=options).lower().compile()
    except jax.errors.JaxRuntimeError:  # another jaxlib, which has no such option
        return {}
    return options
