"""The linear dynamical system of differences by EM."""

from functools import partial
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float

from ssmlin.comparison.baselines._lds_fit import em_program
from ssmlin.comparison.baselines._lds_model import fitted_lds, lds_starts
from ssmlin.comparison.baselines._padding import padded
from ssmlin.comparison.collections._batches import BatchedFit, Problem, forecast_by_batches
from ssmlin.comparison.collections._model import CollectionModel
from ssmlin.forecasting import Fitted, Observed

_EM_ITERATIONS = 100
_STARTS = 4
#: Starts, and the series: emissions, inputs, number of steps.
_AXES = (0, (0, 0, None))


def _program(problem: Any) -> tuple[Any, Float[Array, ""]]:
    found: tuple[Any, Float[Array, ""]] = em_program(*problem, _EM_ITERATIONS)
    return found


def lds_fit(state_dim: int) -> BatchedFit:
    """The fit of dynamax's LinearGaussianSSM by EM, from four random starts."""

    def problem(train: Observed, seed: int, length: int) -> Problem:
        y = train.values
        starts = lds_starts(np.random.default_rng(seed), _STARTS, state_dim, 1, 0)
        series = padded(y, length, 1), np.zeros((length, 0)), len(y)
        return Problem(len(y), (starts, series), _finish)

    return BatchedFit(problem, _program, _AXES)


def linear_dynamics(state_dim: int = 2) -> CollectionModel:
    """A linear dynamical system of the differences of each series, with simulated paths.

    The model and the steps of EM are those of dynamax's LinearGaussianSSM.

    Args:
        state_dim: the dimension of the state.

    Returns:
        The model.
    """
    fit = lds_fit(state_dim)
    return CollectionModel("lds", partial(forecast_by_batches, fit=fit))


def _finish(fit: tuple[Any, Any]) -> Fitted:
    params, log_likelihood = fit
    if not np.isfinite(log_likelihood):
        raise ArithmeticError("no start gave a finite likelihood")
    return fitted_lds(jax.tree.map(np.asarray, params))
