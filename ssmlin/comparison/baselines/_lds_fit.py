r"""Linear dynamical systems: filter, and EM and gradient steps in one program each.

$$z_t = F z_{t-1} + B u_t + b + N(0, Q), \quad y_t = H z_t + D u_t + d + N(0, R)$$

The model, the steps of EM and those of the gradient are those of dynamax's LinearGaussianSSM; tests
hold them against dynamax. Here all starts run in one program, and series and states are padded, so
that it serves many sizes: padded steps are not run, and a padded entry of the state is zero.
"""

import math
from functools import reduce
from operator import add, mul
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from dynamax.linear_gaussian_ssm import ParamsLGSSM
from dynamax.linear_gaussian_ssm.inference import (
    ParamsLGSSMDynamics,
    ParamsLGSSMEmissions,
    ParamsLGSSMInitial,
)
from jax import lax
from jax.flatten_util import ravel_pytree
from jax.lax.linalg import triangular_solve
from jaxtyping import Array, Float, Int

from ssmlin.comparison.baselines._padding import run_steps

#: dynamax adds it to the diagonals of the regressions of the M step.
_BOOST = 1e-9


#: A padded series as the programs take it: emissions, inputs, and the number of steps.
type Padded = tuple[Float[Array, "T m"], Float[Array, "T p"], Int[Array, ""]]


class _Series(NamedTuple):
    """A padded series."""

    emissions: Float[Array, "T m"]
    inputs: Float[Array, "T p"]
    num_steps: Int[Array, ""]


class _Laws(NamedTuple):
    """Laws of the state before and after every emission."""

    predicted_means: Float[Array, "T D"]
    predicted_covs: Float[Array, "T D D"]
    means: Float[Array, "T D"]
    covs: Float[Array, "T D D"]


class _Updates(NamedTuple):
    """What an emission did, with S = L Lᵀ its predicted covariance.

    Attributes:
        gains: L⁻¹ H P, whose square is taken off the predicted covariance.
        reads: L⁻¹ H.
        residuals: L⁻¹ (y - E y), standard normal.
        log_spread: log |L|.
    """

    gains: Float[Array, "T m D"]
    reads: Float[Array, "T m D"]
    residuals: Float[Array, "T m"]
    log_spread: Float[Array, " T"]


#: Up to so many terms a product of matrices is written out, which a CPU runs twice as fast.
_FEW = 8


def times(a: Float[Array, "*S n d"], b: Float[Array, "*T d e"]) -> Float[Array, "... n e"]:
    """Product of matrices; of small ones as a sum of outer products."""
    if a.shape[-1] > _FEW:
        return a @ b
    columns = (lax.slice_in_dim(a, k, k + 1, axis=-1) for k in range(a.shape[-1]))
    rows = (lax.slice_in_dim(b, k, k + 1, axis=-2) for k in range(a.shape[-1]))
    total: Array = reduce(add, map(mul, columns, rows))
    return total


def _whiten(cov: Float[Array, "m m"], rest: Float[Array, "m n"]) -> tuple[Array, Array]:
    """L⁻¹ rest and log |L| for cov = L Lᵀ."""
    if len(cov) == 1:
        root = jnp.sqrt(cov)
        return rest / root, jnp.log(root[0, 0])
    root = jnp.linalg.cholesky(cov)
    solved = triangular_solve(root, rest, left_side=True, lower=True)
    return solved, jnp.log(jnp.diagonal(root)).sum()


