"""The laws of all steps of a series by a fitted model, each given the steps before it."""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int

from ssmlin._buckets import in_bucket
from ssmlin._typing import AnyArray
from ssmlin.forecasting._interface import Observed
from ssmlin.forecasting._predictive import Predictive
from ssmlin.forecasting._sequences import lacks_lags, with_lags
from ssmlin.inference import (
    PosteriorMatrixLGSSM,
    PosteriorRowCov,
    RowCovLaw,
    integrate_row_covs,
    row_cov_laws,
)
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


class OneStep(NamedTuple):
    """What the filter says of every step of a series, which is padded with missing ones.

    Attributes:
        posterior: predictive moments of the emissions, relative to Σ where it is integrated out,
            and filtered ones of the states.
        prior: the law of Σ before the first step, or None where it is not integrated out.
        emissions: the emissions, padded.
    """

    posterior: PosteriorMatrixLGSSM
    prior: RowCovLaw | None
    emissions: Float[np.ndarray, "S m"]

    def integrated(
        self, discounts: Sequence[float], priors: RowCovLaw | None = None
    ) -> PosteriorRowCov:
        """Σ integrated out with each of several discounts, from the prior or from other laws."""
        like = self.posterior.emission_means.dtype
        if priors is None:
            count = len(discounts)
            priors = jax.tree.map(lambda x: np.stack([np.asarray(x)] * count), self.prior)
        found: PosteriorRowCov = integrate_row_covs(
            self._predicted, self.emissions, priors, np.array(discounts, like)
        )
        return found

    def laws_before(self, discount: float, steps: Int[np.ndarray, " n"]) -> RowCovLaw:
        """The laws of Σ given what is before each of these steps."""
        like = self.posterior.emission_means.dtype
        laws = row_cov_laws(self._predicted, self.emissions, self.prior, np.asarray(discount, like))
        chosen: RowCovLaw = jax.device_put(jax.tree.map(lambda x: np.asarray(x)[steps], laws))
        return chosen

    @property
    def _predicted(self) -> PosteriorMatrixLGSSM:
        """Without the states, so that models of other states share a program."""
        return self.posterior._replace(filtered_means=None, filtered_covariances=None)


def one_step(
    model: LinearAttentionSSM,
    params: ParamsLinearAttentionSSM,
    emissions: Float[AnyArray, "T m"],
    inputs: Float[AnyArray, "T p"],
    law: StateLaw | None = None,
) -> OneStep:
    """What the filter says of every emission given those before it, and of the states.

    Series of nearby lengths and all discounts of Σ share a compiled program.

    Args:
        model: the model.
        params: its parameters.
        emissions: of one series.
        inputs: lags are known.
        law: of the state before the first step; default that of the model.
    """
    y, u = in_bucket(np.asarray(emissions), np.nan), in_bucket(np.asarray(inputs), 0.0)
    posterior, prior = _filtered(model.without_discount(), params, y, u, law)
    return OneStep(posterior, prior, y)


@partial(jax.jit, static_argnums=0)
def _filtered(
    model: LinearAttentionSSM,
    params: ParamsLinearAttentionSSM,
    emissions: Float[AnyArray, "S m"],
    inputs: Float[AnyArray, "S p"],
    law: StateLaw | None,
) -> tuple[PosteriorMatrixLGSSM, RowCovLaw | None]:
    """The filter given Σ, on which its moments depend by a factor alone, and the law of Σ."""
    prior, missing = model.row_cov.integrated_law(params.row_cov), missing_by(model)
    given = model.given_row_cov()
    return given.filter(params, emissions, inputs, missing=missing, law=law), prior


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
        y, u = in_bucket(emissions, np.nan), in_bucket(inputs, 0.0)
        drawn = model.particle_filter(params, y, u, num_particles=count)
        return mixture(drawn).steps(slice(len(emissions)))
    found, steps = one_step(model, params, emissions, inputs), len(emissions)
    posterior = found.posterior
    means = np.asarray(posterior.emission_means, np.float64)[:steps]
    scales = np.asarray(posterior.emission_scales, np.float64)[:steps]
    scales = np.expand_dims(scales, (1, 2) if scales.ndim == 1 else 1)
    if found.prior is None:
        return Predictive.gaussian(means, scales * np.asarray(posterior.row_cov, np.float64))
    laws = found.laws_before(model.row_cov.discount, np.arange(steps))
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
