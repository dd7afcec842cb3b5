r"""Filtering, smoothing and sampling of dense linear Gaussian models: dynamax's functions, rebuilt.

The entries of an emission are worked off one at a time, each a scalar update of O(D²), after an
LDLᵀ elimination has removed what correlation their noise has. Nothing is inverted but the scalar
variances of the entries, so singular Q, P_0 and R are fine, and a missing entry is an update that
is left out.

Conventions (dynamax ≥ 1.0.3): F_t takes z_{t-1} to z_t and entry 0 of whatever belongs to the
dynamics is ignored; `initial` is the law at the first emission. Inside, that law is the noise of
step 0, out of a state that is certainly zero, so every step is a prediction and then its updates.
"""

import math
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from dynamax.linear_gaussian_ssm.inference import (
    ParamsLGSSM,
    ParamsLGSSMDynamics,
    ParamsLGSSMEmissions,
    ParamsLGSSMInitial,
    PosteriorGSSMFiltered,
    PosteriorGSSMSmoothed,
)
from jax import lax
from jaxtyping import Array, Bool, Float

from ssmlin import _checks
from ssmlin.inference.matrix.elements import Element, combine

Method = Literal["auto", "sequential", "associative", "chunked"]

_METHODS = ("auto", "sequential", "associative", "chunked")
# Up to here a sequential scan is no slower on an accelerator.
_LONG = 256


