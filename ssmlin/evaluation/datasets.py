"""Real series that ship with statsmodels, and splitting them in time."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from ssmlin import _checks


@dataclass(frozen=True)
class Series:
    """A named multivariate time series.

    Args:
        name: what it is called.
        values: (T, m).
        times: (T,).
        columns: names of the m columns.
        source: where it comes from and how it was transformed.
    """

    name: str
    values: Float[np.ndarray, "T m"]
    times: Float[np.ndarray, " T"]
    columns: tuple[str, ...]
    source: str


@dataclass(frozen=True)
class Split:
    """A series standardised by the mean and standard deviation of its first part.

    Args:
        series: the series in its own units.
        values: the standardised series, (T, m).
        num_train: the number of steps of the training part.
        mean: of the training part, (m,).
        scale: standard deviation of the training part, (m,).
    """

    series: Series
    values: Float[np.ndarray, "T m"]
    num_train: int
    mean: Float[np.ndarray, " m"]
    scale: Float[np.ndarray, " m"]

    @property
    def train(self) -> Float[np.ndarray, "T1 m"]:
        """The standardised training part."""
        return self.values[: self.num_train]

    @property
    def test(self) -> Float[np.ndarray, "T2 m"]:
        """The standardised held-out part."""
        return self.values[self.num_train :]


def load_sunspots() -> Series:
    """Yearly sunspot numbers 1700-2008, square roots taken (they are counts)."""
    from statsmodels.api import datasets

    data = datasets.sunspots.load_pandas().data
    return Series(
        name="sunspots",
        values=np.sqrt(data["SUNACTIVITY"].to_numpy(np.float64))[:, None],
        times=data["YEAR"].to_numpy(np.float64),
        columns=("√sunspots",),
        source="statsmodels sunspots (National Geophysical Data Center), square roots",
    )


def load_macro() -> Series:
    """US quarterly series 1959-2009: growth of output and consumption, inflation, two rates.

    Growth rates are 100 × the difference of logarithms; inflation, unemployment and the treasury
    bill rate are in percent, as they come.
    """
    from statsmodels.api import datasets

    data = datasets.macrodata.load_pandas().data
    growth = [100 * np.diff(np.log(data[name].to_numpy(np.float64))) for name in _GROWTH]
    levels = [data[name].to_numpy(np.float64)[1:] for name in _LEVELS]
    times = data["year"].to_numpy(np.float64) + (data["quarter"].to_numpy(np.float64) - 1) / 4
    return Series(
        name="macro",
        values=np.column_stack(growth + levels),
        times=times[1:],
        columns=(*(f"Δlog {name}" for name in _GROWTH), *_LEVELS),
        source="statsmodels macrodata (Federal Reserve Economic Data), growth rates and rates",
    )


_GROWTH = ("realgdp", "realcons")
_LEVELS = ("infl", "unemp", "tbilrate")


def train_test_split(series: Series, test_fraction: float = 0.3) -> Split:
    """Split a series in time and standardise it by its first part.

    Args:
        series: the series, finite.
        test_fraction: the share of the last steps to hold out, in (0, 1).

    Returns:
        The standardised series and where it was cut.

    Raises:
        ValueError: a share out of range, a part left without steps, values that are not finite,
            or a column that is constant on the training part.
    """
    if not 0 < test_fraction < 1:
        raise ValueError(f"test_fraction: expected a number in (0, 1), got {test_fraction}")
    values = series.values
    if values.ndim != 2 or not np.isfinite(values).all():
        raise ValueError(
            "series.values: expected a finite array of shape (T, m), got "
            f"{_checks.describe(values)} with {int((~np.isfinite(values)).sum())} not finite"
        )
    num_train = len(values) - round(test_fraction * len(values))
    if not 1 < num_train < len(values):
        raise ValueError(
            f"test_fraction: expected steps in both parts of {len(values)}, got {test_fraction}"
        )
    mean, scale = values[:num_train].mean(axis=0), values[:num_train].std(axis=0)
    for column, spread in zip(series.columns, scale, strict=True):
        if spread == 0:
            raise ValueError(
                f"series.values: expected varying columns, got {column!r} constant on the "
                "training part"
            )
    return Split(series, (values - mean) / scale, num_train, mean, scale)
