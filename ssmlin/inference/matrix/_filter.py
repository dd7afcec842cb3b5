"""The exact filter, and the likelihood part that it shares with the smoother."""

from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float

from ssmlin import _checks
from ssmlin._precision import in_full_precision
from ssmlin._typing import AnyArray
from ssmlin.inference._methods import Method
from ssmlin.inference._missing import Length
from ssmlin.inference._results import PosteriorMatrixLGSSM
from ssmlin.inference.matrix._axes import is_batched
from ssmlin.inference.matrix._driver import Forward, Keep, kept
from ssmlin.inference.matrix._layouts import Problem
from ssmlin.inference.matrix._problem import Form, Gradient, Missing, Plan, prepare
from ssmlin.lgssm import MatrixLGSSM

Store = Literal["all", "filtered", "means", "last", "loglik"]

_KEEP: dict[Store, Keep] = {
    "all": Keep(gains=True, means=True, covariances=True),
    "filtered": Keep(means=True, covariances=True),
    "means": Keep(means=True),
    "last": Keep(),
    "loglik": Keep(),
}


def matrix_lgssm_filter(
    lgssm: MatrixLGSSM,
    emissions: Float[AnyArray, "*B T m"],
    *,
    mask: Bool[AnyArray, "*B T"] | None = None,
    length: Length | None = None,
    missing: Missing = "auto",
    store: Store = "filtered",
    method: Method = "auto",
    covariance_form: Form = "plain",
    gradient: Gradient = "adjoint",
    mesh: Mesh | None = None,
) -> PosteriorMatrixLGSSM:
    r"""Run the Kalman filter of the matrix-state model, at O(d² + m d) a step.

    $$P^-_t = A_t^\top P_{t-1} A_t + Q_t,\ s_t = h_t^\top P^-_t h_t + r_t,\
      g_t = P^-_t h_t / s_t,\ M_t = M^-_t + (y_t - M^-_t h_t) g_t^\top,\
      P_t = P^-_t - s_t g_t g_t^\top$$

    and $\log p(y_t \mid y_{1:t-1}) = \log N(y_t; M^-_t h_t, s_t \Sigma)$. Exact also where Q_t and
    P_0 are zero or singular. Works under jit, vmap and grad.

    Args:
        lgssm: the model. A batch of models, every array with a leading axis B (as vmap over
            :func:`ssmlin.matrix_lgssm` gives it), goes with a batch of emissions and is filtered
            with the batch axis last in memory. On a CPU this is faster than vmap over this
            function.
        emissions: y, (T, m) or (B, T, m); NaN means missing.
        mask: (T,) or (B, T), False where the whole emission counts as missing.
        length: the number of steps that belong to the sequence, an integer or (B,). Later steps are
            padding and count as missing; their keys must be finite.
        missing: how partly missing emissions are treated. "entries": exactly, with a covariance
            for each row (needs a diagonal Σ). "rows": the step counts as wholly missing. "auto":
            "entries" if there is such a step, "rows" if not. Under a trace the values are unknown,
            and "auto" is "rows".
        store: what to keep over time. "all": filtered and predicted moments; "filtered": filtered
            moments; "means": filtered means; "last": the last filtered moments (time axis of
            length 1); "loglik": none. The emissions' predictive moments are always kept.
        method: the driver. "sequential": a scan over time, O(d² + m d) a step. "associative":
            a parallel scan, O(d³) a step in log T rounds. "chunked": sequential scans over chunks
            of about √T steps at the same time, fewer on an accelerator, joined by a parallel scan.
            "auto": "sequential" on a CPU; on an accelerator "chunked", unless sequences are short
            or many.
        covariance_form: "plain" carries P_t. "square_root" carries a factor of it, for single
            precision where P_0 is large beside r_t; slower.
        gradient: how the filter is differentiated if `store` is "loglik" or "last".
            "adjoint": by the exact adjoint recursion, in O(T d + √T d²) memory. It can be
            differentiated again, but the filter itself cannot be differentiated in forward mode.
            "autodiff": by JAX through the scan, in O(T d²) memory, in any mode.
        mesh: of devices to spread the work over, with an axis "time", or "batch", or both. The
            method is then that of each device, and time is filled up to equal parts. See
            docs/scaling.md.

    Returns:
        The posterior.

    Raises:
        ValueError: an argument of the wrong shape or value.
        TypeError: an argument that is not of the expected type.

    Examples:
        >>> import jax.numpy as jnp, ssmlin
        >>> lgssm = ssmlin.matrix_lgssm("bayesian_memory", keys=jnp.ones((2, 1)), alpha=1.0,
        ...     value_dim=1, emission_noise=1.0)
        >>> posterior = ssmlin.matrix_lgssm_filter(lgssm, jnp.array([[3.0], [jnp.nan]]))
        >>> posterior.filtered_means.ravel().tolist()
        [1.5, 1.5]

    Source: West and Harrison, Bayesian Forecasting and Dynamic Models (1997), chapter 16.
    """
    _checks.one_of("store", store, tuple(_KEEP))
    problem, plan = prepare(
        lgssm, emissions, mask, length, missing, method, covariance_form,
        gradient=gradient, mesh=mesh,
    )  # fmt: skip
    posterior: PosteriorMatrixLGSSM = _filter(problem, store=store, plan=plan)
    return posterior


