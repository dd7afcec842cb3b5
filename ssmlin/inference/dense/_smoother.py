"""The exact smoother of dense models: a drop-in for dynamax's function."""

from functools import partial

import jax
from dynamax.linear_gaussian_ssm.inference import ParamsLGSSM, PosteriorGSSMSmoothed
from jaxtyping import Real

from ssmlin._precision import in_full_precision
from ssmlin._typing import AnyArray
from ssmlin.inference._methods import Method
from ssmlin.inference._roots import symmetric_part
from ssmlin.inference.dense._filter import loglik
from ssmlin.inference.dense._model import apply, build_model, earlier, product
from ssmlin.inference.dense._problem import Plan, Problem, prepare


def lgssm_smoother(
    params: ParamsLGSSM,
    emissions: Real[AnyArray, "T N"],
    inputs: Real[AnyArray, "T p"] | None = None,
    *,
    method: Method = "auto",
) -> PosteriorGSSMSmoothed:
    r"""Smooth by the modified Bryson-Frazier recursion; a drop-in for dynamax's function.

    $$E[z_t \mid y_{1:T}] = m_t - P_t \lambda_t, \quad P_{t \mid T} = P_t - P_t \Lambda_t P_t$$

    No inverse is taken, so it is right also where Q or P_0 is singular.

    Args:
        params: see :func:`lgssm_filter`.
        emissions: y, (T, N); NaN means missing, entry by entry.
        inputs: u, (T, p).
        method: see :func:`lgssm_filter`.

    Returns:
        dynamax's posterior: log-likelihood, filtered and smoothed means and covariances, and
        $E[z_t z_{t+1}^\top \mid y_{1:T}]$, (T − 1, D, D).

    Raises:
        ValueError: an argument of the wrong shape or value.
        TypeError: an argument that is not of the expected type.

    Examples:
        >>> import jax.numpy as jnp
        >>> from dynamax.linear_gaussian_ssm.inference import make_lgssm_params
        >>> from ssmlin import lgssm_smoother
        >>> one = jnp.ones((1, 1))
        >>> params = make_lgssm_params(jnp.zeros(1), one, one, 0 * one, one, one)
        >>> posterior = lgssm_smoother(params, jnp.array([[jnp.nan], [3.0]]))
        >>> posterior.smoothed_means.ravel().tolist()
        [1.5, 1.5]

    Source: Bierman (1973); Durbin and Koopman, Time Series Analysis by State Space Methods (2012),
    section 6.4.
    """
    problem, plan = prepare(params, emissions, inputs, method)
    posterior: PosteriorGSSMSmoothed = _smoother(problem, plan)
    return posterior


@partial(jax.jit, static_argnames="plan")
@in_full_precision
def _smoother(problem: Problem, plan: Plan) -> PosteriorGSSMSmoothed:
    model = build_model(*problem, plan.complete)
    run = plan.driver.forward(model)
    back = plan.driver.backward(model, run)
    covs = run.covariances
    means = run.means - apply(covs, back.adjoints)
    # With F, Q and the predicted Λ of step t + 1 and X = P_t FᵀΛ, the smoothed covariance is
    # P_t − X F P_t and Cov(z_t, z_{t+1} | y) = P_{t|T} Fᵀ − X Q.
    f, q = (x if x.ndim == 2 else earlier(x) for x in (model.transition, model.noise))
    x = product(covs, earlier(back.carried))
    smoothed = symmetric_part(covs - product(product(x, f), covs))
    crossed = product(smoothed, f.mT) - product(x, q)
    return PosteriorGSSMSmoothed(
        loglik(model, run),
        run.means,
        covs,
        means,
        smoothed,
        crossed[:-1] + means[:-1, :, None] * means[1:, None, :],
    )
