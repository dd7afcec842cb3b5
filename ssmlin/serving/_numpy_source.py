"""A traced function written out as NumPy."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array

from ssmlin.serving._numpy_expressions import numpy_expression
from ssmlin.serving._translation import Name, Translation


class NumPySource(NamedTuple):
    """A function as NumPy code.

    Attributes:
        lines: of the body; arguments are named a0, a1, ..., constants c["0"], c["1"], ...
        results: expressions of what it returns.
        constants: by name.
        weights: the names of those that are matrices which something is multiplied by.
    """

    lines: list[str]
    results: list[str]
    constants: dict[str, np.ndarray]
    weights: set[str]


def numpy_source(function: Callable[..., Sequence[Array]], *like: Any) -> NumPySource:
    """Write a function of arrays out as NumPy code.

    Args:
        function: takes arrays and returns a tuple of arrays.
        *like: arguments of the shapes and types that it will get.

    Raises:
        NotImplementedError: the function does something that this knows no NumPy for.

    Examples:
        >>> import jax.numpy as jnp
        >>> from ssmlin.serving._numpy_source import numpy_source
        >>> source = numpy_source(lambda x: (jnp.exp(2 * x) + jnp.sin(1.0),), jnp.ones(2))
        >>> source.lines, source.results
        (['t0 = c["0"] * a0', 't1 = np.exp(t0)', 't2 = t1 + c["1"]'], ['t2'])
    """
    writer = _Writer()
    results = writer.translate(function, [f"a{i}" for i in range(len(like))], like)
    return NumPySource(
        writer.lines, [writer.text(x) for x in results], writer.constants, writer.weights
    )


class _Writer(Translation):
    """The lines and constants so far."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.weights: set[str] = set()

    def write(self, equation: Any, given: Sequence[Any]) -> Name:
        right = numpy_expression(equation, [self.text(x) for x in given])
        if equation.primitive.name == "dot_general":
            known = [x for x in given if not isinstance(x, Name)]
            self.weights |= {self.constant(x) for x in known if np.ndim(x) > 1}
        self.lines.append(f"t{len(self.lines)} = {right}")
        return Name(f"t{len(self.lines) - 1}")

    def text(self, x: Any) -> str:
        """The expression of a value: a variable, or a constant that is kept."""
        return str(x) if isinstance(x, Name) else f'c["{self.constant(x)}"]'
