"""A comparison as one HTML file that needs nothing else: tables, figures, how to make it again."""

import html
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ssmlin._files import written_whole
from ssmlin.comparison import _figures as figures
from ssmlin.comparison._gates import gates_figure
from ssmlin.comparison._html import (
    Cell,
    code,
    conclusion,
    folded,
    heading,
    items,
    page,
    table,
    text,
)
from ssmlin.comparison._posterior import (
    Marginal,
    gate_shares,
    input_labels,
    marginals,
    posterior_figure,
    prior_draws,
    rounded,
    what_data_tell,
)
from ssmlin.comparison._svg import captioned, image, images
from ssmlin.comparison._tables import Comparison
from ssmlin.comparison._verdict import verdict
from ssmlin.comparison.plots import parameter_names
from ssmlin.forecasting import FittedAttention, decompose

if TYPE_CHECKING:
    import pandas
    import xarray

_PACKAGES = ("ssmlin", "jax", "dynamax", "blackjax", "optax", "statsmodels", "scoringrules",
             "arviz", "numpy", "pandas")  # fmt: skip
#: The columns that are shown first, with the model eight, and what is unfolded.
_FIRST = {"log_density": "log density", "difference": "to best", "crps": "CRPS",
          "rmse": "RMSE", "coverage_80": "in 80 %", "coverage_95": "in 95 %",
          "pit_p": "PIT p"}  # fmt: skip
_MORE = {"log_density_se": "its standard error", "energy": "energy", "mae": "MAE",
         "coverage_50": "in 50 %"}  # fmt: skip
_FITS = {"log_evidence": "log evidence", "num_parameters": "parameters", "seconds": "seconds",
         "setting": "setting"}  # fmt: skip
#: PIT histograms that are shown first.
_HISTOGRAMS = 5
#: Numbers of the posterior that the figure shows, and that the table shows unfolded.
_MOST_NUMBERS, _FEW_NUMBERS = 40, 12


