"""A fitted model at work: a filter that is fed step by step, in memory that does not grow."""

from ssmlin import _lazy

__getattr__, __dir__, __all__ = _lazy.attach(__name__, __file__)
