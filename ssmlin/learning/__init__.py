"""Fitting and posterior sampling; knows models only by their interface."""

from ssmlin.learning.checkpoint import Checkpoint, digest
from ssmlin.learning.datatree import posterior_params
from ssmlin.learning.em import fit_em
from ssmlin.learning.fit_windows import fit_stream
from ssmlin.learning.leave_future_out import leave_future_out
from ssmlin.learning.log_posterior import num_trainable, paths, property_leaves, variable_name
from ssmlin.learning.loss import train_part
from ssmlin.learning.posterior_sampling import sample_posterior
from ssmlin.learning.prediction import pointwise_log_likelihood, predict_one_step
from ssmlin.learning.quasi_newton import QuasiNewton, lbfgs, minimise
from ssmlin.learning.sgd import FitHistory, default_optimizer, fit_sgd

__all__ = [
    "Checkpoint",
    "FitHistory",
    "QuasiNewton",
    "default_optimizer",
    "digest",
    "fit_em",
    "fit_sgd",
    "fit_stream",
    "lbfgs",
    "leave_future_out",
    "minimise",
    "num_trainable",
    "paths",
    "pointwise_log_likelihood",
    "posterior_params",
    "predict_one_step",
    "property_leaves",
    "sample_posterior",
    "train_part",
    "variable_name",
]
