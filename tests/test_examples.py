"""The example and the README's code run as they stand."""

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.float32
def test_quickstart_tracks_the_coefficient(capsys):
    runpy.run_path(str(ROOT / "examples" / "quickstart.py"))
    shown = capsys.readouterr().out
    pairs = re.findall(r"coefficient ([+-][\d.]+), true ([+-][\d.]+)", shown)
    assert len(pairs) == 3
    for found, true in pairs:
        assert abs(float(found) - float(true)) < 0.35


#: What trains or samples for about a minute runs with the calibration tests.
LONG = {
    "approximate_covariances",
    "associative_recall",
    "em_and_sgd",
    "parity",
    "posterior",
    "recovery",
    "state_tracking",
}
OTHERS = [
    pytest.param(path, marks=[pytest.mark.calibration] if path.stem in LONG else [], id=path.stem)
    for path in sorted((ROOT / "examples").glob("*.py"))
    if path.stem != "quickstart"
]


@pytest.mark.slow
@pytest.mark.parametrize("path", OTHERS)
def test_example_runs(path, tmp_path):
    environment = os.environ | {"MPLBACKEND": "Agg", "PYTHONPATH": str(ROOT)}
    environment.pop("JAX_ENABLE_X64", None)
    subprocess.run([sys.executable, str(path)], check=True, cwd=tmp_path, env=environment)


@pytest.mark.slow
@pytest.mark.float32
@pytest.mark.parametrize("page", ["README.md", "docs/index.md"])
def test_code_on_pages_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # it writes files
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), flags=re.S)
    assert blocks
    names: dict[str, object] = {}  # a page is read from its top
    for block in blocks:
        exec(compile(block, page, "exec"), names)  # noqa: S102
