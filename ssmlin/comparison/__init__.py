"""Which model predicts a series best: baselines, held-out scores, comparisons, reports."""

from ssmlin.comparison.averaging import Weights, average, dynamic_weights
from ssmlin.comparison.candidate import Candidate, Setting, describe_setting, grid
from ssmlin.comparison.comparisons import compare, compare_models, compare_series
from ssmlin.comparison.evaluation import EvaluationOptions, Result, evaluate
from ssmlin.comparison.report import write_report
from ssmlin.comparison.scores import (
    LEVELS,
    PathScores,
    Scores,
    score,
    score_paths,
    standard_error,
)
from ssmlin.comparison.split import Split, train_test_split
from ssmlin.comparison.tables import Comparison, all_series, pooled_frame, stacked_frame
from ssmlin.data import Series
from ssmlin.forecasting import Ahead, Fitted, Observed, Predictive

__all__ = [
    "LEVELS",
    "Ahead",
    "Candidate",
    "Comparison",
    "EvaluationOptions",
    "Fitted",
    "Observed",
    "PathScores",
    "Predictive",
    "Result",
    "Scores",
    "Series",
    "Setting",
    "Split",
    "Weights",
    "all_series",
    "average",
    "compare",
    "compare_models",
    "compare_series",
    "describe_setting",
    "dynamic_weights",
    "evaluate",
    "grid",
    "pooled_frame",
    "score",
    "score_paths",
    "stacked_frame",
    "standard_error",
    "train_test_split",
    "write_report",
]
