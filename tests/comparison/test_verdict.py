"""The verdict of a comparison, from score tables that say what it must be; nothing is fitted."""

import itertools
import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from ssmlin.comparison import (
    Comparison,
    Result,
    Scores,
    Series,
    model_confidence_set,
    train_test_split,
    verdict,
)
from ssmlin.comparison._sentences import listed, percentages, significant
from ssmlin.forecasting import FittedAttention

pytestmark = pytest.mark.quick

N = 60


def right(rng, n=N):
    """A PIT whose values are evenly spread, in an order without memory."""
    return rng.permutation((np.arange(n) + 0.5) / n)[:, None]


def inside(count, n=N):
    """A PIT with so many of n values inside every interval, evenly spread over time."""
    pit = np.full((n, 1), 0.5)
    pit[np.linspace(0, n - 1, n - count).round().astype(int)] = 0.999
    return pit


def scores(log_density, pit=None, errors=None):
    n = len(log_density)
    pit = right(np.random.default_rng(1), n) if pit is None else pit
    errors = np.full(pit.shape, 0.5) if errors is None else errors
    crps = np.abs(errors) / 2
    return Scores(np.asarray(log_density), crps, crps.mean(axis=1), errors, np.abs(errors), pit)


def compared(table, values=None, times=None, period=None, details=None, num_refits=0, power="none"):
    """A comparison with these scores; None for a model that failed."""
    n = next((len(x.log_density) for x in table.values() if x is not None), N)
    if values is None:
        values = np.random.default_rng(2).normal(size=(2 * n, 1))
    times = np.arange(2 * n) if times is None else times
    names = tuple(f"y{i}" for i in range(values.shape[1]))
    series = Series("made", values, times, names, "made up", period=period)
    results = [
        Result(name, {}, one, None, None, 1, 0.0, (details or {}).get(name),
               failure="ValueError: no" if one is None else None)
        for name, one in table.items()
    ]  # fmt: skip
    results.sort(key=lambda r: (r.failure is not None, -r.log_density))
    return Comparison(train_test_split(series, 0.5, power), tuple(results), num_refits=num_refits)


@pytest.fixture
def noise():
    return np.random.default_rng(0).normal(size=(4, N))


# The confidence set.


