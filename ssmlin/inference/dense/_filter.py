"""The exact filter of dense models: a drop-in for dynamax's function."""

import math
from functools import partial

import jax
import jax.numpy as jnp
from dynamax.linear_gaussian_ssm.inference import ParamsLGSSM, PosteriorGSSMFiltered
from jaxtyping import Array, Float, Real

from ssmlin._precision import in_full_precision
from ssmlin._typing import AnyArray
from ssmlin.inference._methods import Method
from ssmlin.inference.dense._driver import Forward
from ssmlin.inference.dense._model import Model, build_model
from ssmlin.inference.dense._problem import Plan, Problem, prepare
from ssmlin.inference.dense._sequential import precision_of


def lgssm_filter(
    params: ParamsLGSSM,
    emissions: Real[AnyArray, "T N"],
    inputs: Real[AnyArray, "T p"] | None = None,
    *,
    method: Method = "auto",
) -> PosteriorGSSMFiltered:
    r"""Run the Kalman filter; a drop-in replacement for dynamax's function of this name.

    $$z_t = F_t z_{t-1} + B_t u_t + b_t + N(0, Q_t), \quad
      y_t = H_t z_t + D_t u_t + d_t + N(0, R_t)$$

    and for every entry i of the decorrelated emission, with p = P h_i and s = h_iᵀ p + r_i,
    $m \leftarrow m + (p / s)(y_i - h_i^\top m)$, $P \leftarrow P - p p^\top / s$. Exact also where
    Q, P_0 or R are singular, as long as the emissions' law is not: an entry of predictive
    variance s = 0 is left out. Works under jit, vmap and grad.

    Args:
        params: dynamax's parameters, in every form that dynamax takes: an array, an array with a
            leading time axis or a function of t; R full or, as a vector, diagonal (not a function).
        emissions: y, (T, N); NaN means missing, entry by entry.
        inputs: u, (T, p).
        method: the driver. "sequential": one step after the other; "associative": an associative
            scan over the steps, O(log T) deep; "chunked": the same over stretches of √T steps,
            sequential inside. The latter two need h_iᵀ Q_t h_i + r_i > 0 at every entry observed.
            "auto": sequential on a CPU, associative on an accelerator where T is large.

    Returns:
        dynamax's posterior: log-likelihood, filtered means and covariances.

    Raises:
        ValueError: an argument of the wrong shape or value.
        TypeError: an argument that is not of the expected type.

    Examples:
        >>> import jax.numpy as jnp
        >>> from dynamax.linear_gaussian_ssm.inference import make_lgssm_params
        >>> from ssmlin import lgssm_filter
        >>> one = jnp.ones((1, 1))
        >>> params = make_lgssm_params(jnp.zeros(1), one, one, 0 * one, one, one)
        >>> posterior = lgssm_filter(params, jnp.array([[3.0], [jnp.nan]]))
        >>> posterior.filtered_means.ravel().tolist()
        [1.5, 1.5]

    Source: Koopman and Durbin (2000), Fast filtering and smoothing for multivariate state space
    models; Särkkä and García-Fernández (2021), arXiv 1905.13002.
    """
    problem, plan = prepare(params, emissions, inputs, method)
    posterior: PosteriorGSSMFiltered = _filter(problem, plan)
    return posterior


@partial(jax.jit, static_argnames="plan")
@in_full_precision
def _filter(problem: Problem, plan: Plan) -> PosteriorGSSMFiltered:
    model = build_model(*problem, plan.complete)
    run = plan.driver.forward(model)
    return PosteriorGSSMFiltered(loglik(model, run), run.means, run.covariances)


def loglik(model: Model, run: Forward) -> Float[Array, ""]:
    """The log-likelihood, summed outside the scan, so that float32 keeps its digits."""
    precision = precision_of(run.scales, model.seen)
    used = precision != 0
    log_precision = jnp.log(jnp.where(used, precision, 1.0))
    terms = log_precision - math.log(2 * math.pi) - run.residuals**2 * precision
    return 0.5 * jnp.sum(jnp.where(used, terms, 0.0))
