"""dynamax's own packaged tests, with the package's functions in the place of dynamax's."""

import os
import subprocess
import sys

import jax
import pytest

# A process of its own: in single precision, as dynamax's tests expect, and with the functions
# replaced wherever dynamax has imported them, before it imports a test module.
PROGRAM = """
import sys
import dynamax.linear_gaussian_ssm.inference as inference
import pytest
from ssmlin.inference import dense

module, *names = sys.argv[1:]
called = set()

def replacement(name):
    def function(*args, **kwargs):
        called.add(name)
        return getattr(dense, name)(*args, **kwargs)
    return function

for name in ("lgssm_filter", "lgssm_smoother", "lgssm_posterior_sample"):
    original, ours = getattr(inference, name), replacement(name)
    for loaded in [x for key, x in sys.modules.items() if key.startswith("dynamax")]:
        if vars(loaded).get(name) is original:
            setattr(loaded, name, ours)

options = ["-q", "-c", "/dev/null", "--rootdir", ".", "-p", "no:cacheprovider"]
# Fails with dynamax's own functions too: tensorflow-probability's filter does not run.
options += ["--deselect", "::TestFilteringAndSmoothing::test_smoother_vs_tfp"]
code = pytest.main([*options, "--pyargs", f"dynamax.linear_gaussian_ssm.{module}"])
assert called == set(names), called
sys.exit(code)
"""

LONG = pytest.mark.calibration
FILTER, SMOOTHER, SAMPLE = "lgssm_filter", "lgssm_smoother", "lgssm_posterior_sample"


@pytest.mark.parametrize(
    ("module", "names"),
    [
        pytest.param("inference_test", [SMOOTHER, SAMPLE], marks=pytest.mark.slow),
        ("input_timing_test", [FILTER, SMOOTHER, SAMPLE]),
        # Nearly all of their time goes into compiling dynamax's own functions.
        pytest.param("info_inference_test", [FILTER, SMOOTHER], marks=LONG),
        pytest.param("parallel_inference_test", [SMOOTHER, SAMPLE], marks=LONG),
        pytest.param("models_test", [FILTER, SMOOTHER, SAMPLE], marks=LONG),
    ],
)
def test_dynamax_suite(module, names, tmp_path):
    environment = dict(os.environ, JAX_ENABLE_X64="0")
    if cache := jax.config.jax_compilation_cache_dir:
        environment["JAX_COMPILATION_CACHE_DIR"] = cache
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, module, *names],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-2000:]
