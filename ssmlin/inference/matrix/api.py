r"""Exact filtering, smoothing and sampling of a matrix-state model: the public functions.

They check the arguments, settle what is missing, call a driver and assemble the posterior.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from ssmlin import _checks
from ssmlin.inference.matrix import adjoint, sequential
from ssmlin.inference.matrix.covariance import (
    FORMS,
    SQUARE_ROOT,
    CovarianceForm,
    batched_product,
    smoothed_covariance,
)
from ssmlin.inference.matrix.parallel import Chunked
from ssmlin.inference.results import PosteriorMatrixLGSSM
from ssmlin.lgssm import LowRank, MatrixLGSSM

Method = Literal["auto", "sequential", "associative", "chunked"]
Form = Literal["plain", "square_root"]
Missing = Literal["auto", "rows", "entries"]
Gradient = Literal["adjoint", "autodiff"]

_DRIVERS: dict[str, Any] = {
    "sequential": sequential,
    "associative": Chunked(1),
    "chunked": Chunked(),
}
_MISSING = ("auto", "rows", "entries")


class Plan(NamedTuple):
    """How a call is carried out: what the compiled functions are specialised to."""

    driver: Any  # the sequential module or a Chunked, which has its functions
    form: CovarianceForm
    by_rows: bool


def matrix_lgssm_filter(
    lgssm: MatrixLGSSM,
    emissions: Float[Array, "T m"],
    *,
    mask: Bool[Array, " T"] | None = None,
    length: int | Int[Array, ""] | None = None,
    missing: Missing = "auto",
    store: Literal["all", "filtered", "means", "last", "loglik"] = "filtered",
    method: Method = "auto",
    covariance_form: Form = "plain",
    gradient: Gradient = "adjoint",
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
            with the batch axis last in memory, which on a CPU is faster than vmap over this
            function.
        emissions: y, (T, m) or (B, T, m); NaN means missing.
        mask: (T,) or (B, T), False where the whole emission is to be taken as missing.
        length: the number of steps that belong to the sequence, an integer or (B,); later ones are
            padding (their keys must be finite) and taken as missing.
        missing: how a partly missing emission is treated. "entries": exactly, with a covariance
            for each row (needs a diagonal Σ). "rows": the step counts as wholly missing. "auto":
            "entries" if there is such a step, "rows" if not; under a trace, where that cannot be
            seen, "rows".
        store: what to keep over time. "all": filtered and predicted moments; "filtered": filtered
            moments; "means": filtered means; "last": the last filtered moments (time axis of
            length 1); "loglik": none. The emissions' predictive moments are always kept.
        method: the driver. "sequential": a scan over time, O(d² + m d) a step. "associative":
            a parallel scan, O(d³) a step in log T rounds. "chunked": sequential scans over about
            √T chunks at the same time, joined by a parallel scan. "auto": "sequential" on a CPU;
            on an accelerator "associative" or, where that would take too much memory, "chunked".
        covariance_form: "plain" carries P_t. "square_root" carries a factor of it, for single
            precision where P_0 is large beside r_t; slower.
        gradient: how the gradient of what depends on the likelihood part alone is taken, with
            `store` "loglik" or "last" and the sequential driver. "adjoint": by the exact adjoint
            recursion, in O(T d + √T d²) memory; derivatives of it can be taken again, but not
            forward-mode ones of the filter itself. "autodiff": by JAX, through the scan, in
            O(T d²) memory; any derivatives.

    Returns:
        The posterior.

    Raises:
        ValueError: an argument of the wrong shape or value.
        TypeError: an argument that is not of the expected type.

    Example:
        >>> import jax.numpy as jnp, ssmlin
        >>> lgssm = ssmlin.matrix_lgssm("bayesian_memory", keys=jnp.ones((2, 1)), alpha=1.0,
        ...     value_dim=1, emission_noise=1.0)
        >>> posterior = ssmlin.matrix_lgssm_filter(lgssm, jnp.array([[3.0], [jnp.nan]]))
        >>> posterior.filtered_means.ravel().tolist()
        [1.5, 1.5]

    Source: West and Harrison, Bayesian Forecasting and Dynamic Models (1997), chapter 16.
    """
    _checks.one_of("store", store, ("all", "filtered", "means", "last", "loglik"))
    _checks.one_of("gradient", gradient, ("adjoint", "autodiff"))
    problem, plan = _prepare(lgssm, emissions, mask, length, missing, method, covariance_form)
    return _filter(*problem, store=store, gradient=gradient, plan=plan)


