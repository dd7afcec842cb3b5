"""What a comparison over a collection says, in three sentences."""

from typing import TYPE_CHECKING

from ssmlin.comparison._sentences import listed
from ssmlin.comparison.collections._registry import SEASONAL_NAIVE
from ssmlin.comparison.collections._summary import bootstrap_means

if TYPE_CHECKING:
    from ssmlin.comparison.collections._comparison import CollectionComparison

#: Shares of values inside 95 % intervals that can be trusted.
TRUSTED = (0.93, 0.97)
_SIGNIFICANT = 0.05


def conclusions(comparison: "CollectionComparison", seed: int = 0) -> tuple[str, str, str]:
    """Which models are best, how much they gain, and whether their intervals can be trusted.

    Args:
        comparison: of a collection.
        seed: of the bootstrap over series.

    Returns:
        Three sentences: the models that the critical difference of average ranks of CRPS does not
        distinguish from the best; the best one's skill beside seasonal naive; the coverage of its
        95 % intervals, which can be trusted where that is 0.93 to 0.97.

    Raises:
        ValueError: no series whose training part changes.
    """
    best, *_ = comparison.ordered()
    return (
        _which(comparison, best),
        _by_how_much(comparison, best, seed),
        _trusted(comparison, best, seed),
    )


def _which(comparison: "CollectionComparison", best: str) -> str:
    """The best models by the ranks."""
    if len(comparison.models) == 1:
        return f"Only {best} was compared."
    found = comparison.ranks()
    ranks = {x: float(found.ranks[comparison.models.index(x)]) for x in comparison.ordered()}
    margin = f"critical difference {found.critical_difference:.2f}"
    said = {model: f"{model} ({rank:.2f})" for model, rank in ranks.items()}
    over = f"by average rank of CRPS over {found.num_series} series"
    if found.p_value > _SIGNIFICANT:
        return (
            f"No model can be told to be better than another {over} (Friedman's test: p = "
            f"{found.p_value:.2f}); the best rank is that of {said[best]}."
        )
    # A model that failed on all series has the scores of seasonal naive, which say nothing of it.
    num = len(comparison.collection)
    ran = [x for x in ranks if comparison.forecasts[x].num_failures < num]
    near = [said[x] for x in ran if ranks[x] - ranks[best] < found.critical_difference]
    if len(near) == len(ran):
        return f"No model can be told to be better than another {over}: {listed(near)}; {margin}."
    if len(near) > 1:
        return f"Best {over} are {listed(near)}, which cannot be told apart; {margin}."
    second = said[ran[1]]
    return f"Best {over} is {near[0]}, ahead of {second} by more than the {margin}."


def _by_how_much(comparison: "CollectionComparison", best: str, seed: int) -> str:
    """The skill of the best model."""
    frame = comparison.relative("crps", seed=seed)
    others = [model for model in comparison.models if model != SEASONAL_NAIVE]
    if best == SEASONAL_NAIVE and not others:
        return "There is no other model to measure seasonal naive by."
    model = str(frame.loc[others, "rank"].idxmin()) if best == SEASONAL_NAIVE else best
    row = frame.loc[model]
    skill, low, high = (100 * row[x] for x in ("skill", "skill_low", "skill_high"))
    where = "below" if skill >= 0 else "above"
    ends = f"{low:.1f} to {high:.1f} %" if skill >= 0 else f"{-high:.1f} to {-low:.1f} %"
    doubt = ", so the difference may be none" if low <= 0 <= high else ""
    subject = f"The CRPS of {model} is {abs(skill):.1f} % {where} that of seasonal naive"
    if best == SEASONAL_NAIVE:
        subject = "Seasonal naive itself is best: the" + subject.removeprefix("The")
    return f"{subject} (geometric mean; 95 % interval over series {ends}){doubt}."


def _trusted(comparison: "CollectionComparison", best: str, seed: int) -> str:
    """The coverage of the best model's 95 % intervals."""
    coverage = comparison.scores[best].coverage_95
    found = bootstrap_means(coverage[:, None], seed)
    share, low, high = (float(x[0]) for x in found)
    least, most = TRUSTED
    wrong = "narrow" if share < least else "wide"
    if least <= share <= most:
        verdict = "can be trusted"
    elif low <= most and high >= least:
        verdict = f"may be too {wrong}, but chance alone may explain it"
    else:
        verdict = f"cannot be trusted, they are too {wrong}"
    return (
        f"The 95 % intervals of {best} {verdict}: {100 * share:.1f} % of the held-out values are "
        f"inside (95 % interval over series {100 * low:.1f} to {100 * high:.1f} %; "
        f"{100 * least:.0f} to {100 * most:.0f} % is asked for)."
    )
