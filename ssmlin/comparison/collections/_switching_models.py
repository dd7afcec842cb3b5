"""Hidden Markov models of differences by EM: Gaussian emissions, or autoregressions."""

from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Array, Float

from ssmlin._buckets import bucket
from ssmlin.comparison.baselines._hmm_models import (
    autoregressive_starts,
    fitted_switching,
    gaussian_starts,
    regressors,
)
from ssmlin.comparison.baselines._switching import (
    EmissionPrior,
    fit_program,
    gaussian_prior,
    padded_problem,
    unpadded,
)
from ssmlin.comparison.collections._batches import BatchedFit, Problem, forecast_by_batches
from ssmlin.comparison.collections._collection import Collection
from ssmlin.comparison.collections._model import Attempt, CollectionModel
from ssmlin.forecasting import Fitted, Observed, choose_num_lags

_EM_ITERATIONS = 100
#: Starts, series (values, regressors, number of steps), sizes: all series of a batch are as long.
_AXES = (0, (0, 0, None), 0)
#: dynamax's regressions have no prior, and a state that explains few steps exactly has no end of
#: likelihood. This one stands for one more step whose residual is a third of a deviation.
REGRESSION_PRIOR = EmissionPrior(0.0, 0.1, 1.0)


def _program(prior: EmissionPrior, problem: Any) -> tuple[Any, Float[Array, ""]]:
    found: tuple[Any, Float[Array, ""]] = fit_program(*problem, prior, _EM_ITERATIONS)
    return found


def gaussian_fit(num_states: int) -> BatchedFit:
    """The fit of dynamax's GaussianHMM by EM."""
    prior = gaussian_prior(1)

    def problem(train: Observed, seed: int, length: int) -> Problem:
        y = train.values
        starts = gaussian_starts(y, seed, num_states)
        padded = padded_problem(starts, y, np.ones((len(y), 1)), prior, num_states, length, 1)

        def finish(fit: Any) -> Fitted:
            params = unpadded(fit[0], float(fit[1]), num_states, 1)
            return fitted_switching(params, None, num_states)

        return Problem(len(y), padded, finish)

    return BatchedFit(problem, partial(_program, prior), _AXES)


def autoregressive_fit(num_states: int, max_lags: int) -> BatchedFit:
    """The fit of dynamax's LinearRegressionHMM by EM, with a weak prior of the variances."""
    width = bucket(max_lags + 1)

    def problem(train: Observed, seed: int, length: int) -> Problem:
        num_lags = max(1, choose_num_lags(train, max_lags))
        starts = autoregressive_starts(train, seed, num_states, num_lags)
        # The first steps serve as lags only.
        y, x = train.values[num_lags:], regressors(train, num_lags)[num_lags:]
        padded = padded_problem(starts, y, x, REGRESSION_PRIOR, num_states, length, width)

        def finish(fit: Any) -> Fitted:
            params = unpadded(fit[0], float(fit[1]), num_states, num_lags + 1)
            return fitted_switching(params, num_lags, num_states)

        return Problem(len(y), padded, finish)

    return BatchedFit(problem, partial(_program, REGRESSION_PRIOR), _AXES)


def hidden_markov(num_states: int = 3) -> CollectionModel:
    """A Gaussian hidden Markov model of the differences of each series, with simulated paths.

    The model, its prior and the steps of EM are those of dynamax's GaussianHMM.

    Args:
        num_states: the number of states.

    Returns:
        The model.
    """
    fit = gaussian_fit(num_states)
    return CollectionModel("hmm", partial(forecast_by_batches, fit=fit))


def switching_autoregression(num_states: int = 2) -> CollectionModel:
    """A hidden Markov model whose emissions are autoregressions, of the differences of each series.

    The steps of EM are those of dynamax's LinearRegressionHMM, with a weak prior of the variances.
    The order is that of the autoregression that the corrected Akaike criterion chooses, at least 1
    and at most 12, or a season and a step if that is more.

    Args:
        num_states: the number of states.

    Returns:
        The model.
    """

    def forecast(collection: Collection, seed: int) -> Attempt:
        fit = autoregressive_fit(num_states, max(12, *(one.period + 1 for one in collection)))
        return forecast_by_batches(collection, seed, fit=fit)

    return CollectionModel("arhmm", forecast)
