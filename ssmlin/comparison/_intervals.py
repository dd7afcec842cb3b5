"""Estimates with intervals below each other, on a scale that a few bad ones do not rule."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Float

from ssmlin.comparison._panels import finish, new_figure, say_of

if TYPE_CHECKING:
    import matplotlib.figure

#: A scale of distances ends at so many times their median.
_REACH = 2.5


class Estimate(NamedTuple):
    """A row of the figure.

    Attributes:
        name: at the left.
        value: the estimate.
        low: the lower end of its interval.
        high: the upper end.
        words: the numbers, for where they are not on the scale.
        kind: of the row, for the legend; "" for none.
        color: of the row.
    """

    name: str
    value: float
    low: float
    high: float
    words: str
    kind: str = ""
    color: str = "C0"


def scale_end(distances: Float[np.ndarray, " n"]) -> float:
    """Where a scale ends so that a few points that are far away do not rule it.

    Args:
        distances: from zero, some perhaps infinite.

    Returns:
        The largest, or 2.5 times the median of those that are not zero if that is less; 1 where
        all are zero.

    Examples:
        >>> import numpy as np
        >>> from ssmlin.comparison._intervals import scale_end
        >>> scale_end(np.array([0.0, 1.0, 2.0, 3.0])), scale_end(np.array([1.0, 2.0, 3.0, 900.0]))
        (3.0, 6.25)
    """
    positive = distances[distances > 0]
    return float(min(positive.max(), _REACH * np.median(positive))) if len(positive) else 1.0


def intervals_figure(rows: Sequence[Estimate], label: str) -> "matplotlib.figure.Figure":
    """Estimates with intervals, from top to bottom, beside zero.

    Args:
        rows: the estimates.
        label: of their axis.

    Returns:
        A matplotlib figure. An arrow stands for an estimate beyond the end of the scale, with its
        numbers beside it.
    """
    ends = np.array([(one.low, one.high) for one in rows])
    end = scale_end(np.abs(ends).max(axis=1))
    figure = new_figure(9, 1.1 + 0.27 * len(rows))
    axis = figure.subplots()
    axis.axvline(0, color="grey", lw=0.8)
    for place, (name, value, low, high, words, kind, color) in enumerate(rows):
        if abs(value) <= end:
            shown = axis.errorbar(
                value, place, xerr=[[value - low], [high - value]], fmt="o", ms=5, capsize=3,
                color=color, label=kind,
            )[0]  # fmt: skip
        else:
            side = np.sign(value)
            (shown,) = axis.plot(side * end, place, "<" if side < 0 else ">", color=color)
            axis.annotate(
                words, (side * end, place), xytext=(-8 * side, 0), textcoords="offset points",
                ha="left" if side < 0 else "right", va="center", fontsize=8,
            )  # fmt: skip
        say_of(shown, f"{name}: {words}")
    axis.set_yticks(range(len(rows)), [one.name for one in rows])
    axis.set_ylim(len(rows) - 0.5, -0.5)
    left, right = (np.clip(x, -end, end) for x in (ends.min(), ends.max()))
    margin = 0.05 * (right - left or 1.0)
    axis.set_xlim(left - margin, right + margin)
    axis.set_xlabel(label, fontsize=9)
    finish(figure)
    return figure
