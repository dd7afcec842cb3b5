"""The models that are known by name; settings were chosen on M1."""

from ssmlin.comparison.collections import _statsforecast_models
from ssmlin.comparison.collections._autoregression import AUTOREGRESSION
from ssmlin.comparison.collections._collection import Collection
from ssmlin.comparison.collections._forecaster_model import forecaster_model
from ssmlin.comparison.collections._lds import linear_dynamics
from ssmlin.comparison.collections._model import Attempt, CollectionModel
from ssmlin.comparison.collections._naive import seasonal_naive
from ssmlin.comparison.collections._switching_models import (
    hidden_markov,
    switching_autoregression,
)
from ssmlin.forecasting import Forecaster


def _naive(collection: Collection, seed: int) -> Attempt:
    """Nothing is random, and nothing compiles."""
    del seed
    return Attempt([seasonal_naive(one) for one in collection], 0.0)


def _hierarchical(season: int | None) -> Forecaster:
    """The recipe with its defaults, of which "auto" would pool fewer than ten series otherwise."""
    return Forecaster("bayesian_memory", season=season, pooling="hierarchical")


#: What the others are compared with.
SEASONAL_NAIVE = "seasonal_naive"
#: The models by name, in the order of tables.
MODELS: dict[str, CollectionModel] = {
    model.name: model
    for model in (
        CollectionModel(SEASONAL_NAIVE, _naive),
        forecaster_model(_hierarchical, "hierarchical"),
        *_statsforecast_models.MODELS,
        AUTOREGRESSION,
        hidden_markov(),
        switching_autoregression(),
        linear_dynamics(),
    )
}
#: What is compared unless models are named.
DEFAULT = tuple(MODELS)
#: What the command compares unless models are named; of statsforecast's, if it is installed.
USUAL = (
    SEASONAL_NAIVE, AUTOREGRESSION.name, "hierarchical",
    *(model.name for model in _statsforecast_models.MODELS),
)  # fmt: skip
