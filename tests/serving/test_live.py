"""The live page of a stream, read as a browser reads it."""

import json
import re
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from test_population_series import KNOWN, MONTHS, columns, forecaster
from typer.testing import CliRunner

from ssmlin.cli._app import app
from ssmlin.comparison import page_style
from ssmlin.serving import LivePage, RowStream, _live


def row(t, value=None, name="b"):
    value = columns(1).values[t, 0] if value is None else value
    return {"shop": name, "month": str(MONTHS[t].date()), "y": str(value)}


@pytest.fixture
def live(monkeypatch):
    """A stream, and its page, that tells a browser of four rows when it comes late."""
    monkeypatch.setattr(_live, "_HISTORY", 4)
    stream = RowStream(forecaster(), (80,))
    page = LivePage(stream, 0, page_style())
    yield stream, page
    page.close()


def asked(page, path, **headers):
    request = urllib.request.Request(f"http://{page.hosts[0]}{path}", headers=headers)
    return urllib.request.urlopen(request, timeout=60)


def events(answer, count):
    """The next events; reading waits for them."""
    found = []
    while len(found) < count:
        line = answer.readline()
        assert line, "the stream of events has ended"
        if line.startswith(b"data:"):
            found.append(json.loads(line[5:]))
    return found


def test_a_browser_is_told_of_rows_and_asks_for_the_forecast(live):
    stream, page = live
    text = asked(page, "/").read().decode()
    assert "<h1>y</h1>" in text and page_style() in text
    assert asked(page, "/").headers["Content-Type"] == "text/html; charset=utf-8"
    early = asked(page, "/events")
    given = [row(KNOWN), row(KNOWN + 1, ""), row(KNOWN + 2, 1e6), row(KNOWN, name="c")]
    steps = [stream.take(one) for one in given]
    for number, step in enumerate(steps, 1):
        page.tell(number, 0, step)
        (event,) = events(early, 1)
        assert event["rows"] == number and [x["series"] for x in event["steps"]] == [step.name]
        (drawn,) = event["steps"]
        assert drawn["time"] == str(step.time)
        if step.name == "c":  # a new one, of which nothing is known yet
            assert drawn["mean"] is None and drawn["bands"] == [[None, None]] * 2
            continue
        lower, upper = step.seen.intervals((80, 95))
        np.testing.assert_allclose(drawn["mean"], step.seen.mean[0])
        np.testing.assert_allclose(drawn["bands"], np.hstack([lower, upper]))
    value = columns(1).values[KNOWN, 0]
    ends = steps[0].seen.intervals((80, 95))
    inside = [int(low <= value <= high) for low, high in zip(*(x[:, 0] for x in ends), strict=True)]
    # Of b two values were observed, the second far away; of c none was predicted.
    assert event["inside"] == [x / 2 for x in inside]
    page.tell(5, 1)
    (event,) = events(early, 1)
    assert (event["rows"], event["skipped"], event["steps"]) == (5, 1, [])
    # One that comes late is told of the last rows.
    late = events(asked(page, "/events"), 4)
    assert [x["rows"] for x in late] == [2, 3, 4, 5]
    ahead = json.load(asked(page, "/ahead?series=b"))
    expected = stream.forecast("b", 24, (80, 95))
    assert [x["time"] for x in ahead] == [str(t.date()) for t in expected.times]
    np.testing.assert_allclose([x["mean"] for x in ahead], expected.means[:, 0])
    np.testing.assert_allclose([x["bands"][1][0] for x in ahead], expected.lower[1, :, 0])
    assert json.load(asked(page, "/ahead?series=nobody")) == []


def test_the_page_is_for_this_machine_alone_and_ends(live):
    stream, page = live
    assert page.hosts[0].startswith("127.0.0.1:")
    for path, host in (("/", "evil.example"), ("/other", page.hosts[0])):
        with pytest.raises(urllib.error.HTTPError, match="404"):
            asked(page, path, Host=host)
    open_one, gone = asked(page, "/events"), asked(page, "/events")
    gone.close()
    page.tell(1, 0, stream.take(row(KNOWN)))
    closing = threading.Thread(target=page.close)
    closing.start()
    assert b'"rows": 1' in open_one.read()  # to its end
    closing.join(60)
    assert not closing.is_alive()
    with pytest.raises(urllib.error.URLError):
        asked(page, "/")


@pytest.mark.parametrize("error, code", [(None, 0), (KeyboardInterrupt, 130)])
def test_the_command_has_a_page_while_it_runs(error, code, tmp_path, monkeypatch):
    forecaster().save(tmp_path / "model")
    take, seen = RowStream.take, []
    pages = []
    begin = LivePage.__init__
    monkeypatch.setattr(LivePage, "__init__", lambda *x: (pages.append(x[0]), begin(*x))[1])

    def looked(self, given):
        if seen and error is not None:
            raise error
        seen.append(asked(pages[0], "/").status)
        return take(self, given)

    monkeypatch.setattr(RowStream, "take", looked)
    lines = [",".join(row(KNOWN + t).values()) for t in range(2)]
    result = CliRunner().invoke(
        app, ["stream", str(tmp_path / "model"), "--live", "0"],
        input="\n".join(["shop,month,y", *lines]),
    )  # fmt: skip
    assert result.exit_code == code and seen == [200] * (2 - (code > 0))
    (address,) = re.findall(r"^live page: http://(127\.0\.0\.1:\d+)$", result.stderr, re.M)
    assert address == pages[0].hosts[0]
    with pytest.raises(urllib.error.URLError):
        asked(pages[0], "/")


def test_a_port_that_is_taken_is_told(live, tmp_path):
    forecaster().save(tmp_path / "model")
    port = live[1].hosts[0].split(":")[1]
    result = CliRunner().invoke(app, ["stream", str(tmp_path / "model"), "--live", port], input="")
    assert result.exit_code == 2
    assert f"Error: --live: expected a port that is free, got {port}" in result.stderr


@pytest.mark.slow
def test_a_browser_draws_the_stream(live, tmp_path):
    starts = [sys.executable, "-c", "import PyQt6.QtWebEngineWidgets"]
    if subprocess.run(starts, capture_output=True).returncode:
        pytest.skip("PyQt6-WebEngine, or a library of the system that it wants, is missing")
    stream, page = live
    for t in range(3):
        page.tell(t + 1, 0, stream.take(row(KNOWN + t)))
    script = Path(__file__).with_name("live_browser.py")
    call = [sys.executable, script, f"http://{page.hosts[0]}/"]
    views = [["1200", tmp_path / "desk.png"], ["390", tmp_path / "phone.png"]]
    done = subprocess.run(
        [*call, *views[0], *views[1]], capture_output=True, text=True, timeout=120
    )
    for found in json.loads(done.stdout.strip().splitlines()[-1]):
        assert found["circles"] == 3 and found["past"] == found["ahead"] == 3
        assert found["rows"] == "3" and found["width"] <= found["viewport"]
        assert found["said"] == [] and found["letters"] >= 9
