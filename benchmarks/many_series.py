"""Forecasters over the series of a competition: M1, on which settings are chosen, or M3.

Run as `python -m benchmarks.many_series M1 --models seasonal_naive theta --folder DIR`. The
forecasts of each model and group are kept in DIR, so a run that was stopped goes on. It is no
part of `ssmlin bench`, since it takes hours.
"""

import argparse
import sys
import time
from pathlib import Path

from ssmlin.comparison.collections import (
    MODELS,
    Collection,
    CollectionModel,
    Forecasts,
    forecast_collection,
    load_competition,
    read_forecasts,
    write_forecasts,
)


def forecasts_of(
    model: CollectionModel, group: str, collection: Collection, folder: Path
) -> Forecasts:
    """Forecasts of the series of a group: read, or made and written."""
    path = folder / f"{collection.name}-{group}-{model.name}.npz"
    found = read_forecasts(path, collection)
    if found is not None:
        return found
    _log(f"{collection.name} {group}: {model.name} ...")
    found = forecast_collection(model, collection)
    write_forecasts(path, collection, found)
    _log(
        f"{collection.name} {group}: {model.name} took {found.seconds:.1f} s, "
        f"{found.compile_seconds:.1f} s of them compiling, for {len(collection)} series; "
        f"{found.num_failures} failed"
    )
    return found


def _log(text: str) -> None:
    print(time.strftime("%H:%M:%S"), text, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("competition", choices=("M1", "M3"))
    parser.add_argument("--models", nargs="+", choices=tuple(MODELS), default=tuple(MODELS))
    parser.add_argument("--folder", type=Path, required=True, help="where forecasts are kept")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    groups = load_competition(arguments.competition).groups()
    for name in arguments.models:
        for group, collection in groups.items():
            forecasts_of(MODELS[name], group, collection, arguments.folder)


if __name__ == "__main__":
    main()
