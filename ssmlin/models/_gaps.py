"""What the model does where lags are missing: a particle filter, and draws of what is missing."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from ssmlin import _checks
from ssmlin._typing import AnyArray
from ssmlin.models._missing_lags import impute, resampled_index, run_particles
from ssmlin.models._parameters import ParamsLinearAttentionSSM
from ssmlin.models._particles import ParticlePosterior, Particles
from ssmlin.models._smoothing import Smoothing


class PathStarts(NamedTuple):
    """What sampled paths go on from, one for each path.

    Attributes:
        means: of the state, (n, m, d).
        covariances: of a row of the state, relative to Σ, (n, 1, d, d).
        row_cov: Σ, (n, m, m).
        lags: the last emissions, the latest first, (n, num_lags, m).
    """

    means: Float[Array, "n m d"]
    covariances: Float[Array, "n 1 d d"]
    row_cov: Float[Array, "n m m"]
    lags: Float[Array, "n num_lags m"]


class Gaps(Smoothing):
    """Inference where lags are missing; see :class:`ssmlin.LinearAttentionSSM`."""

    def particle_filter(
        self,
        params: ParamsLinearAttentionSSM,
        emissions: Float[AnyArray, "T m"],
        inputs: Float[AnyArray, "T p"],
        key: Array | None = None,
        num_particles: int = 1000,
        *,
        mask: Bool[AnyArray, " T"] | None = None,
    ) -> ParticlePosterior:
        """Filter where lags are missing: they are drawn, and each draw has an exact filter.

        Where none is missing, this is the filter. See :mod:`ssmlin.models._missing_lags`.

        Args:
            params: constrained parameters.
            emissions: y, (T, m); NaN means missing.
            inputs: u, (T, p), as :meth:`compute_inputs` gives them; lags may be missing.
            key: a PRNG key; default ``jax.random.key(0)``.
            num_particles: N, the number of draws.
            mask: (T,), False for steps whose emissions serve as lags alone.

        Returns:
            For every step the mixture that predicts it, the likelihood, and the last draws.

        Raises:
            ValueError: an argument of the wrong shape or range.
            TypeError: an argument that is not of the expected type.

        Examples:
            >>> import jax.numpy as jnp, ssmlin
            >>> y = jnp.sin(jnp.arange(20.0)).at[5].set(jnp.nan)[:, None]
            >>> model = ssmlin.LinearAttentionSSM("bayesian_memory", 1, 1, 2, num_lags=1)
            >>> u = model.compute_inputs(y)
            >>> params, _ = model.initialize(emissions=y, inputs=u)
            >>> model.particle_filter(params, y, u, num_particles=50).emission_means.shape
            (20, 50, 1)
        """
        self._only_full("missing lags")
        y = _checks.float_array("emissions", emissions)
        _checks.shaped("emissions", y, ("T", "m"), {"m": self.emission_dim})
        u = self._check_inputs(inputs, y.shape[:1], y.dtype, missing_lags=True)
        _checks.positive_int("num_particles", num_particles)
        start_key = jax.random.key(0) if key is None else key
        model = self._with_missing("auto")
        return run_particles(model, params, start_key, y, u, num_particles, mask)

    def impute(
        self,
        key: Array,
        params: ParamsLinearAttentionSSM,
        emissions: Float[AnyArray, "*B T m"],
        inputs: Float[AnyArray, "*B T p"],
        num_samples: int = 1,
        *,
        num_particles: int = 200,
    ) -> tuple[Float[Array, "num_samples *B T m"], Float[Array, "num_samples *B T p"]]:
        """Draw the missing emissions that are lags of later steps, given all that was observed.

        With them the model is linear Gaussian, so whatever takes emissions and inputs takes these.
        What comes after the last observation stays missing.

        Args:
            key: a PRNG key.
            params: constrained parameters.
            emissions: y, one sequence or a batch; NaN means missing.
            inputs: u, likewise, as :meth:`compute_inputs` gives them.
            num_samples: how many completed data sets, each from a particle filter of its own.
            num_particles: the draws of each filter.

        Returns:
            Completed emissions and inputs, with a leading axis for the samples.

        Raises:
            ValueError: an argument of the wrong shape or range.
            TypeError: an argument that is not of the expected type.

        Examples:
            >>> import jax, jax.numpy as jnp, ssmlin
            >>> y = jnp.sin(jnp.arange(20.0)).at[5].set(jnp.nan)[:, None]
            >>> model = ssmlin.LinearAttentionSSM("bayesian_memory", 1, 1, 2, num_lags=1)
            >>> u = model.compute_inputs(y)
            >>> params, _ = model.initialize(emissions=y, inputs=u)
            >>> ys, us = model.impute(jax.random.key(0), params, y, u, 3)
            >>> ys.shape, bool(jnp.isnan(us).any())
            ((3, 20, 1), False)
        """
        self._only_full("missing lags")
        _checks.positive_int("num_samples", num_samples)
        _checks.positive_int("num_particles", num_particles)
        y, u = self._check_batch(emissions, inputs, missing_lags=True)
        model = self._with_missing("auto")
        ys, us = impute(model, params, key, y, u, num_samples, num_particles)
        return (ys[:, 0], us[:, 0]) if np.ndim(emissions) == 2 else (ys, us)

    def draw_laws(
        self,
        index_key: Array,
        row_key: Array,
        particles: Particles,
        params: ParamsLinearAttentionSSM,
        num_samples: int,
    ) -> PathStarts:
        """Draw what paths go on from: the law of the state, Σ, and lags, for each path.

        Args:
            index_key: a PRNG key for the choice of draws.
            row_key: a PRNG key for Σ, where it is integrated out.
            particles: of :meth:`particle_filter`.
            params: constrained parameters.
            num_samples: n.

        Returns:
            The laws of the states, Σ, and the lags.
        """
        chosen = particles.take(resampled_index(index_key, particles.log_weights, num_samples))
        if chosen.row_cov is None:
            rows = self._row_matrices(params.row_cov.covariance)
            rows = jnp.broadcast_to(rows, (num_samples, *rows.shape))
        else:
            law = chosen.row_cov.discount(self.row_cov.discount)
            rows = self._row_matrices(law.sample(row_key))
        return PathStarts(chosen.means, chosen.covariances[:, None], rows, chosen.lags)

    def _may_lack_lags(
        self, emissions: Float[AnyArray, "T m"], inputs: Float[AnyArray, "T p"]
    ) -> bool:
        """Whether a lag is missing, of these steps or of the next one; under a trace any may be."""
        if not (_checks.is_concrete(emissions) and _checks.is_concrete(inputs)):
            return self.covariance == "full"  # approximations have no draws
        ends = np.isnan(np.asarray(emissions)[-self.num_lags :]).any()
        return bool(ends) or self._lacks_lags(inputs)

    def _check_batch(
        self, emissions: object, inputs: object, *, missing_lags: bool = False
    ) -> tuple[Float[Array, "B T m"], Float[Array, "B T p"]]:
        """One sequence or a batch of them as a batch, with its inputs."""
        y = _checks.float_array("emissions", emissions)
        if y.ndim not in (2, 3) or y.shape[-1] != self.emission_dim:
            raise ValueError(
                f"emissions: expected shape (T, {self.emission_dim}) or "
                f"(B, T, {self.emission_dim}), got {tuple(y.shape)}"
            )
        u = self._check_inputs(inputs, y.shape[:-1], y.dtype, missing_lags=missing_lags)
        if y.ndim == 3:
            return y, u
        if _checks.is_concrete(y) and _checks.is_concrete(u):  # in NumPy, where nothing is compiled
            one, its_inputs = jax.device_put((np.asarray(y)[None], np.asarray(u)[None]))
            return one, its_inputs
        return y[None], u[None]
