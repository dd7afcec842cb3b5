"""One HTML file without links to other files: paragraphs, tables, figures."""

import html
import re
from collections.abc import Sequence
from importlib.resources import files
from typing import NamedTuple

import numpy as np

#: Letters that a phone shows beside each other in half a line.
_HALF_A_LINE = 22


class Cell(NamedTuple):
    """A number of a table as it is shown, and as it is sorted."""

    shown: str
    value: float


def page_style() -> str:
    """The style of all pages, CSS."""
    return _beside("_page.css")


def _beside(name: str) -> str:
    return files("ssmlin.comparison").joinpath(name).read_text("utf-8")


def page(title: str, parts: Sequence[str]) -> str:
    """The whole file, with the parts below each other."""
    style, script = page_style(), _beside("_page.js")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{style}</style>\n</head>\n"
        "<body>\n" + "\n".join(parts) + f"\n<script>{script}</script>\n</body>\n</html>\n"
    )


def heading(words: str, level: int = 2) -> str:
    """A heading."""
    return f"<h{level}>{html.escape(words)}</h{level}>"


def text(words: str) -> str:
    """A paragraph that explains."""
    return f'<p class="note">{html.escape(words)}</p>'


def conclusion(sentences: Sequence[str]) -> str:
    """The paragraph that the page begins with."""
    return f'<p class="verdict">{html.escape(" ".join(sentences))}</p>'


def code(words: str) -> str:
    """A command, whose words stay whole: browsers would break a line inside `--target`."""
    return "<pre>" + re.sub(r"\S+", r"<span>\g<0></span>", html.escape(words)) + "</pre>"


def items(lines: Sequence[str]) -> str:
    """A list."""
    return "<ul>" + "".join(f"<li>{html.escape(line)}</li>" for line in lines) + "</ul>"


def folded(summary: str, parts: Sequence[str]) -> str:
    """What is unfolded on demand; nothing where there is nothing."""
    inside = "\n".join(parts)
    return f"<details><summary>{html.escape(summary)}</summary>{inside}</details>" if parts else ""


def table(
    headings: Sequence[str],
    rows: Sequence[tuple[str, Sequence[object]]],
    *,
    sortable: bool = False,
) -> str:
    """A table whose rows have a class each; every cell knows its heading."""
    sort = ' aria-sort="none" tabindex="0"' if sortable else ""
    head = "".join(f"<th{_kind(x)}{sort}>{html.escape(x)}</th>" for x in headings)
    body = "".join(
        f'<tr class="{kind}">' + "".join(map(_td, headings, cells)) + "</tr>"
        for kind, cells in rows
    )
    kind = ' class="sortable"' if sortable else ""
    return f"<table{kind}><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _td(heading: str, x: object) -> str:
    label, shown = html.escape(heading), html.escape(_shown(x))
    number = x.value if isinstance(x, Cell) else x
    value = ""
    if isinstance(number, float) and np.isfinite(number):
        value = f' data-value="{number:.9g}"'
    return f'<td data-label="{label}"{_kind(heading, shown)}{value}>{shown}</td>'


def _kind(heading: str, shown: str = "") -> str:
    """Columns of words are to the left, and may have several lines; a long cell has a line."""
    if heading in ("", "setting"):
        return ' class="text"'
    return ' class="long"' if len(heading) + len(shown) > _HALF_A_LINE else ""


def _shown(x: object) -> str:
    """Three digits after the point; fewer of large numbers."""
    if isinstance(x, Cell):
        return x.shown
    if isinstance(x, float):
        return "" if np.isnan(x) else f"{x:.3f}" if abs(x) < 1000 else f"{x:.4g}"
    return str(x)
