"""A fitted model as files that other programs run: NumPy alone, StableHLO or ONNX."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from ssmlin import _checks
from ssmlin._files import written_whole
from ssmlin._optional import require
from ssmlin.data import Scaling, box_cox, first_place
from ssmlin.forecasting import CollectionState, Forecaster
from ssmlin.models import LinearAttentionSSM, ParamsLinearAttentionSSM, StateLaw
from ssmlin.serving import _numpy_runtime
from ssmlin.serving._attention_series import AttentionSeries, belief_of
from ssmlin.serving._numpy_source import numpy_source
from ssmlin.serving._online_filter import OnlineFilter
from ssmlin.serving._online_forecaster import OnlineForecaster
from ssmlin.serving._online_state import OnlineState, one_step, with_rows
from ssmlin.serving._onnx_graph import onnx_model
from ssmlin.serving._weights import WEIGHTS, keep

#: What `export_model` can write.
FORMATS = ("numpy", "stablehlo", "onnx")

Source = Forecaster | tuple[LinearAttentionSSM, ParamsLinearAttentionSSM]


class _Exported(NamedTuple):
    """What a program outside needs: the model, where it starts, and what is around it."""

    model: LinearAttentionSSM
    params: ParamsLinearAttentionSSM
    state: OnlineState
    last: Float[np.ndarray, "lag m"]
    scaling: Scaling
    about: dict[str, Any]


def export_model(
    source: Source,
    path: str | Path,
    format: str = "numpy",
    *,
    series: str | None = None,
    weights: str | None = None,
) -> list[Path]:
    """Write a fitted model as files that run without ssmlin, one step of the filter at a time.

    "numpy": a module ``path.py`` that imports NumPy and the standard library alone (Python 3.9 or
    newer), and its weights ``path.npz``. Values go in and predictions come out in the units of the
    series. "stablehlo": a step, standardised, for any number of series at once:
    ``path.stablehlo``, which ``jax.export.deserialize`` reads, and ``path.mlir``, its text.
    "onnx": a step, standardised, for one series: ``path.onnx``, of the inputs "mean", "cov" and
    what else is in the state, "emission" and, where there are any, "inputs"; it gives "new_mean"
    and so on, "location", "scale", "df" and "log_density". Beside either is ``path.npz`` with the
    state to begin with and, as JSON, what is around the step.

    All go on from the end of the forecaster's data, whose steps with missing lags are left out.
    None draws what is missing and is a lag of later steps: the NumPy module refuses it, and in the
    others all that follows is NaN.

    Args:
        source: a fitted forecaster; or a model and its parameters.
        path: of the files, without an ending; older ones are replaced.
        format: "numpy", "stablehlo" or "onnx".
        series: which of several series.
        weights: what the matrices that inputs are multiplied by are kept in: "float32", "float16",
            "int8" with a scale for each row, or None, as they are. Everything is computed in the
            precision of the fit. Of "stablehlo" they are part of the program: None.

    Returns:
        The files.

    Raises:
        ValueError: another format or type, an approximate `covariance`, a population, or a
            mechanism that computes something that the format has nothing for here.
        MissingPackage: "stablehlo" without flatbuffers, "onnx" without onnx.
        OSError: a file cannot be written.

    Examples:
        >>> import tempfile, pathlib, ssmlin
        >>> model = ssmlin.LinearAttentionSSM("mamba2", 1, 0, 2)
        >>> params, _ = model.initialize()
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "small"
        >>> [file.name for file in ssmlin.serving.export_model((model, params), path)]
        ['small.py', 'small.npz']
    """
    _checks.one_of("format", format, FORMATS)
    if weights is not None:
        _checks.one_of("weights", weights, WEIGHTS)
        if format == "stablehlo":
            raise ValueError(f"weights: expected None for format='stablehlo', got {weights!r}")
    found = _exported(source, series)
    if found.model.covariance != "full":
        raise ValueError(
            f"covariance: expected 'full' for an export, got {found.model.covariance!r}"
        )
    try:
        files = _WRITERS[format](found, weights)
    except NotImplementedError as error:
        raise ValueError(
            f"format: expected 'stablehlo' for this model, since there is {error} here; got "
            f"{format!r}"
        ) from error
    written = []
    for ending, write in files.items():
        written.append(Path(f"{path}{ending}"))
        with written_whole(written[-1]) as temporary:
            write(temporary)
    return written


def _exported(source: Source, series: str | None) -> _Exported:
    """The same of a forecaster and of a model alone, which is its own scale."""
    if not isinstance(source, Forecaster):
        model, params = source[:2]
        m, width = model.emission_dim, model.input_dim - model.num_lags * model.emission_dim
        scaling = Scaling((0.0,) * m, (1.0,) * m, (0.0,) * width, (1.0,) * width)
        state = OnlineFilter(model, params).init()
        last, place, lags_alone, season = np.zeros((0, m)), 0, 0, None
        names = {"targets": [f"y{i + 1}" for i in range(m)],
                 "inputs": [f"x{i + 1}" for i in range(width)]}  # fmt: skip
    else:
        if isinstance(source.state_, CollectionState):
            raise ValueError(
                "forecaster: expected pooling='separate' or 'shared' for an export, got a "
                "population (pooling='hierarchical'); OnlineForecaster follows its series"
            )
        online = OnlineForecaster(source, series).series
        assert isinstance(online, AttentionSeries)
        model, params, season = online.attention
        scaling, columns = online.scaling, online.columns
        state, lags_alone, place = _after_data(online), model.num_lags, 0
        last = np.full((scaling.difference, model.emission_dim), np.nan)
        if columns is not None:
            place = first_place(columns.times) if season else 0
            last = box_cox(columns.values[len(columns.values) - len(last) :], scaling.power)
        names = {"targets": list(online.layout.targets), "inputs": list(online.layout.inputs)}
    by_rows = model.num_lags == 0 and model.missing != "rows"
    about = {
        "mechanism": model.mechanism.name, **names,
        **scaling.to_dict(), "season": season, "first_place": place, "num_lags": model.num_lags,
        "lags_alone": lags_alone, "discount": model.row_cov.discount,
        "by_rows": by_rows and model.given_missing().missing == "entries",
    }  # fmt: skip
    return _Exported(model, params, state, last, scaling, about)


def _after_data(online: AttentionSeries) -> OnlineState:
    """The law after the data, of which steps that are lags or have lags that are missing count not.

    So there are no draws, which a program outside would have to go on with.
    """
    if online.columns is None or online.model.num_lags == 0:
        return belief_of(online.init())
    observed, lags = online.observed, online.model.num_lags
    missing = np.isnan(observed.values).any(axis=1)
    near = np.concatenate([np.zeros(lags), np.cumsum(missing)])
    lacks = np.cumsum(missing) - near[: len(missing)] > 0  # of this step and its lags
    counts: Bool[np.ndarray, " T"] = ~lacks & (np.arange(len(missing)) >= lags)
    filled = np.where(missing[:, None], 0.0, observed.values)
    after, _ = online.filter.steps(online.filter.init(), filled, observed.inputs, mask=counts)
    return after


def _about(found: _Exported) -> np.ndarray:
    return np.frombuffer(json.dumps(found.about).encode(), np.uint8)


type _Write = Callable[[Path], object]
type _Step = Callable[[dict[str, Array], Array, Array], tuple[dict[str, Array], dict[str, Array]]]


def _numpy_files(found: _Exported, weights: str | None) -> dict[str, _Write]:
    """The module and its weights."""
    model, params = found.model, found.params

    def operators(inputs: Float[Array, " p"]) -> tuple[Array, ...]:
        lgssm = model.to_lgssm(params, inputs[None] if model.input_dim else None, 1)
        parts = (lgssm.transition, lgssm.drift, lgssm.process_noise)
        dense = [part.to_dense()[0] for part in parts]
        return (*dense, lgssm.readout[0], lgssm.emission_noise[0], lgssm.emission_bias[0])

    dtype = params.initial.mean.dtype
    source = numpy_source(operators, jnp.zeros(model.input_dim, dtype))
    runtime = Path(_numpy_runtime.__file__).read_text(encoding="utf-8")
    head = runtime[: runtime.index("    raise NotImplementedError")]
    body = [*source.lines, f"return {', '.join(source.results)}"]
    code = head + "".join(f"    {line}\n" for line in body)
    start = _by_name(found.state) | {"last": found.last}
    arrays = {f"s.{name}": np.asarray(x) for name, x in start.items()}
    arrays |= {"row_cov": _row_cov(found), "about": _about(found)}
    for name, x in source.constants.items():
        kept = keep(x, weights if name in source.weights else None)
        arrays[f"c.{name}"] = kept.values
        if kept.scale is not None:
            arrays[f"r.{name}"] = kept.scale
    return {
        ".py": lambda path: path.write_text(code, encoding="utf-8"),
        ".npz": lambda path: _savez(path, arrays),
    }


def _savez(path: Path, arrays: dict[str, np.ndarray]) -> None:
    with open(path, "wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]  # NumPy's stub takes these for a flag


def _row_cov(found: _Exported) -> np.ndarray:
    """Σ as a matrix, where it is known."""
    row_cov = found.model.row_cov
    return np.asarray(row_cov.matrices(found.params.row_cov.covariance, found.model.emission_dim))


def _step_and_start(found: _Exported) -> tuple[_Step, dict[str, np.ndarray]]:
    """One step of the filter as a function of arrays by name, and the state it begins with.

    Where rows may have covariances of their own they have them from the start, so that its shape
    stays as it is when an emission is partly missing.
    """
    model, params, key = found.model, found.params, jax.random.key(0)
    if found.about["by_rows"] and model.emission_dim > 1:
        found = found._replace(state=with_rows(found.state, model.emission_dim))
    belief = found.state.belief
    assert isinstance(belief, StateLaw)

    def step(
        state: dict[str, Array], emission: Float[Array, " m"], inputs: Float[Array, " k"]
    ) -> tuple[dict[str, Array], dict[str, Array]]:
        law = StateLaw(state["mean"], state["cov"], belief.row_cov)
        if belief.row_cov is not None:
            law = law._replace(row_cov=type(belief.row_cov)(state["nu"], state["psi"]))
        before = OnlineState(law, state["lags"], state["num_steps"], None)
        counts = state["num_steps"] >= found.about["lags_alone"]
        after, prediction = one_step(model, params, key, before, emission, inputs, counts)
        said = {"location": prediction.means[0], "scale": prediction.scales[0],
                "log_density": prediction.log_density}  # fmt: skip
        if prediction.student_df is not None:
            said["df"] = prediction.student_df
        return _by_name(after), said

    return step, {name: np.asarray(x) for name, x in _by_name(found.state).items()}


def _by_name(state: OnlineState) -> dict[str, Array]:
    belief = state.belief
    assert isinstance(belief, StateLaw)
    arrays = {"mean": belief.mean, "cov": belief.cov, "lags": state.lags,
              "num_steps": state.num_steps}  # fmt: skip
    if belief.row_cov is not None:
        arrays |= {"nu": belief.row_cov.df, "psi": belief.row_cov.scale}
    return arrays


def _outside(found: _Exported) -> int:
    """How many inputs a step takes beside its lags: exogenous ones and the season's."""
    return found.model.input_dim - found.model.num_lags * found.model.emission_dim


