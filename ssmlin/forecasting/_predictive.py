"""Predictive distributions of a series: one class for all models, so that all are scored alike."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import special


class Predictive(NamedTuple):
    r"""For every step a mixture of multivariate Gaussian or Student-t laws.

    $$p(y_t) = \sum_k w_{tk} \, t_{n_{tk}}(y_t; \mu_{tk}, C_{tk})$$

    Attributes:
        weights: w, (T, K), each row sums to one.
        means: μ, (T, K, m).
        scales: C, (T, K, m, m): covariances, or scale matrices where there are degrees of freedom.
        df: degrees of freedom n, (T, K), infinite for a Gaussian; None where all are.

    Examples:
        >>> import numpy as np
        >>> from ssmlin.forecasting import Predictive
        >>> law = Predictive.gaussian(np.zeros((2, 1)), np.eye(1))
        >>> law.log_prob(np.array([[0.0], [1.0]])).round(3).tolist()
        [-0.919, -1.419]
    """

    weights: Float[np.ndarray, "T K"]
    means: Float[np.ndarray, "T K m"]
    scales: Float[np.ndarray, "T K m m"]
    df: Float[np.ndarray, "T K"] | None = None

    @classmethod
    def gaussian(
        cls,
        means: Float[np.ndarray, "T m"],
        covariances: Float[np.ndarray, "T m m"] | Float[np.ndarray, "m m"],
    ) -> "Predictive":
        """One Gaussian a step."""
        steps, m = means.shape
        covariances = np.broadcast_to(covariances, (steps, m, m))
        return cls(np.ones((steps, 1)), np.asarray(means)[:, None], covariances[:, None])

    def steps(self, part: slice) -> "Predictive":
        """The laws of some of the steps."""
        df = None if self.df is None else self.df[part]
        return Predictive(self.weights[part], self.means[part], self.scales[part], df)

    @staticmethod
    def join(parts: list["Predictive"]) -> "Predictive":
        """Laws of consecutive parts as one; components that a part lacks have no weight in it."""
        count = max(part.weights.shape[1] for part in parts)
        any_df = any(part.df is not None for part in parts)

        def widened(x: Float[np.ndarray, "T K ..."]) -> Float[np.ndarray, "T count ..."]:
            width = [(0, 0)] * x.ndim
            width[1] = (0, count - x.shape[1])
            return np.pad(x, width, mode="edge")

        weights = [np.pad(w.weights, ((0, 0), (0, count - w.weights.shape[1]))) for w in parts]
        means = [widened(part.means) for part in parts]
        scales = [widened(part.scales) for part in parts]
        df = [
            widened(np.full(part.weights.shape, np.inf) if part.df is None else part.df)
            for part in parts
        ]
        return Predictive(
            np.concatenate(weights),
            np.concatenate(means),
            np.concatenate(scales),
            np.concatenate(df) if any_df else None,
        )

    @staticmethod
    def mixture(laws: list["Predictive"], weights: Float[np.ndarray, "T n"]) -> "Predictive":
        """A mixture of laws of the same steps, one column of weights for each."""
        mixed = [w[:, None] * law.weights for w, law in zip(weights.T, laws, strict=True)]
        means, scales = (
            np.concatenate(x, axis=1) for x in zip(*(law[1:3] for law in laws), strict=True)
        )
        df = None
        if any(law.df is not None for law in laws):
            df = np.concatenate(
                [np.full(law.weights.shape, np.inf) if law.df is None else law.df for law in laws],
                axis=1,
            )
        return Predictive(np.concatenate(mixed, axis=1), means, scales, df)

    @property
    def mean(self) -> Float[np.ndarray, "T m"]:
        """E[y_t]."""
        mean: Float[np.ndarray, "T m"] = np.einsum("tk,tkm->tm", self.weights, self.means)
        return mean

    @property
    def deviations(self) -> Float[np.ndarray, "T K m"]:
        """Square roots of the diagonals of the scales."""
        return np.sqrt(np.diagonal(self.scales, axis1=-2, axis2=-1))

    def log_prob(self, values: Float[np.ndarray, "T m"]) -> Float[np.ndarray, " T"]:
        """Log density of every step."""
        m = values.shape[1]
        roots = np.linalg.cholesky(self.scales)
        centred = (values[:, None] - self.means)[..., None]
        white = np.linalg.solve(roots, centred)[..., 0]
        squares = np.sum(white**2, axis=-1)
        log_dets = 2 * np.log(np.diagonal(roots, axis1=-2, axis2=-1)).sum(axis=-1)
        terms = -0.5 * (squares + log_dets + m * np.log(2 * np.pi))
        if self.df is not None:
            n = np.where(np.isinf(self.df), 1.0, self.df)
            student = special.gammaln((n + m) / 2) - special.gammaln(n / 2)
            student = student - 0.5 * (m * np.log(n * np.pi) + log_dets)
            student = student - 0.5 * (n + m) * np.log1p(squares / n)
            terms = np.where(np.isinf(self.df), terms, student)
        total: Float[np.ndarray, " T"] = special.logsumexp(terms, b=self.weights, axis=1)
        return total

    def _standard_cdf(self, z: Float[np.ndarray, "T K m"]) -> Float[np.ndarray, "T K m"]:
        """Of single components."""
        if self.df is None:
            found: Float[np.ndarray, "T K m"] = special.ndtr(z)
        else:
            found = special.stdtr(self.df[:, :, None], z)
        return found

    def cdf(self, values: Float[np.ndarray, "T m"]) -> Float[np.ndarray, "T m"]:
        """Marginal distribution functions."""
        z = (values[:, None] - self.means) / self.deviations
        found: Float[np.ndarray, "T m"] = np.einsum(
            "tk,tkm->tm", self.weights, self._standard_cdf(z)
        )
        return found

    def quantile(self, level: float) -> Float[np.ndarray, "T m"]:
        """Marginal quantiles, by bisection where there are several components."""
        df = None if self.df is None else self.df[:, :, None]
        z = special.ndtri(level) if df is None else special.stdtrit(df, level)
        ends = self.means + z * self.deviations
        low, high = ends.min(axis=1), ends.max(axis=1)
        if self.weights.shape[1] > 1:
            # A mixture's quantile lies between those of its components.
            for _ in range(60):
                middle = 0.5 * (low + high)
                above = self.cdf(middle) > level
                low, high = np.where(above, low, middle), np.where(above, middle, high)
        found: Float[np.ndarray, "T m"] = 0.5 * (low + high)
        return found

    def sample(
        self, rng: np.random.Generator, num_samples: int
    ) -> Float[np.ndarray, "T num_samples m"]:
        """Independent draws at every step."""
        steps, num_components, m = self.means.shape
        bounds = np.cumsum(self.weights, axis=1)[:, None, :]
        u = rng.uniform(size=(steps, num_samples, 1)) * bounds[..., -1:]
        which = np.minimum((u > bounds).sum(axis=-1), num_components - 1)
        rows = np.arange(steps)[:, None]
        noise = rng.normal(size=(steps, num_samples, m))
        if self.df is not None:
            df = self.df[rows, which]
            finite = np.where(np.isinf(df), 1.0, df)
            ratio = np.where(np.isinf(df), 1.0, finite / rng.chisquare(finite))
            noise *= np.sqrt(ratio)[..., None]
        roots = np.linalg.cholesky(self.scales)[rows, which]
        drawn: Float[np.ndarray, "T n m"] = self.means[rows, which] + np.einsum(
            "tnij,tnj->tni", roots, noise
        )
        return drawn
