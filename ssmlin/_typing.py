"""Types that annotations share."""

import numpy as np
from jax import Array

#: What public functions take: arrays of JAX or of NumPy. ``Float[AnyArray, "T m"]`` for one.
AnyArray = Array | np.ndarray
