"""Files of results: a comparison that was stopped goes on with the models that are not done."""

import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import numpy as np

from ssmlin._files import read_arrays, remove_leftovers, write_arrays
from ssmlin.comparison._candidate import Candidate, SettingValue
from ssmlin.comparison._evaluation import EvaluationOptions, Result
from ssmlin.comparison._scores import PathScores, Scores, Units
from ssmlin.forecasting import FittedAttention, Observed, Predictive
from ssmlin.learning import digest
from ssmlin.models import load

_KIND = "result of a comparison"
#: Parts of a result that are arrays by name.
_PARTS = ("scores", "paths", "predictive")


class ResultFolder:
    """A folder with a file for each result, named after everything that the result depends on.

    Other arguments give other names, so a folder may serve several comparisons: one with more
    models reads the results that exist and fits the rest. A candidate of the user's own is known
    by its name, its settings and the name of its function; code of ssmlin by its version.

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
        candidate: Candidate,
        data: Observed,
        num_train: int,
        units: Units | None = None,
        options: EvaluationOptions | None = None,
    ) -> Path | None:
        """Where the result of one candidate on one series belongs.

        Args:
            series: the name of the series.
            candidate: the candidate.
            data: the standardised series.
            num_train: the number of training steps.
            units: the way back, if the values are transformed.
            options: how candidates are scored; default :class:`EvaluationOptions`.

        Returns:
            The path; None without a folder.

        Raises:
            ValueError: settings that JSON cannot hold.
        """
        if self._folder is None:
            return None
        for setting in candidate.settings:
            try:
                json.dumps(dict(setting))
            except TypeError as error:
                raise ValueError(
                    f"checkpoint_dir: expected settings of {candidate.name} that JSON can hold, "
                    f"got {setting}"
                ) from error
        options = EvaluationOptions() if options is None else options
        fit = (candidate.name, candidate.settings, repr(candidate.fit), version("ssmlin"))
        name = digest((fit, num_train, units, data.values, data.inputs, options))
        label = "".join(
            c if c.isalnum() or c in "-_" else "-" for c in f"{series}-{candidate.name}"
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
        part: Scores | PathScores | Predictive | None = getattr(result, name)
        if part is not None:
            arrays |= {f"{name}.{key}": x for key, x in part._asdict().items() if x is not None}
    if result.draws is not None:
        arrays["draws"] = result.draws
    description: dict[str, object] = {
        "name": result.name,
        "setting": list(result.setting.items()),  # their order is shown
        "num_parameters": result.num_parameters,
        "seconds": result.seconds,
        "failure": result.failure,
        "log_evidence": result.log_evidence,
        "warnings": result.warnings,
    }
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
            details = FittedAttention(model, params, description["seasonal"])
        return Result(
            name=description["name"],
            setting={key: _with_tuples(x) for key, x in description["setting"]},
            scores=_part(Scores, "scores", arrays),
            paths=_part(PathScores, "paths", arrays),
            predictive=_part(Predictive, "predictive", arrays),
            num_parameters=description["num_parameters"],
            seconds=description["seconds"],
            details=details,
            failure=description["failure"],
            draws=arrays.get("draws"),
            log_evidence=description["log_evidence"],
            warnings=tuple(description["warnings"]),
        )
    except (KeyError, TypeError, OSError) as error:
        raise ValueError(
            f"checkpoint_dir: expected a result of this version of ssmlin, got another: {path} "
            f"({error}); remove it"
        ) from error


def _part[Part: (Scores, PathScores, Predictive)](
    cls: type[Part], name: str, arrays: Mapping[str, np.ndarray]
) -> Part | None:
    """Scores or laws, or None where the file has none."""
    fields = {key: arrays[f"{name}.{key}"] for key in cls._fields if f"{name}.{key}" in arrays}
    return cls(**fields) if fields else None


def _with_tuples(x: object) -> SettingValue:
    """Tuples for the lists that JSON has in their place."""
    if isinstance(x, list):
        return tuple(_with_tuples(one) for one in x)
    value: SettingValue = x  # type: ignore[assignment]  # JSON holds nothing else
    return value