def matrix_lgssm_smoother(
    lgssm: MatrixLGSSM,
    emissions: Float[Array, "T m"],
    *,
    mask: Bool[Array, " T"] | None = None,
    length: int | Int[Array, ""] | None = None,
    missing: Missing = "auto",
    store: Literal["all", "means"] = "all",
    method: Method = "auto",
    covariance_form: Form = "plain",
) -> PosteriorMatrixLGSSM:
    r"""Smooth the matrix-state model by the modified Bryson-Frazier recursion.

    $$E[S_t \mid y_{1:T}] = M_t - \hat\lambda_t P_t, \qquad
      P_{t \mid T} = P_t - P_t \hat\Lambda_t P_t$$

    No inverse is taken, so it is right also where Q_t or P_0 is singular. O(d² + m d) a step
    and one batched product for the covariances. With `covariance_form="square_root"` no difference
    of covariances is taken either,

    $$P_{t \mid T} = (P_t^{-1} + J_t)^{-1}, \quad
      E[S_t \mid y_{1:T}] = M_t + \zeta_t P_{t \mid T}$$

    with what the future says of the state, J_t and ζ_t; in factors, d scalar updates a step.

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

    Returns:
        The posterior.

    Raises:
        ValueError: an argument of the wrong shape or value.
        TypeError: an argument that is not of the expected type.

    Example:
        >>> import jax.numpy as jnp, ssmlin
        >>> lgssm = ssmlin.matrix_lgssm("bayesian_memory", keys=jnp.ones((2, 1)), alpha=1.0,
        ...     value_dim=1, emission_noise=1.0)
        >>> posterior = ssmlin.matrix_lgssm_smoother(lgssm, jnp.array([[jnp.nan], [3.0]]))
        >>> posterior.smoothed_means.ravel().tolist()
        [1.5, 1.5]

    Source: Bierman (1973); de Jong (1989).
    """
    _checks.one_of("store", store, ("all", "means"))
    problem, plan = _prepare(lgssm, emissions, mask, length, missing, method, covariance_form)
    if covariance_form == "square_root" and _checks.is_concrete(lgssm.emission_noise):
        if not (np.asarray(lgssm.emission_noise) > 0).all():
            raise ValueError(
                "covariance_form: 'square_root' smooths where emission_noise > 0 only, got a zero; "
                "expected 'plain'"
            )
    return _smoother(*problem, store=store, plan=plan)


def matrix_lgssm_posterior_sample(
    key: Array,
    lgssm: MatrixLGSSM,
    emissions: Float[Array, "T m"],
    num_samples: int = 1,
    *,
    mask: Bool[Array, " T"] | None = None,
    length: int | Int[Array, ""] | None = None,
    missing: Missing = "auto",
    method: Method = "auto",
    covariance_form: Form = "plain",
) -> Float[Array, "num_samples T m d"]:
    r"""Draw state paths from $p(S_{1:T} \mid y_{1:T})$, exactly also where Q_t is singular.

    Mean correction: simulate (S⁺, y⁺) from the model, smooth the mean of y − y⁺, add S⁺. All draws
    share one covariance recursion, so a further draw costs O(T m d).

    Args:
        key: a PRNG key.
        lgssm: the model.
        emissions: y, (T, m); NaN means missing.
        num_samples: how many paths.
        mask: see :func:`matrix_lgssm_filter`.
        length: see :func:`matrix_lgssm_filter`.
        missing: see :func:`matrix_lgssm_filter`.
        method: see :func:`matrix_lgssm_filter`.
        covariance_form: see :func:`matrix_lgssm_filter`.

    Returns:
        The paths, (num_samples, T, m, d).

    Raises:
        ValueError: an argument of the wrong shape or value.
        TypeError: an argument that is not of the expected type.

    Example:
        >>> import jax, jax.numpy as jnp, ssmlin
        >>> lgssm = ssmlin.matrix_lgssm("bayesian_memory", keys=jnp.ones((4, 2)), alpha=1.0,
        ...     value_dim=3, emission_noise=1.0)
        >>> draws = ssmlin.matrix_lgssm_posterior_sample(
        ...     jax.random.key(0), lgssm, jnp.zeros((4, 3)), 10)
        >>> draws.shape
        (10, 4, 3, 2)

    Source: Durbin and Koopman (2002), Biometrika 89.
    """
    _checks.positive_int("num_samples", num_samples)
    problem, plan = _prepare(lgssm, emissions, mask, length, missing, method, covariance_form)
    return _posterior_sample(key, *problem, num_samples=num_samples, plan=plan)


