"""Autoregressions of a series: by least squares, and exact where values are missing."""

import numpy as np
from jaxtyping import Float, Int

from ssmlin.forecasting._interface import Ahead, Observed, Values
from ssmlin.forecasting._lags import lags_and_inputs
from ssmlin.models import (
    Autoregression,
    Predictions,
    estimate_autoregression,
    predict_autoregression,
)


def least_squares(
    train: Observed, num_lags: int, start: int | None = None
) -> tuple[Float[np.ndarray, "k m"], Float[np.ndarray, "n m"]]:
    """Coefficients and residuals of a vector autoregression with inputs and intercept.

    Args:
        train: the series; steps with missing values, their own or lagged ones, are left out.
        num_lags: the order.
        start: the first step that is fitted; those before serve as lags only. Default `num_lags`.

    Returns:
        Coefficients (m·num_lags + k + 1, m), the intercept last, and residuals (n, m).

    Raises:
        ValueError: fewer steps than coefficients.
    """
    start = num_lags if start is None else start
    design = np.column_stack([lags_and_inputs(train, num_lags), np.ones(len(train.values))])[start:]
    usable = usable_steps(train.values, num_lags, start)
    design, target = design[usable - start], train.values[usable]
    if len(target) <= design.shape[1]:
        raise ValueError(
            f"num_lags: expected fewer coefficients than the {len(target)} training steps, got "
            f"{design.shape[1]} for {num_lags} lags"
        )
    coefficients, *_ = np.linalg.lstsq(design, target, rcond=None)
    return coefficients, target - design @ coefficients


def usable_steps(values: Values, num_lags: int, start: int) -> Int[np.ndarray, " n"]:
    """Steps from `start` on that are observed, as are those that lags reach."""
    missing = np.isnan(values).any(axis=1)
    if len(missing) <= num_lags:
        return np.zeros(0, int)
    windows = np.lib.stride_tricks.sliding_window_view(missing, num_lags + 1)
    steps = np.flatnonzero(~windows.any(axis=1)) + num_lags
    return steps[steps >= start]


def exact_deviance(observed: Observed, order: int, num_lags: int) -> tuple[int, float]:
    """The observed steps after the first, and -2 times their mean exact log density."""
    parameters = estimate_autoregression(
        observed.values[None], observed.inputs[None], num_lags, order=order, max_iterations=50
    )
    laws = exact_predictions(parameters, observed, num_lags, moments_of(observed.values))
    y, seen = observed.values[num_lags:], ~np.isnan(observed.values[num_lags:])
    counted = seen.any(axis=1)
    both = seen[:, :, None] & seen[:, None, :]
    cov = np.where(both, laws.covariances[num_lags:], np.eye(y.shape[1]))
    error = np.where(seen, y - laws.means[num_lags:], 0.0)
    squares = np.einsum("ti,ti->t", error, np.linalg.solve(cov, error[..., None])[..., 0])
    terms = squares + np.linalg.slogdet(cov)[1] + seen.sum(axis=1) * np.log(2 * np.pi)
    return int(counted.sum()), float(terms[counted].mean())


Moments = tuple[Float[np.ndarray, " m"], Float[np.ndarray, " m"]]


def moments_of(values: Values) -> Moments:
    """Means and variances of the columns, which values before the first known lags have."""
    return np.nanmean(values, axis=0), np.maximum(np.nanvar(values, axis=0), 1e-12)


def exact_predictions(
    parameters: Autoregression, observed: Observed, num_lags: int, moments: Moments
) -> Predictions:
    """The laws of all values, what is missing integrated out; moments are of the training part."""
    return predict_autoregression(parameters, observed.values, observed.inputs, num_lags, *moments)


def draw_lags(
    laws: Predictions, ahead: Ahead, num_lags: int, m: int
) -> Float[np.ndarray, "N n num_lags m"]:
    """Draws of the values before each origin, the latest first."""
    width = num_lags * m
    last = np.maximum(ahead.origins - 1, 0)
    there = ahead.origins > 0  # before the first value are zeros
    means = laws.lag_means[last, :width] * there[:, None]
    covariances = laws.lag_covariances[last][:, :width, :width] * there[:, None, None]
    values, vectors = np.linalg.eigh(covariances)
    roots = vectors * np.sqrt(np.maximum(values, 0.0))[:, None, :]
    rng = np.random.default_rng([ahead.seed, 1])
    normal = rng.normal(size=(len(means), ahead.num_samples, width))
    drawn: np.ndarray = means[:, None] + np.einsum("sij,snj->sni", roots, normal)
    return drawn.reshape(len(means), ahead.num_samples, num_lags, m)
