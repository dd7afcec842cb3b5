"""Held-out comparisons on real series, as the Markdown page docs/results.md.

Run as `python benchmarks/results.py > docs/results.md`.
"""

import sys
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from ssmlin.evaluation import compare_series  # noqa: E402
from ssmlin.evaluation.datasets import DATASETS  # noqa: E402
from ssmlin.evaluation.scores import standard_error  # noqa: E402
from ssmlin.mechanisms import MECHANISMS  # noqa: E402

PACKAGES = ("jax", "dynamax", "statsmodels", "scoringrules", "vega_datasets")
COLUMNS = ("log_density", "difference", "difference_se", "crps", "rmse", "coverage_50",
           "coverage_80", "coverage_95", "pit_p", "num_parameters", "seconds")  # fmt: skip


def row(cells):
    print("| " + " | ".join(str(cell) for cell in cells) + " |")


def main():
    several = [load() for load in DATASETS.values()]
    comparisons = compare_series(several, workers=2, progress=False)
    print("# Results on real series\n")
    print("The same default settings for all series; the last 30 % held out, predicted one step")
    print("ahead ([what is done, and how to read the tables](comparing.md)). Made by")
    print("`python benchmarks/results.py > docs/results.md`, with two processes and")
    print(", ".join(f"{name} {version(name)}" for name in PACKAGES) + ".\n")
    print("## Best of each kind\n")
    print("Mean held-out log density a step; the difference is that of the best ssmlin model to")
    print("the best baseline, with its standard error.\n")
    row(("series", "T", "columns", "ssmlin", "", "baseline", "", "difference"))
    row(["---"] * 8)
    for name, comparison in comparisons.items():
        done = [r for r in comparison.results if r.scores is not None]
        ours = next(r for r in done if r.name in MECHANISMS)
        theirs = next(r for r in done if r.name not in MECHANISMS)
        gain = ours.scores.log_density - theirs.scores.log_density
        shape = comparison.split.observed.values.shape
        row((name, *shape, f"`{ours.name}`", f"{ours.log_density:.3f}", f"`{theirs.name}`",
             f"{theirs.log_density:.3f}",
             f"{gain.mean():+.3f} ± {standard_error(gain):.3f}"))  # fmt: skip
    for name, comparison in comparisons.items():
        split = comparison.split
        print(f"\n## {name}\n")
        print(f"{split.series.source}. {len(split.observed.values)} steps, "
              f"{len(split.series.columns)} columns.\n")  # fmt: skip
        row(("model", *(column.replace("_", " ") for column in COLUMNS), "setting"))
        row(["---"] * (len(COLUMNS) + 2))
        for record in comparison.to_frame().to_dict("records"):
            if record["failure"]:
                row((f"`{record['model']}`", "failed: " + record["failure"][:80],
                     *[""] * (len(COLUMNS) - 1), record["setting"]))  # fmt: skip
                continue
            cells = [f"{record[c]:.0f}" if c in ("num_parameters", "seconds") else
                     f"{record[c]:.3f}" for c in COLUMNS]  # fmt: skip
            row((f"`{record['model']}`", *cells, record["setting"]))


if __name__ == "__main__":
    main()