def excluded_one_by_one(table, flips):
    """p-values by the definition, in loops, over given signs of blocks."""
    n, m = table.shape
    parts = np.array_split(table, n // max(1, round(n ** (1 / 3))))
    blocks = [part.sum(axis=0) for part in parts]

    def statistic(signs, i, j):
        d = [b[j] - b[i] for b in blocks]
        size = math.sqrt(sum(x * x for x in d))
        return sum(s * x for s, x in zip(signs, d, strict=True)) / size if size else 0.0

    def worst(signs, left):
        return max(max(statistic(signs, i, j) for j in left) for i in left)

    p, largest, left = [1.0] * m, 0.0, list(range(m))
    plain = [1] * len(blocks)
    while len(left) > 1:
        found = worst(plain, left)
        share = np.mean([worst(signs, left) >= found - 1e-9 for signs in flips])
        largest = max(largest, share)
        (gone,) = [i for i in left
                   if max(statistic(plain, i, j) for j in left) == found][:1]  # fmt: skip
        p[gone] = largest
        left.remove(gone)
    return np.array(p)


@pytest.mark.parametrize("seed", [18, 20])  # a later removal has a smaller p-value of its own
def test_p_values_are_those_of_all_signs(seed):
    rng = np.random.default_rng(seed)
    table = rng.normal(size=(16, 4)) + np.array([0.0, 0.4, 1.2, 0.8])
    every = list(itertools.product([-1, 1], repeat=5))
    assert len(np.array_split(table, 16 // 3)) == 5
    found, expected = model_confidence_set(table), excluded_one_by_one(table, every)
    # 1999 draws of signs: three standard errors of a share.
    assert np.abs(found - expected).max() < 3 * 0.5 / np.sqrt(1999)
    assert 0.05 < expected.min() < 0.9 and expected.max() == 1
    # What all models share, and the unit, do not matter.
    shared = rng.normal(size=(16, 1))
    assert np.allclose(model_confidence_set(100 * (table + shared)), found)


@pytest.mark.parametrize("memory", [0.0, 0.3])
def test_models_that_are_equally_good_are_seldom_excluded(memory):
    rng = np.random.default_rng(4)
    wrong, runs = 0, 150
    for _ in range(runs):
        table = rng.standard_t(5, size=(41, 4))
        table = table[1:] + memory * table[:-1]
        wrong += model_confidence_set(table).min() <= 0.05
    assert wrong / runs < 0.05 + 3 * np.sqrt(0.05 * 0.95 / runs)


def test_confidence_sets_at_the_edges():
    same = np.tile(np.random.default_rng(0).normal(size=(30, 1)), 3)
    assert (model_confidence_set(same) == 1).all()
    assert model_confidence_set(same + np.array([0, 1, 0])).tolist()[1] == 1
    assert (model_confidence_set(same + np.array([0, 1, 0]))[[0, 2]] < 0.05).all()
    assert model_confidence_set(same[:, :1]).tolist() == [1]
    # Fewer than six blocks exclude nothing.
    assert (model_confidence_set(np.tile([0.0, 9.0], (5, 1))) > 0.05).all()
    for wrong in (same[:0], np.full((9, 2), np.nan), same[0]):
        with pytest.raises(ValueError, match="scores: expected finite numbers"):
            model_confidence_set(wrong)


# Which models are best, and by how much.


def test_a_clear_winner(noise):
    table = {"sarimax": scores(0.1 * noise[0]), "hmm": scores(0.1 * noise[1] - 1),
             "persistence": scores(0.1 * noise[2] - 2, errors=np.full((N, 1), 1.0))}  # fmt: skip
    comparison = compared(table)
    said = verdict(comparison)
    assert said.best == ("sarimax",)
    lead = (table["sarimax"].log_density - table["hmm"].log_density).mean()
    assert said.which.startswith(
        f"Best over 60 held-out steps is sarimax, ahead of hmm by {lead:.3f} ± "
    )
    gain = (table["sarimax"].log_density - table["persistence"].log_density).mean()
    assert f"sarimax is {gain:.3f} ± " in said.by_how_much
    (spread,) = comparison.split.spread
    assert np.isclose(spread, comparison.split.series.values[:N].std())
    own = f"50 % lower, {0.5 * spread:.3f} instead of {spread:.3f} (units of y0)"
    assert own.replace("0.", ".") in said.by_how_much.replace("0.", ".")
    assert "may be none" not in said.by_how_much
    assert said.trusted.startswith("The intervals of sarimax may be trusted")
    assert said.advice == () and said.choice is None
    assert str(said).splitlines() == list(said.sentences) and len(said.sentences) == 3


def test_a_tie_is_called_one_and_has_no_winner(noise):
    shared = noise[3]
    table = {"a": scores(shared + 0.01 * noise[0]), "seasonal_naive": scores(shared),
             "b": scores(shared + 0.01 * noise[1])}  # fmt: skip
    said = verdict(compared(table))
    assert set(said.best) == set(table)
    assert said.which.startswith("No model can be told to be better than another over 60 ")
    assert "ahead" not in str(said)
    assert "seasonal_naive, the simplest model" in said.by_how_much
    if said.best[0] != "seasonal_naive":
        assert "so the difference may be none" in said.by_how_much
    assert any(one.startswith("More data ") for one in said.advice)


def test_some_cannot_be_told_apart_and_others_are_behind(noise):
    table = {"a": scores(noise[0]), "b": scores(noise[0] - 0.01 * noise[1]),
             "persistence": scores(noise[0] - 3 + 0.1 * noise[2])}  # fmt: skip
    said = verdict(compared(table))
    assert set(said.best) == {"a", "b"}
    assert "a and b" in said.which or "b and a" in said.which
    assert "cannot be told apart" in said.which and "above that of persistence" in said.by_how_much


def test_the_simplest_model_is_best(noise):
    table = {"persistence": scores(noise[0]), "hmm": scores(noise[0] - 1 + 0.1 * noise[1])}
    assert verdict(compared(table)).by_how_much == (
        "No model gains on persistence, the simplest model."
    )
    table["seasonal_naive"] = scores(noise[0] - 2)
    assert "persistence, the better of the two simplest" in verdict(compared(table)).by_how_much
    del table["hmm"]
    assert "persistence and seasonal_naive alone" in verdict(compared(table)).by_how_much


def test_single_failed_and_wrong_models(noise):
    only = verdict(compared({"hmm": scores(noise[0])}))
    assert only.which == "Only hmm was compared." and only.best == ("hmm",)
    assert only.by_how_much == (
        "What is gained is not known: there are no scores of persistence or seasonal_naive."
    )
    assert verdict(compared({"hmm": scores(noise[0]), "lds": None})).which == (
        "Only hmm did not fail."
    )
    # A score that is not a number is no score, however high the others are.
    broken = np.where(np.arange(N) == 7, np.nan, 9.0)
    said = verdict(compared({"hmm": scores(noise[0]), "arhmm": scores(broken), "lds": None}))
    assert said.which == "Only hmm did not fail." and "arhmm" not in str(said)
    with pytest.raises(ValueError, match="expected a model that did not fail, got none"):
        verdict(compared({"arhmm": scores(broken), "lds": None}))


def test_several_series_are_judged_together(noise):
    one = compared({"a": scores(noise[0]), "b": scores(noise[0] - 1 + 0.1 * noise[1]), "c": None})
    two = compared({"a": scores(noise[2]), "b": scores(noise[2] - 1), "c": scores(noise[3])})
    said = verdict({"one": one, "two": two})
    assert said.which.startswith("Best over 120 held-out steps is a, ahead of b by ")
    assert "of 120 held-out values" in said.trusted and "c" not in said.best


# Whether intervals may be trusted.


def fewest(n, level, doubt):
    """The smallest number of hits that chance allows, summed by hand."""
    total = 0.0
    for k in range(n + 1):
        total += math.comb(n, k) * level**k * (1 - level) ** (n - k)
        if total >= doubt / 2:
            return k
    return n


@pytest.mark.parametrize("n", [20, 60, 300])
def test_coverage_is_held_against_chance(n):
    least = fewest(n, 0.95, 0.025)
    kept = verdict(compared({"a": scores(np.zeros(n), inside(least, n))})).trusted
    lost = verdict(compared({"a": scores(np.zeros(n), inside(least - 1, n))})).trusted
    # The 80 % intervals hold as many values as the 95 % ones here: with many values too many.
    assert ("too wide: the 80 % intervals" if n == 300 else "may be trusted") in kept
    assert lost.startswith("Do not trust the intervals of a, they are too narrow: the 95 % ")
    assert f"of {n} held-out values, fewer than the" in lost
    share, low = (float(x) for x in (lost.split("hold ")[1].split(" %")[0],
                                     lost.split("than the ")[1].split(" to ")[0]))  # fmt: skip
    assert abs(share - 100 * (least - 1) / n) < 0.5 and abs(low - 100 * least / n) < 0.5
    assert share < low


def test_columns_that_move_together_count_as_one(noise):
    least = fewest(N, 0.95, 0.025)
    pit = right(np.random.default_rng(5))
    outside = (np.abs(pit[:, 0] - 0.5) > 0.475).sum()
    assert N - outside >= least
    two = np.hstack([pit, pit])
    values = np.random.default_rng(2).normal(size=(2 * N, 2))
    said = verdict(compared({"a": scores(noise[0], two)}, values)).trusted
    assert "may be trusted" in said and f"of {2 * N} held-out values" in said
    assert f"chance allows {100 * least / N:.0f} to " in said


# What to do.


def advice(comparison):
    return " ".join(verdict(comparison).advice)


def test_another_model_as_good_has_better_intervals(noise):
    narrow = scores(noise[0] + 1e-4, inside(45))
    table = {"a": narrow, "b": scores(noise[0] + 1e-3 * noise[1])}
    said = advice(compared(table))
    assert "Where intervals matter take b (97 %): it cannot be told from a" in said
    table["b"] = scores(noise[0] - 5)  # not as good
    assert "Where intervals matter" not in advice(compared(table))


def normal_pit(z):
    from scipy.stats import norm

    return norm.cdf(z)[:, None]


def test_a_season_in_the_errors_is_told(noise):
    n = 120
    t, rng = np.arange(n), np.random.default_rng(6)
    z = np.sin(2 * np.pi * t / 12) * 1.2 + 0.6 * rng.normal(size=n)
    one = scores(np.zeros(n), normal_pit(z))
    assert "Give the season, --period 12: the errors come back after 12" in advice(
        compared({"a": one})
    )
    assert "--period" not in advice(compared({"a": one}, period=12))
    assert "--period" not in advice(compared({"a": scores(np.zeros(n))}))


def test_a_season_by_the_times_is_told_if_the_training_part_has_it():
    n = 2 * N
    t, rng = np.arange(2 * n), np.random.default_rng(7)
    months = pd.date_range("2000-01-01", periods=2 * n, freq="MS")
    flat = rng.normal(size=(2 * n, 1))
    season = flat + 5 * np.sin(2 * np.pi * t / 12)[:, None] ** 3
    table = {"a": scores(np.zeros(n))}
    assert "Give the season, --period 12: by the first" in advice(compared(table, season, months))
    assert "--period" not in advice(compared(table, flat, months))
    assert "--period" not in advice(compared(table, season, months, period=12))


def test_errors_that_grow_with_the_level_ask_for_logarithms():
    rng = np.random.default_rng(8)
    values = np.exp(np.linspace(0, 3, 2 * N))[:, None]
    spread = values[:N].std()
    level = values[N:] / spread
    errors = 0.1 * level * rng.normal(size=(N, 1))
    grows = {"a": scores(np.zeros(N), errors=errors)}
    assert "Try --log: the errors grow with the level of y0" in advice(compared(grows, values))
    assert "--log" not in advice(compared(grows, values, power="log"))
    assert "--log" not in advice(compared(grows, values - 2))  # no logarithm of these
    same = {"a": scores(np.zeros(N), errors=rng.permutation(errors))}
    assert "--log" not in advice(compared(same, values))


def test_intervals_that_fail_later_ask_for_refits():
    pit = inside(N)
    pit[N // 2 :: 2] = 0.97  # half of the second half
    late = {"a": scores(np.zeros(N), pit)}
    assert "--refits 4: the 80 % intervals hold 100 % of the values in the first half" in advice(
        compared(late)
    )
    assert "--refits" not in advice(compared(late, num_refits=4))
    assert "--refits" not in advice(compared({"a": scores(np.zeros(N), pit[::-1])}))


def test_errors_with_memory_ask_for_more_models():
    rng = np.random.default_rng(9)
    z = rng.normal(size=N + 1)
    z = 0.6 * z[1:] + 0.8 * z[:-1]
    assert "Try more models, --models all" in advice(
        compared({"a": scores(np.zeros(N), normal_pit(z))})
    )


def test_the_steps_that_would_tell_two_apart(noise):
    # Differences without memory, of mean 1/6 and standard deviation 1: nine times as many steps
    # make three standard errors of one.
    d = noise[1] - noise[1].mean()
    d = d / d.std() + 3 / np.sqrt(9 * N)
    said = advice(compared({"a": scores(noise[0] + d), "b": scores(noise[0])}))
    assert said.startswith("More data may tell a from b: if the lead stays as it is, about ")
    steps = int(said.split("about ")[1].split()[0])
    assert 0.5 * 9 * N < steps < 2 * 9 * N  # the standard error allows for autocorrelation
    hardly = {"a": scores(noise[0] + d - d.mean() + 1e-4), "b": scores(noise[0])}
    assert "hardly tell a from b" in advice(compared(hardly))


# What to fit.


def attention(lags, season=None):
    return FittedAttention(SimpleNamespace(num_lags=lags), None, season)


def test_the_choice_is_the_best_linear_attention(noise):
    table = {"sarimax": scores(noise[0]), "mamba2": scores(noise[0] - 2 + 0.1 * noise[1]),
             "deltanet": scores(noise[0] - 4), "my own": scores(noise[0] - 1)}  # fmt: skip
    details = {"mamba2": attention(3, 12), "deltanet": attention(5), "my own": attention(1)}
    values = np.exp(np.random.default_rng(2).normal(size=(2 * N, 1)))
    choice = verdict(compared(table, values, details=details, power="log")).choice
    assert choice[:4] == ("mamba2", 3, 12, 0.0)
    behind = (table["sarimax"].log_density - table["mamba2"].log_density).mean()
    assert (
        f"sarimax is no linear attention; of these mamba2 is best, {behind:.3f} ±" in choice.reason
    )
    assert "more than chance explains" in choice.reason
    table["mamba2"] = scores(noise[0] + 2)
    assert verdict(compared(table, details=details)).choice.reason == (
        "mamba2 has the highest log density."
    )


def test_what_series_do_not_share_is_left_open(noise):
    table = {"mamba2": scores(noise[0])}
    one, two = (compared(table, details={"mamba2": attention(lags)}) for lags in (2, 3))
    choice = verdict({"one": one, "two": two}).choice
    assert choice[:4] == ("mamba2", None, 1, 1.0)


def test_words():
    assert listed(["a"]) == "a" and listed(["a", "b"]) == "a and b"
    assert listed(list("abcdefg")) == "a, b, c, d and 3 more"
    assert [significant(x) for x in (0, 1234.56, 0.012345, 9.999, -5.0, 1e-20)] == [
        "0", "1230", "0.0123", "10.0", "-5.00", "1e-20"
    ]  # fmt: skip
    assert percentages(0.8831, 0.8834) == ["88.31", "88.34"]
    assert percentages(0.86, 0.9, 1) == ["86", "90", "100"]
