"""The no-U-turn sampler of blackjax, all chains together, in blocks of steps.

A checkpoint can hold the state between two blocks. Step i of a run uses a key folded with i, so a
run that goes on from a checkpoint ends where it would have ended.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, PyTree

from ssmlin._progress import progress_bar
from ssmlin._typing import AnyArray
from ssmlin.learning._checkpoint import Checkpoint
from ssmlin.learning._devices import over_devices
from ssmlin.learning._log_posterior import Position, Problem, Target, strong
from ssmlin.learning._samplers import Draws, MoveSettings, SamplerSettings

_STEPS_PER_CALL = 25


class _Chains(NamedTuple):
    """Where the chains are, and what they have learned of their steps."""

    states: PyTree  # as all of blackjax
    step_size_states: PyTree
    mass_states: PyTree
    step_sizes: Float[Array, " chain"]
    inverse_mass: Float[Array, "chain ..."]


class ChainsCheckpoint(NamedTuple):
    """All that a run of NUTS needs to go on."""

    chains: _Chains
    done: AnyArray
    positions: Mapping[str, AnyArray]
    stats: dict[str, AnyArray]


class Adaptation(NamedTuple):
    """How blackjax adapts a setting of NUTS: functions of its own states.

    Attributes:
        init: the state before the first step.
        update: the state after a step.
        final: what was learned; of a mass matrix, the state for the next window.
    """

    init: Callable[..., PyTree]
    update: Callable[..., PyTree]
    final: Callable[..., PyTree]


class Stages(NamedTuple):
    """Which part of the run each step is in.

    Attributes:
        is_warmup: whether anything is learned.
        is_slow: whether the mass matrix is learned.
        is_window_end: whether a window of it ends.
    """

    is_warmup: Bool[AnyArray, "*steps"]
    is_slow: Bool[AnyArray, "*steps"]
    is_window_end: Bool[AnyArray, "*steps"]


def _adaptation(moves: MoveSettings) -> tuple[Adaptation, Adaptation]:
    """Dual averaging of the step size and Welford's estimate of the mass matrix."""
    from blackjax.adaptation.mass_matrix import mass_matrix_adaptation
    from blackjax.adaptation.step_size import dual_averaging_adaptation

    return (
        Adaptation(*dual_averaging_adaptation(moves.target_acceptance)),
        Adaptation(*mass_matrix_adaptation(is_diagonal_matrix=not moves.dense_mass)),
    )


@partial(jax.jit, static_argnames=("target", "moves"))
def _start_chains(
    starts: Position, target: Target, problem: Problem, moves: MoveSettings
) -> _Chains:
    """Chains at their starts, with unit mass and step size."""
    from blackjax.mcmc import hmc

    step_sizes, masses = _adaptation(moves)
    size = ravel_pytree(target.position(problem))[0].size

    def one(position: Position) -> _Chains:
        mass, steps = masses.init(size), step_sizes.init(1.0)
        state = hmc.init(position, lambda x: target.log_density(x, problem))
        dtype = state.logdensity.dtype
        return _Chains(state, steps, mass, jnp.ones((), dtype), mass.inverse_mass_matrix)

    return strong(jax.vmap(one)(starts))


def _move(
    key: Array, chains: _Chains, target: Target, problem: Problem, moves: MoveSettings
) -> PyTree:
    """One NUTS step of every chain."""
    from blackjax.mcmc import nuts

    kernel = nuts.build_kernel()

    def one(key: Array, state: PyTree, step_size: Array, inverse_mass: Array) -> PyTree:
        def log_density(x: Position) -> Array:
            return target.log_density(x, problem)

        return kernel(
            key, state, log_density, step_size, inverse_mass, max_num_doublings=moves.max_tree_depth
        )

    keys = jax.vmap(lambda chain: jax.random.fold_in(key, chain))(
        jnp.arange(len(chains.step_sizes))
    )
    return jax.vmap(one)(keys, chains.states, chains.step_sizes, chains.inverse_mass)


def _adapt(
    chains: _Chains, states: PyTree, acceptance: Array, stage: Stages, moves: MoveSettings
) -> _Chains:
    """Learn from a step: the step size always, the mass matrix in slow windows."""
    step_sizes, masses = _adaptation(moves)

    def one(chains: _Chains, state: PyTree, acceptance: Array) -> _Chains:
        steps = step_sizes.update(chains.step_size_states, acceptance)
        mass = jax.lax.cond(
            stage.is_slow,
            lambda m: masses.update(m, state.position),
            lambda m: m,
            chains.mass_states,
        )

        def end(steps: PyTree, mass: PyTree) -> tuple[PyTree, PyTree]:
            return step_sizes.init(step_sizes.final(steps)), masses.final(mass)

        steps, mass = jax.lax.cond(stage.is_window_end, end, lambda s, m: (s, m), steps, mass)
        step_size = jnp.exp(steps.log_step_size).astype(chains.step_sizes.dtype)
        return _Chains(state, steps, mass, step_size, mass.inverse_mass_matrix)

    return strong(jax.vmap(one)(chains, states, acceptance))


@partial(jax.jit, static_argnames=("moves",))
def _settle(chains: _Chains, moves: MoveSettings) -> _Chains:
    """Fix the step sizes at their averages."""
    step_sizes, _ = _adaptation(moves)
    final = jax.vmap(step_sizes.final)(chains.step_size_states)
    return chains._replace(step_sizes=final.astype(chains.step_sizes.dtype))


