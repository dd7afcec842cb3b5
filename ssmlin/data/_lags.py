"""Lagged values, and values carried forward over gaps: for arrays of NumPy and of JAX."""

import numpy as np
from jax import Array
from jaxtyping import Float, Shaped


def lagged[A: (Array, np.ndarray)](
    values: Shaped[A, "T m"], num_lags: int, before: Shaped[A, "num_lags m"] | None = None
) -> Shaped[A, "T+1 num_lags m"]:
    r"""The values before each step: $x_{t,l} = y_{t-l}$ for lags l = 1..L, the latest first.

    Args:
        values: y, (T, m); any dtype.
        num_lags: L, which may be 0.
        before: the L values before the first step, the oldest first; default zeros.

    Returns:
        The lags, (T + 1, L, m): of every step, and last of the step to come.

    Examples:
        >>> import numpy as np
        >>> from ssmlin.data import lagged
        >>> lagged(np.array([[1.0], [2.0]]), 2)[..., 0].tolist()
        [[0.0, 0.0], [1.0, 0.0], [2.0, 1.0]]
    """
    xp = values.__array_namespace__()
    steps, m = values.shape
    if before is None:
        before = xp.zeros((num_lags, m), dtype=values.dtype)
    padded = xp.concatenate([before, values])
    lags: list[A] = [padded[num_lags - lag :][: steps + 1, None] for lag in range(1, num_lags + 1)]
    none = xp.zeros((steps + 1, 0, m), dtype=values.dtype)
    stacked: A = xp.concatenate([none, *lags], axis=1)
    return stacked


def carried_forward[A: (Array, np.ndarray)](
    values: Float[A, "T m"], before: Float[A, " m"] | None = None
) -> Float[A, "T m"]:
    """Replace each missing value (NaN) by the last value of its column that was observed.

    Args:
        values: y, (T, m).
        before: the values before the first step, (m,); default NaN.

    Returns:
        The values, (T, m). Only those before the first observed one can be `before`.

    Examples:
        >>> import numpy as np
        >>> from ssmlin.data import carried_forward
        >>> carried_forward(np.array([[np.nan], [1.0], [np.nan]]), np.zeros(1)).tolist()
        [[0.0], [1.0], [1.0]]
    """
    xp = values.__array_namespace__()
    if before is None:
        before = xp.full(values.shape[1], xp.nan, dtype=values.dtype)
    known = xp.concatenate([before[None], values])
    place = xp.where(xp.isnan(known), 0, xp.arange(len(known))[:, None])
    latest = xp.maximum.accumulate(place, axis=0)
    carried: A = xp.take_along_axis(known, latest, axis=0)[1:]
    return carried
