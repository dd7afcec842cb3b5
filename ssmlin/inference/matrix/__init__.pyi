from ssmlin.inference.matrix._approximate import matrix_lgssm_approximate_filter
from ssmlin.inference.matrix._filter import matrix_lgssm_filter
from ssmlin.inference.matrix._sampling import matrix_lgssm_posterior_sample, matrix_lgssm_sample
from ssmlin.inference.matrix._smoother import matrix_lgssm_smoother
from ssmlin.inference.matrix._unknown_row_cov import PosteriorRowCov, RowCovLaw, integrate_row_cov

__all__ = [
    "PosteriorRowCov",
    "RowCovLaw",
    "integrate_row_cov",
    "matrix_lgssm_approximate_filter",
    "matrix_lgssm_filter",
    "matrix_lgssm_posterior_sample",
    "matrix_lgssm_sample",
    "matrix_lgssm_smoother",
]
