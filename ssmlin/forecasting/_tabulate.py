"""The caller's data, of any kind that a forecaster takes, as one table."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ssmlin._optional import require
from ssmlin.data import Calendar, TableFiles
from ssmlin.forecasting._layout import TIME, Layout, as_they_came

if TYPE_CHECKING:
    import pandas

#: What the columns of series and targets are called unless the caller gives other names.
ID, TARGET = "unique_id", "y"


class Names(NamedTuple):
    """Which names of columns the caller gave.

    Attributes:
        series: of the column of series, None for none.
        time: of the column of times, None for none.
        targets: one name, or several for columns that are modelled jointly.
    """

    series: str | None = ID
    time: str | None = TIME
    targets: str | Sequence[str] = TARGET


def tabulate(
    data: object,
    inputs: object = None,
    names: Names | None = None,
    date_format: str | None = None,
    calendar: Calendar | None = None,
    *,
    fill_inputs: bool = False,
) -> tuple["pandas.DataFrame | TableFiles", Layout]:
    """Any data that a forecaster takes as one table.

    Args:
        data: a Series, a frame, an array, or a list of Series or arrays; or files.
        inputs: names of columns of a frame; or a frame or an array with the rows of the data, or a
            list of these.
        names: of the columns.
        date_format: how dates are written as text.
        calendar: what a step is; default what the index of the data says.
        fill_inputs: whether inputs that are missing take their last values before.

    Returns:
        The table, whose columns are named by text, and where in it everything is.

    Raises:
        ValueError: data of another kind, or rows that do not match.
    """
    require("pandas")
    import pandas as pd

    names = Names() if names is None else names
    if TableFiles.are_meant(data):
        return _files_table(data, inputs, names, Layout(
            (), date_format=date_format, calendar=calendar or Calendar(), fill_inputs=fill_inputs
        ))  # fmt: skip
    if is_several(data):
        table, place = _list_table(data, inputs, names)
    else:
        table, place = _one_table(data, inputs, names)
    labels = {str(x): x for x in place.targets if not isinstance(x, str)}
    if place.series in table and pd.api.types.is_integer_dtype(table[place.series]):
        labels |= {str(x): int(x) for x in table[place.series].unique()}
    times = table[place.time].dtype if place.time in table else None
    layout = Layout(
        tuple(map(str, place.targets)),
        tuple(map(str, place.inputs)),
        None if place.time is None else str(place.time),
        None if place.series is None else str(place.series),
        date_format,
        labels=labels,
        calendar=calendar or Calendar(),
        fill_inputs=fill_inputs,
        **as_they_came(times),
    )
    if layout.calendar.freq is None and place.time not in getattr(data, "columns", ()):
        layout = replace(layout, calendar=Calendar.of(getattr(data, "index", None)))
    return table.rename(columns=str), layout


def tabulate_like(
    known: Layout, data: object, inputs: object = None, date_format: str | None = None
) -> tuple["pandas.DataFrame | TableFiles", Layout]:
    """Later data as a table, with the targets and inputs that are known.

    Args:
        known: the layout of the data that were fitted.
        data: as in :func:`tabulate`.
        inputs: likewise; default the columns of a frame that are known.
        date_format: how dates are written as text; default as they were.

    Returns:
        The table, and where in it everything is.

    Raises:
        ValueError: data without times where the others had some or the reverse, one series in the
            place of several or the reverse, or other inputs.
    """
    require("pandas")
    import pandas as pd

    if inputs is None and (isinstance(data, pd.DataFrame) or TableFiles.are_meant(data)):
        inputs = known.inputs or None
    names = Names(known.series, known.time, known.targets)
    written = date_format or known.date_format
    table, layout = tabulate(
        data, inputs, names, written, known.calendar, fill_inputs=known.fill_inputs
    )
    for what, one, other in (("times", known.time, layout.time),
                             ("several series", known.series, layout.series)):  # fmt: skip
        if (one is None) != (other is None):
            having, got = ("without", "with") if one is None else ("with", "without")
            raise ValueError(
                f"data: expected them {having} {what}, like those of the fit, got them {got}"
            )
    if layout.inputs != known.inputs:
        raise ValueError(
            f"inputs: expected {', '.join(known.inputs) or 'none'}, as in the fit, got "
            f"{', '.join(layout.inputs) or 'none'}"
        )
    labels = {**known.labels, **layout.labels}
    return table, replace(layout, labels=labels, label_form=known.label_form)


def _files_table(data: Any, inputs: Any, names: Names, layout: Layout) -> tuple[TableFiles, Layout]:
    """A long table in files; the layout with its names."""
    if names.series is None:
        raise ValueError(
            "id_col: expected the column that says which series a row of the files is of, got "
            "None; ssmlin.data.read_table reads a file of one series"
        )
    chosen = [inputs] if isinstance(inputs, str) else list([] if inputs is None else inputs)
    if not all(isinstance(one, str) for one in chosen):
        raise ValueError(
            f"inputs: expected names of columns of the files, got {type(inputs).__name__}"
        )
    targets = (names.targets,) if isinstance(names.targets, str) else tuple(names.targets)
    return TableFiles.of(data), replace(
        layout, targets=targets, inputs=tuple(chosen), time=names.time, series=names.series
    )


def is_several(data: object) -> bool:
    """Whether this is a list of series and not one series of numbers."""
    return (
        isinstance(data, Sequence)
        and not isinstance(data, str)
        and len(data) > 0
        and any(np.ndim(one) > 0 for one in data)
    )


class _Place(NamedTuple):
    """Where in a table everything is, by the caller's labels."""

    targets: tuple[Any, ...]
    inputs: tuple[Any, ...]
    time: Any
    series: Any = None


