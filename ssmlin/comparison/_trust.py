"""Whether a model's intervals may be trusted: their coverage, and what chance allows."""

from typing import NamedTuple

from ssmlin.comparison._scores import Scores
from ssmlin.comparison._sentences import chance_range, percentages

#: The intervals that are judged, and the probability that right ones are called wrong, at most.
_JUDGED, _DOUBT = (0.95, 0.8), 0.05


class Trust(NamedTuple):
    """Whether intervals may be trusted.

    Attributes:
        share: of held-out values inside the 95 % intervals.
        wrong: "narrow" or "wide", or "" where the intervals may be trusted.
        sentence: says it.
    """

    share: float
    wrong: str
    sentence: str


def trust(model: str, scores: Scores) -> Trust:
    """Judge the 95 and 80 % intervals of one-step predictions by the binomial distribution.

    Intervals are called wrong if fewer or more values are inside than chance allows; where they
    are right that happens with a probability of 5 % at most, both levels together. Columns may
    move together, so several of them count as one: chance allows what it would allow with one
    value a step.

    Args:
        model: its name.
        scores: of its predictions.

    Returns:
        The coverage, and a sentence.
    """
    steps, columns = scores.pit.shape
    count = f"{steps * columns} held-out values"
    for level in _JUDGED:
        share = scores.coverage(level)
        low, high = chance_range(level, steps, _DOUBT / len(_JUDGED))
        if not low <= share <= high:
            wrong, beyond = ("narrow", "fewer") if share < low else ("wide", "more")
            held, least, most = percentages(share, low, high)
            return Trust(
                scores.coverage(0.95), wrong,
                f"Do not trust the intervals of {model}, they are too {wrong}: the "
                f"{100 * level:.0f} % intervals hold {held} % of {count}, {beyond} than the "
                f"{least} to {most} % that chance allows.",
            )  # fmt: skip
    share = scores.coverage(0.95)
    low, high = chance_range(0.95, steps, _DOUBT / len(_JUDGED))
    held, least, most = percentages(share, low, high)
    return Trust(
        share, "",
        f"The intervals of {model} may be trusted: the 95 % intervals hold {held} % of {count}, "
        f"and chance allows {least} to {most} %.",
    )  # fmt: skip
