"""Fitting and posterior sampling; knows models only by their interface."""

from ssmlin import _lazy

__getattr__, __dir__, __all__ = _lazy.attach(__name__, __file__)
