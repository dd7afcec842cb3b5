"""A traced function as an ONNX graph."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ssmlin._optional import require
from ssmlin.serving._numpy_expressions import product_letters
from ssmlin.serving._translation import Name, Rewriting, Translation
from ssmlin.serving._weights import keep

#: The versions of the operators and of the file, which ONNX Runtime 1.14 (2023) and newer read.
OPSET, IR = 18, 8

_SAME = {
    "neg": "Neg", "exp": "Exp", "log": "Log", "sqrt": "Sqrt", "logistic": "Sigmoid",
    "tanh": "Tanh", "sin": "Sin", "cos": "Cos", "abs": "Abs", "sign": "Sign", "not": "Not",
    "copy": "Identity", "copy_p": "Identity", "stop_gradient": "Identity",
    "add": "Add", "add_any": "Add", "sub": "Sub", "mul": "Mul", "div": "Div", "max": "Max",
    "min": "Min", "pow": "Pow", "and": "And", "or": "Or", "eq": "Equal", "lt": "Less",
    "le": "LessOrEqual", "gt": "Greater", "ge": "GreaterOrEqual",
}  # fmt: skip
_REDUCTIONS = {
    "reduce_sum": "ReduceSum", "reduce_max": "ReduceMax", "reduce_min": "ReduceMin",
    "reduce_prod": "ReduceProd",
}  # fmt: skip


def onnx_model(
    function: Callable[[dict[str, Array]], dict[str, Array]],
    like: Mapping[str, np.ndarray],
    *,
    weights: str | None = None,
    about: str = "",
) -> Any:
    """An ONNX model that computes a function of arrays by name.

    Inputs and outputs that hold nothing, such as lags where there are none, are left out.

    Args:
        function: takes and returns arrays by name; no name is in both.
        like: arrays of the shapes and types that it will get.
        weights: what matrices are kept in that something is multiplied by, one of `WEIGHTS`; as
            they are for None.
        about: a description for the file.

    Returns:
        An ``onnx.ModelProto``, which ONNX's checker has passed.

    Raises:
        MissingPackage: without onnx.
        NotImplementedError: the function does something for which there is no ONNX here.

    Examples:
        >>> import numpy as np
        >>> from ssmlin.serving._onnx_graph import onnx_model
        >>> model = onnx_model(lambda x: {"y": 2 * x["x"]}, {"x": np.ones(3, np.float32)})
        >>> [node.op_type for node in model.graph.node]
        ['Mul', 'Identity']
    """
    require("onnx")
    said = jax.eval_shape(function, dict(like))
    graph = _Graph(weights)

    def flat(*given: Array) -> list[Array]:
        found = function(dict(zip(like, given, strict=True)))
        return [found[name] for name in said]

    found = graph.translate(flat, list(like), list(like.values()))
    for name, x in zip(said, found, strict=True):
        if said[name].size:
            value = x if isinstance(x, Name) else np.asarray(x, said[name].dtype)
            graph.node("Identity", graph.text(value), name=name)
    return graph.model(like, said, about)


class _Graph(Translation):
    """The nodes and constants so far."""

    rewritten: ClassVar[Rewriting] = Translation.rewritten | {
        # Without losing digits near 0, where ONNX has the plain logarithm and exponential alone.
        "log1p": lambda _: _log1p,
        "expm1": lambda _: _expm1,
        "rsqrt": lambda _: lambda x: 1 / jnp.sqrt(x),
        "square": lambda _: lambda x: x * x,
        "is_finite": lambda _: lambda x: jnp.abs(x) < np.inf,
        "ne": lambda _: lambda x, y: ~(x == y),
        "reduce_and": lambda e: lambda x: ~jnp.any(~x, e.params["axes"]),
        "reduce_or": lambda e: lambda x: x.astype(jnp.int32).max(e.params["axes"]) > 0,
        "stack": lambda e: _stack(e.params["axis"]),
        "clamp": lambda _: lambda low, x, high: jnp.minimum(jnp.maximum(x, low), high),
    }

    def __init__(self, weights: str | None) -> None:
        super().__init__()
        self._weights = weights
        self._nodes: list[Any] = []

    def node(self, operator: str, *inputs: str, name: str | None = None, **attributes: Any) -> Name:
        """Add a node, and name what it gives."""
        from onnx import helper

        name = Name(f"t{len(self._nodes)}" if name is None else name)
        self._nodes.append(helper.make_node(operator, list(inputs), [name], **attributes))
        return name

    def text(self, x: Any) -> Name:
        """The name of a value."""
        return x if isinstance(x, Name) else Name("c" + self.constant(x))

    def weight(self, x: Any) -> Name:
        """The name of what something is multiplied by; matrices are kept in fewer bytes."""
        if isinstance(x, Name) or np.ndim(x) < 2:
            return self.text(x)
        dtype, (values, scale) = np.asarray(x).dtype, keep(np.asarray(x), self._weights)
        name = self.text(values)
        if values.dtype != dtype:
            name = self.node("Cast", name, to=_kind(dtype))
        return name if scale is None else self.node("Mul", name, self.text(scale))

    def write(self, equation: Any, given: Sequence[Any]) -> Name:
        name, p, result = equation.primitive.name, equation.params, equation.outvars[0].aval
        shape, kinds = tuple(result.shape), [v.aval.dtype for v in equation.invars]
        known = [
            x if isinstance(x, Name) else np.asarray(x, kind)
            for x, kind in zip(given, kinds, strict=True)
        ]
        if name == "dot_general":
            left, right = map(self.weight, known)
            letters = product_letters(equation)
            if letters in ("ab,bd->ad", "ab,b->a", "a,ac->c", "a,a->"):
                return self.node("MatMul", left, right)
            return self.node("Einsum", left, right, equation=letters)
        if name == "concatenate":
            parts = [self.text(x) for x in known if isinstance(x, Name) or x.size]
            return self.node("Concat", *parts, axis=p["dimension"])
        x = [self.text(one) for one in known]
        is_bool = kinds[0] == np.dtype(bool)
        if name in _SAME and (is_bool or name not in ("and", "or", "not")):
            return self.node(_SAME[name], *x)
        if name in _REDUCTIONS:
            return self.node(_REDUCTIONS[name], x[0], self._whole(p["axes"]), keepdims=0)
        if name == "select_n" and is_bool:
            return self.node("Where", x[0], x[2], x[1])
        if name == "integer_pow":
            return self.node("Pow", x[0], self.text(np.asarray(p["y"], kinds[0])))
        before = equation.invars[0].aval.shape
        if name in ("reshape", "squeeze", "expand_dims"):
            return self._shaped("Reshape", x[0], before, shape)
        if name == "broadcast_in_dim":
            sizes = [1] * len(shape)
            for axis, size in zip(p["broadcast_dimensions"], before, strict=True):
                sizes[axis] = size
            reshaped = self._shaped("Reshape", x[0], before, tuple(sizes))
            return self._shaped("Expand", reshaped, tuple(sizes), shape)
        if name == "transpose":
            return self.node("Transpose", x[0], perm=p["permutation"])
        if name == "convert_element_type":
            return self.node("Cast", x[0], to=_kind(p["new_dtype"]))
        if name == "slice":
            steps = p["strides"] or [1] * len(shape)
            bounds = (p["start_indices"], p["limit_indices"], range(len(shape)), steps)
            return self.node("Slice", x[0], *map(self._whole, bounds))
        if name == "pad" and all(inside == 0 for _, _, inside in p["padding_config"]):
            low, high, _ = zip(*p["padding_config"], strict=True)
            return self.node("Pad", x[0], self._whole([*low, *high]), x[1])
        if name == "cumsum":
            return self.node("CumSum", x[0], self._whole(p["axis"]), reverse=int(p["reverse"]))
        if name == "gather" and not isinstance(given[1], Name):
            return self._taken(equation, given[1], x[0])
        raise NotImplementedError(f"no ONNX for {name!r}")

    def _taken(self, equation: Any, indices: Any, x: Name) -> Name:
        """Entries at known places, such as a diagonal: those that it takes of 0, 1, 2, ..."""
        whole = equation.invars[0].aval
        places = np.arange(whole.size, dtype=np.int32).reshape(whole.shape)
        taken = np.asarray(equation.primitive.bind(places, indices, **equation.params))
        if taken.min() < 0:
            raise NotImplementedError("no ONNX for 'gather' beyond the end")
        return self.node("Gather", self.node("Reshape", x, self._whole([-1])), self._whole(taken))

    def _shaped(self, operator: str, x: Name, before: Any, shape: tuple[int, ...]) -> Name:
        """In another shape, if it is another."""
        return x if before == shape else self.node(operator, x, self._whole(shape))

    def _whole(self, numbers: Any) -> Name:
        """Whole numbers, such as a shape."""
        return self.text(np.asarray(numbers, np.int64))

    def model(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any], about: str) -> Any:
        """The nodes that these outputs need, checked."""
        from onnx import checker, helper, numpy_helper

        needed, nodes = set(outputs), []
        for node in reversed(self._nodes):
            if not needed.isdisjoint(node.output):
                nodes.append(node)
                needed.update(node.input)
        taken, given = (
            [
                helper.make_tensor_value_info(name, _kind(x.dtype), x.shape)
                for name, x in ends.items()
                if x.size
            ]
            for ends in (inputs, outputs)
        )
        constants = [
            numpy_helper.from_array(x, "c" + name)
            for name, x in self.constants.items()
            if "c" + name in needed
        ]
        graph = helper.make_graph(nodes[::-1], "step", taken, given, constants, doc_string=about)
        made = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR,
            producer_name="ssmlin",
        )  # fmt: skip
        checker.check_model(made, full_check=True)
        return made


def _kind(dtype: Any) -> int:
    """ONNX's number of a type."""
    from onnx import helper

    return helper.np_dtype_to_tensor_dtype(np.dtype(dtype))


def _stack(axis: int) -> Callable[..., Array]:
    """Arrays side by side along a new axis."""
    return lambda *x: jax.lax.concatenate([jax.lax.expand_dims(one, [axis]) for one in x], axis)


def _log1p(x: Array) -> Array:
    """log(1 + x), the rounding of 1 + x divided out (Kahan)."""
    u = 1 + x
    plain = (u == 1) | (u == np.inf)
    return jnp.where(plain, x, jnp.log(u) * (x / jnp.where(plain, 1, u - 1)))


def _expm1(x: Array) -> Array:
    """exp(x) - 1, the rounding of exp(x) divided out (Kahan)."""
    u = jnp.exp(x)
    plain = (u == 1) | (jnp.abs(x) > 1)
    return jnp.where(
        u == 1, x, jnp.where(plain, u - 1, (u - 1) * (x / jnp.log(jnp.where(plain, 2, u))))
    )
