"""The HTML report, looked at in a browser, and the figures in it."""

import html.parser
import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from ssmlin.comparison import _figures as figures
from ssmlin.comparison import write_report
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


HEADINGS = ["Leaderboard", "Failed", "Warnings", "Predictions", "Where the difference was made",
            "Calibration", "Gates over time", "Weights of the average", "Posterior of the gates",
            "What was run"]  # fmt: skip


@pytest.mark.slow
def test_a_browser_shows_all_of_it_and_asks_for_nothing(comparison, report, tmp_path):
    script = Path(__file__).with_name("browser.py")
    starts = [sys.executable, "-c", "import PyQt6.QtWebEngineWidgets"]
    if subprocess.run(starts, capture_output=True).returncode:
        pytest.skip("PyQt6-WebEngine, or a library of the system that it wants, is missing")
    views = [1200, tmp_path / "desk.png", 390, tmp_path / "phone.png"]
    done = subprocess.run(
        [sys.executable, script, report, *map(str, views)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    looks = json.loads(done.stdout.strip().splitlines()[-1])
    for found in looks:  # nothing is cut off, hidden in a box of its own, or to the side
        assert found["width"] <= found["viewport"]
        beyond = [name for name, edge in found["edges"] if edge > found["viewport"] + 0.5]
        assert beyond == []
    assert [found["tables"] for found in looks][0] == looks[1]["tables"]
    found = looks[0]
    assert found["title"] == f"{comparison.split.series.name}: comparison"
    assert found["headings"] == HEADINGS
    assert len(found["images"]) == 9
    for label, complete, width, shown in found["images"]:
        assert complete and width > 400 and shown > 300, label
    leaderboard = found["tables"][0]
    assert {row[0] for row in leaderboard[1:]} == {r.name for r in comparison.results}
    assert leaderboard[0][:2] == ["model", "log density"]
    best = comparison.results[0]
    assert leaderboard[1][:2] == [best.name, f"{best.log_density:.3f}"]
    assert found["said"] == [] and found["colours"] > 20
    assert all(url.startswith(("file:", "data:")) for url in found["urls"])


class _Parser(html.parser.HTMLParser):
    """Collects tags."""

    def __init__(self):
        super().__init__()
        self.open, self.links = [], []

    def handle_starttag(self, tag, attrs):
        self.links += [value for key, value in attrs if key in ("src", "href")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_file_is_well_formed_and_escaped(report):
    parser = _Parser()
    text = report.read_text()
    parser.feed(text)
    assert parser.open == [] and all(link.startswith("data:image") for link in parser.links)
    assert "<b>" not in text and "<i>" not in text and "always" in text
    assert "ssmlin compare x" in text and "<script" not in text


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


def test_figures_show_the_scores(comparison):
    done = [r for r in comparison.results if r.scores is not None]
    base = next(r for r in done if r.name == "autoregression").scores
    figure = figures.gains_figure(comparison)
    lines = {line.get_label(): line.get_ydata() for line in figure.axes[0].lines}
    for result in done:
        if result.name in lines:
            gain = np.sum(result.scores.log_density - base.log_density)
            assert lines[result.name][-1] == pytest.approx(gain)
    weights = next(r.details for r in done if r.name == "average")
    stacks = figures.weights_figure(comparison).axes[0].collections
    assert len(stacks) == len(weights.names) == 2
