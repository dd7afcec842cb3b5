"""Least-squares and exact autoregression: lags, orders, seasons and powers chosen by likelihood."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from ssmlin.data import lagged
from ssmlin.data.scaling import box_cox, changes
from ssmlin.forecasting.interface import Ahead, Observed, Values
from ssmlin.models.autoregression import (
    Autoregression,
    Predictions,
    estimate_autoregression,
    predict_autoregression,
)
from ssmlin.models.coefficients import GAIN

_MAX_HARMONICS = 6
#: An order is chosen by exact likelihoods where whole steps are less than this share of all.
_WHOLE_SHARE = 0.5
#: As they are, square roots, logarithms: what "auto" chooses among.
_POWERS = (1.0, 0.5, 0.0)
#: What "box-cox" chooses among.
_FINE_POWERS = tuple(k / 20 for k in range(20, -1, -1))


def lags_and_inputs(observed: Observed, num_lags: int) -> Float[np.ndarray, "T p"]:
    """Lagged values, the latest first, and exogenous inputs: as :func:`ssmlin.lagged_inputs`.

    The lags of a missing value are missing, too.
    """
    steps, m = observed.values.shape
    lags = lagged(observed.values, num_lags)[:-1].reshape(steps, num_lags * m)
    return np.concatenate([lags, observed.inputs], axis=1)


def known_lags(observed: Observed, num_lags: int, who: str) -> Observed:
    """The series, or ValueError if a value is missing that is a lag of a later step."""
    missing = np.isnan(observed.values[:-1]).any(axis=1)
    if num_lags and missing.any():
        raise ValueError(
            f"values: expected lags that are known for {who}, got a missing value at step "
            f"{int(missing.argmax()) + 1}"
        )
    return observed


def last_values(values: Values, ahead: Ahead, num_lags: int) -> Float[np.ndarray, "N num_lags m"]:
    """The values before each origin, the latest first; zero where there are none."""
    return lagged(values, num_lags)[ahead.origins]


def least_squares(
    train: Observed, num_lags: int, start: int | None = None
) -> tuple[Float[np.ndarray, "k m"], Float[np.ndarray, "n m"]]:
    """Coefficients and residuals of a vector autoregression with inputs and intercept.

    Args:
        train: the series; steps with missing values, their own or lagged ones, are left out.
        num_lags: the order.
        start: the first step that is fitted; those before serve as lags only. Default `num_lags`.

    Returns:
        Coefficients (m·num_lags + k + 1, m), the intercept last, and residuals (n, m).

    Raises:
        ValueError: fewer steps than coefficients.
    """
    start = num_lags if start is None else start
    design = np.column_stack([lags_and_inputs(train, num_lags), np.ones(len(train.values))])[start:]
    usable = _usable_steps(train.values, num_lags, start)
    design, target = design[usable - start], train.values[usable]
    if len(target) <= design.shape[1]:
        raise ValueError(
            f"num_lags: expected fewer coefficients than the {len(target)} training steps, got "
            f"{design.shape[1]} for {num_lags} lags"
        )
    coefficients, *_ = np.linalg.lstsq(design, target, rcond=None)
    return coefficients, target - design @ coefficients


def _usable_steps(values: Values, num_lags: int, start: int) -> Int[np.ndarray, " n"]:
    """Steps from `start` on that are observed, as are those that lags reach."""
    missing = np.isnan(values).any(axis=1)
    if len(missing) <= num_lags:
        return np.zeros(0, int)
    windows = np.lib.stride_tricks.sliding_window_view(missing, num_lags + 1)
    steps = np.flatnonzero(~windows.any(axis=1)) + num_lags
    return steps[steps >= start]


def choose_num_lags(train: Observed, max_lags: int = 12) -> int:
    """The order of a vector autoregression by the corrected Akaike criterion; may be 0.

    See :func:`choose_regression`.
    """
    return choose_regression(train, None, max_lags)[0]


def choose_regression(
    train: Observed, period: int | None = None, max_lags: int = 12
) -> tuple[int, int | None]:
    r"""The order of a vector autoregression, and whether it has a season, by corrected Akaike.

    $\log|\hat\Sigma| + (n + k) m / (n - k - m - 1)$ with k coefficients an equation, over the
    same n steps for all orders; orders that leave fewer than six steps a coefficient are not tried.
    Steps with missing values, their own or lagged ones, are left out; where that is more than half
    of them the first term is -2/n times the exact log likelihood, what is missing integrated out.

    Args:
        train: the series.
        period: steps a season, whose harmonics may be inputs, see :func:`with_season`.
        max_lags: the highest order.

    Returns:
        The chosen order, and the period where its harmonics are worth their coefficients.

    Source: Hurvich and Tsai (1993), Journal of Time Series Analysis 14.
    """
    steps, m = train.values.shape

    def orders(series: Observed) -> list[int]:
        extra = 1 + series.inputs.shape[1]
        return [lag for lag in range(max_lags + 1) if 6 * (m * lag + extra) <= steps]

    start = max(orders(train), default=0)
    whole = len(_usable_steps(train.values, start, start))
    has_many_gaps = whole < _WHOLE_SHARE * (steps - start)

    def criterion(choice: tuple[int, int | None]) -> float:
        order, seasonal = choice
        series = with_season(train, seasonal)
        if has_many_gaps:
            n, deviance = _deviance(series, order, start)
            k = m * order + series.inputs.shape[1] + 1
        else:
            try:
                coefficients, residuals = least_squares(series, order, start)
            except ValueError:  # too many steps are missing
                return np.inf
            n, k = len(residuals), len(coefficients)
            deviance = float(np.linalg.slogdet(residuals.T @ residuals / n)[1])
        if n - k - m - 1 <= 0:
            return np.inf
        return float(deviance + (n + k) * m / (n - k - m - 1))

    choices: list[tuple[int, int | None]] = [(order, None) for order in orders(train) or [0]]
    if period is not None:
        choices += [(order, period) for order in orders(with_season(train, period))]
    return min(choices, key=criterion)


def _deviance(observed: Observed, order: int, num_lags: int) -> tuple[int, float]:
    """The observed steps after the first, and -2 times their mean exact log density."""
    parameters = estimate_autoregression(
        observed.values[None], observed.inputs[None], num_lags, order=order, max_iterations=50
    )
    laws = exact_predictions(parameters, observed, num_lags, moments_of(observed.values))
    y, seen = observed.values[num_lags:], ~np.isnan(observed.values[num_lags:])
    counted = seen.any(axis=1)
    both = seen[:, :, None] & seen[:, None, :]
    cov = np.where(both, laws.covariances[num_lags:], np.eye(y.shape[1]))
    error = np.where(seen, y - laws.means[num_lags:], 0.0)
    squares = np.einsum("ti,ti->t", error, np.linalg.solve(cov, error[..., None])[..., 0])
    terms = squares + np.linalg.slogdet(cov)[1] + seen.sum(axis=1) * np.log(2 * np.pi)
    return int(counted.sum()), float(terms[counted].mean())


Moments = tuple[Float[np.ndarray, " m"], Float[np.ndarray, " m"]]


def moments_of(values: Values) -> Moments:
    """Means and variances of the columns, which values before the first known lags have."""
    return np.nanmean(values, axis=0), np.maximum(np.nanvar(values, axis=0), 1e-12)


def exact_predictions(
    parameters: Autoregression, observed: Observed, num_lags: int, moments: Moments
) -> Predictions:
    """The laws of all values, what is missing integrated out; moments are of the training part."""
    return predict_autoregression(parameters, observed.values, observed.inputs, num_lags, *moments)


def draw_lags(
    laws: Predictions, ahead: Ahead, num_lags: int, m: int
) -> Float[np.ndarray, "N n num_lags m"]:
    """Draws of the values before each origin, the latest first."""
    width = num_lags * m
    last = np.maximum(ahead.origins - 1, 0)
    there = ahead.origins > 0  # before the first value are zeros
    means = laws.lag_means[last, :width] * there[:, None]
    covariances = laws.lag_covariances[last][:, :width, :width] * there[:, None, None]
    values, vectors = np.linalg.eigh(covariances)
    roots = vectors * np.sqrt(np.maximum(values, 0.0))[:, None, :]
    rng = np.random.default_rng([ahead.seed, 1])
    normal = rng.normal(size=(len(means), ahead.num_samples, width))
    drawn = means[:, None] + np.einsum("sij,snj->sni", roots, normal)
    return drawn.reshape(len(means), ahead.num_samples, num_lags, m)


def choose_powers(
    several: Sequence[Observed],
    transform: str | float = "auto",
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

    Example:
        >>> import numpy as np
        >>> from ssmlin.forecasting import Observed
        >>> from ssmlin.forecasting.regression import choose_powers
        >>> walk = np.cumsum(np.random.default_rng(0).normal(size=(100, 1)), axis=0)
        >>> choose_powers([Observed.of(np.exp(walk / 5))])
        (0.0,)
        >>> choose_powers([Observed.of(100 + walk)])
        (1.0,)

    Source: Box and Cox (1964), Journal of the Royal Statistical Society B 26.
    """
    m = several[0].values.shape[1]
    fixed = _fixed_power(transform)
    if fixed is not None:
        return (fixed,) * m
    powers, gain = (_POWERS, GAIN) if transform == "auto" else (_FINE_POWERS, 0.0)
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
        found = np.sum([_log_likelihoods(p, powers, period, difference) for p in parts], axis=0)
        found[0] += gain
        chosen.append(powers[int(np.argmax(found))])
    return tuple(chosen)


