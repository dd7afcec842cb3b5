r"""Scans over time whose bodies hold no matrix-matrix product.

Every step takes a few matrix-vector products of the covariance and writes it once, as a scaled copy
less a few symmetric rank-1 terms: O(d² + m d) a step. On a CPU one tiny matrix-matrix product costs
more than all of that, so the low-rank parts are worked off column by column.

Conventions: M is m × d with the state's rows; a missing emission has ``observed`` = 0, which turns
the update off and leaves the prediction as the filtered law. Every function takes one sequence or a
batch of them, whose axis leads every array of the model and the data; inside a step it is last.
"""

from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from ssmlin.inference.matrix.batch_last import (
    columns,
    drift_times,
    inner,
    left_times,
    noise_times,
    outer,
    symmetric_times,
    times,
    transition_times,
)
from ssmlin.inference.matrix.covariance import (
    PLAIN,
    CovarianceForm,
    Factor,
    Step,
    append,
    carry_rows,
    congruence_pairs,
    masked_rsqrt,
    potter,
    scaled_less,
    with_spare,
)
from ssmlin.lgssm import DPLR, DiagPlusLowRank, LowRank, MatrixLGSSM


class Forward(NamedTuple):
    """What the forward scan leaves, leading axis T; None (here Any) where it was not kept."""

    emission_means: Float[Array, "T m"]
    scales: Float[Array, " T"]
    last_mean: Float[Array, "m d"]
    last_stored: Float[Array, "d n"] | Any = None  # P or a factor, as the covariance form keeps it
    gains: Float[Array, "T d"] | Any = None
    means: Float[Array, "T m d"] | Any = None
    stored: Float[Array, "T d n"] | Any = None


class Backward(NamedTuple):
    """What the backward scan leaves: the adjoint of the filtered and of the predicted mean.

    ``E[S_t | y_{1:T}] = M_t − filtered_adjoints_t P_t = M⁻_t − predicted_adjoints_t P⁻_t`` and
    ``Cov = P_t − P_t information_t P_t``; the initial entries belong to S_0.
    """

    filtered_adjoints: Float[Array, "T m d"]
    predicted_adjoints: Float[Array, "T m d"]
    information: Float[Array, "T d d"] | Any
    initial_adjoint: Float[Array, "m d"]
    initial_information: Float[Array, "d d"] | Any


class Inputs(NamedTuple):
    """What a step of the forward scan is given."""

    covariance: Step
    drift: LowRank
    emission: Array


def batch_last(tree: Any, batched: bool) -> Any:
    """Move the leading batch axis of every array, if there is one, to the end."""
    return jax.tree.map(lambda x: jnp.moveaxis(x, 0, -1), tree) if batched else tree


def batch_first(tree: Any, batched: bool) -> Any:
    """Undo :func:`batch_last`."""
    return jax.tree.map(lambda x: jnp.moveaxis(x, -1, 0), tree) if batched else tree


def time_first(tree: Any, batched: bool) -> Any:
    """Swap the batch axis, if there is one, and the time axis of every array."""
    return jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), tree) if batched else tree


def scan_steps(
    step: Any, carry: Any, inputs: Any, batched: bool, *, reverse: bool = False
) -> tuple[Any, Any]:
    """A scan over the leading axis, time; a batch axis is second outside and last in the step."""
    if not batched:
        return lax.scan(step, carry, inputs, reverse=reverse)
    inputs = jax.tree.map(lambda x: jnp.moveaxis(x, 1, -1), inputs)
    carry, kept = lax.scan(step, carry, inputs, reverse=reverse)
    return carry, jax.tree.map(lambda x: jnp.moveaxis(x, -1, 1), kept)


def at_every_step(function: Any, batched: bool) -> Any:
    """A function of one step's arrays, for all steps and, if there is one, the batch."""
    return jax.vmap(jax.vmap(function)) if batched else jax.vmap(function)


def is_batched(lgssm: MatrixLGSSM) -> bool:
    """Whether the model's arrays have a leading batch axis."""
    return lgssm.initial_mean.ndim == 3


