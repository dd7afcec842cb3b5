"""Exact draws of the states of dense models: a drop-in for dynamax's function."""

from functools import partial

import jax
import jax.numpy as jnp
from dynamax.linear_gaussian_ssm.inference import ParamsLGSSM
from jaxtyping import Array, Float, Real

from ssmlin._precision import in_full_precision
from ssmlin._typing import AnyArray, Scalar
from ssmlin.inference._methods import Method
from ssmlin.inference._roots import masked_sqrt, semidefinite_cholesky
from ssmlin.inference.dense._model import Model, apply, build_model
from ssmlin.inference.dense._problem import Plan, Problem, prepare


def lgssm_posterior_sample(
    key: Array,
    params: ParamsLGSSM,
    emissions: Real[AnyArray, "T N"],
    inputs: Real[AnyArray, "T p"] | None = None,
    jitter: Scalar = 0.0,
    *,
    method: Method = "auto",
) -> Float[Array, "T D"]:
    r"""Draw a path from $p(z_{1:T} \mid y_{1:T})$; a drop-in for dynamax's function.

    Mean correction: simulate (z⁺, y⁺) with zero means, smooth the mean of y − y⁺, add z⁺. Exact
    also where Q or P_0 is singular. Mapped over keys, all draws share one covariance recursion.

    Args:
        key: a PRNG key.
        params: see :func:`lgssm_filter`.
        emissions: y, (T, N); NaN means missing, entry by entry.
        inputs: u, (T, p).
        jitter: taken because dynamax's function takes it; not needed here and without effect.
        method: see :func:`lgssm_filter`.

    Returns:
        The path, (T, D).

    Raises:
        ValueError: an argument of the wrong shape or value.
        TypeError: an argument that is not of the expected type.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from dynamax.linear_gaussian_ssm.inference import make_lgssm_params
        >>> from ssmlin import lgssm_posterior_sample
        >>> one = jnp.ones((1, 1))
        >>> params = make_lgssm_params(jnp.zeros(1), one, one, 0 * one, one, one)
        >>> path = lgssm_posterior_sample(jax.random.key(0), params, jnp.zeros((3, 1)))
        >>> path.shape, bool(jnp.ptp(path) < 1e-6)  # no process noise: a constant path
        ((3, 1), True)

    Source: Durbin and Koopman (2002), Biometrika 89.
    """
    problem, plan = prepare(params, emissions, inputs, method)
    states: Array = _posterior_sample(key, problem, plan)
    return states


def _shocks(model: Model, normal: Float[Array, "T D"]) -> Float[Array, "T D"]:
    """Draws of the noise of every step; that of step 0 is the initial law."""
    if model.noise.ndim == 2:
        first = semidefinite_cholesky(model.initial_cov) @ normal[0]
        return apply(semidefinite_cholesky(model.noise), normal).at[0].set(first)
    # Entry 0 is ignored and may be NaN: it is replaced before the roots.
    noise = jnp.moveaxis(model.noise.at[0].set(model.initial_cov), 0, -1)
    return apply(jnp.moveaxis(semidefinite_cholesky(noise), -1, 0), normal)


@partial(jax.jit, static_argnames="plan")
@in_full_precision
def _posterior_sample(key: Array, problem: Problem, plan: Plan) -> Float[Array, "T D"]:
    model = build_model(*problem, plan.complete)
    shock_key, noise_key = jax.random.split(key)
    normal = jax.random.normal(shock_key, model.drift.shape, model.drift.dtype)
    shocks = _shocks(model, normal)
    states = plan.driver.states(model, shocks)
    noise = jax.random.normal(noise_key, model.values.shape, model.values.dtype)
    simulated = apply(model.rows, states) + masked_sqrt(model.variances) * noise
    model = model._replace(values=jnp.where(model.seen, model.values - simulated, 0.0))
    run = plan.driver.forward(model)
    adjoints = plan.driver.backward(model, run).adjoints
    return states + run.means - apply(run.covariances, adjoints)
