"""Looks at a page in Chromium, as wide as is asked for, and prints what is there as JSON.

browser.py PAGE light|dark WIDTH SCREENSHOT [WIDTH SCREENSHOT ...]
"""

import json
import os
import sys

SCRIPT = """JSON.stringify({
  title: document.title,
  headings: [...document.querySelectorAll('h2')].map(x => x.innerText),
  figures: [...document.querySelectorAll('figure svg')].map(
      x => [x.getAttribute('aria-label'), x.getBoundingClientRect()]).filter(x => x[1].width).map(
      x => [x[0], x[1].width, x[1].right]),
  letters: Math.min(...[...document.querySelectorAll('figure svg text')].map(
      x => x.getBoundingClientRect()).filter(x => x.width).map(x => x.height)),
  colours: [getComputedStyle(document.body).backgroundColor,
            ...new Set([...document.querySelectorAll('svg text')].map(
                x => getComputedStyle(x).fill))],
  undefined: [...document.querySelectorAll('svg [clip-path], svg use')].map(
      x => (x.getAttribute('clip-path') || x.getAttribute('href')).match(/#[^)]*/)[0].slice(1)
  ).filter(x => document.querySelectorAll('[id="' + x + '"]').length !== 1),
  tables: [...document.querySelectorAll('table')].map(
      x => [...x.rows].map(r => [...r.cells].map(c => c.textContent))),
  sorted: (() => {
      const table = document.querySelector('table');
      table.rows[0].cells[3].click();
      table.rows[0].cells[3].click();
      return [...table.tBodies[0].rows].map(r => r.cells[3].dataset.value ?? '');
  })(),
  width: document.documentElement.scrollWidth, viewport: window.innerWidth,
  edges: [...document.querySelectorAll('table, td, th, pre, li, h1, p, svg')].map(
      x => [x.innerText || x.tagName, x.getBoundingClientRect().right + x.scrollWidth
            - x.clientWidth]),
})"""


def main():
    """Open the page, wait until it is shown, and say what it holds."""
    scheme = {"dark": 0, "light": 1}[sys.argv[2]]
    os.environ["QT_QPA_PLATFORM"] = "offscreen"
    os.environ["QTWEBENGINE_CHROMIUM_FLAGS"] = (
        f"--no-sandbox --disable-gpu --blink-settings=preferredColorScheme={scheme}"
    )
    from PyQt6.QtCore import QTimer, QUrl
    from PyQt6.QtWebEngineCore import QWebEnginePage, QWebEngineUrlRequestInterceptor
    from PyQt6.QtWebEngineWidgets import QWebEngineView
    from PyQt6.QtWidgets import QApplication

    class Page(QWebEnginePage):
        """Keeps what scripts complain about."""

        said: list[str] = []

        def javaScriptConsoleMessage(self, level, message, line, source):
            self.said.append(message)

    class Requests(QWebEngineUrlRequestInterceptor):
        """Keeps what the page asks for."""

        urls: list[str] = []

        def interceptRequest(self, info):
            self.urls.append(info.requestUrl().toString()[:80])

    app = QApplication(["browser"])
    view, requests = QWebEngineView(), Requests()
    page = Page(view)
    page.setUrlRequestInterceptor(requests)
    view.setPage(page)
    todo = list(zip(map(int, sys.argv[3::2]), sys.argv[4::2], strict=True))
    found = []

    def look():
        if not todo:
            print(json.dumps(found))
            app.quit()
            return
        view.resize(todo[0][0], 1400)
        QTimer.singleShot(1000, lambda: page.runJavaScript(SCRIPT, looked))

    def looked(text):
        width, screenshot = todo.pop(0)
        image = view.grab().toImage()
        image.save(screenshot)
        colours = {image.pixel(x, y) for x in range(0, width, 11) for y in range(0, 1400, 11)}
        said = {"said": page.said, "urls": requests.urls, "pixels": len(colours)}
        found.append(json.loads(text) | said)
        look()

    view.resize(todo[0][0], 1400)
    view.show()
    view.loadFinished.connect(lambda ok: look())
    view.load(QUrl.fromLocalFile(os.path.abspath(sys.argv[1])))
    QTimer.singleShot(60_000, app.quit)
    app.exec()


if __name__ == "__main__":
    main()
