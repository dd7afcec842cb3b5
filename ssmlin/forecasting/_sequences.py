"""A series as the arrays that a model takes, in NumPy, where nothing is compiled."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from ssmlin._typing import AnyArray
from ssmlin.forecasting._interface import Observed
from ssmlin.forecasting._lags import lags_and_inputs
from ssmlin.models import LinearAttentionSSM, has_missing_lags


def with_lags(
    model: LinearAttentionSSM, observed: Observed
) -> tuple[Float[np.ndarray, "T m"], Float[np.ndarray, "T p"]]:
    """Emissions and inputs of a series; its first steps serve as lags only.

    Where rows share a covariance, a step that is partly missing is left out, unless lags are
    missing: then the values of such a step are drawn.

    Args:
        model: the model, which says how many lags there are.
        observed: the standardised series.

    Returns:
        Emissions, of which the first `num_lags` are missing, and inputs, lags first.
    """
    emissions = observed.values.astype(np.float32)
    inputs = lags_and_inputs(observed, model.num_lags).astype(np.float32)
    if model.row_cov.structure == "full" and not lacks_lags(model, inputs):
        emissions[np.isnan(emissions).any(axis=1)] = np.nan
    emissions[: model.num_lags] = np.nan
    return emissions, inputs


def lacks_lags(model: LinearAttentionSSM, inputs: Float[AnyArray, "... p"]) -> bool:
    """Whether lags among the inputs are missing."""
    known = np.asarray(inputs)
    return bool(has_missing_lags(known, model.num_lags * model.emission_dim).any())


def padded(
    model: LinearAttentionSSM, several: Sequence[Observed], length: int | None = None
) -> tuple[Float[np.ndarray, "B T m"], Float[np.ndarray, "B T p"]]:
    """A batch of series; missing emissions and inputs of zero fill up the short ones.

    Args:
        model: the model, which says how many lags there are.
        several: the standardised series.
        length: T; default that of the longest.
    """
    length = length or max(len(one.values) for one in several)
    emissions, inputs = [], []
    for one in several:
        y, u = with_lags(model, one)
        rest = ((0, length - len(y)), (0, 0))
        emissions.append(np.pad(y, rest, constant_values=np.nan))
        inputs.append(np.pad(u, rest))
    return np.stack(emissions), np.stack(inputs)
