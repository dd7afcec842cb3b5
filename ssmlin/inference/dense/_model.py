"""The problem as the drivers take it: no offsets, missing entries masked, independent noises."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from dynamax.linear_gaussian_ssm.inference import ParamsLGSSM
from jax import lax
from jaxtyping import Array, Bool, Float

from ssmlin.inference._roots import UNROLLED_ENTRIES, eliminate


class Model(NamedTuple):
    """The problem as the drivers take it; fields that do not vary in time have no time axis.

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


#: The axes of the fields of a model at one step.
STEP_AXES = {
    "transition": 2,
    "drift": 1,
    "noise": 2,
    "rows": 2,
    "variances": 1,
    "values": 1,
    "seen": 1,
    "first": 0,
    "initial_cov": 2,
}


def over_time[C, X, Y](
    step: Callable[[C, Model, X], tuple[C, Y]],
    carry: C,
    model: Model,
    xs: X,
    *,
    reverse: bool = False,
) -> tuple[C, Y]:
    """Scan `step(carry, model_t, xs_t)`; fields that do not vary in time are not copied."""
    fields = model._asdict()
    varying = {name: x for name, x in fields.items() if x.ndim > STEP_AXES[name]}

    def body(carry: C, inputs: tuple[dict[str, Array], X]) -> tuple[C, Y]:
        here, x = inputs
        return step(carry, model._replace(**here), x)

    return lax.scan(body, carry, (varying, xs), reverse=reverse)


def over_entries[C, X, Y](
    step: Callable[[C, X], tuple[C, Y]], carry: C, xs: X, *, reverse: bool = False
) -> tuple[C, Y]:
    """Scan over the entries of an emission, unrolled where they are few."""
    few = jax.tree.leaves(xs)[0].shape[0] <= UNROLLED_ENTRIES
    return lax.scan(step, carry, xs, reverse=reverse, unroll=few)


def product(a: Float[Array, "*S n d"], b: Float[Array, "*T d e"]) -> Float[Array, "... n e"]:
    """Product of matrices; small ones by fused sums, which take a CPU less time than a call.

    The sums have fewer than 4096 terms, from where on XLA's CPU compiler is much slower.
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


def later(x: Float[Array, "T ..."]) -> Float[Array, "T ..."]:
    """Everything one place later, zeros in front."""
    return jnp.concatenate([jnp.zeros_like(x[:1]), x[:-1]])


def earlier(x: Float[Array, "T ..."]) -> Float[Array, "T ..."]:
    """Everything one place earlier, zeros at the end."""
    return jnp.concatenate([x[1:], jnp.zeros_like(x[:1])])


def apply(matrix: Float[Array, "*T n d"], x: Float[Array, "T d"]) -> Float[Array, "T n"]:
    """Matrix times vector at every step."""
    return x @ matrix.T if matrix.ndim == 2 else jnp.einsum("tnd,td->tn", matrix, x)


def varying_diagonal(shape: tuple[int, ...], num_timesteps: int) -> bool:
    """Whether an R of this shape is (T, N), a diagonal for each step; dynamax's rule."""
    return len(shape) == 2 and shape[0] == num_timesteps and shape[1] != num_timesteps


class _Entries(NamedTuple):
    """Entries of the emissions with independent noises."""

    rows: Float[Array, "*T N D"]
    variances: Float[Array, "*T N"]
    values: Float[Array, "T N"]


def _decorrelate_all(rows: Array, cov: Array, values: Array) -> _Entries:
    """Make the entries independent where H and R are the same at every step."""
    rest = jnp.concatenate([rows, jnp.eye(len(rows), dtype=rows.dtype)], axis=1)
    variances, rest = eliminate(cov, rest)
    dim = rows.shape[1]
    return _Entries(rest[:, :dim], variances, values @ rest[:, dim:].T)


def _decorrelate(rows: Array, cov: Array, values: Array) -> _Entries:
    """:func:`_decorrelate_all` at every step by itself."""
    (steps, n), dim = values.shape, rows.shape[-1]
    rows, cov = jnp.broadcast_to(rows, (steps, n, dim)), jnp.broadcast_to(cov, (steps, n, n))
    rest = jnp.concatenate([rows, values[:, :, None]], axis=2)
    variances, rest = eliminate(cov, rest)
    return _Entries(rest[..., :dim], variances, rest[..., dim])


def _decorrelate_seen(rows: Array, cov: Array, values: Array, seen: Array) -> _Entries:
    """:func:`_decorrelate` where entries may be missing."""
    both = seen[:, :, None] & seen[:, None, :]
    cov = jnp.where(both, cov, jnp.eye(values.shape[1], dtype=rows.dtype))
    return _decorrelate(jnp.where(seen[:, :, None], rows, 0.0), cov, values)


def _decorrelate_once(rows: Array, cov: Array, values: Array, seen: Array) -> _Entries:
    """:func:`_decorrelate_all`, repeated for every step."""
    rows, variances, values = _decorrelate_all(rows, cov, values)
    steps = len(values)
    return _Entries(
        jnp.broadcast_to(rows, (steps, *rows.shape)),
        jnp.broadcast_to(variances, (steps, *variances.shape)),
        values,
    )


def build_model(
    params: ParamsLGSSM, emissions: Array, inputs: Array | None, complete: bool
) -> Model:
    """Compute the offsets, mask missing entries and make the entries of an emission independent.

    For all steps at once, or only once where nothing varies in time.
    """
    initial, dynamics, emission = params
    (steps, n), dim = emissions.shape, initial.mean.shape[0]

    def from_second(x: Array, ndim: int) -> Array:
        """Replace entry 0, which is ignored and may be NaN, so that it reaches no gradient."""
        return x if x.ndim == ndim else x.at[0].set(0.0)

    def offset(bias: Array | None, weights: Array | None, u: Array | None, size: int) -> Array:
        out = jnp.zeros((steps, size), emissions.dtype)
        if bias is not None:
            out = out + bias
        if weights is not None and u is not None:
            out = out + apply(weights, u)
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
    if variances.ndim > 1 and not varying_diagonal(variances.shape, steps):
        if n == 1:
            variances = variances[..., 0]
        elif complete and rows.ndim == variances.ndim == 2:
            rows, variances, values = _decorrelate_all(rows, variances, values)
        elif complete:
            rows, variances, values = _decorrelate(rows, variances, values)
        elif rows.ndim == variances.ndim == 2:
            # Unknown under a trace: the expensive way is taken only if something is missing.
            rows, variances, values = lax.cond(
                seen.all(), _decorrelate_once, _decorrelate_seen, rows, variances, values, seen
            )
        else:
            rows, variances, values = _decorrelate_seen(rows, variances, values, seen)
    return Model(
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
