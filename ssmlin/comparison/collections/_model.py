"""What forecasts a collection, and what is kept of it: quantiles, failures and seconds."""

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from ssmlin.comparison.collections._collection import Collection, CollectionSeries
from ssmlin.comparison.collections._libraries import load
from ssmlin.comparison.collections._naive import seasonal_naive
from ssmlin.comparison.collections._quantiles import QUANTILE_LEVELS

#: Quantiles (H, K) of a series, or why there are none.
type Outcome = Float[np.ndarray, "H K"] | Exception


class Attempt(NamedTuple):
    """What a model made of a collection.

    Attributes:
        outcomes: of each series in order, quantiles (H, K) at `QUANTILE_LEVELS` or the exception
            that it met.
        compile_seconds: of the time it took, what would not be needed again for series of the
            same shapes; None where the model does not know.
    """

    outcomes: Sequence[Outcome]
    compile_seconds: float | None = None


@dataclass(frozen=True)
class CollectionModel:
    """A model by its name.

    Args:
        name: in tables and figures.
        forecast: from a collection, usually one group of it, and a seed to an attempt.
        module: of an optional package, which it imports; empty for none.
    """

    name: str
    forecast: Callable[[Collection, int], Attempt]
    module: str = ""

    def what_is_missing(self) -> str:
        """Why the package that it needs cannot be imported; empty if it can."""
        try:
            if self.module:
                load(self.module)
        except ImportError as error:
            return str(error)
        return ""


class Forecasts(NamedTuple):
    """Forecasts of all series of a collection.

    Attributes:
        quantiles: of each series, (H, K).
        failures: of each series, why it was forecast by seasonal naive; empty where it was not.
        seconds: that the model took, compiling included.
        compile_seconds: of these for compiling.
        processor_seconds: that all threads of the process worked meanwhile, compiling included:
            what other processes do changes it little. NaN where it is not known.
    """

    quantiles: tuple[Float[np.ndarray, "H K"], ...]
    failures: tuple[str, ...]
    seconds: float
    compile_seconds: float
    processor_seconds: float = float("nan")

    @property
    def num_failures(self) -> int:
        """How many series failed."""
        return sum(bool(reason) for reason in self.failures)


def each_series(
    collection: Collection, forecast: Callable[[CollectionSeries], Float[np.ndarray, "H K"]]
) -> list[Outcome]:
    """Forecast series by series; one that fails harms no other.

    Args:
        collection: the series.
        forecast: from a series to its quantiles.

    Returns:
        Quantiles or exceptions.
    """

    def attempt(one: CollectionSeries) -> Outcome:
        try:
            return forecast(one)
        except ImportError:  # no fault of the series
            raise
        except Exception as error:  # whatever a library raises
            return error

    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        return [attempt(one) for one in collection]


def forecast_collection(
    model: CollectionModel, collection: Collection, seed: int = 0, *, twice: bool = False
) -> Forecasts:
    """Forecast a collection, and time it.

    A series for which the model raises, or gives quantiles that are not finite or of another
    shape, is forecast by seasonal naive instead, and the reason is kept. So is every series where
    the model raises for the whole collection. A package that is missing is an error.

    Args:
        model: the model.
        collection: the series.
        seed: of all that is random.
        twice: where the model does not know how long it compiled, run it a second time: what the
            first run took longer was compiling.

    Returns:
        The forecasts.
    """
    outcomes, compiling, seconds, processor = _timed(model, collection, seed)
    if compiling is None:
        compiling = max(0.0, seconds - _timed(model, collection, seed)[2]) if twice else 0.0
    quantiles, failures = [], []
    for one, outcome in zip(collection, outcomes, strict=True):
        reason = _failure(outcome, (one.horizon, len(QUANTILE_LEVELS)))
        failures.append(reason)
        quantiles.append(seasonal_naive(one) if reason else np.sort(np.asarray(outcome), axis=1))
    return Forecasts(tuple(quantiles), tuple(failures), seconds, compiling, processor)


def _timed(
    model: CollectionModel, collection: Collection, seed: int
) -> tuple[Sequence[Outcome], float | None, float, float]:
    """Outcomes, seconds of compiling if they are known, seconds in all, and of the processor."""
    begin, work = time.perf_counter(), time.process_time()
    try:
        outcomes, compiling = model.forecast(collection, seed)
    except ImportError:
        raise
    except Exception as error:  # every series fails
        outcomes, compiling = [error] * len(collection), None
    seconds, processor = time.perf_counter() - begin, time.process_time() - work
    if len(outcomes) != len(collection):
        raise ValueError(
            f"{model.name}: expected {len(collection)} outcomes, got {len(outcomes)}"
        )  # fmt: skip
    return outcomes, compiling, seconds, processor


def _failure(outcome: Outcome, shape: tuple[int, int]) -> str:
    """Why an outcome is none; empty if it is one."""
    if isinstance(outcome, Exception):
        return f"{type(outcome).__name__}: {outcome}"
    if np.shape(outcome) != shape:
        return f"expected quantiles of shape {shape}, got {np.shape(outcome)}"
    return "" if np.isfinite(outcome).all() else "quantiles that are not finite"
