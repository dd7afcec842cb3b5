"""A traced function in another language: what depends on no argument is computed beforehand."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core
from jaxtyping import Array, Float

from ssmlin.serving._numpy_expressions import numpy_expression

#: Parameters under which a primitive that calls another function has it.
_CALLED = ("call_jaxpr", "fun_jaxpr", "jaxpr")


type Rewriting = dict[str, Callable[[Any], Callable[..., Any]]]


class Name(str):
    """What depends on an argument, by the name of its variable."""


class Translation(ABC):
    """Goes through the equations of a function; a subclass writes each down in its language.

    Values are arrays where they are known, else a :class:`Name`. Functions that are called are
    written out in place, loops as often as they run, factorisations column by column.
    """

    #: Of a primitive: a function of its equation that gives the same in simpler ones.
    rewritten: ClassVar[Rewriting]

    def __init__(self) -> None:
        self.constants: dict[str, np.ndarray] = {}
        self._kept: dict[Any, str] = {}

    def constant(self, x: Any) -> str:
        """The name of an array that is kept; equal ones are kept once."""
        array = np.asarray(x)
        key = (array.dtype, array.shape, array.tobytes())
        if key not in self._kept:
            self._kept[key] = name = str(len(self._kept))
            self.constants[name] = array
        return self._kept[key]

    @abstractmethod
    def write(self, equation: Any, given: Sequence[Any]) -> Name:
        """Write down one equation of which something is a name.

        Raises:
            NotImplementedError: there is nothing for its primitive in this language.
        """

    def translate(
        self, function: Callable[..., Any], names: Sequence[str], like: Sequence[Any]
    ) -> list[Any]:
        """Write a function of arrays down.

        Args:
            function: takes arrays and returns arrays.
            names: of its arguments.
            like: arrays of the shapes and types that it will get.

        Returns:
            Its results: names, or arrays where they depend on no argument.
        """
        closed = jax.make_jaxpr(function)(*like)
        given = [
            Name(name) if np.size(x) else np.zeros(np.shape(x), x.dtype)
            for name, x in zip(names, like, strict=True)
        ]
        return self._run(closed.jaxpr, closed.consts, given)

    def _run(self, jaxpr: Any, consts: Sequence[Any], given: Sequence[Any]) -> list[Any]:
        """Go through the equations of a function."""
        values: dict[Any, Any] = dict(zip(jaxpr.constvars, consts, strict=True))
        values |= dict(zip(jaxpr.invars, given, strict=True))

        def read(x: Any) -> Any:
            return x.val if isinstance(x, core.Literal) else values[x]

        for equation in _needed(jaxpr):
            found = self._equation(equation, [read(x) for x in equation.invars])
            values |= dict(zip(equation.outvars, found, strict=True))
        return [read(x) for x in jaxpr.outvars]

    def _equation(self, equation: Any, given: Sequence[Any]) -> list[Any]:
        name, p = equation.primitive.name, equation.params
        is_known = not any(isinstance(x, Name) for x in given)
        if name == "platform_index":  # the branch of no platform in particular
            return [np.int32(p["platforms"].index(None))]
        if name == "cond" and not isinstance(given[0], Name):
            branch = p["branches"][int(given[0])]
            return self._run(branch.jaxpr, branch.consts, given[1:])
        if name in self.rewritten and not is_known:
            like = [jax.ShapeDtypeStruct(x.aval.shape, x.aval.dtype) for x in equation.invars]  # type: ignore[no-untyped-call]
            closed = jax.make_jaxpr(self.rewritten[name](equation))(*like)
            return self._run(closed.jaxpr, closed.consts, given)
        inner = next((p[k] for k in _CALLED if k in p), None)
        if inner is not None and name != "scan":
            body, consts = (inner.jaxpr, inner.consts) if hasattr(inner, "consts") else (inner, [])
            return self._run(body, consts, given)
        if all(x.aval.size == 0 for x in equation.outvars):
            return [np.zeros(x.aval.shape, x.aval.dtype) for x in equation.outvars]
        if is_known:
            return _computed(equation, given)
        if equation.primitive.multiple_results:
            raise NotImplementedError(f"nothing for {name!r}")
        return [self.write(equation, given)]


def _needed(jaxpr: Any) -> list[Any]:
    """The equations that the results depend on: checks of values, for one, are left out."""
    used, equations = set(map(id, jaxpr.outvars)), []
    for equation in reversed(jaxpr.eqns):
        if not used.isdisjoint(map(id, equation.outvars)):
            equations.append(equation)
            used.update(map(id, equation.invars))
    return equations[::-1]


def _computed(equation: Any, given: Sequence[Any]) -> list[Any]:
    """What an equation of known values gives: by NumPy, since JAX would compile each one."""
    try:
        code = numpy_expression(equation, [f"x[{i}]" for i in range(len(given))])
    except NotImplementedError:
        found = equation.primitive.bind(*given, **equation.params)
        return list(found) if equation.primitive.multiple_results else [found]
    with np.errstate(all="ignore"):
        value = eval(code, {"np": np, "x": [np.asarray(one) for one in given]})
    return [np.asarray(value, equation.outvars[0].aval.dtype)]


# --------------------------------------------------------------------------- in simpler primitives


def _unrolled(equation: Any) -> Callable[..., Any]:
    """A loop, step after step."""
    body, length = equation.params["jaxpr"], equation.params["length"]
    step = core.jaxpr_as_fun(body)

    def same(outer: Sequence[Any], inner: Sequence[Any]) -> int:
        """How many of them come first that have no axis of the steps."""
        return sum(x.aval.ndim == y.aval.ndim for x, y in zip(outer, inner, strict=True))

    before = same(equation.invars, body.jaxpr.invars)
    carried = same(equation.outvars, body.jaxpr.outvars)

    def function(*given: Array) -> tuple[Array, ...]:
        fixed, state = given[: before - carried], given[before - carried : before]
        rows: list[Any] = [None] * length
        places = range(length)
        for i in reversed(places) if equation.params["reverse"] else places:
            now = [jax.lax.index_in_dim(x, i, keepdims=False) for x in given[before:]]
            found = step(*fixed, *state, *now)
            state, rows[i] = found[:carried], found[carried:]
        return (*state, *(jnp.stack(column) for column in zip(*rows, strict=True)))

    return function


def _cholesky(equation: Any) -> Callable[..., Any]:
    """The lower factor, column by column."""

    def function(a: Float[Array, "*B n n"]) -> Float[Array, "*B n n"]:
        n, columns = a.shape[-1], []
        for j in range(n):
            column = jax.lax.index_in_dim(a, j, -1, keepdims=False)
            pivot = jnp.sqrt(jax.lax.index_in_dim(column, j, -1))
            columns.append(jnp.where(np.arange(n) >= j, column / pivot, 0))
            a = a - columns[-1][..., :, None] * columns[-1][..., None, :]
        return jnp.stack(columns, axis=-1)

    return function


def _substituted(equation: Any) -> Callable[..., Any]:
    """A triangular system, by substitution of one row after another."""
    p = equation.params
    transposed = p["transpose_a"] == p["left_side"]

    def function(a: Float[Array, "*B n n"], b: Float[Array, "*B n k"]) -> Float[Array, "*B n k"]:
        a = jnp.swapaxes(a, -1, -2) if transposed else a
        b = b if p["left_side"] else jnp.swapaxes(b, -1, -2)
        n = a.shape[-1]
        rows: list[Any] = [None] * n
        for i in reversed(range(n)) if p["lower"] == transposed else range(n):
            column = jax.lax.index_in_dim(a, i, -1)
            row, pivot = (jax.lax.index_in_dim(x, i, -2) for x in (b, column))
            rows[i] = row if p["unit_diagonal"] else row / pivot
            b = b - column * rows[i]
        x = jnp.concatenate(rows, axis=-2)
        return x if p["left_side"] else jnp.swapaxes(x, -1, -2)

    return function


Translation.rewritten = {
    "scan": _unrolled, "cholesky": _cholesky, "triangular_solve": _substituted,
    "device_put": lambda _: lambda *x: x,
}  # fmt: skip
