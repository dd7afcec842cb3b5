r"""Many dynamic regressions that share their law, and the gradient of it, without covariances kept.

Each is `bayesian_memory` with one row and noise that does not change,

$$y_t = C_t h_t + \varepsilon_t,\quad C_t = \alpha C_{t-1} + w_t,\quad
  C_0 \sim N(m, P_0),\ w_t \sim N(0, \mathrm{diag}(q)),\ \varepsilon_t \sim N(0, 1),$$

everything relative to an unknown variance of the series. The general adjoint keeps or recomputes
P_t for the gradient of every operator of every step. Here only sums over all steps are asked for,
and they follow from vectors: with N_t the adjoint of P_t, Ñ_t that of P⁻_t, g the gain and p = P⁻h,

$$\mathrm{tr}(\tilde N_t P^-_t) = \mathrm{tr}(N_t P_t) + s\, g^\top N_t g + \bar p^\top p,$$
$$\alpha^2\, \mathrm{tr}(\tilde N_t P_{t-1}) = \mathrm{tr}(\tilde N_t P^-_t)
  - \sum_i q_i \tilde N_{ii},$$

so the derivative by α needs no P_t. A step costs two passes over P forward and two over N backward.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Float, Int

from ssmlin import _checks
from ssmlin._precision import in_full_precision
from ssmlin._typing import AnyArray, Scalar
from ssmlin.inference.matrix._unknown_row_cov import RowCovLaw, by_rows, standardised


class RegressionLaw(NamedTuple):
    """The law that dynamic regressions share, relative to the variance of each.

    Attributes:
        mean: m, (d,), of the coefficients before the first step.
        cov: P_0, (d, d).
        decay: α, scalar; how much of a coefficient's distance from zero is kept.
        noise: q >= 0, (d,), of the coefficients at every step.
    """

    mean: Float[Array, " d"]
    cov: Float[Array, "d d"]
    decay: Float[Array, ""]
    noise: Float[Array, " d"]


class DynamicRegressions(NamedTuple):
    """What :func:`dynamic_regressions` returns.

    Attributes:
        errors: y_t less its mean given the steps before, (B, T); where y_t is missing, less zero.
        scales: the variance of y_t given the steps before, relative to the series', (B, T).
        mean: of the coefficients after the last step, (B, d).
        cov: of the coefficients then, (B, d, d).
    """

    errors: Float[Array, "B T"]
    scales: Float[Array, "B T"]
    mean: Float[Array, "B d"]
    cov: Float[Array, "B d d"]


def dynamic_regressions(
    law: RegressionLaw,
    targets: Float[AnyArray, "B T"],
    regressors: Float[AnyArray, "B T d"],
    lengths: Int[AnyArray, " B"] | None = None,
) -> DynamicRegressions:
    r"""Filter many dynamic regressions that share their law.

    $$y_t = C_t h_t + \varepsilon_t,\quad C_t = \alpha C_{t-1} + w_t$$

    The same as the filter of `bayesian_memory` with one row, for a whole batch. Its gradient by the
    law and the targets costs about as much as the filter, and keeps no covariances. A gradient by
    the regressors is that of the plain scan. On a CPU compile what uses large batches with
    :func:`batch_options`.

    Args:
        law: of the coefficients.
        targets: y; NaN means missing.
        regressors: h, finite.
        lengths: steps of each series, 1 to T, after which nothing changes; default T.

    Returns:
        Errors and scales of all steps, and the law after the last one.

    Raises:
        ValueError: arrays of the wrong shape, or a law out of range.
        TypeError: arguments that are not floating point arrays.

    Examples:
        >>> import jax.numpy as jnp
        >>> from ssmlin.inference import RegressionLaw, dynamic_regressions
        >>> law = RegressionLaw(jnp.zeros(1), jnp.eye(1), jnp.array(1.0), jnp.zeros(1))
        >>> found = dynamic_regressions(law, jnp.array([[2.0, 2.0]]), jnp.ones((1, 2, 1)))
        >>> found.errors.tolist(), found.scales.tolist(), found.cov.ravel().round(3).tolist()
        ([[2.0, 1.0]], [[2.0, 1.5]], [0.333])

    Source: West and Harrison (1997), Bayesian Forecasting and Dynamic Models, chapter 4.
    """
    sizes: dict[str, int] = {}
    h = _checks.shaped("regressors", _checks.float_array("regressors", regressors),
                       ("B", "T", "d"), sizes)  # fmt: skip
    y = _checks.shaped("targets", _checks.float_array("targets", targets), ("B", "T"), sizes)
    dims = (("d",), ("d", "d"), (), ("d",))
    law = RegressionLaw(*(
        _checks.shaped(f"law.{name}", _checks.float_array(f"law.{name}", x), dim, sizes)
        for name, x, dim in zip(law._fields, law, dims, strict=True)
    ))  # fmt: skip
    _checks.finite("regressors", h)
    _checks.between("law.noise", law.noise, 0.0, np.inf)
    seen = ~jnp.isnan(y)
    y = jnp.where(seen, y, 0.0).T
    series = _Series(y, seen.astype(h.dtype).T, jnp.moveaxis(h, 0, -1))
    if lengths is None:
        errors, scales, mean, cov = _filtered(law, series)
    else:
        (errors, scales, mean, cov), _ = _run(law, series, jnp.asarray(lengths))
    return DynamicRegressions(errors.T, scales.T, mean.T, jnp.moveaxis(cov, -1, 0))


class _Series(NamedTuple):
    """Targets, whether they were observed, and regressors; time first and the batch last."""

    targets: Float[Array, "T B"]
    seen: Float[Array, "T B"]
    regressors: Float[Array, "T d B"]


class _Kept(NamedTuple):
    """What the backward pass needs of every step, e, s and p = P⁻h, and the last covariance."""

    errors: Float[Array, "T B"]
    scales: Float[Array, "T B"]
    carried: Float[Array, "T d B"]
    last_cov: Float[Array, "d d B"]


_Out = tuple[Array, Array, Array, Array]


def _run(
    law: RegressionLaw, series: _Series, lengths: Int[Array, " B"] | None = None
) -> tuple[_Out, Float[Array, "T d B"]]:
    """The filter; also p of every step."""
    mean, cov, decay, noise = law
    size, batch = series.regressors.shape[1:]
    noises = jnp.diag(noise)[:, :, None]

    def step(
        state: tuple[Array, Array], now: _Series
    ) -> tuple[tuple[Array, Array], tuple[Array, Array, Array]]:
        mean, cov = state
        target, seen, h = now
        p = decay**2 * jnp.sum(cov * h[None], axis=1) + noise[:, None] * h
        scale = jnp.sum(p * h, axis=0) + 1
        mean = decay * mean
        error = target - jnp.sum(mean * h, axis=0)
        gain = seen / scale
        mean = mean + p * (error * gain)
        cov = decay**2 * cov + noises - (p * gain)[:, None] * p[None]
        return (mean, cov), (error, scale, p)

    start = (
        jnp.broadcast_to(mean[:, None], (size, batch)),
        jnp.broadcast_to(cov[:, :, None], (size, size, batch)),
    )
    if lengths is None:
        (last_mean, last_cov), (errors, scales, carried) = lax.scan(step, start, series)
        return (errors, scales, last_mean, last_cov), carried

    def step_before_end(
        state: tuple[Array, Array], now: tuple[Array, _Series]
    ) -> tuple[tuple[Array, Array], tuple[Array, Array, Array]]:
        number, inputs = now
        new, kept = step(state, inputs)
        moved = jax.tree.map(lambda a, b: jnp.where(number < lengths, a, b), new, state)
        return moved, kept

    numbers = jnp.arange(len(series.targets))
    last, (errors, scales, carried) = lax.scan(step_before_end, start, (numbers, series))
    last_mean, last_cov = last
    return (errors, scales, last_mean, last_cov), carried


@jax.custom_vjp
def _filtered(law: RegressionLaw, series: _Series) -> _Out:
    """The filter, whose gradient by the law and the targets keeps no covariances."""
    return _run(law, series)[0]


@in_full_precision
def _forward(law: RegressionLaw, series: _Series) -> tuple[_Out, object]:
    """With symbolic zeros every argument says whether its gradient is asked for."""
    plain_law, plain_series = (
        jax.tree.map(lambda x: x.value, tree, is_leaf=lambda x: hasattr(x, "perturbed"))
        for tree in (law, series)
    )
    wanted: Any = series.regressors
    if wanted.perturbed:
        out, pull = jax.vjp(lambda *given: _run(*given)[0], plain_law, plain_series)
        return out, pull
    out, carried = _run(plain_law, plain_series)
    return out, (plain_law, plain_series, _Kept(out[0], out[1], carried, out[3]))


@in_full_precision
def _backward(kept: object, cotangents: tuple[object, ...]) -> tuple[RegressionLaw, _Series]:
    """The adjoint recursion; of the plain scan where more is asked for."""
    given: Any = tuple(
        jnp.zeros(x.shape, x.dtype) if isinstance(x, SymbolicZero) else x for x in cotangents
    )
    if not isinstance(kept, tuple):
        found: tuple[RegressionLaw, _Series] = kept(given)  # type: ignore[operator]
        return found
    law, series, steps = kept
    return _adjoint(law, series, steps, given)


_filtered.defvjp(_forward, _backward, symbolic_zeros=True)


class _State(NamedTuple):
    """What the backward scan carries: the adjoints of the mean and of P, tr(N P), and sums."""

    adjoint: Array
    information: Array
    trace: Array
    to_noise: Array
    to_decay: Array


def _adjoint(
    law: RegressionLaw, series: _Series, kept: _Kept, cotangents: _Out
) -> tuple[RegressionLaw, _Series]:
    """From the cotangents of what the filter returned to those of the law and the targets."""
    _, _, decay, noise = law
    to_errors, to_scales, to_mean, to_cov = cotangents
    size, batch = series.regressors.shape[1:]
    eye = jnp.asarray(np.eye(size, dtype=series.regressors.dtype))[:, :, None]

    # The means before each step, which cost little beside covariances.
    def carry(mean: Array, now: tuple[Array, Array, Array, Array]) -> tuple[Array, Array]:
        error, scale, p, seen = now
        return decay * mean + p * (error * seen / scale), mean

    start = jnp.broadcast_to(law.mean[:, None], (size, batch))
    steps = (kept.errors, kept.scales, kept.carried, series.seen)
    _, means = lax.scan(carry, start, steps)

    def step(state: _State, now: tuple[Array, ...]) -> tuple[_State, Array]:
        adjoint, information, trace, to_noise, to_decay = state
        h, seen, error, scale, p, mean, to_error, to_scale = now
        gain = seen / scale
        g = p * gain
        info_g = jnp.sum(information * g[None], axis=1)
        from_gain = jnp.sum(g * info_g, axis=0)
        to_error = to_error + jnp.sum(adjoint * g, axis=0)
        to_scale = to_scale - jnp.sum(adjoint * p, axis=0) * error * gain / scale + from_gain
        to_p = adjoint * (error * gain) - 2 * info_g + to_scale * h
        predicted = adjoint - to_error * h
        diagonal = jnp.sum(information * eye, axis=1) + to_p * h
        trace = trace + scale * from_gain + jnp.sum(to_p * p, axis=0)
        trace = trace - jnp.sum(noise[:, None] * diagonal, axis=0)
        half = 0.5 * h
        pair = to_p[:, None] * half[None] + half[:, None] * to_p[None]
        information = decay**2 * (information + pair)
        to_decay = to_decay + 2 * trace / decay + jnp.sum(predicted * mean, axis=0)
        new = _State(decay * predicted, information, trace, to_noise + diagonal, to_decay)
        return new, to_error

    nothing = jnp.zeros((size, batch), series.regressors.dtype)
    trace = jnp.sum(to_cov * kept.last_cov, axis=(0, 1))
    symmetric = 0.5 * (to_cov + jnp.swapaxes(to_cov, 0, 1))
    end = _State(to_mean, symmetric, trace, nothing, nothing[0])
    data = (series.regressors, series.seen, *kept[:3], means, to_errors, to_scales)
    found, to_targets = lax.scan(step, end, data, reverse=True)
    to_law = RegressionLaw(
        found.adjoint.sum(axis=-1),
        found.information.sum(axis=-1),
        found.to_decay.sum(),
        found.to_noise.sum(axis=-1),
    )
    others = jnp.zeros_like(series.seen), jnp.zeros_like(series.regressors)
    return to_law, _Series(to_targets * series.seen, *others)


def integrate_variances(
    errors: Float[AnyArray, "T B"],
    scales: Float[AnyArray, "T B"],
    prior: RowCovLaw,
    discount: Float[AnyArray, ""] | Scalar = 1.0,
) -> tuple[Float[Array, "T B"], RowCovLaw]:
    r"""Integrate the variances of many series out, each by itself.

    $$e_t \mid e_{1:t-1} \sim t_{n_t}(0, s_t \psi_{t-1} / n_t)$$

    The same as :func:`integrate_row_cov` with a diagonal Σ whose rows are the series; here the
    densities of the series are not added up, and the discount may be differentiated.

    Args:
        errors: e, what was observed less its mean given the steps before; NaN means missing.
        scales: s, the variances of the errors relative to those of the series.
        prior: the law of each variance, arrays (B,).
        discount: δ in (0, 1], see :func:`integrate_row_cov`.

    Returns:
        Log predictive densities, 0 where nothing was observed; and the laws after the last step.

    Examples:
        >>> import jax.numpy as jnp
        >>> from ssmlin.inference import RowCovLaw, integrate_variances
        >>> prior = RowCovLaw(jnp.array([3.0]), jnp.array([1.0]))
        >>> terms, law = integrate_variances(jnp.array([[2.0], [jnp.nan]]), jnp.ones((2, 1)), prior)
        >>> terms.shape, law.df.tolist(), law.scale.tolist()
        ((2, 1), [4.0], [5.0])
    """
    observed = ~jnp.isnan(errors)
    known, nothing = jnp.where(observed, errors, 0.0), jnp.zeros_like(errors)
    white, seen, kept = standardised(known, nothing, jnp.asarray(scales), observed)
    terms, last, _ = by_rows(white, seen, kept, prior, jnp.asarray(discount, white.dtype))
    return terms, last
