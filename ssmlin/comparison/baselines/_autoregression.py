"""The vector autoregression by least squares."""

import numpy as np
from jaxtyping import Float

from ssmlin.comparison.baselines._baseline import Baseline, SharedRegression, regression
from ssmlin.comparison.baselines._paths import simulate_autoregression
from ssmlin.forecasting import (
    Ahead,
    Fitted,
    Observed,
    Predictive,
    draw_lags,
    exact_predictions,
    lags_and_inputs,
    last_values,
    least_squares,
    moments_of,
)
from ssmlin.models import Autoregression, estimate_autoregression


def residual_covariance(
    coefficients: Float[np.ndarray, "k m"], residuals: Float[np.ndarray, "n m"]
) -> Float[np.ndarray, "m m"]:
    """The covariance of residuals, divided by the degrees of freedom left, n − k."""
    covariance: np.ndarray = residuals.T @ residuals / (len(residuals) - len(coefficients))
    return covariance


def fit_autoregression(train: Observed, seed: int, *, num_lags: int) -> Fitted:
    """Fit a vector autoregression with inputs and an intercept by least squares.

    The predictive laws are Gaussian with the estimates plugged in. Where values are missing the
    fit is by maximum likelihood and predictions are exact: what is missing is integrated out.

    Args:
        train: the training series.
        seed: not used, since nothing is random here.
        num_lags: the order.

    Returns:
        The fitted forecaster.

    Raises:
        ValueError: fewer steps than coefficients.
    """
    del seed
    m = train.values.shape[1]
    if np.isnan(train.values).any():
        parameters = estimate_autoregression(train.values[None], train.inputs[None], num_lags)
    else:
        coefficients, residuals = least_squares(train, num_lags)
        covariance = residual_covariance(coefficients, residuals)
        parameters = Autoregression(coefficients[:-1].T, coefficients[-1], covariance)
    weights, bias, covariance = (np.asarray(x) for x in parameters)
    moments = moments_of(train.values)

    def predict(observed: Observed) -> Predictive:
        if np.isnan(observed.values).any():
            laws = exact_predictions(parameters, observed, num_lags, moments)
            return Predictive.gaussian(laws.means, laws.covariances)
        means = lags_and_inputs(observed, num_lags) @ weights.T + bias
        return Predictive.gaussian(means, covariance)

    def simulate(observed: Observed, ahead: Ahead) -> Float[np.ndarray, "N n H m"]:
        lags = last_values(observed.values, ahead, num_lags)[:, None]
        if np.isnan(observed.values).any():
            laws = exact_predictions(parameters, observed, num_lags, moments)
            lags = draw_lags(laws, ahead, num_lags, m)
        return simulate_autoregression(weights, bias, covariance, lags, observed, ahead)

    return Fitted(predict, weights.size + m + m * (m + 1) // 2, simulate)


BASELINES = (
    Baseline("autoregression", regression(fit_autoregression), SharedRegression.grid),
)  # fmt: skip