def write_report(
    path: str | Path,
    comparison: Comparison,
    *,
    command: str | None = None,
    fit_command: str | None = None,
    draws: "xarray.DataTree | None" = None,
    drawn_from: str = "",
) -> None:
    """Write a comparison to one HTML file without links to other files.

    It begins with the verdict. It holds the leaderboard and the differences to the best model, the
    predictions of the best mechanism and the best baseline, the parts of a mechanism's predictions,
    where the difference was made, calibration, the gates over time, the weights of the average, the
    posterior of the gates beside their prior if draws are given, and what was run. It follows the
    colours of the reader's screen, and needs no script but for sorting its tables.

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
        ValueError: all models failed, or draws of a mechanism that is not among the fitted ones.

    Examples:
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
    figures.scored(comparison)  # one model at least
    fits = {r.name: r.details for r in comparison.results if isinstance(r.details, FittedAttention)}
    if draws is not None and drawn_from not in fits:
        raise ValueError(
            f"drawn_from: expected the mechanism that the draws are of, one of {', '.join(fits)}; "
            f"got {drawn_from!r}"
        )
    with written_whole(Path(path), new=True) as temporary:
        parts = [
            *_beginning(comparison, fit_command),
            *_leaderboard(comparison),
            *_complaints(comparison),
            *_predictions(comparison),
            *_parts(comparison, fits),
            *_gains(comparison),
            *_calibration(comparison),
            *_gates(comparison, draws, drawn_from, fits),
            *_provenance(comparison, command),
        ]
        whole = page(f"{comparison.split.series.name}: comparison", parts)
        temporary.write_text(whole, encoding="utf-8")


def _beginning(comparison: Comparison, fit_command: str | None) -> list[str]:
    """What the comparison says, how to fit the best model, and what it is about."""
    said = verdict(comparison, comparison.seed)
    parts = [heading(comparison.split.series.name, 1), conclusion(said.sentences)]
    if said.choice is not None and fit_command is not None:
        parts.append(f"<p>{html.escape(said.choice.reason)} This fits it to the whole file:</p>")
        parts.append(code(fit_command))
    split, series = comparison.split, comparison.split.series
    steps, seen = len(split.observed.values), split.transformation
    return [
        *parts,
        text(
            f"{steps} steps of {', '.join(series.columns)}; the last {steps - split.num_train} "
            "were held out and predicted one step ahead. Scores are in units of the training "
            "part's standard deviation of each column." + (f" Models see {seen}." if seen else "")
        ),
    ]


# ------------------------------------------------------------------------------- scores


def _leaderboard(comparison: Comparison) -> list[str]:
    """The table, the best model first, and the differences to it."""
    frame, ours = comparison.to_frame(), figures.attention_names(comparison)
    paths = {name: name.removeprefix("path_").replace("coverage_", "in ").replace("_", " ")
             for name in frame.columns if name.startswith("path_")}  # fmt: skip
    parts = [
        heading("Leaderboard"),
        _scores(frame, _FIRST, ours),
        text(
            "log density: mean log p(y_t | all before) a step, higher is better; to best: the "
            "difference to the best model, step by step, with its standard error; CRPS, RMSE: "
            "lower is better; in 80 %: the share of values inside the central 80 % interval; PIT "
            "p: small for a model that is not calibrated. Linear attentions are in bold."
        ),
        folded("More scores", [_scores(frame, _MORE, ours)]),
    ]
    if paths:
        words = f"Scores of sampled paths of {comparison.horizon} steps"
        parts.append(folded(words, [_scores(frame, paths, ours)]))
    parts.append(folded("Fits: settings, parameters, seconds", [_scores(frame, _FITS, ours)]))
    if len(figures.scored(comparison)) > 1:
        parts.append(
            image(
                figures.difference_figure(comparison),
                "Differences to the best model",
                "Bars are two standard errors of each pair; the further one stays from zero the "
                "clearer is the difference, and an arrow stands for a model that is off the scale.",
            )
        )
    return parts


def _scores(frame: "pandas.DataFrame", columns: Mapping[str, str], ours: set[str]) -> str:
    """Some columns of the table, a row for each model."""
    shown = [name for name in columns if name in frame]
    rows = []
    for record in frame.to_dict("records"):
        cells: list[object] = [record["model"]]
        for name in shown:
            value = record[name]
            if name == "difference" and abs(value) > 0:  # not of the best, nor of a failed one
                value = Cell(f"{value:.3f} ± {record['difference_se']:.3f}", value)
            elif "coverage" in name and np.isfinite(value):
                value = Cell(f"{100 * value:.1f} %", value)
            cells.append(value)
        rows.append(("ours" if record["model"] in ours else "", cells))
    return table(["model", *(columns[name] for name in shown)], rows, sortable=True)


def _complaints(comparison: Comparison) -> list[str]:
    """Models that failed, and warnings of the libraries."""
    failed = [f"{r.name}: {r.failure}" for r in comparison.results if r.failure]
    warned = [f"{r.name}: {'; '.join(r.warnings)}" for r in comparison.results if r.warnings]
    parts = [heading("Failed"), items(failed)] if failed else []
    return (
        [*parts, folded(f"Warnings while models were fitted: {len(warned)}", [items(warned)])]
        if warned
        else parts
    )


# ------------------------------------------------------------------------------- predictions


def _predictions(comparison: Comparison) -> list[str]:
    """One step and several steps ahead, of the best linear attention and the best other model."""
    ours = figures.attention_names(comparison)
    done = list(figures.scored(comparison))
    best = [next((name for name in done if (name in ours) == own), None) for own in (True, False)]
    best.sort(key=lambda name: done.index(name) if name in done else len(done))
    with_paths = {r.name for r in comparison.results if r.draws is not None and len(r.draws)}
    held_out = len(comparison.split.test)
    cut = f" The last {figures.MOST_STEPS} steps are shown." * (held_out > figures.MOST_STEPS)
    parts = [heading("Predictions")]
    for name in [name for name in best if name is not None]:
        parts.append(
            image(
                figures.held_out_figure(comparison, name),
                f"Predictions of {name}, one step ahead",
                "Of five observed values about four should be inside the band." + cut,
            )
        )
        if name in with_paths:
            parts.append(
                image(
                    figures.paths_figure(comparison, name),
                    f"Forecasts of {name}, {comparison.horizon} steps ahead",
                    "Each begins at a dotted line, knows the values before it alone, and should "
                    "hold about four of five values in its band." + cut,
                )
            )
    return parts


def _parts(comparison: Comparison, fits: Mapping[str, FittedAttention]) -> list[str]:
    """What the best linear attention adds up to its predictions."""
    split = comparison.split
    name, fit = next(iter(fits.items()), ("", None))
    if fit is None or (fit.model.num_lags and np.isnan(split.observed.values[:-1]).any()):
        return []  # with missing lags predictions are mixtures over draws of them
    parts = decompose(fit, split.observed)
    units = f" In units of {split.transformation}." if split.transformation else ""
    drawn = [
        image(
            figures.parts_figure(comparison, parts, column),
            f"Parts of the prediction of {label} by {name}",
            "Added up they are the one-step prediction, and a flat part hardly matters, since all "
            "scales are as wide. The dashed line is where the held-out part begins." + units,
        )
        for column, label in enumerate(split.series.columns)
    ]
    return [heading("What predictions are made of"), drawn[0], folded("Other columns", drawn[1:])]


def _gains(comparison: Comparison) -> list[str]:
    """Since when the best models are better."""
    if len(figures.scored(comparison)) < 2:
        return []
    return [
        heading("Where the difference was made"),
        image(
            figures.gains_figure(comparison),
            "Log density gained, summed over steps",
            "Where a line rises its model predicts better than the reference; a single step up "
            "means that one observation made the difference.",
        ),
    ]


def _calibration(comparison: Comparison) -> list[str]:
    """Whether intervals hold as many values as they say."""
    done = figures.scored(comparison)
    drawn = [figures.pit_figure(name, scores) for name, scores in done.items()]
    titles = [f"PIT of {name}" for name in done]
    first, rest = slice(_HISTOGRAMS), slice(_HISTOGRAMS, None)
    parts = [
        heading("Calibration"),
        image(
            figures.coverage_figure(comparison),
            "Coverage of central intervals",
            "A line inside the grey band is what a calibrated model would show by chance; below "
            "it intervals are too narrow, above it too wide.",
        ),
        captioned(
            images(drawn[first], titles[first]),
            "Where values fall in their predictive distributions (PIT)",
            "Flat inside the grey band is right; high at both ends means intervals that are too "
            "narrow, a hill in the middle too wide, a slope values that are too low or too high.",
        ),
    ]
    if drawn[rest]:
        parts.append(folded("The other models", [images(drawn[rest], titles[rest])]))
    return parts


# ------------------------------------------------------------------------------- gates


def _gates(
    comparison: Comparison,
    draws: "xarray.DataTree | None",
    drawn_from: str,
    fits: Mapping[str, FittedAttention],
) -> list[str]:
    """The gates with the band of their posterior, what it says beside the prior, the average."""
    parts, told = [], ""
    found: list[Marginal] = []
    if draws is not None:
        fit = fits[drawn_from]
        prior = prior_draws(fit, parameter_names(draws))
        found = marginals(draws, prior, input_labels(fit, comparison.split.series))
        told = what_data_tell(gate_shares(fit, comparison.split, draws, prior))
    figure = gates_figure(comparison, draws, drawn_from)
    if figure is not None:
        band = f" The band holds 90 % of the posterior of {drawn_from}." if told else ""
        parts += [
            heading("Gates over time"),
            text(told) if told else "",
            image(
                figure,
                "Gates of the mechanisms",
                "A decay near one keeps the memory, a rate near zero writes little into it; lines "
                f"are the fitted values.{band}",
            ),
        ]
    weights = figures.weights_figure(comparison)
    if weights is not None:
        parts += [
            heading("Weights of the average"),
            image(weights, "Weights of the mechanisms in their average",
                  "A model whose area grows has predicted better than the others of late."),
        ]  # fmt: skip
    if draws is not None:
        parts += _posterior(draws, drawn_from, found)
    return parts


def _posterior(draws: "xarray.DataTree", drawn_from: str, found: Sequence[Marginal]) -> list[str]:
    """The numbers of the posterior with its diagnostics."""
    attributes = draws.posterior.attrs
    facts = f"Of {drawn_from}, by {attributes.get('algorithm', '')} of blackjax"
    facts += f"; {draws.posterior.sizes['chain']} chains of {draws.posterior.sizes['draw']} draws"
    if "diverging" in draws.sample_stats:
        facts += f"; {int(draws.sample_stats['diverging'].sum())} divergent transitions"
    if "log_evidence" in attributes:
        facts += f"; log evidence {float(np.mean(attributes['log_evidence'])):.2f}"
    rows = [
        ("", [
            one.name,
            *(Cell(rounded(x, one.sd), x) for x in (one.mean, one.sd, one.low, one.high)),
            Cell(f"{one.share:.2f}", one.share),
            Cell(f"{one.ess:.0f}", one.ess),
            Cell("" if np.isnan(one.r_hat) else f"{one.r_hat:.2f}", one.r_hat),
        ])
        for one in found
    ]  # fmt: skip
    numbers = table(["parameter", "mean", "sd", "5 %", "95 %", "sd to prior's", "draws", "R-hat"],
                    rows, sortable=True)  # fmt: skip
    return [
        heading("Posterior of the gates"),
        text(facts),
        image(
            posterior_figure(found[:_MOST_NUMBERS]),
            "Posterior over prior",
            "Where the blue interval is as wide as the grey one the data say nothing about the "
            "number; both hold 90 %, and the dot is the mean.",
        ),
        numbers if len(rows) <= _FEW_NUMBERS else folded("The numbers", [numbers]),
        text(
            "sd to prior's: near 1 where the data say nothing; draws: their effective number; "
            "R-hat: above 1.01 the chains disagree. Inputs are standardised, so a gate without "
            "more words is its value at average inputs."
        ),
    ]


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
    parts = [heading("What was run"), table(("", ""), [("", row) for row in rows])]
    return parts if command is None else [*parts, "<p>To make this file again:</p>", code(command)]
