"""Leave-future-out cross-validation of the posterior, by ArviZ."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ssmlin.learning.posterior_sampling import pointwise_log_likelihood, sample_posterior

if TYPE_CHECKING:
    import xarray


def leave_future_out(
    key: Array,
    model: Any,
    params: Any,
    props: Any,
    emissions: Float[Array, "T m"],
    inputs: Any = None,
    *,
    min_observations: int,
    horizon: int = 1,
    method: str = "approx",
    draws: "xarray.DataTree | None" = None,
    variables: str | Sequence[str] | None = None,
    k_threshold: float = 0.7,
    **options: Any,
) -> Any:
    r"""Estimate $\sum_t \log p(y_{t+1:t+h} \mid y_{1:t})$, parameters drawn from $y_{1:t}$ alone.

    Exact leave-future-out draws from the posterior anew at every step; the approximation carries
    draws forward by Pareto-smoothed importance sampling and draws anew only where the weights
    become unreliable. Steps to come are treated as missing, so all refits share one program.

    Args:
        key: a PRNG key.
        model: the model.
        params: where chains start, and the values of what is not sampled.
        props: matching properties.
        emissions: one sequence; NaN means missing.
        inputs: its inputs.
        min_observations: the first prediction is made after so many steps.
        horizon: h, the steps predicted together.
        method: "approx" or "exact".
        draws: what :func:`ssmlin.sample_posterior` returned for all steps; default drawn here.
        variables: names of the parameters to sample, see :func:`ssmlin.sample_posterior`.
        k_threshold: draw anew where the Pareto k is above this.
        **options: of :func:`ssmlin.sample_posterior`.

    Returns:
        ArviZ's ELPDDataLFO, with `elpd`, `se`, and pointwise values.

    Raises:
        ValueError: an argument out of range.

    Example:
        >>> import jax, jax.numpy as jnp, ssmlin
        >>> from ssmlin.learning import leave_future_out
        >>> y = jnp.sin(0.3 * jnp.arange(40.0))[:, None] + 0.1
        >>> model = ssmlin.LinearAttentionSSM("bayesian_memory", 1, 1, 2, num_lags=1)
        >>> u = model.compute_inputs(y)
        >>> params, props = model.initialize(emissions=y, inputs=u)
        >>> found = leave_future_out(jax.random.key(0), model, params, props, y, u,
        ...     min_observations=36, algorithm="laplace", num_samples=50,
        ...     variables="process_noise")
        >>> found.n_data_points
        4

    Source: Bürkner, Gabry and Vehtari (2020), Journal of Statistical Computation and Simulation 90.
    """
    import arviz

    emissions = jnp.asarray(emissions)
    steps = len(emissions)
    if not 0 < min_observations <= steps - horizon:
        raise ValueError(
            f"min_observations: expected a number in [1, {steps - horizon}], got {min_observations}"
        )
    options = {"progress": False, "trajectories": False, "variables": variables} | options

    def sample(observed: Array) -> "xarray.DataTree":
        return sample_posterior(key, model, params, props, observed, inputs, **options)

    class Wrapper(arviz.SamplingWrapper):
        """Held-out steps are missing in the fit."""

        def sel_observations(self, idx: Any) -> tuple[Array, Any]:
            held_out = np.zeros(steps, bool)
            held_out[np.asarray(idx)] = True
            return jnp.where(held_out[:, None], jnp.nan, emissions), np.asarray(idx)

        def sample(self, modified_observed_data: Array) -> "xarray.DataTree":
            return sample(modified_observed_data)

        def get_inference_data(self, fitted_model: Any) -> Any:
            return fitted_model

        def log_likelihood__i(self, excluded_obs: Any, idata__i: Any) -> Any:
            terms = pointwise_log_likelihood(model, params, idata__i, emissions, inputs)
            return terms.isel(time=np.atleast_1d(excluded_obs))

    draws = sample(emissions) if draws is None else draws
    return arviz.lfo_cv(
        draws,
        Wrapper(model, idata_orig=draws),
        min_observations,
        horizon,
        method=method,
        k_threshold=k_threshold,
        pointwise=True,
    )
