"""A model for each of many series: each is fitted by itself, all in few programs.

A program is compiled for each shape, which takes longer than hundreds of fits. So series are padded
with missing steps to the length of others, and models with inputs of zero to the width of others,
which changes no fit; and then many fits advance together, see
:func:`ssmlin.learning.carry_out_together`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from ssmlin._buckets import bucket
from ssmlin._progress import waiting
from ssmlin._warnings import warn
from ssmlin.data import Columns
from ssmlin.forecasting._fitting import Room
from ssmlin.forecasting._recipe import Chosen, GroupFit, Recipe, choose, plan_group
from ssmlin.learning import carry_out_together
from ssmlin.mechanisms import get_mechanism


def fit_separately(panel: Mapping[str, Columns], recipe: Recipe) -> dict[str, GroupFit]:
    """Fit a model to each series.

    Args:
        panel: the series by name.
        recipe: the settings.

    Returns:
        The fits by series, without those that failed.

    Raises:
        ValueError: none could be fitted; the message is that of the first. Or a series has a single
            row, after which the times of the next steps are not known.

    Warns:
        RuntimeWarning: some could not be fitted.
    """
    for name, one in panel.items():
        if len(one.values) < 2:
            raise ValueError(f"series {name!r}: rows: expected at least 2, got {len(one.values)}")
    chosen: dict[str, Chosen] = {}
    failed: dict[str, ValueError] = {}
    with waiting(f"choosing the lags of {len(panel)} series", recipe.progress):
        for name, one in panel.items():
            try:
                chosen[name] = choose({name: one}, recipe)
            except ValueError as error:
                failed[name] = error
    numbers = {name: number for number, name in enumerate(panel)}
    input_dim = max((one.wanted.input_dim for one in chosen.values()), default=0)
    lengths = common_lengths([one.num_steps for one in chosen.values()])
    plans = [
        plan_group(one, recipe, _folder(recipe, numbers[name]), Room(length, input_dim))
        for (name, one), length in zip(chosen.items(), lengths, strict=True)
    ]
    mechanism = get_mechanism(recipe.mechanism).name
    results = carry_out_together(plans, mechanism, progress=recipe.progress)
    found: dict[str, GroupFit] = {}
    for name, result in zip(chosen, results, strict=True):
        if isinstance(result, ValueError):
            failed[name] = result
        else:
            found[name] = result
    if failed:
        _tell(failed, len(panel))
    return found


def _folder(recipe: Recipe, number: int) -> Path | None:
    """Where the states of the fits of a series are kept."""
    return None if recipe.folder is None else recipe.folder / f"series-{number}"


def common_lengths(lengths: Sequence[int]) -> list[int]:
    """The lengths that series are padded to: few, and none more than about twice a series' own.

    Args:
        lengths: of the series.

    Examples:
        >>> from ssmlin.forecasting._separate import common_lengths
        >>> common_lengths([100, 140, 120, 30])
        [160, 160, 160, 32]
    """
    longest, room = 0, {}
    for length in sorted(set(lengths), reverse=True):
        if 2 * length < longest or longest == 0:
            longest = length
        room[length] = bucket(longest)
    return [room[length] for length in lengths]


def _tell(failed: Mapping[str, ValueError], num_series: int) -> None:
    """Raise or warn of the series that failed."""
    name, first = next(iter(failed.items()))
    of = f"series {name!r}: "
    said = str(first).removeprefix(of)
    if len(failed) == num_series:
        raise ValueError(f"{of}{said}") from first
    others = f"; and {len(failed) - 1} more: " if len(failed) > 1 else ""
    others += ", ".join(map(repr, list(failed)[1:6])) + (", ..." if len(failed) > 6 else "")
    warn(
        f"{len(failed)} of {num_series} series could not be fitted and are not forecast: "
        f"{name!r} ({said}){others}"
    )
