"""The rule by which the recipe leaves a default: another choice must gain two nats."""

import numpy as np
from jaxtyping import Float

from ssmlin.models import GAIN


def most_likely(log_likelihoods: Float[np.ndarray, " n"], default: int = 0) -> int:
    """The choice of the highest log likelihood, or the default unless that gains two nats on it.

    Two nats are what one parameter too many gains by chance once in twenty times.

    Args:
        log_likelihoods: one for each choice.
        default: the place of the default among them.

    Returns:
        The place of the choice.
    """
    best = int(np.argmax(log_likelihoods))
    return best if log_likelihoods[best] > log_likelihoods[default] + GAIN else default
