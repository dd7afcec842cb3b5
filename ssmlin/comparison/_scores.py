r"""Scores of predictive distributions, given what happened; all but the density by scoringrules.

A step that is not wholly observed has no score. CRPS, errors and the probability integral
transform (PIT) are those of single columns; densities and energy scores are of whole steps.

Laws of transformed values are scored on the values before the transformation, see :class:`Units`.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from ssmlin._optional import require
from ssmlin.data import Scaling
from ssmlin.forecasting import Predictive

#: Probabilities of the central intervals whose coverage is reported.
LEVELS = (0.5, 0.8, 0.95)
#: The names in :meth:`Scores.summary`.
SUMMARY = (
    "log_density",
    "log_density_se",
    "crps",
    "energy",
    "rmse",
    "mae",
    *(f"coverage_{100 * level:.0f}" for level in LEVELS),
    "pit_p",
)
_ENERGY_SAMPLES = 200
#: Probabilities of the quantiles that are brought back from a transformation.
_QUANTILES = (np.arange(199) + 0.5) / 199


@dataclass(frozen=True)
class Units:
    """The way back from transformed values to units that do not depend on the transformation.

    These are the standard deviation of each column's training part, as without a transformation.

    Args:
        scaling: how the values were transformed.
        spread: the standard deviation of the training part of each column, not transformed.
    """

    scaling: Scaling
    spread: tuple[float, ...]

    def back(self, values: Float[np.ndarray, "... m"]) -> Float[np.ndarray, "... m"]:
        """Values, quantiles or draws; not means."""
        natural: np.ndarray = self.scaling.invert(values) / np.array(self.spread)
        return natural

    def log_jacobian(self, values: Float[np.ndarray, "... m"]) -> Float[np.ndarray, "..."]:
        """What the log density of whole steps gains on the way back."""
        slopes: np.ndarray = self.scaling.log_slopes(values) + np.log(np.array(self.spread))
        return slopes.sum(axis=-1)


class Scores(NamedTuple):
    """One-step scores of the n wholly observed steps.

    Attributes:
        log_density: log p(y_t | y_{1:t-1}), (n,).
        crps: continuous ranked probability scores, (n, m).
        energy: energy scores, (n,), from 200 draws a step; the CRPS where m = 1.
        errors: y_t minus the mean, (n, m).
        deviations: |y_t minus the median|, (n, m).
        pit: distribution functions at y_t, (n, m).
    """

    log_density: Float[np.ndarray, " n"]
    crps: Float[np.ndarray, "n m"]
    energy: Float[np.ndarray, " n"]
    errors: Float[np.ndarray, "n m"]
    deviations: Float[np.ndarray, "n m"]
    pit: Float[np.ndarray, "n m"]

    def coverage(self, level: float) -> float:
        """The share of held-out values inside the central intervals of a level."""
        return float(np.mean(np.abs(self.pit - 0.5) <= 0.5 * level))

    def summary(self) -> dict[str, float]:
        """Means over steps and columns; `pit_p` is the p-value of the PIT's uniformity."""
        return {
            "log_density": float(self.log_density.mean()),
            "log_density_se": standard_error(self.log_density),
            "crps": float(self.crps.mean()),
            "energy": float(self.energy.mean()),
            "rmse": float(np.sqrt(np.mean(self.errors**2))),
            "mae": float(self.deviations.mean()),
            **{f"coverage_{100 * level:.0f}": self.coverage(level) for level in LEVELS},
            "pit_p": uniformity(self.pit),
        }


class PathScores(NamedTuple):
    """Scores of paths sampled from N origins, for each of H numbers of steps ahead.

    Attributes:
        crps: (N, H, m).
        energy: (N, H); the CRPS where m = 1.
        errors: the value minus the mean of the paths, (N, H, m).
        ranks: the share of paths below the value, (N, H, m).
    """

    crps: Float[np.ndarray, "N H m"]
    energy: Float[np.ndarray, "N H"]
    errors: Float[np.ndarray, "N H m"]
    ranks: Float[np.ndarray, "N H m"]

    def summary(self) -> dict[str, float]:
        """Means over origins, steps ahead and columns; values that were not observed left out."""
        inside = {
            f"path_coverage_{100 * level:.0f}": float(
                np.mean(np.abs(self.ranks[np.isfinite(self.ranks)] - 0.5) <= 0.5 * level)
            )
            for level in LEVELS
        }
        return {
            "path_crps": float(np.nanmean(self.crps)),
            "path_energy": float(np.nanmean(self.energy)),
            "path_rmse": float(np.sqrt(np.nanmean(self.errors**2))),
            **inside,
        }


def wholly_observed(
    predictive: Predictive, values: Float[np.ndarray, "T m"]
) -> tuple[Predictive, Float[np.ndarray, "n m"]]:
    """Laws and values of the steps without a missing value.

    Raises:
        ValueError: there is none.
    """
    seen = np.isfinite(values).all(axis=1)
    if not seen.any():
        raise ValueError("values: expected at least one wholly observed step, got none")
    weights, means, scales, df = predictive
    df = None if df is None else df[seen]
    return Predictive(weights[seen], means[seen], scales[seen], df), values[seen]


