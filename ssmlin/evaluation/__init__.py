"""Baselines, held-out scores, comparisons, figures and the demonstration."""

from ssmlin.evaluation.comparison import (
    Comparison,
    compare,
    compare_models,
    compare_series,
    pooled_frame,
)
from ssmlin.evaluation.datasets import Series, Split, load_macro, load_sunspots, train_test_split
from ssmlin.evaluation.forecasters import (
    Ahead,
    Fitted,
    Forecaster,
    Observed,
    Result,
    evaluate,
    grid,
)
from ssmlin.evaluation.predictive import Predictive
from ssmlin.evaluation.report import write_report
from ssmlin.evaluation.scores import PathScores, Scores, score, score_paths

__all__ = [
    "Ahead",
    "Comparison",
    "Fitted",
    "Forecaster",
    "Observed",
    "PathScores",
    "Predictive",
    "Result",
    "Scores",
    "Series",
    "Split",
    "compare",
    "compare_models",
    "compare_series",
    "evaluate",
    "grid",
    "load_macro",
    "load_sunspots",
    "pooled_frame",
    "score",
    "score_paths",
    "train_test_split",
    "write_report",
]
