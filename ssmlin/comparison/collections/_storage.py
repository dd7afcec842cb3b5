"""Files of forecasts: one npz for each model and group, written whole or not at all."""

import contextlib
from pathlib import Path

import numpy as np

from ssmlin._files import remove_leftovers, written_whole
from ssmlin.comparison.collections._collection import Collection
from ssmlin.comparison.collections._model import Forecasts
from ssmlin.comparison.collections._quantiles import QUANTILE_LEVELS


def write_forecasts(path: Path, collection: Collection, forecasts: Forecasts) -> None:
    """Write the forecasts of a collection.

    Args:
        path: the file, which ends in ".npz"; its folder must exist.
        collection: the series.
        forecasts: of these series.

    Raises:
        OSError: the file cannot be written.
    """
    remove_leftovers(path)
    with written_whole(path) as temporary:
        np.savez_compressed(
            temporary,
            levels=QUANTILE_LEVELS,
            names=np.array([one.name for one in collection]),
            horizons=np.array([one.horizon for one in collection]),
            quantiles=np.concatenate(forecasts.quantiles),
            failures=np.array(forecasts.failures),
            seconds=np.array([forecasts.seconds, forecasts.compile_seconds]),
        )


def read_forecasts(path: Path, collection: Collection) -> Forecasts | None:
    """Read what :func:`write_forecasts` wrote.

    Args:
        path: the file.
        collection: the series that were forecast.

    Returns:
        The forecasts; None if there is no file.

    Raises:
        ValueError: the file holds forecasts of other series or at other levels.
    """
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(np.load(path, allow_pickle=False))
        except FileNotFoundError:
            return None
        held = {key: file[key] for key in file.files}
    expected = [one.name for one in collection], [one.horizon for one in collection]
    found = held["names"].tolist(), held["horizons"].tolist()
    if found != expected or not np.array_equal(held["levels"], QUANTILE_LEVELS):
        raise ValueError(
            f"path: expected forecasts of these {len(collection)} series at the levels of the "
            f"grid, got others: {path}"
        )
    ends = np.cumsum(held["horizons"])[:-1]
    seconds, compile_seconds = held["seconds"].tolist()
    return Forecasts(
        tuple(np.split(held["quantiles"], ends)),
        tuple(held["failures"].tolist()),
        seconds,
        compile_seconds,
    )
