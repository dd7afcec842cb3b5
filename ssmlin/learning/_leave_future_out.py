"""Leave-future-out cross-validation of the posterior, by ArviZ."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from ssmlin._optional import require
from ssmlin._typing import AnyArray
from ssmlin.learning._models import StepwiseModel
from ssmlin.learning._posterior_sampling import Algorithm, sample_posterior
from ssmlin.learning._prediction import pointwise_log_likelihood

if TYPE_CHECKING:
    import arviz
    import xarray


def leave_future_out[P](
    key: Array,
    model: StepwiseModel[P],
    params: P,
    props: P,
    emissions: Float[AnyArray, "T m"],
    inputs: PyTree = None,
    *,
    min_observations: int,
    horizon: int = 1,
    method: Literal["approx", "exact"] = "approx",
    draws: "xarray.DataTree | None" = None,
    variables: str | Sequence[str] | None = None,
    k_threshold: float = 0.7,
    algorithm: Algorithm = "nuts",
    num_chains: int = 4,
    num_warmup: int = 500,
    num_samples: int = 500,
    initialization: Literal["params", "pathfinder"] = "params",
    target_acceptance: float = 0.8,
    max_tree_depth: int = 10,
    dense_mass: bool = False,
    num_mcmc_steps: int = 5,
    progress: bool = False,
) -> "arviz.ELPDData":
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
        algorithm: this and the following are those of :func:`ssmlin.sample_posterior`.
        num_chains: likewise.
        num_warmup: likewise.
        num_samples: likewise.
        initialization: likewise.
        target_acceptance: likewise.
        max_tree_depth: likewise.
        dense_mass: likewise.
        num_mcmc_steps: likewise.
        progress: show a progress bar for each set of draws.

    Returns:
        ArviZ's ELPDDataLFO, with `elpd`, `se`, and pointwise values.

    Raises:
        ValueError: an argument out of range.

    Examples:
        >>> import jax, jax.numpy as jnp, ssmlin
        >>> from ssmlin.learning import leave_future_out
        >>> y = jnp.sin(0.3 * jnp.arange(40.0))[:, None] + 0.1
        >>> model = ssmlin.LinearAttentionSSM("bayesian_memory", 1, 1, 2, num_lags=1)
        >>> u = model.compute_inputs(y)
        >>> params, props = model.initialize(emissions=y, inputs=u)
        >>> elpd = leave_future_out(jax.random.key(0), model, params, props, y, u,
        ...     min_observations=36, algorithm="laplace", num_samples=50,
        ...     variables="process_noise")
        >>> elpd.n_data_points
        4

    Source: Bürkner, Gabry and Vehtari (2020), Journal of Statistical Computation and Simulation 90.
    """
    require("arviz")
    import arviz

    emissions = jnp.asarray(emissions)
    steps = len(emissions)
    if not 0 < min_observations <= steps - horizon:
        raise ValueError(
            f"min_observations: expected a number in [1, {steps - horizon}], got {min_observations}"
        )

    def sample(observed: Array) -> "xarray.DataTree":
        return sample_posterior(
            key, model, params, props, observed, inputs,
            algorithm=algorithm, variables=variables, num_chains=num_chains,
            num_warmup=num_warmup, num_samples=num_samples, initialization=initialization,
            target_acceptance=target_acceptance, max_tree_depth=max_tree_depth,
            dense_mass=dense_mass, num_mcmc_steps=num_mcmc_steps, trajectories=False,
            progress=progress,
        )  # fmt: skip

    class Wrapper(arviz.SamplingWrapper):  # type: ignore[misc]  # ArviZ is untyped here
        """Held-out steps are missing in the fit."""

        def sel_observations(self, idx: np.ndarray) -> tuple[Array, np.ndarray]:
            held_out = np.zeros(steps, bool)
            held_out[np.asarray(idx)] = True
            return jnp.where(held_out[:, None], jnp.nan, emissions), np.asarray(idx)

        def sample(self, modified_observed_data: Array) -> "xarray.DataTree":
            return sample(modified_observed_data)

        def get_inference_data(self, fitted_model: "xarray.DataTree") -> "xarray.DataTree":
            return fitted_model

        def log_likelihood__i(
            self, excluded_obs: np.ndarray, idata__i: "xarray.DataTree"
        ) -> "xarray.DataArray":
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
