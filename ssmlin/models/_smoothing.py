"""Smoothing in the model: states given all emissions, and predictions of the emissions."""

from dataclasses import replace
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ssmlin import _checks
from ssmlin._typing import AnyArray
from ssmlin.inference import (
    PosteriorMatrixLGSSM,
    matrix_lgssm_filter,
    matrix_lgssm_posterior_sample,
    matrix_lgssm_smoother,
    symmetric_root,
)
from ssmlin.models._construction import Missing
from ssmlin.models._filtering import (
    CovarianceForm,
    Filtering,
    FilterOptions,
    Gradient,
    Length,
    Mask,
    Method,
)
from ssmlin.models._initial_state import StateLaw
from ssmlin.models._parameters import ParamsLinearAttentionSSM


class OneStepPrediction(NamedTuple):
    """The predictive law of every emission given those before it.

    Attributes:
        samples: a draw of every emission, (T, m).
        log_density: the log density of every emission, (T,); 0 where nothing is observed.
        means: (T, m).
        covariances: (T, m, m).
    """

    samples: Float[Array, "T m"]
    log_density: Float[Array, " T"]
    means: Float[Array, "T m"]
    covariances: Float[Array, "T m m"]


class Smoothing(Filtering):
    """What is known given all emissions; see :class:`ssmlin.LinearAttentionSSM`."""

    def smoother(
        self,
        params: ParamsLinearAttentionSSM,
        emissions: Float[AnyArray, "T m"],
        inputs: Float[AnyArray, "T p"] | None = None,
        *,
        mask: Mask | None = None,
        length: Length | None = None,
        missing: Missing | None = None,
        store: Literal["all", "means"] = "all",
        method: Method = "auto",
        covariance_form: CovarianceForm = "plain",
        law: StateLaw | None = None,
    ) -> PosteriorMatrixLGSSM:
        """Smoothing distributions; the arguments are those of :meth:`filter`.

        See :func:`ssmlin.matrix_lgssm_smoother`.

        Raises:
            ValueError: an argument of the wrong shape or value, or an approximate `covariance`.
        """
        self._only_full("smoothing")
        options = FilterOptions(mask, length, missing, method, covariance_form)
        lgssm, options = self._started(self.to_lgssm(params, inputs, len(emissions)), options, law)
        posterior = matrix_lgssm_smoother(
            lgssm, emissions, store=store, mesh=self.mesh, **self._settled(options)
        )
        return self._with_row_cov(params, posterior, emissions, options, law)[0]

    def posterior_sample(
        self,
        key: Array,
        params: ParamsLinearAttentionSSM,
        emissions: Float[AnyArray, "T m"],
        inputs: Float[AnyArray, "T p"] | None = None,
        num_samples: int | None = None,
        *,
        mask: Mask | None = None,
        length: Length | None = None,
        missing: Missing | None = None,
        method: Method = "auto",
        covariance_form: CovarianceForm = "plain",
    ) -> Float[Array, "*num_samples T m d"]:
        """State paths given the emissions; one path (T, m, d) if `num_samples` is None.

        The other arguments are those of :meth:`filter`.

        Raises:
            ValueError: an argument of the wrong shape or value, or an approximate `covariance`.
        """
        self._only_full("sampling of states")
        lgssm = self.to_lgssm(params, inputs, len(emissions))
        options = FilterOptions(mask, length, missing, method, covariance_form)
        settled = self._settled(options)
        n = 1 if num_samples is None else _checks.positive_int("num_samples", num_samples)
        if self.row_cov.is_integrated:
            row_key, key = jax.random.split(key)
            posterior = matrix_lgssm_filter(lgssm, emissions, store="loglik", **settled)
            law = self.row_cov_posterior(
                params, posterior, emissions, mask=mask, length=length
            ).row_cov
            rows = self._row_matrices(law.sample(row_key, (n,)))

            # Σ alone varies, so all paths still share one covariance recursion.
            def path(key: Array, row_cov: Array) -> Array:
                given = replace(lgssm, row_cov=row_cov)
                return matrix_lgssm_posterior_sample(key, given, emissions, **settled)[0]

            draws = jax.vmap(path)(jax.random.split(key, n), rows)
        else:
            draws = matrix_lgssm_posterior_sample(key, lgssm, emissions, n, **settled)
        return draws[0] if num_samples is None else draws

    def posterior_predictive(
        self,
        params: ParamsLinearAttentionSSM,
        emissions: Float[AnyArray, "T m"],
        inputs: Float[AnyArray, "T p"] | None = None,
        *,
        mask: Mask | None = None,
        length: Length | None = None,
        missing: Missing | None = None,
        method: Method = "auto",
        covariance_form: CovarianceForm = "plain",
    ) -> tuple[Float[Array, "T m"], Float[Array, "T m"]]:
        r"""Means and standard deviations of another emission at every step, given all emissions.

        $$E[y'_t \mid y_{1:T}] = E[S_t] h_t + c_t, \qquad
          \mathrm{Var}[y'_{ti} \mid y_{1:T}] = (h_t^\top P_t h_t + r_t) \Sigma_{ii}$$

        So a missing emission is interpolated. The arguments are those of :meth:`filter`.

        Returns:
            The means and the standard deviations, as dynamax's ``LinearGaussianSSM`` gives them.

        Raises:
            ValueError: an argument of the wrong shape or value, or an approximate `covariance`.

        Examples:
            >>> import jax.numpy as jnp, ssmlin
            >>> y = jnp.sin(0.3 * jnp.arange(20.0)).at[5].set(jnp.nan)[:, None]
            >>> model = ssmlin.LinearAttentionSSM("mamba2", 1, 0, 2)
            >>> params, _ = model.initialize(emissions=y)
            >>> means, deviations = model.posterior_predictive(params, y)
            >>> means.shape, bool((deviations > 0).all())
            ((20, 1), True)
        """
        options = FilterOptions(mask, length, missing, method, covariance_form)
        posterior = self.smoother(params, emissions, inputs, **options._asdict())
        lgssm = self.to_lgssm(params, inputs, len(emissions))
        states, covariances = posterior.smoothed_means, posterior.smoothed_covariances
        assert states is not None and covariances is not None
        means = jnp.einsum("tmd,td->tm", states, lgssm.readout) + lgssm.emission_bias
        axes = "tde" if covariances.ndim == 3 else "tmde"  # one covariance, or one for each row
        scales = jnp.einsum(f"td,{axes},te->{axes[:-2]}", lgssm.readout, covariances, lgssm.readout)
        scales = scales.reshape(len(means), -1) + lgssm.emission_noise[:, None]
        return means, jnp.sqrt(scales * jnp.diag(posterior.row_cov))

    def predict_one_step(
        self,
        key: Array,
        params: ParamsLinearAttentionSSM,
        emissions: Float[AnyArray, "T m"],
        inputs: Float[AnyArray, "T p"] | None = None,
        *,
        mask: Mask | None = None,
        length: Length | None = None,
        missing: Missing | None = None,
        method: Method = "auto",
        covariance_form: CovarianceForm = "plain",
        gradient: Gradient = "adjoint",
        law: StateLaw | None = None,
    ) -> OneStepPrediction:
        """Predict every emission from those before it.

        Args:
            key: a PRNG key for the draws.
            params: constrained parameters.
            emissions: y, (T, m); NaN means missing.
            inputs: u, (T, p).
            mask: see :meth:`filter`, as for what follows.
            length: see :meth:`filter`.
            missing: see :meth:`filter`.
            method: see :meth:`filter`.
            covariance_form: see :meth:`filter`.
            gradient: see :meth:`filter`.
            law: see :meth:`filter`.

        Returns:
            A draw from the predictive law of every step, the log densities of the emissions, and
            the laws' means and covariances.
        """
        options = FilterOptions(mask, length, missing, method, covariance_form)
        posterior, _ = self._filter(params, emissions, inputs, options, "loglik", gradient, law)
        rows = drawn = posterior.row_cov
        if self.row_cov.is_integrated:
            # A Student-t draw is a Gaussian one with Σ drawn first.
            key, row_key = jax.random.split(key)
            integrated = self.row_cov_posterior(
                params, posterior, emissions, law=law, mask=mask, length=length, store="all"
            )
            laws = integrated.predictive_row_cov
            assert laws is not None
            rows = self._row_matrices(laws.mean())
            drawn = self._row_matrices(laws.sample(row_key))
        covariances = emission_covariances(posterior.emission_scales, rows)
        given_rows = emission_covariances(posterior.emission_scales, drawn)
        normal = jax.random.normal(key, posterior.emission_means.shape, covariances.dtype)
        noise = jnp.einsum("tij,tj->ti", symmetric_root(given_rows), normal)
        means = posterior.emission_means
        return OneStepPrediction(means + noise, posterior.log_predictive, means, covariances)


def emission_covariances(
    scales: Float[Array, "T ..."], rows: Float[Array, "*T m m"]
) -> Float[Array, "T m m"]:
    """Covariances of emissions: a scale for all rows of Σ, or for each where Σ is diagonal."""
    return (scales[:, None, None] if scales.ndim == 1 else scales[:, :, None]) * rows
