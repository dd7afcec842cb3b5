"""Fitting; knows models only by their interface."""

from ssmlin.learning.sgd import default_optimizer, fit_sgd

__all__ = ["default_optimizer", "fit_sgd"]
