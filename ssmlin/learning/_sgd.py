"""Maximum a posteriori fitting with optax, for any model that scores its data step by step."""

import time
import warnings
from functools import cache
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from dynamax.parameters import from_unconstrained
from jaxtyping import Array, Float, PyTree

from ssmlin import _checks
from ssmlin._progress import progress_bar, waiting
from ssmlin.learning._checkpoint import Checkpoint
from ssmlin.learning._epochs import (
    CONVERGED_EPOCHS,
    EPOCHS_PER_CALL,
    MANY_AT_ONCE,
    Candidate,
    EpochSettings,
    FitCheckpoint,
    Limits,
    counters,
    run_epochs,
    run_epochs_of_many,
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

_SECONDS_PER_CALL = 2.0
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


@cache
def default_optimizer() -> optax.GradientTransformation:
    """Adam with step size 0.01 and gradients clipped to norm 1."""
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-2))


# One wrapper for each optimiser, so that fitting again with it does not compile again.
_with_extra_args = cache(optax.with_extra_args_support)


def fit_sgd[P](
    model: StepwiseModel[P],
    params: P,
    props: P,
    emissions: Float[Array, "B T m"],
    inputs: PyTree = None,
    optimizer: optax.GradientTransformation | None = None,
    batch_size: int | None = None,
    num_epochs: int = 500,
    shuffle: bool = False,
    key: Array | None = None,
    *,
    validation_fraction: float = 0.2,
    patience: int | None = 50,
    window_size: int | None = None,
    num_restarts: int = 1,
    prior_weight: float = 1.0,
    checkpoint_dir: str | Path | None = None,
    progress: bool = True,
) -> tuple[P, FitHistory]:
    r"""Minimise the negative log posterior by gradient steps, stopping early on the last steps.

    The loss is $-\big(\log p(\theta) + \sum_t \log p(y_t \mid y_{1:t-1}, \theta)\big) / N$ over the
    first part of every sequence, where N is the number of its observed values. The last part, a
    share `validation_fraction` of the steps, is predicted one step ahead but not fitted: the
    parameters that predict it best are returned, where a later epoch must beat the best one so far
    by more than a standard error of the paired differences. Since the model only looks back, one
    pass gives both.

    With :func:`ssmlin.learning.lbfgs` a fit goes on until it has converged, that is until ten
    epochs together lower the loss by less than $10^{-5}$. The parameters with the lowest loss are
    then returned, unless they overfit. They overfit if the best ones on the way predict the last
    part better by more than two standard errors, or by more than one and 0.2 nats a step. The best
    ones on the way must beat those before by two standard errors, since the steps are long. A fit
    that overfits ends when patience runs out.

    With `window_size` the steps are fitted in windows, by truncated backpropagation: a gradient
    step sees one window of every sequence of the minibatch and starts from the filter's law at the
    end of the window before, without its gradient. The loss of window w of K, with $N_w$ of the
    observed values, is $-\frac{K}{N} \big(\frac{N_w}{N} \log p(\theta) + \sum_{t \in w} \log
    p(y_t \mid y_{1:t-1}, \theta)\big)$, so that the mean over the windows is the loss above. Memory
    for the gradient then grows with the window, not with T.

    Args:
        model: a model with ``log_prior`` and ``log_predictive``; for windows also with
            ``initial_law`` and ``filter_window``.
        params: where to start; with `num_restarts` above 1 that many starts, stacked along a
            leading axis of every array.
        props: matching properties: what is trainable, and its constrainer.
        emissions: sequences of one length, (B, T, m); NaN means missing or padding.
        inputs: None or inputs with leading axes (B, T).
        optimizer: any optax optimiser, line searches included; default :func:`default_optimizer`.
            :func:`ssmlin.learning.lbfgs` needs all data in each step.
        batch_size: sequences per step; default all of them.
        num_epochs: passes over all sequences, at most.
        shuffle: draw the minibatches in random order.
        key: a PRNG key for `shuffle`.
        validation_fraction: in [0, 1); 0 fits all steps and returns the smallest loss seen.
        patience: stop after so many epochs without a lower score, by however little; None never
            stops.
        window_size: steps a window; None for whole sequences.
        num_restarts: how many starts are fitted, all together in one program. The best is
            returned: by the validation part, or by the loss where there is none.
        prior_weight: what the log prior is multiplied by; n where every sequence stands n times
            in the data.
        checkpoint_dir: a directory; a fit that was killed goes on from there if it is called again
            with the same arguments, with the same result as if it had not been, and one that ended
            can be prolonged by a larger `num_epochs`. Of the optimiser only the initial state is
            compared, since what it closes over cannot be read.
        progress: show a progress bar.

    Returns:
        The best parameters and the history of the fit.

    Raises:
        ValueError: an argument out of range, no data to fit, a loss that is not finite at the start
            (at every start), an optimiser that does not go with `batch_size` or `window_size`, or a
            checkpoint that is damaged or of another call.
        TypeError: an argument that is not of the expected type, or that is being traced.

    Warns:
        RuntimeWarning: steps whose loss or gradient was not finite, which were not taken; or a
            checkpoint that can no longer be written.
    """
    if not 0 <= validation_fraction < 1:
        raise ValueError(
            f"validation_fraction: expected a number in [0, 1), got {validation_fraction}"
        )
    _checks.positive_int("num_epochs", num_epochs)
    _checks.positive_int("num_restarts", num_restarts)
    if patience is not None:
        _checks.positive_int("patience", patience, minimum=0)
    for path, x in zip(paths(params), jax.tree.leaves(params), strict=True):
        if num_restarts > 1 and jnp.shape(x)[:1] != (num_restarts,):
            raise ValueError(
                f"params: expected a leading axis of length num_restarts = {num_restarts}, got "
                f"{path} of shape {jnp.shape(x)}"
            )
    num_sequences, num_steps = emissions.shape[:2]
    ends = num_train_steps(emissions, validation_fraction)
    check_observed(train_part(emissions, validation_fraction))
    model = seen_by(model, emissions)
    size = num_sequences if batch_size is None else _checks.positive_int("batch_size", batch_size)
    size = min(size, num_sequences)
    # With nothing held out all steps count, those that are missing at the end as well.
    in_train = np.arange(num_steps) < (ends[:, None] if validation_fraction else num_steps)
    in_train = np.broadcast_to(in_train, (num_sequences, num_steps))
    data = FitData(emissions, inputs, jax.device_put(in_train))
    windows = None
    if window_size is not None:
        window_size = min(_checks.positive_int("window_size", window_size), num_steps)
        if not hasattr(model, "filter_window"):
            raise ValueError(
                f"window_size: expected None for a model without filter_window, got {window_size}"
            )
        windows = Windows(window_size, max(1, -(-int(ends.max()) // window_size)))
        data = padded(data, -num_steps % window_size)
    settings = EpochSettings(
        Objective(model, windows, float(prior_weight)),
        _with_extra_args(optimizer or default_optimizer()),
        size,
        shuffle,
        num_restarts,
    )
    if settings.searches and (size < num_sequences or window_size is not None):
        raise ValueError(
            "optimizer: expected one without a line search where a step sees a part of the data, "
            f"as with batch_size={batch_size} and window_size={window_size}; got "
            "ssmlin.learning.lbfgs"
        )
    key = jax.random.key(0) if key is None else key
    with waiting(f"compiling {name_of(model)}", progress):
        state = start_fit(params, settings, props, data)
    checkpoint = Checkpoint(
        checkpoint_dir,
        "fit_sgd",
        {
            "model": model,
            "params": params,
            "props": [(prop.trainable, prop.constrainer) for prop in property_leaves(props)],
            "emissions": emissions,
            "inputs": inputs,
            "optimizer": state.optimizer_state,
            "batch_size": size,
            "shuffle": shuffle,
            "key": key,
            "validation_fraction": in_train,
            "patience": patience,
            "window_size": window_size,
            "num_restarts": num_restarts,
            "prior_weight": float(prior_weight),
        },
    )
    nothing = np.zeros((*state.epoch.shape, 0), emissions.dtype)
    run = FitCheckpoint(state, nothing, nothing)
    loaded = checkpoint.load(run)
    run = run if loaded is None else loaded
    checkpoint.save(run, force=loaded is None)
    limits = Limits(
        num_epochs,
        _NO_LIMIT if patience is None else patience,
        settings.searches,
    )
    seen = counters(run.state)
    done, block = int(seen.epoch.max()), 1
    if done > num_epochs:
        raise ValueError(
            f"num_epochs: expected at least the {done} epochs of the checkpoint in "
            f"{checkpoint_dir}, got {num_epochs}"
        )
    with progress_bar(progress) as bar:
        task = bar.add_task(
            f"fit {name_of(model)}", total=num_epochs, completed=done, note="compiling"
        )
        while limits.allow(seen).any():
            began = time.monotonic()
            until = limits._replace(last_epoch=min(done + block, num_epochs))
            epochs = run_epochs_of_many() if size * num_restarts >= MANY_AT_ONCE else run_epochs
            state, record = epochs(run.state, key, until, settings, props, data)
            seen = counters(state)
            ran = int(seen.epoch.max()) - done
            losses, scores = (np.moveaxis(np.asarray(x), 0, -1)[..., :ran] for x in record)
            if done == 0 and not np.isfinite(losses[..., 0]).any():
                raise ValueError(
                    f"params: expected a finite loss at the start, got {losses[..., 0].tolist()}; "
                    "check params, emissions and inputs"
                )
            run = FitCheckpoint(
                state,
                np.concatenate([run.losses, losses], axis=-1),
                np.concatenate([run.scores, scores], axis=-1),
            )
            done += ran
            checkpoint.save(run, force=not limits.allow(seen).any())
            bar.update(task, completed=done, note=f"loss {losses[..., -1].min():.4f}")
            # Short blocks first, so that of slow epochs a checkpoint misses no more than a few.
            quick = time.monotonic() - began < _SECONDS_PER_CALL
            block = min(2 * block, EPOCHS_PER_CALL) if quick else max(block // 2, 1)
        if done < num_epochs:
            bar.update(task, total=done, note="stopped early")
    if (bad_steps := int(seen.bad_steps.sum())) > 0:
        warnings.warn(
            f"{bad_steps} gradient steps were not finite and were not taken; the last "
            "good parameters were kept",
            RuntimeWarning,
            stacklevel=2,
        )
    best, history = _result(jax.device_get(run), settings, num_epochs)
    fitted: P = _constrained(best.params, props)
    return fitted, history


@jax.jit
def _constrained(params: Flat, props: PyTree) -> PyTree:
    """The parameters of a vector, in one program."""
    return from_unconstrained(params.tree, props)


def _result(
    run: FitCheckpoint, settings: EpochSettings, num_epochs: int
) -> tuple[Candidate, FitHistory]:
    """The parameters to return, and the history of their start."""
    runs = [run]
    if settings.num_restarts > 1:
        runs = [jax.tree.map(lambda x, i=i: x[i], run) for i in range(settings.num_restarts)]
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
