"""Tables that are longer than memory, read in pieces."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Float

from ssmlin._progress import progress_bar
from ssmlin.data._grids import TOLERANCE, ticks
from ssmlin.data._lags import carried_forward, lagged
from ssmlin.data._scaling import Scaling, transformed
from ssmlin.data._table_files import as_in_a_table, read_numbers
from ssmlin.data._tables import ENCODING, file_marks
from ssmlin.data._texts import Marks
from ssmlin.data._times import NUMBER, Times, find_date_format, is_dates, parse_times

if TYPE_CHECKING:
    import pandas


class Piece(NamedTuple):
    """Some rows of a table.

    Attributes:
        values: the targets, (n, m); NaN means missing.
        inputs: (n, k).
    """

    values: Float[np.ndarray, "n m"]
    inputs: Float[np.ndarray, "n k"]


class Window(NamedTuple):
    """Some steps of a scaled series, with the lags as inputs, in single precision.

    Attributes:
        emissions: (W, m); NaN means missing.
        inputs: the lags, the latest first, and then the inputs, (W, num_lags·m + k).
    """

    emissions: Float[np.ndarray, "W m"]
    inputs: Float[np.ndarray, "W p"]


class Summary(NamedTuple):
    """The result of a first pass over a table.

    Attributes:
        num_rows: the number of rows.
        num_values: the number of values of the targets that are not missing.
        scaling: means and standard deviations of all columns.
        num_partly: the number of rows with some of the targets, but not all.
    """

    num_rows: int
    num_values: int
    scaling: Scaling
    num_partly: int


class TableStream:
    r"""Columns of a CSV, TSV or Parquet file of any length, read a number of rows at a time.

    Rows are steps and must be in order. Data that :func:`ssmlin.data.select_columns` refuses are
    refused when they are reached. How numbers are written is inferred from the first 100 000 rows,
    and how dates are written from the first piece. Later rows that are written otherwise are
    refused.

    Args:
        path: the file.
        targets: the names of the columns to predict; empty cells are missing.
        inputs: the names of columns that are known before each step.
        time: the name of a column of numbers or dates, which must increase by equal steps.
        power: λ of each target, see :class:`ssmlin.data.Scaling`; default 1.
        chunk_rows: the number of rows in memory at a time.
        progress: whether to show a progress bar for the first pass.
        encoding: the encoding of a text file.
        decimal: the decimal mark in text, see :func:`ssmlin.data.read_table`.
        thousands: the mark that separates thousands in text.
        date_format: as in :func:`ssmlin.data.select_columns`.

    Attributes:
        date_format: the given format, or the inferred one once the table has been read.

    Raises:
        ValueError: a file of another format or one that cannot be read, or a column that does not
            exist.

    Examples:
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
        """Read the table: transformed values and inputs, `chunk_rows` rows at a time."""
        columns = [*self.targets, *self.inputs]
        clock, marks = _Clock(self.date_format), self._marks
        for rows, table, beside in read_numbers(
            self.path, columns, [] if self.time is None else [self.time], self.chunk_rows,
            encoding=self.encoding, marks=marks,
        ):  # fmt: skip
            if self.time is not None:
                times = beside[self.time]
                if clock.date_format in (None, NUMBER):
                    times = as_in_a_table(times, marks[self.time])
                clock.check(times, rows)
                self.date_format = clock.date_format
            values, outside = np.split(table, [len(self.targets)], axis=1)
            if np.isnan(outside).any():
                row, column = (int(x[0]) for x in np.nonzero(np.isnan(outside)))
                raise ValueError(
                    f"inputs: expected no missing values in column {self.inputs[column]!r}, got "
                    f"one in data row {rows + row + 1}"
                )
            yield Piece(transformed(values, self.power, self.targets, rows + 1), outside)

    @cached_property
    def _marks(self) -> dict[str, Marks | None]:
        """How numbers are written in each column, as far as the first rows tell."""
        return file_marks(self.path, self.encoding, self.decimal, self.thousands)

    @cached_property
    def summary(self) -> Summary:
        """Means, standard deviations and counts, by a pass over the whole table.

        Raises:
            ValueError: a column that cannot be used (the message names it and the row), or fewer
                than two rows.
        """
        width = len(self.targets) + len(self.inputs)
        count, mean, square = np.zeros(width), np.zeros(width), np.zeros(width)
        rows = partly = 0
        with progress_bar(self.progress) as bar:
            task = bar.add_task("read", total=None, note="")
            for piece in self.pieces():
                table = np.concatenate(piece, axis=1)
                # The moments of two parts are merged, after Chan, Golub and LeVeque (1983).
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

    def windows(self, size: int, num_lags: int) -> Iterator[Window]:
        """Yield consecutive windows of the scaled series, for a model with lags.

        The first `num_lags` steps serve as lags only, so their values are set to missing. A step
        with a missing lag is not fitted either: its values are set to missing, and its lag is the
        last value that was observed.

        Args:
            size: the number W of steps in a window. The last window is filled up with missing
                values and inputs of zero.
            num_lags: the number of lagged values among the inputs.

        Yields:
            The windows.
        """
        scaling = self.summary.scaling
        mean, scale = np.array(scaling.mean), np.array(scaling.scale)
        m, k = len(self.targets), len(self.inputs)
        before, gaps, last = np.zeros((num_lags, m)), np.zeros((num_lags, 1), bool), np.zeros(m)
        rest_y, rest_u = np.zeros((0, m)), np.zeros((0, num_lags * m + k))
        is_first = True
        for values, outside in self.pieces():
            y = (values - mean) / scale
            is_missing = np.isnan(y).any(axis=1, keepdims=True)
            known = carried_forward(y, last)
            lags, unknown_lags = lagged(known, num_lags, before), lagged(is_missing, num_lags, gaps)
            # The lags of the step to come, the oldest first, are what the next piece begins with.
            before, gaps, last = lags[-1, ::-1], unknown_lags[-1, ::-1], known[-1]
            lags = lags[:-1].reshape(len(y), num_lags * m)
            u = np.concatenate([lags, scaling.apply_inputs(outside)], axis=1)
            y[unknown_lags[:-1].any(axis=(1, 2))] = np.nan
            if is_first:
                y[:num_lags], is_first = np.nan, False
            rest_y, rest_u = np.concatenate([rest_y, y]), np.concatenate([rest_u, u])
            whole = len(rest_y) // size * size
            for i in range(0, whole, size):
                part = slice(i, i + size)
                yield Window(rest_y[part].astype(np.float32), rest_u[part].astype(np.float32))
            rest_y, rest_u = rest_y[whole:], rest_u[whole:]
        if len(rest_y):
            extra = ((0, size - len(rest_y)), (0, 0))
            yield Window(
                np.pad(rest_y, extra, constant_values=np.nan).astype(np.float32),
                np.pad(rest_u, extra).astype(np.float32),
            )


