"""The posterior of the parameters: sampled, checked, and given as ArviZ's DataTree."""

import warnings
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from ssmlin import _checks
from ssmlin._optional import require
from ssmlin._progress import waiting
from ssmlin._typing import AnyArray
from ssmlin.learning._checkpoint import Checkpoint
from ssmlin.learning._datatree import Axes, add_states, as_sequences, time_labels, to_datatree
from ssmlin.learning._diagnostics import complaints
from ssmlin.learning._log_posterior import (
    Position,
    Problem,
    Target,
    choose,
    paths,
    property_leaves,
)
from ssmlin.learning._models import ModelWithPriors, StepwiseModel, name_of, seen_by
from ssmlin.learning._normal_approximations import laplace, pathfinder
from ssmlin.learning._nuts import nuts
from ssmlin.learning._prediction import add_predictions
from ssmlin.learning._samplers import MoveSettings, SamplerSettings, jittered
from ssmlin.learning._smc import smc

if TYPE_CHECKING:
    import xarray

Algorithm = Literal["nuts", "smc", "pathfinder", "laplace"]


def sample_posterior[P](
    key: Array,
    model: StepwiseModel[P],
    params: P,
    props: P,
    emissions: Float[AnyArray, "T m"] | Float[AnyArray, "B T m"],
    inputs: PyTree = None,
    *,
    algorithm: Algorithm = "nuts",
    variables: str | Sequence[str] | None = None,
    num_chains: int = 4,
    num_warmup: int = 500,
    num_samples: int = 500,
    initialization: Literal["params", "pathfinder"] = "params",
    target_acceptance: float = 0.8,
    max_tree_depth: int = 10,
    dense_mass: bool = False,
    num_mcmc_steps: int = 5,
    time: Collection[object] | None = None,
    trajectories: bool = True,
    states: bool = False,
    posterior_predictive: bool = False,
    checkpoint_dir: str | Path | None = None,
    progress: bool = True,
) -> "xarray.DataTree":
    r"""Draw from $p(\theta \mid y) \propto p(\theta) \, p(y \mid \theta)$ with blackjax.

    The states are integrated out by the filter, $p(y \mid \theta) = \prod_t p(y_t \mid y_{1:t-1},
    \theta)$, so only parameters are sampled, in unconstrained space with the Jacobian. What is not
    chosen by `variables` stays at its value in `params`.

    Args:
        key: a PRNG key.
        model: a model with ``log_prior`` and ``log_predictive``, as
            :class:`ssmlin.LinearAttentionSSM` is.
        params: where chains start, and the values of what is not sampled.
        props: matching properties; only trainable parameters are sampled.
        emissions: one sequence or a batch; NaN means missing.
        inputs: the inputs, likewise.
        algorithm: "nuts", the no-U-turn sampler after window adaptation; "smc", adaptive tempered
            sequential Monte Carlo from the prior, which also gives the log evidence and finds
            several modes: `num_chains` independent runs of `num_samples` particles; "pathfinder"
            and "laplace", quick normal approximations, with importance weights.
        variables: names of parameters, see the posterior's paths: ("alpha", "beta") for these
            gates and their weights; None for all that are trainable.
        num_chains: chains; with several devices they are shared out.
        num_warmup: steps of adaptation of each chain, not kept.
        num_samples: draws of each chain.
        initialization: NUTS starts at "params" with normal noise of sd ½ in unconstrained space,
            or at draws of "pathfinder".
        target_acceptance: what step sizes are adapted to, in (0, 1).
        max_tree_depth: NUTS doubles its path at most so many times.
        dense_mass: whether NUTS learns a full mass matrix, not its diagonal.
        num_mcmc_steps: Hamiltonian moves of every particle at each temperature of SMC.
        time: labels of the T steps; default 0, ..., T − 1. Those of a time zone become UTC.
        trajectories: include the gates α_t, β_t, ... of every step.
        states: include one path of the states for each draw, (m, d) at every step.
        posterior_predictive: include a draw of every emission given those before it.
        checkpoint_dir: a directory; a run that was killed goes on from there, and ends with the
            same draws, if it is called again with the same arguments.
        progress: show a progress bar.

    Returns:
        A DataTree with groups `posterior` (constrained parameters; ``alpha_t`` and the like with
        the coordinate time), `sample_stats`, `log_likelihood` (of every step) and
        `observed_data`, and `posterior_predictive` if asked for. The attributes of `posterior`
        hold the algorithm, and ``log_evidence`` for SMC and Laplace.

    Raises:
        ValueError: an argument of the wrong shape or range, a log posterior that is not finite at
            the start, or a checkpoint of another call.
        TypeError: an argument that is not of the expected type.

    Warns:
        RuntimeWarning: divergences, R-hat above 1.01, fewer than 100 effective draws a chain, or
            a poor normal approximation.

    Examples:
        >>> import jax, jax.numpy as jnp, ssmlin
        >>> y = jnp.sin(0.3 * jnp.arange(60.0))[:, None] + 0.1
        >>> model = ssmlin.LinearAttentionSSM("bayesian_memory", 1, 1, 2, num_lags=1)
        >>> u = model.compute_inputs(y)
        >>> params, props = model.initialize(emissions=y, inputs=u)
        >>> draws = ssmlin.sample_posterior(jax.random.key(0), model, params, props, y, u,
        ...     algorithm="laplace", variables="process_noise", num_samples=100, progress=False)
        >>> draws.posterior["process_noise"].shape
        (4, 100)

    Source: Hoffman and Gelman (2014) for NUTS; Chopin (2002), Jasra et al. (2011) for SMC; Zhang
    et al. (2022) for Pathfinder.
    """
    require("arviz", "xarray")  # now, not after the draws
    _checks.one_of("algorithm", algorithm, ("nuts", "smc", "pathfinder", "laplace"))
    _checks.one_of("initialization", initialization, ("params", "pathfinder"))
    if not 0 < target_acceptance < 1:
        raise ValueError(f"target_acceptance: expected a number in (0, 1), got {target_acceptance}")
    settings = SamplerSettings(
        _checks.positive_int("num_chains", num_chains),
        _checks.positive_int("num_warmup", num_warmup, minimum=0 if algorithm != "nuts" else 1),
        _checks.positive_int("num_samples", num_samples),
        MoveSettings(
            float(target_acceptance),
            _checks.positive_int("max_tree_depth", max_tree_depth),
            bool(dense_mass),
            _checks.positive_int("num_mcmc_steps", num_mcmc_steps),
        ),
    )
    data = as_sequences(emissions, inputs)
    if len(property_leaves(props)) != len(jax.tree.leaves(params)):
        raise ValueError("props: expected properties matching params, got another structure")
    problem = Problem(params, props, data.emissions, data.inputs)
    axes = Axes(time_labels(time, data.emissions.shape[1]), data.is_batch)
    target = Target(seen_by(model, problem.emissions), choose(params, props, variables))

    run_key, start_key, extra_key = jax.random.split(key, 3)
    checkpoint = Checkpoint(
        checkpoint_dir if algorithm in ("nuts", "smc") else None,
        f"sample_posterior-{algorithm}",
        {
            "key": key,
            "model": repr(model),
            "params": params,
            "emissions": problem.emissions,
            "inputs": problem.inputs,
            "variables": target.names,
            "options": (settings, initialization),
        },
    )
    with waiting(f"sampling parameters of {name_of(model)}", progress):
        if algorithm == "smc":
            particles = _prior_draws(start_key, target, problem, settings)
            draws = smc(
                run_key, target, problem, settings,
                particles=particles, checkpoint=checkpoint, progress=progress,
            )  # fmt: skip
        elif algorithm == "nuts":
            starts = _starts(start_key, target, problem, settings, initialization)
            draws = nuts(
                run_key, target, problem, settings,
                starts=starts, checkpoint=checkpoint, progress=progress,
            )  # fmt: skip
        elif algorithm == "laplace":
            draws = laplace(run_key, target, problem, settings)
            draws.attributes["log_evidence"] -= _log_prior_of_others(target, problem)
        else:
            draws = pathfinder(run_key, target, problem, settings)

        tree = to_datatree(draws, target, problem, model if trajectories else None, axes)
        tree.posterior.attrs.update(algorithm=algorithm, inference_library="blackjax")
        state_key, emission_key = jax.random.split(extra_key)
        if states:
            add_states(tree, state_key, draws, target, problem, axes)
        if posterior_predictive:
            add_predictions(tree, emission_key, draws, target, problem, axes)
    for message in complaints(tree, algorithm):
        warnings.warn(message, RuntimeWarning, stacklevel=2)
    return tree


