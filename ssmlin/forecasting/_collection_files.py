"""Files of forecasters of many series: parameters, names, and all series one after another."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ssmlin._files import kind_of, read_arrays, write_arrays
from ssmlin.data import Columns, StoredPanel, Times, numbers_of_times, times_of_numbers
from ssmlin.forecasting._collection import CollectionState
from ssmlin.forecasting._collection_fit import Population
from ssmlin.forecasting._collection_members import InputScale
from ssmlin.forecasting._history import History
from ssmlin.forecasting._layout import Layout
from ssmlin.models import HierarchicalRegression, ParamsHierarchicalRegression

_KIND = "forecaster of many series"


def is_collection(path: Path) -> bool:
    """Whether a file holds a forecaster of many series."""
    return kind_of(path) == _KIND


def write_collection(path: Path, recipe: dict[str, Any], state: CollectionState) -> None:
    """Write a fitted forecaster.

    Args:
        path: the file.
        recipe: the settings, as JSON can hold them.
        state: what is fitted.

    Raises:
        OSError: the file cannot be written.
    """
    # Series that lie in files stay there.
    history = {} if isinstance(state.history, StoredPanel) else state.history
    series = list(history.values())
    arrays = {
        "lengths": np.array([len(one.values) for one in series], int),
        "input_mean": state.input_scale.mean,
        "input_deviation": state.input_scale.deviation,
    }
    label, date_format = {}, state.layout.date_format
    if series:
        times, labels = zip(*(numbers_of_times(one.times) for one in series), strict=True)
        label, date_format = labels[0], series[0].date_format
        arrays |= {
            "values": np.concatenate([one.values for one in series]),
            "inputs": np.concatenate([one.inputs for one in series]),
            "times": np.concatenate(times),
        }
    for number, population in enumerate(state.populations):
        for name, x in population.params._asdict().items():
            arrays[f"populations.{number}.{name}"] = np.asarray(x)
    description = {
        "recipe": recipe,
        "notes": dict(state.notes),
        "layout": state.layout.to_dict(),
        "names": list(history),
        "times": label,
        "date_format": date_format,
        "powers": [one.power for one in state.populations],
        "regressors": asdict(state.regressors),
        "converged": state.converged,
    }
    write_arrays(path, _KIND, arrays, description)


def read_collection(path: Path) -> tuple[dict[str, Any], CollectionState]:
    """Read what :func:`write_collection` wrote.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is damaged or holds something else.
    """
    arrays, notes = read_arrays("path", path, _KIND)
    layout = Layout.from_dict(notes["layout"])
    ends = np.cumsum(arrays["lengths"])
    history = {}
    known: dict[bytes, Times] = {}  # of series that share their times
    for name, end, count in zip(notes["names"], ends, arrays["lengths"], strict=True):
        part = slice(end - count, end)
        key = arrays["times"][part].tobytes()
        if key not in known:
            dates = times_of_numbers(arrays["times"][part], notes["times"])
            known[key] = layout.calendar.mark(dates)
        times = known[key]
        history[name] = Columns(arrays["values"][part], arrays["inputs"][part], times,
                                layout.targets, layout.inputs, notes["date_format"])  # fmt: skip
    populations = []
    for number, power in enumerate(notes["powers"]):
        params = ParamsHierarchicalRegression(**{
            name: jax.device_put(arrays[f"populations.{number}.{name}"])
            for name in ParamsHierarchicalRegression._fields
        })  # fmt: skip
        model = HierarchicalRegression(len(arrays[f"populations.{number}.spread"]))
        populations.append(Population(power, model, params))
    scale = InputScale(arrays["input_mean"], arrays["input_deviation"])
    state = CollectionState(
        layout, history, tuple(populations), History(**notes["regressors"]), scale,
        notes["converged"], notes["notes"],
    )  # fmt: skip
    return notes["recipe"], state
