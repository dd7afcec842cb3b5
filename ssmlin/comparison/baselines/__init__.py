"""What linear attentions are compared with: a file for each library, a line here for each file."""

from ssmlin.comparison.baselines import (
    _attention_regression,
    _autoregression,
    _hmm_models,
    _lds_model,
    _naive,
    _statsmodels_models,
)
from ssmlin.comparison.baselines._baseline import Baseline

#: All baselines by name, in the order in which tables of models list them.
BASELINES: dict[str, Baseline] = {
    baseline.name: baseline
    for baseline in (
        *_naive.BASELINES,
        *_autoregression.BASELINES,
        *_statsmodels_models.BASELINES,
        *_hmm_models.BASELINES,
        *_lds_model.BASELINES,
        *_attention_regression.BASELINES,
    )
}
