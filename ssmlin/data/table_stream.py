"""Long tables, read a piece at a time."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float

from ssmlin._progress import progress_bar
from ssmlin.data.columns import numbers
from ssmlin.data.scaling import Scaling, transformed
from ssmlin.data.tables import ENCODING, file_marks, read_chunks
from ssmlin.data.texts import PLAIN, Marks, convert, find_marks
from ssmlin.data.times import NUMBER, find_date_format, parse_times, ticks

if TYPE_CHECKING:
    import pandas

Piece = tuple[Float[np.ndarray, "n m"], Float[np.ndarray, "n k"]]


class Summary(NamedTuple):
    """What a first pass over a table finds.

    Attributes:
        num_rows: how many rows.
        num_values: how many values of the targets are not missing.
        scaling: means and standard deviations of all columns.
        num_partly: how many rows have some of the targets, but not all.
    """

    num_rows: int
    num_values: int
    scaling: Scaling
    num_partly: int


class TableStream:
    r"""Columns of a CSV, TSV or Parquet file of any length, in pieces of so many rows.

    Rows are steps and must be in order. What :func:`ssmlin.data.select_columns` refuses is refused,
    when it is met. How numbers are written is found in the first 100 000 rows, how dates are in the
    first piece; what contradicts it later is refused, too.

    Args:
        path: the file.
        targets: names of the columns to predict; empty cells are missing.
        inputs: names of columns that are known before each step.
        time: name of a column of numbers or dates, which must rise by equal steps.
        power: λ of each target, see :class:`ssmlin.data.Scaling`; default 1.
        chunk_rows: rows in memory at a time.
        progress: show a progress bar for the first pass.
        encoding: of a text file, as are the next two in :func:`ssmlin.data.read_table`.
        decimal: the decimal mark in text.
        thousands: the mark that parts thousands in text.
        date_format: as in :func:`ssmlin.data.select_columns`.

    Attributes:
        date_format: the given one, or what was found once the table was read.

    Raises:
        ValueError: a file of another kind or that cannot be read, a column that is not there.

    Example:
        >>> import tempfile, pathlib
        >>> from ssmlin.data import TableStream
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "data.csv"
        >>> _ = path.write_text("y\n" + "\n".join(map(str, range(10))))
        >>> stream = TableStream(path, ["y"], chunk_rows=4)
        >>> stream.summary.num_rows, [len(values) for values, _ in stream.pieces()]
        (10, [4, 4, 2])
    """

    def __init__(
        self,
        path: str | Path,
        targets: Sequence[str],
        inputs: Sequence[str] = (),
        time: str | None = None,
        *,
        power: Sequence[float] = (),
        chunk_rows: int = 50_000,
        progress: bool = False,
        encoding: str = ENCODING,
        decimal: str | None = None,
        thousands: str | None = None,
        date_format: str | None = None,
    ) -> None:
        self.path, self.time = Path(path), time
        self.targets, self.inputs = tuple(targets), tuple(inputs)
        self.chunk_rows, self.progress = chunk_rows, progress
        self.encoding, self.decimal, self.thousands = encoding, decimal, thousands
        self.date_format = date_format
        if not self.targets:
            raise ValueError("targets: expected at least one column, got none")
        self.power = tuple(power) or (1.0,) * len(self.targets)

    def with_power(self, power: Sequence[float]) -> "TableStream":
        """The same table, transformed by other powers."""
        return TableStream(
            self.path,
            self.targets,
            self.inputs,
            self.time,
            power=power,
            chunk_rows=self.chunk_rows,
            progress=self.progress,
            encoding=self.encoding,
            decimal=self.decimal,
            thousands=self.thousands,
            date_format=self.date_format,
        )

    def pieces(self) -> Iterator[Piece]:
        """Inputs, and transformed values, which for the power 1 are those of the file."""
        chosen = [*self.targets, *self.inputs, *([] if self.time is None else [self.time])]
        rows, clock, marks = 0, _Clock(self.date_format), dict(self._marks)
        text = () if self.time is None else (self.time,)
        for frame in read_chunks(
            self.path, chosen, self.chunk_rows, encoding=self.encoding, marks=marks, text=text
        ):
            if self.time is not None:
                times = frame[self.time]
                if clock.date_format in (None, NUMBER):
                    times = _as_in_a_table(times, marks[self.time])
                clock.check(times, rows)
                self.date_format = clock.date_format
            for name in (*self.targets, *self.inputs):
                if marks[name] is None:
                    # The first rows had no marks; those that come now are asked.
                    marks |= find_marks({name: _texts(frame[name])}, False, first_row=rows + 1)
            columns = [
                numbers(frame[name], rows, marks[name] or PLAIN)
                for name in (*self.targets, *self.inputs)
            ]
            table = np.column_stack(columns)
            values, outside = np.split(table, [len(self.targets)], axis=1)
            if np.isnan(outside).any():
                row, column = (int(x[0]) for x in np.nonzero(np.isnan(outside)))
                raise ValueError(
                    f"inputs: expected no missing values in column {self.inputs[column]!r}, got "
                    f"one in data row {rows + row + 1}"
                )
            values = transformed(values, self.power, self.targets, rows + 1)
            rows += len(frame)
            yield values, outside

    @cached_property
    def _marks(self) -> dict[str, Marks | None]:
        return file_marks(self.path, self.encoding, self.decimal, self.thousands)

    @cached_property
    def summary(self) -> Summary:
        """A pass over the whole table.

        Raises:
            ValueError: a column that cannot be used, with its name and row; or fewer than two rows.
        """
        width = len(self.targets) + len(self.inputs)
        count, mean, square = np.zeros(width), np.zeros(width), np.zeros(width)
        rows = partly = 0
        with progress_bar(self.progress) as bar:
            task = bar.add_task("read", total=None, note="")
            for piece in self.pieces():
                table = np.concatenate(piece, axis=1)
                # Moments of two parts together, after Chan, Golub and LeVeque.
                n = np.isfinite(table).sum(axis=0)
                with np.errstate(invalid="ignore"):
                    here = np.nansum(table, axis=0) / np.maximum(n, 1)
                spread = np.nansum((table - here) ** 2, axis=0)
                both = np.maximum(count + n, 1)
                square += spread + (here - mean) ** 2 * count * n / both
                mean += (here - mean) * n / both
                count += n
                rows += len(table)
                missing = np.isnan(piece[0])
                partly += int((missing.any(axis=1) & ~missing.all(axis=1)).sum())
                bar.update(task, completed=rows, note=f"{rows} rows")
            bar.update(task, total=rows, note="")
        if rows < 2:
            raise ValueError(f"rows: expected at least 2, got {rows}")
        m = len(self.targets)
        deviation = np.sqrt(square / np.maximum(count, 1))
        for name, spread in zip(self.targets, deviation, strict=False):
            if not spread > 0:
                raise ValueError(f"targets: expected varying values in column {name!r}, got a "
                                 "constant or none")  # fmt: skip
        scale = np.where(deviation > 0, deviation, 1.0)
        scaling = Scaling(
            tuple(mean[:m].tolist()),
            tuple(scale[:m].tolist()),
            tuple(mean[m:].tolist()),
            tuple(scale[m:].tolist()),
            self.power,
        )
        return Summary(rows, int(count[:m].sum()), scaling, partly)

    def windows(self, size: int, num_lags: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Consecutive standardised windows for a model with lags, in single precision.

        A step with a missing lag is left out of what is fitted: its values are missing. The memory
        passes over it with the value observed last.

        Args:
            size: W; the last window is filled up with missing values and inputs of zero.
            num_lags: how many lagged values are the first inputs, the latest first.

        Yields:
            Emissions (W, m), of which the first `num_lags` are missing, as they are lags only, and
            inputs (W, num_lags·m + k).
        """
        scaling = self.summary.scaling
        mean, scale = np.array(scaling.mean), np.array(scaling.scale)
        m, k = len(self.targets), len(self.inputs)
        before, last = np.zeros((num_lags, m)), np.zeros((1, m))
        unknown = np.zeros(num_lags, bool)
        rest_y, rest_u = np.zeros((0, m)), np.zeros((0, num_lags * m + k))
        is_first = True
        for values, outside in self.pieces():
            y = (values - mean) / scale
            missing = np.concatenate([unknown, np.isnan(y).any(axis=1)])
            unknown = missing[len(missing) - num_lags :]
            known = _carried(np.concatenate([last, y]))[1:]
            last = known[-1:]
            known = np.concatenate([before, known])
            lags = [known[num_lags - lag : len(known) - lag] for lag in range(1, num_lags + 1)]
            u = np.concatenate([*lags, scaling.apply_inputs(outside)], axis=1)
            for lag in range(1, num_lags + 1):
                y[missing[num_lags - lag : len(missing) - lag]] = np.nan
            before = known[len(known) - num_lags :]
            if is_first:
                y[:num_lags], is_first = np.nan, False
            rest_y, rest_u = np.concatenate([rest_y, y]), np.concatenate([rest_u, u])
            whole = len(rest_y) // size * size
            for i in range(0, whole, size):
                part = slice(i, i + size)
                yield rest_y[part].astype(np.float32), rest_u[part].astype(np.float32)
            rest_y, rest_u = rest_y[whole:], rest_u[whole:]
        if len(rest_y):
            extra = ((0, size - len(rest_y)), (0, 0))
            yield (
                np.pad(rest_y, extra, constant_values=np.nan).astype(np.float32),
                np.pad(rest_u, extra).astype(np.float32),
            )


