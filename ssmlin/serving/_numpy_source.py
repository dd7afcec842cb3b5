"""A traced function written out as NumPy: what depends on no argument is computed beforehand."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend import core
from jaxtyping import Array

#: Parameters under which a primitive that calls another function has it.
_CALLED = ("call_jaxpr", "fun_jaxpr", "jaxpr")

_UNARY = {
    "neg": "-{0}",
    "exp": "np.exp({0})",
    "log": "np.log({0})",
    "log1p": "np.log1p({0})",
    "expm1": "np.expm1({0})",
    "sqrt": "np.sqrt({0})",
    "rsqrt": "1 / np.sqrt({0})",
    "logistic": "1 / (1 + np.exp(-{0}))",
    "tanh": "np.tanh({0})",
    "sin": "np.sin({0})",
    "cos": "np.cos({0})",
    "abs": "np.abs({0})",
    "sign": "np.sign({0})",
    "square": "{0} * {0}",
    "is_finite": "np.isfinite({0})",
    "not": "~{0}",
    "copy": "{0}",
    "copy_p": "{0}",
    "stop_gradient": "{0}",
}
_BINARY = {
    "add": "{0} + {1}",
    "add_any": "{0} + {1}",
    "sub": "{0} - {1}",
    "mul": "{0} * {1}",
    "div": "{0} / {1}",
    "max": "np.maximum({0}, {1})",
    "min": "np.minimum({0}, {1})",
    "pow": "{0} ** {1}",
    "and": "{0} & {1}",
    "or": "{0} | {1}",
    "eq": "{0} == {1}",
    "ne": "{0} != {1}",
    "lt": "{0} < {1}",
    "le": "{0} <= {1}",
    "gt": "{0} > {1}",
    "ge": "{0} >= {1}",
    "select_n": "",  # of three arguments, see below
}
_REDUCTIONS = {"reduce_sum": "sum", "reduce_max": "max", "reduce_min": "min", "reduce_prod": "prod",
               "reduce_and": "all", "reduce_or": "any"}  # fmt: skip


class NumPySource(NamedTuple):
    """A function as NumPy code.

    Attributes:
        lines: of the body; arguments are named a0, a1, ..., constants c["0"], c["1"], ...
        results: expressions of what it returns.
        constants: by name.
    """

    lines: list[str]
    results: list[str]
    constants: dict[str, np.ndarray]


def numpy_source(function: Callable[..., Sequence[Array]], *like: Any) -> NumPySource:
    """Write a function of arrays out as NumPy code.

    Args:
        function: takes arrays and returns a tuple of arrays.
        *like: arguments of the shapes and types that it will get.

    Raises:
        ValueError: the function does something that this knows no NumPy for.

    Examples:
        >>> import jax.numpy as jnp
        >>> from ssmlin.serving._numpy_source import numpy_source
        >>> source = numpy_source(lambda x: (jnp.exp(2 * x) + jnp.sin(1.0),), jnp.ones(2))
        >>> source.lines, source.results
        (['t0 = c["0"] * a0', 't1 = np.exp(t0)', 't2 = t1 + c["1"]'], ['t2'])
    """
    closed = jax.make_jaxpr(function)(*like)
    writer = _Writer()
    arguments = [_Name(f"a{i}") for i in range(len(like))]
    results = writer.run(closed.jaxpr, closed.consts, arguments)
    return NumPySource(writer.lines, [writer.text(x) for x in results], writer.constants)


class _Name(str):
    """What depends on an argument, by the name of its variable."""


class _Writer:
    """The lines and constants so far."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.constants: dict[str, np.ndarray] = {}
        self._known: dict[int, tuple[Any, str]] = {}

    def text(self, x: Any) -> str:
        """The expression of a value: a variable, or a constant that is kept."""
        if isinstance(x, _Name):
            return str(x)
        if id(x) not in self._known:
            name = str(len(self.constants))
            self.constants[name] = np.asarray(x)
            self._known[id(x)] = (x, f'c["{name}"]')
        return self._known[id(x)][1]

    def run(self, jaxpr: Any, consts: Sequence[Any], arguments: Sequence[Any]) -> list[Any]:
        """Go through the equations; those without a name among their arguments are computed."""
        values: dict[Any, Any] = dict(zip(jaxpr.constvars, consts, strict=True))
        values |= dict(zip(jaxpr.invars, arguments, strict=True))

        def read(x: Any) -> Any:
            return x.val if isinstance(x, core.Literal) else values[x]

        for equation in jaxpr.eqns:
            given = [read(x) for x in equation.invars]
            inner = next((equation.params[k] for k in _CALLED if k in equation.params), None)
            is_known = not any(isinstance(x, _Name) for x in given)
            if inner is not None:
                closed = inner if hasattr(inner, "consts") else None
                body = inner if closed is None else closed.jaxpr
                found = self.run(body, [] if closed is None else closed.consts, given)
            elif is_known:
                found = self._computed(equation, given)
            else:
                right = self._expression(equation, [self.text(x) for x in given])
                found = [_Name(f"t{len(self.lines)}")]
                self.lines.append(f"{found[0]} = {right}")
            values |= dict(zip(equation.outvars, found, strict=True))
        return [read(x) for x in jaxpr.outvars]

    def _computed(self, equation: Any, given: Sequence[Any]) -> list[Any]:
        """What an equation of known values gives: by NumPy, since JAX would compile each one."""
        x = [f"x[{i}]" for i in range(len(given))]
        try:
            code = self._expression(equation, x)
        except ValueError:
            found = equation.primitive.bind(*given, **equation.params)
            return list(found) if equation.primitive.multiple_results else [found]
        value = eval(code, {"np": np, "x": [np.asarray(one) for one in given]})
        return [np.asarray(value, equation.outvars[0].aval.dtype)]

    def _expression(self, equation: Any, x: Sequence[str]) -> str:
        """The right-hand side of one equation, given the expressions of its arguments."""
        name, p = equation.primitive.name, equation.params
        shape = tuple(equation.outvars[0].aval.shape)
        if name == "select_n" and len(x) == 3:
            return f"np.where({x[0]}, {x[2]}, {x[1]})"
        if name in _UNARY or name in _BINARY:
            return (_UNARY | _BINARY)[name].format(*x)
        if name in _REDUCTIONS:
            return f"{x[0]}.{_REDUCTIONS[name]}(axis={tuple(p['axes'])})"
        if name == "integer_pow":
            return f"{x[0]} ** {p['y']}"
        if name in ("reshape", "squeeze", "expand_dims"):
            return f"{x[0]}.reshape({shape})"
        if name == "broadcast_in_dim":
            sizes = [1] * len(shape)
            for axis, size in zip(p["broadcast_dimensions"], np.shape(equation.invars[0].aval),
                                  strict=True):  # fmt: skip
                sizes[axis] = size
            return f"np.broadcast_to(np.reshape({x[0]}, {tuple(sizes)}), {shape})"
        if name == "transpose":
            return f"{x[0]}.transpose({tuple(p['permutation'])})"
        if name == "concatenate":
            return f"np.concatenate([{', '.join(x)}], axis={p['dimension']})"
        if name == "convert_element_type":
            return f"np.asarray({x[0]}).astype({np.dtype(p['new_dtype']).name!r})"
        if name == "slice":
            steps = p["strides"] or [1] * len(shape)
            parts = zip(p["start_indices"], p["limit_indices"], steps, strict=True)
            return f"{x[0]}[{', '.join(f'{a}:{b}:{c}' for a, b, c in parts)}]"
        if name == "pad" and all(low >= 0 and high >= 0 and inside == 0
                                 for low, high, inside in p["padding_config"]):  # fmt: skip
            widths = [(low, high) for low, high, _ in p["padding_config"]]
            return f"np.pad({x[0]}, {widths}, constant_values={x[1]})"
        if name == "dot_general":
            return self._product(p["dimension_numbers"], equation.invars, x)
        raise ValueError(
            f"format: expected 'stablehlo' for this model, since there is no NumPy for {name!r} "
            "here; got 'numpy'"
        )

    @staticmethod
    def _product(numbers: Any, variables: Sequence[Any], x: Sequence[str]) -> str:
        """A general product of two arrays."""
        (left, right), (left_batch, right_batch) = numbers
        ranks = [len(v.aval.shape) for v in variables]
        letters = iter("abcdefghijklmnopqrstuvwxyz")
        first = [next(letters) for _ in range(ranks[0])]
        second = [next(letters) for _ in range(ranks[1])]
        for i, j in [*zip(left, right, strict=True), *zip(left_batch, right_batch, strict=True)]:
            second[j] = first[i]
        kept = [first[i] for i in left_batch]
        kept += [c for i, c in enumerate(first) if i not in (*left, *left_batch)]
        kept += [c for j, c in enumerate(second) if j not in (*right, *right_batch)]
        sizes = [math.prod(v.aval.shape) for v in variables]
        if ranks == [2, 2] and (left, right) == ((1,), (0,)) and min(sizes) > 0:
            return f"{x[0]} @ {x[1]}"
        return f'np.einsum("{"".join(first)},{"".join(second)}->{"".join(kept)}", {x[0]}, {x[1]})'
