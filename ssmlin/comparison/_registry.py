"""The models that `compare` knows by name, with the settings each chooses among."""

from functools import partial

from ssmlin.comparison._candidate import Candidate
from ssmlin.comparison.baselines import BASELINES
from ssmlin.comparison.baselines._baseline import SharedRegression, regression
from ssmlin.forecasting import Fit, Observed, choose_regression, fit_attention
from ssmlin.mechanisms import MECHANISMS, Mechanism, get_mechanism

#: The mixture of all mechanisms that are compared, see :mod:`ssmlin.comparison._averaging`.
AVERAGE = "average"
#: All models.
ALL = "all"
#: What is compared unless models are named.
DEFAULT = (
    *(name for name, baseline in BASELINES.items() if baseline.by_default),
    "mamba2", "deltanet", "gated_deltanet", "bayesian_memory", AVERAGE,
)  # fmt: skip

_KEY_DIM = 4


def forecasters(
    train: Observed, names: tuple[str | Mechanism, ...] = DEFAULT, period: int | None = None
) -> tuple[Candidate, ...]:
    """The named models for a series.

    All models that regress on lagged values share the number of lags, and whether harmonics of the
    season are among their inputs. The corrected Akaike criterion of an autoregression chooses both
    on the training part. Each model chooses its other settings on the end of the training part;
    so does the ARHMM with its order, which may also be 1 or 2. Without a period there is no
    seasonal model. The average is no model by itself and is left out.

    Args:
        train: the standardised training part.
        names: names of baselines and of mechanisms in ``ssmlin.MECHANISMS``, "all" for all of
            them, or mechanisms themselves.
        period: steps per season.

    Returns:
        The forecasters, in the order of the names.

    Raises:
        ValueError: an unknown name, a name of two models, or a period that is not an integer above
            1.
    """
    if period is not None and (not isinstance(period, int) or period < 2):
        raise ValueError(f"period: expected an integer > 1 or None, got {period!r}")
    chosen = _looked_up(names)
    num_lags, seasonal = choose_regression(train, period)
    shared = SharedRegression(num_lags, period, seasonal)
    candidates = (
        _linear_attention(model, shared) if isinstance(model, Mechanism)
        else BASELINES[model].candidate(shared)
        for model in chosen.values()
    )  # fmt: skip
    return tuple(candidate for candidate in candidates if candidate is not None)


def _looked_up(names: tuple[str | Mechanism, ...]) -> dict[str, str | Mechanism]:
    """Baselines and mechanisms by their names, each once and without the average."""
    known = (*BASELINES, *MECHANISMS, AVERAGE)
    chosen: dict[str, str | Mechanism] = {}
    for asked in names:
        if isinstance(asked, str) and asked not in (ALL, *known):
            raise ValueError(f"models: expected names among all, {', '.join(known)}; got {asked!r}")
        for one in known if asked == ALL else (asked,):
            is_mechanism = isinstance(one, Mechanism) or one in MECHANISMS
            model = get_mechanism(one) if is_mechanism else one
            name = model.name if isinstance(model, Mechanism) else model
            if is_mechanism and name in (*BASELINES, AVERAGE, ALL):
                raise ValueError(
                    f"models: expected mechanisms whose names no other model has, got {name!r}"
                )
            if chosen.setdefault(name, model) != model:
                raise ValueError(f"models: expected different names, got two models {name!r}")
    chosen.pop(AVERAGE, None)
    return chosen


def _linear_attention(mechanism: Mechanism, shared: SharedRegression) -> Candidate:
    """A mechanism with the recommended recipe."""
    # The mechanism itself, since a process of its own does not know what is registered here.
    fit: Fit = partial(fit_attention, mechanism=mechanism)
    if shared.seasonal is not None:
        fit = regression(fit)
    # The keys of a Bayesian memory are the inputs themselves.
    settings = shared.grid(key_dim=(_KEY_DIM,)) if mechanism.writes_values else shared.grid()
    return Candidate(mechanism.name, fit, settings)
