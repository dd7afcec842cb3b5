from ssmlin.study._mechanism_page import Table, measure, to_markdown

__all__ = ["Table", "measure", "to_markdown"]
