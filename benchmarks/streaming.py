"""One step at a time: a million of them, and what each way of running a fitted model costs.

`python -m benchmarks.streaming --figure docs/figures/streaming.png` draws the million steps.
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np

import ssmlin
from ssmlin.data import Columns, Scaling
from ssmlin.forecasting import FittedAttention, ForecasterState, Layout
from ssmlin.models import IntegratedRowCov
from ssmlin.serving import export_model

from . import harness

#: Each in a process of its own, which prints the seconds until the first prediction, those of the
#: processor a step, elapsed ones, and the most memory in use, in MB.
_MEASURED = """
import json, sys, time
begin = time.perf_counter()
path, count = sys.argv[1], int(sys.argv[2])
{body}
first = time.perf_counter() - begin
before, wall = time.process_time(), time.perf_counter()
for i in range(count):
    one(values[i % len(values)])
spent, wall = time.process_time() - before, time.perf_counter() - wall
most = int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) / 1000
print(json.dumps([first, spent / count, wall / count, most]))
"""
#: The exported module, with weights as they are or in fewer bytes, and what is done with a value.
_NUMPY = """
import importlib.util
import numpy as np
values = np.load(path + ".npy")
spec = importlib.util.spec_from_file_location("small", path + "{kept}.py")
small = importlib.util.module_from_spec(spec)
spec.loader.exec_module(small)
model = small.load()
state = model.init()
def one(value):
    global state
{step}
one(values[0])
"""
_LAW = """
    state, law = model.step(state, value)
    return law
"""
_INTERVALS = """
    state, _ = model.step(state, value)
    ahead = model.predict(state)
    return [ahead.interval(level) for level in (50, 80, 95)]
"""
_WAYS = {
    "OnlineFilter, JAX": """
import numpy as np, ssmlin
ssmlin.enable_compilation_cache()
values = np.load(path + ".npy")
forecaster = ssmlin.load(path + ".safetensors")
online = ssmlin.OnlineForecaster(forecaster)
state, filter = online.init().filter, online.series.filter
def one(value):
    global state
    state, law = filter.step(state, value)
    return law
one(values[0])
""",
    "OnlineForecaster, JAX, intervals": """
import numpy as np, ssmlin
ssmlin.enable_compilation_cache()
values = np.load(path + ".npy")
online = ssmlin.OnlineForecaster(ssmlin.load(path + ".safetensors"))
state = online.init()
def one(value):
    global state
    state, _ = online.step(state, value)
    return online.predict(state).intervals((50, 80, 95))
one(values[0])
""",
    "exported, NumPy": _NUMPY.format(kept="", step=_LAW),
    "exported, NumPy, weights in float16": _NUMPY.format(kept="_float16", step=_LAW),
    "exported, NumPy, weights in int8": _NUMPY.format(kept="_int8", step=_LAW),
    "exported, NumPy, intervals": _NUMPY.format(kept="", step=_INTERVALS),
    "exported, StableHLO by JAX": """
import numpy as np, jax
from jax import export
values = np.load(path + ".npy")
step = jax.jit(export.deserialize(bytearray(open(path + ".stablehlo", "rb").read())).call)
state = {k: x[None] for k, x in np.load(path + "_hlo.npz").items() if k not in ("about", "last")}
nothing = np.zeros((1, 0), np.float32)
def one(value):
    global state
    state, law = step(state, value[None].astype(np.float32), nothing)
    return law
one(values[0])
""",
    "exported, ONNX by ONNX Runtime": """
import numpy as np, onnxruntime
values = np.load(path + ".npy")
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(path + ".onnx", options)
names = [x.name for x in session.get_outputs()]
state = {k: x for k, x in np.load(path + "_onnx.npz").items() if k not in ("about", "last")}
def one(value):
    global state
    law = dict(zip(names, session.run(None, state | {"emission": value})))
    state = {k: law["new_" + k] for k in state}
    return law
