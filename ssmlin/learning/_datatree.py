"""ArviZ's DataTree of draws: its labels, its groups, and draws of states and emissions in it."""

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree, Shaped

from ssmlin import _checks
from ssmlin._optional import require
from ssmlin._typing import AnyArray
from ssmlin.learning._log_posterior import Position, Problem, Target, paths, variable_name
from ssmlin.learning._models import ModelWithGates, PredictiveModel
from ssmlin.learning._samplers import Draws

if TYPE_CHECKING:
    import xarray

_OVER_TIME = ["sequence", "time"]
#: Draws that are computed at a time.
_TOGETHER = 16


class Sequences(NamedTuple):
    """Data with a leading axis of sequences.

    Attributes:
        emissions: (B, T, m).
        inputs: None or inputs with leading axes (B, T).
        is_batch: whether they were given with that axis.
    """

    emissions: Array
    inputs: PyTree
    is_batch: bool


class Axes(NamedTuple):
    """How the axes of a DataTree are labelled.

    Attributes:
        time: labels of the steps.
        is_batch: whether there is an axis of sequences.
    """

    time: Shaped[np.ndarray, " T"]
    is_batch: bool


def as_sequences(emissions: PyTree, inputs: PyTree) -> Sequences:
    """Check the data and give them a leading axis of sequences.

    Raises:
        ValueError: data of the wrong shape.
    """
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
    return Sequences(y, u, is_batch)


def time_labels(time: Collection[object] | None, steps: int) -> np.ndarray:
    """Coordinates of the time axis; those of a time zone become UTC.

    Raises:
        ValueError: not as many labels as steps.
    """
    if time is None:
        return np.arange(steps)
    labels = np.asarray(time)
    if labels.dtype == object:  # NumPy and NetCDF know no time zones
        require("pandas")
        import pandas as pd

        index = pd.Index(labels.ravel())
        if isinstance(index, pd.DatetimeIndex) and index.tz is not None:
            labels = index.tz_convert("UTC").tz_localize(None).to_numpy().reshape(labels.shape)
    if labels.shape != (steps,):
        raise ValueError(f"time: expected {steps} labels, one a step, got shape {labels.shape}")
    return labels


def dataset(
    arrays: Mapping[str, AnyArray], dims: Mapping[str, Sequence[str]], axes: Axes
) -> "xarray.Dataset":
    """Arrays (chain, draw, ...) with named axes; axes without a name get one from the variable."""
    require("xarray")
    import xarray

    variables: dict[str, tuple[list[str], np.ndarray]] = {}
    for name, x in arrays.items():
        values = np.asarray(x)
        names = ["chain", "draw", *dims.get(name, [])]
        if "sequence" in names and not axes.is_batch:
            values = values.squeeze(names.index("sequence"))
            names.remove("sequence")
        names += [f"{name}_dim_{i}" for i in range(values.ndim - len(names))]
        variables[name] = (names, values)
    made = xarray.Dataset(variables)
    coords = {str(dim): np.arange(size) for dim, size in made.sizes.items()}
    if "time" in coords:
        coords["time"] = axes.time
    return made.assign_coords(coords)


def each_draw[T: PyTree](function: Callable[..., T], *trees: PyTree) -> T:
    """Map over (chain, draw), a few draws at a time."""
    chains, draws = jax.tree.leaves(trees)[0].shape[:2]
    total, size = chains * draws, min(_TOGETHER, chains * draws)
    extra = -total % size  # the last draw again, since a shorter rest would be compiled by itself

    def cut(x: Array) -> Array:
        flat = x.reshape(total, *x.shape[2:])
        return jnp.concatenate([flat, *[flat[-1:]] * extra]).reshape(-1, size, *x.shape[2:])

    several = jax.lax.map(lambda x: jax.vmap(function)(*x), jax.tree.map(cut, trees))
    mapped: T = jax.tree.map(
        lambda x: x.reshape(-1, *x.shape[2:])[:total].reshape(chains, draws, *x.shape[2:]), several
    )
    return mapped


