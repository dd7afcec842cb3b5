"""What the sentences on one series and on many share: lists, shares, numbers, chance."""

from collections.abc import Sequence

import numpy as np

#: So many names stand in a sentence, at most.
_NAMES = 5


def listed(names: Sequence[str], most: int = _NAMES, last: str = " and ") -> str:
    """Names in a sentence; of a long list the first ones and how many more.

    Examples:
        >>> from ssmlin.comparison._sentences import listed
        >>> listed(["a", "b", "c"])
        'a, b and c'
    """
    if len(names) > most:
        names = [*names[: most - 1], f"{len(names) - most + 1} more"]
    *first, end = names
    return f"{', '.join(first)}{last}{end}" if first else end


def significant(x: float, digits: int = 3) -> str:
    """A number with so many digits that count, without an exponent where it can be."""
    if x == 0 or not np.isfinite(x):
        return f"{x:g}"
    rounded = float(f"{x:.{digits - 1}e}")
    places = digits - 1 - int(np.floor(np.log10(abs(rounded))))
    return f"{rounded:.{max(0, places)}f}" if places < 12 else f"{rounded:g}"


def chance_range(level: float, count: int, doubt: float) -> tuple[float, float]:
    """The shares of values inside intervals that chance allows, with probability 1 − doubt.

    Args:
        level: the probability of the intervals.
        count: how many values there are.
        doubt: the probability of another share where the intervals are right, at most.

    Returns:
        The smallest and the largest share, by the binomial distribution.
    """
    from scipy.stats import binom

    ends = binom.ppf([doubt / 2, 1 - doubt / 2], count, level) / count
    return float(ends[0]), float(ends[1])


def percentages(*shares: float) -> list[str]:
    """Shares in percent, with as many decimals, two at most, as it takes to tell them apart."""
    for decimals in (0, 1, 2):
        said = [f"{100 * share:.{decimals}f}" for share in shares]
        if len(set(said)) == len(set(shares)):
            break
    return said
