from ssmlin._batch_options import batch_options
from ssmlin.inference import dense as dense
from ssmlin.inference import matrix as matrix
from ssmlin.inference._gammas import log_gamma_ratio
from ssmlin.inference._results import PosteriorMatrixLGSSM
from ssmlin.inference._roots import symmetric_root
from ssmlin.inference.dense import lgssm_filter, lgssm_posterior_sample, lgssm_smoother
from ssmlin.inference.matrix import (
    DynamicRegressions,
    PosteriorRowCov,
    RegressionLaw,
    RowCovLaw,
    dynamic_regressions,
    integrate_row_cov,
    integrate_row_covs,
    integrate_variances,
    matrix_lgssm_approximate_filter,
    matrix_lgssm_filter,
    matrix_lgssm_posterior_sample,
    matrix_lgssm_sample,
    matrix_lgssm_smoother,
    row_cov_laws,
)

__all__ = [
    "log_gamma_ratio",
    "DynamicRegressions",
    "PosteriorMatrixLGSSM",
    "PosteriorRowCov",
    "RegressionLaw",
    "RowCovLaw",
    "batch_options",
    "dynamic_regressions",
    "integrate_row_cov",
    "integrate_row_covs",
    "integrate_variances",
    "lgssm_filter",
    "lgssm_posterior_sample",
    "lgssm_smoother",
    "matrix_lgssm_approximate_filter",
    "matrix_lgssm_filter",
    "matrix_lgssm_posterior_sample",
    "matrix_lgssm_sample",
    "matrix_lgssm_smoother",
    "row_cov_laws",
    "symmetric_root",
]
