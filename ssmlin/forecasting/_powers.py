"""The Box-Cox transformation of each column, chosen by likelihood."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from ssmlin.data import box_cox, changes
from ssmlin.forecasting._choice import most_likely
from ssmlin.forecasting._interface import Observed
from ssmlin.forecasting._orders import WHOLE_SHARE, choose_regression
from ssmlin.forecasting._regression import exact_deviance, least_squares, usable_steps
from ssmlin.forecasting._season import with_season

#: What "auto" chooses among: the values, their square roots, their logarithms.
_POWERS = (1.0, 0.5, 0.0)
#: What "box-cox" chooses among.
_FINE_POWERS = tuple(k / 20 for k in range(20, -1, -1))


def choose_powers(
    several: Sequence[Observed],
    transform: str | float | int = "auto",
    period: int | None = None,
    difference: int = 0,
) -> tuple[float, ...]:
    r"""λ of the Box-Cox transformation of each column, by the likelihood of training data.

    The likelihood of the untransformed values is that of a least-squares autoregression of the
    transformed column, with the inputs, times the Jacobian:

    $$-\tfrac n2 \log \hat\sigma^2_\lambda + (\lambda - 1) \sum_t \log y_t$$

    over the same steps for all λ. The regression has as many lags, and the season, as
    :func:`choose_regression` wants for any of them, so none has more coefficients than another.
    Several series share their λ and their likelihoods are added.

    Args:
        several: the training series in their own units; NaN means missing.
        transform: "auto" for 1, 1/2 or 0, of which 1 is left only for a gain of more than two
            nats, and never where a value is not positive; "box-cox" for the most likely multiple
            of 0.05 in [0, 1]; "none", "log", or a number.
        period: steps a season.
        difference: the models see changes over so many steps; 0 for none.

    Returns:
        λ of each column; 1 means none.

    Raises:
        ValueError: another `transform`, or "box-cox" of values that are not positive.

    Examples:
        >>> import numpy as np
        >>> from ssmlin.forecasting import Observed
        >>> from ssmlin.forecasting import choose_powers
        >>> walk = np.cumsum(np.random.default_rng(0).normal(size=(100, 1)), axis=0)
        >>> choose_powers([Observed.of(np.exp(walk / 5))])
        (0.0,)
        >>> choose_powers([Observed.of(100 + walk)])
        (1.0,)

    Source: Box and Cox (1964), Journal of the Royal Statistical Society B 26.
    """
    m = several[0].values.shape[1]
    fixed = fixed_power(transform)
    if fixed is not None:
        return tuple([fixed] * m)
    powers = _POWERS if transform == "auto" else _FINE_POWERS
    chosen = []
    for column in range(m):
        parts = [Observed(one.values[:, [column]], one.inputs) for one in several]
        if any((part.values <= 0).any() for part in parts):
            if transform != "auto":
                raise ValueError(
                    f"transform: expected positive values for {transform!r}, got one of "
                    f"{min(np.nanmin(part.values) for part in parts)} in column {column + 1}"
                )
            chosen.append(1.0)
            continue
        found = np.sum([log_likelihoods(p, powers, period, difference) for p in parts], axis=0)
        best = most_likely(found) if transform == "auto" else int(np.argmax(found))
        chosen.append(powers[best])
    return tuple(chosen)


def fixed_power(transform: str | float | int) -> float | None:
    """The power that is asked for; None where it is to be chosen."""
    if transform in ("auto", "box-cox"):
        return None
    power = np.nan
    try:
        power = float({"none": 1.0, "log": 0.0}.get(str(transform), transform))
    except (TypeError, ValueError):
        pass
    if isinstance(transform, bool) or not 0 <= power < np.inf:
        raise ValueError(
            f"transform: expected auto, none, log, box-cox or a number >= 0, got {transform!r}"
        )
    return power


def log_likelihoods(
    series: Observed, powers: Sequence[float], period: int | None, difference: int
) -> Float[np.ndarray, " n"]:
    """Of one positive column under each power, up to a constant; zeros where nothing is said."""
    candidates, scales = [], []
    for power in powers:
        values = changes(box_cox(series.values, [power]), difference)
        scales.append(float(np.nanstd(values)) if np.isfinite(values).any() else 0.0)
        if not scales[-1] > 0:
            return np.zeros(len(powers))
        standard = (values - np.nanmean(values)) / scales[-1]
        candidates.append(Observed(standard, series.inputs))
    choices = [choose_regression(one, period) for one in candidates]
    num_lags = max(order for order, _ in choices)
    seasonal = period if any(season is not None for _, season in choices) else None
    used = usable_steps(candidates[0].values, num_lags, num_lags)
    if len(used) < WHOLE_SHARE * (len(series.values) - num_lags):
        # Exactly, with what is missing integrated out: of all values after the first.
        there = ~np.isnan(candidates[0].values[num_lags:, 0])
        jacobian = np.log(series.values[num_lags:][there]).sum()
        found = []
        for power, scale, one in zip(powers, scales, candidates, strict=True):
            n, deviance = exact_deviance(with_season(one, seasonal), num_lags, num_lags)
            found.append(-0.5 * n * (deviance + 2 * np.log(scale)) + (power - 1) * jacobian)
        return np.array(found)
    jacobian = np.log(series.values[used]).sum()
    found = []
    for power, scale, one in zip(powers, scales, candidates, strict=True):
        try:
            _, residuals = least_squares(with_season(one, seasonal), num_lags)
        except ValueError:  # too short, or too many steps are missing
            return np.zeros(len(powers))
        # A perfect fit does not win by rounding errors.
        variance = scale**2 * max(float(np.mean(residuals**2)), 1e-20)
        found.append(-0.5 * len(used) * np.log(variance) + (power - 1) * jacobian)
    return np.array(found)
