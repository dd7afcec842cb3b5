"""Exact filters, smoothers and samplers, for matrix states and for dynamax's dense models.

The approximate filters keep less of the covariance.
"""

from ssmlin import _lazy

__getattr__, __dir__, __all__ = _lazy.attach(__name__, __file__)
