"""A comparison that several tests look at."""

from functools import partial

import numpy as np
import pytest

from ssmlin.comparison import Candidate, Comparison, compare_models
from ssmlin.data import Series
from ssmlin.forecasting import fit_attention


def broken(train, seed):
    raise ValueError("is <i>always</i> broken")


@pytest.fixture(scope="session")
def comparison() -> Comparison:
    """Two attentions, fitted shortly, their average, two baselines, and one that fails.

    Whatever their names are, the attentions are of one mechanism, so that they share programs.
    """
    rng = np.random.default_rng(0)
    y = np.cumsum(rng.normal(size=(90, 2)), axis=0)
    y[70, 1] = np.nan
    series = Series(
        'a <b>"series"</b> & more', y, np.arange(1900, 1990), ("one", "two"), "simulated"
    )
    short = [
        Candidate(
            name,
            partial(fit_attention, mechanism="deltanet", num_epochs=epochs, discounts=(1.0,)),
            ({"num_lags": 1},),
        )
        for name, epochs in (("deltanet", 20), ("mamba2", 10))
    ]
    models = ["persistence", "autoregression", *short, "average", Candidate("broken", broken)]
    return compare_models(series, models, progress=False, horizon=2)