@partial(jax.jit, static_argnames=("target",))
def _constrained(positions: Position, target: Target, problem: Problem) -> dict[str, Array]:
    """Constrained values by path, (chain, draw, ...)."""

    def one(position: Position) -> dict[str, Array]:
        params = target.params(position, problem)
        leaves = zip(paths(params), jax.tree.leaves(params), strict=True)
        return {path: leaf for path, leaf in leaves if path in position}

    values: dict[str, Array] = jax.vmap(jax.vmap(one))(positions)
    return values


@partial(jax.jit, static_argnames=("target",))
def _log_likelihood(positions: Position, target: Target, problem: Problem) -> Array:
    return each_draw(lambda x: target.log_predictive(x, problem), positions)


@partial(jax.jit, static_argnames=("target", "model"))
def _gates(
    positions: Position, target: Target, problem: Problem, model: ModelWithGates[PyTree]
) -> Mapping[str, Array]:
    def one(position: Position) -> Mapping[str, Array]:
        params = target.params(position, problem)
        gates: Mapping[str, Array] = jax.vmap(lambda u: model.gate_values(params, u))(
            problem.inputs
        )
        return gates

    return each_draw(one, positions)


def to_datatree(
    draws: Draws, target: Target, problem: Problem, gated: object | None, axes: Axes
) -> "xarray.DataTree":
    """The groups posterior, sample_stats, log_likelihood and observed_data.

    Args:
        draws: of a sampler.
        target: what was sampled.
        problem: likewise.
        gated: a model whose gates of every step are included, if it has any; or None.
        axes: how they are labelled.

    Returns:
        A DataTree.
    """
    require("xarray")
    import xarray

    posterior: dict[str, AnyArray] = {
        variable_name(path): value
        for path, value in _constrained(draws.positions, target, problem).items()
    }
    dims: dict[str, list[str]] = {}
    if isinstance(gated, ModelWithGates):
        for name, gate in _gates(draws.positions, target, problem, gated).items():
            posterior[f"{name}_t"] = gate
            dims[f"{name}_t"] = _OVER_TIME
    likelihood = {"emissions": _log_likelihood(draws.positions, target, problem)}
    observed = dataset(
        {"emissions": np.asarray(problem.emissions)[None, None]},
        {"emissions": [*_OVER_TIME, "emission"]},
        axes,
    )
    groups = {
        "posterior": dataset(posterior, dims, axes).assign_attrs(draws.attributes),
        "sample_stats": dataset(draws.stats, {}, axes),
        "log_likelihood": dataset(likelihood, {"emissions": _OVER_TIME}, axes),
        "observed_data": observed.isel(chain=0, draw=0, drop=True),
    }
    return xarray.DataTree.from_dict(groups)


def add_states(
    tree: "xarray.DataTree",
    key: Array,
    draws: Draws,
    target: Target,
    problem: Problem,
    axes: Axes,
) -> None:
    """Add a path of the states for each draw."""
    require("xarray")
    import xarray

    keys = jax.random.split(key, (tree.posterior.sizes["chain"], tree.posterior.sizes["draw"]))
    states = _state_paths(keys, draws.positions, target, problem)
    dims = {"states": [*_OVER_TIME, "emission", "key"]}
    made = dataset({"states": states}, dims, axes)
    tree["posterior"] = xarray.DataTree(tree.posterior.to_dataset().merge(made))


@partial(jax.jit, static_argnames=("target",))
def _state_paths(keys: Array, positions: Position, target: Target, problem: Problem) -> Array:
    model = target.model
    assert isinstance(model, PredictiveModel)

    def one(key: Array, position: Position) -> Array:
        params = target.params(position, problem)
        sequence_keys = jax.random.split(key, len(problem.emissions))
        paths: Array = jax.vmap(lambda k, y, u: model.posterior_sample(k, params, y, u))(
            sequence_keys, problem.emissions, problem.inputs
        )
        return paths

    return each_draw(one, keys, positions)


def posterior_params[P](params: P, draws: "xarray.DataTree") -> P:
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
    every: P = jax.tree.unflatten(structure, values)
    return every
