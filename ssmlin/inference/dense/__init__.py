"""Dense states: the exact filter, smoother and sampler, as drop-ins for dynamax's functions.

The entries of an emission are processed one at a time, each by a scalar update of O(D²), after an
LDLᵀ elimination has removed the correlation of their noises. Only the scalar variances of the
entries are inverted, so singular Q, P_0 and R are fine. A missing entry has no update.

Conventions (dynamax ≥ 1.0.3): F_t takes z_{t-1} to z_t, and entry 0 of everything that belongs to
the dynamics is ignored; `initial` is the law at the first emission. Inside, that law is the noise
of step 0 and the state before it is zero, so every step is a prediction and then its updates.
"""

from ssmlin import _lazy

__getattr__, __dir__, __all__ = _lazy.attach(__name__, __file__)
