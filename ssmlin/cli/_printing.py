"""Tables on the screen."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from ssmlin.cli._options import console


def cell(x: Any) -> str:
    """A number or a text; nothing where there is no number."""
    if isinstance(x, float):
        return "" if math.isnan(x) else f"{x:.3f}"
    return str(x)


def rounded(x: float) -> str:
    """A number with three digits that count, or all of a whole part that has more."""
    return f"{x:.0f}" if abs(x) >= 100 else f"{x:.3g}"


def print_columns(columns: Mapping[str, Sequence[str]], title: str, wide: bool) -> list[str]:
    """Print all columns, or the first ones that fit; names and numbers are never cut.

    Args:
        columns: the cells of each, by its heading; the first one holds names.
        title: above the table.
        wide: print all.

    Returns:
        The headings that were printed.
    """
    count = len(columns)
    while True:
        table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
        for i, heading in enumerate(list(columns)[:count]):
            table.add_column(heading, justify="right" if i else "left", no_wrap=True)
        for row in zip(*list(columns.values())[:count], strict=True):
            table.add_row(*row)
        width = Measurement.get(console, console.options.update(max_width=10_000), table).maximum
        if wide or width <= console.width or count == 2:
            break
        count -= 1
    Console(markup=False, width=max(width, console.width)).print(table)
    return list(columns)[:count]
