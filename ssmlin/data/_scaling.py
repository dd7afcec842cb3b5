"""Scaling a series, and converting forecasts back to its units."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy import special

from ssmlin.data._columns import Columns

#: The largest value that is converted back: its square is still finite.
_LARGEST = 1e150


def box_cox(
    values: Float[np.ndarray, "... m"], power: Sequence[float]
) -> Float[np.ndarray, "... m"]:
    r"""Transform by $(y^\lambda - 1) / \lambda$: λ = 0 is the logarithm, λ = 1 changes nothing.

    Args:
        values: y, (..., m), positive where λ is not 1; NaN means missing.
        power: λ >= 0 of each column.

    Returns:
        The transformed values, (..., m).

    Examples:
        >>> import numpy as np
        >>> from ssmlin.data._scaling import box_cox
        >>> box_cox(np.array([[4.0, 1.0, 3.0]]), (0.5, 0.0, 1.0)).tolist()
        [[2.0, 0.0, 3.0]]

    Source: Box and Cox (1964), Journal of the Royal Statistical Society B 26.
    """
    powers = np.array(power)
    transformed: Float[np.ndarray, "... m"] = special.boxcox(values, powers)
    return np.where(powers == 1, values, transformed)


def inverse_box_cox(
    values: Float[np.ndarray, "... m"], power: Sequence[float]
) -> Float[np.ndarray, "... m"]:
    """Invert :func:`box_cox`, for all real numbers.

    Numbers below the range of the transformation become 0, and the result is at most 1e150. The
    inverse never decreases, so it maps quantiles to quantiles.

    Args:
        values: transformed values, (..., m).
        power: λ >= 0 of each column.

    Returns:
        y, (..., m).
    """
    powers = np.array(power)
    divisor = np.where(powers == 0, 1.0, powers)
    with np.errstate(divide="ignore"):
        logs = np.where(powers == 0, values, np.log1p(np.maximum(powers * values, -1)) / divisor)
    back = np.exp(np.minimum(logs, np.log(_LARGEST)))
    return np.where(powers == 1, values, back)


def describe_powers(columns: Sequence[str], power: Sequence[float]) -> str:
    """Describe the transformed columns for a message; "" if there are none.

    Examples:
        >>> from ssmlin.data._scaling import describe_powers
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

    Without differences, $z = (x - \mu) / \sigma$ increases with y, so quantiles can be converted
    back exactly. With differences only whole paths can be converted back.

    Args:
        mean: μ of each target.
        scale: σ > 0 of each target.
        input_mean: the mean of each input; inputs are never transformed.
        input_scale: the standard deviation of each input.
        power: λ >= 0 of each target: 1 (the default) for no transformation, 0 for logarithms.
        difference: ℓ: 1 for changes, the steps of a season for seasonal changes; 0 for none.

    Raises:
        ValueError: negative powers, or not one for each target.

    Examples:
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
        """Take means and standard deviations from data.

        Args:
            columns: the data.
            power: λ of each target, default 1.
            difference: ℓ, default none.

        Raises:
            ValueError: negative powers, or not one for each target; a value that is not positive
                although its power is not 1; ℓ negative or not below the number of steps; or
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
        """Scaled values and inputs; the first ℓ values are missing.

        Raises:
            ValueError: a value that is not positive although its power is not 1.
        """
        values = transformed(columns.values, self.power, columns.targets)
        values = changes(values, self.difference)
        inputs = self.apply_inputs(columns.inputs)
        return (values - np.array(self.mean)) / np.array(self.scale), inputs

    def apply_inputs(self, inputs: Float[np.ndarray, "T k"]) -> Float[np.ndarray, "T k"]:
        """Scaled inputs."""
        scaled: Float[np.ndarray, "T k"] = (inputs - np.array(self.input_mean)) / np.array(
            self.input_scale
        )
        return scaled

    def invert(self, values: Float[np.ndarray, "... m"]) -> Float[np.ndarray, "... m"]:
        """Convert scaled values, quantiles or paths to the user's units.

        This holds for all real numbers, see :func:`inverse_box_cox`. Means cannot be converted
        where the power is not 1.

        Raises:
            ValueError: the scaling takes differences; see :meth:`continue_paths`.
        """
        if self.difference:
            raise ValueError("difference: expected 0, since differences need the values before")
        values = np.asarray(values, np.float64) * np.array(self.scale) + np.array(self.mean)
        return inverse_box_cox(values, self.power)

    def log_slopes(self, values: Float[np.ndarray, "... m"]) -> Float[np.ndarray, "... m"]:
        r"""$\log dz / dy$ at scaled values: the log density in the user's units is larger by it."""
        slopes: Float[np.ndarray, "... m"] = -np.log(np.array(self.scale))
        if not self.is_transformed:
            return np.broadcast_to(slopes, values.shape)
        powers, y = np.array(self.power), self.invert(values)
        powered: Float[np.ndarray, "... m"] = (powers - 1) * np.log(np.where(powers == 1, 1.0, y))
        slopes = slopes + powered
        return slopes

    def continue_paths(
        self, paths: Float[np.ndarray, "... H m"], columns: Columns
    ) -> Float[np.ndarray, "... H m"]:
        """Convert scaled paths of the steps after some data to the user's units.

        Args:
            paths: scaled paths of H steps, (..., H, m).
            columns: the data before them.

        Returns:
            The paths, (..., H, m).

        Raises:
            ValueError: the scaling takes differences, and one of the last ℓ values is missing.
        """
        if not self.difference:
            return self.invert(paths)
        lag = self.difference
        last = transformed(columns.values, self.power, columns.targets)[-lag:]
        if np.isnan(last).any():
            step = len(columns.values) - lag + int(np.isnan(last).any(axis=1).argmax()) + 1
            raise ValueError(
                f"difference: expected the last {lag} values, which forecasts continue, got a "
                f"missing one at step {step}"
            )
        steps = np.asarray(paths, np.float64) * np.array(self.scale) + np.array(self.mean)
        *lead, horizon, m = steps.shape
        # A value is the one ℓ steps before plus its change: sums over whole seasons.
        whole = [(0, 0)] * len(lead) + [(0, -horizon % lag), (0, 0)]
        seasons = np.pad(steps, whole).reshape(*lead, -1, lag, m)
        values = (last + np.cumsum(seasons, axis=-3)).reshape(*lead, -1, m)[..., :horizon, :]
        return inverse_box_cox(values, self.power)

    def to_dict(self) -> dict[str, tuple[float, ...] | int]:
        """The fields, which JSON can hold."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Scaling":
        """The inverse of :meth:`to_dict`, also after the fields went through JSON."""
        fields: dict[str, Any] = {
            k: tuple(x) if isinstance(x, list) else x for k, x in data.items()
        }
        if fields.pop("log", False):  # files that are older than powers
            fields["power"] = (0.0,) * len(fields["mean"])
        return cls(**fields)


def _checked(power: Sequence[float], count: int) -> tuple[float, ...]:
    """One power for each of `count` columns, by default 1."""
    powers = tuple(float(p) for p in power) or (1.0,) * count
    if len(powers) != count or not all(0 <= p < np.inf for p in powers):
        # With λ < 0 the transformation has an upper bound, and a Gaussian law has mass beyond it.
        raise ValueError(f"power: expected {count} numbers >= 0, got {powers}")
    return powers


def transformed(
    values: Float[np.ndarray, "T m"],
    power: Sequence[float],
    names: Sequence[str],
    first_step: int = 1,
) -> Float[np.ndarray, "T m"]:
    """Transform named columns by :func:`box_cox`.

    Args:
        values: y, (T, m).
        power: λ of each column.
        names: the names of the columns, for messages.
        first_step: the number of the first step, for messages.

    Raises:
        ValueError: a value that is not positive although its power is not 1, or one whose power
            overflows.
    """
    low = (values <= 0) & (np.array(power) != 1)
    if low.any():
        row, column = (int(x[0]) for x in np.nonzero(low))
        raise ValueError(
            f"transform: expected positive values in column {names[column]!r}, got "
            f"{values[row, column]} at step {first_step + row}; "
            f'{describe_powers([names[column]], [power[column]])} takes no other, "none" takes any'
        )
    result = box_cox(values, power)
    if np.isinf(result).any():
        column = int(np.isinf(result).any(axis=0).argmax())
        raise ValueError(
            f"transform: expected values whose powers are finite numbers, got "
            f"{describe_powers([names[column]], [power[column]])}"
        )
    return result


def changes(values: Float[np.ndarray, "T m"], lag: int) -> Float[np.ndarray, "T m"]:
    """Differences to the values `lag` steps before; the first `lag` of them are NaN."""
    if lag == 0:
        return values
    return np.concatenate([np.full((lag, values.shape[1]), np.nan), values[lag:] - values[:-lag]])
