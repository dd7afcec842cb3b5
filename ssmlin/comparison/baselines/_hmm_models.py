"""Hidden Markov models as in dynamax: Gaussian emissions, or autoregressions; in float64.

Each is fitted from several starts, of which the one with the best training likelihood is kept.
"""

import numpy as np
from jaxtyping import Float

from ssmlin.comparison._candidate import Setting, grid
from ssmlin.comparison.baselines._autoregression import residual_covariance
from ssmlin.comparison.baselines._baseline import Baseline, SharedRegression, regression
from ssmlin.comparison.baselines._gaps import without_gaps
from ssmlin.comparison.baselines._paths import simulate_switching
from ssmlin.comparison.baselines._switching import (
    CONCENTRATION,
    EmissionPrior,
    SwitchingParams,
    filter_states,
    fit_switching,
    gaussian_prior,
)
from ssmlin.forecasting import (
    Ahead,
    Fitted,
    Observed,
    Predictive,
    lags_and_inputs,
    last_values,
    least_squares,
)

_EM_ITERATIONS = 100
_STARTS = 4
_KMEANS_ITERATIONS, _KMEANS_STARTS = 100, 3
_NUM_STATES = (2, 4, 8)
_ARHMM_STATES = (2, 3)


def fit_gaussian_hmm(train: Observed, seed: int, *, num_states: int) -> Fitted:
    """Fit the model of dynamax's GaussianHMM by EM, from starts by k-means; inputs are not used.

    Args:
        train: the training series.
        seed: for the starts.
        num_states: the number of states.

    Returns:
        The fitted forecaster.

    Raises:
        ValueError: a missing value.
        ArithmeticError: no start gave a finite likelihood.
    """
    y = without_gaps(train)
    m = y.shape[1]
    starts = gaussian_starts(y, seed, num_states)
    params = fit_switching(
        starts, y, np.ones((len(y), 1)), gaussian_prior(m), _EM_ITERATIONS, max(_NUM_STATES)
    )
    return fitted_switching(params, None, max(_NUM_STATES))


def fit_arhmm(
    train: Observed,
    seed: int,
    *,
    num_states: int,
    num_lags: int,
    prior: EmissionPrior | None = None,
) -> Fitted:
    """Fit the model of dynamax's ARHMM by EM, from starts around the least-squares autoregression.

    With exogenous inputs it is that of the LinearRegressionHMM on lagged values and inputs.

    Args:
        train: the training series.
        seed: for the starts.
        num_states: the number of states.
        num_lags: the order of the autoregressions.
        prior: of their coefficients and variances; default none, as in dynamax.

    Returns:
        The fitted forecaster.

    Raises:
        ValueError: a missing value, or fewer steps than coefficients.
        ArithmeticError: no start gave a finite likelihood.
    """
    y = without_gaps(train)
    starts = autoregressive_starts(train, seed, num_states, num_lags)
    # The first steps serve as lags only, as in the autoregression.
    params = fit_switching(
        starts, y[num_lags:], regressors(train, num_lags)[num_lags:],
        EmissionPrior() if prior is None else prior,
        _EM_ITERATIONS, max(_ARHMM_STATES),
    )  # fmt: skip
    return fitted_switching(params, num_lags, max(_ARHMM_STATES))


def gaussian_starts(
    values: Float[np.ndarray, "T m"], seed: int, num_states: int
) -> SwitchingParams:
    """Starts of a hidden Markov model with Gaussian emissions, around centres by k-means."""
    rng = np.random.default_rng(seed)
    centres = np.stack([_kmeans(values, num_states, rng) for _ in range(_STARTS)])
    return _starts(rng, centres[..., None], np.eye(values.shape[1]))


def autoregressive_starts(
    train: Observed, seed: int, num_states: int, num_lags: int
) -> SwitchingParams:
    """Starts of a switching autoregression, around that by least squares."""
    coefficients, residuals = least_squares(train, num_lags)
    p, m = coefficients.shape
    rng = np.random.default_rng(seed)
    spread = np.append(np.full(p - 1, 0.2), 0.5)
    weights = np.empty((_STARTS, num_states, m, p))
    for start in weights:
        start[..., :-1] = rng.normal(size=(num_states, m, p - 1))
        start[..., -1] = rng.normal(size=(num_states, m))
    return _starts(
        rng, coefficients.T + spread * weights, residual_covariance(coefficients, residuals)
    )


