"""A fit by gradient steps as it goes on: what was asked for, how far it is, and its result."""

from collections.abc import Hashable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from dynamax.parameters import from_unconstrained
from jaxtyping import Array, Float, PyTree

from ssmlin import _checks
from ssmlin._typing import AnyArray
from ssmlin._warnings import warn
from ssmlin.learning._checkpoint import Checkpoint
from ssmlin.learning._epochs import (
    CONVERGED_EPOCHS,
    Candidate,
    EpochSettings,
    FitCheckpoint,
    FitState,
    Limits,
    counters,
    start_fit,
)
from ssmlin.learning._flat import Flat
from ssmlin.learning._log_posterior import check_observed, paths, property_leaves
from ssmlin.learning._loss import (
    FitData,
    Objective,
    Windows,
    num_train_steps,
    padded,
    train_part,
)
from ssmlin.learning._models import StepwiseModel, name_of, seen_by

_NO_LIMIT = int(np.iinfo(np.int32).max)


class FitHistory(NamedTuple):
    """How a fit went; where there were restarts, the best of them.

    Attributes:
        losses: training loss of every epoch run.
        scores: at the start of every epoch run minus the log predictive density per value of the
            validation part, or the training loss.
        best_epoch: how many epochs the returned parameters have seen, fewer than were run:
            parameters are judged at the start of an epoch. See :func:`fit_sgd` for what is best;
            it need not have the lowest score.
        stopped_early: whether patience ran out.
        restart: which start was the best.
        converged: whether the loss had stopped falling when the fit ended.
    """

    losses: Float[Array, " epochs"]
    scores: Float[Array, " epochs"]
    best_epoch: int
    stopped_early: bool
    restart: int = 0
    converged: bool = False


@dataclass(frozen=True, eq=False)
class Fit[P]:
    """A fit that is asked for: the arguments of :func:`ssmlin.learning.fit_sgd`."""

    model: StepwiseModel[P]
    params: P
    props: P
    emissions: Float[Array, "B T m"]
    inputs: PyTree = None
    optimizer: optax.GradientTransformation | None = None
    batch_size: int | None = None
    num_epochs: int = 500
    shuffle: bool = False
    key: Array | None = None
    validation_fraction: float = 0.2
    patience: int | None = 50
    window_size: int | None = None
    num_restarts: int = 1
    prior_weight: float = 1.0
    checkpoint_dir: str | Path | None = None


@cache
def default_optimizer() -> optax.GradientTransformation:
    """Adam with step size 0.01 and gradients clipped to norm 1."""
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-2))


# One wrapper for each optimiser, so that fitting again with it does not compile again.
_with_extra_args = cache(optax.with_extra_args_support)


