"""One interface for everything that predicts a series, the choice of settings, and held-out scores.

A forecaster is fitted on training data and then says, for every step of a longer series, the
predictive law given all earlier steps, and from any step on sampled paths of the steps to come.
"""

import time
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from ssmlin.evaluation.predictive import Predictive
from ssmlin.evaluation.scores import PathScores, Scores, Units, score, score_paths

Values = Float[np.ndarray, "T m"]


class Observed(NamedTuple):
    """A series and what is known beside it.

    Attributes:
        values: y, (T, m); NaN means missing.
        inputs: exogenous inputs, (T, k), known at each step before y_t is; k may be 0.
    """

    values: Values
    inputs: Float[np.ndarray, "T k"]

    @classmethod
    def of(cls, values: Values, inputs: Float[np.ndarray, "T k"] | None = None) -> "Observed":
        """A series, without inputs if none are given."""
        return cls(values, np.zeros((len(values), 0)) if inputs is None else inputs)

    def until(self, end: int) -> "Observed":
        """The first `end` steps."""
        return Observed(self.values[:end], self.inputs[:end])


class Ahead(NamedTuple):
    """What paths are asked for.

    Attributes:
        origins: numbers of steps seen, (N,): a path from origin t begins with step t + 1.
        horizon: H, the length of the paths; all steps up to t + H have inputs.
        num_samples: n, the paths from each origin.
        seed: of the draws.
    """

    origins: Int[np.ndarray, " N"]
    horizon: int
    num_samples: int = 200
    seed: int = 0

    def future(self, inputs: Float[np.ndarray, "T k"]) -> Float[np.ndarray, "N H k"]:
        """Values of the steps to come, from each origin."""
        return inputs[self.origins[:, None] + np.arange(self.horizon)]


class Fitted(NamedTuple):
    """A fitted forecaster.

    Attributes:
        predict: from a series, the training part first, to the laws of all its steps.
        num_parameters: how many numbers were fitted.
        simulate: from a series and what is asked for to sampled paths, (N, n, H, m).
        validation: for a fit that held out the end of its training data itself, the mean log
            density it reached there before it went on to use all of them.
        details: whatever a report may show.
        log_evidence: computes an estimate of log p(training part), the parameters integrated out;
            None where the model has no prior.
    """

    predict: Callable[[Observed], Predictive]
    num_parameters: int
    simulate: Callable[[Observed, Ahead], Float[np.ndarray, "N n H m"]] | None = None
    validation: float | None = None
    details: Any = None
    log_evidence: Callable[[], float] | None = None


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
    settings: tuple[dict[str, Any], ...] = ({},)
    validates_itself: bool = False


class Result(NamedTuple):
    """How a forecaster did on the held-out part.

    Attributes:
        name: the forecaster.
        setting: the chosen setting.
        scores: one-step scores, or None if it failed.
        paths: scores of paths, or None if it failed or none were asked for.
        predictive: the laws of the held-out steps, or None if it failed.
        num_parameters: how many numbers were fitted.
        seconds: time for choosing, fitting and predicting.
        details: what the fit left for a report, or None.
        failure: why it failed, or None.
        draws: the sampled paths from each origin, (N, n, H, m), or None.
        log_evidence: log p(training part), the parameters integrated out; NaN where that is not
            known or was not asked for.
        warnings: what libraries complained about while it was fitted and predicted, each once.
    """

    name: str
    setting: dict[str, Any]
    scores: Scores | None
    paths: PathScores | None
    predictive: Predictive | None
    num_parameters: int
    seconds: float
    details: Any = None
    failure: str | None = None
    draws: Float[np.ndarray, "N n H m"] | None = None
    log_evidence: float = np.nan
    warnings: tuple[str, ...] = ()

    @property
    def log_density(self) -> float:
        """Mean log predictive density a step, or NaN."""
        return np.nan if self.scores is None else float(self.scores.log_density.mean())

    @property
    def rmse(self) -> float:
        """Root mean squared error of the predictive means, over steps and columns, or NaN."""
        return np.nan if self.scores is None else self.scores.summary()["rmse"]


