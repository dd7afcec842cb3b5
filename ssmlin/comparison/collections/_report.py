"""A comparison over a collection as one HTML file that needs nothing else."""

import platform
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ssmlin._files import written_whole
from ssmlin.comparison._html import Cell, code, conclusion, heading, items, page, table, text
from ssmlin.comparison._svg import captioned, image, images
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
    """Write a comparison over a collection to one HTML file without links to other files.

    It begins with its conclusions. For each group it holds the means, the scores relative to
    seasonal naive with their intervals, average ranks, and calibration; then for one model ten
    series at random and the ten where its CRPS is worst. It follows the colours of the reader's
    screen, and needs no script but for sorting its tables.

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
    parts = [
        heading(whole.collection.name, 1),
        conclusion(conclusions(whole, seed)),
        _columns(whole),
    ]
    for group, comparison in comparisons.items():
        parts += _group(group, comparison, seed, with_conclusions=comparison is not whole)
    parts += [*_forecasts(whole, shown, seed), *_provenance(whole, command, seed)]
    with written_whole(Path(path), new=True) as temporary:
        temporary.write_text(
            page(f"{whole.collection.name}: comparison", parts), encoding="utf-8"
        )  # fmt: skip


def _forecasts(comparison: CollectionComparison, model: str, seed: int) -> list[str]:
    """Forecasts beside what came, of series at random and of the worst."""
    parts = [heading(f"Forecasts of {model}")]
    shown: dict[Literal["random", "worst"], str] = {
        "random": "Ten series at random",
        "worst": "The ten series with the largest CRPS",
    }
    for which, title in shown.items():
        drawn = comparison.forecast_figures(model, which, measure="crps", seed=seed)
        titles = [f"{title}: {number}" for number in range(1, 1 + len(drawn))]
        parts.append(
            captioned(
                images(drawn, titles, "medium"),
                title,
                "The end of each series, its forecast with 50 and 95 % intervals, and as dots what "
                "came; nearly all dots should be inside the light band.",
            )
        )
    return parts


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
    parts = [heading(f"{group}: {len(comparison.collection)} series")]
    if with_conclusions:
        parts.append(conclusion(conclusions(comparison, seed)))
    parts.append(_table(_MEANS.values(), summary[[*_MEANS]].itertuples(name=None)))
    unscaled = int(summary["unscaled"].iloc[0])
    if unscaled:
        parts.append(text(f"{unscaled} series never change and have no scaled scores."))
    parts += [heading("Relative to seasonal naive", 3), _relative(comparison, seed)]
    if several:
        parts += [
            image(
                comparison.plot_ratios("crps", seed=seed),
                f"CRPS beside seasonal naive, {group}",
                "At the left of zero a model is better than seasonal naive; a bar, the 95 % "
                "interval over series, that reaches zero leaves it open.",
            ),
            image(
                comparison.plot_ranks("crps"),
                f"Average ranks of CRPS, {group}",
                "The first is best; models above one bar cannot be told apart at 5 % by Nemenyi's "
                "test.",
            ),
        ]
    nominal = ("nominal", *(_share(x) for x in (0.5, 0.8, 0.95)))
    shares = [(name, *map(_share, row)) for name, *row in
              summary[[*_COVERAGE]].itertuples(name=None)]  # fmt: skip
    parts += [
        heading("Calibration", 3),
        _table(_COVERAGE.values(), [nominal, *shares]),
        text("The share of values inside central intervals."),
        image(
            comparison.plot_calibration(),
            f"Calibration, {group}",
            "On the line at zero a model is calibrated; above it values are below the quantile "
            "more often than it says.",
        ),
    ]
    failed = {
        name: [reason for reason in made.failures if reason]
        for name, made in comparison.forecasts.items()
    }
    told = [f"{name} failed on {len(why)} series, first: {why[0]}"
            for name, why in failed.items() if why]  # fmt: skip
    return [*parts, items(told)] if told else parts


def _share(value: float) -> Cell:
    return Cell(f"{100 * value:.1f} %", value)


def _relative(comparison: CollectionComparison, seed: int) -> str:
    """Ratios and win rates with their intervals, and average ranks."""
    frames = {measure: comparison.relative(measure, seed=seed) for measure in _MEASURES}
    crps = frames["crps"]

    def with_ends(frame: "pandas.DataFrame", model: str, column: str) -> Cell:
        found = [frame.loc[model, f"{column}{end}"] for end in ("", "_low", "_high")]
        return Cell("{:.3f} ({:.3f} to {:.3f})".format(*found), found[0])

    rows = []
    for model in comparison.ordered():
        cells = [with_ends(frame, model, "ratio") for frame in frames.values()]
        if "rank" in crps:
            rank = crps.loc[model, "rank"]
            cells += [with_ends(crps, model, "win_rate"), Cell(f"{rank:.2f}", rank)]
        rows.append((model, *cells))
    headings = [measure.upper() for measure in frames]
    return _table([*headings, *(["win rate", "rank"] if "rank" in crps else [])], rows)


def _table(headings: Iterable[str], rows: Iterable[Sequence[object]]) -> str:
    """Rows that begin with the name of a model."""
    return table(["model", *headings], [("", row) for row in rows], sortable=True)


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
    parts = [heading("What was run"), table(("", ""), [("", row) for row in rows])]
    return parts if command is None else [*parts, "<p>To make this file again:</p>", code(command)]
