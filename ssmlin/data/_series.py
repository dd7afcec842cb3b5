"""A named series with its times, columns and source."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from ssmlin.data._times import Times


@dataclass(frozen=True)
class Series:
    """A named multivariate time series.

    Args:
        name: the name.
        values: (T, m); NaN means missing.
        times: numbers or dates, (T,).
        columns: the names of the m columns.
        source: where the series comes from and how it was transformed.
        inputs: exogenous inputs, (T, k), or None.
        period: the number of steps in a season, or None.

    Example:
        >>> import numpy as np
        >>> from ssmlin.data import Series
        >>> Series("sales", np.ones((3, 1)), np.arange(3), ("eur",), "made up").values.shape
        (3, 1)
    """

    name: str
    values: Float[np.ndarray, "T m"]
    times: Times
    columns: tuple[str, ...]
    source: str
    inputs: Float[np.ndarray, "T k"] | None = None
    period: int | None = None
