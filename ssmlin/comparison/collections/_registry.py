"""The models that are known by name; settings were chosen on M1."""

from ssmlin.comparison.collections import _statsforecast_models
from ssmlin.comparison.collections._autoregression import AUTOREGRESSION
from ssmlin.comparison.collections._collection import Collection
from ssmlin.comparison.collections._lds import linear_dynamics
from ssmlin.comparison.collections._model import Attempt, CollectionModel
from ssmlin.comparison.collections._naive import seasonal_naive
from ssmlin.comparison.collections._switching_models import (
    hidden_markov,
    switching_autoregression,
)


def _naive(collection: Collection, seed: int) -> Attempt:
    """Nothing is random, and nothing compiles."""
    del seed
    return Attempt([seasonal_naive(one) for one in collection], 0.0)


#: What the others are compared with.
SEASONAL_NAIVE = "seasonal_naive"
#: The models by name, in the order of tables.
MODELS: dict[str, CollectionModel] = {
    model.name: model
    for model in (
        CollectionModel(SEASONAL_NAIVE, _naive),
        *_statsforecast_models.MODELS,
        AUTOREGRESSION,
        hidden_markov(),
        switching_autoregression(),
        linear_dynamics(),
    )
}
#: What is compared unless models are named.
DEFAULT = tuple(MODELS)
