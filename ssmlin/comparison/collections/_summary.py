"""From scores of single series to what a collection says: means, ratios, wins and ranks.

A table of scores here has a row for each series and a column for each model, lower is better, and
no NaN.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy import stats

#: Ratios of single series are clipped to this range, as in fev-bench.
CLIP = (0.01, 100.0)
_RESAMPLES = 1000


class Interval(NamedTuple):
    """An estimate for each of M models, with its central 95 % bootstrap interval over series."""

    estimate: Float[np.ndarray, " M"]
    low: Float[np.ndarray, " M"]
    high: Float[np.ndarray, " M"]


class Ranks(NamedTuple):
    """Average ranks, 1 the best.

    Attributes:
        ranks: of M models; ties share their ranks.
        critical_difference: average ranks that differ by less are not distinguished at 5 %, by
            Nemenyi's test.
        p_value: of Friedman's test that all models are alike; NaN for less than three.
        num_series: how many series were ranked.
    """

    ranks: Float[np.ndarray, " M"]
    critical_difference: float
    p_value: float
    num_series: int


def bootstrap_means(
    table: Float[np.ndarray, "n M"], seed: int = 0, num_resamples: int = _RESAMPLES
) -> Interval:
    """Means over series with intervals; all models share the resampled series.

    Args:
        table: a row for each series.
        seed: of the resamples.
        num_resamples: how many.

    Returns:
        The means.
    """
    n = len(table)
    rng = np.random.default_rng(seed)
    # How often each series is in a resample.
    counts = np.stack([np.bincount(_resample(rng, n), minlength=n) for _ in range(num_resamples)])
    low, high = np.quantile(counts @ table / n, (0.025, 0.975), axis=0)
    return Interval(table.mean(axis=0), low, high)


def _resample(rng: np.random.Generator, n: int) -> Int[np.ndarray, " n"]:
    return rng.integers(n, size=n)


def relative(
    table: Float[np.ndarray, "n M"], reference: Float[np.ndarray, " n"], seed: int = 0
) -> Interval:
    """Geometric means of the ratios to a reference; 1 minus them is the skill score.

    Ratios of single series are clipped to [0.01, 100]; 0 / 0 is 1.

    Args:
        table: scores of the models.
        reference: scores of the reference.
        seed: of the resamples.

    Returns:
        The geometric means.

    Source: Shchur et al. (2025), fev-bench, arXiv 2509.26468.
    """
    both_zero = (table == 0) & (reference[:, None] == 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = np.where(both_zero, 1.0, table / reference[:, None])
    found = bootstrap_means(np.log(np.clip(ratios, *CLIP)), seed)
    return Interval(*(np.exp(x) for x in found))


def win_rates(table: Float[np.ndarray, "n M"], seed: int = 0) -> Interval:
    """How often a model is better than another one, on average over the others; a tie is half.

    Args:
        table: scores of at least two models.
        seed: of the resamples.

    Returns:
        The shares.

    Source: Shchur et al. (2025), fev-bench, arXiv 2509.26468.
    """
    # A rank counts the better models, and half of those that tie.
    ranks = stats.rankdata(table, axis=1)
    return bootstrap_means((table.shape[1] - ranks) / (table.shape[1] - 1), seed)


def mean_ranks(table: Float[np.ndarray, "n M"]) -> Float[np.ndarray, " M"]:
    """Average ranks alone, also of a single model."""
    found: np.ndarray = stats.rankdata(table, axis=1).mean(axis=0)
    return found


def average_ranks(table: Float[np.ndarray, "n M"]) -> Ranks:
    """Average ranks with Friedman's test and Nemenyi's critical difference.

    Args:
        table: scores of at least two models.

    Returns:
        The ranks.

    Source: Demšar (2006), Journal of Machine Learning Research 7.
    """
    n, count = table.shape
    ranks = mean_ranks(table)
    quantile = stats.studentized_range.ppf(0.95, count, np.inf) / np.sqrt(2)
    p_value = float("nan")
    if count > 2 and n > 1 and not (table == table[:, :1]).all():
        p_value = float(stats.friedmanchisquare(*table.T).pvalue)
    return Ranks(
        ranks,
        float(quantile * np.sqrt(count * (count + 1) / (6 * n))),
        p_value,
        n,
    )
