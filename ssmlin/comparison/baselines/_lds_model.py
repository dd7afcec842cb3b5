"""The linear dynamical system as in dynamax, by EM and by gradient steps; in float64.

It is fitted from several starts, of which the one with the best training likelihood is kept.
"""

from typing import Literal, NamedTuple

import jax
import numpy as np
from dynamax.linear_gaussian_ssm import ParamsLGSSM
from dynamax.linear_gaussian_ssm.inference import (
    ParamsLGSSMDynamics,
    ParamsLGSSMEmissions,
    ParamsLGSSMInitial,
)
from jaxtyping import Float

from ssmlin._typing import AnyArray
from ssmlin.comparison._candidate import Setting, grid
from ssmlin.comparison.baselines._baseline import Baseline, SharedRegression, regression
from ssmlin.comparison.baselines._gaps import without_gaps
from ssmlin.comparison.baselines._lds_fit import (
    em_program,
    filter_program,
    sgd_program,
)
from ssmlin.comparison.baselines._padding import padded, padded_length, shared_size
from ssmlin.comparison.baselines._paths import draw_paths
from ssmlin.forecasting import Ahead, Fitted, Observed, Predictive

_EM_ITERATIONS = 100
_SGD_EPOCHS = 1000
_STARTS = 4
_STATE_DIMS = (2, 4, 6)


class Laws(NamedTuple):
    """Laws of the state before and after every emission."""

    predicted_means: Float[np.ndarray, "T D"]
    predicted_covs: Float[np.ndarray, "T D D"]
    means: Float[np.ndarray, "T D"]
    covs: Float[np.ndarray, "T D D"]


def padded_series(
    values: Float[np.ndarray, "T m"], inputs: Float[np.ndarray, "T p"]
) -> tuple[Float[np.ndarray, "L m"], Float[np.ndarray, "L p"], int]:
    """The series as the programs take it."""
    length = padded_length(len(values))
    emissions, u = (padded(x, length, x.shape[1]) for x in (values, inputs))
    return emissions, u, len(values)


def resized(params: ParamsLGSSM, dim: int) -> ParamsLGSSM:
    """The parameters, in NumPy, for a state of `dim` entries: those that come in are zero."""

    def sized(x: Float[AnyArray, "..."], *shape: int) -> Float[np.ndarray, "..."]:
        cut = tuple(slice(n) for n in (*x.shape[: x.ndim - len(shape)], *shape))
        return padded(np.asarray(x)[cut], *shape)

    initial, dynamics, emissions = params
    m, p = np.shape(emissions.input_weights)[-2:]
    return ParamsLGSSM(
        ParamsLGSSMInitial(sized(initial.mean, dim), sized(initial.cov, dim, dim)),
        ParamsLGSSMDynamics(
            sized(dynamics.weights, dim, dim),
            sized(dynamics.bias, dim),
            sized(dynamics.input_weights, dim, p),
            sized(dynamics.cov, dim, dim),
        ),
        ParamsLGSSMEmissions(
            sized(emissions.weights, m, dim),
            sized(emissions.bias, m),
            sized(emissions.input_weights, m, p),
            sized(emissions.cov, m, m),
        ),
    )


def lds_laws(
    params: ParamsLGSSM, values: Float[np.ndarray, "T m"], inputs: Float[np.ndarray, "T p"]
) -> Laws:
    """Laws of the state before and after every emission, in NumPy.

    Args:
        params: parameters of a dynamax LGSSM that are the same at all steps.
        values: the series.
        inputs: its inputs.

    Returns:
        The laws.
    """
    steps, dim = len(values), len(params.initial.mean)
    sized = resized(params, shared_size(dim, max(_STATE_DIMS), steps))
    with jax.enable_x64(True):
        laws = filter_program(sized, padded_series(values, inputs))
    means, covs, filtered_means, filtered_covs = (np.asarray(x)[:steps] for x in laws)
    return Laws(
        means[:, :dim], covs[:, :dim, :dim], filtered_means[:, :dim], filtered_covs[:, :dim, :dim]
    )


def lds_predictive(
    params: ParamsLGSSM, values: Float[np.ndarray, "T m"], inputs: Float[np.ndarray, "T p"]
) -> Predictive:
    """The Gaussian one-step predictive laws, see :func:`lds_laws`."""
    laws = lds_laws(params, values, inputs)
    h, bias, input_weights, cov = (np.asarray(x) for x in params.emissions)
    means = laws.predicted_means @ h.T + inputs @ input_weights.T + bias
    return Predictive.gaussian(means, h @ laws.predicted_covs @ h.T + cov)


