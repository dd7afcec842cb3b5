"""What the pages of tutorials use to show figures; not part of the site."""

import io

from matplotlib.figure import Figure


def show(figure: Figure, alt: str) -> None:
    """Print a figure as inline SVG, which follows the width of the page."""
    text = io.StringIO()
    figure.savefig(text, format="svg", bbox_inches="tight")
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :].replace("<svg", f'<svg role="img" aria-label="{alt}"', 1)
    print(f'<div class="figure">{svg}</div>')