def _starts(
    rng: np.random.Generator,
    weights: Float[np.ndarray, "S K m p"],
    covariance: Float[np.ndarray, "m m"],
) -> SwitchingParams:
    """Starts whose probabilities are drawn from their prior."""
    num_starts, num_states, m, _ = weights.shape
    concentration = np.full(num_states, CONCENTRATION)
    return SwitchingParams(
        rng.dirichlet(concentration, num_starts),
        rng.dirichlet(concentration, (num_starts, num_states)),
        weights,
        np.broadcast_to(covariance, (num_starts, num_states, m, m)),
    )


def _kmeans(
    values: Float[np.ndarray, "T m"], num_clusters: int, rng: np.random.Generator
) -> Float[np.ndarray, "K m"]:
    """Centres of clusters by Lloyd's iteration, the best of some starts by k-means++."""

    def squares(centres: Float[np.ndarray, "k m"]) -> Float[np.ndarray, "T k"]:
        found: np.ndarray = ((values[:, None] - centres) ** 2).sum(axis=2)
        return found

    def run() -> tuple[float, Float[np.ndarray, "K m"]]:
        centres = values[[rng.integers(len(values))]]
        while len(centres) < num_clusters:
            far = squares(centres).min(axis=1) + np.finfo(float).tiny
            chosen = rng.choice(len(values), p=far / far.sum())
            centres = np.concatenate([centres, values[[chosen]]])
        for _ in range(_KMEANS_ITERATIONS):
            member = squares(centres).argmin(axis=1)[:, None] == np.arange(num_clusters)
            sizes = member.sum(axis=0)[:, None]
            # A cluster without members stays where it is.
            moved = np.where(sizes > 0, member.T @ values / np.maximum(sizes, 1), centres)
            if np.array_equal(moved, centres):
                break
            centres = moved
        return float(squares(centres).min(axis=1).sum()), centres

    return min((run() for _ in range(_KMEANS_STARTS)), key=lambda one: one[0])[1]


def regressors(observed: Observed, num_lags: int | None) -> Float[np.ndarray, "T p"]:
    """Lagged values, inputs and a one; the one alone without lags."""
    ones = np.ones((len(observed.values), 1))
    return ones if num_lags is None else np.hstack([lags_and_inputs(observed, num_lags), ones])


def switching_predictive(
    params: SwitchingParams,
    values: Float[np.ndarray, "T m"],
    regressors: Float[np.ndarray, "T p"],
    slots: int = 1,
) -> Predictive:
    r"""The one-step predictive laws, mixtures over the states.

    $$p(y_t \mid y_{1:t-1}) = \sum_k p(z_t = k \mid y_{1:t-1}) \, p(y_t \mid z_t = k, x_t)$$

    Args:
        params: the parameters, in NumPy.
        values: the series.
        regressors: x, which ends in a one.
        slots: as in :func:`filter_states`.

    Returns:
        The laws of every step.
    """
    probs = filter_states(params, values, regressors, slots).predicted
    means = np.einsum("tp,kmp->tkm", regressors, params.weights)
    return Predictive(probs, means, np.broadcast_to(params.covs, (len(means), *params.covs.shape)))


def fitted_switching(params: SwitchingParams, num_lags: int | None, slots: int) -> Fitted:
    """The forecaster; without lags it has no inputs."""

    def predict(observed: Observed) -> Predictive:
        values = without_gaps(observed)
        return switching_predictive(params, values, regressors(observed, num_lags), slots)

    def simulate(observed: Observed, ahead: Ahead) -> Float[np.ndarray, "N n H m"]:
        seen = observed.until(int(ahead.origins.max()))
        known = regressors(seen, num_lags)
        filtered = filter_states(params, without_gaps(seen), known, slots).filtered
        return simulate_switching(
            params.transition,
            filtered[ahead.origins - 1] @ params.transition,
            params.weights[..., :-1],
            params.weights[..., -1],
            params.covs,
            last_values(observed.values, ahead, num_lags or 0)[:, None],
            Observed.of(observed.values) if num_lags is None else observed,
            ahead,
        )

    return Fitted(predict, params.size, simulate)


def _states_and_lags(shared: SharedRegression) -> tuple[Setting, ...]:
    """Settings of the ARHMM, whose order may also be 1 or 2."""
    orders = tuple(dict.fromkeys((max(1, shared.num_lags), 1, 2)))
    return shared.grid(num_states=_ARHMM_STATES, num_lags=orders)


BASELINES = (
    Baseline("hmm", fit_gaussian_hmm, lambda shared: grid(num_states=_NUM_STATES)),
    Baseline("arhmm", regression(fit_arhmm), _states_and_lags),
)