def lds_starts(
    rng: np.random.Generator, count: int, state_dim: int, m: int, width: int
) -> ParamsLGSSM:
    """Stacked starts; but for the weights they are those of dynamax."""

    def start() -> ParamsLGSSM:
        # A random rotation, a little damped: oscillations as well as trends can grow from it.
        rotation = np.linalg.qr(rng.normal(size=(state_dim, state_dim)))[0]
        return ParamsLGSSM(
            ParamsLGSSMInitial(np.zeros(state_dim), np.eye(state_dim)),
            ParamsLGSSMDynamics(
                rng.uniform(0.8, 0.98) * rotation,
                np.zeros(state_dim),
                np.zeros((state_dim, width)),
                0.1 * np.eye(state_dim),
            ),
            ParamsLGSSMEmissions(
                rng.normal(size=(m, state_dim)) / state_dim**0.5,
                np.zeros(m),
                np.zeros((m, width)),
                0.1 * np.eye(m),
            ),
        )

    stacked: ParamsLGSSM = jax.tree.map(lambda *x: np.stack(x), *(start() for _ in range(count)))
    return stacked


def fit_lds(
    train: Observed, seed: int, *, state_dim: int, method: Literal["em", "sgd"] = "em"
) -> Fitted:
    """Fit the model of dynamax's LinearGaussianSSM, from random stable starts of several scales.

    Args:
        train: the training series.
        seed: for the starts.
        state_dim: the dimension of the state.
        method: by EM or by gradient steps.

    Returns:
        The fitted forecaster.

    Raises:
        ValueError: a missing value.
        ArithmeticError: no start gave a finite likelihood.
    """
    y, u = without_gaps(train), train.inputs
    rng, shape = np.random.default_rng(seed), (y.shape[1], u.shape[1])
    series = padded_series(y, u)
    with jax.enable_x64(True):
        if method == "em":
            starts = resized(
                lds_starts(rng, _STARTS, state_dim, *shape),
                shared_size(state_dim, max(_STATE_DIMS), len(y)),
            )
            fitted, log_likelihood = em_program(starts, series, _EM_ITERATIONS)
        else:
            starts = lds_starts(rng, _STARTS // 2, state_dim, *shape)
            fitted, log_likelihood = sgd_program(starts, series, _SGD_EPOCHS)
    if not np.isfinite(float(log_likelihood)):
        raise ArithmeticError("no start gave a finite likelihood")
    params = resized(fitted, state_dim)

    return fitted_lds(params)


def fitted_lds(params: ParamsLGSSM) -> Fitted:
    """The forecaster with these parameters, in NumPy."""

    def predict(observed: Observed) -> Predictive:
        return lds_predictive(params, without_gaps(observed), observed.inputs)

    def simulate(observed: Observed, ahead: Ahead) -> Float[np.ndarray, "N n H m"]:
        seen = observed.until(int(ahead.origins.max()))
        laws = lds_laws(params, without_gaps(seen), seen.inputs)
        return _simulate_lds(params, laws, observed, ahead)

    return Fitted(predict, sum(x.size for x in jax.tree.leaves(params)), simulate)


def _simulate_lds(
    params: ParamsLGSSM, laws: Laws, observed: Observed, ahead: Ahead
) -> Float[np.ndarray, "N n H m"]:
    """Draw paths from the filtered states; the parameters are NumPy arrays."""
    rng, n = np.random.default_rng(ahead.seed), ahead.num_samples
    dynamics, emissions = params.dynamics, params.emissions
    last = ahead.origins - 1

    def noise(cov: Float[np.ndarray, "*N k k"]) -> Float[np.ndarray, "N n k"]:
        """Draws for all paths; the covariance, one or one an origin, may be singular."""
        values, vectors = np.linalg.eigh(cov)
        root = vectors * np.sqrt(np.maximum(values, 0))[..., None, :]
        normal = rng.normal(size=(len(last), n, cov.shape[-1]))
        drawn: np.ndarray = np.einsum("...ij,...nj->...ni", root, normal)
        return drawn

    def step(
        number: int, u: Float[np.ndarray, "N n p"], state: Float[np.ndarray, "N n d"]
    ) -> tuple[Float[np.ndarray, "N n m"], Float[np.ndarray, "N n d"]]:
        del number
        state = state @ dynamics.weights.T + u @ dynamics.input_weights.T + dynamics.bias
        state = state + noise(dynamics.cov)
        value = state @ emissions.weights.T + u @ emissions.input_weights.T + emissions.bias
        return value + noise(emissions.cov), state

    start = laws.means[last][:, None]
    start = start + noise(laws.covs[last])
    no_lags = np.zeros((len(last), n, 0, len(emissions.bias)))
    return draw_paths(step, start, no_lags, ahead.future(observed.inputs))


def _state_dims(shared: SharedRegression) -> tuple[Setting, ...]:
    """Settings of the LDS, which may do without the season."""
    by_em = grid(state_dim=_STATE_DIMS)
    settings = by_em + grid(state_dim=(4,), method=("sgd",))
    if shared.seasonal is not None:
        settings += tuple({**one, "seasonal": shared.seasonal} for one in by_em)
    return settings


BASELINES = (Baseline("lds", regression(fit_lds), _state_dims),)
