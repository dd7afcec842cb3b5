"""Every format of an export against the library on real data, and what ONNX needs for it."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from series import PASSENGERS
from test_export import imported, sunspots
from test_online_filter import CASES, make
from tiers import cases
from typer.testing import CliRunner

import ssmlin
from ssmlin.cli._app import app
from ssmlin.mechanisms import MECHANISMS
from ssmlin.models import IntegratedRegression, IntegratedRowCov
from ssmlin.serving import FORMATS, export_model
from ssmlin.serving._numpy_source import numpy_source
from ssmlin.serving._onnx_graph import onnx_model

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")


def waves(count, period):
    """The first harmonic."""
    angle = 2 * np.pi * np.arange(count) / period
    return np.sqrt(2) * np.stack([np.cos(angle), np.sin(angle)], 1)


def passengers():
    """Of the airlines, logarithms, two lags."""
    y = np.log(PASSENGERS)[:, None]
    return "gated_deltanet", {"num_lags": 2}, y, waves(len(y), 12)


def carbon():
    """Carbon dioxide at Mauna Loa a week from 1958 on, of which some are missing."""
    from statsmodels.datasets import co2

    y = co2.load_pandas().data[:144].to_numpy()
    assert 10 < np.isnan(y).sum() < 40
    return "bayesian_memory", {"num_lags": 0}, y, waves(len(y), 52.18)


@pytest.fixture(scope="module")
def laws():
    """The model, its data and the library's laws of each step, of each series, made once."""
    made = {}

    def of(series):
        if series not in made:
            mechanism, options, y, u = series()
            y = (y - np.nanmean(y)) / np.nanstd(y)
            y, u = y.astype(np.float32), u.astype(np.float32)
            model = ssmlin.LinearAttentionSSM(
                mechanism, 1, 2 + options["num_lags"], 4, row_cov=IntegratedRowCov(discount=0.98),
                **options,
            )  # fmt: skip
            params, _ = model.initialize(jax.random.key(0), process_noise=0.01)
            online = ssmlin.OnlineFilter(model, params)
            made[series] = (model, params), y, u, online.steps(online.init(), y, u)[1]
        return made[series]

    return of


def started(path):
    """The state that a step begins with."""
    state = dict(np.load(path))
    json.loads(bytes(state.pop("about")))
    state.pop("last", None)
    return state


def by_numpy(files, y, u):
    model = imported(files[0]).load()
    state = model.init()
    if u.size:  # unknown inputs would make all that follows unknown
        with pytest.raises(ValueError, match="inputs: expected finite numbers"):
            model.step(state, y[0], np.full_like(u[0], np.nan))
    for value, inputs in zip(y, u, strict=True):
        state, law = model.step(state, value, inputs)
        yield law.location, law.scale, law.df


def by_stablehlo(files, y, u):
    from jax import export

    step = jax.jit(export.deserialize(bytearray(files[0].read_bytes())).call)
    state = {name: x[None] for name, x in started(files[-1]).items()}
    for value, inputs in zip(y, u, strict=True):
        state, law = step(state, value[None], inputs[None])
        yield law["location"][0], law["scale"][0], law["df"][0]


def by_onnx(files, y, u):
    step, state = onnx_step(files[0]), started(files[-1])
    for value, inputs in zip(y, u, strict=True):
        state, law = step(state, value, inputs)
        yield law["location"], law["scale"], law.get("df")


def onnx_step(path):
    onnx.checker.check_model(str(path), full_check=True)
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [x.name for x in session.get_outputs()]
    taken = {x.name for x in session.get_inputs()}

    def step(state, emission, inputs):
        given = state | {"emission": emission, "inputs": inputs}
        found = session.run(None, {name: x for name, x in given.items() if name in taken})
        found = dict(zip(names, found, strict=True))
        return {name: found[f"new_{name}"] for name in state}, found

    return step


RUNS = {"numpy": by_numpy, "stablehlo": by_stablehlo, "onnx": by_onnx}


