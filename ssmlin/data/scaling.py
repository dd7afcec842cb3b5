"""Standardising a series, and bringing forecasts back to its units."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy import special

from ssmlin.data.columns import Columns

#: No value that is brought back is larger: its square is still a number.
_LARGEST = 1e150


def box_cox(
    values: Float[np.ndarray, "... m"], power: Sequence[float]
) -> Float[np.ndarray, "... m"]:
    r"""$(y^\lambda - 1) / \lambda$, the logarithm for λ = 0; values as they are for λ = 1.

    Args:
        values: positive wherever λ is not 1; NaN means missing.
        power: λ of each column.

    Source: Box and Cox (1964), Journal of the Royal Statistical Society B 26.
    """
    powers = np.array(power)
    return np.where(powers == 1, values, special.boxcox(values, powers))


def inverse_box_cox(
    values: Float[np.ndarray, "... m"], power: Sequence[float]
) -> Float[np.ndarray, "... m"]:
    """The inverse of :func:`box_cox`, defined everywhere.

    What lies below all that the transformation can give comes back as 0, and nothing comes back
    above 1e150; so it never falls, and quantiles go through it.
    """
    powers = np.array(power)
    divisor = np.where(powers == 0, 1.0, powers)
    with np.errstate(divide="ignore"):
        logs = np.where(powers == 0, values, np.log1p(np.maximum(powers * values, -1)) / divisor)
    back = np.exp(np.minimum(logs, np.log(_LARGEST)))
    return np.where(powers == 1, values, back)


def describe_powers(columns: Sequence[str], power: Sequence[float]) -> str:
    """The transformed columns in words, "" if there are none.

    Example:
        >>> from ssmlin.data.scaling import describe_powers
        >>> describe_powers(["a", "b", "c"], [0.0, 1.0, 0.5])
        'the logarithm of a, the power 0.5 of c'
    """
    return ", ".join(
        f"the logarithm of {name}" if p == 0 else f"the power {p:g} of {name}"
        for name, p in zip(columns, power, strict=True)
        if p != 1
    )


@dataclass(frozen=True)
class Scaling:
    r"""$z_t = (x_t - x_{t-\ell} - \mu) / \sigma$ with $x = f(y)$, f a Box-Cox transformation.

    Without differencing, $z = (x - \mu) / \sigma$, it is increasing, so quantiles are brought back
    exactly; with it only whole paths can be brought back.

    Args:
        mean: μ of the targets.
        scale: σ of the targets.
        input_mean: of the inputs, which are never transformed.
        input_scale: of the inputs.
        power: λ of each target, 1 (the default) for values as they are, 0 for logarithms.
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
    power: tuple[float, ...] = ()
    difference: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "power", _checked(self.power, len(self.mean)))

    @property
    def is_transformed(self) -> bool:
        """Whether any target has a power other than 1."""
        return any(p != 1 for p in self.power)

    @classmethod
    def fit(cls, columns: Columns, power: Sequence[float] = (), difference: int = 0) -> "Scaling":
        """Means and standard deviations of columns.

        Raises:
            ValueError: powers below 0 or too few of them, a value that is not positive where the
                power is not 1, a difference over less than 0 steps or more than there are, or
                differences that do not vary.
        """
        powers = _checked(power, len(columns.targets))
        if not 0 <= difference < len(columns.values):
            raise ValueError(
                f"difference: expected 0 or at most {len(columns.values) - 1} steps, got "
                f"{difference}"
            )
        values = changes(transformed(columns.values, powers, columns.targets), difference)
        for name, column in zip(columns.targets, values.T, strict=True):
            seen = column[~np.isnan(column)]
            if len(seen) < 2 or np.ptp(seen) == 0:
                raise ValueError(
                    f"difference: expected varying differences of column {name!r}"
                    if difference
                    else f"transform: expected varying values of column {name!r} after it"
                )
        spread = columns.inputs.std(axis=0)
        return cls(
            tuple(np.nanmean(values, axis=0).tolist()),
            tuple(np.nanstd(values, axis=0).tolist()),
            tuple(columns.inputs.mean(axis=0).tolist()),
            tuple(np.where(spread > 0, spread, 1.0).tolist()),
            powers,
            difference,
        )

    def apply(self, columns: Columns) -> tuple[Float[np.ndarray, "T m"], Float[np.ndarray, "T k"]]:
        """Standardised values and inputs; the first ℓ values are missing.

        Raises:
            ValueError: a value that is not positive where the power is not 1.
        """
        values = transformed(columns.values, self.power, columns.targets)
        values = changes(values, self.difference)
        inputs = self.apply_inputs(columns.inputs)
        return (values - np.array(self.mean)) / np.array(self.scale), inputs

    def apply_inputs(self, inputs: Float[np.ndarray, "T k"]) -> Float[np.ndarray, "T k"]:
        """Standardised inputs."""
        return (inputs - np.array(self.input_mean)) / np.array(self.input_scale)

    def invert(self, values: Float[np.ndarray, "... m"]) -> Float[np.ndarray, "... m"]:
        """Values, quantiles or paths in the user's units; not means, where the power is not 1.

        Defined for all numbers: see :func:`inverse_box_cox`.

        Raises:
            ValueError: there is a difference, see :meth:`continue_paths`.
        """
        if self.difference:
            raise ValueError("difference: expected 0, since differences want what was before them")
        values = np.asarray(values, np.float64) * np.array(self.scale) + np.array(self.mean)
        return inverse_box_cox(values, self.power)

    def log_slopes(self, values: Float[np.ndarray, "... m"]) -> Float[np.ndarray, "... m"]:
        r"""$\log dz / dy$ at standardised values: what a log density gains in the user's units."""
        slopes = -np.log(np.array(self.scale))
        if not self.is_transformed:
            return np.broadcast_to(slopes, values.shape)
        powers, y = np.array(self.power), self.invert(values)
        return slopes + (powers - 1) * np.log(np.where(powers == 1, 1.0, y))

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
        last = transformed(columns.values, self.power, columns.targets)[-lag:]
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
        return inverse_box_cox(values, self.power)

    def to_dict(self) -> dict[str, Any]:
        """What JSON can hold."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Scaling":
        """The inverse of :meth:`to_dict`."""
        tuples: Any = {k: tuple(x) if isinstance(x, list) else x for k, x in data.items()}
        if tuples.pop("log", False):  # files of before there were powers
            tuples["power"] = (0.0,) * len(tuples["mean"])
        return cls(**tuples)


def _checked(power: Sequence[float], count: int) -> tuple[float, ...]:
    """As many powers as columns, 1 by default."""
    powers = tuple(float(p) for p in power) or (1.0,) * count
    if len(powers) != count or not all(0 <= p < np.inf for p in powers):
        # Below 0 the transformation has an upper end, beyond which a Gaussian law would have to be
        # brought back to infinity.
        raise ValueError(f"power: expected {count} numbers >= 0, got {powers}")
    return powers


def transformed(
    values: Float[np.ndarray, "T m"],
    power: Sequence[float],
    names: Sequence[str],
    first_step: int = 1,
) -> Float[np.ndarray, "T m"]:
    """The Box-Cox transformation of named columns.

    Raises:
        ValueError: a value that is not positive where the power is not 1.
    """
    low = (values <= 0) & (np.array(power) != 1)
    if low.any():
        row, column = (int(x[0]) for x in np.nonzero(low))
        raise ValueError(
            f"transform: expected positive values in column {names[column]!r}, got "
            f"{values[row, column]} at step {first_step + row}; "
            f'{describe_powers([names[column]], [power[column]])} takes no other, "none" takes any'
        )
    found = box_cox(values, power)
    if np.isinf(found).any():
        column = int(np.isinf(found).any(axis=0).argmax())
        raise ValueError(
            f"transform: expected powers of numbers that a computer can hold, got "
            f"{describe_powers([names[column]], [power[column]])}"
        )
    return found


def changes(values: Float[np.ndarray, "T m"], lag: int) -> Float[np.ndarray, "T m"]:
    """Values less those `lag` steps before, which the first ones have not."""
    if lag == 0:
        return values
    return np.concatenate([np.full((lag, values.shape[1]), np.nan), values[lag:] - values[:-lag]])
