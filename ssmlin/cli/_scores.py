"""The table of `ssmlin compare`, what its columns mean, and what went wrong."""

import re
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ssmlin.cli._options import console
from ssmlin.cli._printing import cell, print_columns

if TYPE_CHECKING:
    import pandas

    from ssmlin.comparison import Comparison

#: Of so many columns, at most, the table says their standard deviations.
_FEW = 3


def print_scores(
    frame: "pandas.DataFrame", title: str, wide: bool, found: Mapping[str, "Comparison"]
) -> None:
    """All columns, or the first ones that fit, and what they mean."""
    columns = _every_column(frame) if wide else _main_columns(frame)
    shown = print_columns(columns, title, wide)
    shares = [heading for heading in ("80 %", "95 %") if heading in shown]
    errors = [heading for heading in ("paths", "CRPS", "RMSE") if heading in shown]
    said = ["log p: mean log density, nats a step"] if "log p" in shown else []
    said += ["to the best: difference ± its standard error"] if "to the best" in shown else []
    said += [f"{', '.join(shares)}: share of values inside this interval"] if shares else []
    said += ["paths: CRPS of sampled paths"] if "paths" in shown else []
    said += [f"{', '.join(errors) or 'scores'}: in standard deviations of {_unit(found)}"]
    seen = _seen(found)
    said += [f"models see {seen}"] if seen else []
    said += [] if wide else ["more columns: --wide, or --output with a file"]
    console.print("; ".join(said), highlight=False)


def _unit(found: Mapping[str, "Comparison"]) -> str:
    """Of what scores are in standard deviations, and how large those are, of a few columns."""
    splits = [comparison.split for comparison in found.values()]
    if len(splits) > 1 or len(splits[0].spread) > _FEW:
        return "the training part of each column"
    sizes = zip(splits[0].series.columns, splits[0].spread, strict=True)
    return f"the training part ({', '.join(f'{name}: {size:.4g}' for name, size in sizes)})"


def _seen(found: Mapping[str, "Comparison"]) -> str:
    """What models see of the values where that is not the values, "" otherwise."""
    parts: dict[str, list[str]] = {}
    for name, comparison in found.items():
        if comparison.split.transformation:
            parts.setdefault(comparison.split.transformation, []).append(name)
    if len(found) == 1 or [len(names) for names in parts.values()] == [len(found)]:
        return "".join(parts)
    return ", ".join(f"{seen} in {len(names)} series" for seen, names in parts.items())


def _main_columns(frame: "pandas.DataFrame") -> dict[str, list[str]]:
    """The most important columns, as text, the most important first."""
    behind = [
        f"{difference:.3f} ± {error:.3f}" if difference else ""
        for difference, error in zip(frame.difference, frame.difference_se, strict=True)
    ]
    shown = {"log p": "log_density", "paths": "path_crps", "80 %": "coverage_80", "CRPS": "crps",
             "RMSE": "rmse", "95 %": "coverage_95"}  # fmt: skip
    cells = {heading: [cell(x) for x in frame[name]]
             for heading, name in shown.items() if name in frame}  # fmt: skip
    failed = frame["failure"] != ""
    log_p = ["failed" if fail else x for fail, x in zip(failed, cells.pop("log p"), strict=True)]
    behind = ["" if fail else x for fail, x in zip(failed, behind, strict=True)]
    return {"model": list(frame.model), "log p": log_p, "to the best": behind} | cells


def _every_column(frame: "pandas.DataFrame") -> dict[str, list[str]]:
    """All columns, as text, but what is said below the table."""
    return {
        name: [cell(x) for x in frame[name]]
        for name in frame.columns
        if name not in ("failure", "warnings")
    }


def print_failures(frame: "pandas.DataFrame") -> None:
    """The failures of each model, in a line."""
    told = frame[frame["failure"] != ""]
    for model, rows in told.groupby("model", sort=False):
        where = ""
        if "series" in frame:
            count = frame["series"].nunique()
            where = f" on {len(rows)} of {count} series, first on {rows['series'].iloc[0]}"
        console.print(f"{model} failed{where}: {rows['failure'].iloc[0]}", highlight=False,
                      soft_wrap=True)  # fmt: skip


def print_warnings(found: Mapping[str, "Comparison"]) -> None:
    """How many warnings of other libraries there are, in a line."""
    counts: Counter[str] = Counter()
    for comparison in found.values():
        for result in comparison.results:
            for text in result.warnings:
                often = re.search(r" \((\d+) times\)$", text)
                counts[result.name] += int(often[1]) if often else 1
    if counts:
        listed = ", ".join(f"{model} {count}" for model, count in counts.most_common())
        console.print(
            f"{counts.total()} warnings of libraries ({listed}): "
            "in the column warnings of --output", highlight=False,
        )  # fmt: skip