def _stablehlo_files(found: _Exported, weights: str | None) -> dict[str, _Write]:
    """One step for any number of series, and what it begins with."""
    require("flatbuffers")
    from jax import export

    step, start = _step_and_start(found)
    (batch,) = export.symbolic_shape("b")

    def like(shape: tuple[int, ...], kind: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((batch, *shape), kind)  # type: ignore[no-untyped-call]

    dtype = start["mean"].dtype
    exported = export.export(jax.jit(jax.vmap(step)), platforms=("cpu", "cuda", "tpu"))(
        {name: like(x.shape, x.dtype) for name, x in start.items()},
        like((found.model.emission_dim,), dtype),
        like((_outside(found),), dtype),
    )
    arrays = start | {"last": found.last, "about": _about(found)}
    return {
        ".stablehlo": lambda path: path.write_bytes(exported.serialize()),
        ".mlir": lambda path: path.write_text(exported.mlir_module(), encoding="utf-8"),
        ".npz": lambda path: _savez(path, arrays),
    }


def _onnx_files(found: _Exported, weights: str | None) -> dict[str, _Write]:
    """One step, and what it begins with, of which what holds nothing is left out."""
    step, start = _step_and_start(found)
    dtype = start["mean"].dtype
    like = start | {
        "emission": np.zeros(found.model.emission_dim, dtype),
        "inputs": np.zeros(_outside(found), dtype),
    }

    def by_name(given: dict[str, Array]) -> dict[str, Array]:
        state = {name: given[name] for name in start}
        new, said = step(state, given["emission"], given["inputs"])
        return said | {f"new_{name}": x for name, x in new.items()}

    about = json.dumps(found.about)
    made = onnx_model(by_name, like, weights=weights, about=about)
    arrays = {name: x for name, x in start.items() if x.size} | {"about": _about(found)}
    if found.last.size:
        arrays["last"] = found.last
    return {
        ".onnx": lambda path: path.write_bytes(made.SerializeToString()),
        ".npz": lambda path: _savez(path, arrays),
    }


_WRITERS = {"numpy": _numpy_files, "stablehlo": _stablehlo_files, "onnx": _onnx_files}
