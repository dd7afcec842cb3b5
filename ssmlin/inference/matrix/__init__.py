"""Matrix states: the structured filter, smoother and samplers.

Drivers of one interface run the recursions over time: sequential, with the gradient by the adjoint
recursion, and over chunks of time in parallel. The public functions check their arguments, pick the
driver, the form of the covariance and the layout of the batch, and assemble the posterior.
"""

from ssmlin import _lazy

__getattr__, __dir__, __all__ = _lazy.attach(__name__, __file__)
