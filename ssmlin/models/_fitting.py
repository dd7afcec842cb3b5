"""Fitting the model: the recommended recipe, gradient steps from several starts, missing lags.

Both are plans, which :mod:`ssmlin.learning` carries out: one alone, or many together.
"""

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from ssmlin import _checks, learning
from ssmlin._buckets import in_bucket
from ssmlin._typing import AnyArray
from ssmlin._warnings import warn
from ssmlin.learning import (
    Fit,
    FitHistory,
    Plan,
    QuasiNewton,
    StepwiseModel,
    property_leaves,
    train_part,
)
from ssmlin.models._discounted import Discounted
from ssmlin.models._parameters import ParamsLinearAttentionSSM
from ssmlin.models._widening import Widened, narrowed, widened

if TYPE_CHECKING:
    from ssmlin.models._linear_attention_ssm import LinearAttentionSSM

#: How often a fit with missing lags draws them anew, and how many draws it then fits together.
_ROUNDS, _COPIES = 3, 4

#: The fitted parameters, and how the fit went.
type Fitted = tuple[ParamsLinearAttentionSSM, FitHistory]


def plan_fit(
    model: "LinearAttentionSSM",
    emissions: Float[AnyArray, "T m"] | Float[AnyArray, "B T m"],
    inputs: Float[AnyArray, "T p"] | Float[AnyArray, "B T p"] | None,
    key: Array | None = None,
    *,
    validation_fraction: float = 0.2,
    num_epochs: int | None = None,
    patience: int = 50,
    optimizer: optax.GradientTransformation | None = None,
    window_size: int | None = None,
    num_restarts: int = 1,
    checkpoint_dir: str | Path | None = None,
    input_dim: int | None = None,
) -> Plan[Fitted]:
    """The recommended recipe, as a plan.

    Args:
        model: the model.
        emissions: as of :meth:`LinearAttentionSSM.fit`, like all that follow but the last.
        inputs: likewise.
        key: likewise.
        validation_fraction: likewise.
        num_epochs: likewise.
        patience: likewise.
        optimizer: likewise.
        window_size: likewise.
        num_restarts: likewise.
        checkpoint_dir: likewise.
        input_dim: how many inputs the fit is to see, the further ones zero, so that models with
            fewer inputs share its program; default those of the model.

    Returns:
        The plan: its result are the fitted parameters, and the history of the first fit.

    Raises:
        ValueError: an argument of the wrong shape or range.
    """
    if not 0 < validation_fraction < 1:
        raise ValueError(
            f"validation_fraction: expected a number in (0, 1), got {validation_fraction}"
        )
    y, u = model._check_batch(emissions, inputs, missing_lags=True)
    if optimizer is None and window_size is None:
        optimizer = learning.lbfgs()
    if num_epochs is None:
        num_epochs = 2000 if isinstance(optimizer, learning.QuasiNewton) else 500
    first = train_part(y, validation_fraction)
    lacks_lags = model._lacks_lags(u)
    plain = model.without_discount()  # the start is the same, and so is its program
    begin, props = plain.initialize(key, emissions=first, inputs=u)
    part_params, params, history = begin, None, None
    part = whole = Completed(y, u, 1)
    limited = False
    for number in range(_ROUNDS if lacks_lags else 1):

        def folder(name: str, number: int = number) -> Path | None:
            if checkpoint_dir is None:
                return None
            return Path(checkpoint_dir) / (f"draws-{number}-{name}" if lacks_lags else name)

        if lacks_lags:
            draw_key = jax.random.fold_in(jax.random.key(1) if key is None else key, 1000 + number)
            part_key, whole_key = jax.random.split(draw_key)
            part = _completed(model, part_key, part_params, first, u, judged_by=y)
        part_params, history = yield from plan_fit_sgd(
            model,
            begin,
            props,
            part,
            optimizer=optimizer,
            num_epochs=num_epochs,
            key=key,
            validation_fraction=validation_fraction,
            patience=patience,
            window_size=window_size,
            num_restarts=num_restarts,
            checkpoint_dir=folder("validation"),
            input_dim=input_dim,
        )
        limited |= _ran_out(history, num_epochs)
        best = history.restart
        start, _ = plain.initialize(_start_key(key, best), emissions=y, inputs=u)
        if history.best_epoch == 0:
            params = start
            break
        if lacks_lags:
            whole = _completed(model, whole_key, start if params is None else params, y, u)
        # Parameters are judged at the start of an epoch: one more, and those after the best
        # number of epochs are among them.
        to_the_end = isinstance(optimizer, QuasiNewton) and _is_end(history)
        params, second = yield from plan_fit_sgd(
            model,
            start,
            props,
            whole,
            optimizer=optimizer,
            num_epochs=num_epochs if to_the_end else history.best_epoch + 1,
            validation_fraction=0.0,
            patience=None,
            window_size=window_size,
            checkpoint_dir=folder(f"all_steps-{best}"),
            input_dim=input_dim,
        )
        limited |= to_the_end and _ran_out(second, num_epochs)
    assert params is not None and history is not None
    if limited:
        warn(
            f"num_epochs: the fit was still improving when it stopped after {num_epochs} epochs; "
            "give a larger num_epochs"
        )
    return params, history


