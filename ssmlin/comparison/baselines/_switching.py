r"""Hidden Markov models whose emissions are regressions: filter, and EM in one program.

$$z_t \mid z_{t-1} = j \sim \mathrm{Cat}(A_j), \quad y_t \mid z_t = k \sim N(W_k x_t, \Sigma_k)$$

Models, priors and steps of EM are those of dynamax's GaussianHMM, where x is a one, and
LinearRegressionHMM, where it ends in a one; tests hold them against dynamax. Here all starts run in
one program, and series, numbers of states and of regressors are padded, so that it serves them all:
padded steps are not run, padded states have probability zero, padded regressors are zero.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.lax.linalg import triangular_solve
from jaxtyping import Array, Bool, Float, Int

from ssmlin._buckets import bucket
from ssmlin._typing import AnyArray, Scalar
from ssmlin.comparison.baselines._padding import padded, padded_length, run_steps, shared_size

#: dynamax's prior of the initial law and of every transition is Dirichlet(1.1).
CONCENTRATION = 1.1
_COUNT = CONCENTRATION - 1
#: Regressions on few regressors share one width.
_NARROWEST = 16


class SwitchingParams(NamedTuple):
    """Parameters; of several starts with a leading axis.

    Attributes:
        initial: probabilities of the first state.
        transition: row k holds the probabilities of the state after k.
        weights: W, the intercepts last.
        covs: Σ.
    """

    initial: Float[np.ndarray, "*S K"]
    transition: Float[np.ndarray, "*S K K"]
    weights: Float[np.ndarray, "*S K m p"]
    covs: Float[np.ndarray, "*S K m m"]

    @property
    def size(self) -> int:
        """How many numbers they are."""
        return sum(np.size(x) for x in self)


class EmissionPrior(NamedTuple):
    """The prior of W and Σ; its mode adds to the statistics of the regression.

    Attributes:
        precision: of the intercept, in units of Σ.
        scale: what is added to the sum of squared residuals, times the identity.
        extra: what is added to their number.
    """

    precision: Scalar = 0.0
    scale: Scalar = 0.0
    extra: Scalar = 0.0


def gaussian_prior(m: int) -> EmissionPrior:
    """The normal inverse Wishart prior of dynamax's GaussianHMM."""
    return EmissionPrior(1e-4, 1e-4, 2 * m + 2.1)


class StateLaws(NamedTuple):
    """Probabilities of the states of each step.

    Attributes:
        filtered: p(z_t | y_{1:t}).
        predicted: p(z_t | y_{1:t-1}).
    """

    filtered: Float[np.ndarray, "T K"]
    predicted: Float[np.ndarray, "T K"]


def filter_states(
    params: SwitchingParams,
    values: Float[np.ndarray, "T m"],
    regressors: Float[np.ndarray, "T p"],
    slots: int = 1,
) -> StateLaws:
    """Filter.

    Args:
        params: the parameters, in NumPy.
        values: y.
        regressors: x, which ends in a one.
        slots: the number of states is padded to it where the series is not long.

    Returns:
        The laws of the states.
    """
    (steps, m), num_states = values.shape, len(params.initial)
    slots, length = shared_size(num_states, slots, steps), padded_length(steps)
    residuals = values.T - params.weights @ regressors.T
    log_densities = np.full((length, slots), -np.inf)
    roots = np.linalg.cholesky(params.covs)
    white = np.linalg.solve(roots, residuals)
    log_densities[:steps, :num_states] = (
        -0.5 * (white**2).sum(axis=1)
        - np.log(np.diagonal(roots, axis1=1, axis2=2)).sum(axis=1)[:, None]
        - 0.5 * m * math.log(2 * math.pi)
    ).T
    with jax.enable_x64(True):
        run = _filter_program(
            padded(params.initial, slots),
            padded(params.transition, slots, slots),
            log_densities,
            steps,
        )
    filtered, predicted = (np.asarray(x)[:steps, :num_states] for x in run[:2])
    return StateLaws(filtered, predicted)


def fit_switching(
    starts: SwitchingParams,
    values: Float[np.ndarray, "T m"],
    regressors: Float[np.ndarray, "T p"],
    prior: EmissionPrior,
    num_iterations: int,
    slots: int = 1,
) -> SwitchingParams:
    """Fit by EM from all starts side by side; the one with the best training likelihood.

    Args:
        starts: where to start, stacked.
        values: y.
        regressors: x, which ends in a one.
        prior: of the emissions.
        num_iterations: steps of EM.
        slots: the number of states is padded to it where the series is not long.

    Returns:
        The parameters.

    Raises:
        ArithmeticError: no start gave a finite likelihood.
    """
    (steps, p), num_states = regressors.shape, starts.initial.shape[1]
    slots = shared_size(num_states, slots, steps)
    width = p if p == 1 else shared_size(p, bucket(max(p, _NARROWEST)), steps)
    problem = padded_problem(starts, values, regressors, prior, slots, padded_length(steps), width)
    with jax.enable_x64(True):
        best, log_likelihood = fit_program(*problem, prior, num_iterations)
    return unpadded(best, float(log_likelihood), num_states, p)


