"""The posterior beside its prior: against closed forms of the prior, with names for its numbers."""

from dataclasses import replace

import arviz
import numpy as np
import pytest
from scipy import special, stats

from ssmlin.comparison import Series
from ssmlin.comparison._posterior import (
    gate_shares,
    input_labels,
    marginals,
    posterior_figure,
    prior_draws,
    rounded,
    what_data_tell,
)


@pytest.fixture(scope="module")
def fit(comparison):
    return next(r.details for r in comparison.results if r.name == "deltanet")


@pytest.fixture(scope="module")
def prior(fit):
    return prior_draws(fit, ["beta", "beta_weights"], count=4000)


def test_draws_of_the_prior_have_its_moments(fit, prior):
    low, high = fit.model.mechanism.gate_range("beta")
    law = stats.beta(*fit.model.prior.rate_concentrations, loc=low, scale=high - low)
    beta, weights = (prior.posterior[name].values[0] for name in ("beta", "beta_weights"))
    assert stats.kstest(beta, law.cdf).pvalue > 1e-3
    assert weights.shape == (4000, 2)  # one lag of two columns
    assert stats.kstest(weights.ravel() / fit.model.prior.gate_scale, "norm").pvalue > 1e-3


def test_each_number_has_its_name_and_its_share_of_the_prior(fit, prior):
    rng = np.random.default_rng(0)
    series = Series("s", np.ones((4, 2)), np.arange(4), ("one", "two"), "")
    variables = {
        "beta": rng.normal(0.3, 0.01, size=(2, 200)),
        "beta_weights": rng.normal([0.0, 0.5], [fit.model.prior.gate_scale, 0.1], (2, 200, 2)),
    }
    draws = arviz.from_dict({"posterior": variables | {"beta_t": np.zeros((2, 200, 4))}},
                            dims={"beta_t": ["time"]})  # fmt: skip
    found = marginals(draws, prior, input_labels(fit, series))
    assert [one.name for one in found] == [
        "β", "β: weight of one, lag 1", "β: weight of two, lag 1"
    ]  # fmt: skip
    x = variables["beta_weights"][..., 1].ravel()
    last = found[-1]
    assert last.mean == pytest.approx(x.mean()) and last.sd == pytest.approx(x.std(ddof=1))
    assert (last.low, last.high) == pytest.approx(tuple(np.quantile(x, [0.05, 0.95])))
    shares = [one.share for one in found]
    assert shares[0] < 0.1 and shares[1:] == pytest.approx([1, 0.1 / 0.3], rel=0.15)
    ends = stats.norm.ppf([0.05, 0.95]) * fit.model.prior.gate_scale
    assert (last.prior_low, last.prior_high) == pytest.approx(tuple(ends), rel=0.1)
    assert 0.9 < last.r_hat < 1.05 and 200 < last.ess < 800
    (axis,) = posterior_figure(found).axes
    names = [label.get_text() for label in axis.get_yticklabels()]
    assert names == ["β", "β: one, lag 1", "β: two, lag 1"]
    assert [line.get_xdata()[0] for line in axis.lines[1::3]] == [one.low for one in found]


def test_inputs_and_seasons_have_names(fit):
    series = Series("s", np.ones((4, 2)), np.arange(4), ("a", "b"), "", np.ones((4, 1)), 3)
    seasonal = fit._replace(seasonal=3)
    assert input_labels(seasonal, series) == [
        "a, lag 1", "b, lag 1", "input 1", "season, cosine of 3 steps", "season, sine of 3 steps"
    ]  # fmt: skip
    assert input_labels(fit, replace(series, input_names=("price",)))[2:] == ["price"]


def test_gates_as_wide_as_their_prior_are_said_to_be_unknown(comparison, fit, prior):
    """Gates of the prior by their formula, g = σ(σ⁻¹(g) + W u), of steps whose lags are known."""
    split = comparison.split
    low, high = fit.model.mechanism.gate_range("beta")
    beta, weights = (prior.posterior[name].values[0] for name in ("beta", "beta_weights"))
    logit = special.logit((beta - low) / (high - low))
    lags = np.concatenate([np.zeros((1, 2)), split.observed.values[:-1]])
    wide = low + (high - low) * special.expit(logit[:, None] + weights @ lags.T)
    for paths, expected, said in (
        (wide, 1.0, "The data hardly tell β_t"),
        (0.5 * wide + 0.1, 0.5, "The data tell β_t"),
    ):
        draws = arviz.from_dict({"posterior": {"beta_t": paths[None]}}, dims={"beta_t": ["time"]})
        shares = gate_shares(fit, split, draws, prior)
        assert shares == {"β_t": pytest.approx(expected, rel=1e-4)}
        assert what_data_tell(shares).startswith(said)


@pytest.mark.parametrize(
    ("value", "sd", "expected"),
    [(0.123456, 0.0451, "0.123"), (1234.5, 210.0, "1230"), (-0.0001, 0.99, "0.00"),
     (5.25, 1.0, "5.2"), (0.00012345, 1e-6, "0.0001234"), (12.0, 0.0, "12"),
     (float("nan"), 1.0, ""), (0.5, 0.0999, "0.50")],
)  # fmt: skip
def test_numbers_are_rounded_to_two_digits_of_their_deviation(value, sd, expected):
    assert rounded(value, sd) == expected
