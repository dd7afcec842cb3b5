"""What to do about a comparison: each sentence follows from evidence in the scores."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from ssmlin.comparison._scores import Scores, standard_error
from ssmlin.comparison._sentences import listed
from ssmlin.comparison._tables import Comparison
from ssmlin.comparison._trust import Trust
from ssmlin.forecasting import choose_regression, season_of

#: The probability of a sentence without a reason, at most.
_DOUBT = 0.01
#: Steps a season to look for where the times do not say it.
_SEASONS = (4, 7, 12, 24, 52)
#: A lead that needs so many times the steps to be told from none is no lead.
_TIMES = 20
#: With fewer steps nothing is said about them.
_FEWEST = 20


def advice(
    several: Mapping[str, Comparison],
    scores: Mapping[str, Scores],
    best: Sequence[str],
    trusted: Mapping[str, Trust],
) -> tuple[str, ...]:
    """Sentences on what to do, none where the scores show nothing.

    Args:
        several: the comparisons.
        scores: of each model that did not fail, the best first.
        best: the models that cannot be told apart.
        trusted: whether the intervals of each model may be trusted.

    Returns:
        The sentences.
    """
    first = next(iter(scores))
    found = [_other_intervals(first, best, trusted)]
    if len(several) == 1 and len(scores[first].log_density) >= _FEWEST:
        (comparison,) = several.values()
        found += [
            _season(comparison, scores[first]),
            _transformation(comparison, scores[first]),
            _refits(comparison, scores[first]),
            _memory(scores[first]),
        ]
    found.append(_more_data(scores, best))
    return tuple(sentence for sentence in found if sentence)


def _other_intervals(first: str, best: Sequence[str], trusted: Mapping[str, Trust]) -> str:
    """Models as good whose intervals may be trusted, where those of the best may not."""
    if not trusted[first].wrong:
        return ""
    others = [name for name in best if not trusted[name].wrong]
    if not others:
        return ""
    shares = [f"{name} ({100 * trusted[name].share:.0f} %)" for name in others]
    they = "it" if len(others) == 1 else "they"
    return (
        f"Where intervals matter take {listed(shares, last=' or ')}: {they} cannot be told from "
        f"{first}, and the intervals may be trusted."
    )


def _season(comparison: Comparison, scores: Scores) -> str:
    """A season that nobody named: by the times, or in the errors of the best model."""
    split = comparison.split
    if split.series.period is not None:
        return ""
    by_times = season_of(split.series.times)
    if by_times is not None:
        if choose_regression(split.train, by_times)[1] is None:
            return ""
        return (
            f"Give the season, --period {by_times}: by the first part of the series it is worth "
            "its coefficients."
        )
    z = _normal(scores)
    periods = [period for period in _SEASONS if 3 * period <= len(z)]
    for period in periods:
        here, *beside = (_autocorrelation(z, lag) for lag in (period, period - 1, period + 1))
        if here > _threshold(z, len(periods)) and here > max(beside):
            return (
                f"Give the season, --period {period}: the errors come back after {period} steps "
                f"(autocorrelation {here:.2f})."
            )
    return ""


def _transformation(comparison: Comparison, scores: Scores) -> str:
    """Errors that grow with the level, of values that were not transformed."""
    from scipy.stats import spearmanr

    split = comparison.split
    values = split.series.values
    if split.scaling.is_transformed or not np.nanmin(values) > 0:
        return ""
    held_out = values[split.num_train :]
    held_out = held_out[np.isfinite(held_out).all(axis=1)] / np.array(split.spread)
    for name, level, errors in zip(
        split.series.columns, (held_out - scores.errors).T, scores.errors.T, strict=True
    ):
        if np.ptp(level) == 0 or np.ptp(np.abs(errors)) == 0:
            continue
        found = spearmanr(level, np.abs(errors), alternative="greater")
        if found.pvalue < _DOUBT / len(split.series.columns):
            return (
                f"Try --log: the errors grow with the level of {name} (rank correlation "
                f"{found.statistic:.2f})."
            )
    return ""


def _refits(comparison: Comparison, scores: Scores) -> str:
    """Intervals that fail in the second half of the held-out part and not in the first."""
    from scipy.stats import fisher_exact

    if comparison.num_refits > 0:
        return ""
    inside = np.abs(scores.pit - 0.5) <= 0.4
    halves = np.array_split(inside, 2)
    steps = [half.mean(axis=1) >= 0.5 for half in halves]  # one a step, as columns move together
    table = [[int(half.sum()), int((~half).sum())] for half in steps]
    if fisher_exact(table, alternative="greater").pvalue >= _DOUBT:
        return ""
    shares = [f"{100 * half.mean():.0f} %" for half in halves]
    return (
        f"Fit anew as time goes on, --refits 4: the 80 % intervals hold {shares[0]} of the values "
        f"in the first half of the held-out part and {shares[1]} in the second."
    )


def _memory(scores: Scores) -> str:
    """Errors that follow from those before."""
    z = _normal(scores)
    found = _autocorrelation(z, 1)
    if abs(found) <= _threshold(z, 2):
        return ""
    return (
        f"Try more models, --models all, or inputs that explain it: the errors follow from those "
        f"before (autocorrelation {found:.2f})."
    )


def _more_data(scores: Mapping[str, Scores], best: Sequence[str]) -> str:
    """How many held-out steps would tell the best two apart."""
    if len(best) < 2:
        return ""
    one, other = best[0], best[1]
    differences = scores[one].log_density - scores[other].log_density
    lead, error, steps = float(differences.mean()), standard_error(differences), len(differences)
    if not (lead > 0 and error > 0):
        return ""
    times = (3 * error / lead) ** 2
    if times <= 1:
        return ""
    if times > _TIMES:
        return f"More data will hardly tell {one} from {other}: take the one that you prefer."
    digits = -int(np.floor(np.log10(times * steps))) + 1
    return (
        f"More data may tell {one} from {other}: if the lead stays as it is, about "
        f"{round(times * steps, digits):.0f} held-out steps would."
    )


def _normal(scores: Scores) -> Float[np.ndarray, "n m"]:
    """What is unexplained: standard normal, and independent, of a model that is right."""
    from scipy.stats import norm

    z: np.ndarray = norm.ppf(np.clip(scores.pit, 1e-6, 1 - 1e-6))
    return z


def _autocorrelation(z: Float[np.ndarray, "n m"], lag: int) -> float:
    """The mean over columns."""
    z = z - z.mean(axis=0)
    size = (z**2).sum(axis=0)
    products = (z[lag:] * z[:-lag]).sum(axis=0)
    return float(np.mean(np.divide(products, size, out=np.zeros_like(size), where=size > 0)))


def _threshold(z: Float[np.ndarray, "n m"], looks: int) -> float:
    """What chance leaves below it of an autocorrelation, with several looks."""
    from scipy.stats import norm

    return float(norm.ppf(1 - _DOUBT / looks) / np.sqrt(len(z)))
