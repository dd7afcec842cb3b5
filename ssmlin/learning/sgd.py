"""Maximum a posteriori fitting with optax, for any model that scores its data step by step."""

import warnings
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax
from dynamax.parameters import from_unconstrained, to_unconstrained
from jaxtyping import Array, Float

from ssmlin import _checks
from ssmlin._progress import progress_bar

_EPOCHS_PER_CALL = 20


class StepwiseModel(Protocol):
    """What `fit_sgd` needs of a model."""

    def log_prior(self, params: Any) -> Array:
        """Log prior density of the parameters."""

    def log_predictive(self, params: Any, emissions: Array, inputs: Any) -> Float[Array, " T"]:
        """log p(y_t | y_{1:t-1}) of every step of one sequence, zero where nothing is observed."""


class _Fit(NamedTuple):
    """State of the fit; everything that the next epoch needs."""

    params: Any
    optimizer_state: Any
    best_params: Any
    best_score: Float[Array, ""]
    best_epoch: Array
    epoch: Array
    bad_steps: Array


def default_optimizer() -> optax.GradientTransformation:
    """Adam with step size 0.01 and gradients clipped to norm 1."""
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-2))


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
    progress: bool = True,
) -> tuple[Any, Float[Array, " num_epochs"]]:
    r"""Minimise the negative log posterior by gradient steps, stopping early on the last steps.

    The loss is $-\big(\log p(\theta) + \sum_t \log p(y_t \mid y_{1:t-1}, \theta)\big) / N$ over the
    first part of every sequence, N the number of its observed values. The last part, a share
    `validation_fraction` of the steps, is predicted one step ahead but not fitted: the parameters
    that predict it best are returned. Since the model only looks back, one pass gives both.

    Args:
        model: a model with ``log_prior`` and ``log_predictive``.
        params: where to start.
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
        patience: stop after so many epochs without a better score; None never stops.
        progress: show a progress bar.

    Returns:
        The best parameters and the training loss of every epoch run.

    Raises:
        ValueError: an argument out of range, or a loss that is not finite at the start.

    Warns:
        RuntimeWarning: steps whose loss or gradient was not finite; they were not taken.
    """
    if not 0 <= validation_fraction < 1:
        raise ValueError(
            f"validation_fraction: expected a number in [0, 1), got {validation_fraction}"
        )
    _checks.positive_int("num_epochs", num_epochs)
    num_sequences, num_steps = emissions.shape[:2]
    size = num_sequences if batch_size is None else _checks.positive_int("batch_size", batch_size)
    size = min(size, num_sequences)
    num_batches = -(-num_sequences // size)
    num_train = num_steps - int(validation_fraction * num_steps)
    optimizer = optax.with_extra_args_support(optimizer or default_optimizer())
    key = jax.random.key(0) if key is None else key

    in_train = jnp.arange(num_steps) < num_train
    count = jnp.maximum(jnp.sum(~jnp.isnan(emissions) & in_train[:, None]), 1)
    held_out = jnp.maximum(jnp.sum(~jnp.isnan(emissions) & ~in_train[:, None]), 1)

    def loss_fn(unconstrained: Any, batch: Any, weights: Array) -> tuple[Array, Array]:
        """The loss and the score to select by: one step ahead on the validation part."""
        constrained = from_unconstrained(unconstrained, props)
        terms = jax.vmap(partial(model.log_predictive, constrained))(*batch)
        scale = num_sequences / jnp.sum(weights)
        fitted = jnp.sum(jnp.where(in_train, terms, 0.0) * weights[:, None]) * scale
        unseen = jnp.sum(jnp.where(in_train, 0.0, terms) * weights[:, None]) * scale
        loss = -(model.log_prior(constrained) + fitted) / count
        return loss, loss if num_train == num_steps else -unseen / held_out

    def step(fit: _Fit, batch: Any, weights: Array) -> tuple[_Fit, tuple[Array, Array]]:
        """One gradient step; not taken where the loss or the gradient is not finite."""

        def value_fn(p: Any) -> Array:
            return loss_fn(p, batch, weights)[0]

        (loss, score), grad = jax.value_and_grad(loss_fn, has_aux=True)(
            fit.params, batch, weights
        )
        updates, optimizer_state = optimizer.update(
            grad, fit.optimizer_state, fit.params, value=loss, grad=grad, value_fn=value_fn
        )
        params = optax.apply_updates(fit.params, updates)
        finite = jnp.isfinite(loss)
        for leaf in jax.tree.leaves((grad, params)):
            finite &= jnp.isfinite(leaf).all()

        def keep(new: Array, old: Array) -> Array:
            return jnp.where(finite, new, old)

        fit = fit._replace(
            params=jax.tree.map(keep, params, fit.params),
            optimizer_state=jax.tree.map(keep, optimizer_state, fit.optimizer_state),
            bad_steps=fit.bad_steps + jnp.where(finite, 0, 1),
        )
        return fit, (loss, score)

    def epoch(fit: _Fit, epoch_key: Array) -> tuple[_Fit, Array]:
        """One pass over all sequences; the best parameters are those at some epoch's start."""
        start = fit.params
        order = jnp.arange(num_batches * size)
        if shuffle:
            order = jnp.where(
                order < num_sequences,
                jnp.pad(
                    jax.random.permutation(epoch_key, num_sequences),
                    (0, num_batches * size - num_sequences),
                ),
                order,
            )
        # The last minibatch is filled up with sequences of weight zero.
        weights = (jnp.arange(num_batches * size) < num_sequences).reshape(num_batches, size)

        def one(fit: _Fit, which: tuple[Array, Array]) -> tuple[_Fit, tuple[Array, Array]]:
            batch = jax.tree.map(lambda x: x[which[0] % num_sequences], (emissions, inputs))
            return step(fit, batch, which[1].astype(emissions.dtype))

        fit, (losses, scores) = jax.lax.scan(
            one, fit, (order.reshape(num_batches, size), weights)
        )
        if num_batches == 1:
            score = scores[0]
        else:
            everything = jnp.ones(num_sequences, emissions.dtype)
            score = loss_fn(start, (emissions, inputs), everything)[1]
        better = score < fit.best_score
        fit = fit._replace(
            best_params=jax.tree.map(
                lambda new, old: jnp.where(better, new, old), start, fit.best_params
            ),
            best_score=jnp.where(better, score, fit.best_score),
            best_epoch=jnp.where(better, fit.epoch, fit.best_epoch),
            epoch=fit.epoch + 1,
        )
        return fit, jnp.mean(losses)

    @jax.jit
    def run(fit: _Fit, keys: Array) -> tuple[_Fit, Array]:
        return jax.lax.scan(epoch, fit, keys)

    unconstrained = to_unconstrained(params, props)
    fit = _Fit(
        params=unconstrained,
        optimizer_state=optimizer.init(unconstrained),
        best_params=unconstrained,
        best_score=jnp.asarray(jnp.inf, emissions.dtype),
        best_epoch=jnp.asarray(0),
        epoch=jnp.asarray(0),
        bad_steps=jnp.asarray(0),
    )
    keys = jax.random.split(key, num_epochs)
    losses: list[Array] = []
    with progress_bar(progress) as bar:
        task = bar.add_task("fit", total=num_epochs, note="")
        for first in range(0, num_epochs, _EPOCHS_PER_CALL):
            fit, block = run(fit, keys[first : first + _EPOCHS_PER_CALL])
            losses.append(block)
            if first == 0 and not jnp.isfinite(block[0]):
                raise ValueError(
                    "params: expected a finite loss at the start, got "
                    f"{float(block[0])}; check params, emissions and inputs"
                )
            done = first + len(block)
            bar.update(task, completed=done, note=f"loss {float(block[-1]):.4f}")
            if patience is not None and done - int(fit.best_epoch) > patience:
                bar.update(task, total=done, note=f"stopped early at {int(fit.best_epoch)}")
                break
    if int(fit.bad_steps) > 0:
        warnings.warn(
            f"{int(fit.bad_steps)} gradient steps were not finite and were not taken; the last "
            "good parameters were kept",
            RuntimeWarning,
            stacklevel=2,
        )
    return from_unconstrained(fit.best_params, props), jnp.concatenate(losses)
