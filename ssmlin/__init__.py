"""Linear attention as probabilistic state space models."""

from ssmlin import _lazy

__getattr__, __dir__, __all__ = _lazy.attach(__name__, __file__)

__version__ = "0.1.0"
