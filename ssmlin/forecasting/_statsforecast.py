"""A forecaster with the methods of statsforecast, for code that is written for it."""

from collections.abc import Sequence
from dataclasses import fields
from typing import TYPE_CHECKING

from ssmlin.forecasting._cross_validation import cross_validate, cut
from ssmlin.forecasting._forecaster import Forecaster
from ssmlin.forecasting._layout import TIME
from ssmlin.forecasting._tabulate import ID, TARGET, Names, tabulate

if TYPE_CHECKING:
    import pandas


class StatsForecastInterface:
    """A :class:`ssmlin.Forecaster` under the method and argument names of statsforecast.

    Long frames in and out: the columns `unique_id`, `ds` and `y`, or those that are named, and
    beside them the inputs. A forecast has the columns `unique_id`, `ds`, the name of the model and,
    for each level, `<name>-lo-95` and `<name>-hi-95`. What is not here, such as `n_jobs` and
    `fitted`, has no counterpart.

    Args:
        forecaster: the settings; default the recommended ones. It is not fitted itself.
        alias: the name of the model in the results.

    Examples:
        >>> import numpy as np, pandas as pd
        >>> from ssmlin import Forecaster
        >>> from ssmlin.forecasting import StatsForecastInterface
        >>> months = pd.date_range("2021-01-01", periods=30, freq="MS")
        >>> sales = pd.DataFrame({"unique_id": "a", "ds": months, "y": np.sin(np.arange(30.0))})
        >>> sf = StatsForecastInterface(Forecaster(lags=1))
        >>> list(sf.forecast(df=sales, h=2, level=[80]).columns)
        ['unique_id', 'ds', 'ssmlin', 'ssmlin-lo-80', 'ssmlin-hi-80']
    """

    def __init__(self, forecaster: Forecaster | None = None, alias: str = "ssmlin") -> None:
        given = Forecaster() if forecaster is None else forecaster
        self.forecaster = Forecaster(**{x.name: getattr(given, x.name) for x in fields(given)})
        self.alias = alias

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.forecaster!r}, alias={self.alias!r})"

    def fit(
        self, df: "pandas.DataFrame", id_col: str = ID, time_col: str = TIME,
        target_col: str = TARGET,
    ) -> "StatsForecastInterface":  # fmt: skip
        """Fit to the series of a long frame; columns beside the three are inputs.

        Args:
            df: a row for each series and step.
            id_col: the column of the series.
            time_col: the column of the times.
            target_col: the column to predict.

        Returns:
            The object itself; ValueError for data that cannot be used.
        """
        inputs = [x for x in df.columns if x not in (id_col, time_col, target_col)] or None
        self.forecaster.fit(df, inputs, id_col, time_col, target_col)
        return self

    def predict(
        self, h: int, X_df: "pandas.DataFrame | None" = None, level: Sequence[float | int] = ()
    ) -> "pandas.DataFrame":
        """Forecast the steps after the data.

        Args:
            h: how many steps.
            X_df: the inputs of the steps to come, with the columns of the series and the times.
            level: percentages of the central intervals, in [1, 100).

        Returns:
            A row for each series and step; ValueError if nothing is fitted, or for an argument out
            of range.
        """
        return self._named(self.forecaster.predict(h, level or (), X_df))

    def forecast(
        self,
        h: int,
        df: "pandas.DataFrame",
        X_df: "pandas.DataFrame | None" = None,
        level: Sequence[float | int] = (),
        id_col: str = ID,
        time_col: str = TIME,
        target_col: str = TARGET,
    ) -> "pandas.DataFrame":
        """Fit and predict; arguments and result are theirs."""
        return self.fit(df, id_col, time_col, target_col).predict(h, X_df, level)

    def cross_validation(
        self,
        h: int,
        df: "pandas.DataFrame",
        n_windows: int = 1,
        step_size: int = 1,
        level: Sequence[float | int] = (),
        refit: bool = True,
        id_col: str = ID,
        time_col: str = TIME,
        target_col: str = TARGET,
    ) -> "pandas.DataFrame":
        """Forecast the ends of the series from earlier cutoffs, beside what was observed.

        Args:
            h: how many steps are forecast from each cutoff.
            df: as in :meth:`fit`, like the names of its columns.
            n_windows: how many cutoffs; the last one is `h` steps before the end.
            step_size: how many steps are between cutoffs.
            level: as in :meth:`predict`.
            refit: fit anew at every cutoff, or at the first alone.
            id_col: as in :meth:`fit`.
            time_col: likewise.
            target_col: likewise.

        Returns:
            The rows of :meth:`predict` for every series and cutoff, with the columns `cutoff` and
            `y`; ValueError for an argument out of range, or series that are too short.
        """
        inputs = [x for x in df.columns if x not in (id_col, time_col, target_col)] or None
        table, layout = tabulate(df, inputs, Names(id_col, time_col, target_col))
        panel, layout = layout.read(table, to_fit=False)
        windows = cut(panel, h, n_windows, step_size)
        found = cross_validate(
            self.forecaster, panel, layout, windows, h, level or (), refit=refit, num_samples=1000
        )
        return self._named(found.rename(columns={"y": target_col}))

    def _named(self, frame: "pandas.DataFrame") -> "pandas.DataFrame":
        """Means and intervals by the name of the model, and the rows in order."""
        by = [x for x in (frame.columns[0], "cutoff", frame.columns[1]) if x in frame.columns]
        frame = frame.sort_values(by, ignore_index=True)
        ours = [x for x in frame.columns if x == "mean" or str(x).startswith(("lo-", "hi-"))]
        return frame.rename(columns={x: f"{self.alias}-{x}".removesuffix("-mean") for x in ours})
