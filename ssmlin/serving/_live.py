"""A page on this machine's own address that draws a stream of rows as they come."""

import contextlib
import html
import json
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np

from ssmlin.serving._rows import RowStep, RowStream, known

_LEVELS = (80, 95)  # percentages of the intervals, as the page has them
_HISTORY, _HORIZON = 2000, 24  # rows that a browser is told that comes late; steps of the forecast


class LivePage:
    """A server in threads of its own, for browsers on this machine alone.

    Args:
        stream: what the rows go through; it is asked for a forecast when somebody looks.
        port: 0 for a free one; OSError if it cannot be had.
        style: of the page, CSS.
    """

    def __init__(self, stream: RowStream, port: int, style: str = "") -> None:
        page = files("ssmlin.serving").joinpath("_live.html").read_text("utf-8")
        title = html.escape(", ".join(stream.layout.targets))
        self.page = page.replace("{style}", style).replace("{title}", title)
        self._stream, self._events = stream, deque[str](maxlen=_HISTORY)
        self._changed, self._has_ended, self._told = threading.Condition(), False, 0
        self._observed, self._inside = 0, np.zeros(len(_LEVELS), int)
        answer = type("Answer", (_Answer,), {"live": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", port), answer)
        self._server.daemon_threads = False  # so that the end waits for the last events
        self.hosts = [f"{name}:{self._server.server_port}" for name in ("127.0.0.1", "localhost")]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def tell(self, num_rows: int, num_skipped: int, step: RowStep | None = None) -> None:
        """Draw a row; without a step count one that was skipped."""
        drawn = []
        if step is not None:
            means, (lower, upper) = step.seen.mean, step.seen.intervals(_LEVELS)
            self._observed += int((np.isfinite(step.values) & np.isfinite(means)).sum())
            self._inside += ((lower <= step.values) & (step.values <= upper)).sum(axis=1)
            each = zip(step.seen.targets, step.values, means, lower.T, upper.T, strict=True)
            drawn = [
                {"series": self._label(step.name, column), "value": known(value)}
                | _law(step.time, *law)
                for column, value, *law in each
            ]
        shares = [int(x) / self._observed if self._observed else None for x in self._inside]
        said = {"rows": num_rows, "skipped": num_skipped, "inside": shares, "steps": drawn}
        with self._changed:
            self._events.append(f"data: {json.dumps(said)}\n\n")
            self._told += 1
            self._changed.notify_all()

    def events(self) -> Iterator[str]:
        """What was told and will be, as a browser reads it, until the end."""
        told, has_ended = 0, False
        while not has_ended:
            with self._changed:
                if self._told == told and not self._has_ended:
                    self._changed.wait(15)  # then writing tells whether a browser is there
                new = list(self._events)[max(0, len(self._events) + told - self._told) :]
                told, has_ended = self._told, self._has_ended
            yield "".join(new) or ": still here\n\n"

    def ahead(self, label: str) -> list[dict[str, Any]]:
        """The forecast of a column of a series; nothing where inputs to come are not known."""
        for name in () if self._stream.layout.inputs else self._stream.names:
            for i, column in enumerate(self._stream.layout.targets):
                if self._label(name, column) == label:
                    found = self._stream.forecast(name, _HORIZON, _LEVELS)
                    times = [self._stream.time_of(name, time) for time in found.times]
                    ends = found.lower[:, :, i].T, found.upper[:, :, i].T
                    return list(map(_law, times, found.means[:, i], *ends))
        return []

    def close(self) -> None:
        """End the connections, after the last events."""
        with self._changed:
            self._has_ended = True
            self._changed.notify_all()
        self._server.shutdown()
        self._server.server_close()

    def _label(self, name: str, column: str) -> str:
        return ", ".join([name] * bool(name) + [column] * (len(self._stream.layout.targets) > 1))


class _Answer(BaseHTTPRequestHandler):
    """The answer to one request of a browser: the page, its events, or a forecast."""

    live: LivePage
    timeout = 5.0  # of a browser that does not read

    def do_GET(self) -> None:
        asked, live = urlsplit(self.path), self.live
        series = parse_qs(asked.query, keep_blank_values=True).get("series", [""])[0]
        answers: dict[str, tuple[str, Callable[[], Iterable[str]]]] = {
            "/": ("text/html", lambda: [live.page]),
            "/ahead": ("application/json", lambda: [json.dumps(live.ahead(series))]),
            "/events": ("text/event-stream", live.events),
        }
        # A site whose name leads to this address may not read.
        if self.headers.get("Host") not in live.hosts or asked.path not in answers:
            return self.send_error(404)
        kind, body = answers[asked.path]
        self.send_response(200)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.end_headers()
        with contextlib.suppress(OSError):  # the browser has gone
            for text in body():
                self.wfile.write(text.encode())

    def log_message(self, *said: Any) -> None:
        """Nothing: standard error is for the rows."""


def _law(time: Any, mean: float, lower: np.ndarray, upper: np.ndarray) -> dict[str, Any]:
    """A law as the page has it."""
    bands = [[known(a), known(b)] for a, b in zip(lower, upper, strict=True)]
    return {"time": str(time), "mean": known(mean), "bands": bands}
