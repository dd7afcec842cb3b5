"""What is loaded when, and what is said where a package is missing; each in a fresh process."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

LIBRARIES = (
    "jax", "dynamax", "tensorflow_probability", "scipy.stats", "optax", "blackjax", "pandas",
    "arviz", "xarray", "statsmodels", "scoringrules", "matplotlib", "typer",
)  # fmt: skip
HEAVY = tuple(name for name in LIBRARIES if name != "jax")

FILTER = """
import jax, jax.numpy as jnp, ssmlin
x = jnp.ones((5, 2))
lgssm = ssmlin.matrix_lgssm("gated_deltanet", keys=x, values=x[:, :1], queries=x, alpha=0.9,
                            beta=0.5, process_noise=0.1, emission_noise=1.0)
ssmlin.matrix_lgssm_filter(lgssm, x[:, :1]).marginal_loglik
"""


def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True,
        env=os.environ | {"COLUMNS": "100"},
    )  # fmt: skip


def check(code: str) -> None:
    done = run(code)
    assert done.returncode == 0, done.stderr


def test_importing_ssmlin_loads_no_library():
    check(f"import sys, ssmlin; assert not {{*sys.modules}} & {{*{LIBRARIES}, 'numpy'}}")


def test_a_filter_loads_jax_alone():
    check(f"{FILTER}\nimport sys\nassert not {{*sys.modules}} & {{*{HEAVY}}}")


@pytest.mark.parametrize(
    ("arguments", "status", "told"),
    [
        (["--help"], 0, "compare"),
        (["--version"], 0, "ssmlin 0."),
        (["fit", "--help"], 0, "--mechanism"),
        (["nothing"], 2, "No such command"),
        (["fit", "data.csv", "--nothing"], 2, "No such option"),
        (["fit", "--target", "y"], 2, "Missing argument"),
        (["forecast", "model", "data.csv", "--horizon", "x"], 2, "for '--horizon'"),
    ],
)
def test_the_command_line_answers_without_libraries(arguments, status, told):
    code = f"""
import sys, runpy
try:
    runpy.run_module("ssmlin", run_name="__main__", alter_sys=True)
finally:
    assert not {{*sys.modules}} & {{*{LIBRARIES}, "numpy"}} - {{"typer"}}
"""
    done = run(code, *arguments)
    assert done.returncode == status, done.stderr
    assert told in done.stdout + done.stderr


def test_every_public_name_is_found_and_listed():
    check("""
import importlib, pkgutil, ssmlin
for room in ("ssmlin", *(f"ssmlin.{m.name}" for m in pkgutil.iter_modules(ssmlin.__path__)
                         if m.ispkg and m.name != "benchmarks")):
    room = importlib.import_module(room)
    listed = set(dir(room))
    for name in room.__all__:
        getattr(room, name)
        assert name in listed, (room, name)
import ssmlin.learning._sgd
assert ssmlin.learning.fit_sgd is ssmlin.learning._sgd.fit_sgd
assert ssmlin.comparison.plots.__name__ == "ssmlin.comparison.plots"
try:
    ssmlin.nothing
except AttributeError as error:
    assert "nothing" in str(error)
else:
    raise AssertionError
""")


def test_a_first_use_inside_a_traced_function_leaves_no_tracer():
    # dynamax makes a key when it is imported, as a default argument.
    check(f"""{FILTER}
import inspect
@jax.jit
def traced(x):
    lgssm.to_dynamax()
    ssmlin.LinearAttentionSSM
    return x
traced(1.0)
from dynamax.ssm import SSM
key = inspect.signature(SSM.fit_sgd).parameters["key"].default
assert isinstance(key, jax.Array) and not isinstance(key, jax.core.Tracer), key
""")


def hiding(*packages: str) -> str:
    """Python finds none of these packages from here on."""
    return f"import sys\nsys.modules |= dict.fromkeys({packages})\n"


OPTIONAL = hiding(
    "arviz", "matplotlib", "pandas", "scoringrules", "statsmodels", "typer", "xarray"
)  # fmt: skip


def test_the_core_works_without_optional_packages():
    check(f"""{OPTIONAL}
import jax, jax.numpy as jnp, ssmlin
{FILTER}
y = jnp.sin(jnp.arange(20.0))[:, None]
model = ssmlin.LinearAttentionSSM("bayesian_memory", 1, 1, 2, num_lags=1)
u = model.compute_inputs(y)
params, _ = model.fit(y, u, num_epochs=2)
model.forecast(params, y, u, horizon=2).means
""")


@pytest.mark.parametrize(
    ("code", "package", "extra"),
    [
        ("ssmlin.Forecaster().fit(np.sin(np.arange(40.0)))", "pandas", "forecast"),
        ("ssmlin.compare(np.sin(np.arange(40.0))[:, None])", "statsmodels", "compare"),
        ("ssmlin.data.read_table('data.csv')", "pandas", "forecast"),
        ("ssmlin.comparison.new_figure(1.0, 1.0)", "matplotlib", "forecast"),
        ("ssmlin.demonstration.load_sunspots()", "statsmodels", "compare"),
        ("ssmlin.sample_posterior(None, None, None, None, None)", "arviz", "posterior"),
    ],
)  # fmt: skip
def test_a_missing_package_is_told_with_its_remedy(code, package, extra):
    done = run(f"{OPTIONAL}\nimport numpy as np, ssmlin\n{code}")
    assert done.returncode == 1
    told = done.stderr.splitlines()[-1]
    assert told.endswith(f"{package}: expected it to be installed; pip install 'ssmlin[{extra}]'")


def test_the_command_line_tells_what_is_missing(tmp_path):
    code = "import sys, ssmlin.cli\nssmlin.cli.main()"
    done = run(f"{OPTIONAL}\n{code}", "--help")
    assert done.returncode == 1
    assert done.stderr == ("Error: typer: expected it to be installed; pip install 'ssmlin[cli]'\n")
    data = tmp_path / "data.csv"
    data.write_text("y\n" + "\n".join(map(str, range(30))))
    done = run(hiding("statsmodels") + code, "compare", str(data), "-y", "y")
    assert done.returncode == 1
    assert done.stderr == (
        "Error: statsmodels: expected it to be installed; pip install 'ssmlin[compare]'\n"
    )


def test_the_extras_bring_what_they_are_named_for():
    from ssmlin._optional import EXTRAS

    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    for package, extra in EXTRAS.items():
        line = " ".join(project["optional-dependencies"][extra])
        assert package in line.replace("arviz", "arviz, with its xarray"), package
