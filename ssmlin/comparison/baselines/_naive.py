"""The last value, and the last season."""

import numpy as np
from jaxtyping import Float

from ssmlin.comparison._candidate import Setting
from ssmlin.comparison.baselines._baseline import Baseline, SharedRegression
from ssmlin.comparison.baselines._paths import simulate_autoregression
from ssmlin.forecasting import (
    Ahead,
    Fitted,
    Observed,
    Predictive,
    draw_lags,
    exact_predictions,
    last_values,
    moments_of,
)
from ssmlin.models import Autoregression, Predictions


def fit_naive(train: Observed, seed: int, *, period: int = 1) -> Fitted:
    """Predict the value one period before, with Gaussian changes; period 1 is a random walk.

    A missing value adds another change: the value two periods before, with twice the variance.

    Args:
        train: the training series.
        seed: not used, since nothing is random here.
        period: steps per season.

    Returns:
        The fitted forecaster.

    Raises:
        ValueError: too few periods to estimate the covariance of the changes.
    """
    del seed
    values = train.values
    changes = values[period:] - values[:-period]
    changes = changes[np.isfinite(changes).all(axis=1)]
    if len(changes) <= values.shape[1]:
        raise ValueError(
            f"period: expected several periods of training steps, got {period} with {len(values)} "
            f"steps, which leave {len(changes)} changes"
        )
    covariance = changes.T @ changes / len(changes)
    m = values.shape[1]
    walk, moments = Autoregression(np.eye(m), np.zeros(m), covariance), moments_of(values)

    def exact_laws(observed: Observed) -> Predictions:
        """The laws of all steps: the steps at each place in the period are a random walk."""
        steps = len(observed.values)
        of_places = [
            exact_predictions(walk, _at_place(observed, place, period), 1, moments)
            for place in range(period)
        ]
        return Predictions(
            *(_interleaved(list(parts), steps) for parts in zip(*of_places, strict=True))
        )

    def predict(observed: Observed) -> Predictive:
        if np.isnan(observed.values).any():
            laws = exact_laws(observed)
            return Predictive.gaussian(laws.means, laws.covariances)
        before = last_values(observed.values, Ahead(np.arange(len(observed.values)), 1), period)
        return Predictive.gaussian(before[:, -1], covariance)

    def simulate(observed: Observed, ahead: Ahead) -> Float[np.ndarray, "N n H m"]:
        # An autoregression on the value one period before.
        weights = np.concatenate([np.zeros((m, m * (period - 1))), np.eye(m)], axis=1)
        lags = last_values(observed.values, ahead, period)[:, None]
        if np.isnan(observed.values).any():
            laws = exact_laws(observed)
            places = [
                draw_lags(
                    laws, ahead._replace(origins=ahead.origins - back, seed=ahead.seed + back), 1, m
                )
                for back in range(period)
            ]
            lags = np.concatenate(places, axis=2)
        return simulate_autoregression(
            weights, np.zeros(m), covariance, lags, Observed.of(observed.values), ahead
        )

    return Fitted(predict, m * (m + 1) // 2, simulate)


def _at_place(observed: Observed, place: int, period: int) -> Observed:
    """The steps at one place in the period; missing ones are added so that all are as long."""
    values = observed.values[place::period]
    length = -(-len(observed.values) // period)
    extra = np.full((length - len(values), values.shape[1]), np.nan)
    return Observed.of(np.concatenate([values, extra]))


def _interleaved(
    parts: list[Float[np.ndarray, "periods ..."]], steps: int
) -> Float[np.ndarray, "steps ..."]:
    """Arrays of every place in the period as one array of all steps."""
    return np.stack(parts, axis=1).reshape(-1, *parts[0].shape[1:])[:steps]


def _last_season(shared: SharedRegression) -> tuple[Setting, ...]:
    """Without a period there is no seasonal model."""
    return () if shared.period is None else ({"period": shared.period},)


BASELINES = (
    Baseline("persistence", fit_naive),
    Baseline("seasonal_naive", fit_naive, _last_season),
)
