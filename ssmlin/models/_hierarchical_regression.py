r"""A regression for each of many series, whose coefficients come from one population and drift.

With h_t the regressors of a series i, such as its lagged values,

$$y_t = (\mu + C_t) h_t + \varepsilon_t,\quad C_t = \alpha C_{t-1} + w_t,\quad
  C_0 \sim N(0, \sigma_t^2 P_0),\ w_t \sim N(0, \sigma_t^2 \mathrm{diag}(q)),\
  \varepsilon_t \sim N(0, \sigma_t^2).$$

It is `bayesian_memory` with keys h_t: μ is the population, C_0 how a series deviates from it, α how
it returns, q how it drifts. The variance σ² of each series is integrated out under an inverse gamma
law that all share, with a discount. The parameters are fitted to all series together (empirical
Bayes); then one pass of the filter says all about a series, and nothing is fitted for it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from dynamax.parameters import ParameterProperties
from jaxtyping import Array, Float, Int
from tensorflow_probability.substrates.jax import bijectors as tfb
from tensorflow_probability.substrates.jax import distributions as tfd

from ssmlin import _checks
from ssmlin._precision import in_full_precision
from ssmlin._typing import AnyArray
from ssmlin.inference import (
    RegressionLaw,
    RowCovLaw,
    dynamic_regressions,
    integrate_variances,
)
from ssmlin.lgssm import MatrixLGSSM
from ssmlin.mechanisms import matrix_lgssm
from ssmlin.models._priors import Prior, log_normal_prior, normal_prior, scaled_beta_prior

#: The smallest discount of a variance.
_LEAST_DISCOUNT = 0.5
#: Degrees of freedom are larger, so that the variance of a series has a mean.
_LEAST_DF = 2.0


class ParamsHierarchicalRegression(NamedTuple):
    """Parameters of the population, or their properties.

    Attributes:
        coefficients: μ, (d,).
        spread: s > 0, (d,), and
        mixing: the entries of a strictly lower triangular matrix L by rows, (d (d − 1) / 2,), with
            which P_0 = diag(s) (I + L) (I + L)ᵀ diag(s).
        noise: q > 0, (d,).
        decay: α in (0, 1).
        df: ν > 2, degrees of freedom of the law of σ².
        scale: ψ > 0; E[σ²] = ψ / (ν − 2).
        discount: δ in (1/2, 1) of the law of σ², before every observed step.
    """

    coefficients: Float[Array, " d"] | ParameterProperties
    spread: Float[Array, " d"] | ParameterProperties
    mixing: Float[Array, " k"] | ParameterProperties
    noise: Float[Array, " d"] | ParameterProperties
    decay: Float[Array, ""] | ParameterProperties
    df: Float[Array, ""] | ParameterProperties
    scale: Float[Array, ""] | ParameterProperties
    discount: Float[Array, ""] | ParameterProperties


class RegressionStates(NamedTuple):
    """What is known of series after their last steps.

    Attributes:
        mean: of μ + C_T, (B, d).
        cov: of C_T, relative to σ², (B, d, d).
        variance: the law of σ² before a further step, arrays (B,).
        log_likelihoods: log p(y_{1:T}), (B,).
    """

    mean: Float[Array, "B d"]
    cov: Float[Array, "B d d"]
    variance: RowCovLaw
    log_likelihoods: Float[Array, " B"]


@dataclass(frozen=True)
class HierarchicalRegression:
    """Regressions of many series, whose drifting coefficients come from one population.

    Args:
        num_regressors: d.

    Raises:
        ValueError: not a positive number.

    Examples:
        >>> import jax.numpy as jnp
        >>> from ssmlin.models import HierarchicalRegression
        >>> model = HierarchicalRegression(2)
        >>> params, props = model.initialize()
        >>> y, h = jnp.ones((3, 5)), jnp.ones((3, 5, 2))
        >>> model.log_likelihoods(params, y, h).shape, model.condition(params, y, h).mean.shape
        ((3,), (3, 2))

    Source: West and Harrison (1997), Bayesian Forecasting and Dynamic Models, chapters 4 and 10.
    """

    num_regressors: int

    def __post_init__(self) -> None:
        _checks.positive_int("num_regressors", self.num_regressors)

    def initialize(
        self, dtype: type = np.float32
    ) -> tuple[ParamsHierarchicalRegression, ParamsHierarchicalRegression]:
        """A population without effect, whose series hardly drift.

        Args:
            dtype: of the parameters.

        Returns:
            Parameters and matching properties.
        """
        d = self.num_regressors
        start = {
            "coefficients": np.zeros(d), "spread": np.full(d, 0.14),
            "mixing": np.zeros(d * (d - 1) // 2), "noise": np.full(d, 1e-5),
            "decay": 0.98, "df": 6.0, "scale": 2.0, "discount": 0.98,
        }  # fmt: skip
        params = {name: jax.device_put(np.asarray(x, dtype)) for name, x in start.items()}
        return ParamsHierarchicalRegression(**params), self.properties(dtype)

    def properties(self, dtype: type = np.float32) -> ParamsHierarchicalRegression:
        """What is trainable, which is all, and its constrainer.

        Args:
            dtype: of the parameters, which bounds must have, too.
        """
        bounds: list[np.ndarray] = [np.full((), x, dtype) for x in (_LEAST_DF, _LEAST_DISCOUNT, 1)]
        least_df, least_discount, one = bounds
        positive = ParameterProperties(constrainer=tfb.Exp())
        free = ParameterProperties()
        return ParamsHierarchicalRegression(
            coefficients=free,
            spread=positive,
            mixing=free,
            noise=positive,
            decay=ParameterProperties(constrainer=tfb.Sigmoid()),
            df=ParameterProperties(constrainer=tfb.Softplus(low=least_df)),
            scale=positive,
            discount=ParameterProperties(constrainer=tfb.Sigmoid(low=least_discount, high=one)),
        )

    def _priors(self, params: ParamsHierarchicalRegression) -> dict[str, Prior]:
        """The prior of every parameter; weak beside a hundred series, and proper beside none."""
        return {
            "coefficients": normal_prior(params.coefficients, 1.0),
            "spread": log_normal_prior(params.spread, 0.14, 1.5),
            "mixing": normal_prior(params.mixing, 1.0),
            "noise": log_normal_prior(params.noise, 1e-5, 3.0),
            "decay": scaled_beta_prior(params.decay, (5.0, 1.0), 0.0, 1.0),
            "df": log_normal_prior(params.df, 6.0, 1.0),
            "scale": log_normal_prior(params.scale, 2.0, 1.5),
            "discount": scaled_beta_prior(params.discount, (5.0, 1.0), _LEAST_DISCOUNT, 1.0),
        }

    def prior_distributions(
        self, params: ParamsHierarchicalRegression
    ) -> Mapping[str, tfd.Distribution]:
        """The prior laws of the parameters by name; they are independent."""
        return {name: prior.make_law() for name, prior in self._priors(params).items()}

    def log_prior(self, params: ParamsHierarchicalRegression) -> Float[Array, ""]:
        """Log prior density of the parameters."""
        terms = [prior.log_prob(getattr(params, k)) for k, prior in self._priors(params).items()]
        return sum(terms, jnp.zeros((), params.decay.dtype))

    def initial_cov(self, params: ParamsHierarchicalRegression) -> Float[Array, "d d"]:
        """P_0, how series deviate from the population, relative to their variances."""
        d = self.num_regressors
        root = jnp.eye(d, dtype=params.spread.dtype).at[np.tril_indices(d, -1)].set(params.mixing)
        root = root * params.spread[:, None]
        return root @ root.T

    def log_predictive(
        self,
        params: ParamsHierarchicalRegression,
        emissions: Float[AnyArray, "T 1"],
        inputs: Float[AnyArray, "T d"],
    ) -> Float[Array, " T"]:
        """Log predictive densities of the steps of one series, for `ssmlin.sample_posterior`."""
        terms, _, _ = self._filter(params, emissions[None, :, 0], inputs[None])
        return terms[0]

    def log_likelihoods(
        self,
        params: ParamsHierarchicalRegression,
        targets: Float[AnyArray, "B T"],
        regressors: Float[AnyArray, "B T d"],
    ) -> Float[Array, " B"]:
        """Log marginal likelihood of each series, its coefficients and variance integrated out.

        Args:
            params: the parameters.
            targets: y; NaN means missing.
            regressors: h, finite.
        """
        return self._filter(params, targets, regressors)[0].sum(axis=1)

    def condition(
        self,
        params: ParamsHierarchicalRegression,
        targets: Float[AnyArray, "B T"],
        regressors: Float[AnyArray, "B T d"],
        lengths: Int[AnyArray, " B"] | None = None,
    ) -> RegressionStates:
        """What each series tells of its coefficients and its variance.

        Args:
            params: the parameters.
            targets: y; NaN means missing.
            regressors: h, finite.
            lengths: steps of each series, after which nothing changes; default T.
        """
        terms, (mean, cov), variance = self._filter(params, targets, regressors, lengths)
        return RegressionStates(mean + params.coefficients, cov, variance, terms.sum(axis=1))

    @in_full_precision
    def _filter(
        self,
        params: ParamsHierarchicalRegression,
        targets: Float[AnyArray, "B T"],
        regressors: Float[AnyArray, "B T d"],
        lengths: Int[AnyArray, " B"] | None = None,
    ) -> tuple[Float[Array, "B T"], tuple[Array, Array], RowCovLaw]:
        """Log predictive densities, and the last laws of the coefficients and the variances."""
        d = self.num_regressors
        if jnp.shape(regressors)[-1:] != (d,):
            raise ValueError(
                f"regressors: expected shape (B, T, num_regressors = {d}), got "
                f"{jnp.shape(regressors)}"
            )
        mean = jnp.zeros(d, params.spread.dtype)
        law = RegressionLaw(mean, self.initial_cov(params), params.decay, params.noise)
        errors, scales, means, covs = dynamic_regressions(
            law, targets - regressors @ params.coefficients, regressors, lengths
        )
        shape = (len(errors),)
        prior = RowCovLaw(*(jnp.broadcast_to(x, shape) for x in (params.df, params.scale)))
        errors = jnp.where(jnp.isnan(targets), jnp.nan, errors)
        terms, variance = integrate_variances(errors.T, scales.T, prior, params.discount)
        return terms.T, (means, covs), variance.discount(params.discount)

    @in_full_precision
    def to_lgssm(
        self, params: ParamsHierarchicalRegression, regressors: Float[AnyArray, "T d"]
    ) -> MatrixLGSSM:
        """The state space model of one series, relative to its variance, with C as the state.

        Args:
            params: the parameters.
            regressors: h of the series.

        Returns:
            `bayesian_memory` with keys h, and μ h as the bias of its emissions.
        """
        h = _checks.float_array("regressors", regressors)
        return matrix_lgssm(
            "bayesian_memory", keys=h, alpha=params.decay, process_noise=params.noise[None],
            emission_noise=1.0, initial_cov=self.initial_cov(params), value_dim=1,
            emission_bias=(h @ params.coefficients)[:, None],
        )  # fmt: skip
