"""A comparison over a collection as one HTML file that needs nothing else."""

import html
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from ssmlin._files import written_whole
from ssmlin.comparison._html import image, page, table, text
from ssmlin.comparison.collections._comparison import CollectionComparison

if TYPE_CHECKING:
    import pandas

_MEASURES = ("mase", "crps", "msis")
_RELATIVE = ("ratio", "skill", "win_rate")


def write_collection_report(
    path: str | Path,
    comparisons: Mapping[str, CollectionComparison],
    *,
    model: str | None = None,
    command: str | None = None,
) -> None:
    """Write a comparison over a collection to one HTML file without scripts or links.

    For each group it holds the means, the scores relative to seasonal naive with their intervals,
    average ranks, and calibration; then for one model ten series at random and the ten where it is
    worst.

    Args:
        path: the new file.
        comparisons: what :func:`compare_collection` returned.
        model: whose forecasts are drawn; default the one with the best CRPS over all series.
        command: how to make the file again.

    Raises:
        FileExistsError: the file exists.
        OSError: it cannot be written.
        ValueError: a model that was not compared.
    """
    *_, whole = comparisons.values()
    if model is None:
        model = str(whole.relative("crps")["ratio"].idxmin())
    parts = [f"<h1>{html.escape(whole.collection.name)}</h1>", _introduction(whole)]
    for group, comparison in comparisons.items():
        parts += _group(group, comparison)
    parts += [
        f"<h2>Forecasts of {html.escape(model)}</h2>",
        text("The end of each series, its forecast with 50 and 95 % intervals, and what came."),
        image(whole.plot_forecasts(model, "random"), "Ten series at random"),
        image(whole.plot_forecasts(model, "worst"), "The ten series with the largest MASE"),
        "<h2>What was run</h2>",
        table(("", ""), [("", row) for row in (
            ("Python", platform.python_version()), ("ssmlin", version("ssmlin")),
        )]),
    ]  # fmt: skip
    if command is not None:
        parts += ["<p>To make this file again:</p>", f"<pre>{html.escape(command)}</pre>"]
    with written_whole(Path(path), new=True) as temporary:
        temporary.write_text(
            page(f"{whole.collection.name}: comparison", parts), encoding="utf-8"
        )  # fmt: skip


def _introduction(comparison: CollectionComparison) -> str:
    """What was done, and what the columns say."""
    return text(
        f"{len(comparison.collection)} series, of each the last steps held out and forecast at "
        "once. MASE, CRPS and MSIS are in units of the mean absolute change over a season; log "
        "density is of values in these units, and higher is better; coverage is the share of "
        "values inside central intervals. Ratios are geometric means of those to seasonal naive, "
        "1 minus them the skill score; the win rate is against another model of the table. In "
        "brackets 95 % intervals over series. A series that a model failed on is forecast by "
        "seasonal naive."
    )


def _group(group: str, comparison: CollectionComparison) -> list[str]:
    """The tables and figures of one group."""
    unscaled = int(comparison.summary()["unscaled"].iloc[0])
    parts = [
        f"<h2>{html.escape(group)}: {len(comparison.collection)} series</h2>",
        _table(comparison.summary().drop(columns="unscaled")),
    ]
    if unscaled:
        parts.append(text(f"{unscaled} series never change and have no scaled scores."))
    several = len(comparison.models) > 1
    for measure in _MEASURES:
        parts += [f"<h3>{measure.upper()}</h3>", _relative(comparison, measure)]
        if several:
            parts.append(image(comparison.plot_ranks(measure), f"Average ranks, {measure.upper()}"))
    parts.append(image(comparison.plot_calibration(), "Calibration"))
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


def _relative(comparison: CollectionComparison, measure: str) -> str:
    """Ratios and win rates with their intervals, and average ranks."""
    frame = comparison.relative(measure)
    columns = [column for column in (*_RELATIVE, "rank") if column in frame]
    rows = []
    for name, row in frame.iterrows():
        cells = [
            f"{row[x]:.2f}" if x == "rank"
            else f"{row[x]:.3f} ({row[f'{x}_low']:.3f} to {row[f'{x}_high']:.3f})"
            for x in columns
        ]  # fmt: skip
        rows.append(("", [str(name), *cells]))
    return table(["model", *(column.replace("_", " ") for column in columns)], rows)


def _table(frame: "pandas.DataFrame") -> str:
    """A frame of models as a table."""
    headings = ["model", *(str(column).replace("_", " ") for column in frame.columns)]
    rows = [("", [str(name), *row]) for name, *row in frame.itertuples(name=None)]
    return table(headings, rows)