def padded_problem(
    starts: SwitchingParams,
    values: Float[np.ndarray, "T m"],
    regressors: Float[np.ndarray, "T p"],
    prior: EmissionPrior,
    slots: int,
    length: int,
    width: int,
) -> tuple[SwitchingParams, tuple[np.ndarray, np.ndarray, int], tuple[np.ndarray, np.ndarray]]:
    """What :func:`fit_program` takes before the prior: starts, series and sizes, padded.

    Args:
        starts: where to start, stacked.
        values: y.
        regressors: x, which ends in a one.
        prior: of the emissions.
        slots: the number of states to pad to.
        length: the number of steps.
        width: the number of regressors.

    Returns:
        The arguments.
    """
    (steps, p), m, num_states = regressors.shape, values.shape[1], starts.initial.shape[1]
    stacked = SwitchingParams(
        padded(starts.initial, slots),
        padded(starts.transition, slots, slots),
        padded(starts.weights, slots, m, width),
        padded(starts.covs, slots, m, m),
    )
    stacked.covs[:, num_states:] = np.eye(m)
    precision = np.where(np.arange(width) < p, 0.0, 1.0)
    precision[p - 1] = prior.precision
    series = padded(values, length, m), padded(regressors, length, width), steps
    return stacked, series, (np.arange(slots) < num_states, precision)


def unpadded(
    params: tuple[Float[AnyArray, "..."], ...], log_likelihood: float, num_states: int, p: int
) -> SwitchingParams:
    """What :func:`fit_program` found, without what was padded.

    Raises:
        ArithmeticError: no start gave a finite likelihood.
    """
    if not np.isfinite(log_likelihood):
        raise ArithmeticError("no start gave a finite likelihood")
    initial, transition, weights, covs = (np.asarray(x)[:num_states] for x in params)
    return SwitchingParams(initial, transition[:, :num_states], weights[:, :, :p], covs)


class _Params(NamedTuple):
    """Padded parameters, see :class:`SwitchingParams`."""

    initial: Float[Array, " K"]
    transition: Float[Array, "K K"]
    weights: Float[Array, "K m p"]
    covs: Float[Array, "K m m"]


class _Data(NamedTuple):
    """The padded series."""

    values: Float[Array, "T m"]
    regressors: Float[Array, "T p"]
    num_steps: Int[Array, ""]


class _Sizes(NamedTuple):
    """Which states there are, and the prior precision of each weight, one where it is padded."""

    states: Bool[Array, " K"]
    precision: Float[Array, " p"]


class _Filtered(NamedTuple):
    """The laws of the states; the scaled densities of the emissions, and their normalizers."""

    filtered: Float[Array, "T K"]
    predicted: Float[Array, "T K"]
    densities: Float[Array, "T K"]
    normalizers: Float[Array, " T"]
    log_likelihood: Float[Array, ""]


def _filter(
    initial: Float[Array, " K"],
    transition: Float[Array, "K K"],
    log_densities: Float[Array, "T K"],
    num_steps: Int[Array, ""],
) -> _Filtered:
    inside = jnp.arange(len(log_densities)) < num_steps
    largest = jnp.where(inside, log_densities.max(axis=1), 0.0)
    densities = jnp.exp(log_densities - largest[:, None])

    def step(predicted: Array, density: Array) -> tuple[Array, tuple[Array, Array, Array]]:
        joint = predicted * density
        normalizer = joint.sum()
        filtered = joint / normalizer
        return filtered @ transition, (filtered, predicted, normalizer)

    filtered, predicted, normalizers = run_steps(step, initial, densities, num_steps)[1]
    normalizers = jnp.where(inside, normalizers, 1.0)
    log_likelihood = jnp.sum(jnp.log(normalizers) + largest)
    return _Filtered(filtered, predicted, densities, normalizers, log_likelihood)


_filter_program = jax.jit(_filter)


