"""Filters of the model: likelihoods, laws of states given the past."""

from dataclasses import replace
from typing import Literal, NamedTuple, TypedDict

from jaxtyping import Array, Bool, Float, Int

from ssmlin._typing import AnyArray
from ssmlin.inference import (
    PosteriorMatrixLGSSM,
    PosteriorRowCov,
    RowCovLaw,
    integrate_row_cov,
    matrix_lgssm_approximate_filter,
    matrix_lgssm_filter,
)
from ssmlin.lgssm import MatrixLGSSM
from ssmlin.models._construction import Missing
from ssmlin.models._initial_state import StateLaw
from ssmlin.models._parameters import ParamsLinearAttentionSSM
from ssmlin.models._state_space import StateSpace

Method = Literal["auto", "sequential", "associative", "chunked"]
CovarianceForm = Literal["plain", "square_root"]
Gradient = Literal["adjoint", "autodiff"]
Store = Literal["all", "filtered", "means", "last", "loglik"]
Mask = Bool[AnyArray, " T"]
Length = int | Int[AnyArray, ""]


class FilterOptions(NamedTuple):
    """What filters, smoothers and samplers are asked for; see :func:`ssmlin.matrix_lgssm_filter`.

    `missing` is None for that of the model.
    """

    mask: Mask | None = None
    length: Length | None = None
    missing: Missing | None = None
    method: Method = "auto"
    covariance_form: CovarianceForm = "plain"


class SettledOptions(TypedDict):
    """The same as arguments of the functions of `ssmlin.inference`."""

    mask: Mask | None
    length: Length | None
    missing: Missing
    method: Method
    covariance_form: CovarianceForm


