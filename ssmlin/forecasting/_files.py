"""Files of forecasters: a model's file that also keeps the scaling, the names and the history."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from ssmlin.data import Columns, Scaling, numbers_of_times, times_of_numbers
from ssmlin.forecasting._collection import CollectionState
from ssmlin.forecasting._collection_files import (
    is_collection,
    read_collection,
    write_collection,
)
from ssmlin.forecasting._fitting import FittedAttention
from ssmlin.forecasting._layout import Layout
from ssmlin.forecasting._recipe import Recipe
from ssmlin.forecasting._state import ForecasterState
from ssmlin.mechanisms import Mechanism, get_mechanism
from ssmlin.models import load, load_arrays, load_notes, save


def write(path: Path, recipe: Recipe, fitted: ForecasterState | CollectionState) -> None:
    """Write a fitted forecaster; its file is also one of its (first) model.

    Raises:
        ValueError: a mechanism that a file cannot hold.
        OSError: the file cannot be written.
    """
    if isinstance(fitted, CollectionState):
        write_collection(path, _recipe_notes(recipe), fitted)
        return
    first, *others = fitted.fits.items()
    arrays: dict[str, np.ndarray] = {}
    for number, (_, attention) in enumerate(others, 1):
        arrays[f"fits.{number}"] = _as_bytes(attention)
    labels = []
    for number, columns in enumerate(fitted.history.values()):
        arrays[f"history.{number}.values"] = columns.values
        arrays[f"history.{number}.inputs"] = columns.inputs
        arrays[f"history.{number}.times"], label = numbers_of_times(columns.times)
        labels.append(label | {"date_format": columns.date_format})
    layout = fitted.layout
    notes = dict(fitted.notes) | {
        "targets": layout.targets,
        "inputs": layout.inputs,
        "time": layout.time,
        "series": layout.series,
        "scalings": {name: one.to_dict() for name, one in fitted.scalings.items()},
        "layout": layout.to_dict(),
        "recipe": _recipe_notes(recipe),
        "fits": [[name, one.seasonal] for name, one in fitted.fits.items()],
        "validation": dict(fitted.validation),
        "num_parameters": dict(fitted.num_parameters),
        "chosen_on": fitted.chosen_on,
        "history": list(zip(fitted.history, labels, strict=True)),
    }
    save(path, first[1].model, first[1].params, notes=notes, arrays=arrays)


def read(path: Path) -> tuple[Recipe, ForecasterState | CollectionState]:
    """Read what :func:`write` wrote.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is damaged or holds something else.
    """
    if is_collection(path):
        settings, collection = read_collection(path)
        return Recipe(**settings | {"discounts": tuple(settings["discounts"])}), collection
    model, params, _ = load(path)
    notes, arrays = load_notes(path), load_arrays(path)
    if not is_forecaster(notes):
        raise ValueError(
            f"path: expected a file that Forecaster.save or `ssmlin fit` wrote, got {path}"
        )
    scalings = {name: Scaling.from_dict(one) for name, one in notes["scalings"].items()}
    layout = Layout(tuple(notes["targets"]), tuple(notes["inputs"]), notes["time"], notes["series"],
                    notes.get("reading", {}).get("date_format"))  # fmt: skip
    if "layout" in notes:
        layout = Layout.from_dict(notes["layout"])
    names = notes.get("fits", [["", None]])
    fits = {names[0][0]: FittedAttention(model, params, names[0][1])}
    for number, (name, seasonal) in enumerate(names[1:], 1):
        fits[name] = _from_bytes(arrays[f"fits.{number}"])._replace(seasonal=seasonal)
    history = {}
    for number, (name, label) in enumerate(notes.get("history", [])):
        values, inputs, times = (
            arrays[f"history.{number}.{part}"] for part in ("values", "inputs", "times")
        )
        dates = layout.calendar.mark(times_of_numbers(times, label))
        history[name] = Columns(values, inputs, dates, layout.targets, layout.inputs,
                                label["date_format"])  # fmt: skip
    settings = dict(notes.get("recipe", {}))
    if "discounts" in settings:
        settings["discounts"] = tuple(settings["discounts"])
    known = get_mechanism(model.mechanism.name)
    settings["mechanism"] = known.name if known == model.mechanism else model.mechanism
    recipe = Recipe(**settings)
    fitted = ForecasterState(layout, fits, scalings, history, notes.get("validation", {}),
                             notes.get("num_parameters", {}), notes.get("chosen_on", ""),
                             notes)  # fmt: skip
    return recipe, fitted


def is_forecaster(notes: Mapping[str, Any]) -> bool:
    """Whether the notes of a model's file are those of a forecaster."""
    return {"targets", "inputs", "time", "series", "scalings"} <= notes.keys()


def _recipe_notes(recipe: Recipe) -> dict[str, Any]:
    """The settings that JSON can hold; the model says the mechanism."""
    kept = asdict(recipe)
    name = recipe.mechanism.name if isinstance(recipe.mechanism, Mechanism) else recipe.mechanism
    return kept | {"mechanism": name, "checkpoint_dir": None, "progress": False}


def _as_bytes(attention: FittedAttention) -> np.ndarray:
    """A model's file as an array of bytes."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        save(path, attention.model, attention.params)
        return np.frombuffer(path.read_bytes(), np.uint8)


def _from_bytes(data: np.ndarray) -> FittedAttention:
    """The model in an array of bytes."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        path.write_bytes(data.tobytes())
        model, params, _ = load(path)
    return FittedAttention(model, params)
