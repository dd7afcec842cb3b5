"""Many series that share a law: gradient, fit and forecasts, and what grows with the series."""

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import ssmlin
from ssmlin.inference import RegressionLaw, batch_options, dynamic_regressions
from ssmlin.inference.matrix import _dynamic_regression

from . import harness
from .harness import Contestant, Table

DIM, STEPS, SERIES = 14, 126, 128
COUNTS, QUICK_COUNTS = (1_000, 10_000, 100_000), (12,)
MONTHS, HORIZON, PATHS = 100, 12, 100
#: Series in files, and how many are written at once.
FILE_COUNTS, QUICK_FILE_COUNTS, WRITTEN = (10_000, 100_000), (12,), 2_000
#: Runs a command and prints its seconds of CPU and the most memory that it held. A process begins
#: with the memory of the one that starts it, so it is this small one that does.
MEASURE = """
import json, os, subprocess, sys
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)
_, status, used = os.wait4(process.pid, 0)
print(json.dumps([used.ru_utime + used.ru_stime, used.ru_maxrss / 1024**2]))
sys.exit(status != 0)
"""


def run(quick: bool) -> None:
    """Print the tables."""
    _gradients(quick)
    _collections(QUICK_COUNTS if quick else COUNTS, quick)
    _files(QUICK_FILE_COUNTS if quick else FILE_COUNTS)


def _gradients(quick: bool) -> None:
    """A log likelihood and its gradient by the law, a step and series."""
    steps, count = (8, 4) if quick else (STEPS, SERIES)
    keys = jax.random.split(jax.random.key(0), 2)
    h = jax.random.normal(keys[0], (count, steps, DIM))
    y = jax.random.normal(keys[1], (count, steps))
    law = RegressionLaw(jnp.zeros(DIM), 0.1 * jnp.eye(DIM), jnp.array(0.99), jnp.full(DIM, 1e-3))
    harness.remark(
        f"d = {DIM}, T = {steps}, {count} series: log likelihood and its gradient by the shared "
        "mean, covariance, decay and noise. Medians in microseconds a step and series."
    )

    def by_errors(errors: jax.Array, scales: jax.Array) -> jax.Array:
        return -0.5 * jnp.sum(errors**2 / scales + jnp.log(scales))

    def own(law: RegressionLaw) -> jax.Array:
        return by_errors(*dynamic_regressions(law, y, h)[:2])

    def plain(law: RegressionLaw) -> jax.Array:
        series = _dynamic_regression._Series(y.T, jnp.ones_like(y.T), jnp.moveaxis(h, 0, -1))
        return by_errors(*_dynamic_regression._run(law, series)[0][:2])

    def general(law: RegressionLaw) -> jax.Array:
        def one(y: jax.Array, h: jax.Array) -> jax.Array:
            lgssm = ssmlin.matrix_lgssm(
                "bayesian_memory", keys=h, alpha=law.decay, process_noise=law.noise[None],
                initial_mean=law.mean[None], initial_cov=law.cov, value_dim=1,
            )  # fmt: skip
            posterior = ssmlin.matrix_lgssm_filter(lgssm, y[:, None], store="loglik")
            return posterior.marginal_loglik

        return jnp.sum(jax.vmap(one)(y, h))

    def compiled(loss: Callable[[RegressionLaw], jax.Array], **options: Any) -> Contestant:
        return Contestant(jax.jit(jax.value_and_grad(loss), **options), (law,), jit=False)

    fast = {"compiler_options": batch_options()}
    timings = harness.measure_together(
        {
            "own gradient": compiled(own, **fast),
            "own gradient, XLA's defaults": compiled(own),
            "the plain scan differentiated": compiled(plain, **fast),
            "the general adjoint under vmap": compiled(general),
        },
        quick,
    )
    table = Table("gradient", "µs", "over own")
    each = {name: 1e6 * timing.median / (steps * count) for name, timing in timings.items()}
    for name, microseconds in each.items():
        table.row(
            name, harness.figure(microseconds), harness.times(microseconds / each["own gradient"])
        )