def evaluate(
    forecaster: Forecaster,
    observed: Observed,
    num_train: int,
    units: Units | None = None,
    *,
    horizon: int = 1,
    num_refits: int = 0,
    validation_fraction: float = 0.2,
    max_origins: int = 50,
    evidence: bool = False,
    seed: int = 0,
) -> Result:
    """Choose a setting on the end of the training part, refit, and score the held-out part.

    Nothing of the held-out part is seen before the scores. A setting that fails is passed over;
    if all do, the result says why.

    Args:
        forecaster: what to fit.
        observed: the standardised series.
        num_train: the number of training steps.
        units: the way back, if the values are transformed; scores are then of those before.
        horizon: score sampled paths of so many steps, too, if it is more than 1.
        num_refits: leave-future-out: cut the held-out part in num_refits + 1 blocks and fit
            anew, with the chosen setting, before each.
        validation_fraction: the share of the training part to choose by.
        max_origins: paths start at so many steps of the held-out part, at most.
        evidence: estimate the log evidence of the training part, too, where the model can.
        seed: for random starts and draws.

    Returns:
        Scores of the held-out part.
    """
    begin = time.perf_counter()
    caught: list[warnings.WarningMessage] = []
    setting: dict[str, Any] = forecaster.settings[0]
    try:
        with warnings.catch_warnings(record=True) as caught:
            # Recorded, since some libraries, when they are imported, override what is ignored.
            warnings.simplefilter("always")
            setting, fitted = _choose(forecaster, observed.until(num_train), validation_fraction,
                                      seed)  # fmt: skip
            count, details = fitted.num_parameters, fitted.details
            known = fitted.log_evidence if evidence else None
            log_evidence = np.nan if known is None else known()
            laws, paths, truths = [], [], []
            steps = len(observed.values)
            bounds = np.linspace(num_train, steps, num_refits + 2).round().astype(int)
            origins = path_origins(num_train, steps, horizon, max_origins)
            for start, end in zip(bounds[:-1], bounds[1:], strict=True):
                if start > num_train:
                    fitted = forecaster.fit(observed.until(start), seed, **setting)
                laws.append(_checked(fitted.predict(observed.until(end)).steps(slice(start, end))))
                here = origins[(origins >= start) & (origins < end)]
                if horizon > 1 and len(here) > 0 and fitted.simulate is not None:
                    ahead = Ahead(here, horizon, seed=seed)
                    paths.append(fitted.simulate(observed, ahead))
                    truths.append(ahead.future(observed.values))
            predictive = Predictive.join(laws)
            scores = score(predictive, observed.values[num_train:], seed, units)
            if not np.isfinite(scores.log_density).all():
                raise ArithmeticError("the log density is not finite")
            draws = np.concatenate(paths) if paths else None
            path_scores = None
            if draws is not None:
                path_scores = score_paths(draws, np.concatenate(truths), units)
    except FAILURES as error:
        failure = f"{type(error).__name__}: {error}"
        seconds = time.perf_counter() - begin
        return Result(forecaster.name, setting, None, None, None, 0, seconds, None, failure,
                      warnings=_complaints(caught))  # fmt: skip
    return Result(
        name=forecaster.name,
        setting=setting,
        scores=scores,
        paths=path_scores,
        predictive=predictive,
        num_parameters=count,
        seconds=time.perf_counter() - begin,
        details=details,
        draws=draws,
        log_evidence=log_evidence,
        warnings=_complaints(caught),
    )


def _complaints(caught: Sequence[warnings.WarningMessage]) -> tuple[str, ...]:
    """Warnings in a line each, and how often they came; those for programmers left out."""
    told = Counter(
        " ".join(f"{one.category.__name__}: {one.message}".split())
        for one in caught
        if not issubclass(
            one.category, (DeprecationWarning, PendingDeprecationWarning, FutureWarning)
        )
    )
    return tuple(text if n == 1 else f"{text} ({n} times)" for text, n in told.items())


def path_origins(
    num_train: int, steps: int, horizon: int, max_origins: int
) -> Int[np.ndarray, " N"]:
    """Where paths start: evenly over the held-out part, all their steps inside it."""
    last = steps - horizon
    if last < num_train:
        return np.zeros(0, int)
    count = min(max_origins, last - num_train + 1)
    return np.unique(np.linspace(num_train, last, count).round().astype(int))


def _choose(
    forecaster: Forecaster, train: Observed, validation_fraction: float, seed: int
) -> tuple[dict[str, Any], Fitted]:
    """The best setting, fitted to the training part; raises the last failure if all fail."""
    candidates: list[tuple[float, dict[str, Any], Fitted | None]] = []
    failure: Exception | None = None
    for setting in forecaster.settings:
        try:
            if len(forecaster.settings) == 1:
                candidates.append((0.0, setting, None))
                continue
            # Complaints about settings that are only tried are nobody's concern.
            with warnings.catch_warnings(record=True):
                candidates.append(_validate(forecaster, setting, train, validation_fraction, seed))
        except FAILURES as error:
            failure = error
    if not candidates and failure is not None:
        raise failure
    # What was fitted on less may fail on all; then the next best is taken.
    for _, setting, fitted in sorted(candidates, key=lambda candidate: -candidate[0]):
        try:
            return setting, forecaster.fit(train, seed, **setting) if fitted is None else fitted
        except FAILURES as error:
            failure = error
    assert failure is not None
    raise failure


def _validate(
    forecaster: Forecaster,
    setting: dict[str, Any],
    train: Observed,
    validation_fraction: float,
    seed: int,
) -> tuple[float, dict[str, Any], Fitted | None]:
    """The score of a setting on the end of the training part; the fit, if it can be kept."""
    if forecaster.validates_itself:
        fitted = forecaster.fit(train, seed, **setting)
        if fitted.validation is None or not np.isfinite(fitted.validation):
            raise ArithmeticError(f"the validation score is {fitted.validation}")
        return fitted.validation, setting, fitted
    steps = len(train.values)
    cut = steps - int(validation_fraction * steps)
    laws = forecaster.fit(train.until(cut), seed, **setting).predict(train)
    part = slice(cut, steps)
    value = float(score(_checked(laws.steps(part)), train.values[part], seed).log_density.mean())
    if not np.isfinite(value):
        raise ArithmeticError(f"the validation score is {value}")
    return value, setting, None


def _checked(law: Predictive) -> Predictive:
    """The predictions, or ArithmeticError where they are not finite."""
    for name in ("weights", "means", "scales"):
        x = getattr(law, name)
        if not np.isfinite(x).all():
            raise ArithmeticError(f"{name} is not finite at {int((~np.isfinite(x)).sum())} places")
    return law


def grid(**choices: Sequence[Any]) -> tuple[dict[str, Any], ...]:
    """All combinations of settings, as keyword arguments."""
    settings: list[dict[str, Any]] = [{}]
    for name, options in choices.items():
        settings = [one | {name: option} for one in settings for option in options]
    return tuple(settings)