def _carried(values: Float[np.ndarray, "n m"]) -> Float[np.ndarray, "n m"]:
    """Values of which each missing one is the last observed before it; the first row is known."""
    place = np.where(np.isnan(values), 0, np.arange(len(values))[:, None])
    return np.take_along_axis(values, np.maximum.accumulate(place), axis=0)


def _texts(column: "pandas.Series") -> list[str]:
    """The fields of a text file; a row that is shorter than the header has none at its end."""
    return [value if isinstance(value, str) else "" for value in column.tolist()]


def _as_in_a_table(column: "pandas.Series", marks: Marks | None) -> "pandas.Series":
    """A column of a text file as :func:`ssmlin.data.read_table` gives it; others as they are."""
    import pandas as pd

    if column.dtype != object or pd.api.types.infer_dtype(column, skipna=True) != "string":
        return column
    values = convert(_texts(column), marks)
    return pd.Series(values, name=column.name, dtype=values.dtype)


class _Clock:
    """Checks that times rise by equal steps from piece to piece."""

    def __init__(self, date_format: str | None) -> None:
        self.date_format = date_format
        self.last: Any = None
        self.steps: dict[str, Any] | None = None  # in all ways to count that are left

    def check(self, column: "pandas.Series", rows: int) -> None:
        """Raise ValueError unless the times go on as they began.

        Args:
            column: the times of a piece.
            rows: so many were before it.
        """
        if self.date_format is None:
            self.date_format = find_date_format(column)
        times = parse_times(column, self.date_format, rows)
        if self.last is not None:
            if getattr(times, "tz", None) != getattr(self.last, "tz", None):
                raise ValueError(f"time: expected dates of one time zone in {column.name!r}, got "
                                 f"{times[0]} in data row {rows + 1}")  # fmt: skip
            is_dates = hasattr(times, "asi8")
            times = self.last.append(times) if is_dates else np.concatenate([self.last, times])
            rows -= 1
        self.last = times[-1:]
        if len(times) < 2:
            return
        counted = ticks(times)
        if self.steps is None:
            self.steps = {kind: count[1] - count[0] for kind, count in counted.items()}
        bad = {
            kind: ~(np.abs(np.diff(counted[kind]) - step) <= 1e-3 * step)
            for kind, step in self.steps.items()
            if kind in counted
        }
        self.steps = {kind: self.steps[kind] for kind, x in bad.items() if not x.any()}
        if not any(step > 0 for step in self.steps.values()):
            row = max((int(x.argmax()) for x in bad.values()), default=0)
            raise ValueError(
                f"time: expected times in column {column.name!r} that rise by equal steps, got "
                f"{times[row]} and {times[row + 1]} in data rows {rows + row + 1} and "
                f"{rows + row + 2}; a table that is streamed is not brought in order"
            )