class Filtering(StateSpace):
    """What is known of a step given the past; see :class:`ssmlin.LinearAttentionSSM`."""

    def log_predictive(
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
        gradient: Gradient = "adjoint",
        law: StateLaw | None = None,
    ) -> Float[Array, " T"]:
        """Log p(y_t | y_{1:t-1}, u_{1:t}) of every step; 0 where nothing is observed.

        The arguments are those of :meth:`filter`.
        """
        options = FilterOptions(mask, length, missing, method, covariance_form)
        posterior, _ = self._filter(params, emissions, inputs, options, "loglik", gradient, law)
        return posterior.log_predictive

    def marginal_log_prob(
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
        gradient: Gradient = "adjoint",
        law: StateLaw | None = None,
    ) -> Float[Array, ""]:
        """Log p(y_{1:T} | u_{1:T}), the states integrated out by the filter.

        The arguments are those of :meth:`filter`.
        """
        options = FilterOptions(mask, length, missing, method, covariance_form)
        posterior, _ = self._filter(params, emissions, inputs, options, "loglik", gradient, law)
        return posterior.log_predictive.sum()

    def filter_window(
        self,
        params: ParamsLinearAttentionSSM,
        law: StateLaw,
        emissions: Float[AnyArray, "W m"],
        inputs: Float[AnyArray, "W p"] | None = None,
        *,
        mask: Mask | None = None,
        length: Length | None = None,
        missing: Missing | None = None,
        method: Method = "auto",
        covariance_form: CovarianceForm = "plain",
        gradient: Gradient = "adjoint",
    ) -> tuple[Float[Array, " W"], StateLaw]:
        """Filter consecutive steps from a law of what came before them.

        However a sequence is cut into windows, each starting from the law after the one before,
        the densities are those of :meth:`log_predictive`.

        Args:
            params: constrained parameters.
            law: of the state before the first step, see :meth:`initial_law`.
            emissions: y, (W, m); NaN means missing.
            inputs: u, (W, p).
            mask: see :meth:`filter`, as for what follows.
            length: see :meth:`filter`.
            missing: see :meth:`filter`.
            method: see :meth:`filter`.
            covariance_form: see :meth:`filter`.
            gradient: see :meth:`filter`.

        Returns:
            The log predictive densities of the steps, and the law after them. Its covariance has
            an axis of rows, as that of `law` may have, if ``missing="entries"`` and m > 1.

        Raises:
            ValueError: an argument of the wrong shape or value, or a law without that of Σ where Σ
                is integrated out.

        Examples:
            >>> import jax.numpy as jnp, ssmlin
            >>> model = ssmlin.LinearAttentionSSM("mamba2", 1, 0, 2, row_cov="integrated_diagonal")
            >>> params, _ = model.initialize()
            >>> y = jnp.sin(jnp.arange(6.0))[:, None]
            >>> first, law = model.filter_window(params, model.initial_law(params), y[:4])
            >>> second, law = model.filter_window(params, law, y[4:])
            >>> parts = jnp.concatenate([first, second])
            >>> bool(jnp.allclose(parts, model.log_predictive(params, y), atol=1e-5))
            True
        """
        options = FilterOptions(mask, length, missing, method, covariance_form)
        last, row_cov = self._filter(params, emissions, inputs, options, "last", gradient, law)
        assert last.filtered_means is not None and last.filtered_covariances is not None
        mean, cov = last.filtered_means[0], last.filtered_covariances[0]
        return last.log_predictive, StateLaw(mean, cov, row_cov)

    def filter(
        self,
        params: ParamsLinearAttentionSSM,
        emissions: Float[AnyArray, "T m"],
        inputs: Float[AnyArray, "T p"] | None = None,
        *,
        mask: Mask | None = None,
        length: Length | None = None,
        missing: Missing | None = None,
        store: Store = "filtered",
        method: Method = "auto",
        covariance_form: CovarianceForm = "plain",
        gradient: Gradient = "adjoint",
        law: StateLaw | None = None,
    ) -> PosteriorMatrixLGSSM:
        """Filtering distributions.

        Args:
            params: constrained parameters.
            emissions: y, (T, m); NaN means missing.
            inputs: u, (T, p).
            mask: (T,), False where the whole emission is taken as missing.
            length: how many of the steps are not padding; default all.
            missing: how a partly missing emission is treated; default as the model's `missing`.
            store: which moments to keep.
            method: the driver.
            covariance_form: "plain" or "square_root".
            gradient: "adjoint" or "autodiff".
            law: of the state before the first step; default that of :meth:`initial_law`.

        Returns:
            The posterior; see :func:`ssmlin.matrix_lgssm_filter`, also for the arguments.

        Raises:
            ValueError: an argument of the wrong shape or value, a law without that of Σ where Σ is
                integrated out, or an option that an approximate `covariance` does not have.
            TypeError: an argument that is not of the expected type.
        """
        options = FilterOptions(mask, length, missing, method, covariance_form)
        return self._filter(params, emissions, inputs, options, store, gradient, law)[0]

    def _filter(
        self,
        params: ParamsLinearAttentionSSM,
        emissions: Float[AnyArray, "T m"],
        inputs: Float[AnyArray, "T p"] | None,
        options: FilterOptions,
        store: Store,
        gradient: Gradient,
        law: StateLaw | None,
    ) -> tuple[PosteriorMatrixLGSSM, RowCovLaw | None]:
        """Filter from a law, or from the initial one; and the law of Σ after it."""
        lgssm, options = self._started(self.to_lgssm(params, inputs, len(emissions)), options, law)
        if self.covariance == "full":
            posterior = matrix_lgssm_filter(
                lgssm,
                emissions,
                store=store,
                gradient=gradient,
                mesh=self.mesh,
                **self._settled(options),
            )
        else:
            posterior = self._approximate_filter(lgssm, emissions, options, store, gradient)
        return self._with_row_cov(params, posterior, emissions, options, law)

    def _started(
        self, lgssm: MatrixLGSSM, options: FilterOptions, law: StateLaw | None
    ) -> tuple[MatrixLGSSM, FilterOptions]:
        """The operators that start from a law, and the options that its covariance wants."""
        if law is None:
            return lgssm, options
        law = StateLaw(*law)
        lgssm = replace(lgssm, initial_mean=law.mean)
        # "reset" starts every step from the model's own P_0.
        if self.covariance != "reset":
            lgssm = replace(lgssm, initial_cov=law.cov)
        if law.cov.ndim == 3:
            options = options._replace(missing="entries")
        return lgssm, options

    def _settled(self, options: FilterOptions) -> SettledOptions:
        """Options as arguments of the functions of `ssmlin.inference`."""
        mask, length, missing, method, covariance_form = options
        return SettledOptions(
            mask=mask,
            length=length,
            missing=self.missing if missing is None else missing,
            method=method,
            covariance_form=covariance_form,
        )

    def _approximate_filter(
        self,
        lgssm: MatrixLGSSM,
        emissions: Float[AnyArray, "T m"],
        options: FilterOptions,
        store: Store,
        gradient: Gradient,
    ) -> PosteriorMatrixLGSSM:
        """The filter of a model that keeps less of the covariance."""
        asked = options if options.missing == "entries" else options._replace(missing=None)
        if asked != FilterOptions() or gradient != "adjoint":
            self._only_full("the options of the exact filter")
        assert self.covariance != "full"
        kept: Literal["filtered", "last", "loglik"] = "filtered"
        if store == "last" or store == "loglik":
            kept = store
        return matrix_lgssm_approximate_filter(lgssm, emissions, self.covariance, store=kept)

    # ------------------------------------------------------------------------- Σ integrated out

    def row_cov_posterior(
        self,
        params: ParamsLinearAttentionSSM,
        posterior: PosteriorMatrixLGSSM,
        emissions: Float[AnyArray, "T m"],
        *,
        law: StateLaw | None = None,
        mask: Mask | None = None,
        length: Length | None = None,
        store: Literal["last", "all"] = "last",
    ) -> PosteriorRowCov:
        """The law of Σ given the emissions, after a filter.

        Args:
            params: constrained parameters.
            posterior: of that filter, at least its predictions of the emissions.
            emissions: y, (T, m).
            law: that the filter started from; default that of :meth:`initial_law`.
            mask: of the filter.
            length: of the filter.
            store: "all" for the law before every step, too.

        Returns:
            See :func:`ssmlin.integrate_row_cov`.

        Raises:
            ValueError: a law without that of Σ, or a model that does not integrate Σ out.
        """
        start = self.initial_law(params) if law is None else StateLaw(*law)
        if start.row_cov is None:
            raise ValueError(
                "law: expected one with the law of Σ, as initial_law and filter_window give it "
                "for a model that integrates Σ out, got None for it"
            )
        return integrate_row_cov(
            posterior,
            emissions,
            start.row_cov,
            discount=self.row_cov.discount,
            mask=mask,
            length=length,
            store=store,
        )

    def _with_row_cov(
        self,
        params: ParamsLinearAttentionSSM,
        posterior: PosteriorMatrixLGSSM,
        emissions: Float[AnyArray, "T m"],
        options: FilterOptions,
        law: StateLaw | None,
    ) -> tuple[PosteriorMatrixLGSSM, RowCovLaw | None]:
        """The posterior with Σ integrated out, if it is to be, and the law of Σ."""
        if not self.row_cov.is_integrated:
            return posterior, None
        integrated = self.row_cov_posterior(
            params, posterior, emissions, law=law, mask=options.mask, length=options.length
        )
        posterior = posterior._replace(
            marginal_loglik=integrated.marginal_loglik,
            log_predictive=integrated.log_predictive,
            row_cov=self._row_matrices(integrated.row_cov.mean()),
        )
        return posterior, integrated.row_cov