@pytest.mark.float32
@pytest.mark.parametrize("series", [passengers, carbon])
@pytest.mark.parametrize("format", ["numpy", "stablehlo", "onnx"])
def test_every_format_agrees_with_the_library_on_real_data(format, series, laws, tmp_path):
    assert set(RUNS) == set(FORMATS)
    source, y, u, expected = laws(series)
    files = export_model(source, tmp_path / "small", format)
    for t, (location, scale, df) in enumerate(RUNS[format](files, y, u)):
        assert np.asarray(location).dtype == np.float32
        np.testing.assert_allclose(location, expected.means[t, 0], rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(scale, expected.scales[t, 0], rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(df, expected.student_df[t], rtol=1e-5)
    assert t == len(y) - 1


@pytest.mark.parametrize(
    "case", cases([c for c in CASES if make(c)[0].covariance == "full"], "full")
)
def test_a_step_by_onnx_is_one_of_the_online_filter(case, tmp_path):
    model, params, y, u = make(case)
    path, rest = export_model((model, params), tmp_path / "small", "onnx")
    step, state = onnx_step(path), started(rest)
    online = ssmlin.OnlineFilter(model, params)
    expected = online.init()
    for emission, inputs in zip(y, u, strict=True):
        state, found = step(state, emission, inputs)
        expected, law = online.step(expected, emission, inputs)
        np.testing.assert_allclose(found["location"], law.means[0], atol=1e-9)
        np.testing.assert_allclose(found["scale"], law.scales[0], atol=1e-9)
        np.testing.assert_allclose(found["log_density"], law.log_density, atol=1e-9)
    np.testing.assert_allclose(state["mean"], expected.belief.mean, atol=1e-9)
    covs = np.broadcast_to(expected.belief.cov, state["cov"].shape)
    np.testing.assert_allclose(state["cov"], covs, atol=1e-9)
    if expected.belief.row_cov is not None:
        np.testing.assert_allclose(state["nu"], expected.belief.row_cov.df, atol=1e-9)
        np.testing.assert_allclose(state["psi"], expected.belief.row_cov.scale, atol=1e-9)


@pytest.mark.float32
def test_a_forecaster_goes_on_by_onnx_as_by_numpy(tmp_path):
    made, values = sunspots(0)
    made.save(tmp_path / "model.safetensors")
    for format in ("numpy", "onnx"):
        call = ["export", str(tmp_path / "model.safetensors"), "--format", format]
        call += ["--output", str(tmp_path / format), "--weights", "float32", "--json"]
        result = CliRunner().invoke(app, call)
        assert result.exit_code == 0, result.output
    files = json.loads(result.stdout)["files"]
    assert files == [str(tmp_path / f"onnx.{x}") for x in ("onnx", "npz")]
    model = imported(tmp_path / "numpy.py").load()
    about = json.loads(bytes(np.load(files[1])["about"]))
    assert about == model.about == json.loads(onnx.load(files[0]).graph.doc_string)
    step, state, other = onnx_step(files[0]), started(files[1]), model.init()
    for value in values[200:220]:
        # The season of a step is given as inputs.
        inputs = model._outside((), other["num_steps"]).astype(np.float32)
        other, law = model.step(other, [value])
        state, found = step(state, other["lags"][0], inputs)
        np.testing.assert_allclose(found["location"], law.location, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(found["scale"], law.scale, rtol=1e-5, atol=1e-5)


# ------------------------------------------------------------------------------ fewer bytes


@pytest.mark.float32
@pytest.mark.parametrize("weights", ["float16", "int8"])
def test_weights_in_fewer_bytes_are_near_and_the_same_in_both_formats(weights, laws, tmp_path):
    source, y, u, expected = laws(passengers)
    found, size = {}, {}
    for kept in (None, weights):
        for format in ("numpy", "onnx"):
            name = f"{format}_{kept}"
            files = export_model(source, tmp_path / name, format, weights=kept)
            found[name] = np.array([law[0] for law in RUNS[format](files, y, u)])
            size[name] = files[0 if format == "onnx" else 1]
    exact, near = (imported(tmp_path / f"numpy_{x}.py").load() for x in (None, weights))
    arrays = np.load(size[f"numpy_{weights}"])
    changed = [name for name, x in arrays.items() if x.dtype == weights]
    assert changed
    for name in changed:
        x, kept = exact._constants[name[2:]], near._constants[name[2:]]
        most = np.abs(x).max(axis=int(np.argmax(x.shape)), keepdims=True)
        # Half of a unit in the last place, or half of one step of the scale.
        bound = np.abs(x) * 2.0**-11 if weights == "float16" else most / 127 / 2
        assert (np.abs(kept - x) <= bound * 1.001 + 2.0**-25).all()
        assert kept.dtype == np.float32
    apart = np.abs(found[f"numpy_{weights}"] - found["numpy_None"]).max()
    assert 1e-6 < apart < (1e-2 if weights == "float16" else 0.1)
    np.testing.assert_allclose(
        found[f"onnx_{weights}"], found[f"numpy_{weights}"], rtol=2e-5, atol=2e-5
    )


def test_weights_that_do_not_fit_are_refused(tmp_path):
    model = ssmlin.LinearAttentionSSM("gated_deltanet", 1, 2, 2)
    params, _ = model.initialize()
    keys = params.tokens.keys
    large = keys._replace(weights=keys.weights + 1e6)
    params = params._replace(tokens=params.tokens._replace(keys=large))
    with pytest.raises(ValueError, match="weights: expected 'float32'.* beyond 6.55e"):
        export_model((model, params), tmp_path / "small", weights="float16")
    with pytest.raises(ValueError, match="weights: expected one of 'float32'"):
        export_model((model, params), tmp_path / "small", weights="int4")
    with pytest.raises(ValueError, match="weights: expected None"):
        export_model((model, params), tmp_path / "small", "stablehlo", weights="int8")
    assert list(Path(tmp_path).iterdir()) == []


# ------------------------------------------------------------------------------ the translation


def written(function, *given):
    """What the NumPy code of a function gives."""
    source = numpy_source(function, *given)
    scope = {"np": np, "c": source.constants} | {f"a{i}": x for i, x in enumerate(given)}
    exec("\n".join([*source.lines, f"found = ({', '.join(source.results)},)"]), scope)
    return scope["found"]


def in_onnx(function, *given):
    """What the ONNX graph of a function gives."""
    names = [f"x{i}" for i in range(len(given))]
    model = onnx_model(
        lambda x: {f"y{i}": y for i, y in enumerate(function(*(x[name] for name in names)))},
        dict(zip(names, given, strict=True)),
    )
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found = session.run(None, dict(zip(names, given, strict=True)))
    return dict(zip([x.name for x in session.get_outputs()], found, strict=True)).values()


@pytest.mark.slow
@pytest.mark.parametrize("name", MECHANISMS)
def test_every_mechanism_is_written_out(name):
    noise = "write" if MECHANISMS[name].writes_values else "diagonal"
    model = ssmlin.LinearAttentionSSM(
        name, 2, 3, 4, process_noise=noise, regression=IntegratedRegression()
    )
    params, _ = model.initialize(jax.random.key(0))
    params = jax.tree.map(lambda x: x + 0.1 * jnp.sin(jnp.arange(x.size)).reshape(x.shape), params)

    def operators(u):
        lgssm = model.to_lgssm(params, u[None])
        parts = (lgssm.transition, lgssm.drift, lgssm.process_noise)
        return (*(x.to_dense()[0] for x in parts), lgssm.readout[0], lgssm.emission_noise[0])

    u = np.array([0.3, -1.0, 0.5])
    for way in (written, in_onnx):
        for one, expected in zip(way(operators, u), jax.jit(operators)(u), strict=True):
            np.testing.assert_allclose(one, expected, atol=1e-12)


@pytest.mark.parametrize("left", [True, False])
@pytest.mark.parametrize("transposed", [True, False])
def test_factors_and_triangular_systems_are_written_out(left, transposed):
    rng = np.random.default_rng(0)
    half = rng.normal(size=(3, 3))
    a, b = half @ half.T + np.eye(3), rng.normal(size=(3, 3))

    def function(a, b):
        factor = jnp.linalg.cholesky(a)
        options = {"left_side": left, "transpose_a": transposed}
        return [
            factor,
            jax.lax.linalg.triangular_solve(factor, b, lower=True, **options),
            jax.lax.linalg.triangular_solve(factor.T, b, lower=False, **options),
        ]

    lower = np.linalg.cholesky(a)
    solved = []
    for factor in (lower, lower.T):
        given = factor.T if transposed else factor
        solved.append(np.linalg.solve(given, b) if left else np.linalg.solve(given.T, b.T).T)
    for way in (written, in_onnx):
        for one, expected in zip(way(function, a, b), [lower, *solved], strict=True):
            np.testing.assert_allclose(one, expected, atol=1e-12)


@pytest.mark.parametrize("reverse", [True, False])
def test_loops_are_unrolled(reverse):
    rng = np.random.default_rng(0)
    rate, rows = rng.normal(size=2), rng.normal(size=(4, 2))

    def function(rate, rows):
        def step(carry, row):
            carry = rate * carry + row
            return carry, carry.sum()

        return jax.lax.scan(step, jnp.ones(2), rows, reverse=reverse)

    last, sums = np.ones(2), np.zeros(4)
    for i in range(4)[:: -1 if reverse else 1]:
        last = rate * last + rows[i]
        sums[i] = last.sum()
    for way in (written, in_onnx):
        for one, expected in zip(way(function, rate, rows), (last, sums), strict=True):
            np.testing.assert_allclose(one, expected, atol=1e-12)


@pytest.mark.float32
def test_onnx_loses_no_digits_near_zero_and_keeps_what_is_missing():
    x = np.array([-0.9, -1e-3, -1e-9, 0, 1e-12, 1e-5, 0.3, 2, 50, np.nan, np.inf], np.float32)
    found = in_onnx(
        lambda x: (
            jnp.log1p(x), jnp.expm1(x), jnp.isfinite(x), jnp.isnan(x), jnp.maximum(x, 0),
            jnp.where(jnp.isnan(x), 1.0, x), x**3, jnp.clip(x, -1, 1),
            jnp.all(x > 0), jnp.any(x > 0),
        ),
        x,
    )  # fmt: skip
    with np.errstate(over="ignore", invalid="ignore"):
        expected = (
            np.log1p(x), np.expm1(x), np.isfinite(x), np.isnan(x), np.maximum(x, 0),
            np.where(np.isnan(x), 1, x), x**3, np.clip(x, -1, 1), False, True,
        )  # fmt: skip
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)


def test_what_there_is_no_onnx_for_is_told():
    with pytest.raises(NotImplementedError, match="no ONNX for 'lgamma'"):
        onnx_model(lambda x: {"y": jax.lax.lgamma(x["x"])}, {"x": np.ones(2)})
    with pytest.raises(NotImplementedError, match="nothing for 'while'"):
        onnx_model(
            lambda x: {"y": jax.lax.while_loop(lambda y: y[0] < 9, lambda y: 2 * y, x["x"])},
            {"x": np.ones(2)},
        )
