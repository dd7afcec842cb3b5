"""From the shell to an answer: how long a person waits, everything in processes of their own."""

import json
import os
import site
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from . import harness

# What `ssmlin` runs, whether or not the command is on the path.
COMMAND = "from ssmlin.cli import main; main()"

IMPORT = """
import json, time, jax
begin = time.perf_counter(), time.process_time()
import ssmlin
print(json.dumps([time.perf_counter() - begin[0], time.process_time() - begin[1]]))
"""

JAX = "import jax; jax.numpy.zeros(3).block_until_ready()"

FILTER = """
import numpy as np, ssmlin
x = np.random.default_rng(0).normal(size=(100, 16)).astype(np.float32)
lgssm = ssmlin.matrix_lgssm(
    "gated_deltanet", keys=x, values=x[:, :1], queries=x / 4, alpha=0.9, beta=0.5,
    process_noise=0.1, emission_noise=1.0,
)
print(float(ssmlin.matrix_lgssm_filter(lgssm, x[:, :1]).marginal_loglik))
"""

# Fits in one process, each to another series; of each the seconds, those of the processor, the
# programs, and how many of these were in the cache.
FIT = """
import collections, json, time, jax, numpy as np, ssmlin
ssmlin.enable_compilation_cache()
counts = collections.Counter()
jax.monitoring.register_event_listener(lambda event, **_: counts.update([event]))
jax.monitoring.register_event_duration_secs_listener(lambda event, *_, **__: counts.update([event]))
model = ssmlin.LinearAttentionSSM("gated_deltanet", 1, 2, 4, num_lags=2)
found = []
for steps in (216, 220):
    y = np.random.default_rng(steps).normal(size=(steps, 1)).cumsum(axis=0)
    y = ((y - y.mean()) / y.std()).astype(np.float32)
    counts.clear()
    begin = time.perf_counter(), time.process_time()
    params, _ = model.fit(y, model.compute_inputs(y), progress=False)
    jax.block_until_ready(params)
    programs = counts["/jax/core/compile/backend_compile_duration"]
    hits = counts["/jax/compilation_cache/cache_hits"]
    spent = time.perf_counter() - begin[0], time.process_time() - begin[1]
    found.append([*spent, f"{programs} ({hits})"])
print(json.dumps(found))
"""


class Run(NamedTuple):
    """A process that has ended.

    Attributes:
        seconds: from its start to its end.
        cpu: seconds of all cores, those of the processes that it started included.
        output: what it printed.
    """

    seconds: float
    cpu: float
    output: str


