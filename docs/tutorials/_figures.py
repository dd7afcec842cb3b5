"""What the pages of tutorials use to show figures; not part of the site."""

import io

from matplotlib.figure import Figure


def svg(figure: Figure, alt: str) -> str:
    """A figure as inline SVG, which follows the width of the page, on white in the dark, too."""
    text = io.StringIO()
    figure.savefig(text, format="svg", bbox_inches="tight")
    drawn = text.getvalue()
    drawn = drawn[drawn.index("<svg") :]
    style = 'style="max-width: 100%; height: auto; background: white"'
    return drawn.replace("<svg", f'<svg role="img" aria-label="{alt}" {style}', 1)
