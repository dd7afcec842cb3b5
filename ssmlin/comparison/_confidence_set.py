"""The models that held-out scores cannot tell apart from the best: a model confidence set."""

import numpy as np
from jaxtyping import Float

_DRAWS = 1999


def model_confidence_set(
    scores: Float[np.ndarray, "n M"], seed: int = 0
) -> Float[np.ndarray, " M"]:
    r"""p-values of M models: those above α hold the best one with confidence 1 − α.

    With $d_{ij}^b$ the sum of the paired differences $s_{ti} - s_{tj}$ over a block of consecutive
    steps, the model i with the largest
    $\max_j \sum_b d_{ji}^b / \sqrt{\sum_b (d_{ji}^b)^2}$ is taken away, again and again among those
    that are left. The p-value of a removal is the share of draws in which this is no less after
    the signs of whole blocks were drawn at random: if no model is better than another, and blocks
    are independent and symmetric, all signs are as likely. A model's p-value is the largest until
    it is taken away, and 1 for the last. Blocks have about $n^{1/3}$ steps, so that
    autocorrelation counts. Fewer than six of them exclude no model at α = 0.05.

    Args:
        scores: of n steps in the order of time, higher is better.
        seed: of the signs.

    Returns:
        The p-values, in the order of the columns.

    Raises:
        ValueError: scores that are not finite, or none.

    Examples:
        >>> import numpy as np
        >>> from ssmlin.comparison import model_confidence_set
        >>> a, noise = np.random.default_rng(0).normal(size=(2, 80))
        >>> p = model_confidence_set(np.stack([a, a + 0.01 * noise, a - 2 - noise], 1))
        >>> bool(p[0] > 0.05 and p[1] > 0.05 and p[2] < 0.05)
        True

    Source: Hansen, Lunde and Nason (2011), Econometrica 79, the set and the statistic T_R;
        signs in place of their bootstrap, which excludes too many models where n is small:
        Canay, Romano and Shaikh (2017), Econometrica 85.
    """
    if scores.ndim != 2 or 0 in scores.shape or not np.isfinite(scores).all():
        raise ValueError(
            "scores: expected finite numbers of shape (n, M), got shape "
            f"{scores.shape} with {int((~np.isfinite(scores)).sum())} not finite"
        )
    n, num_models = scores.shape
    num_blocks = max(1, n // max(1, round(n ** (1 / 3))))
    blocks = np.stack([part.sum(axis=0) for part in np.array_split(scores, num_blocks)])
    differences = blocks[:, None, :] - blocks[:, :, None]  # of i to j
    sizes = np.sqrt((differences**2).sum(axis=0))
    sizes[sizes <= 1e-12 * np.abs(blocks).sum()] = np.inf  # the same but for rounding
    differences = differences / sizes
    observed = differences.sum(axis=0)
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], size=(_DRAWS, num_blocks))
    drawn = (signs @ differences.reshape(num_blocks, -1)).reshape(_DRAWS, num_models, num_models)
    p_values, largest, left = np.ones(num_models), 0.0, list(range(num_models))
    while len(left) > 1:
        among = np.ix_(left, left)
        found = observed[among].max(axis=1)
        draws = drawn[:, *among].max(axis=(1, 2))
        as_large = int((draws >= found.max() - 1e-9).sum())
        largest = max(largest, (1 + as_large) / (1 + _DRAWS))
        worst = left[int(found.argmax())]
        p_values[worst] = largest
        left.remove(worst)
    return p_values
