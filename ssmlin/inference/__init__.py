"""Exact inference in the matrix-state model: filter, smoother, sampler."""

from ssmlin.inference.matrix_lgssm import (
    matrix_lgssm_filter,
    matrix_lgssm_posterior_sample,
    matrix_lgssm_sample,
    matrix_lgssm_smoother,
    symmetric_root,
)
from ssmlin.inference.posterior import PosteriorMatrixLGSSM

__all__ = [
    "PosteriorMatrixLGSSM",
    "matrix_lgssm_filter",
    "matrix_lgssm_posterior_sample",
    "matrix_lgssm_sample",
    "matrix_lgssm_smoother",
    "symmetric_root",
]
