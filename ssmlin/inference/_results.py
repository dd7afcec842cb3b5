"""The posterior that the filters and smoothers return."""

from typing import NamedTuple

from jaxtyping import Array, Float

from ssmlin._display import one_line, small_table


class PosteriorMatrixLGSSM(NamedTuple):
    r"""Exact posterior of a :class:`ssmlin.lgssm.MatrixLGSSM`; fields that were not kept are None.

    The law of S_t is MN(mean, Σ, covariance): Cov(vec_row S_t) = Σ ⊗ covariance, with Σ in
    `row_cov`. If single entries of the emissions are missing, the rows no longer share their
    covariance. Then covariances are (T, m, d, d), one for each row of S_t and relative to Σ_ii,
    and `emission_scales` is (T, m). A batch adds a leading axis to every field.

    Attributes:
        marginal_loglik: log p(y_{1:T}), a scalar.
        log_predictive: log p(y_t | y_{1:t-1}), (T,); 0 where nothing was observed.
        emission_means: E[y_t | y_{1:t-1}], (T, m); also where y_t is missing.
        emission_scales: s_t = h_tᵀ P⁻_t h_t + r_t, (T,); Cov[y_t | y_{1:t-1}] = s_t Σ.
        filtered_means: E[S_t | y_{1:t}], (T, m, d).
        filtered_covariances: P_t, (T, d, d).
        predicted_means: E[S_t | y_{1:t-1}], (T, m, d).
        predicted_covariances: P⁻_t, (T, d, d).
        smoothed_means: E[S_t | y_{1:T}], (T, m, d).
        smoothed_covariances: (T, d, d).
        row_cov: Σ, (m, m); of a model that integrates it out, E[Σ | y_{1:T}].
    """

    marginal_loglik: Float[Array, ""]
    log_predictive: Float[Array, " T"]
    emission_means: Float[Array, "T m"]
    emission_scales: Float[Array, " T *rows"]
    row_cov: Float[Array, "m m"]
    filtered_means: Float[Array, "T m d"] | None = None
    filtered_covariances: Float[Array, "T *rows d d"] | None = None
    predicted_means: Float[Array, "T m d"] | None = None
    predicted_covariances: Float[Array, "T *rows d d"] | None = None
    smoothed_means: Float[Array, "T m d"] | None = None
    smoothed_covariances: Float[Array, "T *rows d d"] | None = None

    def __repr__(self) -> str:
        return one_line(self, self._asdict())

    def _repr_html_(self) -> str:
        return small_table("Posterior of the states", self._asdict())