def pad_time(lgssm: MatrixLGSSM, extra: int) -> MatrixLGSSM:
    """Append steps that leave the state as it is; nothing may be observed there."""
    axis = lgssm.initial_mean.ndim - 2

    def pad(x: Array, value: float = 0.0) -> Array:
        widths = [(0, 0)] * x.ndim
        widths[axis] = (0, extra)
        return jnp.pad(x, widths, constant_values=value)

    if extra == 0:
        return lgssm
    padded = lgssm.map_time(pad)
    transition = replace(padded.transition, diag=pad(lgssm.transition.diag, 1.0))
    return replace(padded, transition=transition)


def forward_inputs(
    lgssm: MatrixLGSSM, emissions: Float[Array, "T m"], observed: Float[Array, " T"]
) -> tuple[Inputs, Float[Array, "T m"]]:
    """What the steps are given, all that does not depend on the state; and B_t h_t. Time first."""

    def prepare(
        transition: DPLR,
        drift: LowRank,
        noise: DiagPlusLowRank,
        h: Array,
        r: Array,
        y: Any,
        seen: Any,
    ) -> tuple[Inputs, Array]:
        noise_h = noise_times(noise, h)
        written = drift_times(drift, h)
        step = Step(
            transition=transition,
            noise=noise,
            readout=h,
            carried_readout=transition_times(transition, h),
            noise_readout=noise_h,
            noise_scale=inner(h, noise_h) + r,
            emission_noise=r,
            observed=seen,
        )
        return Inputs(step, drift, y - written), written

    batched = is_batched(lgssm)
    given = (
        lgssm.transition,
        lgssm.drift,
        lgssm.process_noise,
        lgssm.readout,
        lgssm.emission_noise,
        emissions,
        observed,
    )
    return time_first(at_every_step(prepare, batched)(*given), batched)


def carried_readout(lgssm: MatrixLGSSM) -> Float[Array, "T d"]:
    """z_t = A_t h_t: the readout as the state before the transition sees it."""
    return at_every_step(transition_times, is_batched(lgssm))(lgssm.transition, lgssm.readout)


def model_start(lgssm: MatrixLGSSM, form: CovarianceForm) -> tuple[Array, Array]:
    """The law of S_0 as the form keeps it, batch last."""
    mean, cov = batch_last((lgssm.initial_mean, lgssm.initial_cov), is_batched(lgssm))
    return mean, form.store(cov)


def forward_step(form: CovarianceForm, carry: Any, inputs: Inputs) -> tuple[Any, Any]:
    """Filter one step: the new (mean, covariance), and E[y_t] less the drift's part, s, g, P u."""
    mean, cov = carry
    transition, drift = inputs.covariance.transition, inputs.drift
    new_cov, update = form.advance(cov, inputs.covariance)
    mean_z, *mean_us = [
        times(mean, x) for x in (inputs.covariance.carried_readout, *columns(transition.left))
    ]
    new = carry_rows(mean, transition.diag, mean_us, columns(transition.right))
    new = new + outer(inputs.emission - mean_z, update.gain)
    for left, right in zip(columns(drift.left), columns(drift.right), strict=True):
        new = new + outer(left, right)
    return (new, new_cov), (mean_z, update)


