"""Fitting; knows models only by their interface."""

from ssmlin.learning.sgd import FitHistory, default_optimizer, fit_sgd

__all__ = ["FitHistory", "default_optimizer", "fit_sgd"]