@partial(jax.jit, static_argnames=("store", "plan"))
@in_full_precision
def _filter(problem: Problem, *, store: Store, plan: Plan) -> PosteriorMatrixLGSSM:
    core = partial(_filter_core, store=store, plan=plan)
    return plan.run(core, problem, join_rows, last=store == "last")


def _filter_core(problem: Problem, *, store: Store, plan: Plan) -> PosteriorMatrixLGSSM:
    """Filter with a covariance that all rows share."""
    form, (y, seen) = plan.form, centred(problem)
    run = plan.driver.forward(problem.lgssm, y, seen, form=form, keep=_KEEP[store])
    likelihood = assemble(problem.lgssm, y, problem.observed, run)
    posterior = likelihood.posterior
    if store == "last":
        return posterior._replace(
            filtered_means=run.last_mean[..., None, :, :],
            filtered_covariances=run.last_cov[..., None, :, :],
        )
    covs = None if run.stored is None else form.to_dense(run.stored)
    posterior = posterior._replace(filtered_means=run.means, filtered_covariances=covs)
    if store != "all":
        return posterior
    # Undo the update: M⁻ = M − e gᵀ and P⁻ = P + s g gᵀ.
    gains = kept(run.gains)[..., None, :]
    f = gains * jnp.sqrt(run.scales)[..., None, None]  # so that f fᵀ is exactly symmetric
    return posterior._replace(
        predicted_means=kept(run.means) - likelihood.residuals[..., :, None] * gains,
        predicted_covariances=kept(covs) + f.mT * f,
    )


def centred(problem: Problem) -> tuple[Float[Array, "*B T m"], Float[Array, "*B T"]]:
    """The emissions less their bias, zero where missing, and which steps were observed."""
    y = (problem.emissions - problem.lgssm.emission_bias) * problem.observed
    return y, problem.observed[..., 0]


class Likelihood(NamedTuple):
    """The likelihood part of a posterior, the residuals e_t and the precisions 1/s_t."""

    posterior: PosteriorMatrixLGSSM
    residuals: Float[Array, "*B T m"]
    precisions: Float[Array, "*B T"]


def assemble(
    lgssm: MatrixLGSSM,
    y: Float[Array, "*B T m"],
    observed: Float[Array, "*B T m"],
    run: Forward,
) -> Likelihood:
    """The likelihood of a forward pass; residuals and precisions are zero where missing."""
    if is_batched(lgssm):
        return jax.vmap(assemble)(lgssm, y, observed, run)
    seen = observed[:, 0]
    scales = jnp.where(seen > 0, run.scales, 1.0)
    residuals = (y - run.emission_means) * observed
    if lgssm.independent_rows:
        deviations = jnp.sqrt(jnp.diag(lgssm.row_cov))
        log_det = 2 * jnp.sum(jnp.log(deviations))
        white = residuals / deviations
    else:
        root = jnp.linalg.cholesky(lgssm.row_cov)
        log_det = 2 * jnp.sum(jnp.log(jnp.diag(root)))
        white = jax.scipy.linalg.solve_triangular(root, residuals.T, lower=True).T
    m = lgssm.value_dim
    # The terms are summed outside the scan, so that float32 keeps its digits.
    terms = -0.5 * (m * jnp.log(2 * jnp.pi * scales) + log_det + jnp.sum(white**2, axis=1) / scales)
    log_predictive = terms * seen
    posterior = PosteriorMatrixLGSSM(
        marginal_loglik=log_predictive.sum(),
        log_predictive=log_predictive,
        emission_means=run.emission_means + lgssm.emission_bias,
        emission_scales=run.scales,
        row_cov=lgssm.row_cov,
    )
    return Likelihood(posterior, residuals, seen / scales)


def join_rows(rows: PosteriorMatrixLGSSM) -> PosteriorMatrixLGSSM:
    """One posterior from those of the single rows, stacked along axis 0."""

    def means(x: Array | None) -> Array | None:
        return None if x is None else jnp.moveaxis(x, 0, 1)[:, :, 0]

    def covariances(x: Array | None) -> Array | None:
        return None if x is None else jnp.moveaxis(x, 0, 1)

    return PosteriorMatrixLGSSM(
        marginal_loglik=rows.marginal_loglik.sum(),
        log_predictive=rows.log_predictive.sum(axis=0),
        emission_means=jnp.moveaxis(rows.emission_means, 0, 1)[:, :, 0],
        emission_scales=jnp.moveaxis(rows.emission_scales, 0, 1),
        row_cov=jnp.diag(rows.row_cov[:, 0, 0]),
        filtered_means=means(rows.filtered_means),
        filtered_covariances=covariances(rows.filtered_covariances),
        predicted_means=means(rows.predicted_means),
        predicted_covariances=covariances(rows.predicted_covariances),
        smoothed_means=means(rows.smoothed_means),
        smoothed_covariances=covariances(rows.smoothed_covariances),
    )
