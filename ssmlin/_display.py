"""What objects say of themselves: one line at the prompt, a small table in a notebook."""

import html
from collections.abc import Mapping
from typing import Any

import numpy as np


def brief(value: object) -> str:
    """A number to five digits, an array as its type and shape, anything else as it is."""
    shape = getattr(value, "shape", None)
    if isinstance(shape, tuple) and hasattr(value, "dtype"):
        if shape or not hasattr(value, "__float__"):
            return f"{value.dtype}{shape}"
        try:
            value = float(value)
        except TypeError:  # inside a traced function there is no number yet
            return f"{getattr(value, 'dtype', '')}()"
    if isinstance(value, float | np.floating):
        return f"{value:.5g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {brief(one)}" for name, one in value.items())
    return str(value)


def one_line(thing: object, said: Mapping[str, Any]) -> str:
    """``Name(what=..., ...)``; what is None is left out."""
    parts = (
        f"{name}={value!r}" if isinstance(value, str) else f"{name}={brief(value)}"
        for name, value in said.items()
        if value is not None
    )
    return f"{type(thing).__name__}({', '.join(parts)})"


def small_table(title: str, said: Mapping[str, Any]) -> str:
    """An HTML table with a row for each thing said; what is None is left out."""
    rows = "".join(
        f'<tr><th style="text-align: left">{html.escape(name)}</th>'
        f'<td style="text-align: left">{html.escape(brief(value))}</td></tr>'
        for name, value in said.items()
        if value is not None
    )
    caption = f'<caption style="text-align: left"><b>{html.escape(title)}</b></caption>'
    return f"<table>{caption}<tbody>{rows}</tbody></table>"
