"""Which model predicts a series best: baselines, held-out scores, comparisons, reports."""

from ssmlin import _lazy

__getattr__, __dir__, __all__ = _lazy.attach(__name__, __file__)
