"""Which model predicts a series best: baselines, held-out scores, comparisons, reports."""

from ssmlin.comparison.comparisons import (
    Comparison,
    compare,
    compare_models,
    compare_series,
    pooled_frame,
)
from ssmlin.comparison.evaluation import Candidate, Result, evaluate, grid
from ssmlin.comparison.report import write_report
from ssmlin.comparison.scores import PathScores, Scores, score, score_paths
from ssmlin.comparison.split import Split, train_test_split
from ssmlin.data import Series
from ssmlin.forecasting import Ahead, Fitted, Observed, Predictive

__all__ = [
    "Ahead",
    "Candidate",
    "Comparison",
    "Fitted",
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
    "pooled_frame",
    "score",
    "score_paths",
    "train_test_split",
    "write_report",
]