def matrix_lgssm_sample(
    key: Array, lgssm: MatrixLGSSM, num_samples: int = 1
) -> tuple[Float[Array, "num_samples T m d"], Float[Array, "num_samples T m"]]:
    r"""Draw states and emissions from the model (the prior predictive).

    Args:
        key: a PRNG key.
        lgssm: the model; singular P_0 and Q_t are fine.
        num_samples: how many sequences.

    Returns:
        States (num_samples, T, m, d) and emissions (num_samples, T, m).

    Raises:
        ValueError: `num_samples` below 1.
        TypeError: `num_samples` not an integer.

    Example:
        >>> import jax, jax.numpy as jnp, ssmlin
        >>> lgssm = ssmlin.matrix_lgssm("bayesian_memory", keys=jnp.ones((4, 2)), alpha=1.0,
        ...     value_dim=3, emission_noise=1.0)
        >>> states, emissions = ssmlin.matrix_lgssm_sample(jax.random.key(0), lgssm)
        >>> states.shape, emissions.shape
        ((1, 4, 3, 2), (1, 4, 3))
    """
    _checks.positive_int("num_samples", num_samples)
    return _sample(key, lgssm, num_samples)


# ------------------------------------------------------------------------- what is missing


def _prepare(
    lgssm: MatrixLGSSM,
    emissions: Any,
    mask: Any,
    length: Any,
    missing: str,
    method: str,
    covariance_form: str,
) -> tuple[tuple[MatrixLGSSM, Array, Array], Plan]:
    """Check the data; return the model, emissions free of NaN, what was observed, and the plan."""
    if not isinstance(lgssm, MatrixLGSSM):
        raise TypeError(f"lgssm: expected a MatrixLGSSM, got {type(lgssm).__name__}")
    _checks.one_of("missing", missing, _MISSING)
    _checks.one_of("method", method, ("auto", *_DRIVERS))
    _checks.one_of("covariance_form", covariance_form, tuple(FORMS))
    sizes = {"T": lgssm.num_timesteps, "m": lgssm.value_dim}
    batch: tuple[str, ...] = ()
    if sequential.is_batched(lgssm):
        batch, sizes["B"] = ("B",), lgssm.initial_mean.shape[0]
    y = _checks.float_array("emissions", emissions)
    _checks.shaped("emissions", y, (*batch, "T", "m"), sizes)
    if _checks.is_concrete(y) and np.isinf(np.asarray(y)).any():
        raise ValueError("emissions: expected finite values or NaN for missing, got an infinity")
    y = y.astype(lgssm.dtype)

    observed = observed_entries(y, mask, length, batch, sizes)
    if missing == "auto":
        partly = (
            _checks.is_concrete(observed)
            and lgssm.value_dim > 1
            and bool(np.any(np.asarray(observed).any(-1) != np.asarray(observed).all(-1)))
        )
        missing = "entries" if partly else "rows"
    by_rows = missing == "entries" and lgssm.value_dim > 1
    if by_rows and not lgssm.independent_rows:
        raise ValueError(
            "missing: expected 'rows', since a covariance for each row needs a row_cov known to be "
            "diagonal (give its diagonal, shape (m,)); got partly missing emissions and a full "
            "row_cov, for which ssmlin.lgssm_filter(lgssm.to_dynamax(), emissions) is exact"
        )
    if not by_rows:
        observed = jnp.broadcast_to(observed.all(axis=-1, keepdims=True), y.shape)
    if method == "auto":
        method = _choose_driver(lgssm)
    plan = Plan(_DRIVERS[method], FORMS[covariance_form], by_rows)
    # Missing entries become zeros here, before any arithmetic, so no NaN can reach a gradient.
    return (lgssm, jnp.where(observed, y, 0.0), observed.astype(y.dtype)), plan


