"""The HTML report, looked at in a browser, and the figures in it."""

import html.parser
import itertools
import json
import re
import subprocess
import sys
from pathlib import Path

import arviz
import jax
import numpy as np
import pytest

from ssmlin.comparison import _figures as figures
from ssmlin.comparison import gate_paths, write_report
from ssmlin.comparison._gates import gates_figure
from ssmlin.comparison._intervals import Estimate, intervals_figure
from ssmlin.comparison._panels import legend_above
from ssmlin.forecasting import sample_over_gaps, with_lags


@pytest.fixture(scope="module")
def report(comparison, tmp_path_factory):
    result = next(r for r in comparison.results if r.name == "deltanet")
    fit = result.details
    data = with_lags(fit.model, comparison.split.observed)
    props = fit.model.param_props
    draws = sample_over_gaps(
        jax.random.key(0), fit.model, fit.params, props, *data, variables="beta",
        algorithm="laplace", num_chains=1, num_samples=30, progress=False,
    )  # fmt: skip
    # The chain has completed data, but what was drawn was not observed.
    assert np.isnan(draws.observed_data["emissions"].to_numpy()[70, 1])
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(path, comparison, command="ssmlin compare x", draws=draws, drawn_from="deltanet")
    return path


HEADINGS = ["Leaderboard", "Failed", "Predictions", "Where the difference was made",
            "Calibration", "Gates over time", "Weights of the average", "Posterior of the gates",
            "What was run"]  # fmt: skip


