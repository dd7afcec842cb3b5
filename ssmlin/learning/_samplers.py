"""What the samplers share: their settings, their draws, and where they start.

Each sampler takes a key, a :class:`Target` and a :class:`Problem`, and returns :class:`Draws`.
"""

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array

from ssmlin.learning._log_posterior import Position, Problem, Target

_JITTER = 0.5


class Draws(NamedTuple):
    """What a sampler returns.

    Attributes:
        positions: unconstrained values by path, (chain, draw, ...).
        stats: by name, (chain, draw).
        attributes: single numbers of the whole run, by name.
    """

    positions: Position
    stats: dict[str, Array]
    attributes: dict[str, float | np.ndarray]


@dataclass(frozen=True)
class MoveSettings:
    """How a chain or a particle moves; hashable, what compiled code depends on.

    Attributes:
        target_acceptance: what the step size is adapted to.
        max_tree_depth: of NUTS.
        dense_mass: whether NUTS learns a full inverse mass matrix.
        num_mcmc_steps: moves of every particle at each temperature.
    """

    target_acceptance: float
    max_tree_depth: int
    dense_mass: bool
    num_mcmc_steps: int


class SamplerSettings(NamedTuple):
    """How much a sampler does.

    Attributes:
        num_chains: independent chains or runs.
        num_warmup: steps of adaptation.
        num_samples: draws of each chain.
        moves: how they move.
    """

    num_chains: int
    num_warmup: int
    num_samples: int
    moves: MoveSettings


def jittered(key: Array, target: Target, problem: Problem, num: int) -> Position:
    """The given parameters with normal noise, for so many chains."""
    start, unravel = ravel_pytree(target.position(problem))
    noise = _JITTER * jax.random.normal(key, (num, start.size), start.dtype)
    positions: Position = jax.vmap(unravel)(start + noise)
    return positions


@partial(jax.jit, static_argnames=("target",))
def log_densities(positions: Position, target: Target, problem: Problem) -> Array:
    """Of many positions, (chain, draw)."""
    densities: Array = jax.lax.map(
        lambda chain: jax.lax.map(lambda x: target.log_density(x, problem), chain, batch_size=64),
        positions,
    )
    return densities