def lgssm_filter(
    params: ParamsLGSSM,
    emissions: Float[Array, "T N"],
    inputs: Float[Array, "T p"] | None = None,
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

    Example:
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
    problem, static = _prepare(params, emissions, inputs, method)
    return _filter(*problem, **static)


def lgssm_smoother(
    params: ParamsLGSSM,
    emissions: Float[Array, "T N"],
    inputs: Float[Array, "T p"] | None = None,
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

    Example:
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
    problem, static = _prepare(params, emissions, inputs, method)
    return _smoother(*problem, **static)


def lgssm_posterior_sample(
    key: Array,
    params: ParamsLGSSM,
    emissions: Float[Array, "T N"],
    inputs: Float[Array, "T p"] | None = None,
    jitter: float = 0.0,
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

    Example:
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
    problem, static = _prepare(params, emissions, inputs, method)
    return _posterior_sample(key, *problem, **static)


# ------------------------------------------------------------------------------- arguments


class _ArgumentError(ValueError, AssertionError):
    """A wrong argument; dynamax asserts where this package raises ValueError, so it is both."""


def _shaped(name: str, x: Array, dims: tuple[str, ...], sizes: dict[str, int]) -> Array:
    try:
        return _checks.shaped(name, x, dims, sizes)
    except ValueError as error:
        raise _ArgumentError(str(error)) from None


def _number_array(name: str, x: Any) -> Array:
    """Return `x` as an array of real numbers."""
    if x is None:
        raise _ArgumentError(f"{name}: expected an array, got None")
    try:
        array = jnp.asarray(x)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name}: expected an array, got {_checks.describe(x)}") from error
    if not jnp.issubdtype(array.dtype, jnp.floating) and not jnp.issubdtype(
        array.dtype, jnp.integer
    ):
        raise TypeError(f"{name}: expected real numbers, got a {_checks.describe(array)}")
    return array


def _varying_diagonal(shape: tuple[int, ...], num_timesteps: int) -> bool:
    """Whether an R of this shape is (T, N), a diagonal for each step; dynamax's rule."""
    return len(shape) == 2 and shape[0] == num_timesteps and shape[1] != num_timesteps


def _prepare(
    params: ParamsLGSSM, emissions: Any, inputs: Any, method: str
) -> tuple[tuple[ParamsLGSSM, Array, Array | None], dict[str, Any]]:
    """Check the arguments; return arrays of one dtype and what the compiled cores must know."""
    _checks.one_of("method", method, _METHODS)
    initial, dynamics, emission = params.initial, params.dynamics, params.emissions
    sizes: dict[str, int] = {}
    y = _shaped("emissions", _number_array("emissions", emissions), ("T", "N"), sizes)
    steps = sizes["T"]
    if steps == 0:
        raise _ArgumentError("emissions: expected at least one time step, got none")

    def parameter(name: str, x: Any, times: Array, *dims: str) -> Array:
        x = _number_array(name, jax.vmap(x)(times) if callable(x) else x)
        return _shaped(name, x, ("T", *dims) if x.ndim == len(dims) + 1 else dims, sizes)

    times = jnp.arange(steps)
    # A function is not asked for the transition into the first step: it may not know of one.
    into = jnp.clip(times, min(1, steps - 1))
    mean = _shaped("initial.mean", _number_array("initial.mean", initial.mean), ("D",), sizes)
    cov = _shaped("initial.cov", _number_array("initial.cov", initial.cov), ("D", "D"), sizes)
    f = parameter("dynamics.weights", dynamics.weights, into, "D", "D")
    q = parameter("dynamics.cov", dynamics.cov, into, "D", "D")
    h = parameter("emissions.weights", emission.weights, times, "N", "D")

    if callable(emission.cov):
        raise _ArgumentError("emissions.cov: expected an array, got a function")
    shape = np.shape(emission.cov)
    diagonal = len(shape) == 1 or _varying_diagonal(shape, steps)
    r = parameter("emissions.cov", emission.cov, times, *("N",) if diagonal else ("N", "N"))
    if shape == (steps, steps) and steps > 1:
        warnings.warn(
            f"emissions.cov: shape {shape} with T = N = {steps} is taken as a static full "
            "covariance; give a diagonal for each step as (T, N, N)",
            stacklevel=3,
        )
    optional: dict[str, Array | None] = {}
    for name, x, dims, when in (
        ("dynamics.bias", dynamics.bias, ("D",), into),
        ("emissions.bias", emission.bias, ("N",), times),
        ("dynamics.input_weights", dynamics.input_weights, ("D", "p"), into),
        ("emissions.input_weights", emission.input_weights, ("N", "p"), times),
    ):
        optional[name] = None if x is None else parameter(name, x, when, *dims)
    u = None
    if sizes.get("p", 0) > 0 or inputs is not None:
        u = _shaped("inputs", _number_array("inputs", inputs), ("T", "p"), sizes)

    complete = False
    if _checks.is_concrete(y):
        values = np.asarray(y)
        complete = bool(np.isfinite(values).all())
        if not complete and np.isinf(values).any():
            raise ValueError(
                "emissions: expected finite values or NaN for missing, got an infinity"
            )
    arrays = ParamsLGSSM(
        ParamsLGSSMInitial(mean, cov),
        ParamsLGSSMDynamics(f, optional["dynamics.bias"], optional["dynamics.input_weights"], q),
        ParamsLGSSMEmissions(h, optional["emissions.bias"], optional["emissions.input_weights"], r),
    )
    problem = (arrays, y, u)
    dtype = jnp.result_type(*jax.tree.leaves(problem), float)
    static = {
        "chunk": _chunk_length(method, steps),
        # One program for both where only a full R makes a difference.
        "complete": complete and sizes["N"] > 1 and not diagonal,
    }
    return jax.tree.map(lambda x: x.astype(dtype), problem), static


def _chunk_length(method: str, num_timesteps: int) -> int | None:
    """Steps that are worked off one after the other; None for all of them."""
    if method == "auto":
        parallel = jax.default_backend() != "cpu" and num_timesteps > _LONG
        method = "associative" if parallel else "sequential"
    lengths = {"sequential": None, "associative": 1, "chunked": math.isqrt(num_timesteps - 1) + 1}
    return lengths[method]


# ------------------------------------------------------------------------------- the model


class _Model(NamedTuple):
    """The problem as the drivers see it; what does not vary in time has no time axis.

    Attributes:
        transition: F, from the step before to this one.
        drift: B u + b; at the first step the initial mean.
        noise: Q; not used at the first step.
        rows: h_i, the rows of H after the elimination.
        variances: r_i, of their independent noises.
        values: y_i, less their offsets; zero where missing.
        seen: which entries were observed.
        first: whether this is the first step.
        initial_cov: P_0.
    """

    transition: Float[Array, "*T D D"]
    drift: Float[Array, "T D"]
    noise: Float[Array, "*T D D"]
    rows: Float[Array, "*T N D"]
    variances: Float[Array, "*T N"]
    values: Float[Array, "T N"]
    seen: Bool[Array, "T N"]
    first: Bool[Array, " T"]
    initial_cov: Float[Array, "D D"]


# Axes of the fields of a model at one step.
_NDIM: tuple[int, ...] = (2, 1, 2, 2, 1, 1, 1, 0, 2)


def _over_time(
    step: Callable[..., Any], carry: Any, model: _Model, xs: Any = None, *, reverse: bool = False
) -> Any:
    """Scan `step(carry, model_t, xs_t)`; what does not vary in time is closed over, not copied."""
    varying = {
        name: x
        for (name, x), ndim in zip(model._asdict().items(), _NDIM, strict=True)
        if x.ndim > ndim
    }

    def body(carry: Any, inputs: Any) -> tuple[Any, Any]:
        here, x = inputs
        return step(carry, model._replace(**here), x)

    return lax.scan(body, carry, (varying, xs), reverse=reverse)


def _over_entries(step: Callable[..., Any], carry: Any, xs: Any, *, reverse: bool = False) -> Any:
    """Scan over the entries of an emission, unrolled where they are few."""
    few = jax.tree.leaves(xs)[0].shape[0] <= 16
    return lax.scan(step, carry, xs, reverse=reverse, unroll=few)


def _product(a: Float[Array, "*T n d"], b: Float[Array, "*T d e"]) -> Float[Array, "*T n e"]:
    """Product of matrices; small ones as fused sums, which a CPU has done before it calls another.

    The sums are cut below 4096 terms, where XLA's CPU compiler takes a much slower way.
    """
    n, d, e = a.shape[-2], *b.shape[-2:]
    if max(n, d, e) > (16 if a.ndim == b.ndim == 2 else 8) or a.ndim > b.ndim:
        return a @ b
    block = min(n, 4095 // (d * e))
    return jnp.concatenate(
        [
            jnp.sum(a[..., i : i + block, :, None] * b[..., None, :, :], axis=-2)
            for i in range(0, n, block)
        ],
        axis=-2,
    )


def _symmetric_part(x: Float[Array, "*T D D"]) -> Float[Array, "*T D D"]:
    return 0.5 * (x + x.mT)


def _apply(matrix: Float[Array, "*T n d"], x: Float[Array, "T d"]) -> Float[Array, "T n"]:
    """Matrix times vector at every step."""
    return x @ matrix.T if matrix.ndim == 2 else jnp.einsum("tnd,td->tn", matrix, x)


def _eliminate(
    cov: Float[Array, "*T n n"], rest: Float[Array, "*T n k"]
) -> tuple[Float[Array, "*T n n"], Float[Array, "*T n"], Float[Array, "*T n k"]]:
    """L, d and L⁻¹ rest of cov = L diag(d) Lᵀ, unpivoted; a pivot that is zero is skipped."""
    n = cov.shape[-1]
    order = jnp.arange(n)
    tolerance = n * jnp.finfo(cov.dtype).eps * jnp.diagonal(cov, axis1=-2, axis2=-1)

    def step(matrix: Array, j: Array) -> tuple[Array, Array]:
        row = lax.dynamic_index_in_dim(matrix, j, axis=-2)
        column = lax.dynamic_index_in_dim(matrix, j, axis=-1, keepdims=False)
        pivot = lax.dynamic_index_in_dim(column, j, axis=-1)
        nonzero = pivot > lax.dynamic_index_in_dim(tolerance, j, axis=-1)
        factor = jnp.where(nonzero & (order > j), column / jnp.where(nonzero, pivot, 1.0), 0.0)
        return matrix - factor[..., :, None] * row, factor

    matrix, factors = _over_entries(step, jnp.concatenate([cov, rest], axis=-1), order)
    lower = jnp.moveaxis(factors, 0, -1) + jnp.eye(n, dtype=cov.dtype)
    pivots = jnp.maximum(jnp.diagonal(matrix, axis1=-2, axis2=-1), 0.0)
    return lower, pivots, matrix[..., n:]


def _masked_sqrt(x: Array) -> Array:
    """Square root, zero and with zero gradient where `x` is not positive."""
    return jnp.where(x > 0, jnp.sqrt(jnp.where(x > 0, x, 1.0)), 0.0)


def _root(cov: Float[Array, "*T n n"]) -> Float[Array, "*T n n"]:
    """A square root of a positive semidefinite matrix, singular ones included."""
    lower, pivots, _ = _eliminate(cov, cov[..., :0])
    return lower * _masked_sqrt(pivots)[..., None, :]


type _Measured = tuple[Float[Array, "*T N D"], Float[Array, "*T N"], Float[Array, "T N"]]


def _decorrelate_all(rows: Array, cov: Array, values: Array) -> _Measured:
    """Rows, variances and values of independent entries; H and R the same at every step."""
    rest = jnp.concatenate([rows, jnp.eye(len(rows), dtype=rows.dtype)], axis=1)
    _, variances, rest = _eliminate(cov, rest)
    dim = rows.shape[1]
    return rest[:, :dim], variances, values @ rest[:, dim:].T


def _decorrelate(rows: Array, cov: Array, values: Array) -> _Measured:
    """:func:`_decorrelate_all` at every step by itself."""
    (steps, n), dim = values.shape, rows.shape[-1]
    rows, cov = jnp.broadcast_to(rows, (steps, n, dim)), jnp.broadcast_to(cov, (steps, n, n))
    rest = jnp.concatenate([rows, values[:, :, None]], axis=2)
    _, variances, rest = _eliminate(cov, rest)
    return rest[..., :dim], variances, rest[..., dim]


def _decorrelate_seen(rows: Array, cov: Array, values: Array, seen: Array) -> _Measured:
    """:func:`_decorrelate` where entries may be missing."""
    both = seen[:, :, None] & seen[:, None, :]
    cov = jnp.where(both, cov, jnp.eye(values.shape[1], dtype=rows.dtype))
    return _decorrelate(jnp.where(seen[:, :, None], rows, 0.0), cov, values)


def _decorrelate_once(rows: Array, cov: Array, values: Array, seen: Array) -> _Measured:
    """:func:`_decorrelate_all`, repeated for every step."""
    rows, variances, values = _decorrelate_all(rows, cov, values)
    steps = len(values)
    return (
        jnp.broadcast_to(rows, (steps, *rows.shape)),
        jnp.broadcast_to(variances, (steps, *variances.shape)),
        values,
    )


def _model(params: ParamsLGSSM, emissions: Array, inputs: Array | None, complete: bool) -> _Model:
    """Work out the offsets, mask what is missing and make the entries of an emission independent.

    All for every step at once; once for all steps where nothing varies in time.
    """
    initial, dynamics, emission = params
    (steps, n), dim = emissions.shape, initial.mean.shape[0]

    def from_second(x: Array, ndim: int) -> Array:
        """Entry 0, which is ignored, may be anything: let it reach no gradient."""
        return x if x.ndim == ndim else x.at[0].set(0.0)

    def offset(bias: Array | None, weights: Array | None, u: Array | None, size: int) -> Array:
        out = jnp.zeros((steps, size), emissions.dtype)
        if bias is not None:
            out = out + bias
        if weights is not None and u is not None:
            out = out + _apply(weights, u)
        return out

    moved = None if inputs is None else inputs.at[0].set(0.0)
    pushed = dynamics.input_weights
    pushed = None if pushed is None else from_second(pushed, 2)
    drift = offset(dynamics.bias, pushed, moved, dim).at[0].set(initial.mean)

    seen = ~jnp.isnan(emissions)
    shift = offset(emission.bias, emission.input_weights, inputs, n)
    # Masked before any arithmetic, so no NaN can reach a gradient.
    values = jnp.where(seen, jnp.where(seen, emissions, 0.0) - shift, 0.0)
    rows, variances = emission.weights, emission.cov
    if variances.ndim > 1 and not _varying_diagonal(variances.shape, steps):
        if n == 1:
            variances = variances[..., 0]
        elif complete and rows.ndim == variances.ndim == 2:
            rows, variances, values = _decorrelate_all(rows, variances, values)
        elif complete:
            rows, variances, values = _decorrelate(rows, variances, values)
        elif rows.ndim == variances.ndim == 2:
            # Under a trace nobody knows yet: the dear way only where something is missing.
            rows, variances, values = lax.cond(
                seen.all(), _decorrelate_once, _decorrelate_seen, rows, variances, values, seen
            )
        else:
            rows, variances, values = _decorrelate_seen(rows, variances, values, seen)
    return _Model(
        transition=from_second(dynamics.weights, 2),
        drift=drift,
        noise=dynamics.cov,
        rows=rows,
        variances=variances,
        values=values,
        seen=seen,
        first=jnp.arange(steps) == 0,
        initial_cov=initial.cov,
    )


# ------------------------------------------------------------------------ the two recursions


class _Forward(NamedTuple):
    """What the filter leaves: laws after every step, and the scalar updates inside of it."""

    means: Float[Array, "T D"]
    covariances: Float[Array, "T D D"]
    residuals: Float[Array, "T N"]
    scales: Float[Array, "T N"]
    gains: Float[Array, "T N D"]


class _Backward(NamedTuple):
    """Adjoints λ of the filtered laws and FᵀΛ, with Λ the information of the predicted ones."""

    adjoints: Float[Array, "T D"]
    carried: Float[Array, "T D D"]


def _zero_law(model: _Model) -> tuple[Float[Array, " D"], Float[Array, "D D"]]:
    return jnp.zeros_like(model.initial_cov[0]), jnp.zeros_like(model.initial_cov)


def _predict(model: _Model, mean: Array, cov: Array) -> tuple[Array, Array]:
    """The law before the emission of this step."""
    f = model.transition
    noise = jnp.where(model.first, model.initial_cov, model.noise)
    return f @ mean + model.drift, _product(_product(f, cov), f.T) + noise


def _precision(scales: Array, seen: Array) -> Array:
    """1/s; zero where an entry is missing or certain, with no division by zero behind it."""
    ok = seen & ~(scales <= 0)  # a NaN stays one
    return jnp.where(ok, 1.0 / jnp.where(ok, scales, 1.0), 0.0)


def _forward(model: _Model, mean: Float[Array, " D"], cov: Float[Array, "D D"]) -> _Forward:
    """Filter from the law before the first step.

    The update takes P h and hᵀP apart, equal as they should be: so it contracts what rounding
    makes of their difference, as it does any error in P, and P need not be made symmetric again.
    """

    def update(law: Any, entry: Any) -> tuple[Any, Any]:
        mean, cov = law
        h, variance, value, seen = entry
        cov_h = cov @ h
        scale = h @ cov_h + variance
        gain = cov_h * _precision(scale, seen)
        residual = value - h @ mean
        law = mean + gain * residual, cov - gain[:, None] * (h @ cov)
        return law, (residual, scale, gain)

    def step(law: Any, model: _Model, _: Any) -> tuple[Any, Any]:
        entries = (model.rows, model.variances, model.values, model.seen)
        law, updates = _over_entries(update, _predict(model, *law), entries)
        return law, (*law, *updates)

    return _Forward(*_over_time(step, (mean, cov), model)[1])


def _backward(
    model: _Model, run: _Forward, adjoint: Float[Array, " D"], information: Float[Array, "D D"]
) -> tuple[tuple[Float[Array, " D"], Float[Array, "D D"]], _Backward]:
    r"""Modified Bryson-Frazier recursion from the adjoint and information after the last step.

    Through an update, with C = I − g hᵀ: λ ← Cᵀλ − h e/s and Λ ← CᵀΛC + h hᵀ/s; through a
    transition, λ ← Fᵀλ and Λ ← FᵀΛF.
    """
    precision = _precision(run.scales, model.seen)

    def update(carry: Any, entry: Any) -> tuple[Any, None]:
        adjoint, information = carry
        h, gain, white, precision = entry
        info_g = information @ gain
        left = info_g - (gain @ info_g + precision) * h
        return (
            adjoint - (gain @ adjoint + white) * h,
            information - left[:, None] * h - h[:, None] * (gain @ information),
        ), None

    def step(carry: Any, model: _Model, xs: Any) -> tuple[Any, Any]:
        adjoint, information = _over_entries(update, carry, (model.rows, *xs), reverse=True)[0]
        f = model.transition
        carried = _product(f.T, information)
        return (f.T @ adjoint, _product(carried, f)), (carry[0], carried)

    xs = (run.gains, run.residuals * precision, precision)
    start, out = _over_time(step, (adjoint, information), model, xs, reverse=True)
    return start, _Backward(*out)


# -------------------------------------------------------------------------------- drivers


def _split(x: Array, chunk: int) -> Array:
    """Cut time into chunks, (chunks, chunk, ...), the last one filled up with zeros."""
    steps = x.shape[0]
    padding = [(0, -steps % chunk)] + [(0, 0)] * (x.ndim - 1)
    return jnp.pad(x, padding).reshape(-1, chunk, *x.shape[1:])


def _join(x: Array, num_timesteps: int) -> Array:
    """Undo the cut."""
    return x.reshape(-1, *x.shape[2:])[:num_timesteps]


def _split_model(model: _Model, chunk: int) -> _Model:
    """Cut a model; what fills the last chunk takes the state to zero and shows nothing of it."""
    steps = model.seen.shape[0]

    def cut(x: Array, ndim: int) -> Array:
        return _split(x if x.ndim > ndim else jnp.broadcast_to(x, (steps, *x.shape)), chunk)

    whole = _Model(*(cut(x, ndim) for x, ndim in zip(model, _NDIM, strict=True)))
    return whole._replace(initial_cov=model.initial_cov)


# Axes to map over the chunks of a model.
_CHUNKS = _Model(*(0,) * 8, None)  # type: ignore[arg-type]


def _element(model: _Model) -> Element:
    """The element of one chunk; the state acts as a row."""
    zero, zeros = _zero_law(model)
    start = Element(jnp.eye(len(zero), dtype=zero.dtype), zero, zeros, zero, zeros)

    def update(element: Element, entry: Any) -> tuple[Element, None]:
        a, b, c, eta, j = element
        h, variance, value, seen = entry
        cov_h, read = c @ h, a @ h
        scale = h @ cov_h + variance
        # A seen entry without variance would be an exact constraint, which no element can hold:
        # better an infinity than a wrong answer.
        precision = jnp.where(seen, 1.0 / jnp.where(seen, scale, 1.0), 0.0)
        gain, residual = cov_h * precision, value - b @ h
        return Element(
            a - read[:, None] * gain,
            b + residual * gain,
            c - gain[:, None] * (h @ c),
            eta + precision * residual * read,
            j + precision * read[:, None] * read,
        ), None

    def step(element: Element, model: _Model, _: Any) -> tuple[Element, None]:
        offset, cov = _predict(model, element.offset, element.cov)
        moved = element._replace(
            transition=element.transition @ model.transition.T, offset=offset, cov=cov
        )
        entries = (model.rows, model.variances, model.values, model.seen)
        return _over_entries(update, moved, entries)[0], None

    element = _over_time(step, start, model)[0]
    return element._replace(offset=element.offset[None], shift=element.shift[None])


def _later(x: Array) -> Array:
    """Everything one place later, zeros in front."""
    return jnp.concatenate([jnp.zeros_like(x[:1]), x[:-1]])


def _earlier(x: Array) -> Array:
    """Everything one place earlier, zeros at the end."""
    return jnp.concatenate([x[1:], jnp.zeros_like(x[:1])])


def _run_forward(model: _Model, chunk: int | None) -> _Forward:
    """Filter by the driver asked for."""
    zero, zeros = _zero_law(model)
    if chunk is None:
        return _forward(model, zero, zeros)
    pieces = _split_model(model, chunk)
    elements = jax.vmap(_element, (_CHUNKS,))(pieces)
    # Out of a state that is certainly zero, the offset and the covariance are the law reached.
    reached = lax.associative_scan(combine, elements)
    starts = _later(reached.offset[:, 0]), _later(reached.cov)
    run = jax.vmap(_forward, (_CHUNKS, 0, 0))(pieces, *starts)
    return jax.tree.map(partial(_join, num_timesteps=model.seen.shape[0]), run)


def _affine(
    first: tuple[Array, Array], second: tuple[Array, Array]
) -> tuple[Float[Array, "... D D"], Float[Array, "... D"]]:
    """Compose two maps x ↦ x A + b of rows."""
    (a, b), (c, d) = first, second
    return a @ c, jnp.einsum("...i,...ij->...j", b, c) + d


def _run_backward(model: _Model, run: _Forward, chunk: int | None) -> _Backward:
    """The adjoints by the driver asked for."""
    zero, zeros = _zero_law(model)
    if chunk is None:
        return _backward(model, run, zero, zeros)[1]
    pieces = _split_model(model, chunk)
    runs = jax.tree.map(partial(_split, chunk=chunk), run)

    def summary(model: _Model, run: _Forward) -> tuple[Array, Array, Array]:
        """What a chunk does to an adjoint and to an information: λ A + b, AᵀΛA + C."""
        (b, c), _ = _backward(model, run, zero, zeros)
        eye = jnp.eye(len(zero), dtype=zero.dtype)
        a = jax.vmap(lambda unit: _backward(model, run, unit, zeros)[0][0] - b)(eye)
        return a, b, c

    def compose(later: Any, earlier: Any) -> Any:
        a, b = _affine(later[:2], earlier[:2])
        return a, b, _symmetric_part(earlier[0].mT @ later[2] @ earlier[0]) + earlier[2]

    summaries = jax.vmap(summary, (_CHUNKS, 0))(pieces, runs)
    _, adjoints, information = lax.associative_scan(compose, summaries, reverse=True)
    ends = _earlier(adjoints), _earlier(information)
    _, out = jax.vmap(_backward, (_CHUNKS, 0, 0, 0))(pieces, runs, *ends)
    return jax.tree.map(partial(_join, num_timesteps=model.seen.shape[0]), out)


# --------------------------------------------------------------------------------- cores


def _loglik(model: _Model, run: _Forward) -> Float[Array, ""]:
    """Summed outside of the scan: float32 keeps its digits."""
    precision = _precision(run.scales, model.seen)
    used = precision != 0
    log_precision = jnp.log(jnp.where(used, precision, 1.0))
    terms = log_precision - math.log(2 * math.pi) - run.residuals**2 * precision
    return 0.5 * jnp.sum(jnp.where(used, terms, 0.0))


@partial(jax.jit, static_argnames=("chunk", "complete"))
def _filter(params, emissions, inputs, *, chunk, complete):
    model = _model(params, emissions, inputs, complete)
    run = _run_forward(model, chunk)
    return PosteriorGSSMFiltered(_loglik(model, run), run.means, run.covariances)


@partial(jax.jit, static_argnames=("chunk", "complete"))
def _smoother(params, emissions, inputs, *, chunk, complete):
    model = _model(params, emissions, inputs, complete)
    run = _run_forward(model, chunk)
    back = _run_backward(model, run, chunk)
    covs = run.covariances
    means = run.means - _apply(covs, back.adjoints)
    # With F, Q and the predicted Λ of step t + 1 and X = P_t FᵀΛ, the smoothed covariance is
    # P_t − X F P_t and Cov(z_t, z_{t+1} | y) = P_{t|T} Fᵀ − X Q.
    f, q = (x if x.ndim == 2 else _earlier(x) for x in (model.transition, model.noise))
    x = _product(covs, _earlier(back.carried))
    smoothed = _symmetric_part(covs - _product(_product(x, f), covs))
    crossed = _product(smoothed, f.mT) - _product(x, q)
    return PosteriorGSSMSmoothed(
        _loglik(model, run),
        run.means,
        covs,
        means,
        smoothed,
        crossed[:-1] + means[:-1, :, None] * means[1:, None, :],
    )


@partial(jax.jit, static_argnames=("chunk", "complete"))
def _posterior_sample(key, params, emissions, inputs, *, chunk, complete):
    model = _model(params, emissions, inputs, complete)
    shock_key, noise_key = jax.random.split(key)
    shocks = jax.random.normal(shock_key, model.drift.shape, model.drift.dtype)
    start = _root(model.initial_cov) @ shocks[0]
    shocks = _apply(_root(model.noise), shocks).at[0].set(start)
    if chunk is None:

        def step(state: Array, model: _Model, shock: Array) -> tuple[Array, Array]:
            state = model.transition @ state + shock
            return state, state

        states = _over_time(step, jnp.zeros_like(start), model, shocks)[1]
    else:
        steps = jnp.broadcast_to(model.transition.mT, (*shocks.shape, shocks.shape[1]))
        states = lax.associative_scan(_affine, (steps, shocks))[1]
    noise = jax.random.normal(noise_key, model.values.shape, model.values.dtype)
    simulated = _apply(model.rows, states) + _masked_sqrt(model.variances) * noise
    model = model._replace(values=jnp.where(model.seen, model.values - simulated, 0.0))
    run = _run_forward(model, chunk)
    adjoints = _run_backward(model, run, chunk).adjoints
    return states + run.means - _apply(run.covariances, adjoints)
