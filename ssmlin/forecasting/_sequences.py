"""A series as the arrays that a model takes."""

from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float

from ssmlin.forecasting._interface import Observed
from ssmlin.models import LinearAttentionSSM, has_missing_lags


def with_lags(
    model: LinearAttentionSSM, observed: Observed
) -> tuple[Float[Array, "T m"], Float[Array, "T p"]]:
    """Emissions and inputs of a series; its first steps serve as lags only.

    Where rows share a covariance, a step that is partly missing is left out, unless lags are
    missing: then the values of such a step are drawn.

    Args:
        model: the model, which says how many lags there are.
        observed: the standardised series.

    Returns:
        Emissions, of which the first `num_lags` are missing, and inputs, lags first.
    """
    emissions = jnp.asarray(observed.values, jnp.float32)
    exogenous = jnp.asarray(observed.inputs, jnp.float32) if observed.inputs.shape[1] else None
    inputs = model.compute_inputs(emissions, exogenous=exogenous)
    if model.row_cov.structure == "full" and not lacks_lags(model, inputs):
        emissions = jnp.where(jnp.isnan(emissions).any(axis=1, keepdims=True), jnp.nan, emissions)
    return emissions.at[: model.num_lags].set(jnp.nan), inputs


def lacks_lags(model: LinearAttentionSSM, inputs: Float[Array, "... p"]) -> bool:
    """Whether lags among the inputs are missing."""
    return bool(has_missing_lags(inputs, model.num_lags * model.emission_dim).any())


def padded(
    model: LinearAttentionSSM, several: Sequence[Observed]
) -> tuple[Float[Array, "B T m"], Float[Array, "B T p"]]:
    """A batch of series; missing emissions and inputs of zero fill up the short ones."""
    length = max(len(one.values) for one in several)
    emissions, inputs = [], []
    for one in several:
        y, u = with_lags(model, one)
        rest = ((0, length - len(y)), (0, 0))
        emissions.append(jnp.pad(y, rest, constant_values=jnp.nan))
        inputs.append(jnp.pad(u, rest))
    return jnp.stack(emissions), jnp.stack(inputs)
