"""Rows of text in, predictions out: one stream of one or several series."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from ssmlin._files import read_arrays, write_arrays
from ssmlin._optional import require
from ssmlin.data import Marks, free_name, given_marks, numbers, parse_times
from ssmlin.forecasting import CollectionState, Forecaster, ForecasterState, SeriesForecast
from ssmlin.serving._online_forecaster import OnlineForecaster
from ssmlin.serving._series import SeriesPrediction, SeriesState

_KIND = "state of a stream"


class RowStep(NamedTuple):
    """A row that has gone through.

    Attributes:
        name: the series.
        time: as it is written.
        values: of the targets, (m,).
        seen: their law before they were looked at.
        told: the prediction to tell, as :class:`RowStream` says.
    """

    name: str
    time: Any
    values: Float[np.ndarray, " m"]
    seen: SeriesPrediction
    told: SeriesPrediction


class RowStream:
    """Rows that go through an online forecaster for each series, read as text.

    After a row comes the prediction of the next one. A forecaster with inputs cannot know those of
    the next row: then the prediction is of the row itself, given its inputs, made before its
    targets are looked at.

    Args:
        forecaster: fitted.
        levels: percentages of the central intervals.
        decimal: the decimal mark; default that of the data that were fitted.
        num_particles: draws of what is missing, once a lag is.
        series: the one that all rows are of, which then need no column for it. Default what that
            column says; a population takes series that the fit did not know.

    Raises:
        ValueError: as :class:`ssmlin.OnlineForecaster`.

    Examples:
        >>> import numpy as np, pandas as pd, ssmlin
        >>> months = pd.date_range("2020-01-01", periods=36, freq="MS", name="month")
        >>> sales = pd.Series(10 + np.sin(np.arange(36) * np.pi / 6), months, name="sales")
        >>> stream = ssmlin.serving.RowStream(ssmlin.Forecaster().fit(sales), levels=(80,))
        >>> [list(x.items())[:2] for x in stream.feed({"month": "2023-01-01", "sales": "10.2"})]
        [[('month', '2023-02-01'), ('column', 'sales')]]
    """

    def __init__(
        self,
        forecaster: Forecaster,
        levels: Sequence[float | int] = (50, 80, 95),
        *,
        decimal: str | None = None,
        num_particles: int = 200,
        series: str | None = None,
    ) -> None:
        state = forecaster.state_
        self._follow = partial(OnlineForecaster, forecaster, num_particles=num_particles)
        self._is_only = series is not None
        self._is_population = isinstance(state, CollectionState)
        names: Sequence[str | None] = [series]
        if isinstance(state, ForecasterState) and state.layout.series is not None:
            names = [series] if self._is_only else list(state.scalings)
        elif isinstance(state, CollectionState) and not self._is_only:
            names = [next(iter(state.panel))]  # the others when their first rows come
        each = [self._follow(name) for name in names]
        self._online = {one.name: one for one in each}
        self._states: dict[str, SeriesState] = {}
        self.layout, self._levels = each[0].layout, tuple(levels)
        notes = {} if state is None else state.notes
        said = notes.get("reading", {}) if decimal is None else {"decimal": decimal}
        mark = said.get("decimal") or notes.get("decimal")
        # Points are decimal, and commas nothing, unless somebody said or the fit's file showed it.
        marks = given_marks(mark, said.get("thousands"))
        self._marks = Marks() if marks is None or mark == "." else marks
        self.num_rows = 0

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that a row must have."""
        layout = self.layout
        others = (layout.series if not self._is_only else None, *self._times())
        return (*(x for x in others if x is not None), *layout.inputs, *layout.targets)

    def warm_up(self) -> None:
        """Compile the programs of a step, before the first row, and go through the data.

        Those of a population are gone through when the first row of a series comes.
        """
        for name, online in self._online.items():
            state = self._states.setdefault(name, online.init())
            outside = np.zeros(len(self.layout.inputs))
            online.predict(state, outside)
            one = np.ones(len(self.layout.targets))
            online.step(state, one, outside)

    @property
    def names(self) -> list[str]:
        """The series of which there was a row, or which wait for one."""
        return list(self._states)

    def feed(self, row: Mapping[str, str]) -> list[dict[str, Any]]:
        """Take one row.

        Args:
            row: the texts of its fields by column.

        Returns:
            A record for each target: series, time, column, mean, and ends of the intervals.

        Raises:
            ValueError: a row that cannot be used, with the column; nothing has changed then.
        """
        return self.records(self.take(row))

    def take(self, row: Mapping[str, str]) -> RowStep:
        """Take one row, as :meth:`feed` does, but return what happened."""
        name = self._series(row)
        online = self._followed(name)
        state = self._states[name] if name in self._states else online.init()
        values = [self._number(row, target) for target in self.layout.targets]
        inputs = [self._number(row, x) for x in self.layout.inputs]
        for column, value in zip(self.layout.inputs, inputs, strict=True):
            if np.isnan(value):
                raise ValueError(f"inputs: expected a number in column {column!r}, got none")
        time = None
        if self._times() and online.clock is not None:
            time = self._time(row)
        state, seen = online.step(state, values, inputs, time)
        told = seen if self.layout.inputs else online.predict(state)
        self._online[name], self._states[name] = online, state
        self.num_rows += 1
        return RowStep(name, self.time_of(name, seen.time), np.array(values), seen, told)

    def time_of(self, name: str, time: Any) -> Any:
        """A time of a series as it is written."""
        if hasattr(time, "isoformat"):
            return str(time).removesuffix(" 00:00:00")
        if self.layout.is_whole or self._online[name].clock is None:
            return int(round(time))
        return time

    def records(self, step: RowStep) -> list[dict[str, Any]]:
        """The prediction to tell, as :meth:`feed` returns it."""
        name, prediction = step.name, step.told
        layout, keys = self.layout, (self.layout.series, self.layout.time)
        first: dict[str, Any] = {} if layout.series is None else {layout.series: name}
        (clock,) = self._times() or (free_name("step", (layout.series,)),)
        first[clock] = self.time_of(name, prediction.time)
        means = prediction.mean
        lower, upper = prediction.intervals(self._levels)
        records = []
        for i, target in enumerate(layout.targets):
            record = first | {free_name("column", keys): target}
            record[free_name("mean", keys)] = known(means[i])
            for level, low, high in zip(self._levels, lower, upper, strict=True):
                record[free_name(f"lower_{level:g}", keys)] = known(low[i])
                record[free_name(f"upper_{level:g}", keys)] = known(high[i])
            records.append(record)
        return records

    def forecast(
        self, name: str, horizon: int, levels: Sequence[float | int] = (80, 95)
    ) -> SeriesForecast:
        """Forecast a series that has no inputs from its last row, as OnlineForecaster does."""
        return self._online[name].forecast(self._states[name], horizon, levels)

    def save(self, path: Path) -> None:
        """Write where the stream is; an older file stays whole if writing fails."""
        arrays: dict[str, np.ndarray] = {}
        described = []
        for number, (name, state) in enumerate(self._states.items()):
            own, description = self._online[name].to_arrays(state)
            arrays |= {f"{number}.{key}": x for key, x in own.items()}
            described.append(description)
        write_arrays(path, _KIND, arrays, {"states": described, "rows": self.num_rows})

    def load(self, path: Path) -> None:
        """Go on where the stream was when it was saved.

        Raises:
            OSError: the file cannot be read.
            ValueError: it is damaged, or of another forecaster.
        """
        arrays, description = read_arrays("state", path, _KIND)
        parts: list[dict[str, np.ndarray]] = [{} for _ in description["states"]]
        for key, x in arrays.items():
            number, own = key.split(".", 1)
            parts[int(number)][own] = x
        for part, one in zip(parts, description["states"], strict=True):
            name = one["series"]
            try:
                online = self._followed(name)
            except ValueError as error:
                raise ValueError(f"state: {error}") from error
            self._online[name], self._states[name] = online, online.from_arrays(part, one)
        self.num_rows = int(description["rows"])

    # ------------------------------------------------------------------------- one row

    def _times(self) -> tuple[str, ...]:
        """The column of times, where the stream has times."""
        time = self.layout.time
        if time is None or all(one.clock is None for one in self._online.values()):
            return ()
        return (time,)

    def _series(self, row: Mapping[str, str]) -> str:
        if self.layout.series is None or self._is_only:
            return next(iter(self._online))
        name = row[self.layout.series].strip()
        if not name:
            raise ValueError("series: expected a name, got none")
        return name

    def _followed(self, name: str) -> OnlineForecaster:
        """What follows a series; of a population also one that the fit did not know.

        Raises:
            ValueError: a series that it cannot follow.
        """
        if name not in self._online:
            if not self._is_population or self._is_only:
                raise ValueError(
                    f"series: expected one that the model knows, "
                    f"{', '.join(list(self._online)[:20])}; got {name!r}"
                )
            return self._follow(name)
        return self._online[name]

    def _number(self, row: Mapping[str, str], column: str) -> float:
        text = row[column].strip()
        if self._marks.decimal == ".":
            try:
                value = float(text)
                if np.isfinite(value) and "_" not in text:
                    return value
            except ValueError:
                pass
        require("pandas")
        import pandas as pd

        try:
            one = pd.Series([text], name=column, dtype=object)
            return float(numbers(one, marks=self._marks)[0])
        except ValueError as error:
            raise ValueError(
                f"columns: expected a finite number or nothing in column {column!r}, got {text!r}"
            ) from error

    def _time(self, row: Mapping[str, str]) -> Any:
        require("pandas")
        import pandas as pd

        column = self._times()[0]
        text = row[column].strip()
        try:
            time = parse_times(pd.Series([text], name=column), self.layout.date_format)[0]
        except ValueError as error:
            raise ValueError(
                f"time: expected one as the data that were fitted have in column {column!r}, got "
                f"{text!r}"
            ) from error
        return time


def known(x: float) -> float | None:
    """A number of Python; None where it is not known."""
    return float(x) if np.isfinite(x) else None
