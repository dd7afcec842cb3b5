"""Held-out comparisons on real series, as the Markdown page docs/results.md.

Run as `python benchmarks/results.py > docs/results.md`.
"""

import argparse
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
from scipy.stats import binom

sys.path.insert(0, str(Path(__file__).parents[1]))

from ssmlin.comparison import LEVELS, compare_series, standard_error  # noqa: E402
from ssmlin.comparison._registry import DEFAULT  # noqa: E402
from ssmlin.comparison.baselines import BASELINES  # noqa: E402
from ssmlin.comparison.baselines._attention_regression import ATTENTION_REGRESSIONS  # noqa: E402
from ssmlin.demonstration import DATASETS  # noqa: E402
from ssmlin.mechanisms import MECHANISMS  # noqa: E402

PACKAGES = ("jax", "dynamax", "statsmodels", "scoringrules", "vega_datasets")
COLUMNS = ("log_density", "difference", "difference_se", "crps", "rmse", "coverage_50",
           "coverage_80", "coverage_95", "pit_p", "num_parameters", "seconds")  # fmt: skip


OURS = (*MECHANISMS, "average")
THEIRS = (*BASELINES,)


def row(cells):
    print("| " + " | ".join(str(cell) for cell in cells) + " |")


def best_of_each_kind(comparisons):
    print("## Best of each kind\n")
    print("Mean held-out log density a step; the difference is that of the best ssmlin model to")
    print("the best baseline, with its standard error. Both are picked after the scores were seen,")
    print(f"of {len(OURS)} and of {len(THEIRS)}; the average of all mechanisms was named before.\n")
    row(("series", "T", "columns", "ssmlin", "", "average", "baseline", "", "difference"))
    row(["---"] * 9)
    wins = 0
    for name, comparison in comparisons.items():
        done = {r.name: r for r in comparison.results if r.scores is not None}
        ours = next(r for r in done.values() if r.name in OURS)
        theirs = next(r for r in done.values() if r.name not in OURS)
        gain = ours.scores.log_density - theirs.scores.log_density
        wins += gain.mean() > 0
        row((name, *comparison.split.observed.values.shape, f"`{ours.name}`",
             f"{ours.log_density:.3f}", f"{done['average'].log_density:.3f}", f"`{theirs.name}`",
             f"{theirs.log_density:.3f}",
             f"{gain.mean():+.3f} ± {standard_error(gain):.3f}"))  # fmt: skip
    print(f"\nAn ssmlin model is best on {wins} of {len(comparisons)} series.")
    firsts = [
        next(r.name for r in comparison.results if r.name in DEFAULT and r.name != "average")
        for comparison in comparisons.values()
    ]
    count = sum(name in OURS for name in firsts)
    print(f"Among those that `compare` takes by default a mechanism is on {count}.\n")


def against(comparisons):
    print("## Against single baselines\n")
    print("Differences of the best ssmlin model to each, and of the worst ssmlin model to the")
    print("autoregression with the same lags.\n")
    names = ("hmm", "lds", "arhmm", "sarimax", *ATTENTION_REGRESSIONS, "autoregression")
    row(("series", *(f"to `{name}`" for name in names), "worst to `autoregression`"))
    row(["---"] * (len(names) + 2))
    for name, comparison in comparisons.items():
        done = {r.name: r for r in comparison.results if r.scores is not None}
        ours = [r for r in done.values() if r.name in OURS]
        cells = [f"{ours[0].log_density - done[other].log_density:+.3f}" if other in done else
                 "failed" for other in names]  # fmt: skip
        worst = ours[-1].log_density - done["autoregression"].log_density
        row((name, *cells, f"{worst:+.3f} (`{ours[-1].name}`)"))
    print()


def coverage_of_the_average(comparisons):
    print("## Coverage\n")
    print("Shares of held-out values inside the central intervals of the average, and whether they")
    print("lie in the 95 % interval of the binomial law that calibration gives. Columns of a step")
    print("count as independent, which they are not, so the intervals are narrow.\n")
    row(("series", "values", *(f"{100 * level:.0f} %" for level in LEVELS)))
    row(["---"] * (2 + len(LEVELS)))
    inside, total, whole = 0, 0, []
    for name, comparison in comparisons.items():
        scores = next(r.scores for r in comparison.results if r.name == "average")
        n, cells = scores.pit.size, []
        for level in LEVELS:
            low, high = binom.interval(0.95, n, level)
            held = low <= n * scores.coverage(level) <= high
            inside, total = inside + held, total + 1
            cells.append(f"{scores.coverage(level):.3f}" + ("" if held else " (outside)"))
        whole.append(scores.pit.ravel())
        row((name, n, *cells))
    pit = np.concatenate(whole)
    row(("all", len(pit), *(f"{np.mean(np.abs(pit - 0.5) <= level / 2):.3f}" for level in LEVELS)))
    print(f"\n{inside} of {total} are inside.")


def page(comparisons):
    print("# Results on real series\n")
    print("The same default settings for all series; the last 30 % held out, predicted one step")
    print("ahead ([what is done, and how to read the tables](comparing.md)). The series come")
    print('transformed where they need it, so `transform="none"`. Made by')
    print("`python benchmarks/results.py > docs/results.md`, with two processes and")
    print(", ".join(f"{name} {version(name)}" for name in PACKAGES) + ".\n")
    best_of_each_kind(comparisons)
    against(comparisons)
    coverage_of_the_average(comparisons)
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
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, help="folder of results of single models")
    page(
        compare_series(
            [load() for load in DATASETS.values()],
            "all",
            transform="none",  # they come transformed
            workers=2,
            checkpoint_dir=parser.parse_args().checkpoint,
            progress=sys.stderr.isatty(),
        )
    )
