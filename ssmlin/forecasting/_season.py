"""Seasons: how long one is by the times of a series, and its harmonics as inputs."""

import numpy as np
from jaxtyping import Float, Int

from ssmlin.data import Times, grid_step
from ssmlin.forecasting._interface import Observed

_MAX_HARMONICS = 6
_DAY = 86_400.0
#: The most steps that a day may have as a season; of shorter steps nobody knows it.
_MOST_STEPS_A_DAY = 96


def season_of(times: Times) -> int | None:
    """How many steps a season has, by the distance of the times.

    A year for months and quarters, 52 steps for weeks, a week for days and for business days, a day
    for hours.

    Args:
        times: equally spaced numbers or dates.

    Returns:
        The number of steps, or None where the times do not say it: numbers, years, minutes.

    Examples:
        >>> import pandas as pd
        >>> from ssmlin.forecasting import season_of
        >>> season_of(pd.date_range("2024-01-01", periods=9, freq="MS"))
        12
    """
    kind, step = grid_step(times) or ("numbers", 0.0)
    if kind == "numbers":
        return None
    if kind == "months":
        return round(12 / step) if step < 12 and 12 % step == 0 else None
    if kind == "business days":
        return 5 if step == 1 else None
    if step == 7 * _DAY:
        return 52
    if step == _DAY:
        return 7
    steps = _DAY / step
    return int(steps) if steps.is_integer() and 1 < steps <= _MOST_STEPS_A_DAY else None


def harmonics(period: int, steps: Int[np.ndarray, " T"]) -> Float[np.ndarray, "T k"]:
    r"""$\sqrt 2 \cos(2 \pi k t / s)$ and $\sqrt 2 \sin(2 \pi k t / s)$ for k up to s / 2.

    Args:
        period: steps a season, s.
        steps: t.

    Returns:
        At most six harmonics, the cosines first; the shortest sine of an even s is 0 and left out.

    Source: Young, Pedregal and Tych (1999), Journal of Forecasting 18.
    """
    count = min(period // 2, _MAX_HARMONICS)
    angle = 2 * np.pi * steps[:, None] * np.arange(1, count + 1) / period
    sines = np.sin(angle)[:, : (period - 1) // 2]
    waves: Float[np.ndarray, "T k"] = np.sqrt(2) * np.concatenate([np.cos(angle), sines], axis=1)
    return waves


def harmonic_names(period: int | None) -> list[str]:
    """What the columns of :func:`harmonics` are called; none without a season.

    Examples:
        >>> from ssmlin.forecasting import harmonic_names
        >>> harmonic_names(4)
        ['season, cosine of 4 steps', 'season, cosine of 2 steps', 'season, sine of 4 steps']
    """
    if period is None:
        return []
    names = [f"season, {wave} of {period / k:.3g} steps" for wave in ("cosine", "sine")
             for k in range(1, min(period // 2, _MAX_HARMONICS) + 1)]  # fmt: skip
    return names[: harmonics(period, np.zeros(0, int)).shape[1]]


def with_season(observed: Observed, period: int | None, start: int = 0) -> Observed:
    """A series with the harmonics of a season as further inputs, see :func:`harmonics`.

    Args:
        observed: the series.
        period: steps a season; None leaves the series unchanged.
        start: the number of its first step, which says where in the season it begins.

    Returns:
        The series with more inputs.
    """
    if period is None:
        return observed
    waves = harmonics(period, start + np.arange(len(observed.values)))
    return Observed(observed.values, np.concatenate([observed.inputs, waves], axis=1))