def forward(
    lgssm: MatrixLGSSM,
    emissions: Float[Array, "T m"],
    observed: Float[Array, " T"],
    *,
    form: CovarianceForm = PLAIN,
    start: tuple[Float[Array, "m d"], Float[Array, "d n"]] | None = None,
    keep_gains: bool = False,
    keep_means: bool = False,
    keep_covariances: bool = False,
) -> Forward:
    r"""Kalman filter from t = 1 to T.

    With z = A h the step needs the products of P with z and with the columns u of A alone:
    s = zᵀPz + (hᵀQh + r) and P⁻h = Aᵀ(Pz) + Qh, where all that does not depend on P is computed
    for all steps at once.

    Args:
        lgssm: the model; its emission bias is not used here.
        emissions: y_t less the bias, finite also where nothing was observed.
        observed: 1.0 where y_t was observed, 0.0 where not.
        form: how the covariance is carried.
        start: mean and covariance (as the form keeps it) to start from; those of the model if None.
        keep_gains: whether to keep the gains.
        keep_means: whether to keep the filtered means.
        keep_covariances: whether to keep the filtered covariances.

    Returns:
        The predicted moments of the emissions and what was asked for.
    """
    batched = is_batched(lgssm)

    def step(carry: Any, inputs: Inputs) -> tuple[Any, Any]:
        (mean, cov), (mean_z, update) = forward_step(form, carry, inputs)
        kept = (
            mean_z,
            update.scale,
            update.gain if keep_gains else None,
            mean if keep_means else None,
            form.stored(cov) if keep_covariances else None,
        )
        return (mean, cov), kept

    mean, stored = batch_last(start, batched) if start is not None else model_start(lgssm, form)
    inputs, written = forward_inputs(lgssm, emissions, observed)
    carry = mean, form.start(stored, lgssm.process_noise)
    (last_mean, last_cov), (means_z, *kept) = scan_steps(step, carry, inputs, batched)
    last_mean, last_stored = batch_first((last_mean, form.stored(last_cov)), batched)
    emission_means, scales, gains, means, stored = time_first((means_z + written, *kept), batched)
    return Forward(
        emission_means=emission_means,
        scales=scales,
        last_mean=last_mean,
        last_stored=last_stored,
        gains=gains,
        means=means,
        stored=stored,
    )


def backward(
    lgssm: MatrixLGSSM,
    gains: Float[Array, "T d"],
    precisions: Float[Array, " T"],
    residuals: Float[Array, "T m"],
    *,
    keep_information: bool = False,
    end: tuple[Float[Array, "m d"], Float[Array, "d d"] | None] | None = None,
) -> Backward:
    r"""Modified Bryson-Frazier recursion from t = T to 1; no inverse, right also at Q = 0.

    With $C = I - g h^\top$ and z = A h,

    $$\tilde\lambda_t = \hat\lambda_t C_t - e_t h_t^\top / s_t, \quad
      \hat\lambda_{t-1} = \tilde\lambda_t A_t^\top
        = \hat\lambda_t A_t^\top - (\hat\lambda_t g_t + e_t / s_t) z_t^\top$$
    $$\hat\Lambda_{t-1} = A_t (C_t^\top \hat\Lambda_t C_t + h_t h_t^\top / s_t) A_t^\top$$

    Args:
        lgssm: the model.
        gains: g_t, zero where nothing was observed.
        precisions: 1/s_t, zero where nothing was observed.
        residuals: e_t = y_t − E[y_t | y_{1:t-1}], zero where nothing was observed.
        keep_information: whether to run and keep the covariance part; the smoothed means follow
            from the predicted adjoints without it.
        end: the adjoint and the information at t = T; zero if None.

    Returns:
        The adjoints and, if asked for, the information matrices.

    Source: Bierman (1973); Durbin and Koopman, Time Series Analysis by State Space Methods (2012).
    """
    batched = is_batched(lgssm)
    if end is None:
        rows = (*residuals.shape[:-2], residuals.shape[-1], lgssm.key_dim)
        information = jnp.zeros_like(lgssm.initial_cov) if keep_information else None
        end = jnp.zeros(rows, lgssm.dtype), information

    def step(carry: Any, inputs: Any) -> tuple[Any, Any]:
        adjoint, information = carry
        transition, z, g, precision, white = inputs
        w, us, vs = transition.diag, columns(transition.left), columns(transition.right)

        adjoint_g, *adjoint_vs = [times(adjoint, x) for x in (g, *vs)]
        write = adjoint_g + white
        new_adjoint = carry_rows(adjoint, w, adjoint_vs, us) - outer(write, z)

        new_information = None
        if information is not None:
            info_g, *info_vs = [symmetric_times(information, x) for x in (g, *vs)]
            # A (Λ g) − ½ (gᵀΛg + 1/s) z, the partner of z.
            partner = w * info_g - 0.5 * (inner(g, info_g) + precision) * z
            for u, v in zip(us, vs, strict=True):
                partner = partner - inner(v, info_g) * u
            pairs = [*congruence_pairs(info_vs, w, vs, us), (partner, z)]
            new_information = scaled_less(information, w, pairs)
        return (new_adjoint, new_information), (adjoint, write, information)

    white = residuals * precisions[..., None]
    inputs = (lgssm.transition, carried_readout(lgssm), gains, precisions, white)
    inputs = time_first(inputs, batched)
    start, kept = scan_steps(step, batch_last(end, batched), inputs, batched, reverse=True)
    initial_adjoint, initial_information = batch_first(start, batched)
    adjoints, writes, information = time_first(kept, batched)
    # C_tᵀ acts here and not in the scan; dropped by the compiler where nobody asks for it.
    predicted = adjoints - writes[..., :, None] * lgssm.readout[..., None, :]
    return Backward(adjoints, predicted, information, initial_adjoint, initial_information)


