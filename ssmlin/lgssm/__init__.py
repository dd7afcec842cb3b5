"""The matrix-state linear Gaussian state space model and its structured operators."""

from ssmlin import _lazy

__getattr__, __dir__, __all__ = _lazy.attach(__name__, __file__)