def score(
    predictive: Predictive,
    values: Float[np.ndarray, "T m"],
    seed: int = 0,
    units: Units | None = None,
) -> Scores:
    """Score one-step predictions.

    With `units` the law of a column is brought back as 199 quantiles: the CRPS is twice the mean
    of their pinball losses, the mean that of the quantiles. What lies beyond the first and last
    does not count, since a Student-t law of logarithms has no mean, nor a CRPS.

    Args:
        predictive: the laws of the steps.
        values: what happened, (T, m); NaN means missing.
        seed: for the draws of the energy score.
        units: the way back, if the values are transformed.

    Returns:
        Scores of the steps that were wholly observed.

    Raises:
        ValueError: no step was.
    """
    require("scoringrules")
    import scoringrules

    law, y = wholly_observed(predictive, values)
    log_density, pit = law.log_prob(y), law.cdf(y)
    if units is None:
        crps, mean, median = _crps(law, y, seed), law.mean, law.quantile(0.5)
    else:
        log_density = log_density + units.log_jacobian(y)
        quantiles, y = units.back(_quantiles(law)), units.back(y)
        crps = scoringrules.crps_quantile(y, quantiles, _QUANTILES, m_axis=1)
        mean, median = quantiles.mean(axis=1), units.back(law.quantile(0.5))
    if y.shape[1] == 1:
        energy = crps[:, 0]
    else:
        draws = law.sample(np.random.default_rng(seed), _ENERGY_SAMPLES)
        draws = draws if units is None else units.back(draws)
        energy = scoringrules.es_ensemble(y, draws, m_axis=1, v_axis=2, estimator="fair")
    return Scores(log_density, crps, energy, y - mean, np.abs(y - median), pit)


def _quantiles(law: Predictive) -> Float[np.ndarray, "n 199 m"]:
    """Quantiles of each step and column; of mixtures by interpolation, as a search takes long."""
    count, (n, m) = law.weights.shape[1], law.mean.shape
    if count == 1:
        return np.stack([law.quantile(level) for level in _QUANTILES], axis=1)
    # The distribution function is linear between the quantiles of all components.
    some = np.linspace(0, len(_QUANTILES) - 1, max(25, 400 // count)).round().astype(int)
    parts = [law._replace(weights=np.ones((n, 1)), means=law.means[:, [k]],
                          scales=law.scales[:, [k]], df=None if law.df is None else law.df[:, [k]])
             for k in range(count)]  # fmt: skip
    knots = np.stack([part.quantile(p) for part in parts for p in _QUANTILES[np.unique(some)]])
    knots = np.sort(knots, axis=0)
    heights = np.stack([law.cdf(knot) for knot in knots])
    quantiles = np.empty((n, len(_QUANTILES), m))
    for t, i in np.ndindex(n, m):
        quantiles[t, :, i] = np.interp(_QUANTILES, heights[:, t, i], knots[:, t, i])
    return quantiles


def _crps(law: Predictive, y: Float[np.ndarray, "n m"], seed: int) -> Float[np.ndarray, "n m"]:
    """The CRPS in closed form; from draws for a mixture of Student-t laws."""
    require("scoringrules")
    import scoringrules

    crps: np.ndarray
    df, shape = law.df, law.means.shape
    if df is None:
        weights = np.broadcast_to(law.weights[:, :, None], shape)
        crps = scoringrules.crps_mixnorm(y, law.means, law.deviations, weights, m_axis=1)
    elif shape[1] == 1:
        crps = scoringrules.crps_t(y, df, law.means[:, 0], law.deviations[:, 0])
    else:
        draws = law.sample(np.random.default_rng(seed), _ENERGY_SAMPLES)
        crps = scoringrules.crps_ensemble(y, draws, m_axis=1, estimator="fair")
    return crps


def score_paths(
    paths: Float[np.ndarray, "N n H m"],
    values: Float[np.ndarray, "N H m"],
    units: Units | None = None,
) -> PathScores:
    """Score sampled paths against what happened; NaN means missing.

    Args:
        paths: n paths from each of N origins.
        values: the values of the same steps.
        units: the way back, if both are transformed.

    Returns:
        Scores of every origin and number of steps ahead.
    """
    require("scoringrules")
    import scoringrules

    if units is not None:
        paths, values = units.back(paths), units.back(values)
    seen = np.isfinite(values)
    y = np.where(seen, values, 0.0)
    crps = scoringrules.crps_ensemble(y, paths, m_axis=1, estimator="fair")
    crps = np.where(seen, crps, np.nan)
    if values.shape[-1] == 1:
        energy = crps[..., 0]
    else:
        energy = scoringrules.es_ensemble(y, paths, m_axis=1, v_axis=3, estimator="fair")
        energy = np.where(seen.all(axis=-1), energy, np.nan)
    ranks = np.where(seen, (paths < y[:, None]).mean(axis=1), np.nan)
    return PathScores(crps, energy, values - paths.mean(axis=1), ranks)


def standard_error(terms: Float[np.ndarray, " n"]) -> float:
    """The standard error of a mean of consecutive terms, robust to autocorrelation.

    Args:
        terms: the terms, in the order of time.

    Returns:
        The standard error with ⌊4 (n/100)^(2/9)⌋ lags, by statsmodels; NaN for fewer than 3 terms.

    Source: Newey and West (1987), Econometrica 55.
    """
    require("statsmodels")
    from statsmodels.api import OLS

    n = len(terms)
    if n < 3:
        return float("nan")
    if np.ptp(terms) == 0:
        return 0.0
    lags = int(4 * (n / 100) ** (2 / 9))
    fit = OLS(terms, np.ones(n)).fit(cov_type="HAC", cov_kwds={"maxlags": lags})
    return float(fit.bse[0])


def uniformity(pit: Float[np.ndarray, "n m"]) -> float:
    """The p-value of a uniform PIT by Kolmogorov and Smirnov: m times the smallest over columns."""
    from scipy import stats

    columns = [stats.kstest(column, "uniform").pvalue for column in pit.T]
    return float(min(1.0, len(columns) * min(columns)))
