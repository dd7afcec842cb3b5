"""Adaptive tempered sequential Monte Carlo of blackjax, independent runs side by side."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree

from ssmlin._progress import progress_bar
from ssmlin.learning._checkpoint import Checkpoint
from ssmlin.learning._log_posterior import Position, Problem, Target
from ssmlin.learning._samplers import Draws, MoveSettings, SamplerSettings, log_densities


class _Particles(NamedTuple):
    """All that the runs of SMC need to go on."""

    states: PyTree  # blackjax's tempered states
    log_evidence: Float[Array, " run"]
    step_sizes: Float[Array, " run"]
    done: Array


_LEAPFROG_STEPS = 8
_TARGET_ESS = 0.8


def _smc_step(
    key: Array,
    particles: PyTree,
    step_size: Array,
    target: Target,
    problem: Problem,
    moves: MoveSettings,
    *,
    last: bool = False,
) -> tuple[PyTree, Array, Array]:
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
    runs: _Particles, key: Array, target: Target, problem: Problem, moves: MoveSettings
) -> tuple[_Particles, Array]:
    """One temperature of every run that is not yet at one."""

    def one(chain: Array, state: PyTree, evidence: Array, step_size: Array) -> PyTree:
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
    runs: _Particles, key: Array, target: Target, problem: Problem, moves: MoveSettings
) -> tuple[Position, Array, Array]:
    """Resample by the last weights and move once more at temperature one."""

    def one(chain: Array, state: PyTree, step_size: Array) -> tuple[Position, Array]:
        state, _, acceptance = _smc_step(
            jax.random.fold_in(key, chain), state, step_size, target, problem, moves, last=True
        )
        return state.particles, acceptance

    indices = jnp.arange(len(runs.step_sizes))
    particles, acceptance = jax.vmap(one)(indices, runs.states, runs.step_sizes)
    return particles, log_densities(particles, target, problem), acceptance


def smc(
    key: Array,
    target: Target,
    problem: Problem,
    settings: SamplerSettings,
    *,
    particles: Position,
    checkpoint: Checkpoint,
    progress: bool,
) -> Draws:
    """Adaptive tempered SMC from the prior to the posterior, independent runs side by side."""
    from blackjax.smc.tempered import TemperedSMCState

    dtype = problem.emissions.dtype
    shape = (settings.num_chains, settings.num_samples)
    states = TemperedSMCState(
        particles, jnp.full(shape, 1 / settings.num_samples, dtype), jnp.zeros(shape[0], dtype)
    )
    zero = jnp.zeros(shape[0], dtype)
    runs = _Particles(states, zero, zero + 0.3, jnp.asarray(0))
    loaded = checkpoint.load(runs)
    runs = runs if loaded is None else loaded
    checkpoint.save(runs, force=loaded is None)
    temper_key, finish_key = jax.random.split(key)
    with progress_bar(progress) as bar:
        done = float(runs.states.tempering_param.min())
        task = bar.add_task("smc", total=100, completed=int(100 * done), note="compiling")
        while done < 1:
            runs, acceptance = _temper(runs, temper_key, target, problem, settings.moves)
            if not bool(jnp.all(jnp.isfinite(runs.log_evidence))):
                raise FloatingPointError(
                    f"the evidence became {np.asarray(runs.log_evidence)}; the likelihood is not "
                    "finite on part of the prior"
                )
            done = float(runs.states.tempering_param.min())
            checkpoint.save(runs, force=done >= 1)
            note = f"temperature {done:.3g}, acceptance {float(acceptance.mean()):.2f}"
            bar.update(task, completed=int(100 * done), note=note)
    positions, log_p, acceptance = _finish(runs, finish_key, target, problem, settings.moves)
    evidence = np.asarray(runs.log_evidence, np.float64)
    spread = evidence.std(ddof=1) / np.sqrt(len(evidence)) if len(evidence) > 1 else np.nan
    attributes: dict[str, float | np.ndarray] = {
        "log_evidence": float(np.logaddexp.reduce(evidence) - np.log(len(evidence))),
        "log_evidence_of_runs": evidence,
        "log_evidence_se": float(spread),
        "num_temperatures": int(runs.done),
        "acceptance_rate": np.asarray(acceptance),
    }
    return Draws(positions, {"lp": log_p}, attributes)
