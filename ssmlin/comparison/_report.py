"""A comparison as one HTML file that needs nothing else: tables, figures, how to make it again."""

import html
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ssmlin._files import written_whole
from ssmlin._optional import require
from ssmlin.comparison import _figures as figures
from ssmlin.comparison._html import image, page, table, text
from ssmlin.comparison._scores import SUMMARY
from ssmlin.comparison._tables import Comparison
from ssmlin.comparison._verdict import verdict
from ssmlin.comparison.plots import gate_figure, parameter_names, trace_figure
from ssmlin.forecasting import FittedAttention
from ssmlin.mechanisms import MECHANISMS

if TYPE_CHECKING:
    import pandas
    import xarray

_PACKAGES = ("ssmlin", "jax", "dynamax", "blackjax", "optax", "statsmodels", "scoringrules",
             "arviz", "numpy", "pandas")  # fmt: skip

_SCORES = (*SUMMARY[:1], "difference", *SUMMARY[2:])  # a standard error goes with a difference


def write_report(
    path: str | Path,
    comparison: Comparison,
    *,
    command: str | None = None,
    fit_command: str | None = None,
    draws: "xarray.DataTree | None" = None,
    drawn_from: str = "",
) -> None:
    """Write a comparison to one HTML file without scripts or links to other files.

    It begins with the verdict. It holds the leaderboard, the predictions of the best mechanism and
    the best baseline, where the difference was made, calibration, the gates over time, the weights
    of the average, the posterior of the gates with its diagnostics if draws are given, and what was
    run.

    Args:
        path: the new file.
        comparison: what :func:`ssmlin.comparison.compare_models` returned.
        command: how to make it again.
        fit_command: how to fit the best linear attention.
        draws: what :func:`ssmlin.sample_posterior` returned for one of the mechanisms.
        drawn_from: the name of that mechanism.

    Raises:
        FileExistsError: the file exists.
        OSError: it cannot be written.
        ValueError: all models failed.

    Example:
        >>> import tempfile, pathlib, numpy as np
        >>> from ssmlin.comparison import Series, compare_models, write_report
        >>> y = np.cumsum(np.random.default_rng(0).normal(size=(60, 1)), axis=0)
        >>> series = Series("walk", y, np.arange(60), ("y",), "simulated")
        >>> comparison = compare_models(series, "persistence", progress=False)
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "report.html"
        >>> write_report(path, comparison)
        >>> "persistence" in path.read_text()
        True
    """
    whole = _page(comparison, command, fit_command, draws, drawn_from)
    with written_whole(Path(path), new=True) as temporary:
        temporary.write_text(whole, encoding="utf-8")


def _page(
    comparison: Comparison,
    command: str | None,
    fit_command: str | None,
    draws: "xarray.DataTree | None",
    drawn_from: str,
) -> str:
    """The whole file."""
    split, frame = comparison.split, comparison.to_frame()
    series, steps = split.series, len(split.observed.values)
    scored = [r.name for r in comparison.results if r.scores is not None]
    if not scored:
        raise ValueError("comparison: expected a model that did not fail, got none")
    fitted = [r.name for r in comparison.results if isinstance(r.details, FittedAttention)]
    ours = {*MECHANISMS, *fitted, "average"}  # a mechanism of one's own need not be registered
    columns = ", ".join(series.columns)
    parts = [
        f"<h1>{html.escape(series.name)}</h1>",
        *_verdict(comparison, fit_command),
        text(f"{steps} steps of {columns}; the last {steps - split.num_train} were held out and "
             "predicted one step ahead. Scores are in units of the training part's standard "
             "deviation of each column." + _transformed(split.transformation)),
        "<h2>Leaderboard</h2>",
        _leaderboard(frame, _SCORES, ours),
        text("log density: mean log p(y_t | all before) a step, higher is better; difference: to "
             "the best model, step by step; CRPS, energy, RMSE: lower is better; coverage: the "
             "share of values inside central intervals; PIT p: small for a model that is not "
             "calibrated."),
        image(figures.leaderboard_figure(comparison), "Differences to the best model"),
    ]  # fmt: skip
    of_paths = [name for name in frame.columns if name.startswith("path_")]
    if of_paths:
        parts += [
            f"<h3>Sampled paths of {comparison.horizon} steps</h3>",
            _leaderboard(frame, of_paths, ours),
        ]
    of_fits = ("log_evidence", "num_parameters", "seconds", "setting")
    parts += ["<h3>Fits</h3>", _leaderboard(frame, of_fits, ours)]
    for title, column in (("Failed", "failure"), ("Warnings", "warnings")):
        listed = [(row["model"], row[column]) for row in frame.to_dict("records") if row[column]]
        if listed:
            items = "".join(f"<li>{html.escape(f'{name}: {text}')}</li>" for name, text in listed)
            parts += [f"<h2>{title}</h2>", f"<ul>{items}</ul>"]
    parts.append("<h2>Predictions</h2>")
    best = [next((name for name in scored if (name in ours) == is_ours), None)
            for is_ours in (True, False)]  # fmt: skip
    for name in [name for name in best if name is not None]:
        parts.append(image(figures.held_out_figure(comparison, name), f"Predictions of {name}"))
    if len(scored) > 1:
        parts += [
            "<h2>Where the difference was made</h2>",
            image(figures.gains_figure(comparison), "Log density gained, summed over steps"),
        ]
    parts += [
        "<h2>Calibration</h2>",
        text("Histograms of the probability integral transform with the band of a calibrated "
             "model, and below each the shares of values inside the 50, 80 and 95 % intervals."),
        image(figures.calibration_figure(comparison), "PIT histograms"),
    ]  # fmt: skip
    for title, figure in (
        ("Gates over time", figures.gates_figure(comparison)),
        ("Weights of the average", figures.weights_figure(comparison)),
    ):
        if figure is not None:
            parts += [f"<h2>{title}</h2>", image(figure, title)]
    if draws is not None:
        parts += _posterior(draws, drawn_from)
    parts += _provenance(comparison, command)
    return page(f"{series.name}: comparison", parts)


