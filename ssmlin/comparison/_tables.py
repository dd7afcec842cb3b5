"""Tables of comparisons: a row for each model, for one series or for several."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ssmlin._display import one_line
from ssmlin._optional import require
from ssmlin.comparison._candidate import describe_setting
from ssmlin.comparison._evaluation import Result
from ssmlin.comparison._scores import SUMMARY, PathScores, Scores, standard_error
from ssmlin.comparison._split import Split
from ssmlin.data import free_name

if TYPE_CHECKING:
    import pandas

#: Columns of scores, in the order of the table; others follow them.
_COLUMNS = ("model", *SUMMARY[:2], "difference", "difference_se", *SUMMARY[2:])


class Comparison(NamedTuple):
    """What :func:`ssmlin.comparison.compare_models` returns.

    Attributes:
        split: the series, standardised, and where it was cut.
        results: of every model, the best first, failures last.
        horizon: the length of the sampled paths.
        num_refits: how often models were fitted again in the held-out part.
        seed: of all random starts.
    """

    split: Split
    results: tuple[Result, ...]
    horizon: int = 1
    num_refits: int = 0
    seed: int = 0

    def __repr__(self) -> str:
        said = {
            "models": [one.name for one in self.results],
            "num_steps": len(self.split.series.values),
            "horizon": self.horizon,
        }
        return one_line(self, said)

    def _repr_html_(self) -> str:
        html: str = self.to_frame().to_html(index=False, na_rep="", float_format="{:.4g}".format)
        return html

    def to_frame(self) -> "pandas.DataFrame":
        """The table that :func:`ssmlin.compare` describes."""
        require("pandas")
        import pandas as pd

        table = pd.DataFrame(_rows(self.results))
        columns = self.split.series.columns
        table.attrs["power"] = dict(zip(columns, self.split.scaling.power, strict=True))
        table.attrs["unit"] = dict(zip(columns, self.split.spread, strict=True))
        return table


def stacked_frame(comparisons: Mapping[str, Comparison]) -> "pandas.DataFrame":
    """The tables of several series below each other.

    Args:
        comparisons: what :func:`ssmlin.comparison.compare_series` returned.

    Returns:
        The columns of :func:`ssmlin.compare` and before them `series`. ``attrs["power"]`` holds
        λ of each column, and ``attrs["unit"]`` the unit of its scores, by the name of the series.
    """
    return _stacked({name: comparison.to_frame() for name, comparison in comparisons.items()})


def pooled_frame(comparisons: Mapping[str, Comparison]) -> "pandas.DataFrame":
    """The tables of several series below each other, after one for all of them together.

    Args:
        comparisons: what :func:`ssmlin.comparison.compare_series` returned.

    Returns:
        The table of :func:`stacked_frame`. Rows of the series that :func:`all_series` names come
        first: the scores of models that did not fail on any series, over all held-out steps.

    Examples:
        >>> import numpy as np
        >>> from ssmlin.comparison import Series, compare_series, pooled_frame
        >>> y = np.cumsum(np.random.default_rng(0).normal(size=(60, 1)), axis=0)
        >>> walks = [Series(name, y, np.arange(60), ("y",), "simulated") for name in "ab"]
        >>> table = pooled_frame(compare_series(walks, "persistence", progress=False))
        >>> table.series.tolist()
        ['all', 'a', 'b']
    """
    require("pandas")
    import pandas as pd

    pooled = pooled_results(comparisons)
    tables = {all_series(comparisons): pd.DataFrame(_rows(pooled))} if pooled else {}
    return _stacked(
        tables | {name: comparison.to_frame() for name, comparison in comparisons.items()}
    )


def pooled_results(comparisons: Mapping[str, Comparison]) -> list[Result]:
    """The results of models that failed on no series, of all series together; the best first."""
    by_model: dict[str, list[Result]] = {}
    for comparison in comparisons.values():
        for result in comparison.results:
            by_model.setdefault(result.name, []).append(result)
    pooled = [
        _pooled(results)
        for results in by_model.values()
        if len(results) == len(comparisons) and all(r.scores is not None for r in results)
    ]
    return sorted(pooled, key=lambda r: (-r.log_density, r.name))


def all_series(names: Iterable[str]) -> str:
    """What all series together are called: "all", unless one of them is."""
    return free_name("all", names)


def _stacked(tables: Mapping[str, "pandas.DataFrame"]) -> "pandas.DataFrame":
    """Tables below each other, the name of each in the first column."""
    require("pandas")
    import pandas as pd

    attributes = {
        kind: {name: table.attrs.pop(kind) for name, table in tables.items() if kind in table.attrs}
        for kind in ("power", "unit")
    }
    for name, table in tables.items():
        table.insert(0, "series", name)
    stacked = pd.concat(tables.values(), ignore_index=True)
    stacked.attrs |= attributes
    return stacked


def _pooled(results: Sequence[Result]) -> Result:
    """One model's results on several series as one."""
    scores = [r.scores for r in results if r.scores is not None]
    paths = [r.paths for r in results if r.paths is not None]
    pooled_paths = None
    if len(paths) == len(results):
        pooled_paths = PathScores(*(np.concatenate(x) for x in zip(*paths, strict=True)))
    return Result(
        name=results[0].name,
        setting={},
        scores=Scores(*(np.concatenate(x) for x in zip(*scores, strict=True))),
        paths=pooled_paths,
        predictive=None,
        num_parameters=sum(r.num_parameters for r in results),
        seconds=sum(r.seconds for r in results),
        log_evidence=sum(r.log_evidence for r in results),
        warnings=tuple(dict.fromkeys(text for r in results for text in r.warnings)),
    )


def _rows(results: Sequence[Result]) -> list[dict[str, str | float]]:
    """A row for each result; all have the same columns."""
    best = results[0].scores
    rows = []
    for r in results:
        row: dict[str, str | float] = {**dict.fromkeys(_COLUMNS, np.nan), "model": r.name}
        if r.scores is not None and best is not None:
            difference = r.scores.log_density - best.log_density
            row |= r.scores.summary()
            row["difference"] = float(difference.mean())
            row["difference_se"] = standard_error(difference)
            row |= {} if r.paths is None else r.paths.summary()
        if any(np.isfinite(x.log_evidence) for x in results):
            row["log_evidence"] = r.log_evidence
        row["num_parameters"] = r.num_parameters
        row["seconds"] = round(r.seconds, 2)
        row["setting"] = describe_setting(r.setting)
        row["failure"] = r.failure or ""
        row["warnings"] = "; ".join(r.warnings)
        rows.append(row)
    # The first row with the most columns sets their order.
    order = max(rows, key=len)
    return [{key: row.get(key, np.nan) for key in order} for row in rows]
