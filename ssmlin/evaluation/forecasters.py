"""One interface for everything that predicts a series one step ahead, and the choice of settings.

A forecaster is fitted on training data and then says the predictive density and mean of every
step of a longer series, given all earlier steps.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

Values = Float[np.ndarray, "T m"]


class OneStep(NamedTuple):
    """One-step-ahead predictions of a whole series.

    Attributes:
        log_density: log p(y_t | y_{1:t-1}), (T,).
        means: E[y_t | y_{1:t-1}], (T, m).
    """

    log_density: Float[np.ndarray, " T"]
    means: Values


class Fitted(NamedTuple):
    """A fitted forecaster.

    Attributes:
        predict: from a series, the training part first, to its one-step predictions.
        num_parameters: how many numbers were fitted.
        validation: for a fit that held out the end of its training data itself, the mean log
            density it reached there before it went on to use all of them.
        details: whatever the forecaster's report may show.
    """

    predict: Callable[[Values], OneStep]
    num_parameters: int
    validation: float | None = None
    details: Any = None


#: Fits one setting: (train, seed, **setting) -> Fitted.
Fit = Callable[..., Fitted]

#: What a fit may fail with; anything else is a mistake in the program and is raised.
FAILURES = (ArithmeticError, RuntimeError, ValueError, np.linalg.LinAlgError)


@dataclass(frozen=True)
class Forecaster:
    """A named way to fit, and the settings to choose among.

    Args:
        name: as it is shown.
        fit: fits one setting.
        settings: keyword arguments of `fit`.
        validates_itself: whether `fit` holds out the same share of the training data by itself
            and reports :attr:`Fitted.validation`; then no separate fit is needed to choose.
    """

    name: str
    fit: Fit
    settings: tuple[dict[str, Any], ...]
    validates_itself: bool = False


class Result(NamedTuple):
    """How a forecaster did on the held-out part.

    Attributes:
        name: the forecaster.
        setting: the chosen setting.
        log_density: mean log predictive density a step, and NaN if it failed.
        rmse: root mean squared error of the predictive means, over steps and columns.
        num_parameters: how many numbers were fitted.
        seconds: time for choosing, fitting and predicting.
        one_step: the predictions of the whole series, or None if it failed.
        details: what the fit left for a report, or None.
        failure: why it failed, or None.
    """

    name: str
    setting: dict[str, Any]
    log_density: float
    rmse: float
    num_parameters: int
    seconds: float
    one_step: OneStep | None
    details: Any = None
    failure: str | None = None


def evaluate(
    forecaster: Forecaster,
    values: Values,
    num_train: int,
    *,
    validation_fraction: float = 0.2,
    seed: int = 0,
) -> Result:
    """Choose a setting on the end of the training part, refit, and score the held-out part.

    Nothing of the held-out part is seen before the scores. A setting that fails is passed over;
    if all do, the result says why.

    Args:
        forecaster: what to fit.
        values: the standardised series, (T, m).
        num_train: the number of training steps.
        validation_fraction: the share of the training part to choose by.
        seed: for random starts.

    Returns:
        Scores of the held-out part.
    """
    begin = time.perf_counter()
    train = values[:num_train]
    candidates: list[tuple[float, dict[str, Any], Fitted | None]] = []
    failure = None
    for setting in forecaster.settings:
        try:
            if len(forecaster.settings) == 1:
                candidates.append((0.0, setting, None))
            else:
                candidates.append(_validate(forecaster, setting, train, validation_fraction, seed))
        except FAILURES as error:
            failure = f"{type(error).__name__}: {error}"
    fitted, one_step, setting = None, None, forecaster.settings[0]
    if candidates:
        failure = None
        _, setting, fitted = max(candidates, key=lambda candidate: candidate[0])
        try:
            fitted = forecaster.fit(train, seed, **setting) if fitted is None else fitted
            one_step = _checked(fitted.predict(values))
        except FAILURES as error:
            failure = f"{type(error).__name__}: {error}"
    seconds = time.perf_counter() - begin
    if failure is not None or fitted is None or one_step is None:
        return Result(forecaster.name, setting, np.nan, np.nan, 0, seconds, None, None, failure)
    residual = (values - one_step.means)[num_train:]
    return Result(
        name=forecaster.name,
        setting=setting,
        log_density=float(one_step.log_density[num_train:].mean()),
        rmse=float(np.sqrt(np.mean(residual**2))),
        num_parameters=fitted.num_parameters,
        seconds=seconds,
        one_step=one_step,
        details=fitted.details,
    )


def _validate(
    forecaster: Forecaster,
    setting: dict[str, Any],
    train: Values,
    validation_fraction: float,
    seed: int,
) -> tuple[float, dict[str, Any], Fitted | None]:
    """The score of a setting on the end of the training part; the fit, if it can be kept."""
    if forecaster.validates_itself:
        fitted = forecaster.fit(train, seed, **setting)
        if fitted.validation is None or not np.isfinite(fitted.validation):
            raise ArithmeticError(f"the validation score is {fitted.validation}")
        return fitted.validation, setting, fitted
    cut = len(train) - int(validation_fraction * len(train))
    one_step = _checked(forecaster.fit(train[:cut], seed, **setting).predict(train))
    return float(one_step.log_density[cut:].mean()), setting, None


def _checked(one_step: OneStep) -> OneStep:
    """The predictions, or ArithmeticError where they are not finite."""
    for name, x in one_step._asdict().items():
        if not np.isfinite(x).all():
            raise ArithmeticError(f"{name} is not finite at {int((~np.isfinite(x)).sum())} places")
    return one_step


def grid(**choices: Sequence[Any]) -> tuple[dict[str, Any], ...]:
    """All combinations of settings, as keyword arguments."""
    settings: list[dict[str, Any]] = [{}]
    for name, options in choices.items():
        settings = [one | {name: option} for one in settings for option in options]
    return tuple(settings)