def looks(page, scheme, *views):
    """What a browser says of a page, at each width."""
    script = Path(__file__).with_name("browser.py")
    starts = [sys.executable, "-c", "import PyQt6.QtWebEngineWidgets"]
    if subprocess.run(starts, capture_output=True).returncode:
        pytest.skip("PyQt6-WebEngine, or a library of the system that it wants, is missing")
    done = subprocess.run(
        [sys.executable, script, page, scheme, *map(str, views)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    return json.loads(done.stdout.strip().splitlines()[-1])


def brightness(colour):
    return sum(map(int, re.findall(r"\d+", colour)[:3])) / 3


@pytest.mark.slow
def test_a_browser_shows_all_of_it_and_asks_for_nothing(comparison, report, tmp_path):
    desk, phone = looks(report, "light", 1200, tmp_path / "desk.png", 390, tmp_path / "phone.png")
    for found in (desk, phone):  # nothing is cut off, hidden in a box of its own, or to the side
        assert found["width"] <= found["viewport"]
        beyond = [name for name, edge in found["edges"] if edge > found["viewport"] + 0.5]
        assert beyond == [] and found["undefined"] == []
        assert found["letters"] >= 9
        assert found["said"] == [] and found["pixels"] > 20
        assert all(url.startswith(("file:", "data:")) for url in found["urls"])
    assert desk["tables"][1:] == phone["tables"][1:]
    shown = [name for name, *_ in desk["figures"]]
    assert shown == [name for name, *_ in phone["figures"]] and len(shown) == len(set(shown)) == 15
    assert all(width > 340 or name.startswith("PIT") for name, width, _ in phone["figures"])
    assert desk["title"] == f"{comparison.split.series.name}: comparison"
    assert desk["headings"] == HEADINGS
    leaderboard = desk["tables"][0]
    assert {row[0] for row in leaderboard[1:]} == {r.name for r in comparison.results}
    assert leaderboard[0][:2] == ["model", "log density"] and len(leaderboard[0]) == 8
    best = comparison.results[0]
    assert leaderboard[1][:2] == [best.name, f"{best.log_density:.3f}"]
    crps = [float(x) for x in desk["sorted"][:-1]]
    assert crps == sorted(crps)[::-1] and desk["sorted"][-1] == ""  # what failed comes last


@pytest.mark.slow
def test_figures_and_words_follow_a_dark_screen(report, tmp_path):
    for scheme in ("light", "dark"):
        (found,) = looks(report, scheme, 390, tmp_path / "phone.png")
        paper, *inks = map(brightness, found["colours"])
        assert (paper < 60) == (scheme == "dark") and len(inks) > 0
        assert all(abs(ink - paper) > 100 for ink in inks)


class _Parser(html.parser.HTMLParser):
    """Collects tags."""

    def __init__(self):
        super().__init__()
        self.open, self.links, self.ids, self.labels = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.links += [value for key, value in attrs if key in ("src", "href")]
        self.ids += [value for key, value in attrs if key == "id"]
        self.labels += [value for key, value in attrs if key == "aria-label"]
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_file_is_well_formed_and_escaped(report):
    parser = _Parser()
    text = report.read_text()
    parser.feed(text)
    # What figures refer to is inside them, and defined once.
    assert parser.open == [] and {link[1:] for link in parser.links} <= set(parser.ids)
    assert len(parser.ids) == len(set(parser.ids)) and "http" not in text
    drawn = [label for label in parser.labels if not label.startswith("PIT")]
    assert drawn[::2] == drawn[1::2] and len(drawn) == 20  # for a screen and for a phone
    assert "<i>always" not in text and "<b>&quot;" not in text and "always" in text
    assert "<span>ssmlin</span> <span>compare</span> <span>x</span>" in text
    drawings = text[text.index("<body>") :]
    assert not re.search("#1f77b4|DejaVu|stroke: #000", drawings)  # the page's colours and fonts
    assert "<title>deltanet: -" in text  # where one points at its row of the differences


def test_a_report_is_never_overwritten(comparison, report):
    before = report.read_bytes()
    with pytest.raises(FileExistsError):
        write_report(report, comparison)
    assert report.read_bytes() == before


def test_a_report_of_failures_says_so(comparison):
    failed = comparison._replace(results=[r for r in comparison.results if r.failure])
    with pytest.raises(ValueError, match="did not fail"):
        write_report("nowhere.html", failed)
    with pytest.raises(ValueError, match="name: expected one of"):
        figures.held_out_figure(comparison, "broken")
    with pytest.raises(ValueError, match="reference: expected one of"):
        figures.gains_figure(comparison, "broken")


def test_draws_of_another_model_are_refused(comparison):
    with pytest.raises(
        ValueError, match="drawn_from: expected the mechanism .*deltanet.*; got 'pers"
    ):
        write_report("nowhere.html", comparison, draws=object(), drawn_from="persistence")


def test_figures_show_the_scores(comparison):
    done = [r for r in comparison.results if r.scores is not None]
    base = next(r for r in done if r.name == "autoregression").scores
    lines = by_label(figures.gains_figure(comparison).axes[0])
    covered = by_label(figures.coverage_figure(comparison).axes[0])
    for result in done:
        if result.name in lines:
            gain = np.sum(result.scores.log_density - base.log_density)
            assert lines[result.name].get_ydata()[-1] == pytest.approx(gain)
        shares = [np.mean(np.abs(result.scores.pit - 0.5) <= x / 40) for x in range(1, 20)]
        drawn = covered[result.name].get_ydata() + covered[result.name].get_xdata()
        np.testing.assert_allclose(drawn, 100 * np.array(shares))
    weights = next(r.details for r in done if r.name == "average")
    stacks = figures.weights_figure(comparison).axes[0].collections
    assert len(stacks) == len(weights.names) == 2


def by_label(axis):
    return {line.get_label(): line for line in axis.lines}


def test_one_bad_model_does_not_rule_the_scale_of_differences():
    rows = [Estimate(f"m{k}", -x, -x - 0.1, -x + 0.1, f"{-x}")
            for k, x in enumerate((0.0, 0.1, 0.2, 0.3, 50.0, np.inf))]  # fmt: skip
    (axis,) = intervals_figure(rows, "nats").axes
    low, high = axis.get_xlim()
    assert -2.5 < low < -0.4 and 0.1 < high < 0.3
    # An arrow at the edge and the number beside it, of each that is outside.
    assert [text.get_text() for text in axis.texts] == ["-50.0", "-inf"]
    arrows = [line for line in axis.lines if line.get_marker() == "<"]
    assert len(arrows) == 2 and all(low < arrow.get_xdata()[0] < -0.4 for arrow in arrows)
    assert [label.get_text() for label in axis.get_yticklabels()] == [row.name for row in rows]


def test_names_stand_above_the_panels_at_any_width(comparison):
    figure = figures.held_out_figure(comparison, "deltanet")
    for width in (9.0, 4.3):
        figure.set_figwidth(width)
        legend_above(figure)
        figure.canvas.draw()
        (legend,) = figure.legends
        box = legend.get_window_extent()
        assert not any(axis.get_window_extent().overlaps(box) for axis in figure.axes)
        assert box.x0 >= 0 and box.x1 <= figure.bbox.x1
        assert [text.get_text() for text in legend.get_texts()] == [
            "observed", "one step ahead, median", "80 % interval"
        ]  # fmt: skip


def test_forecasts_of_several_steps_stand_beside_what_came(comparison):
    result = next(r for r in comparison.results if r.name == "persistence")
    split, steps = comparison.split, len(comparison.split.observed.values)
    axis = figures.paths_figure(comparison, "persistence", level=0.5).axes[1]
    observed, *medians = (line for line in axis.lines if len(line.get_xdata()) > 2
                          or line.get_color() == "C0")  # fmt: skip
    np.testing.assert_allclose(observed.get_ydata(), split.series.values[split.num_train :, 1])
    ends = [line.get_xdata() for line in medians]
    assert ends[0][-1] == split.series.times[-1]
    assert all(later[0] > earlier[-1] for later, earlier in itertools.pairwise(ends))
    # The last origin, two steps before the end.
    paths = split.scaling.invert(result.draws[-1])
    np.testing.assert_allclose(medians[0].get_ydata(), np.median(paths[..., 1], axis=0))
    assert ends[0][0] == split.series.times[steps - 2]
    with pytest.raises(ValueError, match="name: expected a model with paths, one of"):
        figures.paths_figure(comparison, "broken")


def test_the_band_of_the_gates_is_that_of_the_draws(comparison):
    fit = next(r.details for r in comparison.results if r.name == "mamba2")
    steps = len(comparison.split.observed.values)
    draws = np.random.default_rng(0).uniform(size=(2, 40, steps))
    tree = arviz.from_dict({"posterior": {"beta_t": draws}}, dims={"beta_t": ["time"]})
    figure = gates_figure(comparison, tree, "mamba2", level=0.5)
    assert [axis.get_ylabel() for axis in figure.axes] == ["mamba2", "deltanet"]
    (line,) = (x for x in figure.axes[0].lines if x.get_label() == "β_t")
    np.testing.assert_allclose(
        line.get_ydata(), gate_paths(fit, comparison.split.observed)["beta"][1:]
    )
    band = figure.axes[0].collections[0].get_paths()[0].vertices[:, 1]
    low = np.quantile(draws.reshape(-1, steps), 0.25, axis=0)[1:]
    assert band.min() == pytest.approx(low.min()) and not figure.axes[1].collections
