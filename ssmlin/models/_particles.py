"""What the particle filter of :mod:`ssmlin.models._missing_lags` keeps and returns."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ssmlin.inference import RowCovLaw


class Particles(NamedTuple):
    """Draws of what is missing, and what the filter says given each.

    Attributes:
        log_weights: (N,).
        means: of the state, (N, m, d).
        covariances: of a row of the state, relative to Σ, (N, d, d).
        row_cov: the law of Σ given each draw where Σ is integrated out, else None.
        lags: the last emissions, observed or drawn, the latest first, (N, num_lags, m).
    """

    log_weights: Float[Array, " N"]
    means: Float[Array, "N m d"]
    covariances: Float[Array, "N d d"]
    row_cov: RowCovLaw | None
    lags: Float[Array, "N num_lags m"]

    def take(self, index: Int[Array, " n"]) -> "Particles":
        """Some of the draws, of equal weight."""
        chosen: Particles = jax.tree.map(lambda x: x[index], self)
        return chosen._replace(log_weights=jnp.zeros(len(index), self.log_weights.dtype))


class ParticlePosterior(NamedTuple):
    r"""What the particle filter returns: before every step a mixture over N draws.

    $$p(y_t \mid y_{1:t-1}) = \sum_i w_{ti}\, N(y_t; \hat y_{ti}, C_{ti})$$

    or, where Σ is integrated out, Student-t laws with n_t degrees of freedom and scale matrices C.

    Attributes:
        marginal_loglik: an estimate of log p(y_{1:T}), a scalar.
        log_predictive: its terms, (T,); 0 where nothing was observed.
        log_weights: log w, normalised, (T, N).
        emission_means: (T, N, m).
        emission_scales: C, (T, N, m, m).
        student_df: n, (T,), or (T, m) for a diagonal Σ; None for Gaussian laws.
        last: the draws after the last step.
        kept: the draws after the steps that were asked for, with a leading axis, or None.
    """

    marginal_loglik: Float[Array, ""]
    log_predictive: Float[Array, " T"]
    log_weights: Float[Array, "T N"]
    emission_means: Float[Array, "T N m"]
    emission_scales: Float[Array, "T N m m"]
    student_df: Float[Array, "T ..."] | None
    last: Particles
    kept: Particles | None = None
