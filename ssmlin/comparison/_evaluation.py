"""Fit a candidate, choose its setting, and score its predictions of the held-out part."""

import time
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from ssmlin.comparison._candidate import Candidate, Setting
from ssmlin.comparison._scores import PathScores, Scores, Units, score, score_paths, wholly_observed
from ssmlin.forecasting import Ahead, Fitted, Observed, Predictive

#: What a fit may fail with; anything else is a mistake in the program and is raised.
FAILURES = (ArithmeticError, RuntimeError, ValueError, np.linalg.LinAlgError)
#: The share of the training part, at its end, on which settings are chosen.
VALIDATION_FRACTION = 0.2


@dataclass(frozen=True)
class EvaluationOptions:
    """How candidates are scored, the same for all that are compared.

    Args:
        horizon: score sampled paths of so many steps, too, if it is more than 1.
        num_refits: leave-future-out: cut the held-out part into num_refits + 1 blocks and fit
            again, with the chosen setting, before each.
        evidence: estimate the log evidence of the training part, too, where the model can.
        seed: for random starts and draws.
    """

    horizon: int = 1
    num_refits: int = 0
    evidence: bool = False
    seed: int = 0


class Result(NamedTuple):
    """How a candidate did on the held-out part.

    Attributes:
        name: the candidate's name.
        setting: the chosen setting.
        scores: one-step scores, or None if it failed.
        paths: scores of paths, or None if it failed or none were asked for.
        predictive: the laws of the held-out steps, or None if it failed.
        num_parameters: how many numbers were fitted.
        seconds: time for choosing, fitting and predicting.
        details: what the fit left for a report, or None: of a mechanism its
            :class:`~ssmlin.forecasting.FittedAttention`, of the average its
            :class:`~ssmlin.comparison._averaging.Weights`.
        failure: why it failed, or None.
        draws: the sampled paths from each origin, (N, n, H, m), or None.
        log_evidence: log p(training part), the parameters integrated out; NaN where that is not
            known or was not asked for.
        warnings: warnings of libraries while it was fitted and predicted, each once.
    """

    name: str
    setting: Setting
    scores: Scores | None
    paths: PathScores | None
    predictive: Predictive | None
    num_parameters: int
    seconds: float
    details: object = None
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


class _HeldOut(NamedTuple):
    """What is known of the held-out part after predicting it."""

    predictive: Predictive
    scores: Scores
    draws: Float[np.ndarray, "N n H m"] | None
    path_scores: PathScores | None


def evaluate(
    candidate: Candidate,
    observed: Observed,
    num_train: int,
    units: Units | None = None,
    options: EvaluationOptions | None = None,
    *,
    validation_fraction: float = VALIDATION_FRACTION,
    max_origins: int = 50,
) -> Result:
    """Choose a setting on the end of the training part, refit, and score the held-out part.

    Nothing of the held-out part is seen before the scores. A setting that fails is passed over;
    if all fail, the result says why.

    Args:
        candidate: what to fit.
        observed: the standardised series.
        num_train: the number of training steps.
        units: the way back, if the values are transformed; scores are then of those before.
        options: how to score it; default :class:`EvaluationOptions` without arguments.
        validation_fraction: the share of the training part to choose by.
        max_origins: paths start at so many steps of the held-out part, at most.

    Returns:
        Scores of the held-out part.

    Examples:
        >>> import numpy as np
        >>> from ssmlin.comparison import Candidate, Fitted, Observed, Predictive, evaluate
        >>> def fit_normal(train, seed):
        ...     law = lambda series: Predictive.gaussian(np.zeros_like(series.values), np.eye(1))
        ...     return Fitted(law, num_parameters=0)
        >>> result = evaluate(Candidate("normal", fit_normal), Observed.of(np.ones((10, 1))), 6)
        >>> round(result.log_density, 3)
        -1.419
    """
    options = EvaluationOptions() if options is None else options
    begin = time.perf_counter()
    caught: list[warnings.WarningMessage] = []
    setting = candidate.settings[0]
    try:
        with warnings.catch_warnings(record=True) as caught:
            # Recorded, since some libraries, when they are imported, override what is ignored.
            warnings.simplefilter("always")
            setting, fitted = _choose(
                candidate, observed.until(num_train), validation_fraction, options.seed
            )
            estimate = fitted.log_evidence if options.evidence else None
            log_evidence = np.nan if estimate is None else estimate()
            held_out = _predict_held_out(
                candidate, setting, fitted, observed, num_train, units, options, max_origins
            )
    except FAILURES as error:
        return Result(
            candidate.name, setting, None, None, None, 0, time.perf_counter() - begin,
            failure=f"{type(error).__name__}: {error}", warnings=_described(caught),
        )  # fmt: skip
    return Result(
        name=candidate.name,
        setting=setting,
        scores=held_out.scores,
        paths=held_out.path_scores,
        predictive=held_out.predictive,
        num_parameters=fitted.num_parameters,
        seconds=time.perf_counter() - begin,
        details=fitted.details,
        draws=held_out.draws,
        log_evidence=log_evidence,
        warnings=_described(caught),
    )


