"""The exact smoother."""

from collections.abc import Callable
from functools import partial
from typing import Literal

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Bool, Float

from ssmlin import _checks
from ssmlin._precision import in_full_precision
from ssmlin._typing import AnyArray
from ssmlin.inference._methods import Method
from ssmlin.inference._missing import Length
from ssmlin.inference._results import PosteriorMatrixLGSSM
from ssmlin.inference.matrix._covariance import (
    PLAIN,
    SQUARE_ROOT,
    CovarianceForm,
    batched_product,
    smoothed_covariance,
)
from ssmlin.inference.matrix._driver import Driver, Keep, kept, smoothed_means
from ssmlin.inference.matrix._filter import assemble, centred, join_rows
from ssmlin.inference.matrix._layouts import Problem
from ssmlin.inference.matrix._problem import Form, Missing, Plan, prepare
from ssmlin.lgssm import MatrixLGSSM

Store = Literal["all", "means"]


def matrix_lgssm_smoother(
    lgssm: MatrixLGSSM,
    emissions: Float[AnyArray, "*B T m"],
    *,
    mask: Bool[AnyArray, "*B T"] | None = None,
    length: Length | None = None,
    missing: Missing = "auto",
    store: Store = "all",
    method: Method = "auto",
    covariance_form: Form = "plain",
    mesh: Mesh | None = None,
) -> PosteriorMatrixLGSSM:
    r"""Smooth the matrix-state model by the modified Bryson-Frazier recursion.

    $$E[S_t \mid y_{1:T}] = M_t - \hat\lambda_t P_t, \qquad
      P_{t \mid T} = P_t - P_t \hat\Lambda_t P_t$$

    No inverse is taken, so it is right also where Q_t or P_0 is singular. O(d² + m d) a step
    and one batched product for the covariances. With `covariance_form="square_root"` no difference
    of covariances is taken either,

    $$P_{t \mid T} = (P_t^{-1} + J_t)^{-1}, \quad
      E[S_t \mid y_{1:T}] = M_t + \zeta_t P_{t \mid T}$$

    where J_t and ζ_t hold the information of the later emissions; in factors, d scalar updates a
    step.

    Args:
        lgssm: the model, or a batch of models; see :func:`matrix_lgssm_filter`.
        emissions: y, (T, m) or (B, T, m); NaN means missing.
        mask: see :func:`matrix_lgssm_filter`.
        length: see :func:`matrix_lgssm_filter`.
        missing: see :func:`matrix_lgssm_filter`.
        store: "all": filtered and smoothed moments; "means": smoothed means alone, without any
            covariance over time.
        method: see :func:`matrix_lgssm_filter`.
        covariance_form: see :func:`matrix_lgssm_filter`. "square_root" needs r_t > 0 here.
        mesh: see :func:`matrix_lgssm_filter`.

    Returns:
        The posterior.

    Raises:
        ValueError: an argument of the wrong shape or value.
        TypeError: an argument that is not of the expected type.

    Examples:
        >>> import jax.numpy as jnp, ssmlin
        >>> lgssm = ssmlin.matrix_lgssm("bayesian_memory", keys=jnp.ones((2, 1)), alpha=1.0,
        ...     value_dim=1, emission_noise=1.0)
        >>> posterior = ssmlin.matrix_lgssm_smoother(lgssm, jnp.array([[jnp.nan], [3.0]]))
        >>> posterior.smoothed_means.ravel().tolist()
        [1.5, 1.5]

    Source: Bierman (1973); de Jong (1989).
    """
    _checks.one_of("store", store, ("all", "means"))
    problem, plan = prepare(
        lgssm, emissions, mask, length, missing, method, covariance_form, mesh=mesh
    )
    if covariance_form == "square_root" and _checks.is_concrete(lgssm.emission_noise):
        if not (np.asarray(lgssm.emission_noise) > 0).all():
            raise ValueError(
                "covariance_form: 'square_root' smooths where emission_noise > 0 only, got a zero; "
                "expected 'plain'"
            )
    posterior: PosteriorMatrixLGSSM = _smoother(problem, store=store, plan=plan)
    return posterior


@partial(jax.jit, static_argnames=("store", "plan"))
@in_full_precision
def _smoother(problem: Problem, *, store: Store, plan: Plan) -> PosteriorMatrixLGSSM:
    core = _CORES[plan.form]
    return plan.run(lambda each: core(each, plan.driver, store), problem, join_rows)


def _smoother_core(problem: Problem, driver: Driver, store: Store) -> PosteriorMatrixLGSSM:
    """Smooth with a covariance that all rows share."""
    lgssm, (y, seen) = problem.lgssm, centred(problem)
    moments = store == "all"
    keep = Keep(gains=True, means=moments, covariances=moments)
    run = driver.forward(lgssm, y, seen, form=PLAIN, keep=keep)
    gains = kept(run.gains)
    posterior, residuals, precisions = assemble(lgssm, y, problem.observed, run)
    back = driver.backward(lgssm, gains, precisions, residuals, keep_information=moments)
    if not moments:
        means = smoothed_means(driver, lgssm, lgssm.initial_mean, back)
        return posterior._replace(smoothed_means=means)
    filtered, covs = kept(run.means), kept(run.stored)
    return posterior._replace(
        filtered_means=filtered,
        filtered_covariances=covs,
        smoothed_means=filtered - batched_product(back.filtered_adjoints, covs),
        smoothed_covariances=smoothed_covariance(covs, kept(back.information)),
    )


def _root_smoother_core(problem: Problem, driver: Driver, store: Store) -> PosteriorMatrixLGSSM:
    """Smooth in factors of the covariance."""
    lgssm, (y, seen), form = problem.lgssm, centred(problem), SQUARE_ROOT
    keep = Keep(gains=True, means=True, covariances=True)
    run = driver.forward(lgssm, y, seen, form=form, keep=keep)
    posterior, residuals, _ = assemble(lgssm, y, problem.observed, run)
    shifts, roots = driver.root_backward(lgssm, y, seen, run, residuals)
    filtered, smoothed = kept(run.means), form.to_dense(roots)
    posterior = posterior._replace(smoothed_means=filtered + batched_product(shifts, smoothed))
    if store == "means":
        return posterior
    return posterior._replace(
        filtered_means=filtered,
        filtered_covariances=form.to_dense(kept(run.stored)),
        smoothed_covariances=smoothed,
    )


type _Core = Callable[[Problem, Driver, Store], PosteriorMatrixLGSSM]
_CORES: dict[CovarianceForm, _Core] = {
    PLAIN: _smoother_core,
    SQUARE_ROOT: _root_smoother_core,
}