class Place:
    """A folder to work in, with a user's cache folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        kept = {name: x for name, x in os.environ.items()
                if not name.startswith(("JAX_", "XLA_", "SSMLIN_"))}  # fmt: skip
        package = Path(harness.ssmlin.__file__).parents[1]
        self._environment = kept | {
            "HOME": str(folder),
            "XDG_CACHE_HOME": str(folder / "cache"),
            "MPLCONFIGDIR": str(folder / "matplotlib"),
            "MPLBACKEND": "Agg",
            "PYTHONUSERBASE": site.getuserbase(),
            "PYTHONPATH": os.pathsep.join([str(package), kept.get("PYTHONPATH", "")]),
        }

    def run(self, code: str, *arguments: object) -> Run:
        """Run a program in a new process."""
        before, begin = os.times(), time.perf_counter()
        command = [sys.executable, "-c", code, *map(str, arguments)]
        done = subprocess.run(
            command, cwd=self.folder, env=self._environment, capture_output=True, text=True
        )
        seconds, after = time.perf_counter() - begin, os.times()
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(map(str, arguments)) or code}: {done.stderr}")
        cpu = after.children_user + after.children_system
        cpu -= before.children_user + before.children_system
        return Run(seconds, cpu, done.stdout)

    def ssmlin(self, *arguments: object) -> Run:
        """Run the command line."""
        return self.run(COMMAND, *arguments)


def run(quick: bool = False) -> None:
    harness.remark(
        "Each in a process of its own, with the user's cache folder empty or filled by a run "
        "before; medians of three where it is short. Programs: how many XLA was asked for, and in "
        "brackets those that were in the cache. CPU seconds count all cores."
    )
    table = harness.Table("what", "seconds", "CPU s", "programs", "target")
    repeats = 1 if quick else 3
    with tempfile.TemporaryDirectory() as folder:
        place = Place(Path(folder))
        _start(table, place, repeats)
        _fit(table, place, repeats)
        _forecast(table, place, repeats)
        if not quick:
            # The list of fonts is matplotlib's and made once a user.
            place.run("import matplotlib.pyplot, statsmodels.api, arviz")
            _demo(table, place)
            _compare(table, place)


def _start(table: harness.Table, place: Place, repeats: int) -> None:
    """Imports, and the smallest of results."""
    helps = [place.ssmlin("--help")[:2] for _ in range(repeats)]
    _row(table, "`ssmlin --help`", helps, 0.4)
    imports = [json.loads(place.run(IMPORT).output) for _ in range(repeats)]
    _row(table, "`import ssmlin` after `import jax`", imports, 0.2)
    alone = [place.run(JAX)[:2] for _ in range(repeats)]
    _row(table, "JAX alone: import and an array", alone)
    filters = [place.run(FILTER)[:2] for _ in range(repeats)]
    _row(table, "`matrix_lgssm_filter` on 100 × 16, no cache", filters, _median(alone)[0] + 2)


def _fit(table: harness.Table, place: Place, repeats: int) -> None:
    """A first fit, and further ones."""
    what = "`model.fit`, gated_deltanet, 216 × 1"
    first, other = json.loads(place.run(FIT).output)
    again = [json.loads(place.run(FIT).output)[0] for _ in range(repeats)]
    _row(table, f"{what}, empty cache", [first[:2]], 5, first[2])
    _row(table, f"{what}, filled cache", [one[:2] for one in again], 1.5, again[0][2])
    _row(table, "then 220 × 1, same process, empty cache", [other[:2]], 0.3, other[2])


def _forecast(table: harness.Table, place: Place, repeats: int) -> None:
    """A forecast from a model's file."""
    file = place.folder / "walk.csv"
    walk = np.random.default_rng(0).normal(size=216).cumsum()
    file.write_text("y\n" + "\n".join(f"{y:.4f}" for y in walk))
    place.ssmlin("fit", file, "--target", "y", "--epochs", 20, "--quiet")
    runs = [
        place.ssmlin("forecast", "model.safetensors", file, "--output", f"{number}.csv")
        for number in range(repeats + 1)
    ]
    what = "`ssmlin forecast`, 216 rows"
    _row(table, f"{what}, empty cache", [runs[0][:2]])
    _row(table, f"{what}, filled cache", [one[:2] for one in runs[1:]], 2)


def _demo(table: harness.Table, place: Place) -> None:
    place.ssmlin("cache", "--clear")
    for said, most in (("empty", 60), ("filled", 20)):
        done = place.ssmlin("demo", "--output", said, "--quiet")
        _row(table, f"`ssmlin demo`, {said} cache", [done[:2]], most)


def _compare(table: harness.Table, place: Place) -> None:
    file = place.folder / "months.csv"
    file.write_text("month,y\n" + "\n".join(_months()))
    place.ssmlin("cache", "--clear")
    for said, most in (("empty", 120), ("filled", 30)):
        done = place.ssmlin(
            "compare", file, "--target", "y", "--time", "month", "--period", 12, "--horizon", 12,
            "--report", f"{said}.html", "--quiet",
        )  # fmt: skip
        what = f"`ssmlin compare`, 144 months, report, {said} cache"
        _row(table, what, [done[:2]], most, limits_cpu=True)


def _months() -> list[str]:
    """Twelve years that grow, with a season and a spread in proportion, like air passengers."""
    steps = np.arange(144)
    rng = np.random.default_rng(0)
    season = 0.2 * np.sin(2 * np.pi * (steps - 3) / 12) + 0.05 * np.cos(4 * np.pi * steps / 12)
    slow = np.convolve(rng.normal(size=155) * 0.02, 0.8 ** np.arange(12), "valid")
    values = np.exp(4.8 + 0.01 * steps + season + slow)
    return [f"{1949 + i // 12}-{1 + i % 12:02}-01,{value:.0f}" for i, value in enumerate(values)]


def _row(
    table: harness.Table,
    what: str,
    spent: Sequence[tuple[float, float]],
    most: float | None = None,
    programs: str | None = None,
    *,
    limits_cpu: bool = False,
) -> None:
    """Medians of seconds and of CPU seconds, and whether those that are limited keep the limit."""
    seconds, cpu = _median(spent)
    said = None
    if most is not None:
        met = (cpu if limits_cpu else seconds) <= most
        unit = "CPU s" if limits_cpu else "s"
        said = f"≤ {harness.figure(most)} {unit}, {'met' if met else 'missed'}"
    table.row(what, harness.figure(seconds), harness.figure(cpu), programs, said)


def _median(spent: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Medians of seconds and of CPU seconds."""
    seconds, cpu = np.median(np.array(spent), axis=0)
    return float(seconds), float(cpu)
