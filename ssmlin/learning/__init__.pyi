from ssmlin.learning._batches import BatchFit, fit_batches, loss_curvature
from ssmlin.learning._checkpoint import Checkpoint, digest
from ssmlin.learning._datatree import posterior_params
from ssmlin.learning._em import fit_em
from ssmlin.learning._fit_windows import fit_stream
from ssmlin.learning._leave_future_out import leave_future_out
from ssmlin.learning._log_posterior import num_trainable, paths, property_leaves, variable_name
from ssmlin.learning._loss import train_part
from ssmlin.learning._models import StepwiseModel
from ssmlin.learning._plans import Plan, carry_out, carry_out_together
from ssmlin.learning._posterior_sampling import Algorithm, sample_posterior
from ssmlin.learning._prediction import pointwise_log_likelihood, predict_one_step
from ssmlin.learning._quasi_newton import QuasiNewton, lbfgs, minimise
from ssmlin.learning._runs import Fit, FitHistory, default_optimizer
from ssmlin.learning._sgd import fit_sgd

__all__ = [
    "Algorithm",
    "BatchFit",
    "Checkpoint",
    "Fit",
    "FitHistory",
    "Plan",
    "QuasiNewton",
    "StepwiseModel",
    "carry_out",
    "carry_out_together",
    "default_optimizer",
    "digest",
    "fit_batches",
    "fit_em",
    "fit_sgd",
    "fit_stream",
    "lbfgs",
    "leave_future_out",
    "loss_curvature",
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
