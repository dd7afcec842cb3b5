"""Softmax attention and its alternatives: pure functions of queries, keys and values."""

from ssmlin import _lazy

__getattr__, __dir__, __all__ = _lazy.attach(__name__, __file__)
