"""The part of a model that is the law of its first state, and laws of later ones."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp
from dynamax.parameters import ParameterProperties
from jaxtyping import Array, Float
from tensorflow_probability.substrates.jax import bijectors as tfb

from ssmlin.inference import RowCovLaw
from ssmlin.models._parts import (
    BasePart,
    Contribution,
    Expectation,
    Sizes,
    Start,
    log_normal_mode,
    settled,
    statistic,
)
from ssmlin.models._priors import Prior, log_normal_prior


class ParamsInitial(NamedTuple):
    """Law of S_0, before the first transition, or the properties of its parameters.

    Attributes:
        mean: M_0, (m, d).
        variances: the diagonal of P_0, (d,).
    """

    mean: Float[Array, "m d"] | ParameterProperties
    variances: Float[Array, " d"] | ParameterProperties


class StateLaw(NamedTuple):
    """The law of a state and, where it is integrated out, of Σ: all that the next steps need.

    Attributes:
        mean: (m, d).
        cov: relative to Σ, (d, d); or for each row, (m, d, d).
        row_cov: the law of Σ, or None.
    """

    mean: Float[Array, "m d"]
    cov: Float[Array, "d d"] | Float[Array, "m d d"]
    row_cov: RowCovLaw | None = None


@dataclass(frozen=True)
class InitialState(BasePart):
    r"""$S_0 \sim \mathrm{MN}(M_0, \Sigma, \mathrm{diag}(p_0))$; M_0 is fixed to zero by default.

    Args:
        variance: median and log sd of the log-normal prior of the entries of p_0, relative to the
            emission noise; None for those of the model's prior.

    Examples:
        >>> from ssmlin.models import InitialState
        >>> InitialState(variance=(1.0, 0.5)).variance
        (1.0, 0.5)
    """

    variance: tuple[float, float] | None = None

    updates = (("variances",), ("mean",))
    set_by_prior = {"variance": "initial_variance"}

    def initialize(self, key: Array, sizes: Sizes, start: Start) -> ParamsInitial:
        """Start at M_0 = 0 and the median of the prior."""
        dtype = start.regression.covariance.dtype
        return ParamsInitial(
            mean=jnp.zeros((sizes.emission_dim, sizes.key_dim), dtype),
            variances=jnp.full((sizes.key_dim,), settled(self.variance)[0], dtype),
        )

    def properties(self, sizes: Sizes) -> ParamsInitial:
        """M_0 is fixed; the variances are positive."""
        positive = ParameterProperties(constrainer=tfb.Softplus())
        return ParamsInitial(mean=ParameterProperties(trainable=False), variances=positive)

    def priors(self, params: ParamsInitial, sizes: Sizes) -> dict[str, Prior]:
        """Log-normal laws of the variances."""
        return {"variances": log_normal_prior(params.variances, *settled(self.variance))}

    def contribute(
        self, params: ParamsInitial, inputs: Float[Array, "T p"], sizes: Sizes
    ) -> Contribution:
        """The law of S_0."""
        return Contribution(
            {"initial_mean": params.mean, "initial_cov": jnp.diag(params.variances)}
        )

    def update(
        self,
        params: ParamsInitial,
        score: ParamsInitial,
        names: Sequence[str],
        expectation: Expectation,
    ) -> ParamsInitial:
        """Closed forms of the variances and of the mean; see :class:`Part`."""
        sequences = expectation.counts.sequences
        if "variances" in names:
            law = self.variance if expectation.use_prior else None
            n = len(expectation.counts.observed) * sequences
            moments = statistic(params.variances, score.variances, n)
            params = params._replace(variances=log_normal_mode(moments, n, law))
        if "mean" in names:
            rows = expectation.row_cov
            matrix = jnp.diag(rows) if rows.ndim == 1 else rows
            # The gradient in M_0 is Σ⁻¹ (E[S_0] − M_0) P_0⁻¹, summed over sequences.
            step = matrix @ score.mean * params.variances / sequences
            params = params._replace(mean=params.mean + step)
        return params
