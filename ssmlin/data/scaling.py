"""Standardising a series, and bringing forecasts back to its units."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from ssmlin.data.columns import Columns


@dataclass(frozen=True)
class Scaling:
    r"""$z = (f(y) - \mu) / \sigma$ for each column, f the identity or the logarithm.

    It is increasing, so quantiles are brought back exactly.

    Args:
        mean: μ of the targets.
        scale: σ of the targets.
        input_mean: of the inputs, which are never logged.
        input_scale: of the inputs.
        log: whether f is the logarithm.

    Example:
        >>> import pandas as pd
        >>> from ssmlin.data import Scaling, select_columns
        >>> columns = select_columns(pd.DataFrame({"y": [1.0, 3.0]}), ["y"])
        >>> scaling = Scaling.fit(columns)
        >>> values, _ = scaling.apply(columns)
        >>> values.tolist(), scaling.invert(values).tolist()
        ([[-1.0], [1.0]], [[1.0], [3.0]])
    """

    mean: tuple[float, ...]
    scale: tuple[float, ...]
    input_mean: tuple[float, ...]
    input_scale: tuple[float, ...]
    log: bool = False

    @classmethod
    def fit(cls, columns: Columns, log: bool = False) -> "Scaling":
        """Means and standard deviations of columns.

        Raises:
            ValueError: the logarithm of a value that is not positive.
        """
        values = columns.values
        if log:
            low = values <= 0
            if low.any():
                row, column = (int(x[0]) for x in np.nonzero(low))
                raise ValueError(
                    f"log: expected positive values in column {columns.targets[column]!r}, got "
                    f"{values[row, column]} at step {row + 1}"
                )
            values = np.log(values)
        spread = columns.inputs.std(axis=0)
        return cls(
            tuple(np.nanmean(values, axis=0).tolist()),
            tuple(np.nanstd(values, axis=0).tolist()),
            tuple(columns.inputs.mean(axis=0).tolist()),
            tuple(np.where(spread > 0, spread, 1.0).tolist()),
            log,
        )

    def apply(self, columns: Columns) -> tuple[Float[np.ndarray, "T m"], Float[np.ndarray, "T k"]]:
        """Standardised values and inputs.

        Raises:
            ValueError: the logarithm of a value that is not positive.
        """
        values = columns.values
        if self.log:
            if (values <= 0).any():
                raise ValueError("log: expected positive values, got others")
            values = np.log(values)
        inputs = self.apply_inputs(columns.inputs)
        return (values - np.array(self.mean)) / np.array(self.scale), inputs

    def apply_inputs(self, inputs: Float[np.ndarray, "T k"]) -> Float[np.ndarray, "T k"]:
        """Standardised inputs."""
        return (inputs - np.array(self.input_mean)) / np.array(self.input_scale)

    def invert(self, values: Float[np.ndarray, "... m"]) -> Float[np.ndarray, "... m"]:
        """Values, quantiles or paths in the user's units; not means, if there is a logarithm."""
        values = np.asarray(values, np.float64) * np.array(self.scale) + np.array(self.mean)
        return np.exp(values) if self.log else values

    def to_dict(self) -> dict[str, Any]:
        """What JSON can hold."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Scaling":
        """The inverse of :meth:`to_dict`."""
        tuples: Any = {k: tuple(x) if isinstance(x, list) else x for k, x in data.items()}
        return cls(**tuples)
