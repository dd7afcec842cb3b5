"""Sampled paths of many series from hierarchical regressions on their own past."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ssmlin._buckets import bucket
from ssmlin._typing import AnyArray
from ssmlin.data import inverse_box_cox
from ssmlin.forecasting._collection_fit import Population
from ssmlin.forecasting._collection_members import Member
from ssmlin.forecasting._history import History
from ssmlin.inference import RowCovLaw
from ssmlin.models import HierarchicalRegression, ParamsHierarchicalRegression, RegressionStates

#: The share of the likelihood in the weights: a model that is only nearly right is too sure.
_TEMPER = 0.5


class Starts(NamedTuple):
    """Where the paths of each of B series start.

    Attributes:
        mean: of μ + C, (B, d).
        cov: of C, relative to the variance.
        variance: the law of σ² before the first step, arrays (B,).
        last: the last values, the latest first.
        bounds: within which paths are kept; with uncertain coefficients a path may explode, and
            the mean of all paths need not exist.
    """

    mean: Float[AnyArray, "B d"]
    cov: Float[AnyArray, "B d d"]
    variance: RowCovLaw
    last: Float[AnyArray, "B L"]
    bounds: Float[AnyArray, "B 2"]


class Known(NamedTuple):
    """What one population knows of the columns of a batch that it can be used for.

    Attributes:
        places: their places among all columns of the batch.
        members: the columns.
        states: what is known of each after its last observed step.
        scores: log likelihoods, of the columns in their own units.
        beside: regressors by inputs of the steps after the last observed one, of each.
    """

    places: Sequence[int]
    members: Sequence[Member]
    states: RegressionStates
    scores: Float[np.ndarray, " K"]
    beside: Sequence[Float[np.ndarray, "_ q"]]


def mixture_weights(scores: Float[np.ndarray, "P B"]) -> Float[np.ndarray, "P B"]:
    """Of populations for each column, by its log likelihoods; zeros where all are -inf."""
    best = np.max(scores, axis=0)
    weights = np.exp(_TEMPER * (scores - np.where(np.isfinite(best), best, 0.0)))
    weights = np.where(np.isfinite(scores), weights, 0.0)
    total = weights.sum(axis=0)
    return weights / np.where(total > 0, total, 1.0)


def mixed_paths(
    populations: Sequence[Population],
    history: History,
    known: Sequence[Known | None],
    count: int,
    horizon: int,
    num_samples: int,
    rng: np.random.Generator,
    size: int,
) -> Float[np.ndarray, "B n H"]:
    """Paths of a batch of columns in their own units, each a mixture over the populations.

    Args:
        populations: the fitted models.
        history: what they see of the past.
        known: what each knows; None where it can be used for no column.
        count: B; a column that none knows anything of has paths of NaN.
        horizon: H.
        num_samples: n.
        rng: of the draws.
        size: columns that the batch is padded to.
    """
    scores = np.full((len(populations), count), -np.inf)
    drawn = np.full((len(populations), count, num_samples, horizon), np.nan)
    for k, (population, one) in enumerate(zip(populations, known, strict=True)):
        if one is not None:
            scores[k, one.places] = one.scores
            seed = int(rng.integers(2**31))
            paths = _simulated(population, history, one, horizon, num_samples, seed, size)
            drawn[k, one.places] = paths
    # One uniform number for all paths of a series: as many of each model as its weight says.
    points = (np.arange(num_samples) + rng.random((count, 1))) / num_samples
    bounds = np.cumsum(mixture_weights(scores), axis=0)
    which = np.minimum((points[None] >= bounds[:, :, None]).sum(axis=0), len(bounds) - 1)
    rows, columns = np.indices(which.shape)
    mixed: Float[np.ndarray, "B n H"] = drawn[which, rows, columns]
    return mixed


def _simulated(
    population: Population,
    history: History,
    known: Known,
    horizon: int,
    num_samples: int,
    seed: int,
    size: int,
) -> Float[np.ndarray, "K n H"]:
    """Paths of the members in the units of the data, after what is missing at the end."""
    members, states = known.members, known.states
    steps = max(len(one) for one in known.beside)
    next_steps = np.array([one.next_step for one in members])
    places = history.places(next_steps[:, None] + np.arange(steps))
    beside = np.stack([np.pad(x, ((0, steps - len(x)), (0, 0)), mode="edge") for x in known.beside])
    starts = Starts(
        states.mean, states.cov, states.variance,
        np.stack([one.last for one in members]),
        np.array([one.bounds for one in members]),
    )  # fmt: skip
    paths = sample_paths(
        population.model, population.params, history, starts,
        np.concatenate([places, beside], axis=2), num_samples, seed, size,
    )  # fmt: skip
    scales = np.array([one.scale for one in members])
    values = inverse_box_cox((paths * scales[:, None, None])[..., None], (population.power,))
    return np.stack([
        one[:, member.num_missing : member.num_missing + horizon]
        for one, member in zip(values[..., 0], members, strict=True)
    ])  # fmt: skip


def sample_paths(
    model: HierarchicalRegression,
    params: ParamsHierarchicalRegression,
    history: History,
    starts: Starts,
    beside: Float[np.ndarray, "B H k"],
    num_samples: int,
    seed: int,
    size: int,
) -> Float[np.ndarray, "B n H"]:
    """Draw coefficients and variances, then one step after another, fed back into the past.

    Args:
        model: the model.
        params: its parameters.
        history: what is made of the past.
        starts: where the paths start.
        beside: the other regressors of the steps to come.
        num_samples: n, of each series.
        seed: of the draws.
        size: series that the batch is padded to.

    Returns:
        Paths of values.
    """
    count, steps = beside.shape[:2]
    length = bucket(steps)
    padding = [(0, size - count)]

    def padded(x: AnyArray) -> np.ndarray:
        x = np.asarray(x, np.float32)
        return np.pad(x, padding + [(0, 0)] * (x.ndim - 1), mode="edge")

    starts = jax.tree.map(padded, starts)
    beside = np.pad(padded(beside), [(0, 0), (0, length - steps), (0, 0)], mode="edge")
    # The latest value first in the weights, and last in time.
    weights = history.weights[:, ::-1].astype(np.float32)
    draws = _draw(seed, starts, length, num_samples)
    paths = _paths(params, starts, draws, np.transpose(beside, (1, 2, 0)), weights)
    return np.asarray(paths, np.float64)[:count, :, :steps]


class _Draws(NamedTuple):
    """What is random in the paths of a batch.

    Attributes:
        precision: chi-squared with the degrees of freedom of each variance, (B, n).
        start: standard normal, for the coefficients, (B, d, n).
        steps: standard normal, for the coefficients and the value of every step, (H, d + 1, B, n).
    """

    precision: Float[np.ndarray, "B n"]
    start: Float[np.ndarray, "B d n"]
    steps: Float[np.ndarray, "H _ B n"]


def _draw(seed: int, starts: Starts, steps: int, num_samples: int) -> _Draws:
    """Draws by NumPy, which on a CPU takes a sixth of the time of JAX, on all cores."""
    count, size = starts.mean.shape
    first, *others = np.random.SeedSequence(seed).spawn(steps + 1)
    rng = np.random.default_rng(first)
    df = np.asarray(starts.variance.df, np.float64)[:, None]
    precision = 2 * rng.standard_gamma(df / 2, (count, num_samples))
    start = rng.standard_normal((count, size, num_samples), np.float32)
    found = np.empty((steps, size + 1, count, num_samples), np.float32)

    def fill(one: np.random.SeedSequence, out: np.ndarray) -> None:
        np.random.Generator(np.random.SFC64(one)).standard_normal(out=out, dtype=np.float32)

    with ThreadPoolExecutor() as threads:
        list(threads.map(fill, others, found))
    return _Draws(precision.astype(np.float32), start, found)


@jax.jit
def _paths(
    params: ParamsHierarchicalRegression,
    starts: Starts,
    draws: _Draws,
    beside: Float[Array, "H k B"],
    weights: Float[Array, "r L"],
) -> Float[Array, "B n H"]:
    """Paths of a batch; everything is elementwise over the last axes, series and paths."""
    mean, cov, law, last, bounds = starts
    size = mean.shape[1]
    steps, length = len(beside), last.shape[1]
    shape = draws.precision.shape
    deviation = jnp.sqrt(law.scale[:, None] / draws.precision)
    values, vectors = jnp.linalg.eigh(cov)
    root = vectors * jnp.sqrt(jnp.maximum(values, 0.0))[:, None, :]
    start = jnp.moveaxis(root @ draws.start, 1, 0) * deviation
    start = start + (mean - params.coefficients).T[:, :, None]
    noise = jnp.sqrt(params.noise)[:, None, None]
    population = params.coefficients[:, None, None]
    low, high = bounds[:, :1], bounds[:, 1:]
    # All values in the order of time; a step reads the L before it and writes one.
    written = jnp.zeros((length + steps, *shape), mean.dtype)
    written = written.at[:length].set(
        jnp.broadcast_to(last[:, ::-1].T[..., None], (length, *shape))
    )

    def step(
        carry: tuple[Array, Array], now: tuple[Array, Array, Array]
    ) -> tuple[tuple[Array, Array], None]:
        state, written = carry
        number, others, normal = now
        state = params.decay * state + deviation * noise * normal[:size]
        past = jax.lax.dynamic_slice_in_dim(written, number, length)
        made = (weights @ past.reshape(length, -1)).reshape(-1, *shape)
        split = len(weights)
        total = state + population
        change = jnp.sum(made * total[:split], axis=0)
        change = change + jnp.sum(others[..., None] * total[split:], axis=0)
        value = past[-1] + change + deviation * normal[size]
        value = jnp.clip(value, low, high)
        return (
            state,
            jax.lax.dynamic_update_slice_in_dim(written, value[None], number + length, 0),
        ), None

    inputs = (jnp.arange(steps), beside, jnp.asarray(draws.steps))
    (_, written), _ = jax.lax.scan(step, (start, written), inputs)
    return jnp.moveaxis(written[length:], 0, -1)
