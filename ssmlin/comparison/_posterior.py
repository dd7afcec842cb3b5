"""The posterior of parameters beside their prior: names, numbers, and what the data tell."""

import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from ssmlin._optional import require
from ssmlin.comparison._panels import finish, new_figure, say_of
from ssmlin.comparison._split import Split
from ssmlin.comparison.plots import gate_label, parameter_names
from ssmlin.data import Series
from ssmlin.forecasting import FittedAttention, harmonic_names, with_lags, with_season
from ssmlin.learning import posterior_params, variable_name

if TYPE_CHECKING:
    import matplotlib.figure
    import xarray

_ENDS = (0.05, 0.95)
_PRIOR_DRAWS = 1000
#: A posterior that is wider than so many times its prior says little of the data.
AS_WIDE = 0.8


class Marginal(NamedTuple):
    """The posterior of one number, and its prior.

    Attributes:
        name: of the number, with that of its input or lag.
        mean: of the posterior.
        sd: its standard deviation.
        low: its 5 % quantile.
        high: its 95 % quantile.
        prior_low: the 5 % quantile of the prior.
        prior_high: the 95 % quantile of the prior.
        prior_sd: the standard deviation of the prior.
        ess: effective number of draws.
        r_hat: 1 where the chains agree; NaN for one chain.
    """

    name: str
    mean: float
    sd: float
    low: float
    high: float
    prior_low: float
    prior_high: float
    prior_sd: float
    ess: float
    r_hat: float

    @property
    def share(self) -> float:
        """The standard deviation as a share of the prior's."""
        return self.sd / self.prior_sd


def input_labels(fit: FittedAttention, series: Series) -> list[str]:
    """The names of what a model regresses on: lags of columns, inputs, harmonics of the season.

    Args:
        fit: the fitted model.
        series: what it was fitted to.

    Returns:
        A name for each input of the model.
    """
    lags = [f"{name}, lag {lag}" for lag in range(1, fit.model.num_lags + 1)
            for name in series.columns]  # fmt: skip
    return [*lags, *series.input_labels, *harmonic_names(fit.seasonal)]


def prior_draws(
    fit: FittedAttention, names: Sequence[str], count: int = _PRIOR_DRAWS, seed: int = 0
) -> "xarray.DataTree":
    """Draws of parameters from their prior, as :func:`ssmlin.sample_posterior` gives them.

    Args:
        fit: the fitted model.
        names: of variables in its posterior.
        count: the number of draws.
        seed: of the draws.

    Returns:
        A tree with the group `posterior`, which holds the draws of the prior.
    """
    require("arviz")
    import arviz

    laws = fit.model.prior_distributions(fit.params)
    key = jax.random.key(seed)
    drawn = {
        variable_name(path): np.asarray(law.sample((1, count), seed=jax.random.fold_in(key, i)))
        for i, (path, law) in enumerate(laws.items())
        if variable_name(path) in names
    }
    tree: xarray.DataTree = arviz.from_dict({"posterior": drawn})
    return tree


def marginals(
    draws: "xarray.DataTree", prior: "xarray.DataTree", inputs: Sequence[str]
) -> list[Marginal]:
    """The posterior of each number that was drawn.

    Args:
        draws: what :func:`ssmlin.sample_posterior` returned.
        prior: draws of the same variables from their prior.
        inputs: names of the inputs of the model, see :func:`input_labels`.

    Returns:
        One for each number; the weights of inputs have their names.
    """
    require("arviz")
    import arviz

    names = parameter_names(draws)
    ess = arviz.ess(draws, var_names=names)
    r_hat = arviz.rhat(draws, var_names=names) if draws.posterior.sizes["chain"] > 1 else None
    found = []
    for name in names:
        x, before = (tree.posterior[name].values for tree in (draws, prior))
        for place in np.ndindex(x.shape[2:]):
            own, others = (one[(slice(None), slice(None), *place)].ravel() for one in (x, before))
            low, high = np.quantile(own, _ENDS)
            prior_low, prior_high = np.quantile(others, _ENDS)
            found.append(
                Marginal(
                    name=_label(name, place, inputs),
                    mean=float(own.mean()),
                    sd=float(own.std(ddof=1)),
                    low=float(low),
                    high=float(high),
                    prior_low=float(prior_low),
                    prior_high=float(prior_high),
                    prior_sd=float(others.std(ddof=1)),
                    ess=float(ess[name].values[place]),
                    r_hat=np.nan if r_hat is None else float(r_hat[name].values[place]),
                )
            )
    return found


