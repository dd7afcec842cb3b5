"""Forecasters over the series of a competition: M1, on which settings are chosen, M3 or Tourism.

Run as `python -m benchmarks.many_series M1 --models theta auto_ets --folder DIR`. The forecasts of
each model and group are kept in DIR, so a run that was stopped goes on, and the tables of those
that are there are printed in Markdown. It is no part of `ssmlin bench`, since it takes hours.
"""

import argparse
import sys
import time
from pathlib import Path

from ssmlin.comparison.collections import (
    MODELS,
    CollectionComparison,
    compare_collection,
    load_competition,
)

from . import harness

MEASURES = ("mase", "crps", "msis")
MEANS = ("mase", "smape", "crps", "msis", "log_density", "coverage_50", "coverage_80",
         "coverage_95")  # fmt: skip

TIMES = ("seconds", "seconds_compiled", "processor_seconds")


def tables(group: str, comparison: CollectionComparison) -> None:
    """Print the means and, for each measure, ratios, wins and ranks."""
    n = len(comparison.collection)
    summary = comparison.summary()
    print(f"\n## {comparison.collection.name}, {group}: {n} series")
    table = harness.Table(
        "model",
        *(name.replace("_", " ") for name in MEANS),
        "failures",
        "ms a series",
        "compiled",
        "of the processor",
    )
    for name, row in summary.iterrows():
        means = (f"{row[mean]:.2f}" if mean == "smape" else f"{row[mean]:.3f}" for mean in MEANS)
        seconds = (harness.figure(1e3 * row[x]) for x in TIMES)
        table.row(f"`{name}`", *means, int(row["failures"]), *seconds)
    if unscaled := int(summary["unscaled"].iloc[0]):
        harness.remark(f"{unscaled} series without a scale are left out of scaled scores.")
    for measure in MEASURES:
        ranks = comparison.ranks(measure)
        harness.remark(
            f"{measure.upper()} relative to seasonal naive, geometric means of {ranks.num_series} "
            f"series. Critical difference of average ranks {ranks.critical_difference:.2f}, "
            f"Friedman's p = {ranks.p_value:.1g}."
        )
        table = harness.Table("model", "ratio", "skill score", "win rate", "average rank")
        for name, row in comparison.relative(measure).iterrows():
            intervals = (
                f"{row[x]:.3f} ({row[f'{x}_low']:.3f} to {row[f'{x}_high']:.3f})"
                for x in ("ratio", "skill", "win_rate")
            )
            table.row(f"`{name}`", *intervals, f"{row['rank']:.2f}")


def _log(text: str) -> None:
    print(time.strftime("%H:%M:%S"), text, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("competition", choices=("M1", "M3", "Tourism"))
    parser.add_argument("--models", nargs="+", choices=tuple(MODELS), default=tuple(MODELS))
    parser.add_argument("--folder", type=Path, help="where forecasts are kept")
    parser.add_argument("--twice", action="store_true", help="second runs, to see what compiles")
    parser.add_argument("--figures", type=Path, help="folder for the figures of average ranks")
    arguments = parser.parse_args()
    found = compare_collection(
        load_competition(arguments.competition),
        arguments.models,
        folder=arguments.folder,
        twice=arguments.twice,
        on_progress=_log,
    )
    print(harness.machine())
    for group, comparison in found.items():
        tables(group, comparison)
        if arguments.figures is not None:
            arguments.figures.mkdir(parents=True, exist_ok=True)
            for measure in MEASURES:
                path = arguments.figures / f"{arguments.competition}-{group}-{measure}.svg"
                comparison.plot_ranks(measure).savefig(path)


if __name__ == "__main__":
    main()
