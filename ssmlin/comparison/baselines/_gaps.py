"""Series without gaps, which some libraries want."""

import numpy as np
from jaxtyping import Float

from ssmlin.forecasting import Observed


def without_gaps(observed: Observed) -> Float[np.ndarray, "T m"]:
    """The values, or ValueError if one is missing."""
    if np.isnan(observed.values).any():
        step = int(np.isnan(observed.values).any(axis=1).argmax()) + 1
        raise ValueError(f"values: expected no missing values for dynamax, got one at step {step}")
    return observed.values
