"""A fitted model as files that other programs run: NumPy alone, or StableHLO."""

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
from ssmlin.forecasting import Forecaster
from ssmlin.models import LinearAttentionSSM, ParamsLinearAttentionSSM, StateLaw
from ssmlin.serving import _numpy_runtime
from ssmlin.serving._attention_series import AttentionSeries, belief_of
from ssmlin.serving._numpy_source import numpy_source
from ssmlin.serving._online_filter import OnlineFilter
from ssmlin.serving._online_forecaster import OnlineForecaster
from ssmlin.serving._online_state import OnlineState, one_step

#: What `export_model` can write.
FORMATS = ("numpy", "stablehlo")

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
    source: Source, path: str | Path, format: str = "numpy", *, series: str | None = None
) -> list[Path]:
    """Write a fitted model as files that need neither ssmlin nor, as NumPy, JAX.

    "numpy": a module ``path.py`` that imports NumPy and the standard library alone (Python 3.9 or
    newer), and its weights ``path.npz``. Values go in and predictions come out in the units of the
    series. "stablehlo": one step of the filter, standardised, for any number of series at once:
    ``path.stablehlo``, which ``jax.export.deserialize`` reads, ``path.mlir``, its text, and
    ``path.npz`` with the state to begin with and, as JSON, what is around the step.

    Both go on from the end of the forecaster's data, whose steps with missing lags are left out.
    Both refuse what needs draws: a missing value that is a lag of later steps.

    Args:
        source: a fitted forecaster; or a model and its parameters.
        path: of the files, without an ending; older ones are replaced.
        format: "numpy" or "stablehlo".
        series: which of several series.

    Returns:
        The files.

    Raises:
        ValueError: another format, an approximate `covariance`, a population, or a mechanism that
            computes something for which there is no NumPy here.
        MissingPackage: "stablehlo" without flatbuffers.
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
    found = _exported(source, series)
    if found.model.covariance != "full":
        raise ValueError(
            f"covariance: expected 'full' for an export, got {found.model.covariance!r}"
        )
    files = _numpy_files(found) if format == "numpy" else _stablehlo_files(found)
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
        online = OnlineForecaster(source, series).series
        if not isinstance(online, AttentionSeries):
            raise ValueError(
                "forecaster: expected pooling='separate' or 'shared' for an export, got a "
                "population (pooling='hierarchical'); OnlineForecaster follows its series"
            )
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


def _start(found: _Exported) -> dict[str, np.ndarray]:
    """The state to begin with, by name."""
    belief = found.state.belief
    assert isinstance(belief, StateLaw)
    arrays = {
        "mean": belief.mean, "cov": belief.cov, "lags": found.state.lags,
        "num_steps": found.state.num_steps, "last": found.last,
    }  # fmt: skip
    if belief.row_cov is not None:
        arrays |= {"nu": belief.row_cov.df, "psi": belief.row_cov.scale}
    return {name: np.asarray(x) for name, x in arrays.items()}


def _about(found: _Exported) -> np.ndarray:
    return np.frombuffer(json.dumps(found.about).encode(), np.uint8)


type _Write = Callable[[Path], object]


def _numpy_files(found: _Exported) -> dict[str, _Write]:
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
    arrays = {f"c.{name}": x for name, x in source.constants.items()}
    arrays |= {f"s.{name}": x for name, x in _start(found).items()}
    arrays |= {"row_cov": _row_cov(found), "about": _about(found)}
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


def _stablehlo_files(found: _Exported) -> dict[str, _Write]:
    """One step for any number of series, and what it begins with."""
    require("flatbuffers")
    from jax import export

    model, params, key = found.model, found.params, jax.random.key(0)

    def step(
        state: dict[str, Array], emission: Float[Array, " m"], inputs: Float[Array, " k"]
    ) -> tuple[dict[str, Array], dict[str, Array]]:
        belief = found.state.belief
        assert isinstance(belief, StateLaw)
        law = StateLaw(state["mean"], state["cov"], belief.row_cov)
        if belief.row_cov is not None:
            law = law._replace(row_cov=type(belief.row_cov)(state["nu"], state["psi"]))
        before = OnlineState(law, state["lags"], state["num_steps"], None)
        counts = state["num_steps"] >= found.about["lags_alone"]
        after, prediction = one_step(model, params, key, before, emission, inputs, counts)
        new = {
            "mean": after.belief.mean, "cov": after.belief.cov, "lags": after.lags,
            "num_steps": after.num_steps,
        }  # fmt: skip
        if after.belief.row_cov is not None:
            new |= {"nu": after.belief.row_cov.df, "psi": after.belief.row_cov.scale}
        said = {"location": prediction.means[0], "scale": prediction.scales[0],
                "log_density": prediction.log_density}  # fmt: skip
        if prediction.student_df is not None:
            said["df"] = prediction.student_df
        return new, said

    start = {name: x for name, x in _start(found).items() if name != "last"}
    (batch,) = export.symbolic_shape("b")
    dtype, width = start["mean"].dtype, len(found.scaling.input_mean)
    season = 0 if found.about["season"] is None else model.input_dim - width
    outside = width + (season - model.num_lags * model.emission_dim if season else 0)

    def like(shape: tuple[int, ...], kind: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((batch, *shape), kind)  # type: ignore[no-untyped-call]

    exported = export.export(jax.jit(jax.vmap(step)), platforms=("cpu", "cuda", "tpu"))(
        {name: like(x.shape, x.dtype) for name, x in start.items()},
        like((model.emission_dim,), dtype),
        like((outside,), dtype),
    )
    arrays = _start(found) | {"about": _about(found)}
    return {
        ".stablehlo": lambda path: path.write_bytes(exported.serialize()),
        ".mlir": lambda path: path.write_text(exported.mlir_module(), encoding="utf-8"),
        ".npz": lambda path: _savez(path, arrays),
    }