def _list_table(data: Any, inputs: Any, names: Names) -> tuple["pandas.DataFrame", _Place]:
    """The table of a list of series."""
    require("pandas")
    import pandas as pd

    given = [getattr(one, "name", None) for one in data]
    ids = given if None not in given and len(set(given)) == len(given) else range(len(data))
    outside = [None] * len(data) if inputs is None else inputs
    if not isinstance(outside, Sequence) or len(outside) != len(data):
        raise ValueError(
            f"inputs: expected a list of {len(data)} frames or arrays, one for each series, got "
            f"{type(inputs).__name__}"
        )
    series = ID if names.series is None else names.series
    tables, places = [], []
    for label, one, beside in zip(ids, data, outside, strict=True):
        if isinstance(one, pd.DataFrame):
            raise ValueError(
                "data: expected Series or arrays in the list, got a DataFrame; several series of "
                "several columns are a long frame"
            )
        if isinstance(one, pd.Series):
            one = one.rename(_target(names))
        table, place = _one_table(one, beside, names)
        table.insert(0, series, label)
        tables.append(table)
        places.append(place)
    if len(set(places)) > 1:
        raise ValueError(
            "data: expected a list of series of the same kind, all with times or none, got "
            f"{places[0]} and {next(one for one in places if one != places[0])}"
        )
    return pd.concat(tables, ignore_index=True), places[0]._replace(series=series)


def _target(names: Names) -> str:
    return names.targets if isinstance(names.targets, str) else names.targets[0]


def _one_table(data: Any, inputs: Any, names: Names) -> tuple["pandas.DataFrame", _Place]:
    """The table of one series, or of a frame."""
    require("pandas")
    import pandas as pd

    if isinstance(data, pd.DataFrame):
        return _frame_table(data, inputs, names)
    if isinstance(data, pd.Series):
        is_named = data.name is not None and isinstance(names.targets, str)
        target = data.name if is_named else _target(names)
        frame = data.to_frame(target)
        targets: tuple[Any, ...] = (target,)
    else:
        values = _array("data", data)
        targets = (_target(names),)
        if values.shape[1] != 1:
            targets = tuple(f"{_target(names)}{i + 1}" for i in range(values.shape[1]))
        if not isinstance(names.targets, str):
            targets = tuple(names.targets)
        if len(targets) != values.shape[1]:
            raise ValueError(f"data: expected {len(targets)} columns, one for each target, got "
                             f"{values.shape[1]}")  # fmt: skip
        frame = pd.DataFrame(values, columns=list(targets))
    frame, time = _with_time(frame, names.time)
    frame, chosen = _with_inputs(frame, data, inputs)
    return frame, _Place(targets, chosen, time)


