"""NUTS, adaptive tempered SMC, Pathfinder and Laplace over a :class:`Target`, by blackjax.

Each takes a key, a target and a problem and returns :class:`Draws`. The long ones run in blocks of
steps, whose state a checkpoint can hold; step i of a run uses a key folded with i, so a run that
goes on from a checkpoint ends where it would have ended.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from ssmlin._progress import progress_bar
from ssmlin.learning.checkpoint import Checkpoint
from ssmlin.learning.log_posterior import Position, Problem, Target, strong

_STEPS_PER_CALL = 25
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
    attributes: dict[str, Any]


@dataclass(frozen=True)
class Moves:
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


class Plan(NamedTuple):
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
    moves: Moves


# ------------------------------------------------------------------------------ starts


@partial(jax.jit, static_argnames=("target", "num"))
def jittered(key: Array, target: Target, problem: Problem, num: int) -> Position:
    """The given parameters with normal noise, for so many chains; without it where it fails."""
    start, unravel = ravel_pytree(target.position(problem))
    noise = _JITTER * jax.random.normal(key, (num, start.size), start.dtype)
    starts = jax.vmap(unravel)(start + noise)
    fine = jnp.isfinite(jax.vmap(lambda x: target.log_density(x, problem))(starts))
    return jax.vmap(unravel)(start + jnp.where(fine[:, None], noise, 0.0))


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
def _log_densities(positions: Position, target: Target, problem: Problem) -> Array:
    """Of many positions, (chain, draw)."""
    return jax.lax.map(
        lambda chain: jax.lax.map(lambda x: target.log_density(x, problem), chain, batch_size=64),
        positions,
    )


def pathfinder(key: Array, target: Target, problem: Problem, plan: Plan) -> Draws:
    """Draws from the normal law that a quasi-Newton path finds closest, one path a chain."""
    start_key, path_key = jax.random.split(key)
    starts = jittered(start_key, target, problem, plan.num_chains)
    keys = jax.random.split(path_key, plan.num_chains)
    positions, log_q, elbo = _pathfinder(keys, starts, target, problem, plan.num_samples)
    return _approximate(positions, log_q, target, problem, {"elbo": np.asarray(elbo)})


@partial(jax.jit, static_argnames=("target", "shape"))
def _laplace(
    key: Array, target: Target, problem: Problem, shape: tuple[int, int]
) -> tuple[Position, Array, Array, Array, Array]:
    """Draws, their log density, the mode's gradient, the smallest curvature, the evidence."""
    start, unravel = ravel_pytree(target.position(problem))

    def loss(x: Array) -> Array:
        return -target.log_density(unravel(x), problem)

    mode = _minimum(loss, start)
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


def _minimum(loss: Any, start: Array) -> Array:
    """L-BFGS until the gradient is small."""
    optimizer = optax.lbfgs()
    value_and_grad = optax.value_and_grad_from_state(loss)

    def body(carry: tuple[Array, Any, Array]) -> tuple[Array, Any, Array]:
        x, state, count = carry
        value, grad = value_and_grad(x, state=state)
        updates, state = optimizer.update(grad, state, x, value=value, grad=grad, value_fn=loss)
        return optax.apply_updates(x, updates), state, count + 1

    def go_on(carry: tuple[Array, Any, Array]) -> Array:
        _, state, count = carry
        norm = optax.tree.norm(optax.tree.get(state, "grad"))
        tolerance = jnp.sqrt(jnp.finfo(start.dtype).eps) * 10
        return (count == 0) | ((count < 500) & (norm > tolerance))

    return jax.lax.while_loop(go_on, body, (start, optimizer.init(start), jnp.asarray(0)))[0]


def laplace(key: Array, target: Target, problem: Problem, plan: Plan) -> Draws:
    """Draws from the normal law at the mode, with the curvature there."""
    shape = (plan.num_chains, plan.num_samples)
    positions, log_q, gradient, curvature, evidence = _laplace(key, target, problem, shape)
    attributes = {
        "log_evidence": float(evidence),
        "gradient_norm": float(jnp.linalg.norm(gradient)),
        "smallest_curvature": float(curvature),
    }
    return _approximate(positions, log_q, target, problem, attributes)


