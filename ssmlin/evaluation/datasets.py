"""Real series that ship with packages, and splitting them in time."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from ssmlin import _checks
from ssmlin.data import Columns, Scaling
from ssmlin.data.scaling import describe_powers
from ssmlin.evaluation.forecasters import Observed
from ssmlin.evaluation.regressions import choose_powers
from ssmlin.evaluation.scores import Units


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


@dataclass(frozen=True)
class Split:
    """A series transformed and standardised by what its first part says.

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
        spread = np.nanstd(self.series.values[: self.num_train], axis=0)
        return Units(self.scaling, tuple(spread.tolist()))

    @property
    def transformation(self) -> str:
        """The transformed columns in words, "" if there are none."""
        return describe_powers(self.series.columns, self.scaling.power)


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


def load_nile() -> Series:
    """Yearly flow of the Nile at Aswan 1871-1970."""
    from statsmodels.api import datasets

    data = datasets.nile.load_pandas().data
    values, times = data[["volume"]].to_numpy(np.float64), data["year"].to_numpy(np.float64)
    return Series("nile", values, times, ("volume",), "statsmodels nile (Durbin and Koopman)")


def load_co2() -> Series:
    """Monthly change of the carbon dioxide at Mauna Loa 1958-2001."""
    from statsmodels.api import datasets

    monthly = datasets.co2.load_pandas().data["co2"].resample("MS").mean().interpolate()
    values = np.diff(monthly.to_numpy(np.float64))[:, None]
    source = "statsmodels co2 (Scripps), monthly means, gaps interpolated, differences"
    return Series("co2", values, _years(monthly.index[1:]), ("Δ co2",), source, period=12)


def load_elnino() -> Series:
    """Monthly temperature of the sea surface, Niño 1+2, 1950-2010, less its mean seasons.

    The seasons are those of the first 70 %.
    """
    from statsmodels.api import datasets

    table = datasets.elnino.load_pandas().data
    months = table.drop(columns="YEAR").to_numpy(np.float64)
    months = months - months[: int(0.7 * len(months))].mean(axis=0)
    times = (table["YEAR"].to_numpy(np.float64)[:, None] + np.arange(12) / 12).ravel()
    values = months.reshape(-1, 1)
    source = "statsmodels elnino (NOAA), less the monthly means of the first 70 %"
    return Series("elnino", values, times, ("anomaly",), source, period=12)


def load_interest_inflation() -> Series:
    """German interest and inflation rates, quarterly, 1972-1998."""
    from statsmodels.api import datasets

    data = datasets.interest_inflation.load_pandas().data
    times = data["year"].to_numpy(np.float64) + (data["quarter"].to_numpy(np.float64) - 1) / 4
    values = data[["Dp", "R"]].to_numpy(np.float64)
    source = "statsmodels interest_inflation (Lütkepohl)"
    return Series("interest", values, times, ("inflation", "interest"), source, period=4)


def load_weather() -> Series:
    """Daily highest and lowest temperature in Seattle 2012-2015."""
    data = _vega("seattle_weather")
    values = data[["temp_max", "temp_min"]].to_numpy(np.float64)
    source = "vega_datasets seattle_weather (NOAA)"
    return Series("weather", values, _years(data["date"]), ("high", "low"), source)


def load_stocks() -> Series:
    """Monthly log returns of four shares 2000-2010, in percent."""
    table = _vega("stocks").pivot(index="date", columns="symbol", values="price")
    names = ("AAPL", "AMZN", "IBM", "MSFT")
    values = 100 * np.diff(np.log(table[list(names)].to_numpy(np.float64)), axis=0)
    source = "vega_datasets stocks, 100 × the differences of logarithms"
    return Series("stocks", values, _years(table.index[1:]), names, source)


def load_employment() -> Series:
    """Monthly growth of US employment 2006-2015, in three sectors, in percent."""
    data = _vega("us_employment")
    names = ("construction", "manufacturing", "government")
    values = 100 * np.diff(np.log(data[list(names)].to_numpy(np.float64)), axis=0)
    source = "vega_datasets us_employment (BLS), 100 × the differences of logarithms"
    times = _years(data["month"][1:])
    return Series("employment", values, times, names, source, period=12)


def _vega(name: str) -> Any:
    """A data set of the package vega_datasets."""
    try:
        from vega_datasets import local_data
    except ImportError as error:
        raise ValueError(
            f"name: expected the package vega_datasets for {name}; pip install ssmlin[results]"
        ) from error
    return getattr(local_data, name)()


def _years(dates: Any) -> np.ndarray:
    """Dates as fractions of years."""
    import pandas as pd

    index = pd.DatetimeIndex(dates)
    return index.year.to_numpy() + (index.day_of_year.to_numpy() - 1) / 365.25


#: The series of the results in the documentation.
DATASETS = {
    "sunspots": load_sunspots,
    "macro": load_macro,
    "nile": load_nile,
    "co2": load_co2,
    "elnino": load_elnino,
    "interest": load_interest_inflation,
    "weather": load_weather,
    "stocks": load_stocks,
    "employment": load_employment,
}


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
            "series.values: expected an array of shape (T, m) without infinite values, got "
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
