"""The posterior of the parameters: sampled, checked, and given as ArviZ's DataTree."""

import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ssmlin import _checks
from ssmlin.learning import samplers
from ssmlin.learning.checkpoint import Checkpoint
from ssmlin.learning.log_posterior import (
    Position,
    Problem,
    Target,
    choose,
    paths,
    property_leaves,
    seen_by,
)
from ssmlin.learning.samplers import Draws, Moves, Plan

if TYPE_CHECKING:
    import xarray

Algorithm = Literal["nuts", "smc", "pathfinder", "laplace"]


def sample_posterior(
    key: Array,
    model: Any,
    params: Any,
    props: Any,
    emissions: Float[Array, "T m"] | Float[Array, "B T m"],
    inputs: Any = None,
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
    time: Sequence[Any] | None = None,
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

    Example:
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
    _checks.one_of("algorithm", algorithm, ("nuts", "smc", "pathfinder", "laplace"))
    _checks.one_of("initialization", initialization, ("params", "pathfinder"))
    if not 0 < target_acceptance < 1:
        raise ValueError(f"target_acceptance: expected a number in (0, 1), got {target_acceptance}")
    plan = Plan(
        _checks.positive_int("num_chains", num_chains),
        _checks.positive_int("num_warmup", num_warmup, minimum=0 if algorithm != "nuts" else 1),
        _checks.positive_int("num_samples", num_samples),
        Moves(
            float(target_acceptance),
            _checks.positive_int("max_tree_depth", max_tree_depth),
            bool(dense_mass),
            _checks.positive_int("num_mcmc_steps", num_mcmc_steps),
        ),
    )
    y, u, is_batch = _data(emissions, inputs)
    if len(property_leaves(props)) != len(jax.tree.leaves(params)):
        raise ValueError("props: expected properties matching params, got another structure")
    problem = Problem(params, props, y, u)
    labels = _labels(time, problem.emissions.shape[1])
    target = Target(seen_by(model, problem.emissions), choose(params, props, variables))

    run_key, start_key, extra_key = jax.random.split(key, 3)
    if algorithm in ("nuts", "smc"):
        checkpoint = Checkpoint(
            checkpoint_dir,
            f"sample_posterior-{algorithm}",
            {
                "key": key,
                "model": repr(model),
                "params": params,
                "emissions": problem.emissions,
                "inputs": problem.inputs,
                "variables": target.names,
                "options": (plan, initialization),
            },
        )
        common: dict[str, Any] = {"checkpoint": checkpoint, "progress": progress}
        if algorithm == "smc":
            particles = _prior_draws(start_key, target, problem, plan)
            draws = samplers.smc(run_key, target, problem, plan, particles=particles, **common)
        else:
            starts = _starts(start_key, target, problem, plan, initialization)
            draws = samplers.nuts(run_key, target, problem, plan, starts=starts, **common)
    elif algorithm == "laplace":
        draws = samplers.laplace(run_key, target, problem, plan)
        draws.attributes["log_evidence"] -= _log_prior_of_others(target, problem)
    else:
        draws = samplers.pathfinder(run_key, target, problem, plan)

    tree = _to_datatree(draws, target, problem, model, labels, is_batch, trajectories)
    tree.posterior.attrs.update(algorithm=algorithm, inference_library="blackjax")
    if states or posterior_predictive:
        _add_paths(tree, extra_key, draws, target, problem, model, labels, is_batch,
                   states=states, posterior_predictive=posterior_predictive)  # fmt: skip
    for message in _complaints(tree, algorithm):
        warnings.warn(message, RuntimeWarning, stacklevel=2)
    return tree


def posterior_params(params: Any, draws: "xarray.DataTree") -> Any:
    """The parameters of every draw, as the model takes them.

    Args:
        params: the values of what was not sampled.
        draws: what :func:`sample_posterior` returned.

    Returns:
        Parameters whose arrays have leading axes (chain, draw).
    """
    shape = (draws.posterior.sizes["chain"], draws.posterior.sizes["draw"])
    leaves, structure = jax.tree.flatten(params)
    values = [
        jnp.asarray(draws.posterior[name].values, leaf.dtype)
        if (name := variable_name(path)) in draws.posterior
        else jnp.broadcast_to(leaf, shape + leaf.shape)
        for path, leaf in zip(paths(params), leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, values)


def variable_name(path: str) -> str:
    """The name in a DataTree: "tokens.alpha.value" is alpha, "regression.bias" regression_bias.

    What is the main parameter of its part has the part's name: "process_noise.scale" is
    process_noise, and "row_cov.covariance" row_cov.
    """
    parts = path.split(".")
    if parts[0] == "tokens":
        parts = parts[1:]
    if parts[-1] in ("value", "scale", "covariance"):
        parts = parts[:-1]
    return "_".join(parts)


# ------------------------------------------------------------------------------ the problem


def _data(emissions: Any, inputs: Any) -> tuple[Array, Any, bool]:
    """Check the data and give them a leading axis of sequences; and whether they had one."""
    y = _checks.float_array("emissions", emissions)
    if y.ndim not in (2, 3):
        raise ValueError(f"emissions: expected shape (T, m) or (B, T, m), got {tuple(y.shape)}")
    for leaf in jax.tree.leaves(inputs):
        if np.shape(leaf)[: y.ndim - 1] != y.shape[:-1]:
            raise ValueError(
                f"inputs: expected the leading axes {tuple(y.shape[:-1])} of the emissions, got "
                f"shape {np.shape(leaf)}"
            )
    is_batch = y.ndim == 3
    y, u = jax.tree.map(lambda x: jnp.asarray(x) if is_batch else jnp.asarray(x)[None], (y, inputs))
    return y, u, is_batch


def _labels(time: Sequence[Any] | None, steps: int) -> np.ndarray:
    """Coordinates of the time axis."""
    if time is None:
        return np.arange(steps)
    labels = np.asarray(time)
    if labels.dtype == object:  # NumPy and NetCDF know no time zones
        import pandas as pd

        index = pd.Index(labels.ravel())
        if isinstance(index, pd.DatetimeIndex) and index.tz is not None:
            labels = index.tz_convert("UTC").tz_localize(None).to_numpy().reshape(labels.shape)
    if labels.shape != (steps,):
        raise ValueError(f"time: expected {steps} labels, one a step, got shape {labels.shape}")
    return labels


def _starts(
    key: Array, target: Target, problem: Problem, plan: Plan, initialization: str
) -> Position:
    """Where the chains of NUTS start."""
    if initialization == "params":
        return samplers.jittered(key, target, problem, plan.num_chains)
    quick = samplers.pathfinder(key, target, problem, plan)
    log_p = quick.stats["lp"]
    best = jnp.argmax(jnp.where(jnp.isfinite(log_p[:, :10]), log_p[:, :10], -jnp.inf), axis=1)
    chains = jnp.arange(plan.num_chains)
    return jax.tree.map(lambda x: x[chains, best], quick.positions)


def _prior_draws(key: Array, target: Target, problem: Problem, plan: Plan) -> Position:
    """Draws of the chosen parameters from the prior, on unconstrained space."""
    if not hasattr(target.model, "prior_distributions"):
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
    shape = (plan.num_chains, plan.num_samples)
    position = {}
    for name, k in zip(target.names, keys, strict=True):
        x = laws[name].sample(shape, seed=k).astype(problem.emissions.dtype)
        bijector = properties[name].constrainer
        position[name] = x if bijector is None else bijector.inverse(x)
    return position


def _log_prior_of_others(target: Target, problem: Problem) -> float:
    """What parameters that are not sampled add to the log prior; NaN if the model cannot tell."""
    if not hasattr(target.model, "prior_distributions"):
        return float("nan")
    laws = target.model.prior_distributions(problem.params)
    values = dict(zip(paths(problem.params), jax.tree.leaves(problem.params), strict=True))
    chosen = [laws[name].log_prob(values[name].astype(laws[name].dtype)) for name in target.names]
    return float(target.model.log_prior(problem.params) - sum(chosen))


# ------------------------------------------------------------------------------ the DataTree


@partial(jax.jit, static_argnames=("target",))
def _constrained(positions: Position, target: Target, problem: Problem) -> dict[str, Array]:
    """Constrained values by path, (chain, draw, ...)."""

    def one(position: Position) -> dict[str, Array]:
        params = target.params(position, problem)
        leaves = zip(paths(params), jax.tree.leaves(params), strict=True)
        return {path: leaf for path, leaf in leaves if path in position}

    return jax.vmap(jax.vmap(one))(positions)


def _each_draw(function: Any, *trees: Any) -> Any:
    """Map over (chain, draw), a few draws at a time."""
    return jax.lax.map(
        lambda chain: jax.lax.map(lambda x: function(*x), chain, batch_size=16), trees
    )


@partial(jax.jit, static_argnames=("target",))
def _log_likelihood(positions: Position, target: Target, problem: Problem) -> Array:
    return _each_draw(lambda x: target.log_predictive(x, problem), positions)


@partial(jax.jit, static_argnames=("target", "model"))
def _gates(positions: Position, target: Target, problem: Problem, model: Any) -> dict[str, Array]:
    def one(position: Position) -> dict[str, Array]:
        params = target.params(position, problem)
        return jax.vmap(lambda u: model.gate_values(params, u))(problem.inputs)

    return _each_draw(one, positions)


def _dataset(
    arrays: Mapping[str, Any], dims: dict[str, list[str]], labels: np.ndarray, is_batch: bool
) -> "xarray.Dataset":
    """Arrays (chain, draw, ...) with named axes; axes without a name get one from the variable."""
    import xarray

    variables: dict[str, Any] = {}
    for name, x in arrays.items():
        values = np.asarray(x)
        axes = ["chain", "draw", *dims.get(name, [])]
        if "sequence" in axes and not is_batch:
            values = values.squeeze(axes.index("sequence"))
            axes.remove("sequence")
        axes += [f"{name}_dim_{i}" for i in range(values.ndim - len(axes))]
        variables[name] = (axes, values)
    dataset = xarray.Dataset(variables)
    coords = {dim: np.arange(size) for dim, size in dataset.sizes.items()}
    if "time" in coords:
        coords["time"] = labels
    return dataset.assign_coords(coords)


def _to_datatree(
    draws: Draws,
    target: Target,
    problem: Problem,
    model: Any,
    labels: np.ndarray,
    is_batch: bool,
    trajectories: bool,
) -> "xarray.DataTree":
    """Assemble the groups."""
    import xarray

    over_time = ["sequence", "time"]
    posterior = {
        variable_name(path): value
        for path, value in _constrained(draws.positions, target, problem).items()
    }
    dims: dict[str, list[str]] = {}
    if trajectories and hasattr(model, "gate_values"):
        for name, gate in _gates(draws.positions, target, problem, model).items():
            posterior[f"{name}_t"] = gate
            dims[f"{name}_t"] = over_time
    likelihood = {"emissions": _log_likelihood(draws.positions, target, problem)}
    observed = _dataset(
        {"emissions": np.asarray(problem.emissions)[None, None]},
        {"emissions": [*over_time, "emission"]},
        labels,
        is_batch,
    )
    groups = {
        "posterior": _dataset(posterior, dims, labels, is_batch).assign_attrs(draws.attributes),
        "sample_stats": _dataset(draws.stats, {}, labels, is_batch),
        "log_likelihood": _dataset(likelihood, {"emissions": over_time}, labels, is_batch),
        "observed_data": observed.isel(chain=0, draw=0, drop=True),
    }
    return xarray.DataTree.from_dict(groups)


def _add_paths(
    tree: "xarray.DataTree",
    key: Array,
    draws: Draws,
    target: Target,
    problem: Problem,
    model: Any,
    labels: np.ndarray,
    is_batch: bool,
    *,
    states: bool,
    posterior_predictive: bool,
) -> None:
    """Add draws of the states, and of every emission given those before it."""
    import xarray

    shape = (tree.posterior.sizes["chain"], tree.posterior.sizes["draw"])
    state_key, emission_key = jax.random.split(key)
    if states:
        keys = jax.random.split(state_key, shape)
        paths_ = _state_paths(keys, draws.positions, target, problem)
        dims = {"states": ["sequence", "time", "emission", "key"]}
        dataset = _dataset({"states": paths_}, dims, labels, is_batch)
        tree["posterior"] = xarray.DataTree(tree.posterior.to_dataset().merge(dataset))
    if posterior_predictive:
        keys = jax.random.split(emission_key, shape)
        params = jax.vmap(jax.vmap(lambda x: target.params(x, problem)))(draws.positions)
        sampled = _predict(keys, params, problem.emissions, problem.inputs, target.model).samples
        dims = {"emissions": ["sequence", "time", "emission"]}
        dataset = _dataset({"emissions": sampled}, dims, labels, is_batch)
        tree["posterior_predictive"] = xarray.DataTree(dataset)


@partial(jax.jit, static_argnames=("target",))
def _state_paths(keys: Array, positions: Position, target: Target, problem: Problem) -> Array:
    def one(key: Array, position: Position) -> Array:
        params = target.params(position, problem)
        model: Any = target.model
        sequence_keys = jax.random.split(key, len(problem.emissions))
        return jax.vmap(lambda k, y, u: model.posterior_sample(k, params, y, u))(
            sequence_keys, problem.emissions, problem.inputs
        )

    return _each_draw(one, keys, positions)


# ------------------------------------------------------------------------------ prediction


@partial(jax.jit, static_argnames=("model",))
def _predict(keys: Array, params: Any, emissions: Array, inputs: Any, model: Any) -> Any:
    """For every draw and step, given the past: a draw, its log density, mean and covariance."""

    def one(key: Array, params: Any) -> Any:
        sequence_keys = jax.random.split(key, len(emissions))
        return jax.vmap(lambda k, y, u: model.predict_one_step(k, params, y, u))(
            sequence_keys, emissions, inputs
        )

    return _each_draw(one, keys, params)


def predict_one_step(
    key: Array,
    model: Any,
    params: Any,
    draws: "xarray.DataTree",
    emissions: Float[Array, "T m"] | Float[Array, "B T m"],
    inputs: Any = None,
    *,
    time: Sequence[Any] | None = None,
) -> "xarray.Dataset":
    r"""Predict every step from those before it, averaged over posterior draws of the parameters.

    $$p(y_t \mid y_{1:t-1}) \approx \frac1n \sum_i p(y_t \mid y_{1:t-1}, \theta_i)$$

    The emissions may go on beyond those the draws were made with: then the later steps are
    held-out predictions, the states learning on while the parameters' law stays.

    Args:
        key: a PRNG key.
        model: the model.
        params: the values of what was not sampled.
        draws: what :func:`sample_posterior` returned.
        emissions: one sequence or a batch; NaN means missing.
        inputs: the inputs, likewise.
        time: labels of the T steps; default 0, ..., T − 1. Those of a time zone become UTC.

    Returns:
        A Dataset with `log_density` (time), the log of the averaged density; `mean` and
        `covariance`, those of the mixture; and `emissions` (chain, draw, time, emission), a draw
        from each predictive.

    Raises:
        ValueError: an argument of the wrong shape.
        TypeError: an argument that is not of the expected type.

    Example:
        >>> import jax, jax.numpy as jnp, ssmlin
        >>> y = jnp.sin(0.3 * jnp.arange(60.0))[:, None] + 0.1
        >>> model = ssmlin.LinearAttentionSSM("bayesian_memory", 1, 1, 2, num_lags=1)
        >>> u = model.compute_inputs(y)
        >>> params, props = model.initialize(emissions=y[:50], inputs=u[:50])
        >>> draws = ssmlin.sample_posterior(jax.random.key(0), model, params, props, y[:50],
        ...     u[:50], algorithm="laplace", num_samples=50, progress=False,
        ...     variables="process_noise")
        >>> ahead = ssmlin.predict_one_step(jax.random.key(1), model, params, draws, y, u)
        >>> ahead["log_density"].sel(time=slice(50, None)).shape
        (10,)
    """
    *data, is_batch = _data(emissions, inputs)
    all_params = posterior_params(params, draws)
    shape = (draws.posterior.sizes["chain"], draws.posterior.sizes["draw"])
    labels = _labels(time, data[0].shape[1])
    keys = jax.random.split(key, shape)
    sampled, log_density, means, covariances = _predict(
        keys, all_params, *data, seen_by(model, data[0])
    )
    mean = means.mean(axis=(0, 1))
    centred = means - mean
    between = jnp.einsum("cdbti,cdbtj->btij", centred, centred) / (shape[0] * shape[1])
    mixed = jax.nn.logsumexp(log_density, axis=(0, 1)) - np.log(shape[0] * shape[1])
    over_time = ["sequence", "time"]
    moments = _dataset(
        {
            "log_density": mixed[None, None],
            "mean": mean[None, None],
            "covariance": (covariances.mean(axis=(0, 1)) + between)[None, None],
        },
        {
            "log_density": over_time,
            "mean": [*over_time, "emission"],
            "covariance": [*over_time, "emission", "emission_other"],
        },
        labels,
        is_batch,
    ).isel(chain=0, draw=0, drop=True)
    dims = {"emissions": [*over_time, "emission"]}
    return moments.merge(_dataset({"emissions": sampled}, dims, labels, is_batch))


@partial(jax.jit, static_argnames=("model",))
def _log_predictive(all_params: Any, emissions: Array, inputs: Any, model: Any) -> Array:
    return _each_draw(lambda params: model.log_predictive(params, emissions, inputs), all_params)


def pointwise_log_likelihood(
    model: Any, params: Any, draws: "xarray.DataTree", emissions: Float[Array, "T m"], inputs: Any
) -> "xarray.DataArray":
    """Log p(y_t | y_{1:t-1}, θ) of every draw and step, whatever steps the draws were made with.

    Args:
        model: the model.
        params: the values of what was not sampled.
        draws: what :func:`sample_posterior` returned.
        emissions: one sequence; NaN means missing.
        inputs: its inputs.

    Returns:
        An array (chain, draw, time).
    """
    (y,), (u,), _ = _data(emissions, inputs)
    terms = _log_predictive(posterior_params(params, draws), y, u, seen_by(model, y))
    labels = np.arange(len(y))
    dataset = _dataset({"emissions": terms}, {"emissions": ["time"]}, labels, True)
    return dataset["emissions"]


# ------------------------------------------------------------------------------ diagnostics


def _complaints(tree: "xarray.DataTree", algorithm: str) -> list[str]:
    """What a user should know before trusting the draws, in words."""
    messages = []
    attributes = tree.posterior.attrs
    if algorithm in ("laplace", "pathfinder"):
        if not attributes["pareto_k"] < 0.7:
            messages.append(
                f"the normal approximation is poor: the Pareto k of its importance weights is "
                f"{attributes['pareto_k']:.2f}, above 0.7; use algorithm='nuts'"
            )
        return messages
    if "diverging" in tree.sample_stats:
        count = int(tree.sample_stats["diverging"].sum())
        if count:
            messages.append(
                f"{count} of {tree.sample_stats['diverging'].size} transitions diverged: the "
                "posterior has regions the sampler cannot follow, and draws may be biased; raise "
                "target_acceptance, or use a tighter prior"
            )
    if tree.posterior.sizes["draw"] < 4:
        return messages
    rhat, ess = _diagnostics(tree.posterior.to_dataset())
    if tree.posterior.sizes["chain"] > 1 and (high := {k: v for k, v in rhat.items() if v > 1.01}):
        worst = max(high, key=lambda name: high[name])
        messages.append(
            f"chains disagree: R-hat is above 1.01 for {', '.join(high)} (up to "
            f"{high[worst]:.3f} for {worst}); draw longer chains, with more warm-up"
        )
    if algorithm == "nuts":
        needed = 100 * tree.posterior.sizes["chain"]
        if low := {k: v for k, v in ess.items() if v < needed}:
            worst = min(low, key=lambda name: low[name])
            messages.append(
                f"too few effective draws: below {needed} for {', '.join(low)} (down to "
                f"{low[worst]:.0f} for {worst}); draw more samples"
            )
    return messages


def _diagnostics(posterior: "xarray.Dataset") -> tuple[dict[str, float], dict[str, float]]:
    """The largest rank-normalised R-hat and the smallest bulk ESS of every parameter."""
    from arviz_stats import ess, rhat

    sampled = posterior[[name for name in posterior if "time" not in posterior[name].dims]]
    worst = {name: float(x.max()) for name, x in rhat(sampled).items()}
    least = {name: float(x.min()) for name, x in ess(sampled, method="bulk").items()}
    return worst, least
