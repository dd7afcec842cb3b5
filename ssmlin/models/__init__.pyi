from ssmlin.models._autoregression import (
    Autoregression,
    Predictions,
    estimate_autoregression,
    predict_autoregression,
)
from ssmlin.models._coefficients import GAIN, ParamsIntegratedRegression
from ssmlin.models._construction import Missing
from ssmlin.models._continuing import start_particles
from ssmlin.models._features import ParamsGate, ParamsProjection, lagged_inputs
from ssmlin.models._files import load, load_arrays, load_notes, mechanism_fields, save
from ssmlin.models._fitting import plan_fit
from ssmlin.models._forecast import Forecast, mix_states, simulate
from ssmlin.models._forecast_tables import forecast_dataset
from ssmlin.models._gaps import PathStarts
from ssmlin.models._hierarchical_regression import (
    HierarchicalRegression,
    NextTarget,
    ParamsHierarchicalRegression,
    RegressionStates,
)
from ssmlin.models._initial_state import InitialState, ParamsInitial, StateLaw
from ssmlin.models._linear_attention_ssm import LinearAttentionSSM
from ssmlin.models._missing_lags import has_missing_lags, run_particles
from ssmlin.models._parameters import ParamsLinearAttentionSSM, Parts, ShrinkagePrior
from ssmlin.models._particles import ParticlePosterior, Particles
from ssmlin.models._parts import Contribution, Expectation, NoParams, Part, Sizes, Start
from ssmlin.models._priors import Prior
from ssmlin.models._process_noise import (
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
from ssmlin.models._regression import (
    REGRESSIONS,
    IntegratedRegression,
    LearnedRegression,
    NoRegression,
    ParamsRegression,
    Regression,
)
from ssmlin.models._row_covariance import (
    ROW_COVS,
    IdentityRowCov,
    IntegratedRowCov,
    LearnedRowCov,
    ParamsRowCov,
    RowCov,
    RowCovName,
)
from ssmlin.models._smoothing import OneStepPrediction
from ssmlin.models._step_prediction import StepPrediction
from ssmlin.models._token_maps import ParamsTokens, TokenMaps
from ssmlin.models._widening import Widened, widened

__all__ = [
    "Autoregression",
    "Contribution",
    "DiagonalNoise",
    "Expectation",
    "Forecast",
    "GAIN",
    "IdentityRowCov",
    "HierarchicalRegression",
    "InitialState",
    "IntegratedRegression",
    "IntegratedRowCov",
    "IsotropicNoise",
    "LearnedRegression",
    "LearnedRowCov",
    "LinearAttentionSSM",
    "Missing",
    "NextTarget",
    "NoNoise",
    "NoParams",
    "NoRegression",
    "OneStepPrediction",
    "PROCESS_NOISES",
    "ParamsGate",
    "ParamsHierarchicalRegression",
    "ParamsInitial",
    "ParamsIntegratedRegression",
    "ParamsLinearAttentionSSM",
    "ParamsProcessNoise",
    "ParamsProjection",
    "ParamsRegression",
    "ParamsRowCov",
    "ParamsTokens",
    "Part",
    "ParticlePosterior",
    "Particles",
    "Parts",
    "PathStarts",
    "Predictions",
    "Prior",
    "ProcessNoise",
    "REGRESSIONS",
    "ROW_COVS",
    "Regression",
    "RegressionStates",
    "RowCov",
    "RowCovName",
    "ScaledNoise",
    "ShrinkagePrior",
    "Sizes",
    "Start",
    "StateLaw",
    "StepPrediction",
    "StationaryNoise",
    "TokenMaps",
    "Widened",
    "WriteNoise",
    "forecast_dataset",
    "estimate_autoregression",
    "has_missing_lags",
    "lagged_inputs",
    "load",
    "load_arrays",
    "load_notes",
    "mechanism_fields",
    "mix_states",
    "plan_fit",
    "predict_autoregression",
    "run_particles",
    "save",
    "simulate",
    "start_particles",
    "widened",
]
