"""One interface for everything that predicts a series, the choice of settings, and held-out scores.

A forecaster is fitted on training data and then says, for every step of a longer series, the
predictive law given all earlier steps, and from any step on sampled paths of the steps to come.
"""

import time
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from ssmlin.comparison.scores import PathScores, Scores, Units, score, score_paths
from ssmlin.forecasting import Ahead, Fit, Fitted, Observed, Predictive

#: What a fit may fail with; anything else is a mistake in the program and is raised.
FAILURES = (ArithmeticError, RuntimeError, ValueError, np.linalg.LinAlgError)


@dataclass(frozen=True)
class Candidate:
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
        name: the candidate.
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
    candidate: Candidate,
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
        candidate: what to fit.
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
    setting: dict[str, Any] = candidate.settings[0]
    try:
        with warnings.catch_warnings(record=True) as caught:
            # Recorded, since some libraries, when they are imported, override what is ignored.
            warnings.simplefilter("always")
            setting, fitted = _choose(candidate, observed.until(num_train), validation_fraction,
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
                    fitted = candidate.fit(observed.until(start), seed, **setting)
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
        return Result(candidate.name, setting, None, None, None, 0, seconds, None, failure,
                      warnings=_complaints(caught))  # fmt: skip
    return Result(
        name=candidate.name,
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
    candidate: Candidate, train: Observed, validation_fraction: float, seed: int
) -> tuple[dict[str, Any], Fitted]:
    """The best setting, fitted to the training part; raises the last failure if all fail."""
    candidates: list[tuple[float, dict[str, Any], Fitted | None]] = []
    failure: Exception | None = None
    for setting in candidate.settings:
        try:
            if len(candidate.settings) == 1:
                candidates.append((0.0, setting, None))
                continue
            # Complaints about settings that are only tried are nobody's concern.
            with warnings.catch_warnings(record=True):
                candidates.append(_validate(candidate, setting, train, validation_fraction, seed))
        except FAILURES as error:
            failure = error
    if not candidates and failure is not None:
        raise failure
    # What was fitted on less may fail on all; then the next best is taken.
    for _, setting, fitted in sorted(candidates, key=lambda candidate: -candidate[0]):
        try:
            return setting, candidate.fit(train, seed, **setting) if fitted is None else fitted
        except FAILURES as error:
            failure = error
    assert failure is not None
    raise failure


def _validate(
    candidate: Candidate,
    setting: dict[str, Any],
    train: Observed,
    validation_fraction: float,
    seed: int,
) -> tuple[float, dict[str, Any], Fitted | None]:
    """The score of a setting on the end of the training part; the fit, if it can be kept."""
    if candidate.validates_itself:
        fitted = candidate.fit(train, seed, **setting)
        if fitted.validation is None or not np.isfinite(fitted.validation):
            raise ArithmeticError(f"the validation score is {fitted.validation}")
        return fitted.validation, setting, fitted
    steps = len(train.values)
    cut = steps - int(validation_fraction * steps)
    laws = candidate.fit(train.until(cut), seed, **setting).predict(train)
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
