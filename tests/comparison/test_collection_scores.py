"""Scores of collections against other libraries and closed forms, and their summaries."""

import html
import re

import numpy as np
import pandas as pd
import pytest
import scoringrules
from scipy import stats

from ssmlin.comparison.collections import (
    QUANTILE_LEVELS,
    Attempt,
    Collection,
    CollectionComparison,
    CollectionModel,
    compare_collection,
    conclusions,
    hold_out,
    normal_quantiles,
    score_collection,
    write_collection_report,
)
from ssmlin.comparison.collections._figures import cliques
from ssmlin.comparison.collections._naive import seasonal_naive
from ssmlin.comparison.collections._quantiles import index_of
from ssmlin.comparison.collections._scores import WEIGHTS, log_densities, season_scale
from ssmlin.comparison.collections._summary import (
    average_ranks,
    bootstrap_means,
    relative,
    win_rates,
)

PERIOD, HORIZON = 4, 6


@pytest.fixture(scope="module")
def problem():
    """Series, and normal forecasts that are off by chance: means, deviations, quantiles."""
    rng = np.random.default_rng(1)
    values = {f"s{k}": 30 + rng.normal(size=25 + k).cumsum() for k in range(5)}
    collection = hold_out(values, HORIZON, PERIOD)
    means = [one.test + rng.normal(scale=2, size=HORIZON) for one in collection]
    deviations = [rng.uniform(0.3, 2.0, size=HORIZON) for _ in collection]
    quantiles = [normal_quantiles(m, s) for m, s in zip(means, deviations, strict=True)]
    return collection, np.array(means), np.array(deviations), quantiles


@pytest.fixture(scope="module")
def scores(problem):
    return score_collection(problem[0], problem[3])


def per_series(values):
    return np.mean(values, axis=1)


def test_errors_are_those_of_utilsforecast(problem, scores):
    losses = pytest.importorskip("utilsforecast.losses")
    collection, means, _, _ = problem
    train = pd.concat(
        pd.DataFrame({"unique_id": one.name, "ds": np.arange(len(one.train)), "y": one.train})
        for one in collection
    )
    test = pd.concat(
        pd.DataFrame({"unique_id": one.name, "ds": len(one.train) + np.arange(HORIZON),
                      "y": one.test, "model": mean})
        for one, mean in zip(collection, means, strict=True)
    )  # fmt: skip
    mase = losses.mase(test, ["model"], seasonality=PERIOD, train_df=train)["model"]
    np.testing.assert_allclose(scores.mase, mase)
    # Theirs is a share of the mean size, ours the usual percentage of half of it.
    np.testing.assert_allclose(scores.smape, 200 * losses.smape(test, ["model"])["model"])


def test_interval_scores_are_those_of_scoringrules(problem, scores):
    collection, means, deviations, _ = problem
    y = np.array([one.test for one in collection])
    low, high = stats.norm.interval(0.95, means, deviations)
    scales = [np.abs(one.train[PERIOD:] - one.train[:-PERIOD]).mean() for one in collection]
    expected = per_series(scoringrules.interval_score(y, low, high, 0.05)) / scales
    np.testing.assert_allclose(scores.msis, expected)


def test_the_crps_of_normal_laws_is_near_its_closed_form(problem, scores):
    collection, means, deviations, _ = problem
    assert WEIGHTS.sum() == pytest.approx(1) and len(WEIGHTS) == len(QUANTILE_LEVELS)
    y = np.array([one.test for one in collection])
    scales = np.array([season_scale(one.train, PERIOD) for one in collection])
    expected = per_series(scoringrules.crps_normal(y, means, deviations)) / scales
    np.testing.assert_allclose(scores.crps, expected, rtol=2e-3)


def test_densities_and_coverage_of_normal_laws(problem, scores):
    collection, means, deviations, _ = problem
    y = np.array([one.test for one in collection])
    scales = np.array([season_scale(one.train, PERIOD) for one in collection])
    expected = per_series(stats.norm.logpdf(y, means, deviations)) + np.log(scales)
    np.testing.assert_allclose(scores.log_density, expected, rtol=1e-9)
    for level in (50, 80, 95):
        low, high = stats.norm.interval(level / 100, means, deviations)
        inside = per_series((low <= y) & (y <= high))
        np.testing.assert_array_equal(getattr(scores, f"coverage_{level}"), inside)


