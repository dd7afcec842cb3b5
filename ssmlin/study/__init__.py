"""What mechanisms can do, measured: the page of mechanisms, and the words that they can track."""

from ssmlin.study._mechanism_page import Table, measure, to_markdown

__all__ = ["Table", "measure", "to_markdown"]
