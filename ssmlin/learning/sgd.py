"""Maximum a posteriori fitting with optax, for any model that scores its data step by step."""

import time
import warnings
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from dynamax.parameters import from_unconstrained, to_unconstrained
from jaxtyping import Array, Bool, Float, Int

from ssmlin import _checks
from ssmlin._progress import progress_bar
from ssmlin.learning.checkpoint import Checkpoint
from ssmlin.learning.log_posterior import (
    StepwiseModel,
    check_observed,
    paths,
    property_leaves,
    seen_by,
    strong,
)

_EPOCHS_PER_CALL = 20
_SECONDS_PER_CALL = 2.0


@runtime_checkable
class WindowedModel(StepwiseModel, Protocol):
    """What `fit_sgd` needs besides to fit by windows."""

    def initial_law(self, params: Any) -> Any:
        """The law of the state before the first step, a pytree of arrays."""

    def filter_window(
        self, params: Any, law: Any, emissions: Array, inputs: Any
    ) -> tuple[Float[Array, " W"], Any]:
        """Log predictive densities of the steps after a law, and the law after them."""


class FitHistory(NamedTuple):
    """How a fit went; where there were restarts, the best of them.

    Attributes:
        losses: training loss of every epoch run.
        scores: at the start of every epoch run minus the log predictive density per value of the
            validation part, or the training loss. With a validation part a later epoch is better
            only if its gain is above one standard error, so the best need not be the least.
        best_epoch: how many epochs the returned parameters have seen, fewer than were run:
            parameters are judged at the start of an epoch.
        stopped_early: whether patience ran out.
        restart: which start was the best.
    """

    losses: Float[Array, " epochs"]
    scores: Float[Array, " epochs"]
    best_epoch: int
    stopped_early: bool
    restart: int = 0


class _Fit(NamedTuple):
    """State of the fit; everything that the next epoch needs."""

    params: Any
    optimizer_state: Any
    best_params: Any
    best_terms: Float[Array, "B T"]
    best_loss: Float[Array, ""]
    best_epoch: Int[Array, ""]
    least_score: Float[Array, ""]
    least_epoch: Int[Array, ""]
    epoch: Int[Array, ""]
    bad_steps: Int[Array, ""]


class _Run(NamedTuple):
    """All that a checkpoint holds; with restarts, every array has a leading axis for them."""

    fit: _Fit
    losses: Any  # (..., epochs)
    scores: Any


class _Data(NamedTuple):
    """All sequences, and which of their steps are fitted."""

    emissions: Float[Array, "B T m"]
    inputs: Any
    in_train: Bool[Array, "B T"]


class _Plan(NamedTuple):
    """What a compiled epoch depends on besides its arrays; hashable."""

    model: Any
    optimizer: optax.GradientTransformationExtraArgs
    batch_size: int
    shuffle: bool
    window_size: Any  # of which T is a multiple; None for whole sequences
    num_windows: int  # that hold steps to fit
    num_restarts: int
    prior_weight: float = 1.0


class _Limits(NamedTuple):
    """Where to stop."""

    last_epoch: int | Int[Array, ""]
    patience: int | Int[Array, ""]

    def allow(self, fit: _Fit) -> Bool[Array, "..."]:
        """Whether to go on."""
        return (fit.epoch < self.last_epoch) & (fit.epoch - fit.least_epoch <= self.patience)


@cache
def default_optimizer() -> optax.GradientTransformation:
    """Adam with step size 0.01 and gradients clipped to norm 1."""
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-2))


# One wrapper for each optimiser, so that fitting again with it does not compile again.
_with_extra_args = cache(optax.with_extra_args_support)


class _Batch(NamedTuple):
    """A minibatch: which sequences, and their weights; zero for those that only fill it up."""

    which: Int[Array, " b"]
    weights: Float[Array, " b"]


class _Window(NamedTuple):
    """One window of a minibatch, and the laws of its sequences' states before it."""

    number: Int[Array, ""]
    laws: Any


# ------------------------------------------------------------------------------------- the loss


def _cut(x: Array, plan: _Plan, window: Array, axis: int) -> Array:
    """The steps of a window."""
    return jax.lax.dynamic_slice_in_dim(x, window * plan.window_size, plan.window_size, axis)


