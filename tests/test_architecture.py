"""The house: one direction of imports, no global settings, no loop over time."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import ssmlin

ROOT = Path(ssmlin.__file__).parent
# Each room imports only from those before it. Learning knows models by their interface alone, so
# that models can offer it as methods.
ROOMS = (
    "_typing", "_checks", "_files", "_progress", "data", "attention", "lgssm", "mechanisms",
    "inference", "learning", "models", "forecasting", "comparison", "study", "demonstration", "cli",
)  # fmt: skip
FILES = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


def room(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("ssmlin"):
            parts = node.module.split(".")
            names |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_rooms_import_from_those_before(path):
    here = ROOMS.index(room(path))
    for name in imported(path):
        assert ROOMS.index(name) <= here, f"{path} imports {name}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_global_settings(path):
    text = path.read_text()
    assert "config.update" not in text and "basicConfig" not in text


def test_public_names_exist_and_are_documented():
    for name in ssmlin.__all__:
        thing = getattr(ssmlin, name)
        assert not callable(thing) or thing.__doc__, name


def test_importing_changes_no_setting_and_loads_nothing_heavy():
    code = """
import sys, logging, jax
import dynamax.linear_gaussian_ssm, dynamax.hidden_markov_model
before = dict(jax.config.values), logging.root.level, list(logging.root.handlers)
loaded = set(sys.modules)
import ssmlin
assert before == (dict(jax.config.values), logging.root.level, list(logging.root.handlers))
new = {name.split(".")[0] for name in set(sys.modules) - loaded}
heavy = new & {"matplotlib", "pandas", "statsmodels", "arviz", "blackjax", "typer", "rich"}
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", code], check=True)
