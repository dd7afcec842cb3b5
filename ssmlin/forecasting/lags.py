"""Lagged values of a series, as inputs of a regression and as what forecasts start from."""

import numpy as np
from jaxtyping import Float

from ssmlin.forecasting.interface import Ahead, Observed, Values


def lags_and_inputs(observed: Observed, num_lags: int) -> Float[np.ndarray, "T p"]:
    """Lagged values, the latest first, and exogenous inputs: as :func:`ssmlin.lagged_inputs`.

    The lags of a missing value are missing, too.
    """
    steps = len(observed.values)
    known = _from_zeros(observed.values, num_lags)
    lags = [known[num_lags - lag : num_lags - lag + steps] for lag in range(1, num_lags + 1)]
    return np.concatenate([*lags, observed.inputs], axis=1)


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
    known = _from_zeros(values, num_lags)
    return known[ahead.origins[:, None] + num_lags - 1 - np.arange(num_lags)]


def _from_zeros(values: Values, num_lags: int) -> Float[np.ndarray, "steps m"]:
    """Zeros, then the values."""
    return np.concatenate([np.zeros((num_lags, values.shape[1])), values])
