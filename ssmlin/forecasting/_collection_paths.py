"""Sampled paths of many series from hierarchical regressions on their own past."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ssmlin._buckets import bucket
from ssmlin._typing import AnyArray
from ssmlin.forecasting._history import History
from ssmlin.inference import RowCovLaw
from ssmlin.models import HierarchicalRegression, ParamsHierarchicalRegression


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
    # Draws by a generator that is several times as fast on a CPU.
    key = jax.random.key(seed, impl="rbg")
    # The latest value first in the weights, and last in time.
    weights = history.weights[:, ::-1].astype(np.float32)
    paths = _paths(params, key, starts, np.transpose(beside, (1, 2, 0)), weights, num_samples)
    return np.asarray(paths, np.float64)[:count, :, :steps]


@partial(jax.jit, static_argnames="num_samples")
def _paths(
    params: ParamsHierarchicalRegression,
    key: Array,
    starts: Starts,
    beside: Float[Array, "H k B"],
    weights: Float[Array, "r L"],
    num_samples: int,
) -> Float[Array, "B n H"]:
    """Paths of a batch; everything is elementwise over the last axes, series and paths."""
    variance_key, start_key, path_key = jax.random.split(key, 3)
    mean, cov, law, last, bounds = starts
    count, size = mean.shape
    steps, length = len(beside), last.shape[1]
    shape = (count, num_samples)
    deviation = jnp.sqrt(law.sample(variance_key, (num_samples,))).T
    values, vectors = jnp.linalg.eigh(cov)
    root = vectors * jnp.sqrt(jnp.maximum(values, 0.0))[:, None, :]
    normal = jax.random.normal(start_key, (count, size, num_samples), mean.dtype)
    start = jnp.moveaxis(root @ normal, 1, 0) * deviation
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
        number, others, key = now
        normal = jax.random.normal(key, (size + 1, *shape), state.dtype)
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

    keys = jax.random.split(path_key, steps)
    (_, written), _ = jax.lax.scan(step, (start, written), (jnp.arange(steps), beside, keys))
    return jnp.moveaxis(written[length:], 0, -1)
