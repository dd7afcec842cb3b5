"""What a comparison says, in three sentences, what to do about it, and which model to fit."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from ssmlin.comparison._advice import advice
from ssmlin.comparison._confidence_set import model_confidence_set
from ssmlin.comparison._evaluation import Result
from ssmlin.comparison._scores import Scores, standard_error
from ssmlin.comparison._sentences import listed, significant
from ssmlin.comparison._split import Split
from ssmlin.comparison._tables import Comparison, pooled_results
from ssmlin.comparison._trust import trust
from ssmlin.forecasting import FittedAttention
from ssmlin.mechanisms import MECHANISMS

#: A model whose p-value is no larger is worse than the best.
_SIGNIFICANT = 0.05
#: The simplest models.
_SIMPLE = ("persistence", "seasonal_naive")


class Choice(NamedTuple):
    """The best of the models that :class:`ssmlin.Forecaster` can fit, as it was compared.

    Attributes:
        mechanism: its mechanism.
        lags: its lagged values; None where series differ.
        season: the steps a season of its harmonics, 1 for none; None where series differ.
        power: λ of the transformation, 1 for none; None where columns or series differ.
        reason: a sentence on how it stands to the best of all models.
    """

    mechanism: str
    lags: int | None
    season: int | None
    power: float | None
    reason: str


class Verdict(NamedTuple):
    """What :func:`verdict` returns; ``print`` shows its sentences.

    Attributes:
        which: a sentence: which models are best and cannot be told apart.
        by_how_much: a sentence: what the best one gains on the simplest.
        trusted: a sentence: whether its intervals may be trusted.
        advice: sentences on what to do, each from evidence in the scores; there may be none.
        best: the names of the best models, that of the highest log density first.
        choice: what to fit, or None where no model that was compared is a linear attention.
    """

    which: str
    by_how_much: str
    trusted: str
    advice: tuple[str, ...]
    best: tuple[str, ...]
    choice: Choice | None

    @property
    def sentences(self) -> tuple[str, ...]:
        """The three sentences, and the advice."""
        return (self.which, self.by_how_much, self.trusted, *self.advice)

    def __str__(self) -> str:
        return "\n".join(self.sentences)


def verdict(comparison: Comparison | Mapping[str, Comparison], seed: int = 0) -> Verdict:
    """Which models are best, what they gain, whether to trust their intervals, and what to do.

    The best models are the confidence set of :func:`ssmlin.comparison.model_confidence_set` at
    95 %, of the log densities of the held-out steps. Gains are paired differences ± one standard
    error that allows for autocorrelation. Intervals may be trusted where the share of held-out
    values inside them is one that chance allows, by the binomial distribution.

    Args:
        comparison: of one series, or of several by name, which are judged together.
        seed: of the confidence set.

    Returns:
        Sentences, the names of the best models, and what to fit.

    Raises:
        ValueError: all models failed.

    Examples:
        >>> import numpy as np
        >>> from ssmlin.comparison import Series, compare_models, verdict
        >>> y = np.cumsum(np.random.default_rng(0).normal(size=(60, 1)), axis=0)
        >>> series = Series("walk", y, np.arange(60), ("y",), "simulated")
        >>> print(verdict(compare_models(series, "persistence", progress=False)).which)
        Only persistence was compared.
    """
    several = {"": comparison} if isinstance(comparison, Comparison) else comparison
    splits = [one.split for one in several.values()]
    results = next(iter(several.values())).results
    if len(several) > 1:
        results = tuple(pooled_results(several))
    scored = [
        (r, r.scores)
        for r in results
        if r.scores is not None and np.isfinite(r.scores.log_density).all()
    ]
    if not scored:
        raise ValueError("comparison: expected a model that did not fail, got none")
    scored.sort(key=lambda one: -one[0].log_density)
    scores = {result.name: found for result, found in scored}
    densities = np.stack([found.log_density for found in scores.values()], axis=1)
    p_values = model_confidence_set(densities, seed)
    best = tuple(name for name, p in zip(scores, p_values, strict=True) if p > _SIGNIFICANT)
    compared = max(len(one.results) for one in several.values())
    trusted = {name: trust(name, found) for name, found in scores.items()}
    return Verdict(
        which=_which(scores, best, compared),
        by_how_much=_by_how_much(scores, best, splits),
        trusted=trusted[next(iter(scores))].sentence,
        advice=advice(several, scores, best, trusted),
        best=best,
        choice=_choice(several, [result for result, _ in scored], scores, best),
    )


def _which(scores: Mapping[str, Scores], best: Sequence[str], compared: int) -> str:
    """The best models."""
    first, *others = scores
    steps = len(scores[first].log_density)
    over = f"over {steps} held-out steps"
    if not others:
        return f"Only {first} was compared." if compared == 1 else f"Only {first} did not fail."
    ahead = f"{_ahead(scores, first, others[0])} nats a step"
    if len(best) == 1:
        return f"Best {over} is {first}, ahead of {others[0]} by {ahead}."
    who = f"Best {over} are {listed(best)}, which cannot be told apart"
    if len(best) == len(scores):
        who = f"No model can be told to be better than another {over}: {listed(best)}"
    return f"{who}; {first} has the highest log density, {ahead} more than {others[0]}."


def _by_how_much(scores: Mapping[str, Scores], best: Sequence[str], splits: Sequence[Split]) -> str:
    """What the best model gains on the simplest."""
    simple = [name for name in scores if name in _SIMPLE]
    first = next(iter(scores))
    if not simple:
        return f"What is gained is not known: there are no scores of {' or '.join(_SIMPLE)}."
    if len(simple) == len(scores):
        return f"What can be gained is not known: there are scores of {listed(simple)} alone."
    of = "the better of the two simplest models" if len(simple) > 1 else "the simplest model"
    simplest = simple[0]
    if first == simplest:
        return f"No model gains on {simplest}, {of}."
    ahead = _ahead(scores, first, simplest)
    errors = [float(np.sqrt(np.mean(scores[name].errors ** 2))) for name in (first, simplest)]
    change = 100 * (errors[0] / errors[1] - 1)
    than = f"{abs(change):.0f} % {'lower' if change < 0 else 'higher'}"
    own = ""
    if len(splits) == 1 and len(splits[0].spread) == 1:
        spread, name = splits[0].spread[0], splits[0].series.columns[0]
        sizes = [significant(x * spread) for x in errors]
        own = f", {sizes[0]} instead of {sizes[1]} (units of {name})"
    doubt = ", so the difference may be none" if simplest in best else ""
    return (
        f"The log density of {first} is {ahead} nats a step above that of {simplest}, {of}{doubt}; "
        f"its RMSE is {than}{own}."
    )


def _ahead(scores: Mapping[str, Scores], one: str, other: str) -> str:
    """By how much the log density of a model is above that of another one."""
    return _plus_minus(scores[one].log_density - scores[other].log_density)


def _plus_minus(differences: Float[np.ndarray, " n"]) -> str:
    """A mean and its standard error."""
    mean, error = float(differences.mean()), standard_error(differences)
    return f"{mean:.3f}" if np.isnan(error) else f"{mean:.3f} ± {error:.3f}"


def _choice(
    several: Mapping[str, Comparison],
    results: Sequence[Result],
    scores: Mapping[str, Scores],
    best: Sequence[str],
) -> Choice | None:
    """The best model that can be fitted to the whole series."""
    fits: dict[str, list[FittedAttention]] = {}
    for comparison in several.values():
        for result in comparison.results:
            if isinstance(result.details, FittedAttention) and result.name in MECHANISMS:
                fits.setdefault(result.name, []).append(result.details)
    name = next((r.name for r in results if r.name in fits), None)
    if name is None:
        return None
    first = results[0].name
    reason = f"{name} has the highest log density."
    if name != first:
        within = "which may be chance" if name in best else "more than chance explains"
        behind = _plus_minus(scores[first].log_density - scores[name].log_density)
        reason = (
            f"{first} is no linear attention; of these {name} is best, {behind} nats a step "
            f"behind, {within}."
        )
    lags = {fit.model.num_lags for fit in fits[name]}
    seasons = {fit.seasonal or 1 for fit in fits[name]}
    powers = {power for one in several.values() for power in one.split.scaling.power}
    return Choice(
        mechanism=name,
        lags=lags.pop() if len(lags) == 1 else None,
        season=seasons.pop() if len(seasons) == 1 else None,
        power=powers.pop() if len(powers) == 1 else None,
        reason=reason,
    )