def _forward(params: ParamsLGSSM, series: _Series) -> tuple[_Laws, _Updates]:
    """Filter."""
    (mean, cov), dynamics, emission = params
    f, h, dim = dynamics.weights, emission.weights, len(mean)
    shift = series.inputs @ dynamics.input_weights.T + dynamics.bias
    residuals = series.emissions - (series.inputs @ emission.input_weights.T + emission.bias)

    def step(
        law: tuple[Array, Array], here: tuple[Array, Array]
    ) -> tuple[tuple[Array, Array], tuple[_Laws, _Updates]]:
        (mean, cov), (residual, shift) = law, here
        hp = times(h, cov)
        rest = jnp.concatenate([hp, h, (residual - times(h, mean[:, None])[:, 0])[:, None]], axis=1)
        solved, spread = _whiten(times(hp, h.T) + emission.cov, rest)
        gain, read, white = solved[:, :dim], solved[:, dim:-1], solved[:, -1]
        new_mean = mean + jnp.sum(gain * white[:, None], axis=0)
        new_cov = cov - times(gain.T, gain)
        moved = times(times(f, new_cov), f.T) + dynamics.cov
        after = (f @ new_mean + shift, 0.5 * (moved + moved.T))
        return after, (
            _Laws(mean, cov, new_mean, new_cov),
            _Updates(gain, read, white, spread),
        )

    # The shift of a step belongs to the transition into it.
    shift = jnp.concatenate([shift[1:], shift[:1]])
    done: tuple[_Laws, _Updates] = run_steps(
        step, (mean, cov), (residuals, shift), series.num_steps
    )[1]
    return done


def _log_likelihood(updates: _Updates, num_steps: Int[Array, ""]) -> Float[Array, ""]:
    m = updates.residuals.shape[1]
    squares = jnp.sum(updates.residuals**2)
    spread = updates.log_spread.sum()
    return -0.5 * (squares + num_steps * m * math.log(2 * math.pi)) - spread


@jax.jit
def filter_program(params: ParamsLGSSM, padded: Padded) -> _Laws:
    """The laws of the state before and after every emission."""
    return _forward(params, _Series(*padded))[0]


class _Moments(NamedTuple):
    """Sums over the steps of what the states are expected to be, for a regression on them.

    Attributes:
        xx: of the regressors (the state, inputs and a one).
        xy: of regressors and targets.
        yy: of the targets.
        number: how many there are.
    """

    xx: Float[Array, "k k"]
    xy: Float[Array, "k n"]
    yy: Float[Array, "n n"]
    number: Float[Array, ""]


class _Expected(NamedTuple):
    """What is expected of the states, given all emissions."""

    initial: ParamsLGSSMInitial
    dynamics: _Moments
    emissions: _Moments


def _e_step(params: ParamsLGSSM, series: _Series) -> tuple[_Expected, Float[Array, ""]]:
    """Smooth, by the modified Bryson-Frazier recursion; the expectations and the likelihood."""
    laws, updates = _forward(params, series)
    f, q, dim = params.dynamics.weights, params.dynamics.cov, len(params.initial.mean)

    def step(
        carry: tuple[Array, Array], here: _Updates
    ) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
        adjoint, carried = carry  # Fᵀ r and Fᵀ N of the step after
        gain, read, white, _ = here
        information = times(carried, f)
        kept = jnp.eye(dim) - times(gain.T, read)
        r = jnp.sum(read * white[:, None], axis=0) + jnp.sum(kept * adjoint[:, None], axis=0)
        n = times(read.T, read) + times(times(kept.T, information), kept)
        return (jnp.sum(f * r[:, None], axis=0), times(f.T, n)), (adjoint, carried)

    start = (jnp.zeros(dim), jnp.zeros((dim, dim)))
    adjoints, carried = run_steps(step, start, updates, series.num_steps, reverse=True)[1]
    x = times(laws.covs, carried)
    means = laws.means + jnp.einsum("tij,tj->ti", laws.covs, adjoints)
    covs = laws.covs - times(times(x, f), laws.covs)
    covs = 0.5 * (covs + covs.mT)
    # Cov(z_t, z_{t+1} | y), whose last is not one of them.
    crossed = times(covs, f.T) - times(x, q)
    return _expected(series, means, covs, crossed), _log_likelihood(updates, series.num_steps)


