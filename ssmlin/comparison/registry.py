"""The models that `compare` knows by name, with the settings each chooses among."""

from functools import partial
from typing import Any

from ssmlin.comparison.baselines.attention_regression import ATTENTIONS, fit_attention_regression
from ssmlin.comparison.baselines.autoregression import fit_autoregression, fit_naive, fit_seasonal
from ssmlin.comparison.baselines.dynamax_models import fit_arhmm, fit_gaussian_hmm, fit_lds
from ssmlin.comparison.baselines.statsmodels_models import fit_sarimax, fit_unobserved_components
from ssmlin.comparison.evaluation import Candidate, grid
from ssmlin.forecasting import Fit, Observed, choose_regression, fit_attention
from ssmlin.mechanisms import MECHANISMS, Mechanism, get_mechanism

BASELINES = (
    "persistence",
    "seasonal_naive",
    "autoregression",
    "sarimax",
    "unobserved_components",
    "hmm",
    "arhmm",
    "lds",
    "softmax_attention",
)
#: The attention of each model that regresses on the past through one.
ATTENTION_REGRESSIONS = {
    name if name.endswith("attention") else f"{name}_attention": name for name in ATTENTIONS
}
#: The mixture of all mechanisms that are compared, see :mod:`ssmlin.comparison.averaging`.
AVERAGE = "average"
#: What is compared unless models are named.
DEFAULT = (*BASELINES, "mamba2", "deltanet", "gated_deltanet", "bayesian_memory", AVERAGE)

_KEY_DIM = 4


def forecasters(
    train: Observed, names: tuple[str | Mechanism, ...] = DEFAULT, period: int | None = None
) -> tuple[Candidate, ...]:
    """The named models for a series.

    All that regress on lagged values share their number, and whether harmonics of the season are
    among their inputs; the corrected Akaike criterion of an autoregression chooses both on the
    training part. Other settings are each model's own choice on the end of the training part, as is
    the order of the ARHMM, which may also be 1 or 2. Without a period there is no seasonal model.
    The average is no model by itself and is left out.

    Args:
        train: the standardised training part.
        names: of models: baselines, attentions, or mechanisms of ``ssmlin.MECHANISMS``; "all" for
            all; or mechanisms themselves.
        period: steps a season.

    Returns:
        The forecasters, in the order of the names.

    Raises:
        ValueError: an unknown name, a name of two models, or a period that is not an integer above
            1.
    """
    others = tuple(dict.fromkeys((*BASELINES, *ATTENTION_REGRESSIONS)))
    known = (*others, *MECHANISMS, AVERAGE)
    if period is not None and (not isinstance(period, int) or period < 2):
        raise ValueError(f"period: expected an integer > 1 or None, got {period!r}")
    chosen: dict[str, str | Mechanism] = {}
    for model in names:
        if isinstance(model, str) and model not in ("all", *known):
            raise ValueError(f"models: expected names among all, {', '.join(known)}; got {model!r}")
        for one in known if model == "all" else (model,):
            is_mechanism = isinstance(one, Mechanism) or one in MECHANISMS
            found = get_mechanism(one) if is_mechanism else one
            name = found.name if isinstance(found, Mechanism) else found
            if is_mechanism and name in (*others, AVERAGE, "all"):
                raise ValueError(
                    f"models: expected mechanisms whose names no other model has, got {name!r}"
                )
            if chosen.setdefault(name, found) != found:
                raise ValueError(f"models: expected different names, got two models {name!r}")
    chosen.pop(AVERAGE, None)
    if period is None:
        chosen.pop("seasonal_naive", None)
    num_lags, seasonal = choose_regression(train, period)
    return tuple(_forecaster(model, num_lags, period, seasonal) for model in chosen.values())


def _forecaster(
    model: str | Mechanism, num_lags: int, period: int | None, seasonal: int | None
) -> Candidate:
    """One model."""
    lags = {"num_lags": (num_lags,)}
    season = {} if seasonal is None else {"seasonal": (seasonal,)}

    def regression(fit: Fit) -> Fit:
        return fit if seasonal is None else partial(fit_seasonal, fit=fit)

    if isinstance(model, Mechanism):
        # The keys of a Bayesian memory are the inputs themselves.
        key_dims: dict[str, Any] = {"key_dim": (_KEY_DIM,)} if model.writes_values else {}
        # The mechanism itself, since a process of its own does not know what is registered here.
        fit = partial(fit_attention, mechanism=model)
        return Candidate(model.name, regression(fit), grid(**key_dims, **lags, **season))
    name = model
    settings: tuple[dict[str, Any], ...]
    if name == "persistence":
        return Candidate(name, fit_naive)
    if name == "seasonal_naive":
        return Candidate(name, fit_naive, ({"period": period},))
    if name == "autoregression":
        return Candidate(name, regression(fit_autoregression), grid(**lags, **season))
    if name in ATTENTION_REGRESSIONS:
        fit = partial(fit_attention_regression, attention=ATTENTION_REGRESSIONS[name])
        return Candidate(name, regression(fit), grid(**lags, **season))
    if name == "sarimax":
        settings = grid(order=((num_lags, 0, 0), (2, 0, 1), (1, 1, 1), (2, 1, 2), (0, 1, 1)))
        if period is not None:
            seasons = ((1, 0, 0, period), (0, 1, 1, period))
            settings += grid(order=((1, 0, 0), (2, 0, 1), (0, 1, 1)), seasonal_order=seasons)
        return Candidate(name, fit_sarimax, settings)
    if name == "unobserved_components":
        settings = (
            {"level": "llevel"},
            {"level": "lltrend"},
            {"level": "llevel", "autoregressive": 2},
            {"level": "fixed intercept", "cycle": True},
            {"level": "fixed intercept", "cycle": True, "autoregressive": 2},
        )
        if period is not None:
            settings += tuple(one | {"seasonal": period} for one in settings[:3])
        return Candidate(name, fit_unobserved_components, settings)
    if name == "hmm":
        return Candidate(name, fit_gaussian_hmm, grid(num_states=(2, 4, 8)))
    if name == "arhmm":
        orders = tuple(dict.fromkeys((max(1, num_lags), 1, 2)))
        settings = grid(num_states=(2, 3), num_lags=orders, **season)
        return Candidate(name, regression(fit_arhmm), settings)
    by_em, by_sgd = grid(state_dim=(2, 4, 6)), grid(state_dim=(4,), method=("sgd",))  # of the lds
    settings = by_em + by_sgd
    if seasonal is not None:  # it may do without
        settings += tuple(one | {"seasonal": seasonal} for one in by_em)
        return Candidate(name, partial(fit_seasonal, fit=fit_lds), settings)
    return Candidate(name, fit_lds, settings)