def observed_entries(
    emissions: Array, mask: Any, length: Any, batch: tuple[str, ...], sizes: dict[str, int]
) -> Bool[Array, "... T m"]:
    """Which entries are there: not NaN, not masked and not padding."""
    observed = ~jnp.isnan(emissions)
    if mask is not None:
        mask = jnp.asarray(mask)
        if mask.dtype != bool:
            raise TypeError(f"mask: expected a boolean array, got {_checks.describe(mask)}")
        observed &= _checks.shaped("mask", mask, (*batch, "T"), sizes)[..., None]
    if length is not None:
        length = jnp.asarray(length)
        if length.ndim:
            _checks.shaped("length", length, batch, sizes)
        outside = _checks.is_concrete(length) and (
            np.asarray((length < 0) | (length > sizes["T"])).any()
        )
        if outside:
            raise ValueError(f"length: expected 0 <= length <= T = {sizes['T']}, got {length}")
        observed &= (jnp.arange(sizes["T"]) < length[..., None])[..., None]
    return observed


def _choose_driver(lgssm: MatrixLGSSM) -> str:
    """The fastest driver: on a CPU the scan, by the table in docs/benchmarks.md.

    On an accelerator a step of a scan costs some tens of microseconds whatever its size, so there
    it is the associative scan for a sequence of any length, while its elements, about ten d × d
    arrays a step, fit into memory. A batch keeps an accelerator busy by itself.
    """
    if jax.default_backend() == "cpu" or lgssm.num_timesteps < _SHORT:
        return "sequential"
    if sequential.is_batched(lgssm) and lgssm.initial_mean.shape[0] >= lgssm.num_timesteps:
        return "sequential"
    size = 10 * lgssm.num_timesteps * lgssm.key_dim**2 * lgssm.dtype.itemsize
    return "associative" if size < _ASSOCIATIVE_BYTES else "chunked"


_SHORT, _ASSOCIATIVE_BYTES = 64, 2**33


def _over_rows(core: Callable[..., Any], lgssm: MatrixLGSSM, *data: Array) -> Any:
    """Map a function of (model, (T, 1) data ...) over the rows of the state, the row axis last.

    Each row is a model of its own with m = 1 and its own covariance, which P_0 may have already.
    """
    rows = replace(
        lgssm,
        initial_mean=lgssm.initial_mean[:, None],
        drift=LowRank(lgssm.drift.left[:, :, None], lgssm.drift.right),
        row_cov=jnp.diag(lgssm.row_cov)[:, None, None],
        emission_bias=lgssm.emission_bias[:, :, None],
    )
    axes: Any = replace(
        jax.tree.map(lambda _: None, lgssm),
        initial_mean=0,
        initial_cov=0 if lgssm.initial_cov.ndim == 3 else None,
        drift=LowRank(1, None),  # type: ignore[arg-type]  # axes, not arrays
        row_cov=0,
        emission_bias=1,
    )
    return jax.vmap(core, in_axes=(axes, *(1 for _ in data)))(rows, *(x[:, :, None] for x in data))


def _join_rows(posterior: PosteriorMatrixLGSSM, row_cov: Array) -> PosteriorMatrixLGSSM:
    """One posterior from those of the single rows, stacked along axis 0."""

    def means(x: Array | None) -> Array | None:
        return None if x is None else jnp.moveaxis(x, 0, 1)[:, :, 0]

    def covariances(x: Array | None) -> Array | None:
        return None if x is None else jnp.moveaxis(x, 0, 1)

    totals: dict[str, Any] = {
        "marginal_loglik": posterior.marginal_loglik.sum(),
        "log_predictive": posterior.log_predictive.sum(axis=0),
        "row_cov": row_cov,
    }
    joined: dict[str, Any] = {
        name: (means if name.endswith("_means") else covariances)(x)
        for name, x in posterior._asdict().items()
        if name not in totals
    }
    return PosteriorMatrixLGSSM(**totals, **joined)


