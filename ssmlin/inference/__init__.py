"""Filter, smoother and sampler, exact, for matrix states and dynamax's dense ones.

The approximate filters keep less of the covariance.
"""

from ssmlin.inference.dense.api import lgssm_filter, lgssm_posterior_sample, lgssm_smoother
from ssmlin.inference.matrix.api import (
    matrix_lgssm_filter,
    matrix_lgssm_posterior_sample,
    matrix_lgssm_sample,
    matrix_lgssm_smoother,
    symmetric_root,
)
from ssmlin.inference.matrix.approximate import matrix_lgssm_approximate_filter
from ssmlin.inference.matrix.unknown_row_cov import PosteriorRowCov, RowCovLaw, integrate_row_cov
from ssmlin.inference.results import PosteriorMatrixLGSSM

__all__ = [
    "PosteriorMatrixLGSSM",
    "PosteriorRowCov",
    "RowCovLaw",
    "integrate_row_cov",
    "lgssm_filter",
    "lgssm_posterior_sample",
    "lgssm_smoother",
    "matrix_lgssm_approximate_filter",
    "matrix_lgssm_filter",
    "matrix_lgssm_posterior_sample",
    "matrix_lgssm_sample",
    "matrix_lgssm_smoother",
    "symmetric_root",
]