def test_a_density_of_any_quantiles_integrates_to_one():
    rng = np.random.default_rng(2)
    shapes = [np.sort(rng.gamma(0.7, size=len(QUANTILE_LEVELS))), np.zeros(len(QUANTILE_LEVELS))]
    for quantiles, end in zip(shapes, (12.0, 1.0), strict=True):
        y = np.linspace(-end, end, 200_001)
        density = np.exp(
            log_densities(np.broadcast_to(quantiles, (len(y), len(quantiles))), 2.0 * y, 2.0)
        )
        assert np.trapezoid(density, y) == pytest.approx(1, abs=2e-3)


def test_tails_are_those_of_normal_laws_with_two_quantiles():
    quantiles = stats.t.ppf(QUANTILE_LEVELS, 3)
    y = np.array([8.0, -8.0])
    found = log_densities(np.stack([quantiles, quantiles]), y, 1.0)
    ends = quantiles[[index_of(0.9), index_of(0.995)]]
    deviation = np.diff(ends)[0] / np.diff(stats.norm.ppf([0.9, 0.995]))[0]
    mean = ends[0] - deviation * stats.norm.ppf(0.9)
    np.testing.assert_allclose(found, stats.norm.logpdf(8.0, mean, deviation))


def test_the_scale_falls_back_to_steps_and_then_to_none():
    seasonal = np.tile([1.0, 2.0, 5.0], 4)
    assert season_scale(seasonal, 3) == pytest.approx(np.abs(np.diff(seasonal)).mean())
    assert season_scale(np.array([1.0, 3.0]), 12) == 2.0
    assert season_scale(np.array([1.0, np.nan, 3.0, 7.0]), 2) == 2.0
    assert np.isnan(season_scale(np.ones(9), 3)) and np.isnan(season_scale(np.ones(1), 1))


