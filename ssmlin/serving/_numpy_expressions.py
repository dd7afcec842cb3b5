"""One equation of a traced function as a NumPy expression."""

from collections.abc import Sequence
from typing import Any

import numpy as np

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
}
_REDUCTIONS = {"reduce_sum": "sum", "reduce_max": "max", "reduce_min": "min", "reduce_prod": "prod",
               "reduce_and": "all", "reduce_or": "any"}  # fmt: skip
#: Those for which there is something faster than `einsum`.
_PRODUCTS = {
    "ab,bd->ad": "{0} @ {1}",
    "ab,cb->ac": "{0} @ {1}.T",
    "ab,b->a": "{0} @ {1}",
    "a,ac->c": "{0} @ {1}",
    "a,ba->b": "{1} @ {0}",
    "abc,aec->abe": "{0} @ {1}.transpose(0, 2, 1)",
}  # fmt: skip


def numpy_expression(equation: Any, x: Sequence[str]) -> str:
    """The right-hand side of one equation, given the expressions of its arguments.

    Raises:
        NotImplementedError: there is no NumPy for its primitive here.
    """
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
        reshaped = f"np.reshape({x[0]}, {tuple(sizes)})"
        return reshaped if tuple(sizes) == shape else f"np.broadcast_to({reshaped}, {shape})"
    if name == "iota":
        sizes = [1] * len(shape)
        sizes[p["dimension"]] = shape[p["dimension"]]
        count = f"np.arange({shape[p['dimension']]}, dtype={np.dtype(p['dtype']).name!r})"
        return f"np.broadcast_to({count}.reshape({tuple(sizes)}), {shape})"
    if name == "transpose":
        return f"{x[0]}.transpose({tuple(p['permutation'])})"
    if name == "concatenate":
        return f"np.concatenate([{', '.join(x)}], axis={p['dimension']})"
    if name == "stack":
        return f"np.stack([{', '.join(x)}], axis={p['axis']})"
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
        letters = product_letters(equation)
        return _PRODUCTS.get(letters, f'np.einsum("{letters}", {{0}}, {{1}})').format(*x)
    raise NotImplementedError(f"no NumPy for {name!r}")


def product_letters(equation: Any) -> str:
    """The axes of a general product of two arrays, as ``einsum`` has them."""
    (left, right), (left_batch, right_batch) = equation.params["dimension_numbers"]
    ranks = [len(v.aval.shape) for v in equation.invars]
    letters = iter("abcdefghijklmnopqrstuvwxyz")
    first = [next(letters) for _ in range(ranks[0])]
    second = [next(letters) for _ in range(ranks[1])]
    for i, j in [*zip(left, right, strict=True), *zip(left_batch, right_batch, strict=True)]:
        second[j] = first[i]
    kept = [first[i] for i in left_batch]
    kept += [c for i, c in enumerate(first) if i not in (*left, *left_batch)]
    kept += [c for j, c in enumerate(second) if j not in (*right, *right_batch)]
    return f"{''.join(first)},{''.join(second)}->{''.join(kept)}"
