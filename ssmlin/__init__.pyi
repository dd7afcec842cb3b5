from ssmlin import attention as attention
from ssmlin import cli as cli
from ssmlin import comparison as comparison
from ssmlin import data as data
from ssmlin import demonstration as demonstration
from ssmlin import forecasting as forecasting
from ssmlin import inference as inference
from ssmlin import learning as learning
from ssmlin import lgssm as lgssm
from ssmlin import mechanisms as mechanisms
from ssmlin import models as models
from ssmlin import serving as serving
from ssmlin import study as study
from ssmlin._compilation_cache import enable_compilation_cache
from ssmlin.comparison import compare
from ssmlin.forecasting import Forecaster, load
from ssmlin.inference import (
    PosteriorMatrixLGSSM,
    PosteriorRowCov,
    RowCovLaw,
    integrate_row_cov,
    lgssm_filter,
    lgssm_posterior_sample,
    lgssm_smoother,
    matrix_lgssm_approximate_filter,
    matrix_lgssm_filter,
    matrix_lgssm_posterior_sample,
    matrix_lgssm_sample,
    matrix_lgssm_smoother,
)
from ssmlin.learning import posterior_params, predict_one_step, sample_posterior
from ssmlin.lgssm import MatrixLGSSM
from ssmlin.mechanisms import MECHANISMS, linear_attention, matrix_lgssm, register_mechanism
from ssmlin.models import Forecast, LinearAttentionSSM, ShrinkagePrior, lagged_inputs
from ssmlin.serving import OnlineFilter, OnlineForecaster

__version__: str

__all__ = [
    "MECHANISMS",
    "Forecast",
    "Forecaster",
    "LinearAttentionSSM",
    "MatrixLGSSM",
    "OnlineFilter",
    "OnlineForecaster",
    "PosteriorMatrixLGSSM",
    "PosteriorRowCov",
    "RowCovLaw",
    "ShrinkagePrior",
    "compare",
    "enable_compilation_cache",
    "integrate_row_cov",
    "lagged_inputs",
    "lgssm_filter",
    "lgssm_posterior_sample",
    "lgssm_smoother",
    "linear_attention",
    "load",
    "matrix_lgssm",
    "matrix_lgssm_approximate_filter",
    "matrix_lgssm_filter",
    "matrix_lgssm_posterior_sample",
    "matrix_lgssm_sample",
    "matrix_lgssm_smoother",
    "posterior_params",
    "predict_one_step",
    "register_mechanism",
    "sample_posterior",
]
