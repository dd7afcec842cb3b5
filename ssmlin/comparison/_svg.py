"""Figures of matplotlib as SVG inside a page, in the colours of the page."""

import html
import io
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ssmlin._optional import require
from ssmlin.comparison._panels import TIP, legend_above

if TYPE_CHECKING:
    import matplotlib.figure

#: Inches of a figure for a phone, so that a point is about a pixel there.
_NARROW = 4.0
#: What the page calls the colours of matplotlib, see _page.css.
_COLORS = {
    "#000000": "currentColor", "#ffffff": "var(--paper)", "#808080": "var(--grey)",
    "#cccccc": "var(--line)",
    **{color: f"var(--c{i})" for i, color in enumerate((
        "#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#7f7f7f",
        "#bcbd22", "#17becf"))},
}  # fmt: skip


def image(figure: "matplotlib.figure.Figure", title: str, reading: str) -> str:
    """A figure, drawn for a screen and once more for a phone.

    Args:
        figure: the figure, whose width is changed.
        title: what it shows.
        reading: how to read it, in a sentence.
    """
    both = _svg(figure, title, "wide"), _svg(figure, title, "narrow", _NARROW)
    return f"<figure>{''.join(both)}{_caption(title, reading)}</figure>"


def images(
    figures: Sequence["matplotlib.figure.Figure"], titles: Sequence[str], size: str = "small"
) -> str:
    """Figures side by side, as many in a row as there is room for.

    Args:
        figures: the figures, each as wide as a phone shows it.
        titles: what each shows.
        size: "small", of which a phone has room for two, or "medium".
    """
    drawn = "".join(_svg(figure, title) for figure, title in zip(figures, titles, strict=True))
    return f'<div class="{size}">{drawn}</div>'


def captioned(pictures: str, title: str, reading: str) -> str:
    """Pictures with a title and how to read them."""
    return f"<figure>{pictures}{_caption(title, reading)}</figure>"


def _caption(title: str, reading: str) -> str:
    return f"<figcaption><b>{html.escape(title)}.</b> {html.escape(reading)}</figcaption>"


def _svg(
    figure: "matplotlib.figure.Figure", title: str, kind: str = "", width: float | None = None
) -> str:
    """The figure as an element of HTML."""
    require("matplotlib")
    from matplotlib import rc_context

    if width is not None:
        figure.set_figwidth(width)
    if figure.legends:
        legend_above(figure)
    buffer = io.StringIO()
    # Names of what is defined inside must differ between the figures of a page.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": f"{title} {kind}"}):
        figure.savefig(buffer, format="svg", transparent=True)
    drawn = buffer.getvalue()
    drawn = drawn[drawn.index("<svg") :]
    drawn = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", drawn, flags=re.S)
    (box,) = re.findall(r'viewBox="[^"]*"', drawn[: drawn.index(">")])
    label = f'role="img" aria-label="{html.escape(title)}"'
    drawn = f'<svg class="{kind}" {box} {label}>' + drawn[drawn.index(">") + 1 :]
    drawn = re.sub("<[^>]*>", _shortened, drawn)
    return re.sub(r"\s*\n\s*", "\n", drawn)


def _shortened(tag: re.Match[str]) -> str:
    """A tag with the page's colours and fonts, fewer digits, and what is said of it beside it."""
    found = tag.group()
    if tip := re.fullmatch(rf'<g id="{TIP}([^"]*)">', found):
        return f"<g><title>{tip.group(1)}</title>"
    found = re.sub(r'^<g id="[^"]*"', "<g", found).replace("xlink:href", "href")
    found = re.sub(r"#[0-9a-f]{6}\b(?=[;\"])", lambda x: _COLORS.get(x.group(), x.group()), found)
    found = re.sub(r"font-family: [^;\"]*", "font-family: inherit", found)
    return re.sub(r"(\d\.\d\d)\d+", r"\1", found)
