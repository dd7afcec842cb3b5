"""A named series with its times, columns and source."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float


@dataclass(frozen=True)
class Series:
    """A named multivariate time series.

    Args:
        name: what it is called.
        values: (T, m); NaN means missing.
        times: (T,).
        columns: names of the m columns.
        source: where it comes from and how it was transformed.
        inputs: exogenous inputs, (T, k), or None.
        period: steps a season, or None.
    """

    name: str
    values: Float[np.ndarray, "T m"]
    times: np.ndarray
    columns: tuple[str, ...]
    source: str
    inputs: Float[np.ndarray, "T k"] | None = None
    period: int | None = None
