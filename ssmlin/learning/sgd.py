"""Maximum a posteriori fitting with optax, for any model that scores its data step by step."""

import warnings
from functools import cache, partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax
from dynamax.parameters import from_unconstrained, to_unconstrained
from jaxtyping import Array, Bool, Float, Int

from ssmlin import _checks
from ssmlin._progress import progress_bar

_EPOCHS_PER_CALL = 20


class StepwiseModel(Protocol):
    """What `fit_sgd` needs of a model."""

    def log_prior(self, params: Any) -> Array:
        """Log prior density of the parameters."""

    def log_predictive(self, params: Any, emissions: Array, inputs: Any) -> Float[Array, " T"]:
        """Log p(y_t | y_{1:t-1}) of every step of one sequence, zero where nothing is observed."""


class FitHistory(NamedTuple):
    """How a fit went.

    Attributes:
        losses: training loss of every epoch run.
        scores: what the best epoch was chosen by, at the start of every epoch run: minus the log
            predictive density per value of the validation part, or the training loss.
        best_epoch: how many epochs the returned parameters have seen.
        stopped_early: whether patience ran out.
    """

    losses: Float[Array, " epochs"]
    scores: Float[Array, " epochs"]
    best_epoch: int
    stopped_early: bool


class _Fit(NamedTuple):
    """State of the fit; everything that the next epoch needs."""

    params: Any
    optimizer_state: Any
    best_params: Any
    best_terms: Float[Array, "B T"]
    best_loss: Float[Array, ""]
    best_epoch: Int[Array, ""]
    epoch: Int[Array, ""]
    bad_steps: Int[Array, ""]


class _Data(NamedTuple):
    """All sequences, and which of their steps are fitted."""

    emissions: Float[Array, "B T m"]
    inputs: Any
    in_train: Bool[Array, " T"]


class _Plan(NamedTuple):
    """What a compiled epoch depends on besides its arrays; hashable."""

    model: StepwiseModel
    optimizer: optax.GradientTransformationExtraArgs
    batch_size: int
    shuffle: bool


@cache
def default_optimizer() -> optax.GradientTransformation:
    """Adam with step size 0.01 and gradients clipped to norm 1."""
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-2))


# One wrapper for each optimiser, so that fitting again with it does not compile again.
_with_extra_args = cache(optax.with_extra_args_support)


def _loss(
    unconstrained: Any, plan: _Plan, props: Any, data: _Data, which: Array, weights: Array
) -> tuple[Array, Array]:
    """The loss of a minibatch, and the log predictive density of every step of its sequences."""
    params = from_unconstrained(unconstrained, props)
    batch = jax.tree.map(lambda x: x[which], (data.emissions, data.inputs))
    terms = jax.vmap(partial(plan.model.log_predictive, params))(*batch)
    in_train = data.in_train
    count = jnp.maximum(jnp.sum(~jnp.isnan(data.emissions) & in_train[:, None]), 1)
    scale = len(data.emissions) / jnp.sum(weights)
    fitted = jnp.sum(jnp.where(in_train, terms, 0.0) * weights[:, None]) * scale
    loss = -(plan.model.log_prior(params) + fitted) / count
    # Parameters may be wider than the data; what the fit carries has the data's precision.
    dtype = data.emissions.dtype
    return loss.astype(dtype), terms.astype(dtype)


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
    return jnp.where(data.in_train.all(), loss < best_loss, better)


def _step(
    fit: _Fit, plan: _Plan, props: Any, data: _Data, which: Array, weights: Array
) -> tuple[_Fit, tuple[Array, Array]]:
    """One gradient step; not taken where the loss or the gradient is not finite."""
    arguments = (plan, props, data, which, weights)
    (loss, terms), grad = jax.value_and_grad(_loss, has_aux=True)(fit.params, *arguments)

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
    return fit, (loss, terms)