def root_backward(
    lgssm: MatrixLGSSM,
    emissions: Float[Array, "T m"],
    observed: Float[Array, " T"],
    run: Forward,
    residuals: Float[Array, "T m"],
    *,
    end: tuple[Float[Array, "m d"], Float[Array, "d n"]] | None = None,
) -> tuple[Float[Array, "T m d"], Float[Array, "T d n"]]:
    r"""Smooth by what the future says of the state, in factors, from t = T to 1.

    $$p(y_{t+1:T} \mid S_t = M_t + X) \propto
      \exp \mathrm{tr}\, \Sigma^{-1} (X \zeta^\top - \tfrac12 X J X^\top), \quad J = W W^\top$$
    $$P_{t \mid T} = (P_t^{-1} + J)^{-1}, \quad E[S_t \mid y_{1:T}] = M_t + \zeta P_{t \mid T}$$

    Every column of W measures the state with noise of variance one, so the smoothed factor comes
    from L by Potter updates; the process noise acts on W in the same way. No difference of
    covariances is taken: what the modified Bryson-Frazier recursion loses where P_t is large beside
    the smoothed covariance is kept. Right for singular P and Q, but not for r = 0.

    Args:
        lgssm: the model.
        emissions: y_t less the bias; looked at only where time is cut into chunks.
        observed: 1.0 where y_t was observed, 0.0 where not.
        run: the forward pass in square-root form, with all kept.
        residuals: e_t, zero where nothing was observed.
        end: ζ and W at t = T; zero if None.

    Returns:
        ζ and a factor of the smoothed covariance, for every step.
    """
    batched, dim = is_batched(lgssm), lgssm.key_dim
    if end is None:
        rows = (*residuals.shape[:-2], residuals.shape[-1], dim)
        end = jnp.zeros(rows, lgssm.dtype), jnp.zeros_like(lgssm.initial_cov)

    def step(carry: Any, inputs: Any) -> tuple[Any, Any]:
        shift, future = carry
        transition, noise, h, inverse_root, gain, error, root = inputs
        w, us, vs = transition.diag, columns(transition.left), columns(transition.right)

        def measure(root: Any, direction: Any) -> tuple[Any, None]:
            return potter(root, left_times(direction, root), 1.0)[0], None

        smoothed = lax.scan(measure, root, jnp.moveaxis(future.columns, 1, 0))[0]
        kept = shift, smoothed

        # The emission, with the shift taken about the predicted mean from here on.
        future_g = times(future.columns, left_times(gain, future.columns))
        shift = shift + outer(error, future_g + inverse_root * inverse_root * h)
        future = append(future, (inverse_root * h)[:, None])

        def blur(carry: Any, direction: Any, f: Any) -> tuple[Any, Any]:
            """What the future says of x + ξ direction, with ξ ~ N(0, 1)."""
            shift, matrix = carry
            matrix, gain, _ = potter(matrix, f, 1.0)
            return shift - outer(times(shift, direction), gain), matrix

        def blur_entry(carry: Any, data: Any) -> tuple[Any, None]:
            unit, q = data
            direction = unit.reshape(dim, *(1,) * q.ndim) * jnp.sqrt(q)
            return blur(carry, direction, left_times(direction, carry[1])), None

        blurred = shift, future.columns
        if noise.diag is not None:
            eye = jnp.eye(dim, dtype=lgssm.dtype)
            blurred = lax.scan(blur_entry, blurred, (eye, noise.diag))[0]
        for column in columns(noise.factor):
            blurred = blur(blurred, column, left_times(column, blurred[1]))
        shift, matrix = blurred

        new_shift = carry_rows(shift, w, [times(shift, v) for v in vs], us)
        new_matrix = w[:, None] * matrix
        for u, v in zip(us, vs, strict=True):
            new_matrix = new_matrix - outer(u, left_times(v, matrix))
        return (new_shift, Factor(new_matrix, future.taken)), kept

    inverse_roots = masked_rsqrt(lgssm.emission_noise, observed)
    inputs = (
        lgssm.transition,
        lgssm.process_noise,
        lgssm.readout,
        inverse_roots,
        run.gains,
        residuals,
        run.stored,
    )
    shift, root = batch_last(end, batched)
    start = shift, with_spare(root, dim)
    kept = scan_steps(step, start, time_first(inputs, batched), batched, reverse=True)[1]
    return time_first(kept, batched)


