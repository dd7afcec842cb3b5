"""A comparison over a collection as one HTML file that needs nothing else."""

import html
import platform
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from ssmlin._files import written_whole
from ssmlin.comparison._html import image, page, table, text
from ssmlin.comparison.collections._comparison import CollectionComparison
from ssmlin.comparison.collections._conclusions import conclusions

if TYPE_CHECKING:
    import pandas

_MEANS = {"crps": "CRPS", "mase": "MASE", "smape": "sMAPE", "msis": "MSIS",
          "log_density": "log density", "failures": "failures",
          "seconds": "seconds a series"}  # fmt: skip
_MEASURES = ("crps", "mase", "msis")
_COVERAGE = {"coverage_50": "50 %", "coverage_80": "80 %", "coverage_95": "95 %"}


def write_collection_report(
    path: str | Path,
    comparisons: Mapping[str, CollectionComparison],
    *,
    model: str | None = None,
    command: str | None = None,
    seed: int = 0,
) -> None:
    """Write a comparison over a collection to one HTML file without scripts or links.

    It begins with its conclusions. For each group it holds the means, the scores relative to
    seasonal naive with their intervals, average ranks, and calibration; then for one model ten
    series at random and the ten where its CRPS is worst.

    Args:
        path: the new file.
        comparisons: what :func:`compare_collection` returned.
        model: whose forecasts are drawn; default the one with the best average rank of CRPS over
            all series.
        command: how to make the file again.
        seed: of the bootstrap over series, and of the series at random.

    Raises:
        FileExistsError: the file exists.
        OSError: it cannot be written.
        ValueError: a model that was not compared, or no series whose training part changes.
    """
    *_, whole = comparisons.values()
    shown = whole.ordered()[0] if model is None else model
    parts = [f"<h1>{html.escape(whole.collection.name)}</h1>", _said(whole, seed), _columns(whole)]
    for group, comparison in comparisons.items():
        parts += _group(group, comparison, seed, with_conclusions=comparison is not whole)
    parts += [
        f"<h2>Forecasts of {html.escape(shown)}</h2>",
        text("The end of each series, its forecast with 50 and 95 % intervals, and what came."),
        image(whole.plot_forecasts(shown, "random", measure="crps", seed=seed),
              "Ten series at random"),
        image(whole.plot_forecasts(shown, "worst", measure="crps"),
              "The ten series with the largest CRPS"),
        *_provenance(whole, command, seed),
    ]  # fmt: skip
    with written_whole(Path(path), new=True) as temporary:
        temporary.write_text(
            page(f"{whole.collection.name}: comparison", parts), encoding="utf-8"
        )  # fmt: skip


def _said(comparison: CollectionComparison, seed: int) -> str:
    """The conclusions as a paragraph."""
    return f"<p>{html.escape(' '.join(conclusions(comparison, seed)))}</p>"


def _columns(comparison: CollectionComparison) -> str:
    """What was done, and what the columns say."""
    return text(
        f"{len(comparison.collection)} series, of each the last {_range(comparison, 'horizon')} "
        "steps held out and forecast at once. MASE, CRPS and MSIS are in units of the mean "
        "absolute change over a season; log density is of values in these units, and higher is "
        "better. Ratios are geometric means over series, below 1 is better than seasonal naive; "
        "the win rate is against another model of the table. In brackets 95 % intervals over "
        "series. A series that a model fails on is forecast by seasonal naive, and counted."
    )


def _range(comparison: CollectionComparison, field: str) -> str:
    """A number that the series share, or the least and the most."""
    found = sorted({getattr(one, field) for one in comparison.collection})
    return " to ".join(map(str, dict.fromkeys((found[0], found[-1]))))


def _group(
    group: str, comparison: CollectionComparison, seed: int, *, with_conclusions: bool
) -> list[str]:
    """The tables and figures of one group, the best model first."""
    summary = comparison.summary().loc[list(comparison.ordered())]
    several = len(comparison.models) > 1
    parts = [f"<h2>{html.escape(group)}: {len(comparison.collection)} series</h2>"]
    if with_conclusions:
        parts.append(_said(comparison, seed))
    parts.append(_table(_MEANS.values(), summary[[*_MEANS]].itertuples(name=None)))
    unscaled = int(summary["unscaled"].iloc[0])
    if unscaled:
        parts.append(text(f"{unscaled} series never change and have no scaled scores."))
    parts += ["<h3>Relative to seasonal naive</h3>", _relative(comparison, seed)]
    if several:
        parts += [
            image(comparison.plot_ranks("crps"), "Average ranks of CRPS"),
            text("Models above one bar cannot be told apart at 5 % by Nemenyi's test."),
        ]
    nominal = ("nominal", 0.5, 0.8, 0.95)
    parts += [
        "<h3>Calibration</h3>",
        _table(_COVERAGE.values(), [nominal, *summary[[*_COVERAGE]].itertuples(name=None)]),
        text("The share of values inside central intervals; and below, how much more often than "
             "they say values are below the quantiles of each level."),
        image(comparison.plot_calibration(), "Calibration"),
    ]  # fmt: skip
    failed = {
        name: [reason for reason in made.failures if reason]
        for name, made in comparison.forecasts.items()
    }
    items = "".join(
        f"<li>{html.escape(f'{name} failed on {len(why)} series, first: {why[0]}')}</li>"
        for name, why in failed.items()
        if why
    )
    return [*parts, f"<ul>{items}</ul>"] if items else parts


def _relative(comparison: CollectionComparison, seed: int) -> str:
    """Ratios and win rates with their intervals, and average ranks."""
    frames = {measure: comparison.relative(measure, seed=seed) for measure in _MEASURES}
    crps = frames["crps"]

    def with_ends(frame: "pandas.DataFrame", model: str, column: str) -> str:
        found = (frame.loc[model, f"{column}{end}"] for end in ("", "_low", "_high"))
        return "{:.3f} ({:.3f} to {:.3f})".format(*found)

    rows = []
    for model in comparison.ordered():
        cells = [with_ends(frame, model, "ratio") for frame in frames.values()]
        if "rank" in crps:
            cells += [with_ends(crps, model, "win_rate"), f"{crps.loc[model, 'rank']:.2f}"]
        rows.append((model, *cells))
    headings = [measure.upper() for measure in frames]
    return _table([*headings, *(["win rate", "rank"] if "rank" in crps else [])], rows)


def _table(headings: Iterable[str], rows: Iterable[Sequence[object]]) -> str:
    """Rows that begin with the name of a model."""
    return table(["model", *headings], [("", row) for row in rows])


def _provenance(
    comparison: CollectionComparison, command: str | None, seed: int
) -> list[str]:  # fmt: skip
    """What was run, and how to run it again."""
    rows = [
        ("series", len(comparison.collection)),
        ("held-out steps", _range(comparison, "horizon")),
        ("steps per season", _range(comparison, "period")),
        ("seed", seed),
        ("Python", platform.python_version()),
        ("ssmlin", version("ssmlin")),
    ]
    parts = ["<h2>What was run</h2>", table(("", ""), [("", row) for row in rows])]
    if command is not None:
        parts += ["<p>To make this file again:</p>", f"<pre>{html.escape(command)}</pre>"]
    return parts
