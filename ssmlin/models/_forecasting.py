"""Forecasts of the model: exact where the inputs are known, by sampled paths where not."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from ssmlin import _checks
from ssmlin._typing import AnyArray
from ssmlin.inference import PosteriorMatrixLGSSM
from ssmlin.models._forecast import (
    Forecast,
    draw_states,
    exact_forecast,
    sampled_forecast,
    simulate,
)
from ssmlin.models._gaps import Gaps
from ssmlin.models._missing_lags import last_particles
from ssmlin.models._parameters import ParamsLinearAttentionSSM
from ssmlin.models._smoothing import emission_covariances

#: A forecast with missing lags has at most so many draws of them.
_MAX_PARTICLES = 1000


class Forecasting(Gaps):
    """Forecasts; see :class:`ssmlin.LinearAttentionSSM`."""

    def forecast(
        self,
        params: ParamsLinearAttentionSSM,
        emissions: Float[AnyArray, "T m"],
        inputs: Float[AnyArray, "T p"] | None = None,
        horizon: int = 1,
        *,
        future_inputs: Float[AnyArray, "horizon k"] | None = None,
        key: Array | None = None,
        num_samples: int = 1000,
        levels: Sequence[float] | Float[AnyArray, " num_levels"] = (0.5, 0.8, 0.95),
        mask: Bool[AnyArray, " T"] | None = None,
    ) -> Forecast:
        r"""Predict $y_{T+1}, \dots, y_{T+h}$.

        A model without lags, or future inputs of full width p: the predictive is exact, Gaussian
        or, where Σ is integrated out, Student-t, and paths are sampled only if a key is given. A
        model with lags feeds its own emissions back: then means, covariances and intervals are
        those of sampled paths, and `future_inputs` holds what is exogenous, (horizon,
        p − num_lags·m). Lags that are missing are drawn, see :meth:`particle_filter`; so a gap at
        the end is a longer forecast. Under a trace any may be missing, and all are treated so.

        Args:
            params: constrained parameters.
            emissions: y, (T, m); NaN means missing.
            inputs: u, (T, p).
            horizon: h, the number of steps.
            future_inputs: inputs of the steps to come, see above.
            key: a PRNG key; default ``jax.random.key(0)`` where paths are needed.
            num_samples: how many paths.
            levels: probabilities of the central intervals.
            mask: (T,), False for steps whose emissions serve as lags alone.

        Returns:
            Means, covariances, intervals and paths.

        Raises:
            ValueError: an argument of the wrong shape or range, or dynamax's order of arguments,
                in which the number of steps comes before the inputs.
            TypeError: an argument that is not of the expected type.
        """
        if isinstance(inputs, (int, np.integer)):
            raise ValueError(
                f"inputs: expected an array or None, got {inputs!r}; the order of arguments is not "
                "dynamax's: forecast(params, emissions, inputs, horizon, future_inputs=...)"
            )
        _checks.positive_int("horizon", horizon)
        _checks.positive_int("num_samples", num_samples)
        if _checks.is_concrete(levels):
            known = np.asarray(levels)
            if known.ndim != 1 or not ((known > 0) & (known < 1)).all():
                raise ValueError(f"levels: expected numbers in (0, 1), got {levels}")
        share = jnp.asarray(levels, params.initial.mean.dtype)
        y = _checks.float_array("emissions", emissions)
        _checks.shaped("emissions", y, ("T", "m"), {"m": self.emission_dim})
        feeds_back = self.num_lags > 0 and (
            future_inputs is None or np.shape(future_inputs)[-1] != self.input_dim
        )
        u = self._check_inputs(inputs, y.shape[:1], y.dtype, missing_lags=feeds_back)
        path_key, start_key = jax.random.split(jax.random.key(0) if key is None else key)
        if feeds_back:
            outside = self._exogenous(future_inputs, horizon, y.dtype)
            fed_back = self._paths(params, y, u, outside, path_key, start_key, num_samples, mask)
            return sampled_forecast(fed_back, share)
        hidden = y if mask is None else jnp.where(mask[:, None], y, jnp.nan)
        ahead = self._check_inputs(future_inputs, (horizon,), y.dtype)
        paths = None
        if key is not None:
            states, rows = self._last_states(params, hidden, u, start_key, num_samples)
            no_lags = jnp.zeros((num_samples, 0, self.emission_dim), y.dtype)
            _, paths = simulate(self, params, path_key, states, rows, no_lags, ahead)
        return self._exact_forecast(params, hidden, u, ahead, share, paths)

    def _exact_forecast(
        self,
        params: ParamsLinearAttentionSSM,
        emissions: Float[Array, "T m"],
        inputs: Float[Array, "T p"],
        ahead: Float[Array, "horizon p"],
        levels: Float[Array, " num_levels"],
        paths: Float[Array, "n horizon m"] | None,
    ) -> Forecast:
        """The laws of the next emissions: what the filter predicts where nothing is observed."""
        horizon = len(ahead)
        nothing = jnp.full((horizon, self.emission_dim), jnp.nan, emissions.dtype)
        extended = jnp.concatenate([emissions, nothing])
        posterior = self.filter(params, extended, jnp.concatenate([inputs, ahead]), store="loglik")
        row_cov, student_df = posterior.row_cov, None
        if self.row_cov.is_integrated:
            law = self.row_cov_posterior(params, posterior, extended).row_cov
            law = law.discount(self.row_cov.discount)
            row_cov, student_df = self._row_matrices(law.mean()), law.student_df
        covariances = emission_covariances(posterior.emission_scales[-horizon:], row_cov)
        means = posterior.emission_means[-horizon:]
        return exact_forecast(means, covariances, levels, paths, student_df)

    def _last_states(
        self,
        params: ParamsLinearAttentionSSM,
        emissions: Float[Array, "T m"],
        inputs: Float[Array, "T p"],
        key: Array,
        num_samples: int,
    ) -> tuple[Float[Array, "n m d"], Float[Array, "*n m m"]]:
        """Draws of the last state, and Σ, which each has of its own where it is integrated out."""
        last: PosteriorMatrixLGSSM = self.filter(params, emissions, inputs, store="last")
        rows = last.row_cov
        if self.row_cov.is_integrated:
            row_key, key = jax.random.split(key)
            law = self.row_cov_posterior(params, last, emissions).row_cov
            law = law.discount(self.row_cov.discount)
            rows = self._row_matrices(law.sample(row_key, (num_samples,)))
        assert last.filtered_means is not None and last.filtered_covariances is not None
        mean, cov = last.filtered_means[0], last.filtered_covariances[0]
        return draw_states(key, mean, cov, rows, num_samples), rows

    def _paths(
        self,
        params: ParamsLinearAttentionSSM,
        emissions: Float[Array, "T m"],
        inputs: Float[Array, "T p"],
        exogenous: Float[Array, "horizon k"],
        path_key: Array,
        start_key: Array,
        num_samples: int,
        mask: Bool[AnyArray, " T"] | None,
    ) -> Float[Array, "n horizon m"]:
        """Sampled paths of the next emissions, which are fed back as lags."""
        y, n, size = emissions, num_samples, (self.num_lags, self.emission_dim)
        if self._may_lack_lags(y, inputs):
            self._only_full("missing lags")
            # The other keys are those of a forecast without gaps, which then has the same draws.
            particle_key, index_key = (jax.random.fold_in(start_key, i) for i in (1001, 1002))
            row_key = start_key
            if self.row_cov.is_integrated:
                row_key, start_key = jax.random.split(start_key)
            model, count = self._with_missing("auto"), min(n, _MAX_PARTICLES)
            particles = last_particles(model, params, particle_key, y, inputs, count, mask)
            mean, cov, rows, lags = self.draw_laws(index_key, row_key, particles, params, n)
            states = draw_states(start_key, mean, cov, rows, n)
        else:
            hidden = y if mask is None else jnp.where(mask[:, None], y, jnp.nan)
            states, rows = self._last_states(params, hidden, inputs, start_key, n)
            padded = jnp.concatenate([jnp.zeros(size, y.dtype), y])
            lags = jnp.broadcast_to(padded[-self.num_lags :][::-1], (n, *size))
        _, paths = simulate(self, params, path_key, states, rows, lags, exogenous)
        return paths