class _Clock:
    """Checks that times increase by equal steps, also from one piece to the next.

    Args:
        date_format: how the times are written; by default it is inferred from the first piece.
    """

    def __init__(self, date_format: str | None) -> None:
        self.date_format = date_format
        self.last: Times | None = None
        self.steps: dict[str, float] | None = None  # by the kind of ticks, if equal so far

    def check(self, column: "pandas.Series", rows: int) -> None:
        """Raise ValueError unless the times continue by the same step.

        Args:
            column: the times of a piece.
            rows: the number of rows before the piece.
        """
        if self.date_format is None:
            self.date_format = find_date_format(column)
        times = parse_times(column, self.date_format, rows)
        if self.last is not None:
            if getattr(times, "tz", None) != getattr(self.last, "tz", None):
                raise ValueError(f"time: expected dates of one time zone in {column.name!r}, got "
                                 f"{times[0]} in data row {rows + 1}")  # fmt: skip
            if is_dates(self.last):
                times = self.last.append(times)
            else:
                times = np.concatenate([self.last, times])
            rows -= 1
        self.last = times[-1:]
        if len(times) < 2:
            return
        counted = ticks(times)
        if self.steps is None:
            self.steps = {kind: float(count[1] - count[0]) for kind, count in counted.items()}
        bad = {
            kind: ~(np.abs(np.diff(counted[kind]) - step) <= TOLERANCE * step)
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
