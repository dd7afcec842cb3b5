r"""The part of a model that is the regression of the emissions on the inputs.

$$y_t = S_t h_t + D u_t + d + \varepsilon_t$$

D and d are absent, parameters, or unknown and integrated out. A new kind is a subclass of
:class:`Regression`; `REGRESSIONS` holds those that have a name.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from dynamax.parameters import ParameterProperties
from jaxtyping import Array, Float
from tensorflow_probability.substrates.jax import bijectors as tfb

from ssmlin.lgssm import MatrixLGSSM
from ssmlin.models._coefficients import ParamsIntegratedRegression, initial_coefficients
from ssmlin.models._parts import (
    BasePart,
    Contribution,
    Expectation,
    NoParams,
    Sizes,
    Start,
    settled,
)
from ssmlin.models._priors import Prior, log_normal_prior, normal_prior


class ParamsRegression(NamedTuple):
    """Parameters of the regression D u_t + d, or their properties.

    Attributes:
        weights: D, (m, p), or None.
        bias: d, (m,), or None.
    """

    weights: Float[Array, "m p"] | ParameterProperties | None
    bias: Float[Array, " m"] | ParameterProperties | None


RegressionParams = ParamsRegression | ParamsIntegratedRegression | NoParams


@dataclass(frozen=True)
class Regression(BasePart):
    """What all kinds share.

    Attributes:
        weights: whether there is a D; without inputs there is none.
        bias: whether there is a d.
    """

    weights: bool = field(init=False, default=False)
    bias: bool = field(init=False, default=False)

    def check(self, sizes: Sizes) -> None:
        """Raise ValueError for sizes that leave nothing to the regression."""

    def append_columns(
        self, mean: Float[Array, "m d"], cov: Float[Array, "d d"], params: RegressionParams
    ) -> tuple[Float[Array, "m e"], Float[Array, "e e"]]:
        """The law of S_0 with the columns that the regression adds to the state."""
        return mean, cov


@dataclass(frozen=True)
class NoRegression(Regression):
    """Neither D nor d: y_t = S_t h_t + ε_t."""

    def initialize(self, key: Array, sizes: Sizes, start: Start) -> NoParams:
        """No parameter."""
        return NoParams()

    def properties(self, sizes: Sizes) -> NoParams:
        """No parameter."""
        return NoParams()

    def priors(self, params: NoParams, sizes: Sizes) -> dict[str, Prior]:
        """No law."""
        return {}

    def contribute(
        self, params: NoParams, inputs: Float[Array, "T p"], sizes: Sizes
    ) -> Contribution:
        """Nothing."""
        return Contribution()


@dataclass(frozen=True)
class LearnedRegression(Regression):
    """D and d are parameters.

    Args:
        weights: whether there is a D; without inputs there is none.
        bias: whether there is a d.
        scale: sd of their normal prior; None for that of the model's prior.

    Examples:
        >>> import ssmlin
        >>> from ssmlin.models import LearnedRegression
        >>> model = ssmlin.LinearAttentionSSM("mamba2", 1, 2, 3, regression=LearnedRegression())
        >>> params, props = model.initialize()
        >>> params.regression.weights.shape, params.regression.bias.shape
        ((1, 2), (1,))
    """

    weights: bool = True
    bias: bool = True
    scale: float | None = None

    updates = (("weights", "bias"),)
    set_by_prior = {"scale": "skip_scale"}

    def initialize(self, key: Array, sizes: Sizes, start: Start) -> ParamsRegression:
        """Start at the least-squares regression."""
        has_weights = self.weights and sizes.input_dim > 0
        return ParamsRegression(
            start.regression.weights if has_weights else None,
            start.regression.bias if self.bias else None,
        )

    def properties(self, sizes: Sizes) -> ParamsRegression:
        """Both are free."""
        free = ParameterProperties()
        has_weights = self.weights and sizes.input_dim > 0
        return ParamsRegression(free if has_weights else None, free if self.bias else None)

    def priors(self, params: ParamsRegression, sizes: Sizes) -> dict[str, Prior]:
        """Normal laws around zero."""
        scale = settled(self.scale)
        return {
            name: normal_prior(x, scale) for name, x in params._asdict().items() if x is not None
        }

    def contribute(
        self, params: ParamsRegression, inputs: Float[Array, "T p"], sizes: Sizes
    ) -> Contribution:
        """The regression, as a bias of the emissions at every step."""
        total = jnp.zeros((len(inputs), sizes.emission_dim), inputs.dtype)
        if params.weights is not None:
            total = total + inputs @ params.weights.T
        if params.bias is not None:
            total = total + params.bias
        return Contribution({"emission_bias": total})

    def update(
        self,
        params: ParamsRegression,
        score: ParamsRegression,
        names: Sequence[str],
        expectation: Expectation,
    ) -> ParamsRegression:
        """D and d: a weighted ridge regression for each eigenvector of Σ; see :class:`Part`."""
        inputs, emissions = expectation.inputs, expectation.emissions
        design, theta, slopes = [], [], []
        if "weights" in names and params.weights is not None and score.weights is not None:
            design.append(inputs)
            theta.append(params.weights)
            slopes.append(score.weights)
        if "bias" in names and params.bias is not None and score.bias is not None:
            design.append(jnp.ones((*inputs.shape[:-1], 1), inputs.dtype))
            theta.append(params.bias[:, None])
            slopes.append(score.bias[:, None])
        x, coefficients, slope = (jnp.concatenate(a, axis=-1) for a in (design, theta, slopes))
        rows = expectation.row_cov
        if rows.ndim == 1:
            variances, vectors = rows, jnp.eye(len(rows), dtype=x.dtype)
        else:
            variances, vectors = jnp.linalg.eigh(rows)
        # Only with a diagonal Σ, where the vectors are the axes, may entries of a row be missing.
        seen = (~jnp.isnan(emissions)).astype(x.dtype)
        scales = (expectation.emission_noise * variances)[:, None, None]
        gram = jnp.einsum("bti,btj,btm->mij", x, x, seen) / scales
        slope, turned = vectors.T @ slope, vectors.T @ coefficients
        if expectation.use_prior:
            precision = 1 / settled(self.scale) ** 2
            slope = slope - precision * turned
            gram = gram + precision * jnp.eye(x.shape[-1], dtype=x.dtype)
        else:
            trace = jnp.trace(gram, axis1=1, axis2=2)[:, None, None]
            tiny = 10 * float(np.finfo(x.dtype).eps)
            ridge = jnp.where(trace > 0, tiny * trace, 1.0)  # 1: no data
            gram = gram + ridge * jnp.eye(x.shape[-1], dtype=x.dtype)
        step = jnp.linalg.solve(gram, slope[..., None])[..., 0]
        new = coefficients + vectors @ step
        if "weights" in names:
            params = params._replace(weights=new[:, : inputs.shape[-1]])
        if "bias" in names:
            params = params._replace(bias=new[:, -1])
        return params


@dataclass(frozen=True)
class IntegratedRegression(Regression):
    r"""D and d are unknown, may drift, and are integrated out exactly.

    They are k more columns C_t of the state, beside the memory:
    $C_0 \sim \mathrm{MN}(0, \Sigma, \tau^2 I)$, with changes of covariance q I at each step, is
    read by the whitened inputs, $y_t = S_t h_t + C_t W (u_t, 1) + \varepsilon_t$. Without inputs
    there is only d. See :class:`ssmlin.models.ParamsIntegratedRegression`.

    Args:
        weights: whether there is a D; without inputs there is none.
        bias: whether there is a d.
        drift: median and log sd of the log-normal prior of q; None for those of the model's prior.

    Raises:
        ValueError: neither weights nor a bias.

    Examples:
        >>> import ssmlin
        >>> from ssmlin.models import IntegratedRegression
        >>> regression = IntegratedRegression(bias=False)
        >>> model = ssmlin.LinearAttentionSSM("mamba2", 1, 2, 3, regression=regression)
        >>> params, props = model.initialize()
        >>> params.regression.basis.shape
        (2, 2)
    """

    weights: bool = True
    bias: bool = True
    drift: tuple[float, float] | None = None

    set_by_prior = {"drift": "coefficient_noise"}

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.weights or self.bias):
            raise ValueError(
                "regression: expected weights or a bias to integrate out, got neither; "
                "NoRegression() has none"
            )

    def check(self, sizes: Sizes) -> None:
        """Raise ValueError where there are no inputs to have weights, and no bias."""
        if not self.bias and sizes.input_dim == 0:
            raise ValueError(
                "regression: expected weights or a bias to integrate out, got weights alone for a "
                "model without inputs"
            )

    def _regressors(self, inputs: Float[Array, "... p"]) -> Float[Array, "... k"]:
        """What D and d are the coefficients of: the inputs and one."""
        parts = [inputs] if self.weights else []
        if self.bias:
            parts.append(jnp.ones((*inputs.shape[:-1], 1), inputs.dtype))
        return jnp.concatenate(parts, axis=-1)

    def initialize(self, key: Array, sizes: Sizes, start: Start) -> ParamsIntegratedRegression:
        """Whiten the inputs; τ² and q follow from the data, see `initial_coefficients`."""
        skip, bias, row_cov = start.regression
        # As the regressors are made of the inputs and one, so are these of D and d.
        parts = [skip] if self.weights else []
        parts += [bias[:, None]] if self.bias else []
        coefficients = jnp.concatenate(parts, axis=-1)
        if start.emissions is None or start.inputs is None:
            x = self._regressors(jnp.zeros((1, 1, sizes.input_dim), row_cov.dtype))
            return initial_coefficients(None, x, coefficients, row_cov)
        y = start.emissions.reshape(-1, *start.emissions.shape[-2:])
        x = self._regressors(start.inputs.reshape(*y.shape[:2], sizes.input_dim))
        return initial_coefficients(y, x, coefficients, row_cov)

    def properties(self, sizes: Sizes) -> ParamsIntegratedRegression:
        """Only q, which is positive, is trainable."""
        fixed = ParameterProperties(trainable=False)
        positive = ParameterProperties(constrainer=tfb.Softplus())
        return ParamsIntegratedRegression(fixed, fixed, positive)

    def priors(self, params: ParamsIntegratedRegression, sizes: Sizes) -> dict[str, Prior]:
        """A log-normal law of q."""
        return {"noise": log_normal_prior(params.noise, *settled(self.drift))}

    def contribute(
        self, params: ParamsIntegratedRegression, inputs: Float[Array, "T p"], sizes: Sizes
    ) -> Contribution:
        """The columns C_t."""
        readout = self._regressors(inputs) @ params.basis.T

        def finish(lgssm: MatrixLGSSM) -> MatrixLGSSM:
            return lgssm.append_columns(readout, params.variance, params.noise)

        return Contribution(finish=finish)

    def append_columns(
        self, mean: Float[Array, "m d"], cov: Float[Array, "d d"], params: RegressionParams
    ) -> tuple[Float[Array, "m e"], Float[Array, "e e"]]:
        """The law of [S_0, C_0]."""
        assert isinstance(params, ParamsIntegratedRegression)
        k = len(params.basis)
        extra = params.variance * jnp.eye(k, dtype=cov.dtype)
        wide: Array = jax.scipy.linalg.block_diag(cov, extra)
        return jnp.pad(mean, ((0, 0), (0, k))), wide

    def check_em(self) -> None:
        """Raise ValueError: the law of what is integrated out has no closed-form update."""
        raise ValueError(
            "regression: expected one that is not integrated out for fit_em, which has no "
            "closed-form update for the law of what is integrated out; got IntegratedRegression; "
            "fit_sgd fits this model"
        )


#: The kinds by the names that the constructor of a model takes.
REGRESSIONS: dict[str, Regression] = {
    "none": NoRegression(),
    "weights": LearnedRegression(bias=False),
    "bias": LearnedRegression(weights=False),
    "learned": LearnedRegression(),
    "integrated": IntegratedRegression(),
}

RegressionName = Literal["none", "weights", "bias", "learned", "integrated"]
