"""Lagged values of a series, as inputs of a regression and as what forecasts start from."""

import numpy as np
from jaxtyping import Float

from ssmlin.data import lagged
from ssmlin.forecasting._interface import Ahead, Observed, Values


def lags_and_inputs(observed: Observed, num_lags: int) -> Float[np.ndarray, "T p"]:
    """Lagged values, the latest first, and exogenous inputs: as :func:`ssmlin.lagged_inputs`.

    The lags of a missing value are missing, too.
    """
    steps, m = observed.values.shape
    lags = lagged(observed.values, num_lags)[:-1].reshape(steps, num_lags * m)
    return np.concatenate([lags, observed.inputs], axis=1)


def known_lags(observed: Observed, num_lags: int, who: str) -> Observed:
    """The series, or ValueError if a value is missing that is a lag of a later step."""
    missing = np.isnan(observed.values[:-1]).any(axis=1)
    if num_lags and missing.any():
        raise ValueError(
            f"values: expected lags that are known for {who}, got a missing value at step "
            f"{int(missing.argmax()) + 1}"
        )
    return observed


def last_values(values: Values, ahead: Ahead, num_lags: int) -> Float[np.ndarray, "N lags m"]:
    """The values before each origin, the latest first; zero where there are none."""
    last: Float[np.ndarray, "N lags m"] = lagged(values, num_lags)[ahead.origins]
    return last