def _label(name: str, place: tuple[int, ...], inputs: Sequence[str]) -> str:
    """The name of a number: alpha_weights[2] is "α: weight of y, lag 3"."""
    gate, _, what = name.partition("_")
    try:
        gate = unicodedata.lookup(f"GREEK SMALL LETTER {gate}")
    except KeyError:
        gate, what = name.removesuffix("_weights"), "weights" * name.endswith("_weights")
    if what == "weights" and place and place[-1] < len(inputs):
        *first, last = place
        return f"{_numbered(gate, first)}: weight of {inputs[last]}"
    return _numbered(f"{gate} {what}".strip().replace("_", " "), place)


def _numbered(name: str, place: Sequence[int]) -> str:
    return f"{name} {', '.join(str(i + 1) for i in place)}" if len(place) else name


def rounded(value: float, sd: float) -> str:
    """A number to two significant digits of its standard deviation.

    Args:
        value: the number.
        sd: its standard deviation.

    Returns:
        The number as text; to three significant digits where there is no positive `sd`.

    Examples:
        >>> from ssmlin.comparison._posterior import rounded
        >>> rounded(0.123456, 0.0451), rounded(1234.5, 210.0), rounded(0.5, 0.0)
        ('0.123', '1230', '0.5')
    """
    if not np.isfinite(value):
        return ""
    if not (np.isfinite(sd) and sd > 0):
        return f"{value:.3g}"
    digits = 1 - int(np.floor(np.log10(float(f"{sd:.1e}"))))
    return f"{round(value, digits) + 0.0:.{max(digits, 0)}f}"


def gate_shares(
    fit: FittedAttention, split: Split, draws: "xarray.DataTree", prior: "xarray.DataTree"
) -> dict[str, float]:
    """How wide the posterior of each gate is, as a share of its prior.

    Args:
        fit: the fitted model.
        split: the series.
        draws: of its posterior, with trajectories.
        prior: draws of the same parameters from their prior.

    Returns:
        By the symbol of the gate, the mean width of 90 % bands over all steps.
    """
    _, inputs = with_lags(fit.model, with_season(split.observed, fit.seasonal))
    every = jax.tree.map(lambda x: x[0], posterior_params(fit.params, prior))
    # Lags before the first step are not known, and where one is missing so is the gate.
    before = jax.vmap(lambda params: fit.model.gate_values(params, inputs))(every)
    shares = {}
    for name, x in before.items():
        if f"{name}_t" in draws.posterior:
            own = draws.posterior[f"{name}_t"].transpose("chain", "draw", "time", ...).values
            own = own.reshape(-1, *own.shape[2:])
            widths = [_width(np.asarray(one)[:, fit.model.num_lags :]) for one in (own, x)]
            shares[gate_label(name)] = widths[0] / widths[1]
    return shares


def _width(draws: Float[np.ndarray, "n ..."]) -> float:
    low, high = np.quantile(draws, _ENDS, axis=0)
    return float(np.nanmean(high - low))


def what_data_tell(shares: dict[str, float]) -> str:
    """Which gates the data tell, in words.

    Args:
        shares: by gate, the width of its posterior as a share of the prior's.

    Returns:
        A sentence for each gate.

    Examples:
        >>> from ssmlin.comparison._posterior import what_data_tell
        >>> what_data_tell({"α_t": 0.31, "β_t": 0.97})
        'The data tell α_t: ... 0.31 times as wide as its prior. The data hardly tell β_t: ...'
    """
    return " ".join(
        f"The data {'tell' if share < AS_WIDE else 'hardly tell'} {gate}: its posterior is "
        f"{share:.2f} times as wide as its prior."
        for gate, share in shares.items()
    )


def posterior_figure(found: Sequence[Marginal]) -> "matplotlib.figure.Figure":
    """The posterior of each number over its prior: 90 % intervals.

    Args:
        found: the numbers.

    Returns:
        A matplotlib figure.
    """
    figure = new_figure(9, 1.0 + 0.24 * len(found))
    axis = figure.subplots()
    for row, one in enumerate(found):
        (wide,) = axis.plot([one.prior_low, one.prior_high], [row, row], lw=7, color="grey",
                            alpha=0.35, label="prior", solid_capstyle="butt")  # fmt: skip
        (line,) = axis.plot([one.low, one.high], [row, row], lw=2.5, color="C0", label="posterior")
        axis.plot(one.mean, row, "o", ms=4, color="C0")
        for shown in (wide, line):
            say_of(shown, f"{one.name}: {rounded(one.mean, one.sd)} ± {rounded(one.sd, one.sd)}")
    axis.set_yticks(range(len(found)), [one.name.replace("weight of ", "") for one in found])
    axis.set_ylim(len(found) - 0.4, -0.6)
    finish(figure)
    return figure