def _log_densities(params: _Params, data: _Data, states: Bool[Array, " K"]) -> Float[Array, "T K"]:
    """Log densities of the emissions; minus infinity for padded states."""
    m = data.values.shape[1]
    roots = jnp.linalg.cholesky(params.covs)
    reads = jnp.concatenate([params.weights, jnp.broadcast_to(jnp.eye(m), roots.shape)], axis=2)
    whitening = triangular_solve(roots, reads, left_side=True, lower=True)
    both = jnp.concatenate([-data.regressors, data.values], axis=1)
    white = both @ whitening.reshape(-1, both.shape[1]).T  # one product for all states
    squares = jnp.sum(white.reshape(len(both), -1, m) ** 2, axis=2)
    spread = jnp.log(jnp.diagonal(roots, axis1=1, axis2=2)).sum(axis=1)
    return jnp.where(states, -0.5 * (squares + m * math.log(2 * math.pi)) - spread, -jnp.inf)


def _em_step(
    params: _Params, data: _Data, sizes: _Sizes, prior: EmissionPrior
) -> tuple[_Params, Float[Array, ""]]:
    """The next parameters, and the log likelihood of these."""
    run = _filter(
        params.initial,
        params.transition,
        _log_densities(params, data, sizes.states),
        data.num_steps,
    )
    weighted = run.densities / run.normalizers[:, None]

    def step(later: Array, density: Array) -> tuple[Array, Array]:
        return params.transition @ (density * later), later

    ratios = run_steps(step, jnp.ones_like(params.initial), weighted, data.num_steps, reverse=True)[
        1
    ]  # p(z_t | y_{1:T}) / p(z_t | y_{1:t})
    smoothed = run.filtered * ratios
    moves = params.transition * (run.filtered[:-1].T @ (weighted * ratios)[1:])
    new = _Params(
        _mode(smoothed[0], sizes.states),
        _mode(moves, sizes.states),
        *_regressions(smoothed, data, sizes, prior),
    )
    return new, run.log_likelihood


def _mode(counts: Float[Array, "*K K"], states: Bool[Array, " K"]) -> Float[Array, "*K K"]:
    """The most probable probabilities of the states that there are."""
    counts = counts + jnp.where(states, _COUNT, 0.0)
    return counts / counts.sum(axis=-1, keepdims=True)


def _regressions(
    smoothed: Float[Array, "T K"], data: _Data, sizes: _Sizes, prior: EmissionPrior
) -> tuple[Float[Array, "K m p"], Float[Array, "K m m"]]:
    """The most probable weights and covariances."""
    x, y = data.regressors, data.values
    both = jnp.concatenate([x, y], axis=1)
    squares = jnp.einsum("tka,tb->kab", smoothed[:, :, None] * both[:, None], both)
    p, there = x.shape[1], sizes.states[:, None, None]
    xx, xy, yy = squares[:, :p, :p], squares[:, :p, p:], squares[:, p:, p:]
    xx = jnp.where(there, xx + jnp.diag(sizes.precision), jnp.eye(p))
    root = jnp.linalg.cholesky(xx)
    half = triangular_solve(root, xy, left_side=True, lower=True)
    weights = triangular_solve(root, half, left_side=True, lower=True, transpose_a=True)
    covs = prior.scale * jnp.eye(y.shape[1]) + yy - half.mT @ half
    covs = covs / (smoothed.sum(axis=0) + prior.extra)[:, None, None]
    return weights.mT, jnp.where(there, covs, jnp.eye(y.shape[1]))


#: Parameters, and the log likelihood of those before.
type _State = tuple[_Params, Float[Array, ""]]


@jax.jit
def fit_program(
    starts: tuple[Array, Array, Array, Array],
    series: tuple[Array, Array, Array],
    sizes: tuple[Array, Array],
    prior: EmissionPrior,
    num_iterations: Int[Array, ""],
) -> tuple[_Params, Float[Array, ""]]:
    """EM from stacked starts: the parameters with the best likelihood, and that."""
    data, known = _Data(*series), _Sizes(*sizes)

    def fit(start: _Params) -> tuple[_Params, Array]:
        def body(i: Array, state: tuple[_Params, Array]) -> tuple[_Params, Array]:
            params = state[0]
            new, log_likelihood = _em_step(params, data, known, prior)
            # The last step only takes the likelihood.
            moves = i < num_iterations
            return jax.tree.map(lambda a, b: jnp.where(moves, a, b), new, params), log_likelihood

        zero = jnp.zeros((), data.values.dtype)
        fitted: _State = lax.fori_loop(0, num_iterations + 1, body, (start, zero))
        return fitted

    fitted, scores = jax.vmap(fit)(_Params(*starts))
    best = jnp.argmax(jnp.where(jnp.isfinite(scores), scores, -jnp.inf))
    return jax.tree.map(lambda x: x[best], fitted), scores[best]
