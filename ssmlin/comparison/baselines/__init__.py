"""What linear attentions are compared with: a file for each library, a line here for each file."""

from ssmlin.comparison.baselines import (
    attention_regression,
    autoregression,
    dynamax_models,
    naive,
    statsmodels_models,
)
from ssmlin.comparison.baselines.baseline import Baseline

#: All baselines by name, in the order in which tables of models list them.
BASELINES: dict[str, Baseline] = {
    baseline.name: baseline
    for baseline in (
        *naive.BASELINES,
        *autoregression.BASELINES,
        *statsmodels_models.BASELINES,
        *dynamax_models.BASELINES,
        *attention_regression.BASELINES,
    )
}
