"""Forecasts of the model: exact where the inputs are known, by sampled paths where not."""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from ssmlin import _checks
from ssmlin._buckets import bucket, in_bucket
from ssmlin._typing import AnyArray
from ssmlin.inference import PosteriorMatrixLGSSM, RowCovLaw, row_cov_laws
from ssmlin.models._forecast import (
    Forecast,
    draw_states,
    exact_forecast,
    sampled_forecast,
    simulate,
)
from ssmlin.models._gaps import Gaps
from ssmlin.models._initial_state import StateLaw
from ssmlin.models._missing_lags import last_particles
from ssmlin.models._parameters import ParamsLinearAttentionSSM
from ssmlin.models._particles import Particles
from ssmlin.models._smoothing import emission_covariances

#: A forecast with missing lags has at most so many draws of them.
_MAX_PARTICLES = 1000
#: Longer series are not padded: then the filter keeps the moments of its last step alone.
_LONGEST_PADDED = 4096


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
        y = _checks.no_infinity("emissions", _checks.float_array("emissions", emissions))
        _checks.shaped("emissions", y, ("T", "m"), {"m": self.emission_dim})
        feeds_back = self.num_lags > 0 and (
            future_inputs is None or np.shape(future_inputs)[-1] != self.input_dim
        )
        u = self._check_inputs(inputs, y.shape[:1], y.dtype, missing_lags=feeds_back)
        if feeds_back:
            ahead = self._exogenous(future_inputs, horizon, y.dtype)
        else:
            ahead = self._check_inputs(future_inputs, (horizon,), y.dtype)
        given = _Given.of(y, u, ahead, mask)
        dtype = params.initial.mean.dtype
        xp = np if _checks.is_concrete(levels) else jnp
        path_key, start_key = jax.random.split(jax.random.key(0) if key is None else key)
        draws = _Draws(path_key, start_key, xp.asarray(levels, dtype), num_samples)
        if feeds_back:
            found = self._fed_back(params, given, draws)
        else:
            found = self._known_inputs(params, given, draws)
            if key is not None:
                no_lags = np.zeros((0, self.emission_dim), y.dtype)
                paths = self._from_law(params, given, no_lags, draws)
                found = found._replace(samples=paths.samples)
        return until(found, horizon)

    def _known_inputs(
        self, params: ParamsLinearAttentionSSM, given: "_Given", draws: "_Draws"
    ) -> Forecast:
        """The laws of the next emissions: what the filter predicts where nothing is observed."""
        start, horizon = len(given.inputs), len(given.ahead)
        xp = given.inputs.__array_namespace__()
        nothing = xp.full((horizon, self.emission_dim), xp.nan, dtype=given.hidden.dtype)
        y, u = xp.concat([given.hidden, nothing]), xp.concat([given.inputs, given.ahead])
        y, u = given.bucketed(y, u)
        model, discount = self._to_filter(given), self.row_cov.discount
        found: Forecast = model._predict(
            params, y, u, np.int32(start), horizon, np.asarray(discount, y.dtype), draws.levels
        )
        return found

    @partial(jax.jit, static_argnames=("self", "horizon"))
    def _predict(
        self,
        params: ParamsLinearAttentionSSM,
        emissions: Float[Array, "S m"],
        inputs: Float[Array, "S p"],
        start: Int[Array, ""],
        horizon: int,
        discount: Float[Array, ""],
        levels: Float[Array, " num_levels"],
    ) -> Forecast:
        """The laws of steps that have not been observed, from `start` on."""
        posterior = self.given_row_cov().filter(params, emissions, inputs, store="loglik")
        row_cov, student_df = posterior.row_cov, None
        law = self._row_cov_law(params, posterior, emissions, discount)
        if law is not None:
            row_cov, student_df = self._row_matrices(law.mean()), law.student_df
        means, scales = (
            jax.lax.dynamic_slice_in_dim(x, start, horizon)
            for x in (posterior.emission_means, posterior.emission_scales)
        )
        return exact_forecast(
            means, emission_covariances(scales, row_cov), levels, None, student_df
        )

    def _fed_back(
        self, params: ParamsLinearAttentionSSM, given: "_Given", draws: "_Draws"
    ) -> Forecast:
        """The forecast by sampled paths of the next emissions, which are fed back as lags."""
        y = given.emissions
        if self._may_lack_lags(y, given.inputs):
            self._only_full("missing lags")
            # The other keys are those of a forecast without gaps, which then has the same draws.
            particle_key, index_key = (jax.random.fold_in(draws.start_key, i) for i in (1001, 1002))
            model, count = self._with_missing("auto"), min(draws.num_samples, _MAX_PARTICLES)
            particles = last_particles(
                model, params, particle_key, y, given.inputs, count, given.mask
            )
            found: Forecast = self._paths_from_particles(
                params, particles, given.ahead, index_key, *draws
            )
            return found
        xp, size = y.__array_namespace__(), (self.num_lags, self.emission_dim)
        lags = xp.concat([xp.zeros(size, dtype=y.dtype), y])[-self.num_lags :][::-1]
        return self._from_law(params, given, lags, draws)

    def _from_law(
        self,
        params: ParamsLinearAttentionSSM,
        given: "_Given",
        lags: Float[AnyArray, "num_lags m"],
        draws: "_Draws",
    ) -> Forecast:
        """The forecast by paths from the law of the last state."""
        (y, u), length = given.bucketed(given.hidden, given.inputs), None
        if given.is_padded:
            length = np.int32(len(given.hidden))
        discount = np.asarray(self.row_cov.discount, y.dtype)
        law = self._to_filter(given)._last_law(params, y, u, length, discount)
        found: Forecast = self.given_row_cov()._paths(params, law, lags, given.ahead, *draws)
        return found

    def _to_filter(self, given: "_Given") -> "Forecasting":
        """The model that a program is compiled for: other discounts of Σ need no other one."""
        model = self.without_discount()
        if self.missing != "auto" or self.covariance != "full":
            return model
        return model._with_missing(self._missing_from(given.hidden))

    @partial(jax.jit, static_argnums=0)
    def _last_law(
        self,
        params: ParamsLinearAttentionSSM,
        emissions: Float[Array, "S m"],
        inputs: Float[Array, "S p"],
        length: Int[Array, ""] | None,
        discount: Float[Array, ""],
    ) -> StateLaw:
        """The law of the last state and of the next Σ; steps after `length` are padding."""
        posterior = self.given_row_cov().filter(
            params, emissions, inputs, store="last" if length is None else "filtered"
        )
        means, covariances = posterior.filtered_means, posterior.filtered_covariances
        assert means is not None and covariances is not None
        last = 0 if length is None else length - 1
        law = self._row_cov_law(params, posterior, emissions, discount)
        return StateLaw(means[last], covariances[last], law)

    def _row_cov_law(
        self,
        params: ParamsLinearAttentionSSM,
        posterior: PosteriorMatrixLGSSM,
        emissions: Float[Array, "S m"],
        discount: Float[Array, ""],
    ) -> RowCovLaw | None:
        """The law of the next Σ, or None where it is not integrated out."""
        prior = self.row_cov.integrated_law(params.row_cov)
        if prior is None:
            return None
        laws = row_cov_laws(posterior, emissions, prior, discount)
        last: RowCovLaw = jax.tree.map(lambda x: x[-1], laws)
        return last

    @partial(jax.jit, static_argnames=("self", "num_samples"))
    def _paths(
        self,
        params: ParamsLinearAttentionSSM,
        law: StateLaw,
        lags: Float[Array, "num_lags m"],
        ahead: Float[Array, "horizon k"],
        path_key: Array,
        start_key: Array,
        levels: Float[Array, " num_levels"],
        num_samples: int,
    ) -> Forecast:
        """The forecast by paths from states of this law."""
        rows = self._row_matrices(params.row_cov.covariance)
        if law.row_cov is not None:
            row_key, start_key = jax.random.split(start_key)
            rows = self._row_matrices(law.row_cov.sample(row_key, (num_samples,)))
        states = draw_states(start_key, law.mean, law.cov, rows, num_samples)
        every = jnp.broadcast_to(lags, (num_samples, *lags.shape))
        _, paths = simulate(self, params, path_key, states, rows, every, ahead)
        return sampled_forecast(paths, levels)

    @partial(jax.jit, static_argnames=("self", "num_samples"))
    def _paths_from_particles(
        self,
        params: ParamsLinearAttentionSSM,
        particles: Particles,
        ahead: Float[Array, "horizon k"],
        index_key: Array,
        path_key: Array,
        start_key: Array,
        levels: Float[Array, " num_levels"],
        num_samples: int,
    ) -> Forecast:
        """The forecast by paths from draws of what is missing."""
        row_key = start_key
        if self.row_cov.is_integrated:
            row_key, start_key = jax.random.split(start_key)
        mean, cov, rows, lags = self.draw_laws(index_key, row_key, particles, params, num_samples)
        states = draw_states(start_key, mean, cov, rows, num_samples)
        _, paths = simulate(self, params, path_key, states, rows, lags, ahead)
        return sampled_forecast(paths, levels)


