"""The model step by step: one step at a time, and forecasts from what is known after one."""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from ssmlin import _checks
from ssmlin._buckets import bucket
from ssmlin._typing import AnyArray
from ssmlin.models._forecast import Forecast, exact_forecast
from ssmlin.models._forecasting import Forecasting, until
from ssmlin.models._initial_state import StateLaw
from ssmlin.models._missing_lags import Step, advance, resample
from ssmlin.models._parameters import ParamsLinearAttentionSSM
from ssmlin.models._particles import Particles
from ssmlin.models._smoothing import emission_covariances
from ssmlin.models._step_prediction import StepPrediction


class Continuing(Forecasting):
    """One step after another; see :class:`ssmlin.LinearAttentionSSM`."""

    def filter_step(
        self,
        params: ParamsLinearAttentionSSM,
        law: StateLaw,
        emission: Float[AnyArray, " m"],
        inputs: Float[AnyArray, " p"],
    ) -> tuple[StateLaw, StepPrediction]:
        """Filter one step from the law of what came before it, as :meth:`filter_window` does.

        Args:
            params: constrained parameters.
            law: of the state before the step, see :meth:`initial_law`.
            emission: y, (m,); NaN means missing. One that is partly missing counts as wholly
                missing unless `law` has a covariance for each row.
            inputs: u, (p,); p may be 0.

        Returns:
            The law after the step, and the law of the emission before it was seen.
        """
        y, u = jnp.asarray(emission)[None], jnp.asarray(inputs)[None]
        posterior = self.given_row_cov().filter(
            params, y, u, store="last", missing="rows", law=law._replace(row_cov=None)
        )
        means, covariances = posterior.filtered_means, posterior.filtered_covariances
        assert means is not None and covariances is not None
        log_density, rows, df, after = posterior.log_predictive[0], posterior.row_cov, None, None
        if law.row_cov is not None:
            integrated = self.row_cov_posterior(params, posterior, y, law=law)
            log_density, after = integrated.log_predictive[0], integrated.row_cov
            before = law.row_cov.discount(self.row_cov.discount)
            df = before.student_df
            rows = self._row_matrices(before.scale / df)
        scales = emission_covariances(posterior.emission_scales, rows)
        weights = jnp.zeros(1, means.dtype)
        prediction = StepPrediction(log_density, weights, posterior.emission_means, scales, df)
        return StateLaw(means[0], covariances[0], after), prediction

    def particle_step(
        self,
        params: ParamsLinearAttentionSSM,
        particles: Particles,
        emission: Float[AnyArray, " m"],
        inputs: Float[AnyArray, " p"],
        key: Array,
        *,
        counts: Bool[AnyArray, ""] | bool = True,
        is_first: Bool[AnyArray, ""] | bool = False,
    ) -> tuple[Particles, StepPrediction]:
        """One step of :meth:`particle_filter`: what is missing of the emission is drawn.

        Args:
            params: constrained parameters.
            particles: the draws before the step.
            emission: y, (m,); NaN means missing.
            inputs: u, (p,); lags that are NaN are those of each draw.
            key: a PRNG key of this step.
            counts: False where the emission serves as a lag alone.
            is_first: whether lags reach before the first step, so that what is missing of them
                follows the prior.

        Returns:
            The draws after the step, and the law of the emission before it was seen.
        """
        y, u = jnp.asarray(emission), jnp.asarray(inputs)
        # What is missing of it will be a lag of the next step.
        is_lag = jnp.isnan(y).any() & (self.num_lags > 0)
        now = Step(
            y, jnp.asarray(counts), u, is_lag, jnp.zeros((), int), jnp.asarray(is_first), key
        )
        draw_key, resample_key = jax.random.split(key)
        moved, (_, mixture, log_density) = advance(self, params, particles, now, draw_key)
        return resample(resample_key, moved)[0], StepPrediction(log_density, *mixture)

    def forecast_from(
        self,
        params: ParamsLinearAttentionSSM,
        start: StateLaw | Particles,
        horizon: int = 1,
        *,
        lags: Float[AnyArray, "num_lags m"] | None = None,
        future_inputs: Float[AnyArray, "horizon k"] | None = None,
        key: Array | None = None,
        num_samples: int = 1000,
        levels: Sequence[float] = (0.5, 0.8, 0.95),
    ) -> Forecast:
        """Predict the next emissions from what is known after the last one.

        It is the forecast of :meth:`forecast` for the emissions that led to `start`, without going
        through them again.

        Args:
            params: constrained parameters.
            start: the law after the last step, or the draws where lags are missing.
            horizon: h, the number of steps.
            lags: the last emissions, the latest first, where `start` is a law.
            future_inputs: what is exogenous of the inputs to come, (h, p − num_lags·m).
            key: as in :meth:`forecast`, like the others.
            num_samples: how many paths.
            levels: probabilities of the central intervals.

        Returns:
            Means, covariances, intervals and, if they are needed or a key is given, paths.

        Raises:
            ValueError: an argument of the wrong shape or range.
        """
        _checks.positive_int("horizon", horizon)
        dtype = params.initial.mean.dtype
        ahead = np.asarray(self._exogenous(future_inputs, horizon, dtype), dtype)
        ahead = np.pad(ahead, ((0, bucket(horizon) - horizon), (0, 0)), mode="edge")
        path_key, start_key = jax.random.split(jax.random.key(0) if key is None else key)
        draws = (path_key, start_key, np.asarray(levels, dtype), num_samples)
        if isinstance(start, Particles):
            index_key = jax.random.fold_in(start_key, 1002)  # as in `forecast`
            drawn: Forecast = self._paths_from_particles(params, start, ahead, index_key, *draws)
            return until(drawn, horizon)
        law = start
        if law.row_cov is not None:
            law = law._replace(row_cov=law.row_cov.discount(self.row_cov.discount))
        if lags is None:
            lags = np.zeros((self.num_lags, self.emission_dim), dtype)
        given = self.given_row_cov()
        if self.num_lags > 0:
            return until(given._paths(params, law, lags, ahead, *draws), horizon)
        found: Forecast = given._predict_from(params, law, ahead, draws[2])
        if key is not None:
            found = found._replace(samples=given._paths(params, law, lags, ahead, *draws).samples)
        return until(found, horizon)

    @partial(jax.jit, static_argnums=0)
    def _predict_from(
        self,
        params: ParamsLinearAttentionSSM,
        law: StateLaw,
        inputs: Float[Array, "horizon p"],
        levels: Float[Array, " num_levels"],
    ) -> Forecast:
        """The laws of steps that have not been observed, from that of the state and the next Σ."""
        nothing = jnp.full((len(inputs), self.emission_dim), jnp.nan, inputs.dtype)
        posterior = self.filter(
            params, nothing, inputs, store="loglik", missing="rows", law=law._replace(row_cov=None)
        )
        rows, student_df = posterior.row_cov, None
        if law.row_cov is not None:
            rows, student_df = self._row_matrices(law.row_cov.mean()), law.row_cov.student_df
        covariances = emission_covariances(posterior.emission_scales, rows)
        return exact_forecast(posterior.emission_means, covariances, levels, None, student_df)


def start_particles(
    law: StateLaw, lags: Float[AnyArray, "num_lags m"], num_particles: int
) -> Particles:
    """So many equal draws of weight one, each with this law and these lags."""

    def repeat(x: AnyArray) -> Array:
        return jnp.broadcast_to(jnp.asarray(x), (num_particles, *jnp.shape(x)))

    return Particles(
        jnp.zeros(num_particles, law.mean.dtype),
        repeat(law.mean),
        repeat(law.cov),
        jax.tree.map(repeat, law.row_cov),
        repeat(lags),
    )
