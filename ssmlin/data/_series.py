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
        input_names: the names of the k inputs; default numbers.

    Examples:
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
    input_names: tuple[str, ...] = ()

    @property
    def input_labels(self) -> tuple[str, ...]:
        """The names of the inputs, or "input 1", "input 2", ... where they have none."""
        count = 0 if self.inputs is None else self.inputs.shape[1]
        numbered = tuple(f"input {i}" for i in range(1, count + 1))
        return self.input_names if len(self.input_names) == count else numbered
