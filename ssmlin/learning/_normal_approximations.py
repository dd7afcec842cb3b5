"""Normal approximations of the posterior, Pathfinder and Laplace, with importance weights."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array

from ssmlin.learning._log_posterior import Position, Problem, Target
from ssmlin.learning._quasi_newton import minimise
from ssmlin.learning._samplers import Draws, SamplerSettings, jittered, log_densities


@partial(jax.jit, static_argnames=("target", "num_samples"))
def _pathfinder(
    keys: Array, starts: Position, target: Target, problem: Problem, num_samples: int
) -> tuple[Position, Array, Array]:
    """Draws of one path from each start, their log density under it, and the best bound."""
    from blackjax.vi import pathfinder as bj

    def one(key: Array, start: Position) -> tuple[Position, Array, Array]:
        search_key, draw_key = jax.random.split(key)

        def log_density(x: Position) -> Array:
            return target.log_density(x, problem)

        state, _ = bj.approximate(search_key, log_density, start)
        draws, log_q = bj.sample(draw_key, state, num_samples)
        return draws, log_q, state.elbo

    return jax.vmap(one)(keys, starts)


@partial(jax.jit, static_argnames=("target",))
def _finite(starts: Position, target: Target, problem: Problem) -> Position:
    """The starts, or the given parameters where the log posterior is not finite."""
    given = target.position(problem)

    def one(start: Position) -> Position:
        fine = jnp.isfinite(target.log_density(start, problem))
        chosen: Position = jax.tree.map(lambda x, y: jnp.where(fine, x, y), start, given)
        return chosen

    every: Position = jax.vmap(one)(starts)
    return every


def pathfinder(key: Array, target: Target, problem: Problem, settings: SamplerSettings) -> Draws:
    """Draws from the normal law that a quasi-Newton path finds closest, one path a chain."""
    start_key, path_key = jax.random.split(key)
    starts = _finite(jittered(start_key, target, problem, settings.num_chains), target, problem)
    keys = jax.random.split(path_key, settings.num_chains)
    positions, log_q, elbo = _pathfinder(keys, starts, target, problem, settings.num_samples)
    return _approximate(positions, log_q, target, problem, {"elbo": np.asarray(elbo)})


@partial(jax.jit, static_argnames=("target", "shape"))
def _laplace(
    key: Array, target: Target, problem: Problem, shape: tuple[int, int]
) -> tuple[Position, Array, Array, Array, Array]:
    """Draws, their log density, the mode's gradient, the smallest curvature, the evidence."""
    start, unravel = ravel_pytree(target.position(problem))

    def loss(x: Array) -> Array:
        return -target.log_density(unravel(x), problem)

    tolerance = 10 * math.sqrt(np.finfo(start.dtype).eps)
    mode = minimise(loss, start, num_steps=500, tolerance=tolerance)
    gradient, hessian = jax.grad(loss)(mode), jax.hessian(loss)(mode)
    values, vectors = jnp.linalg.eigh(0.5 * (hessian + hessian.T))
    # Where the mode is flat the prior's scale on unconstrained space, about one, is a bound.
    precisions = jnp.maximum(values, 1e-2)
    normal = jax.random.normal(key, (*shape, start.size), start.dtype)
    draws = mode + (normal / jnp.sqrt(precisions)) @ vectors.T
    half_log_det = 0.5 * jnp.sum(jnp.log(precisions))
    constant = 0.5 * start.size * jnp.log(2 * jnp.pi)
    log_q = half_log_det - constant - 0.5 * jnp.sum(normal**2, axis=-1)
    positions = jax.vmap(jax.vmap(unravel))(draws)
    return positions, log_q, gradient, values[0], constant - half_log_det - loss(mode)


def laplace(key: Array, target: Target, problem: Problem, settings: SamplerSettings) -> Draws:
    """Draws from the normal law at the mode, with the curvature there."""
    shape = (settings.num_chains, settings.num_samples)
    positions, log_q, gradient, curvature, evidence = _laplace(key, target, problem, shape)
    attributes: dict[str, float | np.ndarray] = {
        "log_evidence": float(evidence),
        "gradient_norm": float(jnp.linalg.norm(gradient)),
        "smallest_curvature": float(curvature),
    }
    return _approximate(positions, log_q, target, problem, attributes)


def _approximate(
    positions: Position,
    log_q: Array,
    target: Target,
    problem: Problem,
    attributes: dict[str, float | np.ndarray],
) -> Draws:
    """Add importance weights and what their tail says of the approximation."""
    from blackjax.diagnostics import pareto_khat

    log_p = log_densities(positions, target, problem)
    weights = jnp.where(jnp.isfinite(log_p), log_p - log_q, -jnp.inf)
    khat = pareto_khat(weights.reshape(-1))
    khat = khat[0] if isinstance(khat, tuple) else khat
    return Draws(
        positions, {"lp": log_p, "log_weight": weights}, {**attributes, "pareto_k": float(khat)}
    )