def _approximate(
    positions: Position, log_q: Array, target: Target, problem: Problem, attributes: dict[str, Any]
) -> Draws:
    """Add importance weights and what their tail says of the approximation."""
    from blackjax.diagnostics import pareto_khat

    log_p = _log_densities(positions, target, problem)
    weights = jnp.where(jnp.isfinite(log_p), log_p - log_q, -jnp.inf)
    khat = pareto_khat(weights.reshape(-1))
    khat = khat[0] if isinstance(khat, tuple) else khat
    return Draws(
        positions, {"lp": log_p, "log_weight": weights}, {**attributes, "pareto_k": float(khat)}
    )


# ------------------------------------------------------------------------------ NUTS


class _Chains(NamedTuple):
    """Where the chains are, and what they have learned of their steps."""

    states: Any
    step_size_states: Any
    mass_states: Any
    step_sizes: Float[Array, " chain"]
    inverse_mass: Float[Array, "chain ..."]


class _Run(NamedTuple):
    """All that a run of NUTS needs to go on."""

    chains: _Chains
    done: Array
    positions: Position
    stats: dict[str, Array]


def _adaptation(moves: Moves) -> tuple[Any, Any]:
    """Dual averaging of the step size and Welford's estimate of the mass matrix."""
    from blackjax.adaptation.mass_matrix import mass_matrix_adaptation
    from blackjax.adaptation.step_size import dual_averaging_adaptation

    return (
        dual_averaging_adaptation(moves.target_acceptance),
        mass_matrix_adaptation(is_diagonal_matrix=not moves.dense_mass),
    )


@partial(jax.jit, static_argnames=("target", "moves"))
def _start_chains(starts: Position, target: Target, problem: Problem, moves: Moves) -> _Chains:
    """Chains at their starts, with unit mass and step size."""
    from blackjax.mcmc import hmc

    (da_init, _, _), (mass_init, _, _) = _adaptation(moves)
    size = ravel_pytree(target.position(problem))[0].size

    def one(position: Position) -> _Chains:
        mass, steps = mass_init(size), da_init(1.0)
        state = hmc.init(position, lambda x: target.log_density(x, problem))
        dtype = state.logdensity.dtype
        return _Chains(state, steps, mass, jnp.ones((), dtype), mass.inverse_mass_matrix)

    return strong(jax.vmap(one)(starts))


def _move(key: Array, chains: _Chains, target: Target, problem: Problem, moves: Moves) -> Any:
    """One NUTS step of every chain."""
    from blackjax.mcmc import nuts

    kernel = nuts.build_kernel()

    def one(key: Array, state: Any, step_size: Array, inverse_mass: Array) -> Any:
        def log_density(x: Position) -> Array:
            return target.log_density(x, problem)

        return kernel(
            key, state, log_density, step_size, inverse_mass, max_num_doublings=moves.max_tree_depth
        )

    keys = jax.vmap(lambda chain: jax.random.fold_in(key, chain))(
        jnp.arange(len(chains.step_sizes))
    )
    return jax.vmap(one)(keys, chains.states, chains.step_sizes, chains.inverse_mass)


def _adapt(chains: _Chains, states: Any, acceptance: Array, stage: Any, moves: Moves) -> _Chains:
    """Learn from a step: the step size always, the mass matrix in slow windows."""
    (da_init, da_update, da_final), (_, mass_update, mass_final) = _adaptation(moves)
    is_slow, is_window_end = stage

    def one(chains: _Chains, state: Any, acceptance: Array) -> _Chains:
        steps = da_update(chains.step_size_states, acceptance)
        mass = jax.lax.cond(
            is_slow, lambda m: mass_update(m, state.position), lambda m: m, chains.mass_states
        )

        def end(steps: Any, mass: Any) -> tuple[Any, Any]:
            return da_init(da_final(steps)), mass_final(mass)

        steps, mass = jax.lax.cond(is_window_end, end, lambda s, m: (s, m), steps, mass)
        step_size = jnp.exp(steps.log_step_size).astype(chains.step_sizes.dtype)
        return _Chains(state, steps, mass, step_size, mass.inverse_mass_matrix)

    return strong(jax.vmap(one)(chains, states, acceptance))


