"""Series of a table in files, kept on disk in the order of the series.

The table is read once, piece by piece, into a temporary file of numbers. Where the rows of a series
do not follow one another, they are brought together there, also piece by piece: so much memory is
needed as the longest series and a few pieces take, however many series there are.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from tempfile import TemporaryFile
from threading import Lock
from typing import TYPE_CHECKING, Any
from weakref import finalize

import numpy as np
from jaxtyping import Int, Shaped

from ssmlin._optional import require
from ssmlin.data._calendar import Calendar
from ssmlin.data._columns import Columns, check_calendar
from ssmlin.data._panels import common_date_format, parse_distinct, select_panel, series_of_rows
from ssmlin.data._table_files import SeriesRows, TableFiles, naming
from ssmlin.data._times import NUMBER, Times, numbers_of_times, parse_times, times_of_numbers

if TYPE_CHECKING:
    import pandas

#: Blocks of series that are kept in memory.
_BLOCKS = 2
#: So many of the first and of the last times are kept as they came.
_SHOWN = 100


class _Records:
    """An array of records in a temporary file, which goes when the object goes.

    The file is in the folder of the variable TMPDIR, and on most systems it has no name, so that
    nothing stays of a process that is killed.
    """

    def __init__(self, dtype: np.dtype) -> None:
        self.dtype, self.count = dtype, 0
        self._file, self._lock = TemporaryFile(), Lock()  # noqa: SIM115
        finalize(self, self._file.close)

    def append(self, records: Shaped[np.ndarray, " n"]) -> None:
        """Write records at the end."""
        self.write(self.count, records)

    def write(self, place: int, records: Shaped[np.ndarray, " n"]) -> None:
        """Write records from a place on."""
        with self._lock:
            self._file.seek(place * self.dtype.itemsize)
            self._file.write(np.ascontiguousarray(records).data)
            self.count = max(self.count, place + len(records))

    def read(self, start: int, end: int) -> Shaped[np.ndarray, " n"]:
        """Some records, as an array that cannot be written to."""
        with self._lock:
            self._file.seek(start * self.dtype.itemsize)
            data = self._file.read((end - start) * self.dtype.itemsize)
        return np.frombuffer(data, self.dtype)

    def pieces(self, size: int) -> Iterator[Shaped[np.ndarray, " n"]]:
        """All records, a number at a time."""
        for start in range(0, self.count, size):
            yield self.read(start, min(start + size, self.count))


class StoredPanel(Mapping[str, Columns]):
    """Series by name, in a temporary file; a block of some of them is in memory at a time.

    Attributes:
        first_and_last_times: of the rows of the table, as they came; None without times.
        names_are_numbers: whether the names of the series are whole numbers in the table.
        date_format: how the times are written.
    """

    def __init__(
        self,
        names: Sequence[str],
        blocks: "_Blocks",
        *,
        first_and_last_times: "pandas.Series | None",
        names_are_numbers: bool,
        date_format: str | None,
    ) -> None:
        self.first_and_last_times = first_and_last_times
        self.names_are_numbers, self.date_format = names_are_numbers, date_format
        self._numbers = {name: number for number, name in enumerate(names)}
        self._blocks = blocks
        self._read: dict[int, list[Columns]] = {}
        self._lock = Lock()

    def __getitem__(self, name: str) -> Columns:
        number = self._numbers[name]
        block = int(np.searchsorted(self._blocks.firsts, number, side="right")) - 1
        with self._lock:
            if block not in self._read:
                if len(self._read) == _BLOCKS:
                    self._read.pop(next(iter(self._read)))
                self._read[block] = self._blocks.read(block)
            return self._read[block][number - self._blocks.firsts[block]]

    def __iter__(self) -> Iterator[str]:
        return iter(self._numbers)

    def __len__(self) -> int:
        return len(self._numbers)

    def __reduce__(self) -> tuple[object, ...]:
        # Copied and pickled as series in memory: another process may not have the file.
        return dict, (dict(self),)

    def __repr__(self) -> str:
        return f"{type(self).__name__} of {len(self)} series"


@dataclass
class _Blocks:
    """The steps of all series, one series after another, and where each is.

    Attributes:
        targets: the names of the targets.
        inputs: the names of the inputs.
        date_format: how the times are written.
        steps: times and values of the steps; None before the first block.
        label: what the times are, see :func:`numbers_of_times`.
        counts: steps of each series.
        calendars: what the times of each series carry.
        firsts: the number of the first series of each block.
        starts: the number of its first step.
    """

    targets: tuple[str, ...]
    inputs: tuple[str, ...]
    date_format: str | None
    steps: _Records | None = None
    label: Mapping[str, Any] = field(default_factory=dict)
    counts: list[int] = field(default_factory=list)
    calendars: list[Calendar] = field(default_factory=list)
    firsts: list[int] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)

    def append(self, panel: Mapping[str, Columns]) -> None:
        """Write a block."""
        times, labels = zip(*(numbers_of_times(one.times) for one in panel.values()), strict=True)
        if self.steps is None:
            self.label = labels[0]
            width = len(self.targets) + len(self.inputs)
            self.steps = _Records(_record(times[0].dtype, width))
        counts = [len(one) for one in times]
        records = np.empty(sum(counts), self.steps.dtype)
        records["time"] = np.concatenate(times)
        split = len(self.targets)
        records["table"][:, :split] = np.concatenate([one.values for one in panel.values()])
        records["table"][:, split:] = np.concatenate([one.inputs for one in panel.values()])
        self.firsts.append(len(self.counts))
        self.starts.append(self.steps.count)
        self.counts += counts
        known: dict[Calendar, Calendar] = {one: one for one in self.calendars[-1:]}
        found = [Calendar.of(one.times) for one in panel.values()]
        self.calendars += [known.setdefault(one, one) for one in found]
        self.steps.append(records)

    def read(self, block: int) -> list[Columns]:
        """The series of a block; those of the same times share them."""
        assert self.steps is not None
        last = block + 1 == len(self.firsts)
        numbers = range(self.firsts[block], len(self.counts) if last else self.firsts[block + 1])
        records = self.steps.read(self.starts[block],
                                  self.steps.count if last else self.starts[block + 1])  # fmt: skip
        ticks, table = np.ascontiguousarray(records["time"]), records["table"]
        known: dict[tuple[bytes, Calendar], Times] = {}
        found, end, split = [], 0, len(self.targets)
        for number in numbers:
            part = slice(end, end + self.counts[number])
            end = part.stop
            key = ticks[part].tobytes(), self.calendars[number]
            if key not in known:
                known[key] = key[1].mark(times_of_numbers(ticks[part], self.label))
            found.append(
                Columns(table[part, :split], table[part, split:], known[key], self.targets,
                        self.inputs, self.date_format)
            )  # fmt: skip
        return found


def store_panel(
    files: TableFiles,
    series: str,
    targets: Sequence[str],
    inputs: Sequence[str] = (),
    time: str | None = None,
    date_format: str | None = None,
    *,
    to_fit: bool = True,
    calendar: Calendar | None = None,
    fill_inputs: bool = False,
) -> StoredPanel:
    r"""Take several series from a table in files, as :func:`select_panel` takes them from a frame.

    They are kept in a temporary file, in the folder of the variable TMPDIR: 8 bytes for each value
    and for each time, and while they are read up to three times as much beside. Memory holds a few
    blocks of series, at least one series, and all names.

    Args:
        files: the table.
        series: as in :func:`select_panel`, like all that follow. Text files keep names as they are
            written.
        targets: likewise.
        inputs: likewise.
        time: likewise.
        date_format: likewise, but inferred from the first piece; later rows must be of it.
        to_fit: likewise.
        calendar: likewise.
        fill_inputs: likewise.

    Returns:
        A read-only mapping.

    Raises:
        ValueError: as :func:`select_panel`. The message names the file, the column and the row in
            the file; what is wrong with a series as a whole counts rows within it.
        OSError: there is no room for the temporary file.

    Examples:
        >>> import tempfile, pathlib
        >>> from ssmlin.data import TableFiles, store_panel
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "sales.csv"
        >>> _ = path.write_text("shop,y\na,1\nb,5\na,2\nb,4\nb,3\n")
        >>> panel = store_panel(TableFiles(path), "shop", ["y"])
        >>> {name: one.values[:, 0].tolist() for name, one in panel.items()}
        {'a': [1.0, 2.0], 'b': [5.0, 4.0, 3.0]}
    """
    used = [*targets, *inputs, *([] if time is None else [time])]
    if series in used or len(set(used)) < len(used) or not targets:
        raise ValueError(
            f"columns: expected at least one target, and each column once, got {[series, *used]}"
        )
    check_calendar(calendar, time)
    rows = _Rows.of(files, series, [*targets, *inputs], time, date_format)
    blocks = _Blocks(tuple(targets), tuple(inputs), rows.date_format)
    names = list(rows.codes)
    with naming(files):
        for first, last, records in rows.by_series(files.chunk_rows):
            frame = rows.frame(records, names, first, last)
            blocks.append(
                select_panel(
                    frame, series, targets, inputs, time, rows.format_of_frames, to_fit=to_fit,
                    calendar=calendar, fill_inputs=fill_inputs,
                )
            )  # fmt: skip
    return StoredPanel(
        names, blocks, first_and_last_times=rows.shown, names_are_numbers=rows.names_are_numbers,
        date_format=rows.date_format,
    )  # fmt: skip


def read_long(
    files: TableFiles,
    series: str,
    columns: Sequence[str],
    time: str | None = None,
    date_format: str | None = None,
) -> tuple["pandas.DataFrame", str | None]:
    r"""Read a long table whole, as numbers, without a text for each row.

    Args:
        files: the table.
        series: the name of the column that says which series a row is of.
        columns: the names of columns of numbers.
        time: the name of the column of times.
        date_format: how these are written, as in :func:`store_panel`.

    Returns:
        The table, in which names are categories and times are numbers or dates; and the
        `date_format` that it is to be read with.

    Raises:
        ValueError: as :func:`store_panel`, but for what is wrong with a series as a whole.

    Examples:
        >>> import tempfile, pathlib
        >>> from ssmlin.data import TableFiles
        >>> from ssmlin.data._stored_panels import read_long
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "sales.csv"
        >>> _ = path.write_text("shop,day,y\na,1.2.2024,1\na,13.2.2024,2\n")
        >>> frame, _ = read_long(TableFiles(path), "shop", ["y"], "day")
        >>> frame["day"].dt.month.tolist()
        [2, 2]
    """
    rows = _Rows.of(files, series, columns, time, date_format)
    names = list(rows.codes)
    records = rows.records.read(0, rows.records.count)
    return rows.frame(records, names, 0, len(names)), rows.format_of_frames


def _record(time: np.dtype, width: int, **before: str) -> np.dtype:
    """A time and so many numbers."""
    return np.dtype([*before.items(), ("time", time), ("table", "f8", (width,))])


class _Rows:
    """The rows of a table as numbers, in a temporary file, in the order of the table.

    Attributes:
        series: the name of the column of series.
        columns: the names of the columns of numbers.
        time: the name of the column of times.
        date_format: how these are written; None until the first piece has told it.
        codes: the number of each series, by its name, in the order of their first rows.
        records: the number of the series, the time and the other numbers of each row.
        shown: the first and last times as they came.
        names_are_numbers: whether names are whole numbers.
    """

    records: _Records

    def __init__(
        self, series: str, columns: Sequence[str], time: str | None, date_format: str | None
    ) -> None:
        self.series, self.columns = series, columns
        self.time, self.date_format = time, date_format
        self.codes: dict[str, int] = {}
        self.shown: pandas.Series | None = None
        self.names_are_numbers = True
        self._counts = np.zeros(0, np.int64)
        self._label: dict[str, Any] = {}
        self._is_in_order, self._last = True, 0

    @classmethod
    def of(
        cls,
        files: TableFiles,
        series: str,
        columns: Sequence[str],
        time: str | None,
        date_format: str | None,
    ) -> "_Rows":
        """The rows of files.

        Raises:
            ValueError: one that cannot be read, or none at all.
        """
        rows = cls(series, columns, time, date_format)
        for piece in files.pieces(columns, series, time):
            with naming(piece.path):
                rows._append(piece)
        if not rows.codes:
            raise ValueError(f"source: expected at least one row, got none in {files}")
        return rows

    @property
    def format_of_frames(self) -> str | None:
        """How times are written once they are numbers or dates."""
        return NUMBER if self.time is not None and "unit" not in self._label else None

    def _append(self, piece: SeriesRows) -> None:
        """Write some rows."""
        require("pandas")
        import pandas as pd

        own, names = series_of_rows(piece.series, piece.first)
        self.names_are_numbers &= pd.api.types.is_integer_dtype(piece.series)
        is_first = not self.codes
        codes = np.array([self.codes.setdefault(name, len(self.codes)) for name in names])[own]
        times = np.zeros(len(codes), np.int64)
        if piece.times is not None:
            times = self._times(piece.times, piece.first)
        if is_first:
            self.records = _Records(_record(times.dtype, len(self.columns), series="i8"))
        records = np.empty(len(codes), self.records.dtype)
        records["series"], records["time"], records["table"] = codes, times, piece.table
        self.records.append(records)
        steps = np.diff(codes, prepend=self._last)
        self._is_in_order &= bool((steps >= 0).all())
        self._last = int(codes[-1])
        counts = np.bincount(codes, minlength=len(self.codes))
        counts[: len(self._counts)] += self._counts
        self._counts = counts

    def _times(self, column: "pandas.Series", first: int) -> np.ndarray:
        """Times as numbers of the kind that the first ones have."""
        require("pandas")
        import pandas as pd

        is_first = self.shown is None
        if is_first and self.date_format is None:
            self.date_format = common_date_format(column)
        try:
            times = parse_distinct(column, self.date_format)
        except ValueError:
            times = parse_times(column, self.date_format, first)  # which names the row
        ticks, label = numbers_of_times(times)
        if is_first:
            self._label = label
        elif label.keys() == self._label.keys() and label.get("zone") == self._label.get("zone"):
            if label != self._label:  # of another resolution
                ticks = times.as_unit(self._label["unit"]).asi8  # type: ignore[union-attr]
        else:
            raise ValueError(
                f"time: expected times like the first ones in column {self.time!r}, "
                f"{_kind(self._label)}, got {_kind(label)} from data row {first + 1} on"
            )
        self.shown = column if self.shown is None else pd.concat([self.shown, column])
        if len(self.shown) > 2 * _SHOWN:
            self.shown = pd.concat([self.shown[:_SHOWN], self.shown[-_SHOWN:]])
        return ticks

    def by_series(self, size: int) -> Iterator[tuple[int, int, Shaped[np.ndarray, " n"]]]:
        """The rows of some series at a time: the first one, the one after the last, their rows.

        Args:
            size: rows at a time, at most, unless one series has more.
        """
        ends = np.cumsum(self._counts)
        firsts = [0]
        while firsts[-1] < len(ends):
            begin = ends[firsts[-1]] - self._counts[firsts[-1]]
            fitting = int(np.searchsorted(ends, begin + size, side="right"))
            firsts.append(max(firsts[-1] + 1, fitting))
        starts = (ends - self._counts)[firsts[:-1]]
        if not self._is_in_order:
            self.records = _brought_together(self.records, np.array(firsts), starts, size)
        for first, last, start in zip(firsts[:-1], firsts[1:], starts.tolist(), strict=True):
            yield first, last, self.records.read(start, int(ends[last - 1]))

    def frame(
        self, records: Shaped[np.ndarray, " n"], names: Sequence[str], first: int, last: int
    ) -> "pandas.DataFrame":
        """Rows as a table; the names of the series are not repeated in it.

        Args:
            records: the rows.
            names: of all series.
            first: the number of the first of these.
            last: of the one after the last.
        """
        require("pandas")
        import pandas as pd

        made: dict[str, Any] = {
            self.series: pd.Categorical.from_codes(records["series"] - first, names[first:last])
        }
        if self.time is not None:
            ticks = np.ascontiguousarray(records["time"])
            made[self.time] = times_of_numbers(ticks, self._label)
        made |= {name: records["table"][:, place] for place, name in enumerate(self.columns)}
        return pd.DataFrame(made)


def _brought_together(
    records: _Records, firsts: Int[np.ndarray, " n"], starts: Int[np.ndarray, " m"], size: int
) -> _Records:
    """The same rows, those of each block of series together and in the order that they had.

    Args:
        records: the rows.
        firsts: the number of the first series of each block, and of all series.
        starts: where each block begins.
        size: rows at a time.
    """
    found, places = _Records(records.dtype), starts.copy()
    for piece in records.pieces(size):
        ordered = piece[np.argsort(piece["series"], kind="stable")]
        cuts = np.searchsorted(ordered["series"], firsts)
        for block in np.flatnonzero(np.diff(cuts)):
            part = ordered[cuts[block] : cuts[block + 1]]
            found.write(int(places[block]), part)
            places[block] += len(part)
    return found


def _kind(label: Mapping[str, Any]) -> str:
    """What times are, for a message."""
    if "unit" not in label:
        return "numbers"
    return f"dates of {label['zone'] or 'no time zone'}"
