"""A series split in time, transformed and standardised by its first part."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from ssmlin import _checks
from ssmlin.comparison._scores import Units
from ssmlin.data import Columns, Scaling, Series, describe_powers
from ssmlin.forecasting import Observed, choose_powers


@dataclass(frozen=True)
class Split:
    """A series, transformed and standardised by its first part.

    Args:
        series: the series in its own units.
        observed: values and inputs, standardised.
        num_train: the number of steps of the training part.
        scaling: the transformation, and means and standard deviations of the training part.
    """

    series: Series
    observed: Observed
    num_train: int
    scaling: Scaling

    @property
    def train(self) -> Observed:
        """The standardised training part."""
        return self.observed.until(self.num_train)

    @property
    def test(self) -> Float[np.ndarray, "T2 m"]:
        """The standardised values of the held-out part."""
        return self.observed.values[self.num_train :]

    @property
    def units(self) -> Units | None:
        """The way back from transformed values, None if there is no transformation."""
        if not self.scaling.is_transformed:
            return None
        return Units(self.scaling, self.spread)

    @property
    def spread(self) -> tuple[float, ...]:
        """The standard deviation of each column's training part, the unit of the scores."""
        spread = np.nanstd(self.series.values[: self.num_train], axis=0)
        return tuple(spread.tolist())

    @property
    def transformation(self) -> str:
        """The transformed columns in words, "" if there are none."""
        return describe_powers(self.series.columns, self.scaling.power)


def train_test_split(
    series: Series, test_fraction: float = 0.3, transform: str | float = "none"
) -> Split:
    """Split a series in time, transform and standardise it by its first part.

    Args:
        series: the series.
        test_fraction: the share of the last steps to hold out, in (0, 1).
        transform: as in :func:`ssmlin.compare`.

    Returns:
        The standardised series and where it was cut.

    Raises:
        ValueError: a share out of range, a part left without steps, infinite values, missing
            inputs, a column that is constant on the training part, or, in either part, a value
            that is not positive in a column that is transformed.
    """
    if not 0 < test_fraction < 1:
        raise ValueError(f"test_fraction: expected a number in (0, 1), got {test_fraction}")
    values, inputs = series.values, series.inputs
    if values.ndim != 2 or np.isinf(values).any() or np.isnan(values).all():
        raise ValueError(
            "series.values: expected an array of shape (T, m) with values, none infinite, got "
            f"{_checks.describe(values)} with {int((~np.isfinite(values)).sum())} not finite"
        )
    inputs = np.zeros((len(values), 0)) if inputs is None else inputs
    if inputs.ndim != 2 or len(inputs) != len(values) or not np.isfinite(inputs).all():
        raise ValueError(
            f"series.inputs: expected a finite array of shape ({len(values)}, k), got "
            f"{_checks.describe(inputs)} with {int((~np.isfinite(inputs)).sum())} not finite"
        )
    num_train = len(values) - round(test_fraction * len(values))
    if not 1 < num_train < len(values):
        raise ValueError(
            f"test_fraction: expected steps in both parts of {len(values)}, got {test_fraction}"
        )
    for name, column in zip(series.columns, values[:num_train].T, strict=True):
        if not np.nanstd(column) > 0:
            raise ValueError(
                f"series.values: expected varying columns, got {name!r} constant or missing on "
                "the training part"
            )
    columns = Columns(values, inputs, series.times, series.columns, ())
    train = columns._replace(values=values[:num_train], inputs=inputs[:num_train])
    power = choose_powers([Observed(train.values, train.inputs)], transform, series.period)
    scaling = Scaling.fit(train, power)
    return Split(series, Observed(*scaling.apply(columns)), num_train, scaling)
