"""Forecasters compared over collections of many series, each forecast once at its horizon."""

from ssmlin import _lazy

__getattr__, __dir__, __all__ = _lazy.attach(__name__, __file__)