def forward_means(
    lgssm: MatrixLGSSM,
    initial_mean: Float[Array, "n d"],
    emissions: Float[Array, "T n"],
    gains: Float[Array, "T d"],
) -> tuple[Float[Array, "T n"], Float[Array, "n d"]]:
    """Predicted emission means, and the last filtered mean, for known gains and without drift.

    Any number n of rows, so that many data sets can be filtered with one set of gains.
    """
    batched = is_batched(lgssm)

    def step(mean: Any, inputs: Any) -> tuple[Any, Any]:
        transition, z, gain, y = inputs
        mean_z, *mean_us = [times(mean, x) for x in (z, *columns(transition.left))]
        carried = carry_rows(mean, transition.diag, mean_us, columns(transition.right))
        return carried + outer(y - mean_z, gain), mean_z

    inputs = time_first((lgssm.transition, carried_readout(lgssm), gains, emissions), batched)
    last, read = scan_steps(step, batch_last(initial_mean, batched), inputs, batched)
    return time_first(read, batched), batch_first(last, batched)


def carried_means(
    lgssm: MatrixLGSSM,
    initial_mean: Float[Array, "n d"],
    shifts: Float[Array, "T n d"],
    *,
    with_drift: bool = True,
) -> Float[Array, "T n d"]:
    r"""The recursion $S_t = S_{t-1} A_t + B_t + X_t$ from S_0, with the shifts X_t."""
    batched = is_batched(lgssm)

    def step(mean: Any, inputs: Any) -> tuple[Any, Any]:
        transition, drift, shift = inputs
        products = [times(mean, u) for u in columns(transition.left)]
        mean = carry_rows(mean, transition.diag, products, columns(transition.right)) + shift
        if with_drift:
            for left, right in zip(columns(drift.left), columns(drift.right), strict=True):
                mean = mean + outer(left, right)
        return mean, mean

    inputs = time_first((lgssm.transition, lgssm.drift, shifts), batched)
    kept = scan_steps(step, batch_last(initial_mean, batched), inputs, batched)[1]
    return time_first(kept, batched)


def disturbances(
    lgssm: MatrixLGSSM, initial_mean: Float[Array, "n d"], result: Backward
) -> tuple[Float[Array, "n d"], Float[Array, "T n d"]]:
    """The smoothed mean of S_0 and of every W_t."""
    start = initial_mean - result.initial_adjoint @ lgssm.initial_cov
    return start, -lgssm.process_noise.apply(result.predicted_adjoints)


def smoothed_means(
    lgssm: MatrixLGSSM, initial_mean: Float[Array, "n d"], result: Backward, **options: Any
) -> Float[Array, "T n d"]:
    r"""Smoothed means from the adjoints alone, forward in time, without any covariance P_t.

    $\hat S_t = \hat S_{t-1} A_t + B_t - \tilde\lambda_t Q_t$, from
    $\hat S_0 = M_0 - \hat\lambda_0 P_0$.

    Source: fast state smoothing, Koopman (1993).
    """
    return carried_means(lgssm, *disturbances(lgssm, initial_mean, result), **options)