def _expected(
    series: _Series,
    means: Float[Array, "T D"],
    covs: Float[Array, "T D D"],
    crossed: Float[Array, "T D D"],
) -> _Expected:
    """The sums of the moments over the steps; all is zero in padded ones."""
    dim, steps, y = means.shape[1], series.num_steps, series.emissions
    there = (jnp.arange(len(means)) < steps).astype(means.dtype)[:, None]
    followed = jnp.concatenate([there[1:], jnp.zeros((1, 1))])
    known = jnp.concatenate([series.inputs, there], axis=1)
    here = jnp.concatenate([means, known], axis=1)
    before = jnp.concatenate([means * followed, jnp.roll(known, -1, axis=0) * followed], axis=1)
    after = jnp.roll(means, -1, axis=0)
    total = covs.sum(axis=0)
    last = lax.dynamic_index_in_dim(covs, steps - 1, keepdims=False)
    return _Expected(
        ParamsLGSSMInitial(means[0], covs[0]),
        _Moments(
            (before.T @ before).at[:dim, :dim].add(total - last),
            (before.T @ after).at[:dim].add(jnp.sum(crossed * followed[:, :, None], axis=0)),
            means[1:].T @ means[1:] + total - covs[0],
            steps - 1.0,
        ),
        _Moments((here.T @ here).at[:dim, :dim].add(total), here.T @ y, y.T @ y, 1.0 * steps),
    )


def _squares(weights: Float[Array, "n k"], moments: _Moments) -> Float[Array, "n n"]:
    """The expected sum of the squared residuals of a regression; symmetric."""
    crossed = weights @ moments.xy
    return moments.yy - crossed - crossed.T + weights @ moments.xx @ weights.T


def _m_step(expected: _Expected) -> ParamsLGSSM:
    """The parameters with the largest expected log density."""
    dim = len(expected.initial.mean)

    def regression(moments: _Moments) -> tuple[Array, Array, Array, Array]:
        xx = 0.5 * (moments.xx + moments.xx.T) + _BOOST * jnp.eye(len(moments.xx))
        root = jnp.linalg.cholesky(xx)
        half = triangular_solve(root, moments.xy, left_side=True, lower=True)
        weights = triangular_solve(root, half, left_side=True, lower=True, transpose_a=True).T
        cov = _squares(weights, moments) / moments.number
        # Rounding makes it a little asymmetric, and EM can end in NaN by that.
        return weights[:, :dim], weights[:, -1], weights[:, dim:-1], 0.5 * (cov + cov.T)

    return ParamsLGSSM(
        expected.initial,
        ParamsLGSSMDynamics(*regression(expected.dynamics)),
        ParamsLGSSMEmissions(*regression(expected.emissions)),
    )


def _root(free: Float[Array, "n n"]) -> Float[Array, "n n"]:
    """The root of a covariance, whose diagonal is given by its logarithm."""
    return jnp.tril(free, -1) + jnp.diag(jnp.exp(jnp.diagonal(free)))


def _constrained(free: ParamsLGSSM) -> ParamsLGSSM:
    """The parameters with covariances for their roots."""
    roots = [_root(part.cov) for part in free]
    pairs = zip(free, roots, strict=True)
    return ParamsLGSSM(*(part._replace(cov=root @ root.T) for part, root in pairs))


def _free(params: ParamsLGSSM) -> ParamsLGSSM:
    """The inverse of :func:`_constrained`."""

    def logarithm(cov: Array) -> Array:
        root = jnp.linalg.cholesky(cov)
        return jnp.tril(root, -1) + jnp.diag(jnp.log(jnp.diagonal(root)))

    return ParamsLGSSM(*(part._replace(cov=logarithm(part.cov)) for part in params))