@partial(jax.jit, static_argnames=("target", "moves"))
def _warm_up(
    chains: _Chains, key: Array, indices: Array, last: Array, stages: Any, target: Target,
    problem: Problem, moves: Moves,
) -> _Chains:  # fmt: skip
    """A block of warm-up steps; those past the end are left out, so all blocks share a program."""

    def step(chains: _Chains, data: Any) -> tuple[_Chains, None]:
        i, stage = data

        def run(chains: _Chains) -> _Chains:
            states, info = _move(jax.random.fold_in(key, i), chains, target, problem, moves)
            return _adapt(chains, states, info.acceptance_rate, stage, moves)

        return jax.lax.cond(i < last, run, lambda c: c, chains), None

    return jax.lax.scan(step, chains, (indices, stages))[0]


@partial(jax.jit, static_argnames=("moves",))
def _settle(chains: _Chains, moves: Moves) -> _Chains:
    """Fix the step sizes at their averages."""
    (_, _, da_final), _ = _adaptation(moves)
    final = jax.vmap(da_final)(chains.step_size_states)
    return chains._replace(step_sizes=final.astype(chains.step_sizes.dtype))


@partial(jax.jit, static_argnames=("target", "moves"))
def _sample(
    chains: _Chains, key: Array, indices: Array, last: Array, target: Target, problem: Problem,
    moves: Moves,
) -> tuple[_Chains, Position, dict[str, Array]]:  # fmt: skip
    """A block of draws."""

    def step(chains: _Chains, i: Array) -> tuple[_Chains, Any]:
        def run(chains: _Chains) -> tuple[_Chains, Any]:
            states, info = _move(jax.random.fold_in(key, i), chains, target, problem, moves)
            stats = {
                "lp": states.logdensity,
                "acceptance_rate": info.acceptance_rate,
                "diverging": info.is_divergent,
                "energy": info.energy,
                "tree_depth": info.num_trajectory_expansions,
                "n_steps": info.num_integration_steps,
            }
            return chains._replace(states=states), (states.position, stats)

        shapes = jax.eval_shape(run, chains)[1]
        nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        return jax.lax.cond(i < last, run, lambda c: (c, nothing), chains)

    chains, (positions, stats) = jax.lax.scan(step, chains, indices)
    return chains, *jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1), (positions, stats))


