"""The law of the next value of a series of a population: a mixture, or draws after a gap."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import special

from ssmlin.data import box_cox, inverse_box_cox

#: Values that the mean of a transformed law is taken over.
_NODES = 1000
#: Halvings of the interval that a quantile of a mixture lies in.
_HALVINGS = 45


class MixtureLaw(NamedTuple):
    r"""A mixture of Student-t laws of transformed values, in the units of the series.

    $$(y^{\lambda_k} - 1) / (\lambda_k s_k) \sim t_{n_k}(m_k, v_k)$$

    with probability $w_k$, kept within bounds.

    Attributes:
        weights: w > 0, (K,).
        powers: λ.
        units: s, what transformed values are divided by.
        mean: m.
        scale: v, the squares of the scales.
        df: n.
        bounds: within which each component is kept, in its units, (K, 2).
    """

    weights: Float[np.ndarray, " K"]
    powers: Float[np.ndarray, " K"]
    units: Float[np.ndarray, " K"]
    mean: Float[np.ndarray, " K"]
    scale: Float[np.ndarray, " K"]
    df: Float[np.ndarray, " K"]
    bounds: Float[np.ndarray, "K 2"]

    def expectation(self) -> float:
        """The mean; of transformed values over 1000 quantiles that are evenly spaced."""
        each = self._component_quantiles((np.arange(_NODES) + 0.5) / _NODES).mean(axis=0)
        return float(self.weights @ np.where(self.powers == 1, self.mean * self.units, each))

    def quantiles(self, levels: Float[np.ndarray, " Q"]) -> Float[np.ndarray, " Q"]:
        """The quantiles with these probabilities."""
        each = self._component_quantiles(levels)
        low, high = each.min(axis=1), each.max(axis=1)  # between which that of the mixture is
        for _ in range(_HALVINGS if each.shape[1] > 1 else 0):
            middle = 0.5 * (low + high)
            below = self._probability(middle) < levels
            low, high = np.where(below, middle, low), np.where(below, high, middle)
        return high

    def log_density(self, value: float) -> float:
        """Log density of a value."""
        seen = (self.powers == 1) | (value > 0)
        slopes = (self.powers - 1) * np.log(np.where(seen & (self.powers != 1), value, 1.0))
        with np.errstate(divide="ignore"):
            z = self._seen(value)
            half = 0.5 * (self.df + 1)
            logs = (
                special.gammaln(half) - special.gammaln(0.5 * self.df)
                - 0.5 * np.log(np.pi * self.df * self.scale) + np.log(self.weights)
                - half * np.log1p((z - self.mean) ** 2 / (self.df * self.scale))
                - np.log(self.units) + slopes
            )  # fmt: skip
        return float(special.logsumexp(logs))

    def _seen(self, values: Float[np.ndarray, "*Q"] | float) -> Float[np.ndarray, "*Q K"]:
        """Values in the units of every component; those below its range are -inf."""
        y = np.asarray(values, np.float64)[..., None]
        usable = (self.powers == 1) | (y > 0)
        z = box_cox(np.where(usable, y, 1.0) + np.zeros(len(self.powers)), tuple(self.powers))
        return np.where(usable, z / self.units, -np.inf)

    def _probability(self, values: Float[np.ndarray, " Q"]) -> Float[np.ndarray, " Q"]:
        """The distribution function."""
        z = self._seen(values)
        inside = special.stdtr(self.df, (z - self.mean) / np.sqrt(self.scale))
        inside = np.where(z >= self.bounds[:, 1], 1.0, np.where(z < self.bounds[:, 0], 0.0, inside))
        found: Float[np.ndarray, " Q"] = inside @ self.weights
        return found

    def _component_quantiles(self, levels: Float[np.ndarray, " Q"]) -> Float[np.ndarray, "Q K"]:
        """The quantiles of every component."""
        z = self.mean + np.sqrt(self.scale) * special.stdtrit(self.df, levels[:, None])
        z = np.clip(z, *self.bounds.T)
        return inverse_box_cox(z * self.units, tuple(self.powers))


class PathsLaw(NamedTuple):
    """The law of a value by draws of it, where what comes before is missing.

    Attributes:
        draws: (n,); NaN where nothing is known.
    """

    draws: Float[np.ndarray, " n"]

    def expectation(self) -> float:
        """The mean."""
        return float(self.draws.mean())

    def quantiles(self, levels: Float[np.ndarray, " Q"]) -> Float[np.ndarray, " Q"]:
        """The quantiles with these probabilities."""
        found: Float[np.ndarray, " Q"] = np.quantile(self.draws, levels)
        return found

    def log_density(self, value: float) -> float:
        """Zero: the models do not score a value whose step before is missing."""
        return 0.0