one(values[0])
""",
}  # fmt: skip


def forecaster() -> tuple[ssmlin.Forecaster, np.ndarray]:
    """One of the sunspots: eight lags, and parameters where they start."""
    from statsmodels.datasets import sunspots

    values = sunspots.load_pandas().data[["SUNACTIVITY"]].to_numpy()
    columns = Columns(values, np.zeros((len(values), 0)), np.arange(len(values)), ("y",), ())
    lags = 8
    model = ssmlin.LinearAttentionSSM(
        "bayesian_memory", 1, lags, lags + 1, num_lags=lags,
        row_cov=IntegratedRowCov(discount=0.98),
    )  # fmt: skip
    scaling = Scaling.fit(columns)
    z = scaling.apply(columns)[0].astype(np.float32)
    params, _ = model.initialize(jax.random.key(0), emissions=z, inputs=model.compute_inputs(z))
    made = ssmlin.Forecaster()
    made.state_ = ForecasterState(
        Layout(("y",)), {"": FittedAttention(model, params)}, {"": scaling}, {"": columns}, {}, {}
    )
    return made, values


def run(quick: bool = False) -> None:
    """Print the table of the ways."""
    made, values = forecaster()
    count = 50 if quick else 5000
    table = harness.Table(
        "run by", "first prediction, s", "µs a step, processor", "µs a step, elapsed", "steps/s",
        "most memory, MB",
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "small")
        made.save(path + ".safetensors")
        np.save(path + ".npy", values.astype(np.float32))
        export_model(made, path + "_hlo", "stablehlo")
        Path(path + "_hlo.stablehlo").rename(path + ".stablehlo")
        export_model(made, path + "_onnx", "onnx")
        Path(path + "_onnx.onnx").rename(path + ".onnx")
        export_model(made, path)
        for kept in ("float16", "int8"):
            export_model(made, f"{path}_{kept}", weights=kept)
        for name, body in _WAYS.items():
            call = [sys.executable, "-c", _MEASURED.format(body=body), path, str(count)]
            done = subprocess.run(call, capture_output=True, text=True, check=True)
            first, spent, wall, most = json.loads(done.stdout)
            table.row(
                name, f"{first:.2f}", harness.figure(1e6 * spent), harness.figure(1e6 * wall),
                f"{1 / wall:,.0f}", f"{most:.0f}",
            )  # fmt: skip
    load = " ".join(f"{x:.1f}" for x in os.getloadavg())
    harness.remark(
        "A forecaster of one series with eight lags, Σ integrated out with a discount, in single "
        "precision; the machine's load averages at the end were " + load + "."
    )
    lost(quick)


def lost(quick: bool) -> None:
    """Print what weights in fewer bytes save and lose."""
    from statsmodels.datasets import sunspots

    values, seen = sunspots.load_pandas().data["SUNACTIVITY"].to_numpy(), 200
    table = harness.Table(
        "mechanism", "weights", "bytes of weights", "bytes of the file",
        "RMSE of the means, deviations", "log density a step", "lost",
    )  # fmt: skip
    for mechanism in ("bayesian_memory", "gated_deltanet", "mamba2"):
        fitted = ssmlin.Forecaster(
            mechanism=mechanism, lags=12, season=None, transform="none", key_dim=16,
            num_epochs=10 if quick else None,
        ).fit(values[:seen])  # fmt: skip
        exact = None
        with tempfile.TemporaryDirectory() as folder:
            for kept in ("int8", "float16", "float32"):
                export_model(fitted, Path(folder) / kept, weights=kept)
            with np.load(Path(folder) / "int8.npz") as arrays:
                names = [name for name in arrays if arrays[name].dtype == np.int8]
            for kept in ("float32", "float16", "int8"):
                means, deviations, density = _laws(Path(folder) / kept, values[seen:])
                exact = (means, density) if exact is None else exact
                with np.load(Path(folder) / f"{kept}.npz") as arrays:
                    whole = [*names, *(f"r.{name[2:]}" for name in names)]
                    size = sum(arrays[name].nbytes for name in whole if name in arrays)
                apart = np.sqrt(np.mean(((means - exact[0]) / deviations) ** 2))
                table.row(
                    mechanism, kept, f"{size:,}",
                    f"{(Path(folder) / f'{kept}.npz').stat().st_size:,}", f"{apart:.2g}",
                    f"{density:.4f}", f"{exact[1] - density:.2g}",
                )  # fmt: skip
    harness.remark(
        "Fitted to the first 200 of the yearly sunspots with twelve lags and 16 keys; one step "
        "ahead over the other 109, standardised, by the exported NumPy module. The root mean "
        "square is of the means' differences from those of float32, each in its standard deviation."
    )


def _laws(path: Path, values: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Means, deviations, and the mean log density of what came, by an exported module."""
    from scipy import stats

    spec = importlib.util.spec_from_file_location(path.name, path.with_suffix(".py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    model = module.load()
    state, means, deviations, densities = model.init(), [], [], []
    for value in values:
        state, law = model.step(state, [value])
        location, spread = law.location[0], np.sqrt(law.scale[0, 0])
        seen = state["lags"][0, 0]
        known = stats.norm if law.df is None else stats.t(law.df[0])
        densities.append(known.logpdf((seen - location) / spread) - np.log(spread))
        means.append(location)
        deviations.append(spread)
    return np.array(means), np.array(deviations), float(np.mean(densities))


def million(steps: int, block: int) -> list[tuple[int, float, float]]:
    """Steps so far, microseconds of the processor a step, and MB in use, for each block."""
    made, values = forecaster()
    online = ssmlin.OnlineForecaster(made)
    model, state = online.series.filter, online.init().filter
    z = ((values - online.series.scaling.mean) / online.series.scaling.scale).astype(np.float32)
    rows, number = [], 0
    state, _ = model.step(state, z[0])
    while number < steps:
        begin = time.process_time()
        for _ in range(block):
            state, _ = model.step(state, z[number % len(z)])
            number += 1
        spent = time.process_time() - begin
        resident = int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6
        rows.append((number, 1e6 * spent / block, resident))
        if number % (20 * block) == 0:
            print(number, file=sys.stderr, flush=True)
    return rows


def draw(rows: list[tuple[int, float, float]], path: Path) -> None:
    """Time and memory against the number of steps."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    steps, spent, resident = (np.array(x) for x in zip(*rows, strict=True))
    figure, (above, below) = plt.subplots(2, 1, figsize=(7, 4.5), sharex=True, layout="constrained")
    steps = steps / 1e6
    above.plot(steps, spent, lw=0.8)
    above.set(ylabel="µs a step", ylim=(0, 1.5 * np.quantile(spent, 0.98)))
    below.plot(steps, resident, lw=1.2)
    below.set(xlabel="million steps", ylabel="MB in use", ylim=(0, 1.3 * resident.max()))
    figure.suptitle("OnlineFilter: time (of the processor) and memory of one million steps")
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--figure", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--block", type=int, default=5000)
    asked = parser.parse_args()
    found = million(asked.steps, asked.block)
    draw(found, asked.figure)
    print(json.dumps(found))
