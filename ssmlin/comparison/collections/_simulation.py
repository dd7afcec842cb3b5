"""Quantiles of a fitted model of prepared differences, by paths that are fed back."""

import numpy as np
from jaxtyping import Float

from ssmlin.comparison.collections._collection import CollectionSeries
from ssmlin.comparison.collections._preparation import Prepared
from ssmlin.comparison.collections._quantiles import path_quantiles
from ssmlin.forecasting import Ahead, Fitted, Observed

_NUM_PATHS = 1000


def simulated_quantiles(
    fitted: Fitted, prepared: Prepared, one: CollectionSeries, seed: int
) -> Float[np.ndarray, "H K"]:
    """Quantiles of a series from 1000 sampled paths of its differences.

    Args:
        fitted: the model of the differences.
        prepared: the differences.
        one: the series.
        seed: of the paths.

    Returns:
        The quantiles.
    """
    # What stands in the steps to come is not looked at; the model may need as many inputs.
    steps = len(prepared.values)
    padded = Observed.of(np.concatenate([prepared.values, np.zeros((one.horizon, 1))]))
    ahead = Ahead(np.array([steps]), one.horizon, _NUM_PATHS, seed)
    assert fitted.simulate is not None
    return path_quantiles(prepared.back(fitted.simulate(padded, ahead)[0, :, :, 0]))