@partial(jax.jit, static_argnames=("target", "moves"))
def _run(
    chains: _Chains, key: Array, indices: Array, last: Array, stages: Stages, target: Target,
    problem: Problem, moves: MoveSettings,
) -> tuple[_Chains, Position, dict[str, Array]]:  # fmt: skip
    """A block of steps and their draws; those past the end are left out.

    The steps of the warm-up learn and the others do not. All blocks share a program, which takes
    longer to compile than most runs of it take.
    """

    def step(chains: _Chains, data: tuple[Array, Stages]) -> tuple[_Chains, PyTree]:
        i, stage = data

        def run(chains: _Chains) -> tuple[_Chains, PyTree]:
            states, info = _move(jax.random.fold_in(key, i), chains, target, problem, moves)
            stats = {
                "lp": states.logdensity,
                "acceptance_rate": info.acceptance_rate,
                "diverging": info.is_divergent,
                "energy": info.energy,
                "tree_depth": info.num_trajectory_expansions,
                "n_steps": info.num_integration_steps,
            }
            moved = jax.lax.cond(
                stage.is_warmup,
                lambda: _adapt(chains, states, info.acceptance_rate, stage, moves),
                lambda: strong(chains._replace(states=states)),
            )
            return moved, (states.position, stats)

        shapes = jax.eval_shape(run, chains)[1]
        nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        taken: tuple[_Chains, PyTree] = jax.lax.cond(i < last, run, lambda c: (c, nothing), chains)
        return taken

    chains, (positions, stats) = jax.lax.scan(step, chains, (indices, stages))
    return chains, *jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1), (positions, stats))


def _stages(num_warmup: int) -> Stages:
    """Of every warm-up step, padded to whole blocks."""
    from blackjax.adaptation.window_adaptation import build_schedule

    schedule = np.asarray(build_schedule(num_warmup), dtype=bool).reshape(-1, 2)
    padded = np.zeros((-(-len(schedule) // _STEPS_PER_CALL) * _STEPS_PER_CALL, 2), bool)
    padded[: len(schedule)] = schedule
    return Stages(np.ones(len(padded), bool), padded[:, 0], padded[:, 1])


def _begun(
    starts: Position, target: Target, problem: Problem, settings: SamplerSettings
) -> _Chains:
    """Chains at their starts; one whose log posterior is not finite there starts at `params`."""
    given = target.position(problem)
    for fallback in (True, False):
        spread = over_devices(starts, settings.num_chains)
        chains: _Chains = _start_chains(spread, target, problem, settings.moves)
        fine = np.isfinite(np.asarray(chains.states.logdensity))
        if fine.all():
            return chains
        if fallback:
            starts = jax.tree.map(
                lambda x, y: np.where(fine.reshape(-1, *[1] * np.ndim(y)), x, y),  # noqa: B023
                starts,
                given,
            )
    raise ValueError(
        "params: expected a finite log posterior at the start, got "
        f"{np.asarray(chains.states.logdensity)}; check params, emissions and inputs"
    )


def nuts(
    key: Array,
    target: Target,
    problem: Problem,
    settings: SamplerSettings,
    *,
    starts: Position,
    checkpoint: Checkpoint,
    progress: bool,
) -> Draws:
    """The no-U-turn sampler after window adaptation, all chains together."""
    warm_key, sample_key = jax.random.split(key)
    moves = settings.moves
    chains = _begun(starts, target, problem, settings)
    indices = np.arange(_STEPS_PER_CALL)
    nothing = np.zeros(_STEPS_PER_CALL, bool)
    no_stages = Stages(nothing, nothing, nothing)
    # By the program itself, so that it is traced once.
    shapes = _run.eval_shape(  # type: ignore[no-untyped-call]  # JAX does not annotate it
        chains, sample_key, indices, settings.num_samples, no_stages, target, problem, moves
    )[1:]
    empty = jax.tree.map(
        lambda x: np.zeros((settings.num_chains, 0, *x.shape[2:]), x.dtype), shapes
    )
    run = ChainsCheckpoint(chains, np.asarray(0), *empty)
    loaded = checkpoint.load(run)
    run = run if loaded is None else loaded
    checkpoint.save(run, force=loaded is None)

    warmup = _stages(settings.num_warmup)
    total = settings.num_warmup + settings.num_samples
    with progress_bar(progress) as bar:
        task = bar.add_task("nuts", total=total, completed=int(run.done), note="compiling")
        while (done := int(run.done)) < total:
            if done < settings.num_warmup:
                block = slice(done, done + _STEPS_PER_CALL)
                stages = Stages(*(x[block] for x in warmup))
                chains, *_ = _run(
                    run.chains, warm_key, done + indices, settings.num_warmup, stages,
                    target, problem, moves,
                )  # fmt: skip
                done = min(done + _STEPS_PER_CALL, settings.num_warmup)
                chains = _settle(chains, moves) if done == settings.num_warmup else chains
                run = run._replace(chains=chains, done=np.asarray(done))
                note = "warm-up"
            else:
                chains, *block_draws = _run(
                    run.chains, sample_key, done - settings.num_warmup + indices,
                    settings.num_samples, no_stages, target, problem, moves,
                )  # fmt: skip
                count = min(_STEPS_PER_CALL, total - done)
                # In NumPy, where arrays that grow compile nothing.
                positions, stats = jax.tree.map(
                    lambda old, new: np.concatenate([old, np.asarray(new)[:, :count]], axis=1),  # noqa: B023
                    (run.positions, run.stats),
                    tuple(block_draws),
                )
                run = ChainsCheckpoint(chains, np.asarray(done + count), positions, stats)
                note = f"{int(stats['diverging'].sum())} divergences"
            checkpoint.save(run, force=int(run.done) == total)
            bar.update(task, completed=int(run.done), note=note)
    positions, stats = jax.device_put((run.positions, run.stats))
    return Draws(
        positions,
        stats,
        {"step_size": np.asarray(run.chains.step_sizes)},
    )
