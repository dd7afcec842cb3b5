"""The forecast of one series: means, intervals and paths in its own units."""

from collections.abc import Sequence
from numbers import Real
from typing import TYPE_CHECKING, NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from ssmlin import _checks
from ssmlin._display import one_line, small_table
from ssmlin.data import Columns, Scaling, Times, first_place, future_times
from ssmlin.forecasting._fitting import FittedAttention
from ssmlin.forecasting._recipe import scaled
from ssmlin.forecasting._season import harmonics
from ssmlin.forecasting._sequences import with_lags
from ssmlin.models import Forecast, forecast_dataset

if TYPE_CHECKING:
    import xarray


class SeriesForecast(NamedTuple):
    """The forecast of one series, in its own units.

    Attributes:
        name: the series; "" where there is one.
        times: the steps to come, (H,).
        targets: names of the m columns.
        means: (H, m).
        levels: the percentages of the central intervals.
        lower: lower ends, (levels, H, m).
        upper: upper ends, (levels, H, m).
        paths: sampled paths, (num_samples, H, m).
    """

    name: str
    times: Times
    targets: tuple[str, ...]
    means: Float[np.ndarray, "H m"]
    levels: tuple[float | int, ...]
    lower: Float[np.ndarray, "levels H m"]
    upper: Float[np.ndarray, "levels H m"]
    paths: Float[np.ndarray, "num_samples H m"]

    def __repr__(self) -> str:
        return one_line(self, self._asdict() | {"name": self.name or None, "times": self._span})

    def _repr_html_(self) -> str:
        said = self._asdict() | {"name": self.name or None, "times": self._span}
        return small_table(type(self).__name__, said)

    @property
    def _span(self) -> str:
        return f"{self.times[0]} to {self.times[-1]}"

    def to_xarray(self) -> "xarray.Dataset":
        """The forecast as a dataset: `mean`, `lower`, `upper` and `paths`.

        Returns:
            A dataset with the dimensions `time`, `column`, `level` (percentages) and `sample`.
        """
        return forecast_dataset(
            self.times, self.targets, self.means, self.levels, self.lower, self.upper, self.paths
        ).assign_attrs(series=self.name)


def check_forecast(horizon: object, levels: Sequence[float | int], num_samples: object) -> None:
    """Raise TypeError or ValueError unless so many steps and paths can be forecast."""
    _checks.positive_int("horizon", horizon)
    _checks.positive_int("num_samples", num_samples)
    if not all(isinstance(level, Real) and 1 <= level < 100 for level in levels):
        raise ValueError(
            f"levels: expected percentages in [1, 100), such as 95, got {tuple(levels)}"
        )


def forecast_series(
    name: str,
    columns: Columns,
    attention: FittedAttention,
    scaling: Scaling,
    horizon: int,
    *,
    has_times: bool = True,
    future: Float[np.ndarray, "H k"] | None = None,
    levels: Sequence[float | int] = (50, 80, 95),
    num_samples: int = 1000,
    seed: int = 0,
) -> SeriesForecast:
    """Forecast the steps after a series.

    A law that is known exactly gives the means, if the targets are not transformed, and the
    intervals. Otherwise, and where differences are summed up, sampled paths give them.

    Args:
        name: the series, for messages.
        columns: the series in its own units.
        attention: the fitted model.
        scaling: the scaling of the series.
        horizon: H.
        has_times: False where rows are the steps, which are then numbered on.
        future: inputs of the steps to come, in their own units.
        levels: percentages of the central intervals, in [1, 100).
        num_samples: how many paths.
        seed: of the paths.

    Returns:
        The forecast.

    Raises:
        ValueError: fewer rows than the lags and the difference need, or a value that the
            transformation does not take.
    """
    of = f"series {name!r}: " if name else ""
    model, params, seasonal = attention
    steps, needed = len(columns.values), model.num_lags + scaling.difference
    if steps < needed:
        raise ValueError(
            f"{of}rows: expected at least the {needed} that the model goes on from, got {steps}"
        )
    observed = scaled(columns, scaling, seasonal)
    emissions, inputs = with_lags(model, observed)
    if model.num_lags > 0:
        # The mask says that the first rows are lags only; a last row that is missing in part is
        # completed by draws.
        emissions = observed.values.astype(emissions.dtype)
    found = model.forecast(
        params,
        emissions,
        inputs,
        horizon=horizon,
        future_inputs=_future(columns, scaling, seasonal, horizon, future),
        key=jax.random.key(seed),
        num_samples=num_samples,
        levels=tuple(level / 100 for level in levels),
        mask=np.arange(steps) >= model.num_lags,
    )
    means, lower, upper, paths = in_units(found, scaling, columns, levels)
    times = _times(columns, horizon, has_times)
    return SeriesForecast(name, times, columns.targets, means, tuple(levels), lower, upper, paths)


def no_forecast(
    name: str,
    columns: Columns,
    horizon: int,
    has_times: bool,
    levels: Sequence[float | int],
    num_samples: int,
) -> SeriesForecast:
    """The steps after a series that has no model: all is missing, so that others are forecast.

    Args:
        name: the series.
        columns: the series in its own units.
        horizon: H.
        has_times: False where rows are the steps.
        levels: percentages of the central intervals.
        num_samples: how many paths.
    """
    steps = horizon, len(columns.targets)
    ends, paths = np.full((len(levels), *steps), np.nan), np.full((num_samples, *steps), np.nan)
    return SeriesForecast(
        name, _times(columns, horizon, has_times), columns.targets, np.full(steps, np.nan),
        tuple(levels), ends, ends, paths,
    )  # fmt: skip


def _times(columns: Columns, horizon: int, has_times: bool) -> Times:
    """The steps to come."""
    steps = len(columns.values)
    return future_times(columns.times, horizon) if has_times else np.arange(steps, steps + horizon)


def in_units(
    found: Forecast, scaling: Scaling, columns: Columns, levels: Sequence[float | int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """A forecast with paths in the units of the series.

    Args:
        found: the forecast of the standardised values.
        scaling: the scaling of the series.
        columns: the series; where there are differences, at least the steps they go back.
        levels: percentages of the central intervals.

    Returns:
        Means, lower and upper ends, and paths, as of :class:`SeriesForecast`.

    Raises:
        ValueError: a value that differences go on from is missing.
    """
    assert found.samples is not None
    paths = scaling.continue_paths(np.asarray(found.samples, np.float64), columns)
    is_exact = not (scaling.is_transformed or scaling.difference)
    means = scaling.invert(np.asarray(found.means, np.float64)) if is_exact else paths.mean(axis=0)
    if scaling.difference:
        # Quantiles of sums of changes are known by the paths alone.
        shares = np.array(levels, float) / 100
        lower, upper = (np.quantile(paths, 0.5 + side * shares / 2, axis=0) for side in (-1, 1))
    else:
        lower, upper = (
            scaling.invert(np.asarray(end, np.float64)) for end in (found.lower, found.upper)
        )
    return means, lower, upper, paths


def _future(
    columns: Columns,
    scaling: Scaling,
    seasonal: int | None,
    horizon: int,
    future: Float[np.ndarray, "H k"] | None,
) -> Float[np.ndarray, "H k"] | None:
    """Standardised inputs of the steps to come, and the harmonics of the season."""
    parts = []
    if future is not None:
        parts.append(scaling.apply_inputs(future))
    if seasonal is not None:
        start = first_place(columns.times) + len(columns.values)
        parts.append(harmonics(seasonal, start + np.arange(horizon)))
    return np.concatenate(parts, axis=1).astype(np.float32) if parts else None