# --------------------------------------------------------------------------------- cores


def _centred(lgssm: MatrixLGSSM, emissions: Array, observed: Array) -> Array:
    """Emissions less their bias, zero where missing."""
    return (emissions - lgssm.emission_bias) * observed


def _assemble(
    lgssm: MatrixLGSSM, y: Array, observed: Array, run: sequential.Forward
) -> tuple[PosteriorMatrixLGSSM, Array, Array]:
    """The posterior's likelihood part, the residuals e_t and the precisions 1/s_t."""
    if sequential.is_batched(lgssm):
        return jax.vmap(_assemble)(lgssm, y, observed, run)
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
    # Every step's term by itself and one sum outside the scan: float32 keeps its digits.
    terms = -0.5 * (m * jnp.log(2 * jnp.pi * scales) + log_det + jnp.sum(white**2, axis=1) / scales)
    log_predictive = terms * seen
    posterior = PosteriorMatrixLGSSM(
        marginal_loglik=log_predictive.sum(),
        log_predictive=log_predictive,
        emission_means=run.emission_means + lgssm.emission_bias,
        emission_scales=run.scales,
        row_cov=lgssm.row_cov,
    )
    return posterior, residuals, seen / scales


def _filter_core(
    lgssm: MatrixLGSSM, emissions: Array, observed: Array, *, store: str, gradient: str, plan: Plan
) -> PosteriorMatrixLGSSM:
    """Filter with a shared covariance."""
    y, seen = _centred(lgssm, emissions, observed), observed[..., 0]
    form = plan.form
    slim = store in ("last", "loglik")
    if slim and gradient == "adjoint" and plan.driver is sequential:
        run, last_cov = adjoint.forward(lgssm, y, seen, form)
    else:
        run = plan.driver.forward(
            lgssm,
            y,
            seen,
            form=form,
            keep_gains=store == "all",
            keep_means=not slim,
            keep_covariances=store in ("all", "filtered"),
        )
        last_cov = form.to_dense(run.last_stored)
    posterior, residuals, _ = _assemble(lgssm, y, observed, run)
    if store == "last":
        return posterior._replace(
            filtered_means=run.last_mean[..., None, :, :],
            filtered_covariances=last_cov[..., None, :, :],
        )
    covs: Any = None if run.stored is None else form.to_dense(run.stored)
    posterior = posterior._replace(filtered_means=run.means, filtered_covariances=covs)
    if store != "all":
        return posterior
    # Undo the update: M⁻ = M − e gᵀ and P⁻ = P + s g gᵀ.
    gains = run.gains[..., None, :]
    f = gains * jnp.sqrt(run.scales)[..., None, None]  # so that f fᵀ is exactly symmetric
    return posterior._replace(
        predicted_means=run.means - residuals[..., :, None] * gains,
        predicted_covariances=covs + f.mT * f,
    )


def _smoother_core(
    lgssm: MatrixLGSSM, emissions: Array, observed: Array, *, store: str, plan: Plan
) -> PosteriorMatrixLGSSM:
    """Smooth with a shared covariance."""
    y, seen = _centred(lgssm, emissions, observed), observed[..., 0]
    moments, form = store == "all", plan.form
    if form is SQUARE_ROOT:
        return _root_smoother_core(lgssm, y, observed, store=store, plan=plan)
    run = plan.driver.forward(
        lgssm,
        y,
        seen,
        form=form,
        keep_gains=True,
        keep_means=moments,
        keep_covariances=moments,
    )
    posterior, residuals, precisions = _assemble(lgssm, y, observed, run)
    back = plan.driver.backward(lgssm, run.gains, precisions, residuals, keep_information=moments)
    if not moments:
        means = plan.driver.smoothed_means(lgssm, lgssm.initial_mean, back)
        return posterior._replace(smoothed_means=means)
    covs = run.stored
    return posterior._replace(
        filtered_means=run.means,
        filtered_covariances=covs,
        smoothed_means=run.means - batched_product(back.filtered_adjoints, covs),
        smoothed_covariances=smoothed_covariance(covs, back.information),
    )


