"""The models that are known by name."""

from ssmlin.comparison.collections import _statsforecast_models
from ssmlin.comparison.collections._collection import Collection
from ssmlin.comparison.collections._model import Attempt, CollectionModel
from ssmlin.comparison.collections._naive import seasonal_naive


def _naive(collection: Collection, seed: int) -> Attempt:
    """Nothing is random, and nothing compiles."""
    del seed
    return Attempt([seasonal_naive(one) for one in collection], 0.0)


#: What the others are compared with.
SEASONAL_NAIVE = "seasonal_naive"
#: The models by name, in the order of tables.
MODELS: dict[str, CollectionModel] = {
    model.name: model
    for model in (CollectionModel(SEASONAL_NAIVE, _naive), *_statsforecast_models.MODELS)
}
#: What is compared unless models are named.
DEFAULT = tuple(MODELS)
