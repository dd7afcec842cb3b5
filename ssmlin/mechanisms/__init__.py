"""Mechanisms: tokens to the operators (A_t, B_t), the recurrence, and the model built from it."""

from ssmlin import _lazy

__getattr__, __dir__, __all__ = _lazy.attach(__name__, __file__)
