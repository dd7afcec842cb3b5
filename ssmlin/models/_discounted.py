"""A model whose discount of Σ is data: fits with any discount then share a compiled program."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ssmlin._typing import AnyArray
from ssmlin.inference import integrate_row_covs
from ssmlin.mechanisms import Mechanism
from ssmlin.models._parameters import ParamsLinearAttentionSSM

if TYPE_CHECKING:
    from dynamax.parameters import ParameterProperties

    from ssmlin.models._linear_attention_ssm import LinearAttentionSSM


class ParamsDiscounted(NamedTuple):
    """The parameters of a model, and the discount of Σ; or their properties."""

    params: ParamsLinearAttentionSSM
    discount: "Float[Array, '*R'] | ParameterProperties"


@dataclass(frozen=True)
class Discounted:
    """What a fit needs of a model that integrates Σ out; hashable, the same for all discounts.

    Args:
        model: without a discount.
    """

    model: "LinearAttentionSSM"

    @classmethod
    def of(
        cls,
        model: "LinearAttentionSSM",
        params: ParamsLinearAttentionSSM,
        props: ParamsLinearAttentionSSM,
        num_restarts: int,
    ) -> tuple["Discounted", ParamsDiscounted, ParamsDiscounted]:
        """The model, its parameters and their properties; those of restarts are stacked."""
        from dynamax.parameters import ParameterProperties

        dtype = params.initial.variances.dtype
        shape = (num_restarts,) if num_restarts > 1 else ()
        discount = jax.device_put(np.full(shape, model.row_cov.discount, dtype))
        fixed = ParameterProperties(trainable=False)
        return (
            cls(model.without_discount()),
            ParamsDiscounted(params, discount),
            ParamsDiscounted(props, fixed),
        )

    @property
    def mechanism(self) -> Mechanism:
        """The mechanism, by whose name the fit is called."""
        return self.model.mechanism

    def given_missing(self, emissions: Float[AnyArray, "..."] | None) -> "Discounted":
        """The model for data of which these are missing."""
        return Discounted(self.model.given_missing(emissions))

    def log_prior(self, params: ParamsDiscounted) -> Float[Array, ""]:
        """Log prior density of the parameters."""
        return self.model.log_prior(params.params)

    def log_predictive(
        self,
        params: ParamsDiscounted,
        emissions: Float[AnyArray, "T m"],
        inputs: Float[AnyArray, "T p"],
    ) -> Float[Array, " T"]:
        """Log p(y_t | y_{1:t-1}) of every step, zero where nothing is observed."""
        own = params.params
        prior = self.model.initial_law(own).row_cov
        posterior = self.model.given_row_cov().filter(own, emissions, inputs, store="loglik")
        one = jax.tree.map(lambda x: x[None], prior)
        found = integrate_row_covs(posterior, emissions, one, jnp.asarray(params.discount)[None])
        terms: Array = found.log_predictive[0]
        return terms
