"""The number of lags and the season of a regression, by the corrected Akaike criterion."""

import numpy as np

from ssmlin.forecasting._interface import Observed
from ssmlin.forecasting._regression import exact_deviance, least_squares, usable_steps
from ssmlin.forecasting._season import with_season

#: An order is chosen by exact likelihoods where fewer than this share of the steps are whole.
WHOLE_SHARE = 0.5


def choose_num_lags(train: Observed, max_lags: int = 12) -> int:
    """The order of a vector autoregression by the corrected Akaike criterion; may be 0.

    See :func:`choose_regression`.
    """
    return choose_regression(train, None, max_lags)[0]


def choose_regression(
    train: Observed,
    period: int | None = None,
    max_lags: int = 12,
    *,
    num_lags: int | None = None,
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
        num_lags: the order, if it is given; then only the season is chosen.

    Returns:
        The order, and the period where its harmonics are worth their coefficients.

    Source: Hurvich and Tsai (1993), Journal of Time Series Analysis 14.
    """
    steps, m = train.values.shape

    def orders(series: Observed) -> list[int]:
        if num_lags is not None:
            return [num_lags]
        extra = 1 + series.inputs.shape[1]
        return [lag for lag in range(max_lags + 1) if 6 * (m * lag + extra) <= steps]

    start = max(orders(train), default=0)
    whole = len(usable_steps(train.values, start, start))
    has_many_gaps = whole < WHOLE_SHARE * (steps - start)

    def criterion(choice: tuple[int, int | None]) -> float:
        order, seasonal = choice
        series = with_season(train, seasonal)
        if has_many_gaps:
            n, deviance = exact_deviance(series, order, start)
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
    return choices[0] if len(choices) == 1 else min(choices, key=criterion)