def _root_smoother_core(
    lgssm: MatrixLGSSM, y: Array, observed: Array, *, store: str, plan: Plan
) -> PosteriorMatrixLGSSM:
    """Smooth with a shared covariance in square-root form; y less its bias."""
    form, seen = plan.form, observed[..., 0]
    run = plan.driver.forward(
        lgssm, y, seen, form=form, keep_gains=True, keep_means=True, keep_covariances=True
    )
    posterior, residuals, _ = _assemble(lgssm, y, observed, run)
    shifts, roots = plan.driver.root_backward(lgssm, y, seen, run, residuals)
    smoothed = form.to_dense(roots)
    posterior = posterior._replace(smoothed_means=run.means + batched_product(shifts, smoothed))
    if store == "means":
        return posterior
    return posterior._replace(
        filtered_means=run.means,
        filtered_covariances=form.to_dense(run.stored),
        smoothed_covariances=smoothed,
    )


def symmetric_root(cov: Float[Array, "... d d"]) -> Float[Array, "... d d"]:
    """A square root of a positive semidefinite matrix, singular ones included."""
    values, vectors = jnp.linalg.eigh(cov)
    return vectors * jnp.sqrt(jnp.maximum(values, 0.0))[..., None, :]


def _sample_core(
    key: Array, lgssm: MatrixLGSSM, num_samples: int, driver: Any
) -> tuple[Float[Array, "T n m d"], Float[Array, "T n m"]]:
    """States and emissions less their bias, time first."""
    n, m, d, steps = num_samples, lgssm.value_dim, lgssm.key_dim, lgssm.num_timesteps
    keys = jax.random.split(key, 3)
    root = symmetric_root(lgssm.row_cov)

    def mix(rows: Array) -> Array:
        """Give the rows of every draw the covariance Σ."""
        return jnp.einsum("ij,...njd->...nid", root, rows)

    start = jax.random.normal(keys[0], (n, m, d), lgssm.dtype)
    start = lgssm.initial_mean + mix(start @ symmetric_root(lgssm.initial_cov).T)
    shocks = mix(lgssm.process_noise.sample(keys[1], n * m).reshape(steps, n, m, d))
    shifts = (shocks + lgssm.drift.to_dense()[:, None]).reshape(steps, n * m, d)
    states = driver.carried_means(lgssm, start.reshape(n * m, d), shifts, with_drift=False)
    noise = mix(jax.random.normal(keys[2], (steps, n, m, 1), lgssm.dtype))[..., 0]
    noise = noise * jnp.sqrt(lgssm.emission_noise)[:, None, None]
    states = states.reshape(steps, n, m, d)
    return states, jnp.einsum("tnmd,td->tnm", states, lgssm.readout) + noise


def _posterior_sample_core(
    lgssm: MatrixLGSSM, emissions: Array, observed: Array, key: Array, num_samples: int, plan: Plan
) -> Float[Array, "n T m d"]:
    """Paths by mean correction; the draws are stacked as further rows of one state."""
    n, m, steps, d = num_samples, lgssm.value_dim, lgssm.num_timesteps, lgssm.key_dim
    driver = plan.driver
    y = _centred(lgssm, emissions, observed)
    seen = observed[:, 0]
    run = driver.forward(lgssm, y, seen, form=plan.form, keep_gains=True)
    states, simulated = _sample_core(key, lgssm, n, driver)
    difference = (y[:, None] - simulated).reshape(steps, n * m) * seen[:, None]
    zero_mean = jnp.zeros((n * m, d), lgssm.dtype)
    predicted, _ = driver.forward_means(lgssm, zero_mean, difference, run.gains)
    residuals = (difference - predicted) * seen[:, None]
    precisions = seen / jnp.where(seen > 0, run.scales, 1.0)
    back = driver.backward(lgssm, run.gains, precisions, residuals)
    means = driver.smoothed_means(lgssm, zero_mean, back, with_drift=False)
    return jnp.moveaxis(states + means.reshape(steps, n, m, d), 1, 0)