def _predict_held_out(
    candidate: Candidate,
    setting: Setting,
    fitted: Fitted,
    observed: Observed,
    num_train: int,
    units: Units | None,
    options: EvaluationOptions,
    max_origins: int,
) -> _HeldOut:
    """Predict and score the held-out part, with the refits that are asked for."""
    horizon, seed, steps = options.horizon, options.seed, len(observed.values)
    laws, paths, values = [], [], []
    bounds = np.linspace(num_train, steps, options.num_refits + 2).round().astype(int).tolist()
    origins = path_origins(num_train, steps, horizon, max_origins)
    for start, end in zip(bounds[:-1], bounds[1:], strict=True):
        if start > num_train:
            fitted = candidate.fit(observed.until(start), seed, **setting)
        laws.append(_checked(fitted.predict(observed.until(end)).steps(slice(start, end))))
        here = origins[(origins >= start) & (origins < end)]
        if horizon > 1 and len(here) > 0 and fitted.simulate is not None:
            ahead = Ahead(here, horizon, seed=seed)
            paths.append(fitted.simulate(observed, ahead))
            values.append(ahead.future(observed.values))
    predictive = Predictive.join(laws)
    scores = score(predictive, observed.values[num_train:], seed, units)
    if not np.isfinite(scores.log_density).all():
        raise ArithmeticError("the log density is not finite")
    draws = np.concatenate(paths) if paths else None
    path_scores = None if draws is None else score_paths(draws, np.concatenate(values), units)
    return _HeldOut(predictive, scores, draws, path_scores)


def _described(caught: Sequence[warnings.WarningMessage]) -> tuple[str, ...]:
    """Warnings in a line each, and how often they came; those for programmers left out."""
    counts = Counter(
        " ".join(f"{one.category.__name__}: {one.message}".split())
        for one in caught
        if not issubclass(
            one.category, (DeprecationWarning, PendingDeprecationWarning, FutureWarning)
        )
    )
    return tuple(text if n == 1 else f"{text} ({n} times)" for text, n in counts.items())


def path_origins(
    num_train: int, steps: int, horizon: int, max_origins: int
) -> Int[np.ndarray, " N"]:
    """Where paths start: evenly over the held-out part, all their steps inside it."""
    last = steps - horizon
    if last < num_train:
        return np.zeros(0, int)
    count = min(max_origins, last - num_train + 1)
    return np.unique(np.linspace(num_train, last, count).round().astype(int))


class _Choice(NamedTuple):
    """A setting and what it is worth.

    Attributes:
        setting: the setting.
        score: mean log density on the end of the training part.
        fitted: the fit to the whole training part, if there is one already.
    """

    setting: Setting
    score: float = 0.0
    fitted: Fitted | None = None


def _choose(
    candidate: Candidate, train: Observed, validation_fraction: float, seed: int
) -> tuple[Setting, Fitted]:
    """The best setting, fitted to the training part; raises the last failure if all fail."""
    choices: list[_Choice] = []
    failure: Exception | None = None
    if len(candidate.settings) == 1:
        choices.append(_Choice(candidate.settings[0]))
    else:
        for setting in candidate.settings:
            try:
                # Warnings about settings that are only tried are left out.
                with warnings.catch_warnings(record=True):
                    choices.append(_validate(candidate, setting, train, validation_fraction, seed))
            except FAILURES as error:
                failure = error
    # A fit that succeeded on less data may fail on all; then the next best is taken.
    for setting, _, fitted in sorted(choices, key=lambda choice: -choice.score):
        try:
            return setting, candidate.fit(train, seed, **setting) if fitted is None else fitted
        except FAILURES as error:
            failure = error
    assert failure is not None
    raise failure


def _validate(
    candidate: Candidate, setting: Setting, train: Observed, validation_fraction: float, seed: int
) -> _Choice:
    """Score a setting on the end of the training part."""
    if candidate.validates_itself:
        fitted = candidate.fit(train, seed, **setting)
        if fitted.validation is None or not np.isfinite(fitted.validation):
            raise ArithmeticError(f"the validation score is {fitted.validation}")
        return _Choice(setting, fitted.validation, fitted)
    steps = len(train.values)
    cut = steps - int(validation_fraction * steps)
    laws = candidate.fit(train.until(cut), seed, **setting).predict(train)
    part = slice(cut, steps)
    law, y = wholly_observed(_checked(laws.steps(part)), train.values[part])
    value = float(law.log_prob(y).mean())
    if not np.isfinite(value):
        raise ArithmeticError(f"the validation score is {value}")
    return _Choice(setting, value)


def _checked(law: Predictive) -> Predictive:
    """The predictions, or ArithmeticError where they are not finite."""
    for name in ("weights", "means", "scales"):
        x = getattr(law, name)
        if not np.isfinite(x).all():
            raise ArithmeticError(f"{name} is not finite at {int((~np.isfinite(x)).sum())} places")
    return law
