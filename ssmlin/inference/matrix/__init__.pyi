from ssmlin.inference.matrix._approximate import matrix_lgssm_approximate_filter
from ssmlin.inference.matrix._dynamic_regression import (
    DynamicRegressions,
    RegressionLaw,
    dynamic_regressions,
    integrate_variances,
)
from ssmlin.inference.matrix._filter import matrix_lgssm_filter
from ssmlin.inference.matrix._sampling import matrix_lgssm_posterior_sample, matrix_lgssm_sample
from ssmlin.inference.matrix._smoother import matrix_lgssm_smoother
from ssmlin.inference.matrix._unknown_row_cov import (
    PosteriorRowCov,
    RowCovLaw,
    integrate_row_cov,
    integrate_row_covs,
    row_cov_laws,
)

__all__ = [
    "DynamicRegressions",
    "PosteriorRowCov",
    "RegressionLaw",
    "RowCovLaw",
    "dynamic_regressions",
    "integrate_row_cov",
    "integrate_row_covs",
    "integrate_variances",
    "matrix_lgssm_approximate_filter",
    "matrix_lgssm_filter",
    "matrix_lgssm_posterior_sample",
    "matrix_lgssm_sample",
    "matrix_lgssm_smoother",
    "row_cov_laws",
]
