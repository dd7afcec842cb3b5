"""Real series that ship with packages."""

from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from ssmlin._optional import require
from ssmlin.data import Series

if TYPE_CHECKING:
    import pandas


def load_sunspots() -> Series:
    """Square roots of the yearly sunspot numbers 1700-2008, since the numbers are counts."""
    require("statsmodels")
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

    Growth rates are 100 × the difference of logarithms. Inflation, unemployment and the treasury
    bill rate are in percent.
    """
    require("statsmodels")
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
    require("statsmodels")
    from statsmodels.api import datasets

    data = datasets.nile.load_pandas().data
    values, times = data[["volume"]].to_numpy(np.float64), data["year"].to_numpy(np.float64)
    return Series("nile", values, times, ("volume",), "statsmodels nile (Durbin and Koopman)")


def load_co2() -> Series:
    """Monthly change of the carbon dioxide at Mauna Loa 1958-2001."""
    require("statsmodels")
    from statsmodels.api import datasets

    monthly = datasets.co2.load_pandas().data["co2"].resample("MS").mean().interpolate()
    values = np.diff(monthly.to_numpy(np.float64))[:, None]
    source = "statsmodels co2 (Scripps), monthly means, gaps interpolated, differences"
    return Series("co2", values, _years(monthly.index[1:]), ("Δ co2",), source, period=12)


def load_elnino() -> Series:
    """Monthly temperature of the sea surface, Niño 1+2, 1950-2010, minus its mean season.

    The season is estimated on the first 70 %.
    """
    require("statsmodels")
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
    require("statsmodels")
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


def _vega(name: str) -> "pandas.DataFrame":
    """A data set of the package vega_datasets."""
    try:
        from vega_datasets import local_data
    except ImportError as error:
        raise ValueError(
            f"name: expected the package vega_datasets for {name}; pip install ssmlin[results]"
        ) from error
    data: pandas.DataFrame = getattr(local_data, name)()
    return data


def _years(dates: "pandas.Index | pandas.Series") -> Float[np.ndarray, " T"]:
    """Dates as fractions of years."""
    require("pandas")
    import pandas as pd

    index = pd.DatetimeIndex(dates)
    years: np.ndarray = index.year.to_numpy() + (index.day_of_year.to_numpy() - 1) / 365.25
    return years


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
