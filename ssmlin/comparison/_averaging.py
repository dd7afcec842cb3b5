r"""Dynamic model averaging: the mixture of several fitted models, weighted by what they predicted.

$$w_{tk} \propto w_{t-1,k}^{\alpha} \, p_k(y_{t-1} \mid y_{1:t-2})$$

from equal weights at the first held-out step; the forgetting factor α = 0.99 lets weights move.
Weights see past emissions alone, as a filter does.

Source: Raftery, Kárný and Ettler (2010), Technometrics 52.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from ssmlin.comparison._evaluation import Result, path_origins
from ssmlin.comparison._scores import score, score_paths
from ssmlin.comparison._split import Split
from ssmlin.forecasting import Ahead, Predictive

FORGETTING = 0.99


class Weights(NamedTuple):
    """What a report may show of an average.

    Attributes:
        names: of the n models.
        values: their weights at each held-out step, (T, n).
    """

    names: tuple[str, ...]
    values: Float[np.ndarray, "T n"]


def dynamic_weights(
    log_densities: Float[np.ndarray, "T n"], forgetting: float = FORGETTING
) -> Float[np.ndarray, "T n"]:
    """Weights of n models at each step, from their log densities of the steps before.

    Args:
        log_densities: of each step by each model; NaN where a step was not observed.
        forgetting: α, in (0, 1].

    Returns:
        Weights, each row sums to one.

    Examples:
        >>> import numpy as np
        >>> from ssmlin.comparison._averaging import dynamic_weights
        >>> dynamic_weights(np.log([[0.9, 0.1], [0.5, 0.5]]), forgetting=1.0).round(2).tolist()
        [[0.5, 0.5], [0.9, 0.1]]
    """
    gains = np.nan_to_num(log_densities[:-1])
    # The weighted sum of all earlier log densities: α^0, α^1, ... from the latest back.
    scores = np.zeros_like(log_densities)
    for t, gain in enumerate(gains):
        scores[t + 1] = forgetting * scores[t] + gain
    weights: np.ndarray = np.exp(scores - scores.max(axis=1, keepdims=True))
    weights /= weights.sum(axis=1, keepdims=True)
    return weights


def average(members: Sequence[Result], split: Split, horizon: int = 1, seed: int = 0) -> Result:
    """The average of models that were evaluated on the same held-out part.

    Args:
        members: their results, none failed.
        split: the series.
        horizon: the length of the members' paths.
        seed: for draws.

    Returns:
        A result like those of the members.
    """
    values = split.test
    laws = [r.predictive for r in members if r.predictive is not None]
    seen = np.isfinite(values).all(axis=1)
    log_densities = np.full((len(values), len(laws)), np.nan)
    for column, law in enumerate(laws):
        log_densities[seen, column] = law.log_prob(np.nan_to_num(values))[seen]
    weights = dynamic_weights(log_densities)
    predictive = Predictive.mixture(laws, weights)
    draws = paths = None
    of_members = [r.draws for r in members if r.draws is not None]
    if len(of_members) == len(members):
        steps = len(split.observed.values)
        origins = path_origins(split.num_train, steps, horizon, len(of_members[0]))
        draws = _mix_paths(np.stack(of_members), weights[origins - split.num_train], seed)
        paths = score_paths(
            draws, Ahead(origins, horizon).future(split.observed.values), split.units
        )
    return Result(
        name="average",
        setting={"models": len(members)},
        scores=score(predictive, values, seed, split.units),
        paths=paths,
        predictive=predictive,
        num_parameters=sum(r.num_parameters for r in members),
        seconds=sum(r.seconds for r in members),
        details=Weights(tuple(r.name for r in members), weights),
        draws=draws,
    )


def _mix_paths(
    draws: Float[np.ndarray, "k N n H m"], weights: Float[np.ndarray, "N k"], seed: int
) -> Float[np.ndarray, "N n H m"]:
    """Take from each model's paths the share that is its weight."""
    rng = np.random.default_rng(seed)
    _, num_origins, n = draws.shape[:3]
    bounds = np.cumsum(weights, axis=1)[:, None, :]
    u = (np.arange(n) + rng.uniform(size=(num_origins, 1))) / n  # stratified
    which = np.minimum((u[..., None] > bounds).sum(axis=-1), len(draws) - 1)
    mixed: np.ndarray = draws[which, np.arange(num_origins)[:, None], np.arange(n)]
    return mixed