def _gradient(free: ParamsLGSSM, expected: _Expected) -> ParamsLGSSM:
    """The gradient of the log likelihood in the free parameters.

    By Fisher's identity it is that of the expected log density of states and emissions,
    -tr(Σ⁻¹ M) / 2 - n log |L| for every part, with Σ = L Lᵀ and M the squares of its residuals.
    """

    def of_root(free: Array, squares: Array, count: Array | float) -> tuple[Array, Array]:
        """The gradient, and Σ⁻¹."""
        root = _root(free)
        inverse = triangular_solve(root, jnp.eye(len(root)), left_side=True, lower=True)
        precision = inverse.T @ inverse
        slope = precision @ squares @ inverse.T - count * inverse.T
        return jnp.tril(slope, -1) + jnp.diag(jnp.diagonal(slope * root)), precision

    def of_regression[P: (ParamsLGSSMDynamics, ParamsLGSSMEmissions)](
        part: P, moments: _Moments
    ) -> P:
        weights = jnp.concatenate([part.weights, part.input_weights, part.bias[:, None]], axis=1)
        cov, precision = of_root(part.cov, _squares(weights, moments), moments.number)
        slope, dim = precision @ (moments.xy.T - weights @ moments.xx), part.weights.shape[1]
        return type(part)(slope[:, :dim], slope[:, -1], slope[:, dim:-1], cov)

    off = expected.initial.mean - free.initial.mean
    cov, precision = of_root(free.initial.cov, expected.initial.cov + off[:, None] * off, 1.0)
    return ParamsLGSSM(
        ParamsLGSSMInitial(precision @ off, cov),
        of_regression(free.dynamics, expected.dynamics),
        of_regression(free.emissions, expected.emissions),
    )


def _best(fitted: ParamsLGSSM, scores: Float[Array, " S"]) -> tuple[ParamsLGSSM, Array]:
    """The start with the best finite likelihood."""
    best = jnp.argmax(jnp.where(jnp.isfinite(scores), scores, -jnp.inf))
    return jax.tree.map(lambda x: x[best], fitted), scores[best]


@jax.jit
def em_program(
    starts: ParamsLGSSM, padded: Padded, num_iterations: Int[Array, ""]
) -> tuple[ParamsLGSSM, Float[Array, ""]]:
    """EM from stacked starts: the parameters with the best likelihood, and that."""
    series = _Series(*padded)

    def fit(start: ParamsLGSSM) -> tuple[ParamsLGSSM, Array]:
        def body(i: Array, state: tuple[ParamsLGSSM, Array]) -> tuple[ParamsLGSSM, Array]:
            expected, log_likelihood = _e_step(state[0], series)
            moves = i < num_iterations  # the last step only takes the likelihood
            new = jax.tree.map(
                lambda new, old: jnp.where(moves, new, old), _m_step(expected), state[0]
            )
            return new, log_likelihood

        done: tuple[ParamsLGSSM, Array] = lax.fori_loop(
            0, num_iterations + 1, body, (start, jnp.zeros(()))
        )
        return done

    return _best(*jax.vmap(fit)(starts))


@jax.jit
def sgd_program(
    starts: ParamsLGSSM, padded: Padded, num_epochs: Int[Array, ""]
) -> tuple[ParamsLGSSM, Float[Array, ""]]:
    """Gradient steps by Adam in place of EM, see :func:`em_program`."""
    series, optimizer = _Series(*padded), optax.adam(1e-2)
    count = series.num_steps * series.emissions.shape[1]

    def fit(start: ParamsLGSSM) -> tuple[ParamsLGSSM, Array]:
        first, as_params = ravel_pytree(_free(start))

        def body(
            i: Array, state: tuple[Array, optax.OptState, Array]
        ) -> tuple[Array, optax.OptState, Array]:
            vector, moments, _ = state
            free = as_params(vector)
            expected, log_likelihood = _e_step(_constrained(free), series)
            gradient = ravel_pytree(_gradient(free, expected))[0] / -count
            step, moments = optimizer.update(gradient, moments)
            # The last step only takes the likelihood.
            return jnp.where(i < num_epochs, vector + step, vector), moments, log_likelihood

        vector, _, log_likelihood = lax.fori_loop(
            0, num_epochs + 1, body, (first, optimizer.init(first), jnp.zeros(()))
        )
        return _constrained(as_params(vector)), log_likelihood

    return _best(*jax.vmap(fit)(starts))
