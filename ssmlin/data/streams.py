"""Long tables, read a piece at a time."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float

from ssmlin._progress import progress_bar
from ssmlin.data.columns import numbers, parse_times
from ssmlin.data.scaling import Scaling
from ssmlin.data.tables import read_chunks

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
    when it is met.

    Args:
        path: the file.
        targets: names of the columns to predict; empty cells are missing.
        inputs: names of columns that are known before each step.
        time: name of a column of numbers or dates, which must rise by equal steps.
        log: take logarithms of the targets.
        chunk_rows: rows in memory at a time.
        progress: show a progress bar for the first pass.

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
        log: bool = False,
        chunk_rows: int = 50_000,
        progress: bool = False,
    ) -> None:
        self.path, self.time, self.log = Path(path), time, log
        self.targets, self.inputs = tuple(targets), tuple(inputs)
        self.chunk_rows, self.progress = chunk_rows, progress
        if not self.targets:
            raise ValueError("targets: expected at least one column, got none")

    def pieces(self) -> Iterator[Piece]:
        """Values and inputs in the file's units, the logarithm taken if it is asked for."""
        chosen = [*self.targets, *self.inputs, *([] if self.time is None else [self.time])]
        rows, clock = 0, _Clock(self.time)
        for frame in read_chunks(self.path, chosen, self.chunk_rows):
            if self.time is not None:
                clock.check(frame, rows)
            values = np.column_stack([numbers(frame[name], rows) for name in self.targets])
            outside = np.zeros((len(frame), len(self.inputs)))
            for i, name in enumerate(self.inputs):
                outside[:, i] = numbers(frame[name], rows)
            if np.isnan(outside).any():
                row, column = (int(x[0]) for x in np.nonzero(np.isnan(outside)))
                raise ValueError(
                    f"inputs: expected no missing values in column {self.inputs[column]!r}, got "
                    f"one in data row {rows + row + 1}"
                )
            if self.log:
                if (values <= 0).any():
                    row, column = (int(x[0]) for x in np.nonzero(values <= 0))
                    raise ValueError(
                        f"log: expected positive values in column {self.targets[column]!r}, got "
                        f"{values[row, column]} at step {rows + row + 1}"
                    )
                values = np.log(values)
            rows += len(frame)
            yield values, outside

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
            self.log,
        )
        return Summary(rows, int(count[:m].sum()), scaling, partly)

    def windows(self, size: int, num_lags: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Consecutive standardised windows for a model with lags, in single precision.

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
        rest_y, rest_u = np.zeros((0, m)), np.zeros((0, num_lags * m + k))
        is_first = True
        for values, outside in self.pieces():
            y = (values - mean) / scale
            known = _carried(np.concatenate([last, y]))[1:]
            last = known[-1:]
            known = np.concatenate([before, known])
            lags = [known[num_lags - lag : len(known) - lag] for lag in range(1, num_lags + 1)]
            u = np.concatenate([*lags, scaling.apply_inputs(outside)], axis=1)
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


class _Clock:
    """Checks that times rise by equal steps from piece to piece."""

    def __init__(self, name: str | None) -> None:
        self.name, self.last, self.step = name, None, None  # type: ignore[var-annotated]

    def check(self, frame: "pandas.DataFrame", rows: int) -> None:
        """Raise ValueError unless the times go on as they began."""
        times: Any = np.asarray(parse_times(frame[self.name]))
        if self.last is not None:
            times = np.concatenate([[self.last], times])
            rows -= 1
        steps = np.diff(times)
        if len(steps):
            self.step = steps[0] if self.step is None else self.step
            bad = np.abs(steps / self.step - 1) > 1e-3
            if not steps[0] > np.zeros(1, steps.dtype)[0] or bad.any():
                row = int(bad.argmax())
                raise ValueError(
                    f"time: expected times in column {self.name!r} that rise by equal steps, got "
                    f"{times[row]} and {times[row + 1]} in data rows {rows + row + 1} and "
                    f"{rows + row + 2}; a table that is streamed is not brought in order"
                )
        self.last = times[-1]