class Run[P]:
    """One fit as it goes on: its data, its state, its history and its checkpoint.

    Args:
        fit: what is asked for.

    Attributes:
        settings: what its program depends on.
        data: what it is fitted to.
        key: of shuffling.
        state: after the epochs so far.
        num_done: how many these are; of several starts, of the one that ran longest.
        goes_on: whether there are more to come.

    Raises:
        ValueError: an argument out of range, or a checkpoint of another call.
        TypeError: an argument that is not of the expected type, or that is being traced.
    """

    def __init__(self, fit: Fit[P]) -> None:
        _check(fit)
        self._fit = fit
        num_sequences, num_steps = fit.emissions.shape[:2]
        ends = num_train_steps(fit.emissions, fit.validation_fraction)
        check_observed(train_part(fit.emissions, fit.validation_fraction))
        model = seen_by(fit.model, fit.emissions)
        size = fit.batch_size
        size = num_sequences if size is None else _checks.positive_int("batch_size", size)
        size = min(size, num_sequences)
        # With nothing held out all steps count, those that are missing at the end as well.
        limit = ends[:, None] if fit.validation_fraction else num_steps
        in_train = np.broadcast_to(np.arange(num_steps) < limit, (num_sequences, num_steps))
        data = FitData(fit.emissions, fit.inputs, jax.device_put(in_train))
        windows = None
        if fit.window_size is not None:
            window_size = _checks.positive_int("window_size", fit.window_size)
            window_size = min(window_size, num_steps)
            if not hasattr(model, "filter_window"):
                raise ValueError(
                    "window_size: expected None for a model without filter_window, got "
                    f"{window_size}"
                )
            windows = Windows(window_size, max(1, -(-int(ends.max()) // window_size)))
            data = padded(data, -num_steps % window_size)
        settings = EpochSettings(
            Objective(model, windows, float(fit.prior_weight)),
            _with_extra_args(fit.optimizer or default_optimizer()),
            size,
            fit.shuffle,
            fit.num_restarts,
        )
        if settings.searches and (size < num_sequences or windows is not None):
            raise ValueError(
                "optimizer: expected one without a line search where a step sees a part of the "
                f"data, as with batch_size={fit.batch_size} and window_size={fit.window_size}; got "
                "ssmlin.learning.lbfgs"
            )
        self.settings, self.data = settings, data
        self.key = jax.random.key(0) if fit.key is None else fit.key
        state = start_fit(fit.params, settings, fit.props, data)
        self._checkpoint = Checkpoint(
            fit.checkpoint_dir,
            "fit_sgd",
            {
                "model": model,
                "params": fit.params,
                "props": [(x.trainable, x.constrainer) for x in property_leaves(fit.props)],
                "emissions": fit.emissions,
                "inputs": fit.inputs,
                "optimizer": state.optimizer_state,
                "batch_size": size,
                "shuffle": fit.shuffle,
                "key": self.key,
                "validation_fraction": in_train,
                "patience": fit.patience,
                "window_size": None if windows is None else windows.size,
                "num_restarts": fit.num_restarts,
                "prior_weight": float(fit.prior_weight),
            },
        )
        nothing = np.zeros((*state.epoch.shape, 0), fit.emissions.dtype)
        run = FitCheckpoint(state, nothing, nothing)
        loaded = self._checkpoint.load(run)
        self._so_far = run if loaded is None else loaded
        self._checkpoint.save(self._so_far, force=loaded is None)
        self._limits = Limits(
            fit.num_epochs,
            _NO_LIMIT if fit.patience is None else fit.patience,
            settings.searches,
        )
        self._seen = counters(self._so_far.state)
        if self.num_done > fit.num_epochs:
            raise ValueError(
                f"num_epochs: expected at least the {self.num_done} epochs of the checkpoint in "
                f"{fit.checkpoint_dir}, got {fit.num_epochs}"
            )

    @property
    def name(self) -> str:
        """What is fitted."""
        return name_of(self._fit.model)

    @property
    def props(self) -> P:
        """What is trainable, and its constrainer."""
        return self._fit.props

    @property
    def state(self) -> FitState:
        """Where the fit is."""
        return self._so_far.state

    @property
    def num_done(self) -> int:
        """Epochs so far."""
        return int(self._seen.epoch.max())

    @property
    def num_epochs(self) -> int:
        """Epochs, at most."""
        return self._fit.num_epochs

    @property
    def goes_on(self) -> bool:
        """Whether there are more to come."""
        return bool(self._limits.allow(self._seen).any())

    @property
    def program(self) -> Hashable:
        """Fits of which this is equal can advance together."""
        leaves, structure = jax.tree.flatten((self.state, self.data, self.key))
        shapes = tuple((x.shape, x.dtype) for x in leaves)
        return self.settings, structure, shapes, jax.tree.structure(self.props)

    def until(self, block: int) -> Limits:
        """Where to stop after at most so many epochs more."""
        return self._limits._replace(last_epoch=min(self.num_done + block, self.num_epochs))

    def take(self, state: FitState, record: tuple[AnyArray, AnyArray]) -> None:
        """Note the state after a block of epochs, and the losses and scores of these.

        Raises:
            ValueError: the loss at the start was not finite.
        """
        before, self._seen = self.num_done, counters(state)
        ran = self.num_done - before
        losses, scores = (np.moveaxis(np.asarray(x), 0, -1)[..., :ran] for x in record)
        if before == 0 and not np.isfinite(losses[..., 0]).any():
            raise ValueError(
                f"params: expected a finite loss at the start, got {losses[..., 0].tolist()}; "
                "check params, emissions and inputs"
            )
        self._so_far = FitCheckpoint(
            state,
            np.concatenate([self._so_far.losses, losses], axis=-1),
            np.concatenate([self._so_far.scores, scores], axis=-1),
        )
        self._checkpoint.save(self._so_far, force=not self.goes_on)

    @property
    def last_loss(self) -> float:
        """The loss of the last epoch; of several starts the lowest."""
        return float(self._so_far.losses[..., -1].min())

    def result(self) -> tuple[P, FitHistory]:
        """The best parameters and the history.

        Warns:
            RuntimeWarning: steps whose loss or gradient was not finite, which were not taken.
        """
        if (bad_steps := int(self._seen.bad_steps.sum())) > 0:
            warn(
                f"{bad_steps} gradient steps were not finite and were not taken; the last "
                "good parameters were kept"
            )
        best, history = _best(jax.device_get(self._so_far), self.settings, self.num_epochs)
        fitted: P = _constrained(best.params, self.props)
        return fitted, history


def _check(fit: Fit[Any]) -> None:
    """Raise ValueError or TypeError for numbers out of range and starts that are not as many."""
    if not 0 <= fit.validation_fraction < 1:
        raise ValueError(
            f"validation_fraction: expected a number in [0, 1), got {fit.validation_fraction}"
        )
    _checks.positive_int("num_epochs", fit.num_epochs)
    _checks.positive_int("num_restarts", fit.num_restarts)
    if fit.patience is not None:
        _checks.positive_int("patience", fit.patience, minimum=0)
    for path, x in zip(paths(fit.params), jax.tree.leaves(fit.params), strict=True):
        if fit.num_restarts > 1 and jnp.shape(x)[:1] != (fit.num_restarts,):
            raise ValueError(
                f"params: expected a leading axis of length num_restarts = {fit.num_restarts}, "
                f"got {path} of shape {jnp.shape(x)}"
            )


@jax.jit
def _constrained(params: Flat, props: PyTree) -> PyTree:
    """The parameters of a vector, in one program."""
    return from_unconstrained(params.tree, props)


def _best(
    run: FitCheckpoint, settings: EpochSettings, num_epochs: int
) -> tuple[Candidate, FitHistory]:
    """The parameters to return, and the history of their start."""
    runs = [run]
    if settings.num_fits > 1:
        runs = [jax.tree.map(lambda x, i=i: x[i], run) for i in range(settings.num_fits)]
    chosen = [
        one.state.lowest if settings.searches and not one.state.overfits else one.state.best
        for one in runs
    ]
    scores = [
        float(one.scores[int(candidate.epoch)]) if np.isfinite(candidate.loss) else np.inf
        for one, candidate in zip(runs, chosen, strict=True)
    ]
    restart = int(np.argmin(np.where(np.isfinite(scores), scores, np.inf)))
    run, best = runs[restart], chosen[restart]
    epochs = int(run.state.epoch)
    converged = int(run.state.idle) >= CONVERGED_EPOCHS
    history = FitHistory(
        jax.device_put(run.losses[:epochs]),
        jax.device_put(run.scores[:epochs]),
        int(best.epoch),
        epochs < num_epochs and not (settings.searches and converged),
        restart,
        converged,
    )
    return best, history