def _epoch(fit: _Fit, key: Array, plan: _Plan, props: Any, data: _Data) -> tuple[_Fit, Any]:
    """One pass over all sequences; the best parameters are those at some epoch's start."""
    start, size, total = fit.params, plan.batch_size, len(data.emissions)
    num_batches = -(-total // size)
    order = jax.random.permutation(key, total) if plan.shuffle else jnp.arange(total)
    # The last minibatch is filled up with sequences of weight zero.
    order = jnp.pad(order, (0, num_batches * size - total))
    weights = (jnp.arange(num_batches * size) < total).astype(data.emissions.dtype)

    def step(fit: _Fit, batch: tuple[Array, Array]) -> tuple[_Fit, tuple[Array, Array]]:
        return _step(fit, plan, props, data, *batch)

    batches = (order.reshape(num_batches, size), weights.reshape(num_batches, size))
    fit, (losses, terms) = jax.lax.scan(step, fit, batches)
    loss, terms = losses[0], terms[0]
    if num_batches > 1:
        everything = jnp.ones(total, data.emissions.dtype)
        loss, terms = _loss(start, plan, props, data, jnp.arange(total), everything)

    def record(fit: _Fit) -> _Fit:
        return fit._replace(
            best_params=start, best_terms=terms, best_loss=loss, best_epoch=fit.epoch
        )

    first = (fit.epoch == 0) & jnp.isfinite(loss)
    better = first | _is_better(terms, fit.best_terms, loss, fit.best_loss, data)
    fit = jax.lax.cond(better, record, lambda fit: fit, fit)
    fit = fit._replace(epoch=fit.epoch + 1)
    held_out = jnp.maximum(jnp.sum(~jnp.isnan(data.emissions) & ~data.in_train[:, None]), 1)
    unseen = -jnp.sum(jnp.where(data.in_train, 0.0, terms)) / held_out
    score = jnp.where(data.in_train.all(), loss, unseen)
    return fit, (jnp.mean(losses), score)


def _start(params: Any, props: Any, plan: _Plan, data: _Data) -> _Fit:
    """The state before the first epoch."""
    unconstrained = to_unconstrained(params, props)
    zero = jnp.asarray(0)
    return _Fit(
        params=unconstrained,
        optimizer_state=jax.jit(plan.optimizer.init)(unconstrained),
        best_params=unconstrained,
        best_terms=jnp.zeros(data.emissions.shape[:2], data.emissions.dtype),
        best_loss=jnp.asarray(jnp.inf, data.emissions.dtype),
        best_epoch=zero,
        epoch=zero,
        bad_steps=zero,
    )


@partial(jax.jit, static_argnames=("plan",))
def _run(
    fit: _Fit, keys: Array, last_epoch: Array, plan: _Plan, props: Any, data: _Data
) -> tuple[_Fit, tuple[Array, Array]]:
    """A block of epochs; those from `last_epoch` on are left out, so all blocks share a program."""
    nothing = (jnp.zeros((), data.emissions.dtype),) * 2

    def body(fit: _Fit, key: Array) -> tuple[_Fit, tuple[Array, Array]]:
        return jax.lax.cond(
            fit.epoch < last_epoch,
            lambda fit: _epoch(fit, key, plan, props, data),
            lambda fit: (fit, nothing),
            fit,
        )

    return jax.lax.scan(body, fit, keys)


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
) -> tuple[Any, FitHistory]:
    r"""Minimise the negative log posterior by gradient steps, stopping early on the last steps.

    The loss is $-\big(\log p(\theta) + \sum_t \log p(y_t \mid y_{1:t-1}, \theta)\big) / N$ over the
    first part of every sequence, N the number of its observed values. The last part, a share
    `validation_fraction` of the steps, is predicted one step ahead but not fitted: the parameters
    that predict it best are returned, where a later epoch must beat the best one so far by more
    than a standard error of the paired differences. Since the model only looks back, one pass
    gives both.

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
        The best parameters and the history of the fit.

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
    plan = _Plan(
        model,
        _with_extra_args(optimizer or default_optimizer()),
        min(size, num_sequences),
        shuffle,
    )
    num_train = num_steps - int(validation_fraction * num_steps)
    data = _Data(emissions, inputs, jnp.arange(num_steps) < num_train)
    fit = _start(params, props, plan, data)
    num_blocks = -(-num_epochs // _EPOCHS_PER_CALL)
    keys = jax.random.split(jax.random.key(0) if key is None else key, num_epochs)
    keys = keys[jnp.arange(num_blocks * _EPOCHS_PER_CALL) % num_epochs]
    losses: list[Array] = []
    scores: list[Array] = []
    stopped = False
    with progress_bar(progress) as bar:
        task = bar.add_task("fit", total=num_epochs, note="")
        for block_keys in keys.reshape(num_blocks, _EPOCHS_PER_CALL):
            fit, block = _run(fit, block_keys, num_epochs, plan, props, data)
            done = int(fit.epoch)
            ran = done - sum(len(x) for x in losses)
            losses.append(block[0][:ran])
            scores.append(block[1][:ran])
            if len(losses) == 1 and not jnp.isfinite(losses[0][0]):
                raise ValueError(
                    f"params: expected a finite loss at the start, got {float(losses[0][0])}; "
                    "check params, emissions and inputs"
                )
            bar.update(task, completed=done, note=f"loss {float(losses[-1][-1]):.4f}")
            if patience is not None and done - int(fit.best_epoch) > patience:
                stopped = True
                bar.update(task, total=done, note=f"stopped early, best at {int(fit.best_epoch)}")
                break
    if int(fit.bad_steps) > 0:
        warnings.warn(
            f"{int(fit.bad_steps)} gradient steps were not finite and were not taken; the last "
            "good parameters were kept",
            RuntimeWarning,
            stacklevel=2,
        )
    history = FitHistory(
        jnp.concatenate(losses), jnp.concatenate(scores), int(fit.best_epoch), stopped
    )
    return from_unconstrained(fit.best_params, props), history
