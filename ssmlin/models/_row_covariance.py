r"""The part of a model that is the noise of the emissions: r, and Σ, the covariance of the rows.

$$\varepsilon_t \sim N(0, r \Sigma)$$

Σ is the identity, a parameter, or unknown under its prior and integrated out. A new kind is a
subclass of :class:`RowCov`; `ROW_COVS` holds those that have a name.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import jax.numpy as jnp
from dynamax.parameters import ParameterProperties
from dynamax.utils.bijectors import RealToPSDBijector
from dynamax.utils.distributions import InverseWishart
from jaxtyping import Array, Float
from tensorflow_probability.substrates.jax import bijectors as tfb

from ssmlin import _checks
from ssmlin.inference import RowCovLaw
from ssmlin.models._parts import (
    BasePart,
    Contribution,
    Expectation,
    Sizes,
    Start,
    settled,
    statistic,
)
from ssmlin.models._priors import Prior, inverse_gamma_prior

Structure = Literal["identity", "diagonal", "full"]
LearnedStructure = Literal["diagonal", "full"]


class ParamsRowCov(NamedTuple):
    """Parameters of the noise ε_t ~ N(0, r Σ), or their properties.

    Attributes:
        noise: r, scalar; fixed to 1 unless Σ is the identity, since only r Σ is identified.
        covariance: Σ, its diagonal (m,) or the matrix (m, m); fixed where it is the identity or
            integrated out.
    """

    noise: Float[Array, ""] | ParameterProperties
    covariance: Float[Array, "m m"] | Float[Array, " m"] | ParameterProperties


@dataclass(frozen=True)
class RowCov(BasePart):
    """What all kinds share.

    Attributes:
        structure: "identity", "diagonal" or "full".
        discount: how much of what is known of Σ is left after a step; 1 where it is constant.
        noise_floor: the prior scale of r Σ, relative to the variance of the series; None for that
            of the model's prior.
        series_variance: the variance of the series; None for that of the model's prior.
    """

    noise_floor: float | None = field(default=None, kw_only=True)
    series_variance: float | None = field(default=None, kw_only=True)

    set_by_prior = {"noise_floor": "noise_floor", "series_variance": "series_variance"}

    structure: Structure = field(init=False, default="identity")
    discount: float = field(init=False, default=1.0)

    @property
    def floor(self) -> float:
        """The prior scale of r Σ."""
        return settled(self.noise_floor) * settled(self.series_variance)

    @property
    def is_integrated(self) -> bool:
        """Whether Σ is integrated out."""
        return False

    def matrices(self, row_cov: Float[Array, "... m"], size: int) -> Float[Array, "... m m"]:
        """Σ, or many of them, as matrices of this size, from what the parameters hold."""
        if self.structure == "full":
            return row_cov
        return row_cov[..., None] * jnp.eye(size, dtype=row_cov.dtype)

    def law(self, params: ParamsRowCov) -> RowCovLaw:
        """The prior of Σ: r Σ is inverse Wishart with m + 2 degrees of freedom.

        On a diagonal its entries are inverse gamma, which is the same with m = 1.
        """
        like, m = params.covariance, len(params.covariance)
        scale = self.floor / params.noise
        if like.ndim == 1:
            return RowCovLaw(jnp.full_like(like, 3.0), scale * jnp.ones_like(like))
        return RowCovLaw(jnp.asarray(m + 2.0, like.dtype), scale * jnp.eye(m, dtype=like.dtype))

    def integrated_law(self, params: ParamsRowCov) -> RowCovLaw | None:
        """The prior of Σ if it is integrated out, else None."""
        return None

    @abstractmethod
    def properties(self, sizes: Sizes) -> ParamsRowCov:
        """What is trainable, and how it is constrained."""

    def initialize(self, key: Array, sizes: Sizes, start: Start) -> ParamsRowCov:
        """Start at the residuals of the least-squares regression."""
        covariance = start.regression.covariance
        one = jnp.ones((), covariance.dtype)
        return ParamsRowCov(one, covariance if self.structure == "full" else jnp.diag(covariance))

    def contribute(
        self, params: ParamsRowCov, inputs: Float[Array, "T p"], sizes: Sizes
    ) -> Contribution:
        """R and Σ."""
        return Contribution({"emission_noise": params.noise, "row_cov": params.covariance})


@dataclass(frozen=True)
class IdentityRowCov(RowCov):
    """Σ = I: the rows are independent and alike, and r is learned.

    Args:
        noise_floor: the prior scale of r, relative to the variance of the series; None for that of
            the model's prior.
        series_variance: the variance of the series; None for that of the model's prior.
    """

    updates = ((), (), ("noise",))

    def initialize(self, key: Array, sizes: Sizes, start: Start) -> ParamsRowCov:
        """Start at the mean variance of the residuals."""
        variances = jnp.diag(start.regression.covariance)
        return ParamsRowCov(variances.mean(), jnp.ones_like(variances))

    def properties(self, sizes: Sizes) -> ParamsRowCov:
        """R is positive, Σ fixed."""
        positive = ParameterProperties(constrainer=tfb.Softplus())
        return ParamsRowCov(positive, ParameterProperties(trainable=False))

    def priors(self, params: ParamsRowCov, sizes: Sizes) -> dict[str, Prior]:
        """An inverse gamma law of r."""
        return {"noise": inverse_gamma_prior(params.noise, 1.5, 0.5 * self.floor)}

    def update(
        self,
        params: ParamsRowCov,
        score: ParamsRowCov,
        names: Sequence[str],
        expectation: Expectation,
    ) -> ParamsRowCov:
        """The mode of the law of r; see :class:`Part`."""
        # The inverse gamma law has shape 3/2 and scale floor / 2.
        floor, extra = (self.floor, 5) if expectation.use_prior else (0.0, 0)
        return params._replace(noise=_mode_of_noise(params, score, expectation, floor, extra))


@dataclass(frozen=True)
class LearnedRowCov(RowCov):
    """Σ is a parameter, and r = 1.

    Args:
        structure: "diagonal" or "full".
        noise_floor: the prior scale of Σ, relative to the variance of the series; None for that of
            the model's prior.
        series_variance: the variance of the series; None for that of the model's prior.

    Raises:
        ValueError: an unknown structure.

    Examples:
        >>> import ssmlin
        >>> from ssmlin.models import LearnedRowCov
        >>> ssmlin.LinearAttentionSSM("mamba2", 2, row_cov=LearnedRowCov("full")).row_cov.structure
        'full'
    """

    structure: LearnedStructure = "diagonal"

    updates = ((), ("covariance",), ("noise",))

    def __post_init__(self) -> None:
        super().__post_init__()
        _checks.one_of("row_cov", self.structure, ("diagonal", "full"))

    def properties(self, sizes: Sizes) -> ParamsRowCov:
        """Σ is positive definite, r fixed."""
        full = self.structure == "full"
        constrainer = RealToPSDBijector() if full else tfb.Softplus()
        fixed = ParameterProperties(trainable=False)
        return ParamsRowCov(fixed, ParameterProperties(constrainer=constrainer))

    def priors(self, params: ParamsRowCov, sizes: Sizes) -> dict[str, Prior]:
        """An inverse Wishart law of Σ, or inverse gamma laws of its entries."""
        df, scale = self.law(params)
        if scale.ndim == 1:  # of which df is 3
            return {"covariance": inverse_gamma_prior(scale, 1.5, 0.5 * scale)}
        # dynamax's law computes in the default precision, whatever it is given.
        dtype = jnp.result_type(float)
        return {"covariance": Prior(lambda: InverseWishart(df.astype(dtype), scale.astype(dtype)))}

    def update(
        self,
        params: ParamsRowCov,
        score: ParamsRowCov,
        names: Sequence[str],
        expectation: Expectation,
    ) -> ParamsRowCov:
        """The mode of the inverse Wishart or inverse gamma laws of Σ; see :class:`Part`."""
        if "noise" in names:  # which has no prior here
            return params._replace(noise=_mode_of_noise(params, score, expectation))
        rows, slope, counts = params.covariance, score.covariance, expectation.counts
        states = counts.sequences * expectation.key_dim + counts.steps * counts.noise_rank
        n = states + counts.observed
        floor = self.floor / params.noise if expectation.use_prior else 0.0
        if rows.ndim == 1:
            # The inverse gamma law has shape 3/2 and scale floor / 2.
            extra = 5 if expectation.use_prior else 0
            moments = statistic(rows, slope, n)
            return params._replace(covariance=(moments + floor) / (n + extra))
        m, n = len(rows), n[0]
        moments = n * rows + rows @ (slope + slope.T) @ rows
        # The inverse Wishart law has m + 2 degrees of freedom and the scale floor I.
        extra = 2 * m + 3 if expectation.use_prior else 0
        moments = moments + floor * jnp.eye(m, dtype=rows.dtype)
        return params._replace(covariance=moments / (n + extra))


@dataclass(frozen=True)
class IntegratedRowCov(RowCov):
    """Σ is unknown under its prior and integrated out exactly.

    Then predictive laws are Student-t, in likelihoods and forecasts; a posterior's `row_cov` is
    E[Σ | y], all data given; sampled paths each have their own Σ, drawn from its law given the
    emissions, or in `sample` from its prior; and each sequence of a batch has its own Σ. The value
    in the parameters is fixed; only `to_lgssm`, the pointwise laws and dynamax's joint `log_prob`
    use it. See :func:`ssmlin.integrate_row_cov`.

    Args:
        structure: "diagonal" or "full".
        discount: δ in [0.75, 1]. Below 1 Σ changes over time, and is estimated from about the last
            1 / (1 − δ) steps; paths sampled ahead keep the Σ they start with.
        noise_floor: the prior scale of Σ, relative to the variance of the series; None for that of
            the model's prior.
        series_variance: the variance of the series; None for that of the model's prior.

    Raises:
        ValueError: an unknown structure, or a discount out of range.

    Examples:
        >>> import ssmlin
        >>> from ssmlin.models import IntegratedRowCov
        >>> row_cov = IntegratedRowCov("full", discount=0.95)
        >>> model = ssmlin.LinearAttentionSSM("mamba2", 2, row_cov=row_cov)
        >>> params, props = model.initialize()
        >>> props.row_cov.covariance.trainable
        False
    """

    structure: LearnedStructure = "diagonal"
    discount: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.structure not in ("diagonal", "full"):
            raise ValueError(
                "row_cov: expected 'diagonal' or 'full' to integrate out, since the identity is "
                f"known; got {self.structure!r}"
            )
        object.__setattr__(self, "discount", float(self.discount))
        # Below 0.75 the prior's three degrees of freedom would leave no variance.
        if not 0.75 <= self.discount <= 1:
            raise ValueError(f"discount: expected a number in [0.75, 1], got {self.discount}")

    @property
    def is_integrated(self) -> bool:
        """True."""
        return True

    def integrated_law(self, params: ParamsRowCov) -> RowCovLaw:
        """The prior of Σ."""
        return self.law(params)

    def properties(self, sizes: Sizes) -> ParamsRowCov:
        """Both are fixed."""
        fixed = ParameterProperties(trainable=False)
        return ParamsRowCov(fixed, fixed)

    def priors(self, params: ParamsRowCov, sizes: Sizes) -> dict[str, Prior]:
        """No law of a parameter."""
        return {}

    def check_em(self) -> None:
        """Raise ValueError: the closed forms are those of the model given Σ."""
        raise ValueError(
            "row_cov: expected one that is not integrated out for fit_em, whose closed-form "
            "updates are those of the model given Σ; got IntegratedRowCov; fit_sgd fits this model"
        )


def _mode_of_noise(
    params: ParamsRowCov,
    score: ParamsRowCov,
    expectation: Expectation,
    floor: float = 0.0,
    extra: int = 0,
) -> Float[Array, ""]:
    """The r of the largest expected density, with a prior that adds to its two statistics."""
    n = expectation.counts.observed.sum()
    return (statistic(params.noise, score.noise, n) + floor) / (n + extra)


#: The kinds by the names that the constructor of a model takes.
ROW_COVS: dict[str, RowCov] = {
    "identity": IdentityRowCov(),
    "diagonal": LearnedRowCov("diagonal"),
    "full": LearnedRowCov("full"),
    "integrated_diagonal": IntegratedRowCov("diagonal"),
    "integrated_full": IntegratedRowCov("full"),
}

RowCovName = Literal["identity", "diagonal", "full", "integrated_diagonal", "integrated_full"]
