"""Fitting and posterior sampling; knows models only by their interface."""

from ssmlin.learning.em import fit_em
from ssmlin.learning.posterior import posterior_params, predict_one_step, sample_posterior
from ssmlin.learning.sgd import FitHistory, default_optimizer, fit_sgd

__all__ = [
    "FitHistory",
    "default_optimizer",
    "fit_em",
    "fit_sgd",
    "posterior_params",
    "predict_one_step",
    "sample_posterior",
]