def test_steps_without_a_value_do_not_count(problem):
    collection, _, _, quantiles = problem
    one = collection.series[0]
    gap = one._replace(test=np.where(np.arange(HORIZON) == 2, np.nan, one.test))
    short = one._replace(test=np.delete(one.test, 2), horizon=HORIZON - 1)
    with_gap = score_collection(Collection("", (gap,)), quantiles[:1])
    without = score_collection(Collection("", (short,)), [np.delete(quantiles[0], 2, axis=0)])
    for a, b in zip(with_gap, without, strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(ValueError, match="'s0': expected observed test values"):
        score_collection(Collection("", (one._replace(test=None),)), quantiles[:1])


# ------------------------------------------------------------------------------- summaries


def test_ratios_are_geometric_means_clipped_and_ties_of_zero_are_one():
    table = np.array([[2.0, 0.0], [8.0, 0.0], [0.5, 1.0]])
    reference = np.array([1.0, 2.0, 0.0])
    found = relative(table, reference)
    expected = [(2.0 * 4.0 * 100.0) ** (1 / 3), (0.01 * 0.01 * 100.0) ** (1 / 3)]
    np.testing.assert_allclose(found.estimate, expected)
    assert relative(np.zeros((3, 1)), np.zeros(3)).estimate == 1.0
    assert (found.low <= found.estimate).all() and (found.estimate <= found.high).all()


def test_win_rates_and_ranks_count_pairs():
    table = np.random.default_rng(3).integers(4, size=(50, 4)).astype(float)
    better = (table[:, :, None] < table[:, None]).astype(float)
    tied = (table[:, :, None] == table[:, None]) & ~np.eye(4, dtype=bool)
    share = (better + 0.5 * tied).sum(axis=2) / 3
    np.testing.assert_allclose(win_rates(table).estimate, share.mean(axis=0))
    ranks = average_ranks(table)
    np.testing.assert_allclose(ranks.ranks, (4 - 3 * share).mean(axis=0))
    assert ranks.p_value == pytest.approx(stats.friedmanchisquare(*table.T).pvalue)
    # Demšar's table 5a: q = 2.569 for four classifiers.
    assert ranks.critical_difference == pytest.approx(2.569 * np.sqrt(20 / 300), abs=1e-3)
    assert ranks.num_series == 50


def test_bootstrap_intervals_are_as_wide_as_the_standard_error():
    table = np.random.default_rng(4).normal(size=(400, 3))
    found = bootstrap_means(table, seed=1)
    again = bootstrap_means(table, seed=1)
    np.testing.assert_array_equal(found.low, again.low)
    width = 2 * stats.norm.ppf(0.975) * table.std(axis=0) / 20
    np.testing.assert_allclose(found.high - found.low, width, rtol=0.1)


def test_bars_join_what_is_not_distinguished():
    assert cliques([3.0, 1.0, 1.5, 2.2], 1.0) == [(1.0, 1.5), (1.5, 2.2), (2.2, 3.0)]
    assert cliques([1.0, 1.2, 1.9, 3.5], 1.0) == [(1.0, 1.9)]
    assert cliques([1.0, 3.0], 1.0) == []


@pytest.fixture(scope="module")
def comparison():
    rng = np.random.default_rng(5)
    values = {f"s{k}": 30 + rng.normal(size=25).cumsum() for k in range(6)} | {"flat": np.ones(25)}

    def sharper(collection, seed):
        made = [seasonal_naive(one) for one in collection]
        made = [
            one.test[:, None] + 0.1 * (q - q[:, [21]])
            for one, q in zip(collection, made, strict=True)
        ]
        return Attempt([ValueError("no"), *made[1:]], 0.5)

    model = CollectionModel("oracle", sharper)
    return compare_collection(hold_out(values, HORIZON, PERIOD), [model])["all"]


def test_summaries_hold_means_failures_and_unscaled_series(comparison):
    summary = comparison.summary()
    assert list(summary.index) == ["seasonal_naive", "oracle"]
    assert summary["failures"].tolist() == [0, 1] and summary["unscaled"].tolist() == [1, 1]
    mase = comparison.scores["oracle"].mase
    assert mase[1:-1] == pytest.approx(0) and np.isnan(mase[-1]) and mase[0] > 0
    assert summary.loc["oracle", "mase"] == pytest.approx(mase[0] / 6)
    assert summary.loc["oracle", "coverage_50"] == np.mean(comparison.scores["oracle"].coverage_50)
    seconds = summary.loc["oracle", ["seconds", "seconds_compiled"]]
    assert seconds.iloc[0] - seconds.iloc[1] == pytest.approx(0.5 / 7)
    assert summary["processor_seconds"].notna().all()


def test_relative_scores_and_ranks_leave_unscaled_series_out(comparison):
    frame = comparison.relative("crps")
    assert frame.loc["seasonal_naive", ["ratio", "ratio_low", "ratio_high"]].tolist() == [1, 1, 1]
    ratios = comparison.table("crps")
    assert ratios.shape == (6, 2)
    expected = stats.gmean(ratios[:, 1] / ratios[:, 0])
    assert frame.loc["oracle", "ratio"] == pytest.approx(expected)
    assert frame.loc["oracle", "skill"] == pytest.approx(1 - expected)
    # Better on five, and on the sixth seasonal naive itself.
    assert frame.loc["oracle", "win_rate"] == pytest.approx(5.5 / 6)
    assert frame.loc["oracle", "rank"] == pytest.approx(6.5 / 6)
    assert np.isnan(comparison.ranks("mase").p_value)
    backwards = comparison.relative("crps", reference="oracle")
    assert backwards.loc["seasonal_naive", "ratio"] == pytest.approx(1 / expected)
    with pytest.raises(ValueError, match="measure: expected one of mase"):
        comparison.relative("coverage_50")
    with pytest.raises(ValueError, match="reference: expected one of"):
        comparison.relative("mase", reference="nothing")


def test_the_figure_names_every_model(comparison):
    figure = comparison.plot_ranks("mase")
    (axis,) = figure.axes
    names = [label.get_text() for label in axis.get_yticklabels()]
    assert names == list(comparison.ordered("mase"))
    assert axis.get_title() == "MASE: average ranks over 6 series"


def test_ratios_are_drawn_as_percentages_the_best_first(comparison):
    (axis,) = comparison.plot_ratios("crps").axes
    names = [label.get_text() for label in axis.get_yticklabels()]
    assert names == ["oracle", "seasonal_naive"]
    oracle = comparison.relative("crps").loc["oracle"]
    (shown,) = (x for x in axis.containers if x.has_xerr and x[0].get_ydata()[0] == 0)
    assert shown[0].get_xdata()[0] == pytest.approx(100 * (oracle["ratio"] - 1))


def test_calibration_counts_values_below_each_quantile(comparison):
    shares = comparison.calibration()["seasonal_naive"]
    below = [(one.test[:, None] < seasonal_naive(one)).tolist() for one in comparison.collection]
    np.testing.assert_allclose(shares, np.mean(np.concatenate(below), axis=0))
    (axis,) = comparison.plot_calibration().axes
    assert axis.get_legend_handles_labels()[1] == list(comparison.models)
    np.testing.assert_allclose(axis.lines[1].get_ydata(), shares - QUANTILE_LEVELS)


def test_forecasts_of_the_worst_series_are_drawn_first(comparison):
    figure = comparison.plot_forecasts("seasonal_naive", "worst", 4)
    mase = comparison.scores["seasonal_naive"].mase
    worst = np.argsort(-mase)[:4]  # NaN comes last
    titles = [axis.get_title() for axis in figure.axes]
    names = [comparison.collection.series[place].name for place in worst]
    assert [title.split(",")[0] for title in titles] == names
    assert len(comparison.plot_forecasts("oracle", "worst", 20).axes) == 6  # no flat one
    assert len(comparison.plot_forecasts("oracle", count=3).axes) == 4  # and one of them is empty
    for wrong in ({"model": "none"}, {"which": "best"}, {"measure": "rank"}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            comparison.plot_forecasts(**({"model": "oracle"} | wrong))


def test_the_report_holds_tables_failures_and_figures(comparison, tmp_path, monkeypatch):
    path, drawn, draw = tmp_path / "report.html", [], CollectionComparison.forecast_figures

    def drawing(self, model, which, **options):
        drawn.append((model, which, options["measure"]))
        return draw(self, model, which, **options)

    monkeypatch.setattr(CollectionComparison, "forecast_figures", drawing)
    write_collection_report(path, {"all": comparison}, command="ssmlin <this>")
    whole = path.read_text()
    for expected in (
        "all: 7 series", "1 series never change", "oracle failed on 1 series, first: ValueError",
        "Forecasts of oracle", "Ten series at random", "The ten series with the largest CRPS",
        "<span>&lt;this&gt;</span>", "Calibration",
        *(html.escape(x) for x in conclusions(comparison)),
    ):  # fmt: skip
        assert expected in whole
    assert drawn == [("oracle", "random", "crps"), ("oracle", "worst", "crps")]
    ratio = comparison.relative("crps").loc["oracle"]
    assert f"{ratio['ratio']:.3f} ({ratio['ratio_low']:.3f} to" in whole
    means, _, coverage, run = (
        [re.findall("<t[hd][^>]*>([^<]*)", row) for row in re.findall("<tr.*?</tr>", table)]
        for table in re.findall("<table.*?</table>", whole)
    )
    assert len(means[0]) == 8 and [row[0] for row in means[1:]] == ["oracle", "seasonal_naive"]
    assert coverage[1] == ["nominal", "50.0 %", "80.0 %", "95.0 %"]
    assert coverage[2][1:] == [
        f"{100 * getattr(comparison.scores['oracle'], f'coverage_{p}').mean():.1f} %"
        for p in (50, 80, 95)
    ]  # fmt: skip
    assert ["steps per season", str(PERIOD)] in run
    # Three figures for a screen and for a phone, ten and less panels of random and worst series.
    assert whole.count("<svg") == 2 * 3 + 7 + 6 and "http" not in whole
    with pytest.raises(FileExistsError):
        write_collection_report(path, {"all": comparison})


def test_a_report_of_several_groups_concludes_for_each(tmp_path):
    values = {f"s{k}": np.random.default_rng(k).normal(size=20).cumsum() for k in range(6)}
    groups = {name: "early" if name < "s3" else "late" for name in values}
    model = CollectionModel(
        "shifted", lambda collection, seed: Attempt([seasonal_naive(x) + 1 for x in collection])
    )
    found = compare_collection(hold_out(values, HORIZON, PERIOD, groups=groups), [model])
    path = tmp_path / "report.html"
    write_collection_report(path, found)
    whole = path.read_text()
    for group in found.values():
        assert whole.count(html.escape(" ".join(conclusions(group)))) == 1
    assert "<h2>early: 3 series</h2>" in whole and "<h2>all: 6 series</h2>" in whole
