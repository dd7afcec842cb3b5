"""Fitting the model: the recommended recipe, gradient steps from several starts, missing lags."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from ssmlin import _checks, learning
from ssmlin.learning import FitHistory
from ssmlin.learning.log_posterior import property_leaves
from ssmlin.learning.sgd import train_part
from ssmlin.models.parameters import ParamsLinearAttentionSSM

if TYPE_CHECKING:
    from ssmlin.models.linear_attention_ssm import LinearAttentionSSM

#: How often a fit with missing lags draws them anew, and how many draws it then fits together.
_ROUNDS, _COPIES = 3, 4


def fit(
    model: "LinearAttentionSSM",
    emissions: Float[Array, "T m"] | Float[Array, "B T m"],
    inputs: Float[Array, "T p"] | Float[Array, "B T p"] | None = None,
    key: Array | None = None,
    *,
    validation_fraction: float = 0.2,
    num_epochs: int = 500,
    patience: int = 50,
    optimizer: optax.GradientTransformation | None = None,
    window_size: int | None = None,
    num_restarts: int = 1,
    checkpoint_dir: str | Path | None = None,
    progress: bool = True,
) -> tuple[ParamsLinearAttentionSSM, FitHistory]:
    """Fit by the recommended recipe; see :meth:`LinearAttentionSSM.fit`."""
    if not 0 < validation_fraction < 1:
        raise ValueError(
            f"validation_fraction: expected a number in (0, 1), got {validation_fraction}"
        )
    y, u = model._check_batch(emissions, inputs, missing_lags=True)
    options: dict[str, Any] = {
        "optimizer": optimizer,
        "window_size": window_size,
        "progress": progress,
    }
    first = train_part(y, validation_fraction)
    lacks_lags = model._lacks_lags(u)
    begin, props = model.initialize(key, emissions=first, inputs=u)
    part_params, params = begin, None
    part = whole = (y, u, 1)
    for number in range(_ROUNDS if lacks_lags else 1):
        draw_key = jax.random.fold_in(jax.random.key(1) if key is None else key, 1000 + number)
        part_key, whole_key = jax.random.split(draw_key)

        def folder(name: str, number: int = number) -> Path | None:
            if checkpoint_dir is None:
                return None
            return Path(checkpoint_dir) / (f"draws-{number}-{name}" if lacks_lags else name)

        if lacks_lags:
            part = _completed(model, part_key, part_params, first, u, judged_by=y)
        history: Any
        part_params, history = fit_sgd(
            model,
            begin,
            props,
            *part,
            num_epochs=num_epochs,
            key=key,
            validation_fraction=validation_fraction,
            patience=patience,
            num_restarts=num_restarts,
            checkpoint_dir=folder("validation"),
            **options,
        )
        best = history.restart
        start, _ = model.initialize(_start_key(key, best), emissions=y, inputs=u)
        if history.best_epoch == 0:
            return start, history
        if lacks_lags:
            whole = _completed(model, whole_key, start if params is None else params, y, u)
        # Parameters are judged at the start of an epoch: one more, and those after the best
        # number of epochs are among them.
        params, _ = fit_sgd(
            model,
            start,
            props,
            *whole,
            num_epochs=history.best_epoch + 1,
            validation_fraction=0.0,
            patience=None,
            checkpoint_dir=folder(f"all_steps-{best}"),
            **options,
        )
    assert params is not None
    return params, history


def _completed(
    model: "LinearAttentionSSM",
    key: Array,
    params: ParamsLinearAttentionSSM,
    emissions: Float[Array, "B T m"],
    inputs: Float[Array, "B T p"],
    judged_by: Float[Array, "B T m"] | None = None,
) -> tuple[Array, Array, int]:
    """Several completed data sets as one batch, and how often every sequence is in it.

    With `judged_by` the steps after `emissions` end are those that are observed there: only
    their lags are drawn, and without a look at them.
    """
    ys, us = model.impute(key, params, emissions, inputs, _COPIES)
    if judged_by is not None:
        ys = jnp.where(jnp.isnan(ys), judged_by, ys)
        if model.row_cov.structure == "full":  # whose rows cannot be missing in part
            ys = jnp.where(jnp.isnan(ys).any(axis=-1, keepdims=True), jnp.nan, ys)
    return ys.reshape(-1, *ys.shape[2:]), us.reshape(-1, *us.shape[2:]), _COPIES


def fit_sgd(
    model: "LinearAttentionSSM",
    params: ParamsLinearAttentionSSM,
    props: ParamsLinearAttentionSSM,
    emissions: Float[Array, "B T m"],
    inputs: Float[Array, "B T p"],
    copies: int,
    *,
    key: Array | None = None,
    validation_fraction: float,
    num_restarts: int = 1,
    **options: Any,
) -> tuple[ParamsLinearAttentionSSM, FitHistory]:
    """Gradient steps where every sequence stands `copies` times, each with its share."""
    if _checks.positive_int("num_restarts", num_restarts) > 1:
        first = train_part(emissions, validation_fraction)
        params = _starts(model, params, props, first, inputs, key, num_restarts)
    return learning.fit_sgd(
        model,
        params,
        props,
        emissions,
        inputs,
        key=key,
        validation_fraction=validation_fraction,
        num_restarts=num_restarts,
        prior_weight=copies,
        **options,
    )


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
