"""The dynamax model class: features of the inputs, parameters, priors, forecasts."""

from ssmlin.models.features import ParamsGate, ParamsProjection, lagged_inputs
from ssmlin.models.files import load, load_notes
from ssmlin.models.forecast import Forecast
from ssmlin.models.linear_attention_ssm import LinearAttentionSSM, StateLaw
from ssmlin.models.parameters import (
    ParamsAttentionDynamics,
    ParamsAttentionEmissions,
    ParamsAttentionInitial,
    ParamsCoefficients,
    ParamsLinearAttentionSSM,
    ShrinkagePrior,
)

__all__ = [
    "Forecast",
    "LinearAttentionSSM",
    "ParamsAttentionDynamics",
    "ParamsAttentionEmissions",
    "ParamsAttentionInitial",
    "ParamsCoefficients",
    "ParamsGate",
    "ParamsLinearAttentionSSM",
    "ParamsProjection",
    "ShrinkagePrior",
    "StateLaw",
    "lagged_inputs",
    "load",
    "load_notes",
]