def _frame_table(
    data: "pandas.DataFrame", inputs: Any, names: Names
) -> tuple["pandas.DataFrame", _Place]:
    """The table of a long or a wide frame."""
    frame = data
    is_long = names.series is not None and (names.series != ID or ID in frame.columns)
    series = names.series if is_long else None
    time: Any = names.time
    if time not in frame.columns and (time == TIME or not counts_rows(frame.index)):
        frame, time = _with_time(frame, time)
    frame, chosen = _with_inputs(frame, data, inputs)
    if not isinstance(names.targets, str):
        targets: tuple[Any, ...] = tuple(names.targets)
    elif is_long or names.targets != TARGET:
        targets = (names.targets,)
    else:
        targets = tuple(name for name in frame.columns if name not in (time, *chosen))
    return frame, _Place(targets, chosen, time, series)


def _with_time(frame: "pandas.DataFrame", name: str | None) -> tuple["pandas.DataFrame", Any]:
    """The index as a column of times; an index that only counts the rows is none."""
    require("pandas")
    import pandas as pd

    index = frame.index
    if isinstance(index, pd.MultiIndex):
        raise ValueError("data: expected an index of one level, got one of "
                         f"{index.nlevels}; a long frame has columns instead")  # fmt: skip
    if name is None or counts_rows(index):
        return frame.reset_index(drop=True), None
    label = name if index.name is None else index.name
    if label in frame.columns:
        raise ValueError(
            f"data: expected another name of the index than of a column, got {label!r}"
        )
    return frame.rename_axis(index=label).reset_index(), label


def counts_rows(index: "pandas.Index") -> bool:
    """Whether an index only counts the rows."""
    require("pandas")
    import pandas as pd

    is_range = isinstance(index, pd.RangeIndex) and index.start == 0 and index.step == 1
    return is_range and index.name is None


def _with_inputs(
    frame: "pandas.DataFrame", data: Any, inputs: Any
) -> tuple["pandas.DataFrame", tuple[Any, ...]]:
    """The table with its inputs, and their names."""
    require("pandas")
    import pandas as pd

    if inputs is None:
        return frame, ()
    if isinstance(inputs, str):
        return frame, (inputs,)
    if isinstance(inputs, Sequence) and all(isinstance(x, str) for x in inputs):
        return frame, tuple(inputs)
    outside = as_inputs(inputs)
    if len(outside) != len(frame):
        raise ValueError(f"inputs: expected {len(frame)} rows, as the data have, got "
                         f"{len(outside)}")  # fmt: skip
    labelled = isinstance(inputs, pd.Series | pd.DataFrame)
    if (
        labelled
        and isinstance(data, pd.Series | pd.DataFrame)
        and not (inputs.index.equals(data.index))
    ):
        bad = next(i for i, (a, b) in enumerate(zip(inputs.index, data.index, strict=True))
                   if a != b)  # fmt: skip
        raise ValueError(f"inputs: expected the index of the data, got {inputs.index[bad]} in row "
                         f"{bad + 1} in the place of {data.index[bad]}")  # fmt: skip
    twice = [name for name in outside.columns if name in frame.columns]
    if twice:
        raise ValueError(f"inputs: expected other names than those of the data, got {twice[0]!r}")
    joined = pd.concat([frame, outside.set_index(frame.index)], axis=1)
    return joined, tuple(outside.columns)


def as_inputs(inputs: Any, names: Sequence[str] = ()) -> "pandas.DataFrame":
    """Inputs as a table, whose columns are named if they have no names.

    Args:
        inputs: a frame, a Series or an array.
        names: of the columns of an array.
    """
    require("pandas")
    import pandas as pd

    if isinstance(inputs, pd.DataFrame):
        return inputs
    if isinstance(inputs, pd.Series):
        return inputs.to_frame("x1" if inputs.name is None else inputs.name)
    values = _array("inputs", inputs)
    names = list(names) or [f"x{i + 1}" for i in range(values.shape[1])]
    if len(names) != values.shape[1]:
        raise ValueError(f"future_inputs: expected {len(names)} columns, {', '.join(names)}; got "
                         f"{values.shape[1]}")  # fmt: skip
    return pd.DataFrame(values, columns=names)


def _array(name: str, data: Any) -> np.ndarray:
    """An array of shape (T, m)."""
    try:
        values = np.asarray(data)
        values = values.astype(float) if values.dtype.kind in "biu" else values
        if values.dtype.kind not in "fO" or values.ndim not in (1, 2) or 0 in values.shape:
            raise ValueError(f"got {values.dtype} of shape {values.shape}")
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{name}: expected a pandas Series or frame, an array of shape (T,) or (T, m), or a "
            f"list of series, got {type(data).__name__} ({error})"
        ) from error
    return values.reshape(len(values), -1)
