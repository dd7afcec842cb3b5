"""Where in a table everything is, and how names and times come back in the results."""

from collections.abc import Hashable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ssmlin._optional import require
from ssmlin.data import (
    Calendar,
    Columns,
    TableFiles,
    Times,
    free_name,
    is_dates,
    label_format,
    select_columns,
    select_panel,
    store_panel,
    written_as,
)

if TYPE_CHECKING:
    import pandas

#: The name of the column of times of data without times.
TIME = "ds"


@dataclass(frozen=True)
class Layout:
    """Where in a table the targets, inputs, times and series are.

    Args:
        targets: names of the columns to predict.
        inputs: names of the columns that are known before each step.
        time: name of the column of times; None where the rows are the steps.
        series: name of the column that says which series a row is of, or None.
        date_format: how dates are written as text, see :func:`ssmlin.data.select_columns`.
        is_whole: whether the times are whole numbers, which come back as integers.
        period: the pandas frequency of times that came as periods.
        labels: targets and series whose names are not text, by their text.
        calendar: what a step is and which days are none.
        fill_inputs: whether inputs that are missing take their last values before.
        label_form: how times that came as text or as digits are written, see
            :func:`ssmlin.data.label_format`.
    """

    targets: tuple[str, ...]
    inputs: tuple[str, ...] = ()
    time: str | None = None
    series: str | None = None
    date_format: str | None = None
    is_whole: bool = False
    period: str | None = None
    labels: Mapping[str, Hashable] = field(default_factory=dict)
    calendar: Calendar = field(default_factory=Calendar)
    fill_inputs: bool = False
    label_form: str | None = None

    def read(
        self, table: "pandas.DataFrame | TableFiles", *, to_fit: bool
    ) -> tuple[Mapping[str, Columns], "Layout"]:
        """The series of a table by name, "" where there is one; and what the table says of itself.

        Returns:
            The series, of a table in files in a temporary file; and this layout with how dates are
            written, and with what a step is.

        Raises:
            ValueError: what :func:`ssmlin.data.select_columns` refuses.
        """
        panel: Mapping[str, Columns]
        options: dict[str, Any] = {
            "to_fit": to_fit, "calendar": self.calendar, "fill_inputs": self.fill_inputs,
        }  # fmt: skip
        where = (self.targets, self.inputs, self.time, self.date_format)
        if isinstance(table, TableFiles):
            assert self.series is not None
            panel = stored = store_panel(table, self.series, *where, **options)
            times, layout = stored.first_and_last_times, self
            if times is not None:
                layout = replace(layout, **as_they_came(times.dtype))
            if stored.names_are_numbers:
                layout = replace(layout, labels={**self.labels, **{x: int(x) for x in panel}})
        else:
            if self.series is None:
                panel = {"": select_columns(table, *where, **options)}
            else:
                panel = select_panel(table, self.series, *where, **options)
            times, layout = None if self.time is None else table[self.time], self
        if times is None:
            return panel, layout
        calendar = self.calendar
        if calendar.freq is None:
            calendars = (Calendar.of(one.times) for one in panel.values())
            first = next(calendars)
            calendar = first if all(one == first for one in calendars) else calendar
        date_format = next(iter(panel.values())).date_format
        form = label_format(times, date_format, self.label_form)
        return panel, replace(layout, date_format=date_format, calendar=calendar, label_form=form)

    def asked(self, calendar: Calendar, *, fill_inputs: bool) -> "Layout":
        """The layout with what is said of the steps, if anything is, and of missing inputs."""
        calendar = self.calendar if calendar.freq is None else calendar
        return replace(self, calendar=calendar, fill_inputs=fill_inputs)

    def num_series(self, table: "pandas.DataFrame | TableFiles", enough: int) -> int:
        """How many series are in a table, or that there are enough.

        What is wrong with it :meth:`read` tells.
        """
        if isinstance(table, TableFiles):
            return table.num_series(str(self.series), enough)
        return 1 if self.series not in table else int(table[self.series].nunique())

    def label(self, name: str) -> Hashable:
        """The name of a target or a series as the caller has it."""
        return self.labels.get(name, name)

    def times(self, times: Times) -> Any:
        """Times as the caller has them: text as text, periods as periods, integers as integers."""
        if is_dates(times):
            if self.period is not None:
                return times.to_period(self.period)
            if self.label_form is None:
                return times
            require("pandas")
            import pandas as pd

            texts = pd.Index(written_as(times, self.label_form))
            return texts.astype(np.int64) if self.is_whole else texts
        return np.round(np.asarray(times)).astype(np.int64) if self.is_whole else times

    def free(self, name: str) -> str:
        """One of our own names for a column, changed if the caller has it already."""
        return free_name(name, (self.series, self.time))

    @property
    def time_name(self) -> str:
        """The name of the column of times in results."""
        return self.free(TIME) if self.time is None else self.time

    def to_dict(self) -> dict[str, Any]:
        """What JSON can hold; names that it cannot hold become text."""
        kept = {k: x for k, x in self.labels.items() if isinstance(x, int | str)}
        return asdict(self) | {"labels": kept}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Layout":
        """The inverse of :meth:`to_dict`."""
        tuples: dict[str, Any] = {
            k: tuple(x) if isinstance(x, list) else x for k, x in data.items()
        }
        if "calendar" in tuples:
            tuples["calendar"] = Calendar(**tuples["calendar"])
        return cls(**tuples)


def as_they_came(times: Any) -> dict[str, Any]:
    """What a layout keeps of the type of a column of times."""
    require("pandas")
    import pandas as pd

    period = None
    if isinstance(times, pd.PeriodDtype):
        period = times.name.removeprefix("period[")[:-1]
    return {"is_whole": pd.api.types.is_integer_dtype(times), "period": period}
