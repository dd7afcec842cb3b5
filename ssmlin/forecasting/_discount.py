"""The discount of Σ, chosen by the likelihood."""

from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Float

from ssmlin._typing import AnyArray
from ssmlin.forecasting._choice import most_likely
from ssmlin.forecasting._laws import one_step
from ssmlin.models import LinearAttentionSSM, ParamsLinearAttentionSSM, StateLaw

#: Discounts of Σ to choose among.
DISCOUNTS = (1.0, 0.98, 0.95, 0.92, 0.88, 0.84, 0.8)

Window = tuple[Float[AnyArray, "W m"], Float[AnyArray, "W p"]]


def best_discount(
    model: LinearAttentionSSM,
    params: ParamsLinearAttentionSSM,
    sequences: Iterable[Iterable[Window]],
    discounts: Sequence[float] = DISCOUNTS,
    weight: float = 1.0,
) -> float:
    """The discount of Σ with the highest likelihood; the filter's means do not depend on it.

    Memory grows with a window only: from one window to the next go the law of the state and, for
    each discount, the law of Σ.

    Args:
        model: a model with Σ integrated out.
        params: its parameters.
        sequences: for each its consecutive windows of emissions (W, m) and inputs (W, p).
        discounts: to choose among.
        weight: how much each sequence counts, less than one for several draws of the same sequence.

    Returns:
        The largest discount, unless another gains more than two nats on it, see
        :func:`ssmlin.forecasting._choice.most_likely`.
    """
    totals = np.zeros(len(discounts))
    for windows in sequences:
        law, row_covs = None, None
        for emissions, inputs in windows:
            found, last = one_step(model, params, emissions, inputs, law), len(emissions) - 1
            means, covariances = (
                found.posterior.filtered_means, found.posterior.filtered_covariances
            )  # fmt: skip
            assert means is not None and covariances is not None
            law = StateLaw(np.asarray(means)[last], np.asarray(covariances)[last])
            integrated = found.integrated(discounts, row_covs)
            row_covs = integrated.row_cov
            totals += weight * np.asarray(integrated.marginal_loglik, np.float64)
    return discounts[most_likely(totals, int(np.argmax(discounts)))]