class _Given(NamedTuple):
    """What a forecast goes on from, in NumPy where the values are known.

    Attributes:
        emissions: y.
        hidden: y, missing where the mask says so.
        inputs: u.
        ahead: inputs of the steps to come, and more of them where arrays are padded.
        mask: False for steps whose emissions serve as lags alone.
        is_padded: whether arrays are padded to lengths that others have, too.
    """

    emissions: Float[AnyArray, "T m"]
    hidden: Float[AnyArray, "T m"]
    inputs: Float[AnyArray, "T p"]
    ahead: Float[AnyArray, "horizon k"]
    mask: Bool[AnyArray, " T"] | None
    is_padded: bool

    @classmethod
    def of(
        cls,
        emissions: Float[Array, "T m"],
        inputs: Float[Array, "T p"],
        ahead: Float[Array, "horizon k"],
        mask: Bool[AnyArray, " T"] | None,
    ) -> "_Given":
        """The arguments of a forecast."""
        arrays = (emissions, inputs, ahead) if mask is None else (emissions, inputs, ahead, mask)
        if not all(_checks.is_concrete(x) for x in arrays):
            seen = None if mask is None else jnp.asarray(mask)
            masked = emissions if seen is None else jnp.where(seen[:, None], emissions, jnp.nan)
            return cls(emissions, masked, inputs, ahead, seen, is_padded=False)
        y, u, outside = (np.asarray(x) for x in (emissions, inputs, ahead))
        hide = np.zeros(len(y), bool) if mask is None else ~np.asarray(mask)
        hidden = np.where(hide[:, None], np.nan, y).astype(y.dtype)
        more = bucket(len(outside)) - len(outside)
        outside = np.pad(outside, ((0, more), (0, 0)), mode="edge")
        return cls(y, hidden, u, outside, mask, is_padded=len(y) <= _LONGEST_PADDED)

    def bucketed(
        self, emissions: Float[AnyArray, "T m"], inputs: Float[AnyArray, "T p"]
    ) -> tuple[Float[AnyArray, "S m"], Float[AnyArray, "S p"]]:
        """Arrays of a length that others have, too, if they are to be padded."""
        if not self.is_padded:
            return emissions, inputs
        return in_bucket(np.asarray(emissions), np.nan), in_bucket(np.asarray(inputs), 0.0)


class _Draws(NamedTuple):
    """How paths are drawn and summarised."""

    path_key: Array
    start_key: Array
    levels: Float[AnyArray, " num_levels"]
    num_samples: int


def until(found: Forecast, horizon: int) -> Forecast:
    """The forecast without the steps that it was padded with."""
    if len(found.means) == horizon:
        return found

    def cut(x: Array, axis: int) -> Array:
        steps = (slice(None),) * axis + (slice(horizon),)
        if not _checks.is_concrete(x):
            return x[steps]
        part: Array = jax.device_put(np.asarray(x)[steps])
        return part

    return Forecast(
        cut(found.means, 0),
        cut(found.covariances, 0),
        found.levels,
        cut(found.lower, 1),
        cut(found.upper, 1),
        None if found.samples is None else cut(found.samples, 1),
    )
