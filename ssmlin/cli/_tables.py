"""The tables that `ssmlin forecast` writes, a part at a time."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import batched
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ssmlin._optional import require
from ssmlin.data import free_name

if TYPE_CHECKING:
    import pandas

    from ssmlin.forecasting import Layout, SeriesForecast

#: Series whose rows are written at once.
_SERIES = 256


def write_forecasts(
    forecasts: Iterable["SeriesForecast"], layout: "Layout", output: Path, paths: Path | None
) -> "Iterator[pandas.DataFrame]":
    """Write the files of a forecast as it is made, CSV or, by their endings, Parquet.

    Args:
        forecasts: of the series, one after another.
        layout: the user's names.
        output: the file of the means and intervals.
        paths: the file of the sampled paths, if any.

    Yields:
        The rows of `output`, a part at a time; nothing else is kept.
    """
    with _written(output) as write, _written(paths) as write_paths:
        for some in batched(forecasts, _SERIES):
            table = forecast_file(some, layout)
            write(table)
            if paths is not None:
                for one in some:
                    write_paths(paths_file([one], layout))
            yield table


@contextmanager
def _written(path: Path | None) -> Iterator[Any]:
    """A function that writes a table at the end of a file."""
    if path is not None and path.suffix == ".parquet":
        import pyarrow as pa  # type: ignore[import-untyped]  # has no types
        import pyarrow.parquet as pq  # type: ignore[import-untyped]

        writer: Any = None

        def write(table: "pandas.DataFrame") -> None:
            nonlocal writer
            rows = pa.Table.from_pandas(table, preserve_index=False)
            writer = writer or pq.ParquetWriter(path, rows.schema)
            writer.write_table(rows)

        try:
            yield write
        finally:
            if writer is not None:
                writer.close()
    else:
        # By its name, which says how it is compressed, if it is.
        def append(table: "pandas.DataFrame") -> None:
            assert path is not None
            table.to_csv(path, index=False, mode="a", header=not path.exists())

        yield append


def forecast_file(forecasts: Sequence["SeriesForecast"], layout: "Layout") -> "pandas.DataFrame":
    """A row for each series, target and step, with the mean and the ends of the intervals.

    The user's columns keep their names; ours give way.
    """
    keys = (layout.series, layout.time)
    parts = []
    for one in forecasts:
        for i, target in enumerate(one.targets):
            table: dict[str, Any] = {}
            if layout.series is not None:
                table[layout.series] = np.full(len(one.means), one.name, object)
            table |= {
                _time_name(layout): _labels(one, layout),
                free_name("column", keys): np.full(len(one.means), target, object),
                free_name("mean", keys): one.means[:, i],
            }
            for level, low, high in zip(one.levels, one.lower, one.upper, strict=True):
                table[free_name(f"lower_{level:g}", keys)] = low[:, i]
                table[free_name(f"upper_{level:g}", keys)] = high[:, i]
            parts.append(table)
    return _joined(parts)


def paths_file(forecasts: Sequence["SeriesForecast"], layout: "Layout") -> "pandas.DataFrame":
    """A row for each series, path and step, with a column for each target."""
    parts = []
    for one in forecasts:
        path, step = (index.ravel() for index in np.indices(one.paths.shape[:2]))
        table: dict[str, Any] = {}
        if layout.series is not None:
            table[layout.series] = np.full(len(path), one.name, object)
        table[free_name("path", (layout.series, layout.time, *one.targets))] = path
        table[_time_name(layout, one.targets)] = _labels(one, layout)[step]
        table |= {name: one.paths[:, :, i].ravel() for i, name in enumerate(one.targets)}
        parts.append(table)
    return _joined(parts)


def _joined(parts: Sequence[dict[str, Any]]) -> "pandas.DataFrame":
    """Tables one below another; a frame of each would take longer than the forecasts of many."""
    require("pandas")
    import pandas as pd

    def column(name: str) -> Any:
        first, *others = (part[name] for part in parts)
        if isinstance(first, np.ndarray):
            return np.concatenate([first, *others])
        return first.append(others)

    return pd.DataFrame({name: column(name) for name in parts[0]})


def _labels(forecast: "SeriesForecast", layout: "Layout") -> Any:
    """The times as the user writes them; steps that are counted need no more than that."""
    return forecast.times if layout.time is None else layout.times(forecast.times)


def _time_name(layout: "Layout", taken: Sequence[str] = ()) -> str:
    """The user's column of times, or one of our own that counts the steps."""
    if layout.time is not None:
        return layout.time
    return free_name("step", (layout.series, *taken))
