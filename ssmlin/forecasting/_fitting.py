"""Fitting the recommended model: with a constant Σ, then with a discount if that is better."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from ssmlin._typing import AnyArray
from ssmlin.forecasting._discount import DISCOUNTS, Window, best_discount
from ssmlin.forecasting._evidence import laplace_evidence
from ssmlin.forecasting._interface import Ahead, Fitted, Observed
from ssmlin.forecasting._laws import predictive
from ssmlin.forecasting._paths import sample_paths
from ssmlin.forecasting._predictive import Predictive
from ssmlin.forecasting._sequences import lacks_lags, padded
from ssmlin.forecasting._settings import Covariance, Recommendation
from ssmlin.learning import FitHistory, Plan, carry_out, num_trainable
from ssmlin.mechanisms import Mechanism
from ssmlin.models import (
    LinearAttentionSSM,
    ParamsLinearAttentionSSM,
    RowCov,
    RowCovName,
    Widened,
    plan_fit,
    widened,
)

#: How many draws of missing values the choice of the discount averages over.
_COPIES = 4
#: Steps that the choice of the discount takes at once.
_WINDOW = 4096


class FittedAttention(NamedTuple):
    """A fitted linear attention.

    Attributes:
        model: the model.
        params: its fitted parameters.
        seasonal: the period of the harmonics among its inputs, or None.
    """

    model: LinearAttentionSSM
    params: ParamsLinearAttentionSSM
    seasonal: int | None = None


class RecipeFit(NamedTuple):
    """What a fit by the recipe returns.

    Attributes:
        model: the model.
        params: its fitted parameters.
        validation: the mean log density a step at the end of the data, fitted before it.
        num_parameters: how many numbers were fitted.
    """

    model: LinearAttentionSSM
    params: ParamsLinearAttentionSSM
    validation: float
    num_parameters: int


class Room(NamedTuple):
    """The size that the arrays of a fit have, so that fits of smaller ones share its programs.

    Attributes:
        length: steps; those that a series has not are missing.
        input_dim: inputs; those that a model has not are zero.
    """

    length: int
    input_dim: int


def plan_sequences(
    recommendation: Recommendation,
    emissions: Float[AnyArray, "B T m"],
    inputs: Float[AnyArray, "B T p"],
    seed: int,
    *,
    num_epochs: int | None = None,
    discounts: Sequence[float] = DISCOUNTS,
    checkpoint_dir: Path | None = None,
    input_dim: int | None = None,
) -> Plan[RecipeFit]:
    """Fit the recommended model to sequences that share their parameters, as a plan.

    Σ is first constant. Then the discount with the highest likelihood is chosen. If it gains more
    than two nats, the model is fitted again with it.

    Args:
        recommendation: what the model depends on.
        emissions: standardised values; NaN means missing or fills up short sequences.
        inputs: lags first.
        seed: for the start.
        num_epochs: at most so many epochs; default as for ``model.fit``.
        discounts: of Σ, to choose among.
        checkpoint_dir: a folder to keep the states of the fits in, see ``model.fit``.
        input_dim: see :func:`ssmlin.models.plan_fit`.

    Returns:
        The plan; its result is the fitted model.
    """
    key = jax.random.key(seed)

    def fit(
        model: LinearAttentionSSM, name: str
    ) -> Plan[tuple[ParamsLinearAttentionSSM, FitHistory]]:
        return plan_fit(
            model,
            emissions,
            inputs,
            key,
            num_epochs=num_epochs,
            checkpoint_dir=None if checkpoint_dir is None else checkpoint_dir / name,
            input_dim=input_dim,
        )

    model = recommendation.model()
    params, history = yield from fit(model, "constant")
    if model.row_cov.is_integrated:
        copies, ys, us = 1, np.asarray(emissions), np.asarray(inputs)
        if lacks_lags(model, inputs):
            copies = _COPIES
            drawn = model.impute(key, params, emissions, inputs, copies)
            ys, us = (np.asarray(x).reshape(-1, *x.shape[2:]) for x in drawn)
        seen = Widened(model, params, us)
        if input_dim is not None:
            seen = widened(model, params, us, input_dim)
        sequences = (_windows(y, u) for y, u in zip(ys, np.asarray(seen.inputs), strict=True))
        discount = best_discount(seen.model, seen.params, sequences, discounts, 1 / copies)
        if discount < 1:
            model = recommendation.model(discount)
            params, history = yield from fit(model, "changing")
    # The history's scores are per value; log densities here are per step of m values.
    validation = -float(history.scores[history.best_epoch]) * model.emission_dim
    return RecipeFit(model, params, validation, num_trainable(params, model.param_props))


def _windows(
    emissions: Float[np.ndarray, "T m"], inputs: Float[np.ndarray, "T p"]
) -> Iterator[Window]:
    """A sequence cut into windows, so that the filter keeps its moments of a few steps at once."""
    for start in range(0, len(emissions), _WINDOW):
        part = slice(start, start + _WINDOW)
        yield emissions[part], inputs[part]


def recommended_for(
    several: Sequence[Observed],
    mechanism: str | Mechanism,
    num_lags: int,
    key_dim: int | None = None,
    row_cov: RowCovName | RowCov | None = None,
    covariance: Covariance = "full",
) -> Recommendation:
    """What the recommended model depends on, for these series; see :class:`Recommendation`."""
    missing = np.concatenate([np.isnan(one.values) for one in several])
    partly = (missing.any(axis=1) & ~missing.all(axis=1)).any()
    return Recommendation(
        mechanism,
        num_targets=several[0].values.shape[1],
        num_inputs=several[0].inputs.shape[1],
        num_lags=num_lags,
        partly_missing=bool(partly),
        key_dim=key_dim,
        row_cov=row_cov,
        covariance=covariance,
    )


def fit_attention(
    train: Observed | Sequence[Observed],
    seed: int,
    *,
    mechanism: str | Mechanism,
    num_lags: int,
    key_dim: int | None = None,
    num_epochs: int | None = None,
    discounts: Sequence[float] = DISCOUNTS,
    row_cov: RowCovName | RowCov | None = None,
    covariance: Covariance = "full",
    checkpoint_dir: Path | None = None,
    progress: bool = False,
) -> Fitted:
    """Fit a linear attention by the recipe, for a comparison with other forecasters.

    Args:
        train: the standardised training series, or several with the same columns that share their
            parameters; they may differ in length.
        seed: for the start.
        mechanism: a name in ``ssmlin.MECHANISMS``, or an instance.
        num_lags: how many lagged values are inputs.
        key_dim: d; default the inputs and an intercept, as `bayesian_memory` wants it.
        num_epochs: at most so many epochs; default as for ``model.fit``.
        discounts: of Σ, to choose among.
        row_cov: the kind of Σ, such as "diagonal" for one that is fitted; default integrated out.
        covariance: how the filter keeps P, see :class:`ssmlin.LinearAttentionSSM`.
        checkpoint_dir: a folder to keep the states of the fits in, see ``model.fit``.
        progress: show a progress bar.

    Returns:
        The fitted forecaster.
    """
    several = [train] if isinstance(train, Observed) else list(train)
    wanted = recommended_for(several, mechanism, num_lags, key_dim, row_cov, covariance)
    data = padded(wanted.model(), several)
    plan = plan_sequences(
        wanted,
        *data,
        seed,
        num_epochs=num_epochs,
        discounts=discounts,
        checkpoint_dir=checkpoint_dir,
    )
    fitted = carry_out(plan, wanted.name, progress=progress)
    model, params = fitted.model, fitted.params

    def predict(observed: Observed) -> Predictive:
        return predictive(model, params, observed)

    def simulate(observed: Observed, ahead: Ahead) -> Float[np.ndarray, "N n H m"]:
        return sample_paths(model, params, observed, ahead)

    def log_evidence() -> float:
        if lacks_lags(model, data[1]):
            return float("nan")  # the likelihood is known by draws alone
        return laplace_evidence(model, params, model.param_props, *data, jax.random.key(seed))

    details = FittedAttention(model, params)
    return Fitted(
        predict, fitted.num_parameters, simulate, fitted.validation, details, log_evidence
    )
