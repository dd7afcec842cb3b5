"""One HTML file without scripts or links to other files: paragraphs, tables, figures."""

import base64
import html
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ssmlin._optional import require

if TYPE_CHECKING:
    import matplotlib.figure

_STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; color: #222; background: #fff;
       max-width: 66rem; margin: 2rem auto; padding: 0 1rem; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; } h3 { font-size: 1rem; }
figure { margin: 1rem 0; } figcaption { color: #555; font-size: .9rem; }
img { max-width: 100%; height: auto; }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .5rem; text-align: right; border-bottom: 1px solid #ddd; }
td { white-space: nowrap; } .text { white-space: normal; text-align: left; }
th { background: #f5f5f5; vertical-align: bottom; overflow-wrap: normal; }
td:first-child, th:first-child { text-align: left; }
tr.ours td:first-child { font-weight: 600; }
pre { background: #f5f5f5; padding: .7rem; white-space: pre-wrap; }
.note { color: #555; }
/* Where a table has no room its rows become cards, with the headings beside the numbers. */
@media (max-width: 66rem) {
  thead { display: none; } table, tbody { display: block; }
  tr { display: grid; grid-template-columns: repeat(auto-fill, minmax(10rem, 1fr));
       column-gap: 1.5rem; padding: .5rem 0; border-bottom: 1px solid #ddd; }
  td { display: flex; justify-content: space-between; gap: .5rem; padding: 0; border: 0;
       white-space: normal; }
  td:first-child { grid-column: 1 / -1; font-weight: 600; }
  td:not(:first-child)::before { content: attr(data-label); color: #555; }
}
"""


def page(title: str, parts: Sequence[str]) -> str:
    """The whole file, with the parts below each other."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n"
        "<body>\n" + "\n".join(parts) + "\n</body>\n</html>\n"
    )


def text(words: str) -> str:
    """A paragraph."""
    return f'<p class="note">{html.escape(words)}</p>'


def image(figure: "matplotlib.figure.Figure", title: str) -> str:
    """A figure inside the file."""
    require("matplotlib")
    from matplotlib import rc_context

    buffer = io.BytesIO()
    with rc_context({"savefig.dpi": 110}):
        figure.savefig(buffer, format="png")
    data = base64.b64encode(buffer.getvalue()).decode()
    label = html.escape(title)
    return (
        f'<figure><img alt="{label}" src="data:image/png;base64,{data}">'
        f"<figcaption>{label}</figcaption></figure>"
    )


def table(headings: Sequence[str], rows: Sequence[tuple[str, Sequence[object]]]) -> str:
    """A table whose rows have a class each; every cell knows its heading."""
    head = "".join(f"<th{_kind(x)}>{html.escape(x)}</th>" for x in headings)
    body = "".join(
        f'<tr class="{kind}">' + "".join(map(_td, headings, cells)) + "</tr>"
        for kind, cells in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _td(heading: str, x: object) -> str:
    label, text = html.escape(heading), html.escape(_cell(x))
    return f'<td data-label="{label}"{_kind(heading)}>{text}</td>'


def _kind(heading: str) -> str:
    """Columns of words are to the left, and may have several lines."""
    return ' class="text"' if heading in ("", "setting") else ""


def _cell(x: object) -> str:
    if isinstance(x, float):
        return "" if np.isnan(x) else f"{x:.3f}"
    return str(x)
