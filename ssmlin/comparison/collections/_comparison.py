"""Models compared over a collection: forecasts, scores, and their summaries as frames."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from jaxtyping import Float

from ssmlin._display import one_line
from ssmlin._optional import require
from ssmlin.comparison._calls import Workers, check_workers, run_calls
from ssmlin.comparison.collections._collection import Collection, CollectionSeries
from ssmlin.comparison.collections._figures import (
    forecast_figure,
    plot_average_ranks,
    plot_calibration,
    plot_forecasts,
    plot_ratios,
)
from ssmlin.comparison.collections._model import CollectionModel, Forecasts, forecast_collection
from ssmlin.comparison.collections._registry import DEFAULT, MODELS, SEASONAL_NAIVE
from ssmlin.comparison.collections._scores import CollectionScores, score_collection
from ssmlin.comparison.collections._storage import read_forecasts, write_forecasts
from ssmlin.comparison.collections._summary import (
    Interval,
    Ranks,
    average_ranks,
    mean_ranks,
    relative,
    win_rates,
)

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

#: Scores that are never negative, and the lower the better: ratios and ranks make sense of them.
LOSSES = ("mase", "smape", "crps", "msis")


@dataclass(frozen=True)
class CollectionComparison:
    """Forecasts of several models for one collection, and their scores.

    Args:
        collection: the series.
        forecasts: by model, of these series.
        scores: by model, of these series.
    """

    collection: Collection
    forecasts: dict[str, Forecasts]
    scores: dict[str, CollectionScores]

    @property
    def models(self) -> tuple[str, ...]:
        """The names of the models."""
        return tuple(self.scores)

    def __repr__(self) -> str:
        return one_line(self, {"num_series": len(self.collection), "models": list(self.models)})

    def _repr_html_(self) -> str:
        html: str = self.summary().to_html(na_rep="", float_format="{:.4g}".format)
        return html

    def table(self, measure: str) -> Float[np.ndarray, "n M"]:
        """A measure of every series that has it, a column for each model.

        Args:
            measure: a field of :class:`CollectionScores`.

        Returns:
            The table, without the series that have no scale.
        """
        columns = np.stack([getattr(one, measure) for one in self.scores.values()], axis=1)
        found: np.ndarray = columns[np.isfinite(columns).all(axis=1)]
        return found

    def summary(self) -> "pandas.DataFrame":
        """Arithmetic means over series, failures and seconds, a row for each model.

        Returns:
            Columns: the fields of :class:`CollectionScores`; `failures`, the number of series that
            seasonal naive forecast instead; `unscaled`, the number of series without a scale,
            which scaled means leave out; `seconds`, a series, compiling included,
            `seconds_compiled`, without it, and `processor_seconds`, see :class:`Forecasts`.
        """
        require("pandas")
        import pandas

        n = len(self.collection)
        rows = {}
        for name, scores in self.scores.items():
            made = self.forecasts[name]
            rows[name] = {
                **{
                    measure: float(np.nanmean(values)) if np.isfinite(values).any() else np.nan
                    for measure, values in scores._asdict().items()
                },
                "failures": made.num_failures,
                "unscaled": int(np.isnan(scores.mase).sum()),
                "seconds": made.seconds / n,
                "seconds_compiled": (made.seconds - made.compile_seconds) / n,
                "processor_seconds": made.processor_seconds / n,
            }
        return pandas.DataFrame.from_dict(rows, orient="index").rename_axis("model")

    def to_frame(self) -> "pandas.DataFrame":
        """The scores of every series and model, a row for each.

        Returns:
            Columns: `series`, `group`, `model`, the fields of :class:`CollectionScores`, and
            `failure`, why seasonal naive forecast instead, empty if it did not.
        """
        require("pandas")
        import pandas

        return pandas.concat(
            [
                pandas.DataFrame(
                    {
                        "series": [one.name for one in self.collection],
                        "group": [one.group for one in self.collection],
                        "model": model,
                        **scores._asdict(),
                        "failure": self.forecasts[model].failures,
                    }
                )
                for model, scores in self.scores.items()
            ],
            ignore_index=True,
        )

    def relative(
        self, measure: str = "crps", reference: str = SEASONAL_NAIVE, seed: int = 0
    ) -> "pandas.DataFrame":
        """How much better than a reference, and how often better than the others.

        Args:
            measure: mase, smape, crps or msis.
            reference: the model that the others are divided by.
            seed: of the bootstrap over series.

        Returns:
            For each model: `ratio`, the geometric mean of the ratios of single series, clipped to
            [0.01, 100]; `skill`, 1 minus it; `win_rate`; `rank`, on average. Columns that end in
            `_low` and `_high` are the ends of 95 % intervals over series.

        Raises:
            ValueError: another measure, or a reference that was not compared.
        """
        require("pandas")
        import pandas

        table = self._losses(measure)
        if reference not in self.models:
            raise ValueError(f"reference: expected one of {self.models}, got {reference!r}")
        ratio = relative(table, table[:, self.models.index(reference)], seed)
        wins = win_rates(table, seed) if len(self.models) > 1 else None
        columns = {
            "ratio": ratio.estimate, "ratio_low": ratio.low, "ratio_high": ratio.high,
            "skill": 1 - ratio.estimate, "skill_low": 1 - ratio.high, "skill_high": 1 - ratio.low,
        }  # fmt: skip
        if wins is not None:
            columns |= {
                "win_rate": wins.estimate, "win_rate_low": wins.low, "win_rate_high": wins.high,
                "rank": average_ranks(table).ranks,
            }  # fmt: skip
        return pandas.DataFrame(columns, index=pandas.Index(self.models, name="model"))

    def ranks(self, measure: str = "crps") -> Ranks:
        """Average ranks with Friedman's test and Nemenyi's critical difference.

        Args:
            measure: mase, smape, crps or msis.

        Returns:
            The ranks, in the order of the models.

        Raises:
            ValueError: another measure, or a single model.
        """
        table = self._losses(measure)
        if len(self.models) < 2:
            raise ValueError("models: expected at least two to rank, got one")
        return average_ranks(table)

    def plot_ranks(self, measure: str = "crps") -> "Figure":
        """Draw average ranks, models joined that the test does not distinguish."""
        found = self.ranks(measure)
        title = f"{measure.upper()}: average ranks over {found.num_series} series"
        return plot_average_ranks(self.models, found, title)

    def calibration(self) -> dict[str, Float[np.ndarray, " K"]]:
        """By model, the share of values below the quantiles of each level of `QUANTILE_LEVELS`."""
        values = np.concatenate([_test_values(one) for one in self.collection])
        seen = np.isfinite(values)
        return {
            model: (values[:, None] < np.concatenate(made.quantiles))[seen].mean(axis=0)
            for model, made in self.forecasts.items()
        }

    def plot_ratios(
        self, measure: str = "crps", reference: str = SEASONAL_NAIVE, seed: int = 0
    ) -> "Figure":
        """Draw how much larger scores are than those of a reference, see :meth:`relative`."""
        order = self.ordered(measure)
        frame = self.relative(measure, reference, seed).loc[list(order)]
        ratios = Interval(*(frame[f"ratio{end}"].to_numpy() for end in ("", "_low", "_high")))
        return plot_ratios(order, ratios, measure.upper(), reference)

    def plot_calibration(self) -> "Figure":
        """Draw how much more often than they say values are below the quantiles of each model."""
        return plot_calibration(self.calibration(), f"{len(self.collection)} series")

    def plot_forecasts(
        self,
        model: str,
        which: Literal["random", "worst"] = "random",
        count: int = 10,
        *,
        measure: str = "mase",
        seed: int = 0,
    ) -> "Figure":
        """Draw forecasts of single series with their intervals.

        Args:
            model: whose forecasts.
            which: series drawn at random, or those where the model is worst.
            count: how many at most.
            measure: by which it is worst: mase, smape, crps or msis.
            seed: of the series at random.

        Returns:
            A matplotlib figure of two columns.

        Raises:
            ValueError: an argument that is none of these.
        """
        return plot_forecasts(*self._forecasts_of(model, which, count, measure, seed))

    def forecast_figures(
        self,
        model: str,
        which: Literal["random", "worst"] = "random",
        count: int = 10,
        *,
        measure: str = "mase",
        seed: int = 0,
    ) -> "list[Figure]":
        """The panels of :meth:`plot_forecasts`, each a figure of its own."""
        shown = self._forecasts_of(model, which, count, measure, seed)
        return [forecast_figure(*one) for one in zip(*shown, strict=True)]

    def _forecasts_of(
        self, model: str, which: str, count: int, measure: str, seed: int
    ) -> tuple[list[CollectionSeries], list[Float[np.ndarray, "H K"]], list[str]]:
        """Series, their forecasts, and captions."""
        if model not in self.models:
            raise ValueError(f"model: expected one of {self.models}, got {model!r}")
        if which not in ("random", "worst"):
            raise ValueError(f"which: expected 'random' or 'worst', got {which!r}")
        if measure not in LOSSES:
            raise ValueError(f"measure: expected one of {', '.join(LOSSES)}, got {measure!r}")
        n, losses = len(self.collection), getattr(self.scores[model], measure)
        if which == "random":
            places = np.sort(np.random.default_rng(seed).permutation(n)[:count])
        else:
            places = np.argsort(-losses)[: min(count, int(np.isfinite(losses).sum()))]
        series = [self.collection.series[place] for place in places]
        captions = [
            f"{one.name}, {measure.upper()} {losses[place]:.2f}"
            for one, place in zip(series, places, strict=True)
        ]
        return series, [self.forecasts[model].quantiles[place] for place in places], captions

    def ordered(self, measure: str = "crps") -> tuple[str, ...]:
        """The names of the models, the best average rank first.

        Args:
            measure: mase, smape, crps or msis.

        Returns:
            The names.

        Raises:
            ValueError: another measure.
        """
        order = np.argsort(mean_ranks(self._losses(measure)), kind="stable")
        return tuple(self.models[place] for place in order)

    def _losses(self, measure: str) -> Float[np.ndarray, "n M"]:
        if measure not in LOSSES:
            raise ValueError(f"measure: expected one of {', '.join(LOSSES)}, got {measure!r}")
        found = self.table(measure)
        if not len(found):
            raise ValueError(
                "collection: expected a series whose training part changes, since scores are in "
                f"units of its changes; got none among {len(self.collection)}"
            )
        return found


def _test_values(one: CollectionSeries) -> Float[np.ndarray, " H"]:
    """What came after the training part; it was scored, so it is known."""
    assert one.test is not None
    return one.test


def compare_collection(
    collection: Collection,
    models: Sequence[str | CollectionModel] = DEFAULT,
    seed: int = 0,
    *,
    folder: str | Path | None = None,
    twice: bool = False,
    workers: Workers = 1,
    on_progress: Callable[[str], None] | None = None,
) -> dict[str, CollectionComparison]:
    """Forecast every group of a collection by every model, and score the forecasts.

    Args:
        collection: the series, with test values.
        models: names in `MODELS`, or models. Seasonal naive is compared, too, named or not.
        seed: of all that is random.
        folder: where the forecasts of each model and group are kept, as
            "COLLECTION-GROUP-MODEL.npz"; a call that was stopped goes on from there. The files know
            the names of the series alone: after other changes take another folder.
        twice: run models that do not know how long they compile a second time, to tell it.
        workers: models and groups forecast at the same time, in processes of their own or by an
            executor, as in :func:`ssmlin.compare`. Seconds are then those of a busy machine.
        on_progress: is told what begins, unless an executor runs it, and what is done.

    Returns:
        The comparison of each group and, if there are several, that of "all".

    Raises:
        RuntimeError: a process that forecasts was ended from outside, see :func:`ssmlin.compare`.
        ValueError: an unknown or repeated name, a file of other series, or a series without test
            values.

    Examples:
        >>> import numpy as np
        >>> from ssmlin.comparison.collections import compare_collection, hold_out
        >>> series = [np.random.default_rng(k).normal(size=30).cumsum() for k in range(5)]
        >>> comparison = compare_collection(hold_out(series, horizon=3), ["seasonal_naive"])["all"]
        >>> print(comparison.relative("mase").loc["seasonal_naive", "ratio"])
        1.0
    """
    check_workers(workers)
    chosen = _chosen(models)
    store = None if folder is None else Path(folder)
    if store is not None:
        store.mkdir(parents=True, exist_ok=True)
    groups = collection.groups()
    # Model by model, so that a quick one is done everywhere before a slow one begins.
    parts = [_Part(model, group, one) for model in chosen for group, one in groups.items()]
    forecasts = _forecasts(parts, seed, store, workers, on_progress, twice=twice)
    found: dict[str, CollectionComparison] = {}
    for group, one in groups.items():
        made = {model.name: forecasts[model.name, group] for model in chosen}
        scores = {name: score_collection(one, of.quantiles) for name, of in made.items()}
        found[group] = CollectionComparison(one, made, scores)
    if len(found) > 1:
        found["all"] = _joined(collection.name, list(found.values()))
    return found


def _chosen(models: Sequence[str | CollectionModel]) -> list[CollectionModel]:
    """The models, seasonal naive first unless it is named."""
    found: dict[str, CollectionModel] = {}
    for asked in models:
        if isinstance(asked, str) and asked not in MODELS:
            raise ValueError(f"models: expected names among {', '.join(MODELS)}; got {asked!r}")
        model = MODELS[asked] if isinstance(asked, str) else asked
        if model.name in found:
            raise ValueError(f"models: expected different names, got {model.name!r} twice")
        found[model.name] = model
    if SEASONAL_NAIVE not in found:
        found = {SEASONAL_NAIVE: MODELS[SEASONAL_NAIVE]} | found
    return list(found.values())


class _Part(NamedTuple):
    """A model, and the series of a group for it to forecast."""

    model: CollectionModel
    group: str
    collection: Collection

    def __str__(self) -> str:
        return f"{self.collection.name} {self.group}, {self.model.name}"


def _forecasts(
    parts: Sequence[_Part],
    seed: int,
    store: Path | None,
    workers: Workers,
    on_progress: Callable[[str], None] | None,
    *,
    twice: bool,
) -> dict[tuple[str, str], Forecasts]:
    """Forecasts by model and group: read, or made and written as they are done."""
    tell = on_progress or (lambda text: None)
    found: dict[tuple[str, str], Forecasts] = {}
    todo: list[tuple[_Part, Path | None]] = []
    for part in parts:
        name = f"{part.collection.name}-{part.group}-{part.model.name}.npz"
        path = None if store is None else store / name
        kept = None if path is None else read_forecasts(path, part.collection)
        if kept is None:
            todo.append((part, path))
        else:
            found[part.model.name, part.group] = kept
    done = run_calls(
        _forecast, [(part, seed, twice) for part, _ in todo], workers,
        lambda number: tell(f"{todo[number][0]}: begins"),
    )  # fmt: skip
    for number, made in done:
        part, path = todo[number]
        if path is not None:
            write_forecasts(path, part.collection, made)
        found[part.model.name, part.group] = made
        tell(f"{part}: {_said(made)}")
    return found


def _forecast(part: _Part, seed: int, twice: bool) -> Forecasts:
    return forecast_collection(part.model, part.collection, seed, twice=twice)


def _said(made: Forecasts) -> str:
    """How many series took how long."""
    compiling = (
        f", of them {made.compile_seconds:.1f} s compiling" if made.compile_seconds > 0.05 else ""
    )
    failed = f"; {made.num_failures} failed" if made.num_failures else ""
    return f"{len(made.quantiles)} series in {made.seconds:.1f} s{compiling}{failed}"


def _joined(name: str, parts: Sequence[CollectionComparison]) -> CollectionComparison:
    """One comparison of all series."""
    forecasts, scores = {}, {}
    for model in parts[0].models:
        made = [part.forecasts[model] for part in parts]
        forecasts[model] = Forecasts(
            tuple(x for one in made for x in one.quantiles),
            tuple(x for one in made for x in one.failures),
            sum(one.seconds for one in made),
            sum(one.compile_seconds for one in made),
            sum(one.processor_seconds for one in made),
        )
        columns = zip(*(part.scores[model] for part in parts), strict=True)
        scores[model] = CollectionScores(*(np.concatenate(column) for column in columns))
    series = tuple(one for part in parts for one in part.collection)
    return CollectionComparison(Collection(name, series), forecasts, scores)
