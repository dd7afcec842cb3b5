"""Fitting the parameters that many sequences share, to batches of them.

The loss is a sum over batches, so its gradient is one, too: memory holds the intermediate values of
one batch. The parameters are few and the loss is not random, so L-BFGS needs some hundred passes.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from dynamax.parameters import from_unconstrained, log_det_jac_constrain, to_unconstrained
from jax.experimental import multihost_utils
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, ArrayLike, Float
from scipy import optimize

from ssmlin import _checks
from ssmlin._progress import progress_bar
from ssmlin.learning._checkpoint import Checkpoint, digest
from ssmlin.learning._models import name_of

#: The fit ends where so many steps together lower the loss, a mean over the observed values, by
#: less than this. A single step may stand still far from the optimum.
_STEPS, _TOLERANCE = 10, 1e-5
_MEMORY = 30
#: The step of differences of gradients in unconstrained parameters, and the least curvature as a
#: share of the largest: below lies the rounding of single precision.
_DIFFERENCE, _LEAST_CURVATURE = 1e-2, 1e-4


@runtime_checkable
class BatchModel[P](Protocol):
    """A model that scores many sequences, which share its parameters, at once."""

    def log_prior(self, params: P) -> Float[Array, ""]:
        """Log density of the parameters."""

    def log_likelihoods(self, params: P, *data: Any) -> Float[Array, " B"]:
        """Log likelihood of each sequence of a batch; arrays have a leading axis B."""


class BatchFit(NamedTuple):
    """How a fit by :func:`fit_batches` went.

    Attributes:
        losses: minus the log posterior per observed value, after each step.
        converged: whether the loss had stopped falling; False where `num_steps` were too few.
    """

    losses: Float[np.ndarray, " steps"]
    converged: bool


class _State(NamedTuple):
    """What a checkpoint holds."""

    point: np.ndarray
    losses: np.ndarray
    converged: np.ndarray


def fit_batches[P](
    model: BatchModel[P],
    params: P,
    props: P,
    batches: Sequence[tuple[np.ndarray, ...]],
    num_values: int,
    *,
    num_steps: int = 200,
    curvature: Float[np.ndarray, "n n"] | None = None,
    compiler_options: Mapping[str, str] | None = None,
    checkpoint_dir: str | Path | None = None,
    progress: bool = True,
) -> tuple[P, BatchFit]:
    r"""Maximise the log posterior of shared parameters by L-BFGS, over batches of sequences.

    The loss is $-\big(\log p(\theta) + \sum_i \log p(y_i \mid \theta)\big) / N$ over N observed
    values, with $p(\theta)$ the density of the unconstrained parameters: of a log-normal prior that
    is highest at its median, while the density of the constrained parameter may be highest where
    hardly any of its mass is. Batches are computed one after another, each on all devices.

    After `jax.distributed.initialize` these are the devices of all processes. Every process makes
    the same call with the same arguments, computes its part of each batch, and ends with the same
    result: the sums are the same everywhere, and so are the steps. The first process alone writes
    the checkpoint, into a folder that all of them read. If one of them ends, the others raise; the
    same call then goes on with as many processes as there are.

    Args:
        model: hashable, with ``log_prior(params)`` and ``log_likelihoods(params, *data)``.
        params: where to start.
        props: matching properties; all are fitted.
        batches: groups of batches; the arrays of a group have leading axes (n, B), for n batches
            of B sequences. A program is compiled for each shape of a group.
        num_values: N.
        num_steps: L-BFGS steps, at most.
        curvature: an estimate of that of the loss, such as :func:`loss_curvature` of a few batches:
            steps are taken in coordinates in which it is the same in all directions.
        compiler_options: of the programs of the batches, such as `inference.batch_options()`.
        checkpoint_dir: a folder to keep the latest point in; the same call goes on from it.
        progress: show a progress bar.

    Returns:
        The parameters with the highest posterior density, and how the fit went.

    Raises:
        ValueError: a loss that is not finite at the start, a checkpoint of another call, or
            processes that were given different arguments.
        RuntimeError: another process has ended.

    Examples:
        >>> import numpy as np
        >>> from ssmlin.learning import fit_batches
        >>> from ssmlin.models import HierarchicalRegression
        >>> rng = np.random.default_rng(0)
        >>> h = rng.normal(size=(1, 8, 20, 1)).astype(np.float32)  # one batch of 8 series
        >>> y = 2 * h[..., 0] + rng.normal(size=(1, 8, 20)).astype(np.float32)
        >>> model = HierarchicalRegression(1)
        >>> params, fit = fit_batches(
        ...     model, *model.initialize(), [(y, h)], y.size, progress=False)
        >>> fit.converged, bool(abs(params.coefficients[0] - 2) < 0.3)
        (True, True)

    Source: Byrd, Lu, Nocedal and Zhu (1995), SIAM Journal on Scientific Computing 16.
    """
    _checks.positive_int("num_steps", num_steps)
    start, _ = ravel_pytree(to_unconstrained(params, props))
    arguments = {"model": model, "params": params, "batches": list(batches)}
    checkpoint = Checkpoint(checkpoint_dir, "fit_batches", arguments)
    state = _State(np.asarray(start, np.float64), np.zeros(0), np.array(False))
    loaded = checkpoint.load(state)
    state = state if loaded is None else jax.tree.map(np.asarray, loaded)
    _check_same_everywhere({"state": state, "curvature": curvature, **arguments})
    losses = list(state.losses)

    loss = _loss(model, params, props, batches, num_values, compiler_options)
    root = np.eye(len(start)) if curvature is None else _inverse_root(curvature)
    origin = state.point

    def of_scaled(u: np.ndarray) -> tuple[float, np.ndarray]:
        value, slope = loss(origin + root @ u)
        return value, root.T @ slope

    is_first = jax.process_index() == 0

    def save(point: np.ndarray, *, force: bool = False, converged: bool = False) -> None:
        if is_first:
            checkpoint.save(_State(point, np.array(losses), np.array(converged)), force=force)

    with progress_bar(progress and is_first) as bar:
        task = bar.add_task(f"fit {name_of(model)}", total=num_steps, completed=len(losses),
                            note="compiling")  # fmt: skip
        first, _ = loss(origin)
        if not np.isfinite(first):
            raise ValueError(
                f"params: expected a finite loss at the start, got {first}; check params and data"
            )
        bar.update(task, note=f"loss {first:.4f}")

        def report(intermediate_result: optimize.OptimizeResult) -> None:
            losses.append(float(intermediate_result.fun))
            bar.update(task, completed=len(losses), note=f"loss {losses[-1]:.4f}")
            save(origin + root @ intermediate_result.x)
            if _stands_still(losses):
                raise StopIteration

        left = num_steps - len(losses)
        if state.converged or left <= 0:
            return _at(origin, params, props), BatchFit(np.array(losses), bool(state.converged))
        found = optimize.minimize(
            of_scaled, np.zeros(len(start)), jac=True, method="L-BFGS-B", callback=report,
            options={"maxiter": left, "maxfun": 4 * left, "maxcor": _MEMORY,
                     "ftol": 0.0, "gtol": 1e-7},
        )  # fmt: skip
        # Status 1 is that of a limit; a search that finds nothing lower ends at the precision.
        converged = found.status != 1 or _stands_still(losses)
        if converged:
            bar.update(task, total=len(losses))
    end = origin + root @ found.x
    save(end, force=True, converged=converged)
    return _at(end, params, props), BatchFit(np.array(losses), converged)


def loss_curvature[P](
    model: BatchModel[P],
    params: P,
    props: P,
    batches: Sequence[tuple[np.ndarray, ...]],
    num_values: int,
    *,
    compiler_options: Mapping[str, str] | None = None,
) -> Float[np.ndarray, "n n"]:
    """The second derivatives of the loss of :func:`fit_batches`, by differences of gradients.

    They cost a pass over the batches for each parameter, and a few batches are enough.

    Args:
        model: as in :func:`fit_batches`, like all that follow.
        params: where.
        props: matching properties.
        batches: a few of the batches of the fit.
        num_values: observed values in these.
        compiler_options: of their programs.

    Returns:
        A symmetric matrix, by the unconstrained parameters in the order of their leaves.

    Examples:
        >>> import numpy as np
        >>> from ssmlin.learning import loss_curvature
        >>> from ssmlin.models import HierarchicalRegression
        >>> y, h = np.ones((1, 2, 5), np.float32), np.ones((1, 2, 5, 1), np.float32)
        >>> model = HierarchicalRegression(1)
        >>> loss_curvature(model, *model.initialize(), [(y, h)], y.size).shape
        (7, 7)
    """
    loss = _loss(model, params, props, batches, num_values, compiler_options)
    point = np.asarray(ravel_pytree(to_unconstrained(params, props))[0], np.float64)
    here = loss(point)[1]
    beside = [loss(point + _DIFFERENCE * one)[1] for one in np.eye(len(point))]
    found = (np.stack(beside) - here) / _DIFFERENCE
    symmetric: Float[np.ndarray, "n n"] = (found + found.T) / 2
    return symmetric


def _inverse_root(curvature: Float[np.ndarray, "n n"]) -> Float[np.ndarray, "n n"]:
    """R with R Rᵀ the inverse of the curvature, whose size counts where it is negative.

    Source: Dauphin et al. (2014), Advances in Neural Information Processing Systems 27.
    """
    values, vectors = np.linalg.eigh(curvature)
    sizes = np.abs(values)
    root: Float[np.ndarray, "n n"] = vectors / np.sqrt(
        np.maximum(sizes, _LEAST_CURVATURE * sizes.max())
    )
    return root


def _loss[P](
    model: BatchModel[P],
    params: P,
    props: P,
    batches: Sequence[tuple[np.ndarray, ...]],
    num_values: int,
    compiler_options: Mapping[str, str] | None,
) -> Callable[[np.ndarray], tuple[float, np.ndarray]]:
    """The loss of a vector of unconstrained parameters, with its gradient."""
    of_prior, of_group = _programs(tuple((compiler_options or {}).items()))
    groups = [_spread(group) for group in batches]
    params = jax.tree.map(np.asarray, params)  # which may go to the devices of all processes
    dtype = jax.tree.leaves(params)[0].dtype

    def loss(x: np.ndarray) -> tuple[float, np.ndarray]:
        point = np.asarray(x, dtype)
        parts = [of_prior(model, point, params, props)]
        parts += [of_group(model, point, params, props, *group) for group in groups]
        with _other_processes():
            value = -sum(float(v) for v, _ in parts) / num_values
            slope = -np.sum([np.asarray(g, np.float64) for _, g in parts], axis=0) / num_values
        return value, slope

    return loss


def _stands_still(losses: Sequence[float]) -> bool:
    """Whether the last steps lowered the loss by nothing that matters."""
    return len(losses) > _STEPS and bool(losses[-1 - _STEPS] - losses[-1] < _TOLERANCE)


def _constrained[P](point: Float[Array, " n"], like: P, props: P) -> P:
    """The parameters of a vector of unconstrained ones."""
    unravel = ravel_pytree(to_unconstrained(like, props))[1]
    params: P = from_unconstrained(unravel(point), props)
    return params


@jax.jit
def _at[P](point: ArrayLike, like: P, props: P) -> P:
    """The same, in one program."""
    dtype = jax.tree.leaves(like)[0].dtype
    return _constrained(jnp.asarray(point, dtype), like, props)


@cache
def _programs(
    options: tuple[tuple[str, str], ...],
) -> tuple[Callable[..., tuple[Array, Array]], Callable[..., tuple[Array, Array]]]:
    """The log prior and the log likelihood of a group, each with its gradient."""

    def prior[P](model: BatchModel[P], point: Array, like: P, props: P) -> Any:
        def density(point: Array) -> Array:
            params = _constrained(point, like, props)
            change: Array = log_det_jac_constrain(params, props)
            return model.log_prior(params) + change

        return jax.value_and_grad(density)(point)

    def likelihood[P](
        model: BatchModel[P], point: Array, like: P, props: P, counts: Array, *group: Array
    ) -> Any:
        def of_batch(point: Array, counts: Array, data: tuple[Array, ...]) -> Array:
            terms = model.log_likelihoods(_constrained(point, like, props), *data)
            return jnp.sum(jnp.where(counts, terms, 0.0))

        def add(
            total: tuple[Array, Array], batch: tuple[Array, tuple[Array, ...]]
        ) -> tuple[tuple[Array, Array], None]:
            # Value and gradient at once, so that nothing of a batch is kept for later.
            value, slope = jax.value_and_grad(of_batch)(point, *batch)
            return (total[0] + value, total[1] + slope), None

        nothing = jnp.zeros((), point.dtype), jnp.zeros_like(point)
        return jax.lax.scan(add, nothing, (counts, group))[0]

    return (
        jax.jit(prior, static_argnums=0),
        jax.jit(likelihood, static_argnums=0, compiler_options=dict(options)),
    )


def _spread(group: tuple[np.ndarray, ...]) -> tuple[Array, ...]:
    """Which sequences count, and the arrays, on all devices, each with a part of every batch.

    Where the devices cannot share a batch out evenly, the last sequence fills it up and counts
    once.
    """
    devices = jax.devices()
    mesh: Any = Mesh(np.array(devices), ("sequences",))
    spec: Any = PartitionSpec
    split = NamedSharding(mesh, spec(None, "sequences"))
    num, size = group[0].shape[:2]
    index = np.arange(-(-size // len(devices)) * len(devices))
    counts = np.broadcast_to(index < size, (num, len(index)))

    def put(x: np.ndarray) -> Array:
        if len(devices) == 1:
            one: Array = jax.device_put(x)
            return one
        return jax.make_array_from_callback(x.shape, split, lambda part: x[part])

    def filled(x: np.ndarray) -> np.ndarray:
        return x if len(index) == size else x[:, np.minimum(index, size - 1)]

    return put(counts), *(put(filled(x)) for x in group)


def _check_same_everywhere(arguments: Mapping[str, Any]) -> None:
    """Refuse processes that would not take the same steps."""
    if jax.process_count() == 1:
        return
    mine = {name: digest(value) for name, value in arguments.items()}
    codes = np.array([int(code[:7], 16) for code in mine.values()], np.int32)
    with _other_processes():
        everywhere = np.asarray(multihost_utils.process_allgather(codes))
    same = (everywhere == codes).all(axis=0)
    other = [name for name, agreed in zip(mine, same, strict=True) if not agreed]
    if other:
        raise ValueError(
            "fit_batches: expected the same arguments, and the same folder of checkpoints, in all "
            f"{jax.process_count()} processes, got others for {', '.join(other)}"
        )


@contextmanager
def _other_processes() -> Iterator[None]:
    """Says what it means where a sum over processes fails."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if jax.process_count() == 1:
            raise
        raise RuntimeError(
            f"fit_batches: expected {jax.process_count()} processes that live until the fit is "
            "done, but one of them has ended or cannot be reached; start the fit again, with any "
            "number of processes, and it goes on from checkpoint_dir"
        ) from error