def _starts(
    key: Array, target: Target, problem: Problem, settings: SamplerSettings, initialization: str
) -> Position:
    """Where the chains of NUTS start."""
    starts: Position
    if initialization == "params":
        return jittered(key, target, problem, settings.num_chains)
    quick = pathfinder(key, target, problem, settings)
    log_p = quick.stats["lp"]
    best = jnp.argmax(jnp.where(jnp.isfinite(log_p[:, :10]), log_p[:, :10], -jnp.inf), axis=1)
    chains = jnp.arange(settings.num_chains)
    starts = jax.tree.map(lambda x: x[chains, best], quick.positions)
    return starts


def _prior_draws(
    key: Array, target: Target, problem: Problem, settings: SamplerSettings
) -> Position:
    """Draws of the chosen parameters from the prior, on unconstrained space."""
    if not isinstance(target.model, ModelWithPriors):
        raise ValueError("model: expected prior_distributions for algorithm='smc', got none")
    laws = target.model.prior_distributions(problem.params)
    improper = [name for name in target.names if name not in laws]
    if improper:
        raise ValueError(
            f"variables: expected parameters with a proper prior for algorithm='smc', got "
            f"{', '.join(improper)}"
        )
    properties = dict(zip(paths(problem.params), property_leaves(problem.props), strict=True))
    keys = jax.random.split(key, len(target.names))
    shape = (settings.num_chains, settings.num_samples)
    position: Position = {}
    for name, k in zip(target.names, keys, strict=True):
        x = laws[name].sample(shape, seed=k).astype(problem.emissions.dtype)
        bijector = properties[name].constrainer
        position[name] = x if bijector is None else bijector.inverse(x)
    return position


def _log_prior_of_others(target: Target, problem: Problem) -> float:
    """What parameters that are not sampled add to the log prior; NaN if the model cannot tell."""
    if not isinstance(target.model, ModelWithPriors):
        return float("nan")
    laws = target.model.prior_distributions(problem.params)
    values = dict(zip(paths(problem.params), jax.tree.leaves(problem.params), strict=True))
    chosen = [laws[name].log_prob(values[name].astype(laws[name].dtype)) for name in target.names]
    return float(target.model.log_prior(problem.params) - sum(chosen))
