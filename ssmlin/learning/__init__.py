"""Fitting and posterior sampling; knows models only by their interface."""

from ssmlin.learning.em import fit_em
from ssmlin.learning.fit_windows import fit_stream
from ssmlin.learning.leave_future_out import leave_future_out
from ssmlin.learning.posterior_sampling import posterior_params, predict_one_step, sample_posterior
from ssmlin.learning.sgd import FitHistory, default_optimizer, fit_sgd

__all__ = [
    "FitHistory",
    "default_optimizer",
    "fit_em",
    "fit_sgd",
    "fit_stream",
    "leave_future_out",
    "posterior_params",
    "predict_one_step",
    "sample_posterior",
]
