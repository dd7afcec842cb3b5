"""Files of results: a comparison that was stopped goes on with the models that are not done."""

import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from ssmlin._files import read_arrays, remove_leftovers, write_arrays
from ssmlin.comparison.evaluation import Candidate, Result
from ssmlin.comparison.scores import PathScores, Scores, Units
from ssmlin.forecasting import FittedAttention, Observed, Predictive
from ssmlin.learning.checkpoint import digest
from ssmlin.models import load

_KIND = "result of a comparison"
_PARTS: dict[str, Any] = {"scores": Scores, "paths": PathScores, "predictive": Predictive}


class ResultFolder:
    """A folder with a file for each result, named after everything that the result depends on.

    Other arguments have other names, so a folder may serve several comparisons: one with more
    models takes what it finds and fits the rest. A forecaster of the user's own is known by its
    name, its settings and the name of its function; code of ssmlin by its version.

    Args:
        directory: the folder, created if need be; None for none: nothing is read or written.

    Raises:
        ValueError: the folder cannot be made.
    """

    def __init__(self, directory: str | Path | None) -> None:
        self._folder = None if directory is None else Path(directory)
        if self._folder is None:
            return
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(
                "checkpoint_dir: expected a directory that can be written, got "
                f"{self._folder} ({error})"
            ) from error

    def path(
        self,
        series: str,
        forecaster: Candidate,
        data: Observed,
        num_train: int,
        units: Units | None = None,
        **options: Any,
    ) -> Path | None:
        """Where the result of one model on one series belongs.

        Raises:
            ValueError: settings that JSON cannot hold.
        """
        if self._folder is None:
            return None
        for setting in forecaster.settings:
            try:
                json.dumps(setting)
            except TypeError as error:
                raise ValueError(
                    f"checkpoint_dir: expected settings of {forecaster.name} that JSON can hold, "
                    f"got {setting}"
                ) from error
        what = (forecaster.name, forecaster.settings, repr(forecaster.fit), version("ssmlin"))
        name = digest((what, num_train, units, data.values, data.inputs, sorted(options.items())))
        label = "".join(
            c if c.isalnum() or c in "-_" else "-" for c in f"{series}-{forecaster.name}"
        )
        return self._folder / f"{label[:80]}.{name[:16]}.safetensors"


def _model_file(path: Path) -> Path:
    return path.with_suffix(".model.safetensors")


def write_result(path: Path, result: Result) -> None:
    """Write a result; a fitted linear attention goes to a file of its own beside it.

    Raises:
        ValueError: it cannot be written.
    """
    arrays: dict[str, np.ndarray] = {}
    for name in _PARTS:
        part = getattr(result, name)
        if part is not None:
            arrays |= {f"{name}.{key}": x for key, x in part._asdict().items() if x is not None}
    if result.draws is not None:
        arrays["draws"] = result.draws
    description: dict[str, Any] = {
        key: getattr(result, key)
        for key in ("name", "num_parameters", "seconds", "failure", "log_evidence", "warnings")
    }
    description["setting"] = list(result.setting.items())  # their order is shown
    fit = result.details
    try:
        remove_leftovers(path)
        if isinstance(fit, FittedAttention):
            fit.model.save(_model_file(path), fit.params)
            description["seasonal"] = fit.seasonal
        write_arrays(path, _KIND, arrays, description)
    except OSError as error:
        raise ValueError(
            f"checkpoint_dir: expected a directory that can be written, got {path.parent} ({error})"
        ) from error


def read_result(path: Path) -> Result:
    """Read what :func:`write_result` wrote.

    Raises:
        ValueError: a file that is damaged or of another version of ssmlin.
    """
    try:
        arrays, description = read_arrays("checkpoint_dir", path, _KIND)
        details = None
        if "seasonal" in description:
            model, params, _ = load(_model_file(path))
            details = FittedAttention(model, params, description.pop("seasonal"))
        setting = {key: _tuples(x) for key, x in description.pop("setting")}
        description["warnings"] = tuple(description["warnings"])
        parts = {name: _part(cls, name, arrays) for name, cls in _PARTS.items()}
        return Result(
            setting=setting, details=details, draws=arrays.get("draws"), **parts, **description
        )
    except (KeyError, TypeError, OSError) as error:
        raise ValueError(
            f"checkpoint_dir: expected a result of this version of ssmlin, got another: {path} "
            f"({error}); remove it"
        ) from error


def _part(cls: Any, name: str, arrays: Mapping[str, np.ndarray]) -> Any:
    """Scores or laws, or None."""
    found = {key: arrays[f"{name}.{key}"] for key in cls._fields if f"{name}.{key}" in arrays}
    return cls(**found) if found else None


def _tuples(x: Any) -> Any:
    """JSON knows lists alone, settings tuples."""
    return tuple(_tuples(one) for one in x) if isinstance(x, list) else x
