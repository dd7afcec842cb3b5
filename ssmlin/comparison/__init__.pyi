from ssmlin.comparison import baselines as baselines
from ssmlin.comparison import collections as collections
from ssmlin.comparison import plots as plots
from ssmlin.comparison._averaging import Weights, average, dynamic_weights
from ssmlin.comparison._candidate import Candidate, Setting, describe_setting, grid
from ssmlin.comparison._comparisons import compare, compare_models, compare_series
from ssmlin.comparison._confidence_set import model_confidence_set
from ssmlin.comparison._evaluation import EvaluationOptions, Result, evaluate
from ssmlin.comparison._gates import gate_paths
from ssmlin.comparison._html import page_style
from ssmlin.comparison._panels import new_figure, plot_band
from ssmlin.comparison._report import write_report
from ssmlin.comparison._scores import (
    LEVELS,
    PathScores,
    Scores,
    score,
    score_paths,
    standard_error,
)
from ssmlin.comparison._split import Split, train_test_split
from ssmlin.comparison._tables import Comparison, all_series, pooled_frame, stacked_frame
from ssmlin.comparison._verdict import Choice, Verdict, verdict
from ssmlin.data import Series
from ssmlin.forecasting import Ahead, Fitted, Observed, Predictive

__all__ = [
    "Ahead",
    "Candidate",
    "Choice",
    "Comparison",
    "EvaluationOptions",
    "Fitted",
    "LEVELS",
    "Observed",
    "PathScores",
    "Predictive",
    "Result",
    "Scores",
    "Series",
    "Setting",
    "Split",
    "Verdict",
    "Weights",
    "all_series",
    "average",
    "compare",
    "compare_models",
    "compare_series",
    "describe_setting",
    "dynamic_weights",
    "evaluate",
    "gate_paths",
    "grid",
    "model_confidence_set",
    "new_figure",
    "page_style",
    "plot_band",
    "pooled_frame",
    "score",
    "score_paths",
    "stacked_frame",
    "standard_error",
    "train_test_split",
    "verdict",
    "write_report",
]
