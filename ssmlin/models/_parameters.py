"""The parts and the parameters of the model, and the prior that sets their hyperparameters."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from jaxtyping import Float

from ssmlin._typing import AnyArray
from ssmlin.models._initial_state import InitialState, ParamsInitial
from ssmlin.models._parts import NoParams, Part, make_plain
from ssmlin.models._process_noise import ParamsProcessNoise, ProcessNoise
from ssmlin.models._regression import Regression, RegressionParams
from ssmlin.models._row_covariance import ParamsRowCov, RowCov
from ssmlin.models._token_maps import ParamsTokens, TokenMaps

#: What the numbers of a prior may be given as; they become floats, and pairs of floats.
Number = float | int | Float[AnyArray, ""]
Pair = Sequence[float | int] | Float[AnyArray, "2"]


class ParamsLinearAttentionSSM(NamedTuple):
    """Parameters of :class:`ssmlin.LinearAttentionSSM`, or their properties: a field a part.

    Attributes:
        initial: law of the first state.
        tokens: projections and gates.
        process_noise: noise in the memory.
        regression: of the emissions on the inputs.
        row_cov: noise of the emissions.
    """

    initial: ParamsInitial
    tokens: ParamsTokens
    process_noise: ParamsProcessNoise | NoParams
    regression: RegressionParams
    row_cov: ParamsRowCov


class Parts(NamedTuple):
    """The parts of a model, in the order of the parameters."""

    initial: InitialState
    tokens: TokenMaps
    process_noise: ProcessNoise
    regression: Regression
    row_cov: RowCov

    def items(self) -> list[tuple[str, Part]]:
        """The parts with their names."""
        return list(zip(self._fields, self, strict=True))


@dataclass(frozen=True)
class ShrinkagePrior:
    r"""The default prior: towards a linear autoregression with a small, slowly changing memory.

    It sets the hyperparameters of the parts of a model that are None. Made for series standardised
    to unit variance; set `series_variance` for others. Weights are normal, gates beta on their
    interval, variances log-normal or inverse Wishart (inverse gamma for single variances), which
    keeps the emission noise off zero.

    Args:
        key_scale: sd of the weights of keys (of gates, too) and queries around their start.
        value_scale: sd of the weights of values.
        gate_scale: sd of the weights of input-driven gates.
        skip_scale: sd of D and d.
        coefficient_noise: median and log sd of the q of their drift, where D and d are integrated
            out.
        decay_concentrations: beta prior of the gates that are decays, on (0, 1) after scaling.
        rate_concentrations: beta prior of the gates that are rates.
        process_noise: median and log sd of q, relative to the emission noise.
        initial_variance: median and log sd of the diagonal of P_0, likewise.
        noise_floor: the prior scale of the emission noise, relative to the series' variance.
        series_variance: variance of the series.
    """

    key_scale: Number = 0.5
    value_scale: Number = 0.1
    gate_scale: Number = 0.3
    skip_scale: Number = 1.0
    coefficient_noise: Pair = (1e-5, 3.0)
    decay_concentrations: Pair = (8.0, 1.5)
    rate_concentrations: Pair = (1.5, 3.0)
    process_noise: Pair = (1e-3, 1.5)
    initial_variance: Pair = (1e-1, 1.5)
    noise_floor: Number = 0.05
    series_variance: Number = 1.0

    def __post_init__(self) -> None:
        # Plain numbers, so that equal priors, and the models that hold them, have equal hashes.
        make_plain(self)
