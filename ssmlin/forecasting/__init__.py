"""The recipe: from one series or many to a fitted model and its forecasts."""

from ssmlin import _lazy

__getattr__, __dir__, __all__ = _lazy.attach(__name__, __file__)
