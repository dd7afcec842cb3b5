"""What the experiments in examples/ print and draw, as the Markdown page docs/experiments.md.

Run as `python benchmarks/experiments.py > docs/experiments.md`; the figures go to docs/figures.
"""

import ast
import os
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parents[1]
#: Script, heading, arguments.
EXPERIMENTS = (
    ("parity", "Parity", ()),
    ("state_tracking", "State tracking", ()),
    ("associative_recall", "Associative recall", ()),
    ("drifting_regression", "Drifting regression", ("--full",)),
    ("approximate_covariances", "Approximate covariances", ()),
)


def run(name, heading, arguments):
    path, figure = f"examples/{name}.py", f"docs/figures/{name}.png"
    source = (ROOT / path).read_text()
    if draws := "--figure" in source:
        arguments = (*arguments, "--figure", figure)
    environment = os.environ | {"MPLBACKEND": "Agg", "PYTHONPATH": str(ROOT)}
    environment.pop("JAX_ENABLE_X64", None)
    start = time.perf_counter()
    done = subprocess.run([sys.executable, path, *arguments], cwd=ROOT, env=environment,
                          stdout=subprocess.PIPE, text=True, check=True)  # fmt: skip
    seconds = time.perf_counter() - start
    print(f"\n## {heading}\n")
    print(ast.get_docstring(ast.parse(source)))
    print(f"\n    {' '.join(('python', path, *arguments))}\n")
    print(f"It took {seconds:.0f} seconds and printed\n")
    print(f"```text\n{done.stdout.rstrip()}\n```", flush=True)
    if draws:
        print(f"\n![{heading}](figures/{name}.png)", flush=True)


def page():
    (ROOT / "docs" / "figures").mkdir(exist_ok=True)
    print("# Experiments\n")
    print("Small experiments, each a script in `examples/` that also asserts what is claimed. Made")
    print("by `python benchmarks/experiments.py > docs/experiments.md`, on two CPU cores with")
    print(f"jax {version('jax')} and optax {version('optax')}; seconds include compilation, and")
    print("differ from run to run.", flush=True)
    for name, heading, arguments in EXPERIMENTS:
        if (ROOT / "examples" / f"{name}.py").exists():
            run(name, heading, arguments)


if __name__ == "__main__":
    page()
