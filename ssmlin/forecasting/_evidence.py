"""The evidence of a fitted model."""

import warnings

from jaxtyping import Array, Float

from ssmlin._typing import AnyArray
from ssmlin.learning import sample_posterior
from ssmlin.models import LinearAttentionSSM, ParamsLinearAttentionSSM


def laplace_evidence(
    model: LinearAttentionSSM,
    params: ParamsLinearAttentionSSM,
    props: ParamsLinearAttentionSSM,
    emissions: Float[AnyArray, "B T m"],
    inputs: Float[AnyArray, "B T p"],
    key: Array,
) -> float:
    """Laplace's approximation of log p(emissions), the trainable parameters integrated out.

    Args:
        model: the model.
        params: a mode of the posterior.
        props: what is trainable.
        emissions: a batch of sequences.
        inputs: their inputs; lags are known.
        key: a PRNG key.

    Returns:
        The log evidence, or NaN if `params` is no mode. At a mode the curvature is positive and a
        Newton step gains less than 0.05 nats, about what single precision can tell.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of the draws, which are not used
        draws = sample_posterior(
            key, model, params, props, emissions, inputs, algorithm="laplace", num_chains=1,
            num_samples=50, trajectories=False, progress=False,
        )  # fmt: skip
    found = draws.posterior.attrs
    slope, curvature = found["gradient_norm"], found["smallest_curvature"]
    is_mode = curvature > 0 and slope**2 / (2 * curvature) < 0.05
    return float(found["log_evidence"]) if is_mode else float("nan")
