"""ssmlin against dynamax, cuthbert and statsmodels, on the same model and data, in one run."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

import dynamax.linear_gaussian_ssm as dynamax
import jax
import jax.numpy as jnp
import numpy as np

import ssmlin
from ssmlin import MatrixLGSSM

from . import harness
from .harness import Contestant, Table

try:
    import cuthbert
    from cuthbert.gaussian import kalman
except ImportError:
    cuthbert = None

SIZES = ((1_000, 4, 1), (10_000, 16, 1), (100_000, 16, 1), (1_000, 8, 8), (500, 16, 16))
QUICK_SIZES = ((8, 3, 2),)
WORK = (
    "log-likelihood",
    "filter",
    "smoother",
    "smoothed means",
    "gradient",
    "gradient, autodiff",
    harness.SAMPLE,
)
# What the times of others over ours are to reach.
TARGETS = {
    ((10_000, 16, 1), "log-likelihood"): {"dynamax": 25, "statsmodels": 10},
    ((10_000, 16, 1), "filter"): {"dynamax": 14, "cuthbert": 60},
    ((10_000, 16, 1), "smoother"): {"dynamax": 10},
    ((10_000, 16, 1), "gradient"): {"dynamax": 27},
    ((500, 16, 16), "filter"): {"dynamax": 1600},
}
# Libraries whose log-likelihoods differ by more than this have not solved the same problem.
TOLERANCE = 1e-3

type Entries = dict[str, Contestant]


class Library(NamedTuple):
    """A competitor.

    Attributes:
        entries: what it can do with a model and emissions, by name of the work.
        largest: the largest T (m d)³ that it gets, so that a run takes minutes and not hours.
        largest_gradient: the same for gradients.
    """

    entries: Callable[[MatrixLGSSM, jax.Array], Entries]
    largest: float = np.inf
    largest_gradient: float = np.inf


def _ssmlin(lgssm: MatrixLGSSM, emissions: jax.Array) -> Entries:
    functions: dict[str, Callable[..., Any]] = {
        "log-likelihood": harness.loglik,
        "filter": harness.filter,
        "smoother": harness.smoother,
        "smoothed means": partial(harness.smoother, store="means"),
        "gradient": harness.gradient,
        "gradient, autodiff": partial(harness.gradient, gradient="autodiff"),
        harness.SAMPLE: ssmlin.matrix_lgssm_posterior_sample,
    }
    return harness.contestants(functions, lgssm, emissions)


def _dynamax(lgssm: MatrixLGSSM, emissions: jax.Array) -> Entries:
    def loglik(params, y):
        return dynamax.lgssm_filter(params, y).marginal_loglik

    functions: dict[str, Callable[..., Any]] = {
        "log-likelihood": loglik,
        "filter": dynamax.lgssm_filter,
        "smoother": dynamax.lgssm_smoother,
        "smoothed means": lambda params, y: dynamax.lgssm_smoother(params, y).smoothed_means,
        "gradient": jax.grad(loglik),
        harness.SAMPLE: dynamax.lgssm_posterior_sample,
    }
    return harness.contestants(functions, lgssm.to_dynamax(), emissions)


def _parallel_dynamax(lgssm: MatrixLGSSM, emissions: jax.Array) -> Entries:
    def smoothed_means(params, y):
        return dynamax.parallel_lgssm_smoother(params, y).smoothed_means

    functions: dict[str, Callable[..., Any]] = {
        "log-likelihood": lambda params, y: (
            dynamax.parallel_lgssm_filter(params, y).marginal_loglik
        ),
        "filter": dynamax.parallel_lgssm_filter,
        "smoother": dynamax.parallel_lgssm_smoother,
        "smoothed means": smoothed_means,
        harness.SAMPLE: dynamax.parallel_lgssm_posterior_sample,
    }
    return harness.contestants(functions, lgssm.to_dynamax(), emissions)


def _cuthbert(lgssm: MatrixLGSSM, emissions: jax.Array, parallel: bool = False) -> Entries:
    params, root = lgssm.to_dynamax(), jnp.linalg.cholesky
    dynamics, emission = params.dynamics, params.emissions
    # Its filter begins, as ours does, one transition before the first emission.
    model = {
        "initial": (
            lgssm.initial_mean.reshape(-1),
            jnp.kron(root(lgssm.row_cov), root(lgssm.initial_cov)),
        ),
        "dynamics": (dynamics.weights, dynamics.bias, root(dynamics.cov)),
        "emissions": (emission.weights, emission.bias, root(emission.cov)),
    }

    def filtered(model, y):
        solver = kalman.build_filter(
            *model["initial"],
            lambda t: tuple(x[t] for x in model["dynamics"]),
            lambda t: (*(x[t] for x in model["emissions"]), y[t]),
        )
        start = solver.init_prepare()
        return cuthbert.filter(solver, jnp.arange(len(y)), start, parallel=parallel)

    def moments(states):
        return states.mean[1:], states.chol_cov[1:]

    def loglik(model, y):
        return filtered(model, y).log_normalizing_constant[-1]

    def smoothed(model, y):
        solver = kalman.build_smoother(lambda t: tuple(x[t] for x in model["dynamics"]))
        return moments(cuthbert.smoother(solver, filtered(model, y), parallel=parallel))

    def filter_outputs(model, y):
        states = filtered(model, y)
        return moments(states), states.log_normalizing_constant[-1]

    functions: dict[str, Callable[..., Any]] = {
        "log-likelihood": loglik,
        "filter": filter_outputs,
        "smoother": smoothed,
        "smoothed means": lambda model, y: smoothed(model, y)[0],
    }
    if not parallel:
        functions["gradient"] = jax.grad(loglik)
    return harness.contestants(functions, model, emissions)


def _statsmodels(lgssm: MatrixLGSSM, emissions: jax.Array) -> Entries:
    from statsmodels.tsa.statespace.kalman_filter import KalmanFilter

    params = jax.tree.map(np.asarray, lgssm.to_dynamax())
    initial, dynamics, emission = params
    dim = len(initial.mean)
    solver = KalmanFilter(k_endog=lgssm.value_dim, k_states=dim, dtype=np.float32)
    solver.bind(np.asarray(emissions))
    solver.initialize_known(initial.mean, initial.cov)
    solver["selection"] = np.eye(dim, dtype=np.float32)
    # Time comes last, and entry t takes the state from t to t + 1.
    for name, x in (
        ("transition", np.roll(dynamics.weights, -1, axis=0)),
        ("state_intercept", np.roll(dynamics.bias, -1, axis=0)),
        ("state_cov", np.roll(dynamics.cov, -1, axis=0)),
        ("design", emission.weights),
        ("obs_intercept", emission.bias),
        ("obs_cov", emission.cov),
    ):
        solver[name] = np.asfortranarray(np.moveaxis(x, 0, -1))
    if solver.prefix != "s":
        raise RuntimeError(f"statsmodels: expected single precision, got {solver.prefix!r}")
    return {"log-likelihood": Contestant(solver.loglike, jit=False)}


LIBRARIES = {
    "ssmlin": Library(_ssmlin),
    "dynamax": Library(_dynamax, largest_gradient=5e8),
    "dynamax parallel": Library(_parallel_dynamax, largest=5e7),
    "cuthbert": Library(_cuthbert, largest=5e8, largest_gradient=5e7),
    "cuthbert parallel": Library(partial(_cuthbert, parallel=True), largest=5e7),
    "statsmodels": Library(_statsmodels),
}


def run(quick: bool) -> None:
    """Print the tables.

    Raises:
        RuntimeError: the log-likelihoods of two libraries differ.
    """
    harness.remark(
        "A gated_deltanet with process noise; the others get its dense expansion. Medians in "
        "milliseconds with the range of the middle half, and the ratio to ssmlin's. The filter "
        "and the smoother give all means and covariances; the gradient is that of the "
        "log-likelihood in every array of the model. Dashes: the library lacks it, or it would "
        "take too long at this size."
    )
    table = Table("T, d, m", "work", *LIBRARIES, "target")
    resources, differences = [], []
    for size in QUICK_SIZES if quick else SIZES:
        entries = _entries(size, quick)
        for work in WORK:
            race = {name: does[work] for name, does in entries.items() if work in does}
            timings = harness.measure_together(race, quick)
            ours = timings["ssmlin"].median
            ratios = {name: timings[name].median / ours for name in race if name != "ssmlin"}
            texts = {name: harness.milliseconds(timing) for name, timing in timings.items()}
            for name, ratio in ratios.items():
                texts[name] += f", {harness.times(ratio)}"
            goals = TARGETS.get((size, work), {}).items()
            met = [f"{name} {harness.target(ratios[name], x)}" for name, x in goals if name in race]
            table.row(harness.sizes(*size), work, *_cells(texts, LIBRARIES), "; ".join(met))
            resources.append((size, work, timings))
            if work == "log-likelihood":
                differences.append((size, timings))
            jax.clear_caches()
    _print_resources(resources)
    _print_differences(differences)


def _entries(size: tuple[int, int, int], quick: bool) -> dict[str, Entries]:
    """What each library has to do at this size."""
    steps, d, m = size
    cost = steps * (m * d) ** 3
    problem = harness.gated_deltanet(*size)
    entries = {}
    for name, library in LIBRARIES.items():
        if cost > library.largest or not _installed(name):
            continue
        does = library.entries(*problem)
        if cost > library.largest_gradient:
            does.pop("gradient")
        if quick and "parallel" in name:  # they take long to compile
            does = {"log-likelihood": does["log-likelihood"]}
        entries[name] = does
    return entries


def _installed(library: str) -> bool:
    return cuthbert is not None or not library.startswith("cuthbert")


def _cells(texts: dict[str, str], libraries: Iterable[str]) -> list[str]:
    """A cell for each library, also where there is nothing to say of it."""
    absent = {name: "–" if _installed(name) else "not installed" for name in libraries}
    return list((absent | texts).values())


def _print_resources(rows: list[tuple]) -> None:
    harness.remark("Seconds to compile, and megabytes of temporary memory:")
    libraries = [name for name in LIBRARIES if name != "statsmodels"]  # it compiles nothing
    table = Table("T, d, m", "work", *libraries)
    for size, work, timings in rows:
        texts = {
            name: f"{timing.compile_time:.1f}, {harness.megabytes(timing)}"
            for name, timing in timings.items()
            if name in libraries
        }
        table.row(harness.sizes(*size), work, *_cells(texts, libraries))


def _print_differences(rows: list[tuple]) -> None:
    harness.remark("Log-likelihoods, relative difference to ssmlin's:")
    others = [name for name in LIBRARIES if name != "ssmlin"]
    table = Table("T, d, m", "ssmlin", *others)
    wrong = []
    for size, timings in rows:
        ours = timings["ssmlin"].value
        differences = {
            name: abs(timing.value - ours) / abs(ours)
            for name, timing in timings.items()
            if name != "ssmlin"
        }
        wrong += [(size, name) for name, x in differences.items() if not x <= TOLERANCE]
        texts = {name: f"{x:.1e}" for name, x in differences.items()}
        table.row(harness.sizes(*size), f"{ours:.7g}", *_cells(texts, others))
    if wrong:
        raise RuntimeError(f"the log-likelihood differs from ssmlin's: {wrong}")