def _stages(num_warmup: int) -> Any:
    """For every warm-up step, padded to whole blocks: is it slow, and does a window end."""
    from blackjax.adaptation.window_adaptation import build_schedule

    schedule = np.asarray(build_schedule(num_warmup), dtype=bool).reshape(-1, 2)
    padded = np.zeros((-(-len(schedule) // _STEPS_PER_CALL) * _STEPS_PER_CALL, 2), bool)
    padded[: len(schedule)] = schedule
    return jnp.asarray(padded[:, 0]), jnp.asarray(padded[:, 1])


def _over_devices(tree: Any, num_chains: int) -> Any:
    """Spread the chains over the devices, if they can be shared out evenly."""
    devices = jax.devices()
    if len(devices) == 1 or num_chains % len(devices):
        return tree
    mesh = jax.make_mesh(
        (len(devices),), ("chain",), axis_types=(jax.sharding.AxisType.Auto,), devices=devices
    )
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("chain"))
    return jax.device_put(tree, sharding)


def nuts(
    key: Array,
    target: Target,
    problem: Problem,
    plan: Plan,
    *,
    starts: Position,
    checkpoint: Checkpoint,
    progress: bool,
) -> Draws:
    """The no-U-turn sampler after window adaptation, all chains together."""
    warm_key, sample_key = jax.random.split(key)
    starts = _over_devices(starts, plan.num_chains)
    moves = plan.moves
    chains = _start_chains(starts, target, problem, moves)
    if not bool(jnp.all(jnp.isfinite(chains.states.logdensity))):
        raise ValueError(
            "params: expected a finite log posterior at the start, got "
            f"{np.asarray(chains.states.logdensity)}; check params, emissions and inputs"
        )
    indices = jnp.arange(_STEPS_PER_CALL)
    nothing = jax.eval_shape(
        partial(_sample, target=target, moves=moves), chains, sample_key, indices, 0,
        problem=problem,
    )[1:]  # fmt: skip
    empty = jax.tree.map(lambda x: jnp.zeros((plan.num_chains, 0, *x.shape[2:]), x.dtype), nothing)
    run = _Run(chains, jnp.asarray(0), *empty)
    loaded = checkpoint.load(run)
    run = run if loaded is None else loaded
    checkpoint.save(run, force=loaded is None)

    is_slow, is_window_end = _stages(plan.num_warmup)
    total = plan.num_warmup + plan.num_samples
    with progress_bar(progress) as bar:
        task = bar.add_task("nuts", total=total, completed=int(run.done), note="")
        while (done := int(run.done)) < total:
            if done < plan.num_warmup:
                block = slice(done, done + _STEPS_PER_CALL)
                stages = (is_slow[block], is_window_end[block])
                chains = _warm_up(
                    run.chains, warm_key, done + indices, plan.num_warmup, stages,
                    target, problem, moves,
                )  # fmt: skip
                done = min(done + _STEPS_PER_CALL, plan.num_warmup)
                chains = _settle(chains, moves) if done == plan.num_warmup else chains
                run = run._replace(chains=chains, done=jnp.asarray(done))
                note = "warm-up"
            else:
                chains, *block_draws = _sample(
                    run.chains, sample_key, done - plan.num_warmup + indices, plan.num_samples,
                    target, problem, moves,
                )  # fmt: skip
                count = min(_STEPS_PER_CALL, total - done)
                positions, stats = jax.tree.map(
                    lambda old, new: jnp.concatenate([old, new[:, :count]], axis=1),  # noqa: B023
                    (run.positions, run.stats),
                    tuple(block_draws),
                )
                run = _Run(chains, jnp.asarray(done + count), positions, stats)
                note = f"{int(stats['diverging'].sum())} divergences"
            checkpoint.save(run, force=int(run.done) == total)
            bar.update(task, completed=int(run.done), note=note)
    return Draws(
        run.positions,
        run.stats,
        {"step_size": np.asarray(run.chains.step_sizes)},
    )


# ------------------------------------------------------------------------------ SMC


class _Particles(NamedTuple):
    """All that the runs of SMC need to go on."""

    states: Any  # blackjax's tempered states
    log_evidence: Float[Array, " run"]
    step_sizes: Float[Array, " run"]
    done: Array


_LEAPFROG_STEPS = 8
_TARGET_ESS = 0.8


def _smc_step(
    key: Array,
    particles: Any,
    step_size: Array,
    target: Target,
    problem: Problem,
    moves: Moves,
    *,
    last: bool = False,
) -> tuple[Any, Array, Array]:
    """One temperature of one run: new particles, what the evidence gains, the acceptance rate.

    The particles are resampled by their weights, moved at their temperature, and weighted for the
    next one; the last step has no next one.
    """
    from blackjax.mcmc import hmc
    from blackjax.smc import adaptive_tempered, resampling, tempered

    flat = jax.vmap(lambda x: ravel_pytree(x)[0])(particles.particles)
    weights = particles.weights[:, None]
    mean = jnp.sum(weights * flat, axis=0)
    variances = jnp.maximum(jnp.sum(weights * (flat - mean) ** 2, axis=0), 1e-10)
    pieces = (
        lambda x: target.log_prior(x, problem),
        lambda x: target.log_likelihood(x, problem),
        partial(hmc.build_kernel(), num_integration_steps=_LEAPFROG_STEPS),
        hmc.init,
        resampling.systematic,
    )
    parameters = {"step_size": step_size[None], "inverse_mass_matrix": variances[None]}
    if last:
        kernel = tempered.build_kernel(*pieces)
        state, info = kernel(
            key, particles, moves.num_mcmc_steps, particles.tempering_param, parameters
        )
    else:
        kernel = adaptive_tempered.build_kernel(*pieces, _TARGET_ESS)
        state, info = kernel(key, particles, moves.num_mcmc_steps, parameters)
    return state, info.log_likelihood_increment, jnp.mean(info.update_info.acceptance_rate)


@partial(jax.jit, static_argnames=("target", "moves"))
def _temper(
    runs: _Particles, key: Array, target: Target, problem: Problem, moves: Moves
) -> tuple[_Particles, Array]:
    """One temperature of every run that is not yet at one."""

    def one(chain: Array, state: Any, evidence: Array, step_size: Array) -> Any:
        new, gain, acceptance = _smc_step(
            jax.random.fold_in(jax.random.fold_in(key, runs.done), chain),
            state, step_size, target, problem, moves,
        )  # fmt: skip
        # The step size for the next temperature: longer where moves were taken too easily.
        factor = jnp.exp(acceptance - moves.target_acceptance)
        new_step = jnp.clip(step_size * factor, 1e-4, 2.0)
        return (new, evidence + gain, new_step), acceptance

    indices = jnp.arange(len(runs.step_sizes))
    (states, evidence, steps), acceptance = jax.vmap(one)(
        indices, runs.states, runs.log_evidence, runs.step_sizes
    )
    moved = _Particles(states, evidence, steps, runs.done + 1)
    active = runs.states.tempering_param < 1

    def keep(new: Array, old: Array) -> Array:
        return jnp.where(active.reshape(-1, *[1] * (new.ndim - 1)), new, old)

    return jax.tree.map(keep, moved._replace(done=runs.done), runs)._replace(
        done=moved.done
    ), acceptance


@partial(jax.jit, static_argnames=("target", "moves"))
def _finish(
    runs: _Particles, key: Array, target: Target, problem: Problem, moves: Moves
) -> tuple[Position, Array, Array]:
    """Resample by the last weights and move once more at temperature one."""

    def one(chain: Array, state: Any, step_size: Array) -> tuple[Position, Array]:
        state, _, acceptance = _smc_step(
            jax.random.fold_in(key, chain), state, step_size, target, problem, moves, last=True
        )
        return state.particles, acceptance

    indices = jnp.arange(len(runs.step_sizes))
    particles, acceptance = jax.vmap(one)(indices, runs.states, runs.step_sizes)
    return particles, _log_densities(particles, target, problem), acceptance


def smc(
    key: Array,
    target: Target,
    problem: Problem,
    plan: Plan,
    *,
    particles: Position,
    checkpoint: Checkpoint,
    progress: bool,
) -> Draws:
    """Adaptive tempered SMC from the prior to the posterior, independent runs side by side."""
    from blackjax.smc.tempered import TemperedSMCState

    dtype = problem.emissions.dtype
    shape = (plan.num_chains, plan.num_samples)
    states = TemperedSMCState(
        particles, jnp.full(shape, 1 / plan.num_samples, dtype), jnp.zeros(shape[0], dtype)
    )
    zero = jnp.zeros(shape[0], dtype)
    runs = _Particles(states, zero, zero + 0.3, jnp.asarray(0))
    loaded = checkpoint.load(runs)
    runs = runs if loaded is None else loaded
    checkpoint.save(runs, force=loaded is None)
    temper_key, finish_key = jax.random.split(key)
    with progress_bar(progress) as bar:
        done = float(runs.states.tempering_param.min())
        task = bar.add_task("smc", total=100, completed=int(100 * done), note="")
        while done < 1:
            runs, acceptance = _temper(runs, temper_key, target, problem, plan.moves)
            if not bool(jnp.all(jnp.isfinite(runs.log_evidence))):
                raise FloatingPointError(
                    f"the evidence became {np.asarray(runs.log_evidence)}; the likelihood is not "
                    "finite on part of the prior"
                )
            done = float(runs.states.tempering_param.min())
            checkpoint.save(runs, force=done >= 1)
            note = f"temperature {done:.3g}, acceptance {float(acceptance.mean()):.2f}"
            bar.update(task, completed=int(100 * done), note=note)
    positions, log_p, acceptance = _finish(runs, finish_key, target, problem, plan.moves)
    evidence = np.asarray(runs.log_evidence, np.float64)
    spread = evidence.std(ddof=1) / np.sqrt(len(evidence)) if len(evidence) > 1 else np.nan
    attributes = {
        "log_evidence": float(np.logaddexp.reduce(evidence) - np.log(len(evidence))),
        "log_evidence_of_runs": evidence,
        "log_evidence_se": float(spread),
        "num_temperatures": int(runs.done),
        "acceptance_rate": np.asarray(acceptance),
    }
    return Draws(positions, {"lp": log_p}, attributes)
