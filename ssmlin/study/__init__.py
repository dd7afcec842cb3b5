"""What mechanisms can do, measured: the page of mechanisms, and the words that they can track."""

from ssmlin import _lazy

__getattr__, __dir__, __all__ = _lazy.attach(__name__, __file__)
