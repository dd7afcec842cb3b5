"""Looks at a live page in Chromium, when it has drawn a forecast, and prints what is there as JSON.

live_browser.py URL WIDTH SCREENSHOT [WIDTH SCREENSHOT ...]
"""

import json
import os
import sys

SCRIPT = """JSON.stringify({
  circles: document.querySelectorAll('#chart circle').length,
  past: document.querySelectorAll('#chart path.past').length,
  ahead: document.querySelectorAll('#chart path.ahead').length,
  rows: document.getElementById('rows').innerText,
  drawn: +(document.getElementById('chart').getAttribute('viewBox') || '0 0 0').split(' ')[2],
  letters: Math.min(...[...document.querySelectorAll('#chart text')].map(
      x => x.getBoundingClientRect().height)),
  width: document.documentElement.scrollWidth, viewport: window.innerWidth,
})"""


def main():
    """Open the page, and at each width wait until it is drawn so."""
    os.environ["QT_QPA_PLATFORM"] = "offscreen"
    os.environ["QTWEBENGINE_CHROMIUM_FLAGS"] = "--no-sandbox --disable-gpu"
    from PyQt6.QtCore import QTimer, QUrl
    from PyQt6.QtWebEngineCore import QWebEnginePage
    from PyQt6.QtWebEngineWidgets import QWebEngineView
    from PyQt6.QtWidgets import QApplication

    class Page(QWebEnginePage):
        """Keeps what scripts complain about."""

        said: list[str] = []

        def javaScriptConsoleMessage(self, level, message, line, source):
            self.said.append(message)

    app = QApplication(["browser"])
    view = QWebEngineView()
    page = Page(view)
    view.setPage(page)
    todo = list(zip(map(int, sys.argv[2::2]), sys.argv[3::2], strict=True))
    found = []

    def look():
        QTimer.singleShot(200, lambda: page.runJavaScript(SCRIPT, looked))

    def looked(text):
        width, screenshot = todo[0]
        seen = json.loads(text)
        if not seen["ahead"] or not 0 < width - seen["drawn"] < width / 3:
            look()  # not yet
            return
        view.grab().save(screenshot)
        found.append(seen | {"said": page.said})
        todo.pop(0)
        if todo:
            view.resize(todo[0][0], 900)
            look()
            return
        print(json.dumps(found))
        app.quit()

    view.resize(todo[0][0], 900)
    view.show()
    view.loadFinished.connect(lambda ok: look())
    view.load(QUrl(sys.argv[1]))
    QTimer.singleShot(60_000, app.quit)
    app.exec()


if __name__ == "__main__":
    main()
