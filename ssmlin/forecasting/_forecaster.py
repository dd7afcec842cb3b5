"""The recipe as one class: a series or a frame in, forecasts out."""

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssmlin import _checks
from ssmlin.data import TableStream
from ssmlin.forecasting._collection_files import is_collection
from ssmlin.forecasting._cross_validation import cross_validate, cut
from ssmlin.forecasting._files import is_forecaster, read, write
from ssmlin.forecasting._forecasts import LEVELS, Forecasts
from ssmlin.forecasting._layout import TIME
from ssmlin.forecasting._recipe import MANY_SERIES
from ssmlin.forecasting._state import fit_panel, fit_stream
from ssmlin.forecasting._tabulate import ID, TARGET, Names, tabulate, tabulate_like
from ssmlin.models import LinearAttentionSSM, ParamsLinearAttentionSSM, load_notes
from ssmlin.models import load as load_model

if TYPE_CHECKING:
    import pandas


class Forecaster(Forecasts):
    """Forecasts by a linear attention, fitted by the recommended recipe.

    The recipe transforms and scales the series, chooses lags and season by the corrected Akaike
    criterion, integrates out missing values, the row covariance Σ and the weights of the inputs,
    chooses the discount of Σ by the likelihood, and fits the rest.

    Args:
        mechanism: a name in ``ssmlin.MECHANISMS``, or an instance.
        lags: how many lagged values are inputs; "auto" chooses.
        season: steps a season, whose harmonics are inputs if the criterion wants them; "auto" by
            the times (:func:`ssmlin.forecasting.season_of`); None for none.
        transform: "auto" for values, square roots or logarithms, chosen by the likelihood; "none",
            "log", "box-cox", or a power >= 0, see :func:`ssmlin.forecasting.choose_powers`.
        pooling: "separate" for a model for each series, where one that cannot be fitted has missing
            forecasts; "shared" for one model of all series; "hierarchical" for a population of
            regressions on the series' own past, each of which deviates and drifts
            (:class:`ssmlin.models.HierarchicalRegression`), which has its own lags, season and
            mixture of transformations. "auto" is hierarchical from ten series on where the
            mechanism is `bayesian_memory`, and else shared.
        key_dim: d, except of `bayesian_memory`, whose keys are the inputs.
        difference: model changes over so many steps, 1 or the steps of a season; 0 for none.
        discounts: of Σ, to choose among.
        num_epochs: passes over the data, at most; default 2000 (stream 2, population 1000).
        seed: of all random starts and draws.
        progress: show a progress bar.
        checkpoint_dir: a folder to keep the state of the fit in; the same call goes on from there.
        freq: what a step is, such as "B", see :class:`ssmlin.data.Calendar`; default by the times.
        holidays: business days that are no steps, such as "2024-12-25".
        fill_inputs: take the last value before where an input is missing, also of a step to come.

    Attributes:
        state_: what is fitted, a :class:`ssmlin.forecasting.ForecasterState`; None before.
        model_: the fitted model, where there is one.
        params_: its parameters.

    Raises:
        ValueError: a setting out of range.

    Examples:
        >>> import numpy as np, pandas as pd, ssmlin
        >>> months = pd.date_range("2020-01-01", periods=36, freq="MS", name="month")
        >>> sales = pd.Series(10 + np.sin(np.arange(36) * np.pi / 6), months, name="sales")
        >>> forecaster = ssmlin.Forecaster().fit(sales)
        >>> frame = forecaster.predict(2, levels=(80,))
        >>> list(frame.columns), frame["month"].dt.month.tolist()
        (['month', 'mean', 'lo-80', 'hi-80'], [1, 2])
    """

    def fit(
        self,
        data: object,
        inputs: object = None,
        id_col: str | None = ID,
        time_col: str | None = TIME,
        target_col: str | Sequence[str] = TARGET,
        *,
        date_format: str | None = None,
    ) -> "Forecaster":
        """Fit to a series or several.

        Args:
            data: a Series; an array (T,) or (T, m); a wide frame, whose columns are modelled
                jointly; a long frame, with the columns `id_col`, `time_col` and `target_col`; a
                list of Series or arrays; or a path or a list of paths, see
                :class:`ssmlin.data.TableFiles`, of a long table in files. Missing values are NaN.
                The index of a Series or a wide frame holds the times, unless it only counts the
                rows or there is a column `time_col`.
            inputs: what is known before each step: names of columns of a frame; a frame, Series or
                array with the rows of the data; or for a list a list of these.
            id_col: the column that says which series a row of a long frame is of; a frame without
                it is wide. None for none.
            time_col: the column of numbers or dates. None: the rows are the steps.
            target_col: the column to predict of a long frame. A sequence of names chooses several
                columns to be modelled jointly, of a wide frame too.
            date_format: how dates are written as text, see :func:`ssmlin.data.select_columns`.

        Returns:
            The forecaster itself.

        Raises:
            ValueError: data that cannot be used; the message names the argument, column and row.

        Warns:
            RuntimeWarning: rows were brought in order, or steps are missing.
        """
        names = Names(id_col, time_col, target_col)
        table, layout = tabulate(data, inputs, names, date_format, self.calendar,
                                 fill_inputs=self.fill_inputs)  # fmt: skip
        many = layout.num_series(table, MANY_SERIES) if self.pooling != "hierarchical" else 1
        strict = not self.may_fail(many)
        self.state_ = fit_panel(self, *layout.read(table, to_fit=strict))
        return self

    def fit_stream(self, stream: TableStream, *, window: int = 2000) -> "Forecaster":
        """Fit to one long series that is read window by window, in memory that does not grow.

        The transformation and the lags are chosen on the first 20 000 rows. A step whose lags are
        missing is left out. There is no season. The series itself is not kept: :meth:`update`
        says what forecasts go on from.

        Args:
            stream: the table, not transformed.
            window: steps of a window.

        Raises:
            ValueError: a table that cannot be used, or a setting that a streamed fit cannot have.
        """
        _checks.positive_int("window", window)
        self.state_ = fit_stream(self, stream, window)
        return self

    def update(
        self, data: object, inputs: object = None, *, to_fit: bool = False,
        date_format: str | None = None,
    ) -> "Forecaster":  # fmt: skip
        """Continue from other data, such as the same series with later steps; nothing is fitted.

        A series that the fit did not know is scaled by these data, if the model is shared.

        Args:
            data: all steps of the series, of any kind that :meth:`fit` takes, with the same names.
            inputs: as there; of a frame the columns are known already.
            to_fit: refuse data that no model could be fitted to: single rows and constant columns.
            date_format: of dates as text; default as in the data that were fitted.
        """
        known = self._fitted.layout.asked(self.calendar, fill_inputs=self.fill_inputs)
        table, layout = tabulate_like(known, data, inputs, date_format)
        self.state_ = self._fitted.with_panel(*layout.read(table, to_fit=to_fit))
        return self

    def _repr_html_(self) -> str:
        state = "<p>not fitted</p>" if self.state_ is None else self.state_._repr_html_()
        return f"<code>{escape(repr(self))}</code>{state}"

    def cross_validation(
        self,
        horizon: int,
        num_windows: int,
        step: int = 1,
        *,
        levels: Sequence[float | int] = LEVELS,
        refit: bool = False,
        num_samples: int = 1000,
    ) -> "pandas.DataFrame":
        """Forecast the ends of the data from earlier cutoffs, beside what was observed.

        A forecaster with the same settings is fitted to the steps before the first cutoff. It
        forecasts from later cutoffs, too, given the steps before them. This one does not change.

        Args:
            horizon: how many steps are forecast from each cutoff.
            num_windows: how many cutoffs; the last one is `horizon` steps before the end.
            step: how many steps are between cutoffs.
            levels: as in :meth:`predict`, like `num_samples`.
            refit: fit anew at every cutoff.
            num_samples: sampled paths.

        Returns:
            The rows of :meth:`predict` for every cutoff, with its time as `cutoff` and the observed
            values as `y`.

        Raises:
            ValueError: an argument out of range, or series that are too short.
        """
        state = self._fitted
        windows = cut(state.panel, horizon, num_windows, step)
        return cross_validate(self, state.panel, state.layout, windows, horizon, levels,
                              refit=refit, num_samples=num_samples)  # fmt: skip

    def save(self, path: str | Path, notes: Mapping[str, Any] | None = None) -> None:
        """Write the fitted forecaster, with the data that it goes on from unless they lie in files.

        Args:
            path: the file, which is replaced; it holds no code, and the model can be read from it
                by :func:`ssmlin.models.load`.
            notes: further notes that JSON can hold.

        Raises:
            ValueError: nothing is fitted, or the mechanism is not registered.
            OSError: the file cannot be written.
        """
        kept = self._fitted
        write(Path(path), self, replace(kept, notes={**kept.notes, **(notes or {})}))

    @classmethod
    def load(cls, path: str | Path) -> "Forecaster":
        """Read what :meth:`save` or `ssmlin fit` wrote, see :func:`ssmlin.load`."""
        recipe, state = read(Path(path))
        forecaster = cls(**{x.name: getattr(recipe, x.name) for x in fields(recipe)})
        forecaster.state_ = state
        return forecaster


def load(
    path: str | Path,
) -> Forecaster | tuple[LinearAttentionSSM, ParamsLinearAttentionSSM, ParamsLinearAttentionSSM]:
    """Read a file of a forecaster or of a model; nothing in it is run as code.

    Args:
        path: what :meth:`ssmlin.Forecaster.save`, `ssmlin fit` or
            :meth:`ssmlin.LinearAttentionSSM.save` wrote.

    Returns:
        A fitted :class:`ssmlin.Forecaster`; or of a file of a model the model, its parameters and
        their properties, see :func:`ssmlin.models.load`, which reads both kinds of files so.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is damaged or holds something else.

    Examples:
        >>> import pathlib, tempfile, numpy as np, ssmlin
        >>> forecaster = ssmlin.Forecaster(lags=1).fit(np.sin(np.arange(30.0)))
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "forecaster.safetensors"
        >>> forecaster.save(path)
        >>> ssmlin.load(path).predict(3).equals(forecaster.predict(3))
        True
    """
    if is_collection(Path(path)) or is_forecaster(load_notes(path)):
        return Forecaster.load(path)
    return load_model(path)