def _fixed_power(transform: str | float) -> float | None:
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


def _log_likelihoods(
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
    used = _usable_steps(candidates[0].values, num_lags, num_lags)
    if len(used) < _WHOLE_SHARE * (len(series.values) - num_lags):
        # Exactly, with what is missing integrated out: of all values after the first.
        there = ~np.isnan(candidates[0].values[num_lags:, 0])
        jacobian = np.log(series.values[num_lags:][there]).sum()
        found = []
        for power, scale, one in zip(powers, scales, candidates, strict=True):
            n, deviance = _deviance(with_season(one, seasonal), num_lags, num_lags)
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


def with_season(observed: Observed, period: int | None) -> Observed:
    r"""A series with the harmonics of a season as further inputs.

    $\sqrt 2 \cos(2 \pi k t / s)$ and $\sqrt 2 \sin(2 \pi k t / s)$ for k up to s / 2, at most six.

    Args:
        observed: the series, from its first step on.
        period: steps a season, s; None leaves the series as it is.

    Returns:
        The series with more inputs.

    Source: Young, Pedregal and Tych (1999), Journal of Forecasting 18.
    """
    if period is None:
        return observed
    count = min(period // 2, _MAX_HARMONICS)
    angle = 2 * np.pi * np.arange(len(observed.values))[:, None] * np.arange(1, count + 1) / period
    sines = np.sin(angle)[:, : (period - 1) // 2]  # that of the shortest one is 0 for even periods
    waves = np.sqrt(2) * np.concatenate([np.cos(angle), sines], axis=1)
    return Observed(observed.values, np.concatenate([observed.inputs, waves], axis=1))