def _is_end(history: FitHistory) -> bool:
    """Whether the fit has converged and the parameters of its end are the best."""
    return history.converged and history.best_epoch == int(np.argmin(np.asarray(history.losses)))


def _ran_out(history: FitHistory, num_epochs: int) -> bool:
    """Whether the fit was stopped by the number of epochs."""
    return len(history.losses) == num_epochs and not history.converged


class Completed(NamedTuple):
    """A batch of sequences whose lags are known.

    Attributes:
        emissions: NaN means missing.
        inputs: without missing values.
        copies: how often every sequence is in the batch, with other draws of what is missing.
    """

    emissions: Float[Array, "B T m"]
    inputs: Float[Array, "B T p"]
    copies: int


def _completed(
    model: "LinearAttentionSSM",
    key: Array,
    params: ParamsLinearAttentionSSM,
    emissions: Float[Array, "B T m"],
    inputs: Float[Array, "B T p"],
    judged_by: Float[Array, "B T m"] | None = None,
) -> Completed:
    """Several completed data sets as one batch.

    With `judged_by` the steps after `emissions` end are those that are observed there: only
    their lags are drawn, and without a look at them.
    """
    ys, us = model.impute(key, params, emissions, inputs, _COPIES)
    if judged_by is not None:
        ys = jnp.where(jnp.isnan(ys), judged_by, ys)
        if model.row_cov.structure == "full":  # whose rows cannot be missing in part
            ys = jnp.where(jnp.isnan(ys).any(axis=-1, keepdims=True), jnp.nan, ys)
    return Completed(ys.reshape(-1, *ys.shape[2:]), us.reshape(-1, *us.shape[2:]), _COPIES)


def plan_fit_sgd(
    model: "LinearAttentionSSM",
    params: ParamsLinearAttentionSSM,
    props: ParamsLinearAttentionSSM,
    data: Completed,
    *,
    optimizer: optax.GradientTransformation | None,
    batch_size: int | None = None,
    num_epochs: int,
    shuffle: bool = False,
    key: Array | None = None,
    validation_fraction: float,
    patience: int | None,
    window_size: int | None,
    num_restarts: int = 1,
    checkpoint_dir: str | Path | None,
    input_dim: int | None = None,
) -> Plan[Fitted]:
    """Gradient steps where each copy of a sequence counts its share; starts are made here.

    Sequences are padded with missing steps to a length that others have, too, and where it is
    asked for with inputs of zero, so that they share the compiled programs.
    """
    emissions, inputs, copies = data
    if window_size is None and _checks.is_concrete(emissions) and _checks.is_concrete(inputs):
        emissions = jax.device_put(in_bucket(np.asarray(emissions), np.nan))
        inputs = jax.device_put(in_bucket(np.asarray(inputs), 0.0))
    if _checks.positive_int("num_restarts", num_restarts) > 1:
        first = train_part(emissions, validation_fraction)
        params = _starts(model, params, props, first, inputs, key, num_restarts)
    seen = Widened(model, params, inputs)
    if input_dim is not None:
        seen = widened(model, params, inputs, input_dim)

    def ask[P](model: StepwiseModel[P], params: P, props: P) -> Fit[P]:
        return Fit(
            model,
            params,
            props,
            emissions,
            jax.device_put(seen.inputs),
            optimizer=optimizer,
            batch_size=batch_size,
            num_epochs=num_epochs,
            shuffle=shuffle,
            key=key,
            validation_fraction=validation_fraction,
            patience=patience,
            window_size=window_size,
            num_restarts=num_restarts,
            prior_weight=copies,
            checkpoint_dir=checkpoint_dir,
        )

    if window_size is None and model.row_cov.is_integrated:
        fitted, history = yield ask(*Discounted.of(seen.model, seen.params, props, num_restarts))
        fitted = fitted.params
    else:
        fitted, history = yield ask(seen.model, seen.params, props)
    if input_dim is not None:
        like = jax.tree.map(lambda x: np.asarray(x)[0], params) if num_restarts > 1 else params
        fitted = narrowed(fitted, like)
    return fitted, history


def _starts(
    model: "LinearAttentionSSM",
    params: ParamsLinearAttentionSSM,
    props: ParamsLinearAttentionSSM,
    emissions: Array,
    inputs: Array,
    key: Array | None,
    num_starts: int,
) -> ParamsLinearAttentionSSM:
    """The given parameters and further starts, stacked."""
    trainable = [prop.trainable for prop in property_leaves(props)]
    given, structure = jax.tree.flatten(params)
    starts = [given]
    for i in range(1, num_starts):
        other, _ = model.initialize(_start_key(key, i), emissions=emissions, inputs=inputs)
        leaves = zip(trainable, jax.tree.leaves(other), given, strict=True)
        starts.append([new.astype(old.dtype) if free else old for free, new, old in leaves])
    stacked: ParamsLinearAttentionSSM = jax.tree.unflatten(
        structure, [jnp.stack(x) for x in zip(*starts, strict=True)]
    )
    return stacked


def _start_key(key: Array | None, restart: int) -> Array | None:
    """The key of a start; that of the first is the given one."""
    return (
        key
        if restart == 0
        else jax.random.fold_in(jax.random.key(0) if key is None else key, restart)
    )
