"""Collections from long frames: which series can be compared, and how long their seasons are."""

import re
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from ssmlin import _checks
from ssmlin.comparison.collections._collection import Collection, CollectionSeries
from ssmlin.data import (
    Calendar,
    Columns,
    TableFiles,
    read_long,
    select_panel,
    series_ids,
    series_of_rows,
)
from ssmlin.forecasting import season_of

if TYPE_CHECKING:
    import pandas

#: Observed values that a training part needs: their change is what scores are scaled by.
_LEAST_TRAIN = 2
#: Series that a warning names.
_NAMED = 5


def hold_out_frame(
    frame: "pandas.DataFrame | TableFiles",
    horizon: int,
    period: int | None = None,
    *,
    name: str = "collection",
    id_col: str = "unique_id",
    time_col: str | None = "ds",
    target_col: str = "y",
    group_col: str | None = None,
    date_format: str | None = None,
    calendar: Calendar | None = None,
) -> Collection:
    """A collection from a long frame, whose last steps are held out.

    A series is left out if it has no more than `horizon` steps, fewer than two observed values
    before them, or none among them.

    Args:
        frame: a row for each series and step, in any order. Steps that are missing from the grid of
            the times are missing values. Files are read in pieces; the series are held in memory.
        horizon: how many steps at the end of each series are held out and forecast.
        period: steps per season, 1 for none; default by the times (:func:`season_of`), what most
            series of a group have.
        name: of the collection.
        id_col: the column that says which series a row is of.
        time_col: the column of numbers or dates; None: the rows are the steps.
        target_col: the column of values.
        group_col: the column of groups, of which the first row of a series counts; None for one
            group.
        date_format: how dates are written as text, see :func:`ssmlin.data.select_columns`.
        calendar: what a step is; default by the times.

    Returns:
        The collection.

    Raises:
        ValueError: a column that is missing or cannot be read, or no series that is long enough.

    Warns:
        RuntimeWarning: series that are left out, steps that are missing, or rows out of order.

    Examples:
        >>> import pandas as pd
        >>> from ssmlin.comparison.collections import hold_out_frame
        >>> months = pd.date_range("2024-01-01", periods=9, freq="MS")
        >>> frame = pd.DataFrame({"unique_id": "a", "ds": months, "y": range(9)})
        >>> (one,) = hold_out_frame(frame, horizon=2)
        >>> one.name, one.period, len(one.train)
        ('a', 12, 7)
    """
    _checks.positive_int("horizon", horizon)
    if period is not None:
        _checks.positive_int("period", period)
    if isinstance(frame, TableFiles):
        if group_col is not None:
            raise ValueError(f"group_col: expected none with files, got {group_col!r}")
        frame, date_format = read_long(frame, id_col, [target_col], time_col, date_format)
    frame = frame.rename(columns=str)
    if group_col is not None and group_col not in frame.columns:
        raise ValueError(f"frame: expected a column {group_col!r}, got {list(frame.columns)}")
    whole, empty = _without_empty(frame, id_col, target_col)
    with _each_warning_once():
        panel = select_panel(
            whole, id_col, [target_col], (), time_col, date_format, to_fit=False, calendar=calendar
        )  # fmt: skip
    kept = {key: one for key, one in panel.items() if _is_long_enough(one, horizon)}
    if not kept:
        raise ValueError(
            f"horizon: expected at least one series with {_LEAST_TRAIN} values before its last "
            f"{horizon} steps and one among them, got none among {len(panel) + len(empty)}"
        )
    _warn_of(
        [key for key in (*panel, *empty) if key not in kept], len(panel) + len(empty),
        f"series: expected more than {horizon} steps, {_LEAST_TRAIN} values before the last "
        f"{horizon} and one among them; left out",
    )  # fmt: skip
    groups = dict.fromkeys(kept, "all")
    if group_col is not None:
        rows = zip(series_ids(whole[id_col]), whole[group_col].astype(str), strict=True)
        groups = {key: group for key, group in reversed(list(rows)) if key in kept}
    periods = dict.fromkeys(groups.values(), period) if period else _periods(kept, groups)
    return Collection(
        name,
        tuple(
            CollectionSeries(
                key, one.values[:-horizon, 0], one.values[-horizon:, 0], periods[groups[key]],
                horizon, groups[key],
            )
            for key, one in kept.items()
        ),
    )  # fmt: skip


def _without_empty(
    frame: "pandas.DataFrame", id_col: str, target_col: str
) -> tuple["pandas.DataFrame", list[str]]:
    """The rows of the series that have a value, and the names of the others."""
    if list(frame.columns).count(id_col) != 1 or list(frame.columns).count(target_col) != 1:
        return frame, []  # what is wrong is told when the columns are read
    codes, names = series_of_rows(frame[id_col])
    has_values = np.zeros(len(names), bool)
    has_values[codes[frame[target_col].notna().to_numpy(bool)]] = True
    if has_values.all() or not has_values.any():
        return frame, []
    return frame[has_values[codes]], [names[i] for i in np.flatnonzero(~has_values)]


def _is_long_enough(one: Columns, horizon: int) -> bool:
    """Whether models can be fitted to a series and scored."""
    seen = np.isfinite(one.values[:, 0])
    train, test = seen[:-horizon], seen[-horizon:]
    return bool(train.sum() >= _LEAST_TRAIN and test.any())


def _periods(kept: Mapping[str, Columns], groups: Mapping[str, str]) -> dict[str, int]:
    """For each group the steps per season that most of its series have by their times."""
    found = {key: season_of(one.times) or 1 for key, one in kept.items()}
    counts: dict[str, Counter[int]] = {}
    for key, period in found.items():
        counts.setdefault(groups[key], Counter())[period] += 1
    chosen = {group: count.most_common(1)[0][0] for group, count in counts.items()}
    _warn_of(
        [key for key, period in found.items() if period != chosen[groups[key]]], len(kept),
        "period: by their times these series have another season than most, which is taken for "
        "all",
    )  # fmt: skip
    return chosen


def _warn_of(names: Sequence[str], count: int, what: str) -> None:
    """Warn of some series, the first ones by name."""
    if names:
        more = ", ..." if len(names) > _NAMED else ""
        warnings.warn(
            f"{what}: {len(names)} of {count} series, {', '.join(names[:_NAMED])}{more}",
            RuntimeWarning,
            3,
        )


@contextmanager
def _each_warning_once() -> Iterator[None]:
    """Tell warnings that differ in numbers alone once, and how many there were."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    first: dict[str, warnings.WarningMessage] = {}
    kinds = [re.sub(r"\d+", "", str(one.message)) for one in caught]
    for kind, one in zip(kinds, caught, strict=True):
        first.setdefault(kind, one)
    for kind, one in first.items():
        more = kinds.count(kind) - 1
        said = f"{one.message}; {more} more series likewise" if more else str(one.message)
        warnings.warn(said, one.category, 4)