def _filter_window(
    params: Any, plan: _Plan, data: _Data, which: Array, window: _Window
) -> tuple[Float[Array, "b W"], Any]:
    """Log predictive densities of a window's steps, and the laws of the states after it.

    The gradient is that with respect to the parameters alone, the laws before held fixed; only the
    model's initial law is a function of them.
    """
    laws = jax.tree.map(
        lambda first, law: jnp.where(window.number == 0, first, law),
        plan.model.initial_law(params),
        window.laws,
    )
    steps = jax.tree.map(
        lambda x: _cut(x, plan, window.number, 1)[which], (data.emissions, data.inputs)
    )
    return jax.vmap(plan.model.filter_window, (None, 0, 0, 0))(params, laws, *steps)


def _no_laws(params: Any, plan: _Plan, size: int) -> Any:
    """What stands before the first window, which looks at the model's initial law in its place."""
    laws = jax.eval_shape(plan.model.initial_law, params)
    return jax.tree.map(lambda x: jnp.zeros((size, *x.shape), x.dtype), laws)


def _log_predictive(params: Any, plan: _Plan, data: _Data, which: Array) -> Float[Array, "b T"]:
    """Log predictive density of every step; by windows, so that memory does not grow with T."""
    if plan.window_size is None:
        batch = jax.tree.map(lambda x: x[which], (data.emissions, data.inputs))
        return jax.vmap(partial(plan.model.log_predictive, params))(*batch)

    def step(laws: Any, index: Array) -> tuple[Any, Array]:
        terms, laws = _filter_window(params, plan, data, which, _Window(index, laws))
        return laws, terms

    windows = jnp.arange(data.emissions.shape[1] // plan.window_size)
    _, terms = jax.lax.scan(step, _no_laws(params, plan, len(which)), windows)
    return jnp.moveaxis(terms, 0, 1).reshape(len(which), -1)


def _count(emissions: Array, in_train: Array) -> Int[Array, ""]:
    """How many values are observed and fitted."""
    return jnp.sum(~jnp.isnan(emissions) & in_train[..., None])


def _loss(
    unconstrained: Any, plan: _Plan, props: Any, data: _Data, batch: _Batch, window: _Window | None
) -> tuple[Array, tuple[Array, Any]]:
    """The loss of a minibatch, or of one window of it; log predictive densities, laws after it.

    The losses of the windows are scaled so that their mean is the loss of the whole.
    """
    params = from_unconstrained(unconstrained, props)
    count, in_train = _count(data.emissions, data.in_train), data.in_train
    share: Any
    laws: Any
    if window is None:
        terms, laws = _log_predictive(params, plan, data, batch.which), None
        share = num_windows = 1
    else:
        terms, laws = _filter_window(params, plan, data, batch.which, window)
        in_train = _cut(in_train, plan, window.number, 1)
        here = _count(_cut(data.emissions, plan, window.number, 1), in_train)
        share, num_windows = here / jnp.maximum(count, 1), plan.num_windows
    scale = len(data.emissions) / jnp.sum(batch.weights)
    in_train = in_train[batch.which]
    fitted = jnp.sum(jnp.where(in_train, terms, 0.0) * batch.weights[:, None]) * scale
    log_prior = plan.prior_weight * plan.model.log_prior(params)
    loss = -(share * log_prior + fitted) * num_windows / jnp.maximum(count, 1)
    # Parameters may be wider than the data; what the fit carries has the data's precision.
    dtype = data.emissions.dtype
    return loss.astype(dtype), (terms.astype(dtype), laws)


def _is_better(
    terms: Array, best_terms: Array, loss: Array, best_loss: Array, data: _Data
) -> Array:
    """Whether the validation part is predicted better by more than one standard error.

    The error is that of the paired differences of steps. A gain within it is not worth leaving
    parameters that were closer to the start. With nothing held out the smaller loss is better.
    """
    counted = ~data.in_train & ~jnp.isnan(data.emissions).all(axis=-1)
    gains = jnp.where(counted, terms - best_terms, 0.0)
    n = jnp.maximum(counted.sum(), 1)
    mean = gains.sum() / n
    variance = jnp.sum(jnp.where(counted, (gains - mean) ** 2, 0.0)) / n
    better = mean > jnp.sqrt(variance / n)
    return jnp.where(_holds_out(data), better, loss < best_loss)


def _holds_out(data: _Data) -> Bool[Array, ""]:
    """Whether there is a value to judge by; of a few steps the share to hold out is none."""
    return _count(data.emissions, ~data.in_train) > 0


# ------------------------------------------------------------------------------------- the steps


def _step(
    fit: _Fit, plan: _Plan, props: Any, data: _Data, batch: _Batch, window: _Window | None
) -> tuple[_Fit, tuple[Array, Array, Any]]:
    """One gradient step; not taken where the loss or the gradient is not finite."""
    arguments = (plan, props, data, batch, window)
    (loss, (terms, laws)), grad = jax.value_and_grad(_loss, has_aux=True)(fit.params, *arguments)

    def move(fit: _Fit) -> _Fit:
        updates, optimizer_state = plan.optimizer.update(
            grad,
            fit.optimizer_state,
            fit.params,
            value=loss,
            grad=grad,
            value_fn=lambda params: _loss(params, *arguments)[0],
        )
        params = optax.apply_updates(fit.params, updates)
        return fit._replace(params=params, optimizer_state=optimizer_state)

    def stay(fit: _Fit) -> _Fit:
        return fit._replace(bad_steps=fit.bad_steps + 1)

    finite = jnp.isfinite(loss) & jnp.isfinite(optax.tree.norm(grad))
    fit = jax.lax.cond(finite, move, stay, fit)
    return fit, (loss, terms, laws)


def _over_windows(
    fit: _Fit, plan: _Plan, props: Any, data: _Data, batch: _Batch
) -> tuple[_Fit, Float[Array, " windows"]]:
    """One gradient step on every window of a minibatch, in order."""

    def step(carry: tuple[_Fit, Any], index: Array) -> tuple[tuple[_Fit, Any], Array]:
        fit, laws = carry
        fit, (loss, _, laws) = _step(fit, plan, props, data, batch, _Window(index, laws))
        return (fit, laws), loss

    laws = _no_laws(from_unconstrained(fit.params, props), plan, len(batch.which))
    (fit, _), losses = jax.lax.scan(step, (fit, laws), jnp.arange(plan.num_windows))
    return fit, losses


def _epoch(fit: _Fit, key: Array, plan: _Plan, props: Any, data: _Data) -> tuple[_Fit, Any]:
    """One pass over all sequences; the best parameters are those at some epoch's start."""
    start, size, total = fit.params, plan.batch_size, len(data.emissions)
    key = jax.random.fold_in(key, fit.epoch)
    num_batches = -(-total // size)
    order = jax.random.permutation(key, total) if plan.shuffle else jnp.arange(total)
    # The last minibatch is filled up with sequences of weight zero.
    order = jnp.pad(order, (0, num_batches * size - total))
    weights = (jnp.arange(num_batches * size) < total).astype(data.emissions.dtype)
    batches = _Batch(order.reshape(num_batches, size), weights.reshape(num_batches, size))

    def step(fit: _Fit, batch: _Batch) -> tuple[_Fit, tuple[Array, Any]]:
        if plan.window_size is not None:
            fit, losses = _over_windows(fit, plan, props, data, batch)
            return fit, (losses, None)
        fit, (loss, terms, _) = _step(fit, plan, props, data, batch, None)
        return fit, (loss[None], terms)

    fit, (losses, terms) = jax.lax.scan(step, fit, batches)
    if num_batches == 1 and plan.window_size is None:
        loss, terms = losses[0, 0], terms[0]
    else:
        everything = _Batch(jnp.arange(total), jnp.ones(total, data.emissions.dtype))
        loss, (terms, _) = _loss(start, plan, props, data, everything, None)

    def record(fit: _Fit) -> _Fit:
        return fit._replace(
            best_params=start, best_terms=terms, best_loss=loss, best_epoch=fit.epoch
        )

    none_yet = jnp.isinf(fit.best_loss)
    better = none_yet | _is_better(terms, fit.best_terms, loss, fit.best_loss, data)
    fit = jax.lax.cond(better & jnp.isfinite(loss), record, lambda fit: fit, fit)
    held_out = jnp.maximum(_count(data.emissions, ~data.in_train), 1)
    unseen = -jnp.sum(jnp.where(data.in_train, 0.0, terms)) / held_out
    score = jnp.where(_holds_out(data), unseen, loss)
    is_least = score < fit.least_score
    fit = fit._replace(
        least_score=jnp.where(is_least, score, fit.least_score),
        least_epoch=jnp.where(is_least, fit.epoch, fit.least_epoch),
        epoch=fit.epoch + 1,
    )
    return fit, (jnp.mean(losses), score)


@partial(jax.jit, static_argnames=("plan",))
def _start(params: Any, plan: _Plan, props: Any, data: _Data) -> _Fit:
    """The state before the first epoch."""

    def one(params: Any) -> _Fit:
        unconstrained = to_unconstrained(params, props)
        zero = jnp.zeros((), int)
        return _Fit(
            params=unconstrained,
            optimizer_state=plan.optimizer.init(unconstrained),
            best_params=unconstrained,
            best_terms=jnp.zeros(data.emissions.shape[:2], data.emissions.dtype),
            best_loss=jnp.asarray(jnp.inf, data.emissions.dtype),
            best_epoch=zero,
            least_score=jnp.asarray(jnp.inf, data.emissions.dtype),
            least_epoch=zero,
            epoch=zero,
            bad_steps=zero,
        )

    return strong(jax.vmap(one)(params) if plan.num_restarts > 1 else one(params))


@partial(jax.jit, static_argnames=("plan",))
def _run(
    fit: _Fit, key: Array, limits: _Limits, plan: _Plan, props: Any, data: _Data
) -> tuple[_Fit, tuple[Array, Array]]:
    """A block of epochs; those past the limits are left out, so all blocks share a program."""
    nothing = (jnp.zeros(fit.epoch.shape, data.emissions.dtype),) * 2

    def advance(fit: _Fit) -> tuple[_Fit, tuple[Array, Array]]:
        return jax.lax.cond(
            limits.allow(fit),
            lambda fit: _epoch(fit, key, plan, props, data),
            lambda fit: (fit, jax.tree.map(lambda x: jnp.zeros((), x.dtype), nothing)),
            fit,
        )

    def advance_all(fits: _Fit) -> tuple[_Fit, tuple[Array, Array]]:
        # Mapped over, a condition saves no work; so it is asked for all of them, too.
        return jax.lax.cond(
            limits.allow(fits).any(), jax.vmap(advance), lambda fits: (fits, nothing), fits
        )

    def body(fit: _Fit, _: None) -> tuple[_Fit, tuple[Array, Array]]:
        return advance_all(fit) if plan.num_restarts > 1 else advance(fit)

    return jax.lax.scan(body, fit, None, length=_EPOCHS_PER_CALL)


def num_train_steps(
    emissions: Float[Array, "... T m"], validation_fraction: float
) -> Int[np.ndarray, "..."]:
    """How many steps at the start of every sequence are fitted.

    What is missing at the end of a sequence is no part of it.
    """
    if not _checks.is_concrete(emissions):
        raise TypeError(
            "emissions: expected an array of known values, got one that is being traced; which "
            "steps are fitted, and when a fit stops, depends on values, so that fit and fit_sgd "
            "do not work inside jit, vmap or grad"
        )
    seen = ~np.isnan(np.asarray(emissions)).all(axis=-1)
    lengths = np.where(seen, np.arange(1, seen.shape[-1] + 1), 0).max(axis=-1, initial=0)
    return lengths - (validation_fraction * lengths).astype(int)


def train_part(
    emissions: Float[Array, "... T m"], validation_fraction: float
) -> Float[Array, "... T m"]:
    """Sequences of which all but the steps to fit are missing."""
    ends = num_train_steps(emissions, validation_fraction)[..., None]
    fitted = np.arange(emissions.shape[-2]) < ends
    return jnp.where(fitted[..., None], emissions, jnp.nan)


def fit_sgd(
    model: StepwiseModel,
    params: Any,
    props: Any,
    emissions: Float[Array, "B T m"],
    inputs: Any = None,
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
) -> tuple[Any, FitHistory]:
    r"""Minimise the negative log posterior by gradient steps, stopping early on the last steps.

    The loss is $-\big(\log p(\theta) + \sum_t \log p(y_t \mid y_{1:t-1}, \theta)\big) / N$ over the
    first part of every sequence, N the number of its observed values. The last part, a share
    `validation_fraction` of the steps, is predicted one step ahead but not fitted: the parameters
    that predict it best are returned, where a later epoch must beat the best one so far by more
    than a standard error of the paired differences. Since the model only looks back, one pass
    gives both.

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
        optimizer: any optax optimiser, line searches (``optax.lbfgs()``) included; default
            :func:`default_optimizer`.
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
            (at every start), or a checkpoint that is damaged or of another call.
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
    num_windows = 1
    size = num_sequences if batch_size is None else _checks.positive_int("batch_size", batch_size)
    size = min(size, num_sequences)
    # With nothing held out all steps count, those that are missing at the end as well.
    in_train = jnp.arange(num_steps) < (ends[:, None] if validation_fraction else num_steps)
    data = _Data(emissions, inputs, jnp.broadcast_to(in_train, (num_sequences, num_steps)))
    if window_size is not None:
        window_size = min(_checks.positive_int("window_size", window_size), num_steps)
        if not hasattr(model, "filter_window"):
            raise ValueError(
                f"window_size: expected None for a model without filter_window, got {window_size}"
            )
        num_windows = max(1, -(-int(ends.max()) // window_size))
        data = _padded(data, -num_steps % window_size)
    plan = _Plan(
        model,
        _with_extra_args(optimizer or default_optimizer()),
        size,
        shuffle,
        window_size,
        num_windows,
        num_restarts,
        float(prior_weight),
    )
    key = jax.random.key(0) if key is None else key
    fit = _start(params, plan, props, data)
    checkpoint = Checkpoint(
        checkpoint_dir,
        "fit_sgd",
        {
            "model": model,
            "params": params,
            "props": [(prop.trainable, prop.constrainer) for prop in property_leaves(props)],
            "emissions": emissions,
            "inputs": inputs,
            "optimizer": fit.optimizer_state,
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
    nothing = np.zeros((*fit.epoch.shape, 0), emissions.dtype)
    run = _Run(fit, nothing, nothing)
    loaded = checkpoint.load(run)
    run = run if loaded is None else loaded
    checkpoint.save(run, force=loaded is None)
    limits = _Limits(num_epochs, np.iinfo(np.int32).max if patience is None else patience)
    done, block = int(run.fit.epoch.max()), 1
    if done > num_epochs:
        raise ValueError(
            f"num_epochs: expected at least the {done} epochs of the checkpoint in "
            f"{checkpoint_dir}, got {num_epochs}"
        )
    with progress_bar(progress) as bar:
        task = bar.add_task("fit", total=num_epochs, completed=done, note="")
        while limits.allow(run.fit).any():
            began = time.monotonic()
            until = limits._replace(last_epoch=min(done + block, num_epochs))
            fit, record = _run(run.fit, key, until, plan, props, data)
            ran = int(fit.epoch.max()) - done
            losses, scores = (np.moveaxis(np.asarray(x), 0, -1)[..., :ran] for x in record)
            if done == 0 and not np.isfinite(losses[..., 0]).any():
                raise ValueError(
                    f"params: expected a finite loss at the start, got {losses[..., 0].tolist()}; "
                    "check params, emissions and inputs"
                )
            run = _Run(
                fit,
                np.concatenate([run.losses, losses], axis=-1),
                np.concatenate([run.scores, scores], axis=-1),
            )
            done += ran
            checkpoint.save(run, force=not limits.allow(fit).any())
            bar.update(task, completed=done, note=f"loss {losses[..., -1].min():.4f}")
            # Short blocks first, so that of slow epochs a checkpoint misses no more than a few.
            quick = time.monotonic() - began < _SECONDS_PER_CALL
            block = min(2 * block, _EPOCHS_PER_CALL) if quick else max(block // 2, 1)
        if done < num_epochs:
            bar.update(task, total=done, note="stopped early")
    if (bad_steps := int(run.fit.bad_steps.sum())) > 0:
        warnings.warn(
            f"{bad_steps} gradient steps were not finite and were not taken; the last "
            "good parameters were kept",
            RuntimeWarning,
            stacklevel=2,
        )
    restart = 0
    if num_restarts > 1:
        restart = _best_restart(run)
        run = jax.tree.map(lambda x: x[restart], run)
    epochs = int(run.fit.epoch)
    history = FitHistory(
        jnp.asarray(run.losses[:epochs]),
        jnp.asarray(run.scores[:epochs]),
        int(run.fit.best_epoch),
        epochs < num_epochs,
        restart,
    )
    return from_unconstrained(run.fit.best_params, props), history


def _padded(data: _Data, extra: int) -> _Data:
    """Data with so many missing steps more."""

    def pad(x: Array, value: float = 0.0) -> Array:
        widths = [(0, 0), (0, extra)] + [(0, 0)] * (x.ndim - 2)
        return jnp.pad(x, widths, constant_values=value)

    # They are fitted where no steps are held out, so that still all are.
    in_train = jnp.pad(data.in_train, ((0, 0), (0, extra)), mode="edge")
    return _Data(pad(data.emissions, jnp.nan), jax.tree.map(pad, data.inputs), in_train)


def _best_restart(run: _Run) -> int:
    """The start with the best score; one without a finite loss has none."""
    fit = run.fit
    scores = run.scores[np.arange(len(run.scores)), np.asarray(fit.best_epoch)]
    valid = np.isfinite(fit.best_loss) & np.isfinite(scores)
    return int(np.argmin(np.where(valid, scores, np.inf)))
