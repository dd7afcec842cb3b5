"""Standardising a series, and bringing forecasts back to its units."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from ssmlin.data.columns import Columns


@dataclass(frozen=True)
class Scaling:
    r"""$z_t = (x_t - x_{t-\ell} - \mu) / \sigma$ with $x = f(y)$, f the identity or the logarithm.

    Without differencing, $z = (x - \mu) / \sigma$, it is increasing, so quantiles are brought back
    exactly; with it only whole paths can be brought back.

    Args:
        mean: μ of the targets.
        scale: σ of the targets.
        input_mean: of the inputs, which are never logged.
        input_scale: of the inputs.
        log: whether f is the logarithm.
        difference: ℓ, 1 for changes, the steps a season for seasonal changes; 0 for none.

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
    difference: int = 0

    @classmethod
    def fit(cls, columns: Columns, log: bool = False, difference: int = 0) -> "Scaling":
        """Means and standard deviations of columns.

        Raises:
            ValueError: the logarithm of a value that is not positive, a difference over less than
                0 steps or more than there are, or differences that do not vary.
        """
        if not 0 <= difference < len(columns.values):
            raise ValueError(
                f"difference: expected 0 or at most {len(columns.values) - 1} steps, got "
                f"{difference}"
            )
        values = _changes(_transformed(columns, log), difference)
        for name, column in zip(columns.targets, values.T, strict=True):
            seen = column[~np.isnan(column)]
            if len(seen) < 2 or np.ptp(seen) == 0:
                raise ValueError(f"difference: expected varying differences of column {name!r}")
        spread = columns.inputs.std(axis=0)
        return cls(
            tuple(np.nanmean(values, axis=0).tolist()),
            tuple(np.nanstd(values, axis=0).tolist()),
            tuple(columns.inputs.mean(axis=0).tolist()),
            tuple(np.where(spread > 0, spread, 1.0).tolist()),
            log,
            difference,
        )

    def apply(self, columns: Columns) -> tuple[Float[np.ndarray, "T m"], Float[np.ndarray, "T k"]]:
        """Standardised values and inputs; the first ℓ values are missing.

        Raises:
            ValueError: the logarithm of a value that is not positive.
        """
        values = _changes(_transformed(columns, self.log), self.difference)
        inputs = self.apply_inputs(columns.inputs)
        return (values - np.array(self.mean)) / np.array(self.scale), inputs

    def apply_inputs(self, inputs: Float[np.ndarray, "T k"]) -> Float[np.ndarray, "T k"]:
        """Standardised inputs."""
        return (inputs - np.array(self.input_mean)) / np.array(self.input_scale)

    def invert(self, values: Float[np.ndarray, "... m"]) -> Float[np.ndarray, "... m"]:
        """Values, quantiles or paths in the user's units; not means, if there is a logarithm.

        Raises:
            ValueError: there is a difference, see :meth:`continue_paths`.
        """
        if self.difference:
            raise ValueError("difference: expected 0, since differences want what was before them")
        values = np.asarray(values, np.float64) * np.array(self.scale) + np.array(self.mean)
        return np.exp(values) if self.log else values

    def continue_paths(
        self, paths: Float[np.ndarray, "... H m"], columns: Columns
    ) -> Float[np.ndarray, "... H m"]:
        """Paths of the steps after a table, in the user's units.

        Raises:
            ValueError: with a difference, a value among the last ℓ that is missing.
        """
        if not self.difference:
            return self.invert(paths)
        lag = self.difference
        last = _transformed(columns, self.log)[-lag:]
        if np.isnan(last).any():
            step = len(columns.values) - lag + int(np.isnan(last).any(axis=1).argmax()) + 1
            raise ValueError(
                f"difference: expected the last {lag} values, which forecasts go on from, got a "
                f"missing one at step {step}"
            )
        changes = np.asarray(paths, np.float64) * np.array(self.scale) + np.array(self.mean)
        values = np.empty_like(changes)
        for h in range(changes.shape[-2]):
            before = last[h] if h < lag else values[..., h - lag, :]
            values[..., h, :] = before + changes[..., h, :]
        return np.exp(values) if self.log else values

    def to_dict(self) -> dict[str, Any]:
        """What JSON can hold."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Scaling":
        """The inverse of :meth:`to_dict`."""
        tuples: Any = {k: tuple(x) if isinstance(x, list) else x for k, x in data.items()}
        return cls(**tuples)


def _transformed(columns: Columns, log: bool) -> Float[np.ndarray, "T m"]:
    """Values or their logarithms."""
    values = columns.values
    if not log:
        return values
    low = values <= 0
    if low.any():
        row, column = (int(x[0]) for x in np.nonzero(low))
        raise ValueError(
            f"log: expected positive values in column {columns.targets[column]!r}, got "
            f"{values[row, column]} at step {row + 1}"
        )
    return np.log(values)


def _changes(values: Float[np.ndarray, "T m"], lag: int) -> Float[np.ndarray, "T m"]:
    """Values less those `lag` steps before, which the first ones have not."""
    if lag == 0:
        return values
    return np.concatenate([np.full((lag, values.shape[1]), np.nan), values[lag:] - values[:-lag]])