# ------------------------------------------------------------------- batches and single rows


def _run(core: Callable[..., Any], plan: Plan, lgssm: MatrixLGSSM, *data: Array) -> Any:
    """Run a core that gives a posterior on one sequence or a batch, by rows where the plan says."""
    if plan.by_rows:

        def one(lgssm: MatrixLGSSM, *data: Array) -> PosteriorMatrixLGSSM:
            return _join_rows(_over_rows(core, lgssm, *data), lgssm.row_cov)

    else:
        one = core
    if not sequential.is_batched(lgssm):
        return one(lgssm, *data)
    if plan.by_rows or plan.driver is not sequential:
        return jax.vmap(one)(lgssm, *data)
    return _in_groups(core, lgssm, *data)


def _in_groups(core: Callable[..., Any], lgssm: MatrixLGSSM, *data: Array) -> Any:
    """Run a core on groups of sequences, one group after the other, each with its batch axis last.

    On a CPU a group's covariances are to stay in the first-level cache, and XLA's sums along the
    leading axis become ten times slower from 4096 elements on. An accelerator takes all at once.
    """
    num = lgssm.initial_mean.shape[0]
    most = num if jax.default_backend() != "cpu" else max(1, _GROUP_ELEMENTS // lgssm.key_dim**2)
    num_groups = -(-num // min(most, num))
    size = -(-num // num_groups)
    if num_groups == 1:
        return core(lgssm, *data)
    index = jnp.minimum(jnp.arange(num_groups * size), num - 1)  # the last one fills up
    groups = jax.tree.map(
        lambda x: x[index].reshape(num_groups, size, *x.shape[1:]), (lgssm, *data)
    )
    if size == 1:
        groups = jax.tree.map(lambda x: x[:, 0], groups)
    done = jax.lax.map(lambda group: core(*group), groups)
    if size == 1:
        return done
    return jax.tree.map(lambda x: x.reshape(num_groups * size, *x.shape[2:])[:num], done)


_GROUP_ELEMENTS = 2048


@partial(jax.jit, static_argnames=("store", "gradient", "plan"))
def _filter(lgssm, emissions, observed, *, store, gradient, plan):
    core = partial(_filter_core, store=store, gradient=gradient, plan=plan)
    return _run(core, plan, lgssm, emissions, observed)


@partial(jax.jit, static_argnames=("store", "plan"))
def _smoother(lgssm, emissions, observed, *, store, plan):
    core = partial(_smoother_core, store=store, plan=plan)
    return _run(core, plan, lgssm, emissions, observed)


@partial(jax.jit, static_argnames=("num_samples", "plan"))
def _posterior_sample(key, lgssm, emissions, observed, *, num_samples, plan):
    if sequential.is_batched(lgssm):
        keys = jax.random.split(key, lgssm.initial_mean.shape[0])
        one = partial(_posterior_sample, num_samples=num_samples, plan=plan)
        return jax.vmap(one)(keys, lgssm, emissions, observed)
    if plan.by_rows:
        keys = jax.random.split(key, lgssm.value_dim)

        def core(row, y, seen, index):
            return _posterior_sample_core(row, y, seen, keys[index[0, 0]], num_samples, plan)

        index = jnp.arange(lgssm.value_dim)[None, :]
        draws = _over_rows(core, lgssm, emissions, observed, index)
        return jnp.moveaxis(draws[:, :, :, 0], 0, 2)
    return _posterior_sample_core(lgssm, emissions, observed, key, num_samples, plan)


@partial(jax.jit, static_argnames=("num_samples",))
def _sample(key, lgssm, num_samples):
    states, emissions = _sample_core(key, lgssm, num_samples, sequential)
    emissions = emissions + lgssm.emission_bias[:, None]
    return jnp.moveaxis(states, 1, 0), jnp.moveaxis(emissions, 1, 0)
