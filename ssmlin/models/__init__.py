"""The dynamax model class: parts, parameters, priors, forecasts, files."""

from ssmlin.models.coefficients import ParamsIntegratedRegression
from ssmlin.models.features import ParamsGate, ParamsProjection, lagged_inputs
from ssmlin.models.files import load, load_notes
from ssmlin.models.forecast import Forecast
from ssmlin.models.gaps import PathStarts
from ssmlin.models.initial_state import InitialState, ParamsInitial, StateLaw
from ssmlin.models.linear_attention_ssm import LinearAttentionSSM
from ssmlin.models.parameters import ParamsLinearAttentionSSM, Parts, ShrinkagePrior
from ssmlin.models.parts import Contribution, Expectation, NoParams, Part, Prior, Sizes, Start
from ssmlin.models.process_noise import (
    PROCESS_NOISES,
    DiagonalNoise,
    IsotropicNoise,
    NoNoise,
    ParamsProcessNoise,
    ProcessNoise,
    ScaledNoise,
    StationaryNoise,
    WriteNoise,
)
from ssmlin.models.regression import (
    REGRESSIONS,
    IntegratedRegression,
    LearnedRegression,
    NoRegression,
    ParamsRegression,
    Regression,
)
from ssmlin.models.row_covariance import (
    ROW_COVS,
    IdentityRowCov,
    IntegratedRowCov,
    LearnedRowCov,
    ParamsRowCov,
    RowCov,
)
from ssmlin.models.smoothing import OneStepPrediction
from ssmlin.models.token_maps import ParamsTokens, TokenMaps

__all__ = [
    "PROCESS_NOISES",
    "REGRESSIONS",
    "ROW_COVS",
    "Contribution",
    "DiagonalNoise",
    "Expectation",
    "Forecast",
    "IdentityRowCov",
    "InitialState",
    "IntegratedRegression",
    "IntegratedRowCov",
    "IsotropicNoise",
    "LearnedRegression",
    "LearnedRowCov",
    "LinearAttentionSSM",
    "NoNoise",
    "NoParams",
    "NoRegression",
    "OneStepPrediction",
    "ParamsGate",
    "ParamsInitial",
    "ParamsIntegratedRegression",
    "ParamsLinearAttentionSSM",
    "ParamsProcessNoise",
    "ParamsProjection",
    "ParamsRegression",
    "ParamsRowCov",
    "ParamsTokens",
    "Part",
    "Parts",
    "PathStarts",
    "Prior",
    "ProcessNoise",
    "Regression",
    "RowCov",
    "ScaledNoise",
    "ShrinkagePrior",
    "Sizes",
    "Start",
    "StateLaw",
    "StationaryNoise",
    "TokenMaps",
    "WriteNoise",
    "lagged_inputs",
    "load",
    "load_notes",
]
