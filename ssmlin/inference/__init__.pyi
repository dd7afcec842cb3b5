from ssmlin.inference import dense as dense
from ssmlin.inference import matrix as matrix
from ssmlin.inference._results import PosteriorMatrixLGSSM
from ssmlin.inference._roots import symmetric_root
from ssmlin.inference.dense import lgssm_filter, lgssm_posterior_sample, lgssm_smoother
from ssmlin.inference.matrix import (
    PosteriorRowCov,
    RowCovLaw,
    integrate_row_cov,
    matrix_lgssm_approximate_filter,
    matrix_lgssm_filter,
    matrix_lgssm_posterior_sample,
    matrix_lgssm_sample,
    matrix_lgssm_smoother,
)

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
