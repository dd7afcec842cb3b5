"""The laws of all steps of a series by a fitted model, each given the steps before it."""

from functools import partial

import jax
import numpy as np
from jaxtyping import Array, Float

from ssmlin.forecasting._interface import Observed
from ssmlin.forecasting._predictive import Predictive
from ssmlin.forecasting._sequences import lacks_lags, with_lags
from ssmlin.inference import PosteriorMatrixLGSSM
from ssmlin.models import (
    LinearAttentionSSM,
    Missing,
    ParamsLinearAttentionSSM,
    ParticlePosterior,
    StateLaw,
)

#: Draws of missing lags: at most and at least so many, and at most so many numbers in all.
_MAX_PARTICLES, MIN_PARTICLES, _MAX_NUMBERS = 1000, 200, 2**24
#: Laws in a mixture over draws.
_MAX_COMPONENTS = 50


@partial(jax.jit, static_argnums=0)
def one_step(
    model: LinearAttentionSSM,
    params: ParamsLinearAttentionSSM,
    emissions: Float[Array, "T m"],
    inputs: Float[Array, "T p"],
    law: StateLaw | None = None,
) -> PosteriorMatrixLGSSM:
    """What the filter says of every emission given those before it, and the last state."""
    return model.filter(params, emissions, inputs, store="last", missing=missing_by(model), law=law)


def missing_by(model: LinearAttentionSSM) -> Missing:
    """How the filter treats partly missing emissions, which it cannot see under a trace."""
    return model.given_missing().missing


def predictive(
    model: LinearAttentionSSM, params: ParamsLinearAttentionSSM, observed: Observed
) -> Predictive:
    """The laws of all steps, each given those before it.

    Where lags are missing these are mixtures over draws of them.
    """
    emissions, inputs = with_lags(model, observed)
    if lacks_lags(model, inputs):
        size = emissions.shape[0] * emissions.shape[1] ** 2
        count = max(MIN_PARTICLES, min(_MAX_PARTICLES, _MAX_NUMBERS // size))
        return mixture(model.particle_filter(params, emissions, inputs, num_particles=count))
    posterior = one_step(model, params, emissions, inputs)
    means = np.asarray(posterior.emission_means, np.float64)
    scales = np.asarray(posterior.emission_scales, np.float64)
    scales = np.expand_dims(scales, (1, 2) if scales.ndim == 1 else 1)
    if not model.row_cov.is_integrated:
        return Predictive.gaussian(means, scales * np.asarray(posterior.row_cov, np.float64))
    integrated = model.row_cov_posterior(params, posterior, emissions, store="all")
    laws = integrated.predictive_row_cov
    assert laws is not None
    df = np.asarray(laws.student_df, np.float64).reshape(-1)
    rows = np.asarray(laws.scale, np.float64).reshape(len(means), *means.shape[1:] * 2)
    law = Predictive.gaussian(means, scales * rows / df[:, None, None])
    return law._replace(df=df[:, None])


def mixture(posterior: ParticlePosterior) -> Predictive:
    """The laws of all steps; draws with similar means become one component, so there are few."""
    log_weights, means, scales = (
        np.asarray(x, np.float64)
        for x in (posterior.log_weights, posterior.emission_means, posterior.emission_scales)
    )
    df = None
    if posterior.student_df is not None:
        df = np.asarray(posterior.student_df, np.float64).reshape(len(means))
    weights = np.exp(log_weights)
    spread = np.maximum(means.std(axis=1, keepdims=True), 1e-12)
    order = np.argsort((means / spread).sum(axis=2), axis=1, kind="stable")
    weights = np.take_along_axis(weights, order, axis=1)
    means = np.take_along_axis(means, order[..., None], axis=1)
    scales = np.take_along_axis(scales, order[..., None, None], axis=1)
    # Groups of equal weight, in the order of the means.
    middle = np.cumsum(weights, axis=1) - 0.5 * weights
    group = np.minimum((middle * _MAX_COMPONENTS).astype(int), _MAX_COMPONENTS - 1)
    # A scale matrix is this share of a covariance.
    share = np.ones(len(means)) if df is None else np.maximum(df - 2, 0.0) / df
    found = []
    for number in range(_MAX_COMPONENTS):
        w = np.where(group == number, weights, 0.0)
        total = w.sum(axis=1, keepdims=True)
        w = np.where(total > 0, w / np.where(total > 0, total, 1.0), 1 / w.shape[1])
        mean = np.einsum("tn,tnm->tm", w, means)
        apart = means - mean[:, None]
        between = np.einsum("tn,tni,tnj->tij", w, apart, apart)
        scale = np.einsum("tn,tnij->tij", w, scales) + share[:, None, None] * between
        found.append((total[:, 0], mean, scale))
    parts = [np.stack(x, axis=1) for x in zip(*found, strict=True)]
    parts[0] /= parts[0].sum(axis=1, keepdims=True)
    law = Predictive(*parts)
    return law if df is None else law._replace(df=np.repeat(df[:, None], _MAX_COMPONENTS, axis=1))
