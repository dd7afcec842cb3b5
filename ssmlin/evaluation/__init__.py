"""Baselines, held-out scores and the demonstration."""

from ssmlin.evaluation.datasets import Series, Split, load_macro, load_sunspots, train_test_split
from ssmlin.evaluation.forecasters import Fitted, Forecaster, OneStep, Result, evaluate, grid

__all__ = [
    "Fitted",
    "Forecaster",
    "OneStep",
    "Result",
    "Series",
    "Split",
    "evaluate",
    "grid",
    "load_macro",
    "load_sunspots",
    "train_test_split",
]