def _collections(counts: tuple[int, ...], quick: bool) -> None:
    """`Forecaster.fit` and `predict`, which read, fit and forecast."""
    harness.remark(
        f"Monthly series of {MONTHS} steps in a long frame; forecasts of {HORIZON} steps by "
        f"{PATHS} paths. The fit takes at most 4 096 series, drawn at random; all are read and "
        "forecast. Memory is the most the process held."
    )
    table = Table(
        "series", "fit, s", "of it reading, s", "predict, s", "predict, ms a series", "memory, GB"
    )
    for count in counts:
        frame = _frame(0, count)
        forecaster = ssmlin.Forecaster(
            transform="none", season=12, pooling="hierarchical", num_epochs=3 if quick else None
        )
        begin = time.perf_counter()
        forecaster.fit(frame)
        fitted = time.perf_counter()
        forecaster.predict(HORIZON, levels=(80, 95), num_samples=PATHS)
        end = time.perf_counter()
        forecaster.update(frame)
        reading = time.perf_counter() - end
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
        table.row(
            f"{count:,}".replace(",", " "),
            harness.figure(fitted - begin),
            harness.figure(reading),
            harness.figure(end - fitted),
            harness.figure(1e3 * (end - fitted) / count),
            harness.figure(memory),
        )


def _files(counts: tuple[int, ...]) -> None:
    """`ssmlin fit` and `ssmlin forecast` of files that are read piece by piece."""
    harness.remark(
        f"The same from a folder with one file, by `ssmlin fit --transform none --period 12` and "
        f"`ssmlin forecast --horizon {HORIZON} --samples {PATHS}` to a Parquet file. Seconds of "
        "CPU, start included, and compiling what is in no cache; the most memory that the process "
        "held."
    )
    table = Table("file", "series", "MB", "fit, s", "fit, GB", "forecast, s", "forecast, GB")
    for kind in ("parquet", "csv"):
        for count in counts:
            with TemporaryDirectory() as folder:
                here = Path(folder)
                data, model, output = (here / x for x in ("data", "m.safetensors", "f.parquet"))
                data.mkdir()
                _write(data / f"series.{kind}", count)
                size = sum(path.stat().st_size for path in data.iterdir()) / 1e6
                columns = ["--target", "y", "--series", "unique_id", "--time", "ds"]
                fit = _measured("fit", data, *columns, "--transform", "none", "--period", 12,
                                "--output", model)  # fmt: skip
                made = _measured("forecast", model, data, "--horizon", HORIZON, "--samples", PATHS,
                                 "--output", output)  # fmt: skip
            table.row(kind, harness.sizes(count), *map(harness.figure, (size, *fit, *made)))


def _measured(*arguments: object) -> tuple[float, float]:
    """Seconds of CPU and gigabytes of a command of ssmlin."""
    call = [sys.executable, "-c", MEASURE, sys.executable, "-m", "ssmlin", *map(str, arguments)]
    done = subprocess.run([*call, "--quiet"], stdout=subprocess.PIPE, text=True, check=True)
    seconds, memory = json.loads(done.stdout)
    return seconds, memory


def _write(path: Path, count: int) -> None:
    """A file of so many series, some at a time."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    writer = None
    for first in range(0, count, WRITTEN):
        frame = _frame(first, min(WRITTEN, count - first))
        if path.suffix == ".csv":
            frame.to_csv(path, mode="a", header=first == 0, index=False)
            continue
        rows = pa.Table.from_pandas(frame, preserve_index=False)
        writer = writer or pq.ParquetWriter(path, rows.schema)
        writer.write_table(rows)
    if writer is not None:
        writer.close()


def _frame(first: int, count: int) -> Any:
    """Series with trend and season, in a long frame."""
    import pandas as pd

    rng = np.random.default_rng(first)
    months = pd.date_range("2010-01-01", periods=MONTHS, freq="MS")
    season = rng.normal(size=(count, 12))[:, np.arange(MONTHS) % 12]
    y = 100 + season * 3 + rng.normal(size=(count, MONTHS)).cumsum(axis=1)
    return pd.DataFrame({
        "unique_id": np.repeat(np.arange(first, first + count), MONTHS),
        "ds": np.tile(months, count),
        "y": y.ravel(),
    })  # fmt: skip
