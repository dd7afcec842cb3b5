"""The house: one direction of imports, no room's private names elsewhere, no global settings."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ssmlin

pytestmark = pytest.mark.quick

ROOT = Path(ssmlin.__file__).parent
CONTRIBUTING = Path(__file__).parents[1] / "CONTRIBUTING.md"
# Each room imports only from those before it. Learning knows models by their interface alone, so
# that models can offer it as methods.
SHARED = (
    "_lazy", "_optional", "_batch_options", "_buckets", "_typing", "_checks", "_files", "_progress",
    "_compilation_cache", "_display", "_precision", "_warnings",
)  # fmt: skip
ROOMS = (
    "data", "attention", "lgssm", "mechanisms", "inference", "learning", "models", "forecasting",
    "serving", "comparison", "study", "demonstration", "cli",
)  # fmt: skip
# One file, on top of all: its classes inherit from those of a library that few have.
WRAPPER = "sktime"
OUTSIDE = {ROOT / "__init__.py", ROOT / "__main__.py"}
FILES = sorted(path for path in ROOT.rglob("*.py") if path not in OUTSIDE)
PER_FILE = pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))


def room(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported(path: Path) -> list[tuple[str, ...]]:
    """What a file imports of ssmlin: the parts of each dotted name after "ssmlin"."""
    names = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            package, *parts = node.module.split(".")
            if package == "ssmlin":
                names += [(*parts, alias.name) for alias in node.names]
        if isinstance(node, ast.Import):
            names += [tuple(alias.name.split(".")[1:]) for alias in node.names
                      if alias.name.startswith("ssmlin.")]  # fmt: skip
    return names


def imports_between_rooms() -> dict[str, set[str]]:
    found: dict[str, set[str]] = {name: set() for name in ROOMS}
    for path in FILES:
        here = room(path)
        if here in ROOMS:
            found[here] |= {name[0] for name in imported(path)} & set(ROOMS) - {here}
    return found


@PER_FILE
def test_rooms_import_from_those_before(path):
    order = (*SHARED, *ROOMS, WRAPPER)
    for name in imported(path):
        assert order.index(name[0]) <= order.index(room(path)), f"{path} imports {name}"


@PER_FILE
def test_private_names_stay_in_their_room(path):
    for name in imported(path):
        foreign = name[0] != room(path) and name[0] not in SHARED
        private = [part for part in name[1:] if part.startswith("_")]
        assert not (foreign and private), f"{path} imports {'.'.join(name)}"


@PER_FILE
def test_files_and_classes_are_short(path):
    text = path.read_text()
    tree = ast.parse(text)
    if len(text.splitlines()) > 500:
        reason = ast.get_docstring(tree) or ""
        assert "more than 500 lines" in reason, f"{path}: say why in the docstring"
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            assert node.end_lineno - node.lineno < 300, f"{path}: {node.name}"


@PER_FILE
def test_no_global_settings(path):
    text = path.read_text()
    assert "basicConfig" not in text
    # The one setting that is asked for by name.
    assert "config.update" not in text or path.name == "_compilation_cache.py"


def test_the_table_of_rooms_is_that_of_the_folders():
    table = re.findall(r"^\| `(\w+)` \| \S", CONTRIBUTING.read_text(), re.M)
    folders = {path.name for path in ROOT.iterdir() if (path / "__init__.py").exists()}
    assert tuple(table) == ROOMS and set(ROOMS) == folders


def test_the_drawing_of_rooms_is_that_of_the_imports():
    """An arrow for each import that no longer way round explains."""
    drawing = re.search(r"```mermaid\n(.*?)```", CONTRIBUTING.read_text(), re.S)
    assert drawing is not None
    arrows = set(re.findall(r"^ *(\w+) --> (\w+)$", drawing.group(1), re.M))
    direct = imports_between_rooms()

    def reached(name: str) -> set[str]:
        below = direct[name]
        return below.union(*map(reached, below))

    expected = {
        (below, above)
        for above in ROOMS
        for below in direct[above]
        if not any(below in reached(other) for other in direct[above] - {below})
    }
    assert arrows == expected


def test_the_citation_is_of_this_version():
    cited, project = (
        CONTRIBUTING.with_name(x).read_text() for x in ("CITATION.cff", "pyproject.toml")
    )
    assert re.findall(r"^version: (.+)$", cited, re.M) == re.findall(
        r'^version = "(.+)"$', project, re.M
    )


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


def num_equations(function, *arguments) -> int:
    """Equations of a traced function, those of its scans and branches included."""

    def count(jaxpr) -> int:
        total = len(jaxpr.eqns)
        for equation in jaxpr.eqns:
            for value in equation.params.values():
                for part in value if isinstance(value, tuple | list) else (value,):
                    inner = getattr(part, "jaxpr", part)
                    total += count(inner) if hasattr(inner, "eqns") else 0
        return total

    return count(jax.make_jaxpr(function)(*arguments).jaxpr)


def attention(method):
    def run(keys):
        return ssmlin.linear_attention(
            "gated_deltanet", keys=keys, values=keys[:, :1], queries=keys, alpha=0.9, beta=0.5,
            method=method,
        )  # fmt: skip

    return run


def matrix(function, **options):
    def run(keys):
        lgssm = ssmlin.matrix_lgssm(
            "gated_deltanet", keys=keys, values=keys[:, :1], queries=keys, alpha=0.9, beta=0.5,
            process_noise=0.1, emission_noise=1.0,
        )  # fmt: skip
        return function(lgssm, keys[:, :1], **options)

    return run


def dense(function, **options):
    def run(keys):
        lgssm = ssmlin.matrix_lgssm(
            "mamba2", keys=keys, values=keys[:, :1], queries=keys, alpha=0.9, process_noise=0.1,
            emission_noise=1.0,
        )  # fmt: skip
        return function(lgssm.to_dynamax(), keys[:, :1], **options)

    return run


def draw(lgssm, emissions):
    return ssmlin.matrix_lgssm_posterior_sample(jax.random.key(0), lgssm, emissions, 2)


OVER_TIME = {
    **{f"attention-{method}": attention(method)
       for method in ("sequential", "associative", "chunked")},
    **{f"filter-{method}": matrix(ssmlin.matrix_lgssm_filter, method=method)
       for method in ("sequential", "associative", "chunked")},
    **{f"smoother-{method}": matrix(ssmlin.matrix_lgssm_smoother, method=method)
       for method in ("sequential", "associative", "chunked")},
    "posterior_sample": matrix(draw),
    "approximate_filter": matrix(ssmlin.matrix_lgssm_approximate_filter, covariance="diagonal"),
    "dense-filter": dense(ssmlin.lgssm_filter),
    "dense-smoother": dense(ssmlin.lgssm_smoother),
    "gradient": jax.grad(
        lambda keys: matrix(ssmlin.matrix_lgssm_filter, store="loglik")(keys).marginal_loglik
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", OVER_TIME)
def test_no_loop_over_time_is_unrolled(name):
    """The traced program of 2048 steps is about as long as that of 256: steps are in scans."""
    short, long = (
        num_equations(OVER_TIME[name], jnp.asarray(np.ones((steps, 2)))) for steps in (256, 2048)
    )
    assert long < 1.6 * short
