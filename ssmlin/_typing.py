"""Types that annotations share."""

import numpy as np
from jax import Array
from jaxtyping import Float

#: Arrays that public functions take, of JAX or of NumPy: ``Float[AnyArray, "T m"]``.
AnyArray = Array | np.ndarray

#: A real number of Python or NumPy, or an array that holds one.
Scalar = float | int | np.float32 | Float[AnyArray, ""]

#: What is broadcast over time, or to the shape that an argument documents.
Broadcastable = float | int | Float[AnyArray, "..."]
