"""The law of one emission given those before it."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Float
from scipy import special

from ssmlin._typing import AnyArray


class StepPrediction(NamedTuple):
    r"""The law of one emission given those before it: a mixture over draws of what is missing.

    $$p(y_t \mid y_{1:t-1}) = \sum_i w_i\, N(y_t; \hat y_i, C_i)$$

    or, where Σ is integrated out, Student-t laws with n degrees of freedom and scale matrices C.
    Where nothing is missing that is a lag, there is one component.

    Attributes:
        log_density: of what was observed of the emission; 0 where nothing was.
        log_weights: log w, normalised, (N,).
        means: (N, m).
        scales: C, (N, m, m).
        student_df: n, a scalar, or (m,) for a diagonal Σ; None for Gaussian laws.

    Examples:
        >>> import numpy as np
        >>> from ssmlin.models import StepPrediction
        >>> one = np.ones((1, 1, 1))
        >>> law = StepPrediction(np.zeros(()), np.zeros(1), 2 * one[0], one, None)
        >>> law.mean.tolist(), law.quantiles([0.5, 0.975]).round(2).tolist()
        ([2.0], [[2.0], [3.96]])
    """

    log_density: Float[Array, ""]
    log_weights: Float[Array, " N"]
    means: Float[Array, "N m"]
    scales: Float[Array, "N m m"]
    student_df: Float[Array, "..."] | None

    @property
    def mean(self) -> Float[np.ndarray, " m"]:
        """E[y_t], (m,)."""
        mean: Float[np.ndarray, " m"] = self._weights @ np.asarray(self.means)
        return mean

    @property
    def covariance(self) -> Float[np.ndarray, "m m"]:
        """Cov[y_t], (m, m); NaN for n <= 2 degrees of freedom, where there is none."""
        means, scales = np.asarray(self.means), np.asarray(self.scales)
        inside = np.einsum("n,nij->ij", self._weights, scales)
        if self.student_df is not None:
            df = np.asarray(self.student_df, inside.dtype)
            share = np.sqrt(df / np.where(df > 2, df - 2, np.nan))
            inside = inside * share * np.reshape(share, (-1, 1))
        apart = means - self.mean
        covariance: Float[np.ndarray, "m m"] = inside + np.einsum(
            "n,ni,nj->ij", self._weights, apart, apart
        )
        return covariance

    def quantiles(
        self, levels: Sequence[float] | Float[AnyArray, " L"]
    ) -> Float[np.ndarray, "L m"]:
        """Marginal quantiles, by bisection where there are several components.

        Args:
            levels: probabilities in (0, 1).

        Returns:
            A row for each level.
        """
        wanted = np.asarray(levels, np.float64)[:, None, None]
        means = np.asarray(self.means, np.float64)
        spread = np.sqrt(np.diagonal(np.asarray(self.scales, np.float64), axis1=1, axis2=2))
        df = None if self.student_df is None else np.asarray(self.student_df, np.float64)
        z = special.ndtri(wanted) if df is None else special.stdtrit(df, wanted)
        ends = means + z * spread
        low, high = ends.min(axis=1), ends.max(axis=1)
        if len(means) > 1:
            weights = self._weights[:, None]
            # A mixture's quantile lies between those of its components.
            for _ in range(50):
                middle = 0.5 * (low + high)
                z = (middle[:, None] - means) / spread
                below = special.ndtr(z) if df is None else special.stdtr(df, z)
                above = (weights * below).sum(axis=1) > wanted[:, 0]
                low, high = np.where(above, low, middle), np.where(above, middle, high)
        quantiles: Float[np.ndarray, "L m"] = 0.5 * (low + high)
        return quantiles

    def intervals(
        self, levels: Sequence[float] | Float[AnyArray, " L"]
    ) -> tuple[Float[np.ndarray, "L m"], Float[np.ndarray, "L m"]]:
        """The lower and the upper ends of central intervals with these probabilities."""
        half = 0.5 * np.asarray(levels, np.float64)
        ends = self.quantiles(np.concatenate([0.5 - half, 0.5 + half]))
        return ends[: len(half)], ends[len(half) :]

    @property
    def _weights(self) -> Float[np.ndarray, " N"]:
        weights = np.exp(np.asarray(self.log_weights, np.float64))
        share: Float[np.ndarray, " N"] = weights / weights.sum()
        return share