def _verdict(comparison: Comparison, fit_command: str | None) -> list[str]:
    """What the comparison says, what to do about it, and how to fit the best model."""
    said = verdict(comparison, comparison.seed)
    parts = [f"<p>{html.escape(sentence)}</p>" for sentence in said.sentences]
    if said.choice is not None and fit_command is not None:
        parts.append(f"<p>{html.escape(said.choice.reason)} This fits it to the whole file:</p>")
        parts.append(f"<pre>{html.escape(fit_command)}</pre>")
    return parts


def _transformed(transformation: str) -> str:
    """A sentence on what the models saw, if it was not the values."""
    return f" Models see {transformation}." if transformation else ""


def _leaderboard(frame: "pandas.DataFrame", columns: Sequence[str], ours: set[str]) -> str:
    """Some columns of the table, a row for each model."""
    shown = [name for name in ("model", *columns) if name in frame]
    rows = []
    for record in frame.to_dict("records"):
        kind = "ours" if record["model"] in ours else "baseline"
        if abs(record["difference"]) > 0:  # not of the best, nor of one that failed
            record["difference"] = f"{record['difference']:.3f} ± {record['difference_se']:.3f}"
        rows.append((kind, [record[name] for name in shown]))
    return table([name.replace("_", " ") for name in shown], rows)


def _posterior(draws: "xarray.DataTree", drawn_from: str) -> list[str]:
    """The posterior of the gates with its diagnostics."""
    require("arviz")
    import arviz

    names = parameter_names(draws)
    summary = arviz.summary(draws, var_names=names)
    rows = [("", [str(index), *row]) for index, row in
            zip(summary.index, summary.to_numpy().tolist(), strict=True)]  # fmt: skip
    attributes = draws.posterior.attrs
    facts = f"{attributes.get('algorithm', '')} by blackjax, {drawn_from}"
    facts += f"; {draws.posterior.sizes['chain']} chains of {draws.posterior.sizes['draw']} draws"
    if "diverging" in draws.sample_stats:
        facts += f"; {int(draws.sample_stats['diverging'].sum())} divergent transitions"
    if "log_evidence" in attributes:
        facts += f"; log evidence {float(np.mean(attributes['log_evidence'])):.2f}"
    parts = ["<h2>Posterior of the gates</h2>", text(facts)]
    parts.append(table(["parameter", *summary.columns], rows))
    if any(str(name).endswith("_t") for name in draws.posterior.data_vars):
        parts.append(image(gate_figure(draws), "Posterior of the gates over time"))
    parts.append(image(trace_figure(draws, names[:4]), "Densities and traces of the chains"))
    return parts


def _provenance(comparison: Comparison, command: str | None) -> list[str]:
    """What was run, and how to run it again."""
    split = comparison.split
    rows = [
        ("source", split.series.source or "an array"),
        ("transformation", split.transformation or "none"),
        ("seed", comparison.seed),
        ("training steps", split.num_train),
        ("held-out steps", len(split.test)),
        ("length of sampled paths", comparison.horizon),
        ("refits in the held-out part", comparison.num_refits),
        ("Python", platform.python_version()),
        *((name, version(name)) for name in _PACKAGES),
    ]
    parts = ["<h2>What was run</h2>", table(("", ""), [("", row) for row in rows])]
    if command is not None:
        parts += ["<p>To make this file again:</p>", f"<pre>{html.escape(command)}</pre>"]
    return parts
