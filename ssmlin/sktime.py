"""The forecaster for sktime: its pipelines, tuning and evaluation."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ssmlin._optional import require
from ssmlin.forecasting import DISCOUNTS, Forecaster, SeriesForecast
from ssmlin.mechanisms import Mechanism

require("sktime")

import pandas as pd  # noqa: E402
from sktime.datatypes import update_data  # noqa: E402
from sktime.forecasting.base import BaseForecaster, ForecastingHorizon  # noqa: E402

if TYPE_CHECKING:
    from skpro.distributions import Empirical

__all__ = ["LinearAttentionForecaster"]


class LinearAttentionForecaster(BaseForecaster):  # type: ignore[misc]
    """A :class:`ssmlin.Forecaster` as a forecaster of sktime.

    Several columns of one series are modelled jointly; of panels and hierarchies sktime fits each
    series by itself. Missing values of y are NaN. `predict` gives the mean; quantiles, intervals,
    variances and distributions are those of the sampled paths. `update` continues from the new
    values, and fits anew unless `update_params=False`.

    Where X is given to `fit`, `predict` needs its rows of all steps up to the last of the horizon,
    those that are not asked for included. Only steps after the data are forecast.

    Args:
        mechanism: as in :class:`ssmlin.Forecaster`, which says what these settings mean.
        lags: likewise.
        season: likewise.
        transform: likewise.
        key_dim: likewise.
        difference: likewise.
        discounts: likewise.
        num_epochs: likewise.
        num_samples: sampled paths.
        seed: of the fit and the paths.
        freq: what a step is.
        holidays: business days that are no steps.
        fill_inputs: take the last row before where one of X is missing.

    Attributes:
        forecaster_: the fitted :class:`ssmlin.Forecaster`.

    Raises:
        ValueError: when it is fitted, a setting out of range or data that cannot be used.

    Example:
        >>> import numpy as np, pandas as pd
        >>> from ssmlin.sktime import LinearAttentionForecaster
        >>> months = pd.period_range("2020-01", periods=36, freq="M")
        >>> sales = pd.Series(10 + np.sin(np.arange(36) * np.pi / 6), months, name="sales")
        >>> forecaster = LinearAttentionForecaster(lags=1).fit(sales, fh=[1, 2])
        >>> forecaster.predict().index.astype(str).tolist()
        ['2023-01', '2023-02']
        >>> forecaster.predict_interval(coverage=0.8).columns.tolist()
        [('sales', 0.8, 'lower'), ('sales', 0.8, 'upper')]
    """

    _tags = {
        "authors": "The ssmlin authors",
        "python_dependencies": "ssmlin",
        "y_inner_mtype": "pd.DataFrame",
        "X_inner_mtype": "pd.DataFrame",
        "requires-fh-in-fit": False,
        "capability:multivariate": True,
        "capability:exogenous": True,
        "capability:categorical_in_X": False,
        "capability:non_contiguous_X": False,
        "capability:missing_values": True,
        "capability:insample": False,
        "capability:pred_int": True,
        "capability:pred_int:insample": False,
        "capability:update": True,
    }

    def __init__(
        self,
        mechanism: str | Mechanism = "bayesian_memory",
        lags: int | str = "auto",
        season: int | str | None = "auto",
        transform: str | float | int = "auto",
        key_dim: int = 4,
        difference: int = 0,
        discounts: Sequence[float] = DISCOUNTS,
        num_epochs: int | None = None,
        num_samples: int = 1000,
        seed: int = 0,
        freq: str | None = None,
        holidays: Sequence[str] = (),
        fill_inputs: bool = False,
    ) -> None:
        # Kept as they are, so that sktime can copy and tune them; the fit checks them.
        self.mechanism = mechanism
        self.lags = lags
        self.season = season
        self.transform = transform
        self.key_dim = key_dim
        self.difference = difference
        self.discounts = discounts
        self.num_epochs = num_epochs
        self.num_samples = num_samples
        self.seed = seed
        self.freq = freq
        self.holidays = holidays
        self.fill_inputs = fill_inputs
        super().__init__()

    def _fit(
        self, y: pd.DataFrame, X: pd.DataFrame | None, fh: ForecastingHorizon | None
    ) -> "LinearAttentionForecaster":
        settings = self.get_params(deep=False)
        del settings["num_samples"]
        self.forecaster_ = Forecaster(**settings).fit(y, _of_X(X), id_col=None)
        self._seen = y, X
        return self

    def _update(
        self, y: pd.DataFrame, X: pd.DataFrame | None = None, update_params: bool = True
    ) -> "LinearAttentionForecaster":
        values, inputs = self._seen
        values = update_data(values, y)
        inputs = inputs if X is None else update_data(inputs, X)
        if update_params:
            return self._fit(values, inputs, self._fh)
        self.forecaster_.update(values, _of_X(inputs))
        self._seen = values, inputs
        return self

    def _predict(self, fh: ForecastingHorizon, X: pd.DataFrame | None) -> pd.DataFrame:
        steps, found = self._ahead(fh, X)
        return self._frame(fh, found.means[steps])

    def _predict_quantiles(
        self, fh: ForecastingHorizon, X: pd.DataFrame | None, alpha: list[float]
    ) -> pd.DataFrame:
        steps, found = self._ahead(fh, X)
        quantiles = np.quantile(found.paths[:, steps], alpha, axis=0)  # (alpha, H, m)
        columns = pd.MultiIndex.from_product([self._get_varnames(), alpha])
        return self._frame(fh, _side_by_side(quantiles), columns)

    def _predict_var(
        self, fh: ForecastingHorizon, X: pd.DataFrame | None = None, cov: bool = False
    ) -> pd.DataFrame:
        steps, found = self._ahead(fh, X)
        paths = found.paths[:, steps]
        if not cov:
            return self._frame(fh, paths.var(axis=0, ddof=1))
        off = paths - paths.mean(axis=0)
        between = np.einsum("nsi,nti->tsi", off, off) / (len(off) - 1)  # (H, H, m)
        columns = pd.MultiIndex.from_product([self._get_varnames(), self._index(fh)])
        return self._frame(fh, _side_by_side(between), columns)

    def _predict_proba(
        self, fh: ForecastingHorizon, X: pd.DataFrame | None, marginal: bool = True
    ) -> "Empirical":
        from skpro.distributions import Empirical

        steps, found = self._ahead(fh, X)
        index, columns = self._index(fh), self._get_varnames()
        draws = pd.MultiIndex.from_product([range(len(found.paths)), index])
        paths = found.paths[:, steps].reshape(len(draws), -1)
        return Empirical(pd.DataFrame(paths, draws, columns), time_indep=marginal,
                         index=index, columns=columns)  # fmt: skip

    def _ahead(
        self, fh: ForecastingHorizon, X: pd.DataFrame | None
    ) -> tuple[np.ndarray, SeriesForecast]:
        """The places of the steps that are asked for in a forecast that reaches to the last."""
        ahead = fh.to_relative(self.cutoff).to_numpy().astype(int)
        horizon = int(ahead.max())
        if X is not None:
            every = ForecastingHorizon(range(1, horizon + 1), freq=self._cutoff)
            X = X.reindex(self._index(every))
        (found,) = self.forecaster_.forecasts(
            horizon, levels=(), future_inputs=_of_X(X), num_samples=self.num_samples
        )
        return ahead - 1, found

    def _index(self, fh: ForecastingHorizon) -> pd.Index:
        """The times of a horizon."""
        return fh.to_absolute_index(self.cutoff)

    def _frame(
        self, fh: ForecastingHorizon, values: np.ndarray, columns: Any = None
    ) -> pd.DataFrame:
        """A row for each step of the horizon, by default with the columns of y."""
        columns = self._get_varnames() if columns is None else columns
        return pd.DataFrame(values, self._index(fh), columns)

    @classmethod
    def get_test_params(cls, parameter_set: str = "default") -> list[dict[str, Any]]:
        """Settings that are fitted in little time, for the tests of sktime."""
        quick = {"lags": 1, "season": None, "transform": "none", "discounts": (1.0,),
                 "num_epochs": 2, "num_samples": 50}  # fmt: skip
        return [quick, quick | {"fill_inputs": True, "seed": 1}]


def _of_X(X: pd.DataFrame | None) -> pd.DataFrame | None:
    """Columns named such that y may have columns of the same names."""
    return None if X is None else X.rename(columns=lambda name: f"X[{name!r}]")


def _side_by_side(values: np.ndarray) -> np.ndarray:
    """(k, H, m) as (H, m k): the k of each of the m columns beside one another."""
    return np.moveaxis(values, 0, 2).reshape(values.shape[1], -1)
