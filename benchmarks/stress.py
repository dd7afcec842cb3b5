"""Errors in single precision over a grid of initial covariances, noises and lengths.

Unit keys and no forgetting, so that P falls from P_0 towards r / T: what makes single precision
hard is P_0 / r. The reference is the square-root form in double precision.
"""

from collections.abc import Iterator
from functools import partial
from itertools import product
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import ssmlin
from ssmlin import MatrixLGSSM
from ssmlin.lgssm import DiagPlusLowRank

from . import harness
from .harness import Table

DIM = 4
LENGTHS, QUICK_LENGTHS = (100, 10_000), (16,)
LONG_LENGTHS = (1_000_000,)
INITIAL = (1.0, 1e4)
PROCESS = (0.0, 1e-6, 0.1)
EMISSION = (1e-6, 0.1)
METHODS = ("sequential", "chunked", "associative")
FORMS = ("plain", "square_root")


class Cell(NamedTuple):
    """A point of the grid."""

    mechanism: str
    steps: int
    p0: float
    q: float
    r: float


class Result(NamedTuple):
    """What went wrong at a point.

    Attributes:
        loglik: relative error of the log-likelihood.
        means: largest error of a predicted emission, in its own standard deviations.
        scales: largest relative error of a predictive variance.
        not_finite: how many numbers are NaN or infinite.
    """

    loglik: float
    means: float
    scales: float
    not_finite: int


type Results = dict[tuple[str, str], dict[Cell, Result]]  # by driver and form


def run(quick: bool) -> None:
    """Print the tables."""
    lengths = QUICK_LENGTHS if quick else LENGTHS + LONG_LENGTHS
    harness.remark(
        f"d = {DIM}, m = 1. The errors are those of float32 against float64: of the "
        "log-likelihood, relative; of the emissions' predictive means, in their standard "
        "deviations; of their predictive variances, relative; the largest over time. Filtered "
        "moments are looked at for NaN too. The likelihood of 1 000 000 steps is that of the "
        "sequential and the chunked driver."
    )
    variants = list(product(METHODS[:1] if quick else METHODS, FORMS))
    results: Results = {variant: {} for variant in variants}
    for steps in lengths:
        for variant, cell, result in _results(steps, variants):
            results[variant][cell] = result
        jax.clear_caches()
    _print_summary(results)
    _print_grid(results)


def _cells(steps: int) -> Iterator[Cell]:
    for mechanism in ("bayesian_memory", "gated_deltanet"):
        for p0 in INITIAL:
            for q in PROCESS:
                for r in EMISSION:
                    yield Cell(mechanism, steps, p0, q, r)


def _results(
    steps: int, variants: list[tuple[str, str]]
) -> Iterator[tuple[tuple[str, str], Cell, Result]]:
    """The errors of the drivers and forms at every point of the grid of this length."""
    store = "loglik" if steps in LONG_LENGTHS else "filtered"
    compiled = {
        (method, form): jax.jit(
            partial(ssmlin.matrix_lgssm_filter, store=store, method=method, covariance_form=form)
        )
        for method, form in variants
        if method != "associative" or steps not in LONG_LENGTHS  # a gigabyte of elements
    }
    for cell in _cells(steps):
        lgssm, emissions, reference = _problem(cell)
        for variant, function in compiled.items():
            yield variant, cell, _compare(function(lgssm, emissions), reference)


def _problem(cell: Cell) -> tuple[MatrixLGSSM, jax.Array, tuple[np.ndarray, ...]]:
    """The model and data in single precision, and what double precision says."""
    with jax.enable_x64(True):
        double, emissions = _double_problem(cell)
        reference = _reference(double, emissions)
        kept = tuple(np.asarray(getattr(reference, name)) for name in _COMPARED)
    single = jax.tree.map(lambda x: jnp.asarray(np.asarray(x), jnp.float32), double)
    return single, jnp.asarray(np.asarray(emissions), jnp.float32), kept


_COMPARED = ("marginal_loglik", "emission_means", "emission_scales")
_reference = jax.jit(
    partial(ssmlin.matrix_lgssm_filter, store="loglik", covariance_form="square_root")
)


def _double_problem(cell: Cell) -> tuple[MatrixLGSSM, jax.Array]:
    """The model in numbers that single precision has, and emissions of a fixed state."""
    mechanism, steps, p0, q, r = cell
    rng = np.random.default_rng(0)

    def single(x: Any) -> np.ndarray:
        return np.asarray(x, np.float32).astype(float)

    keys = rng.normal(size=(steps, DIM))
    keys = single(keys / np.linalg.norm(keys, axis=1, keepdims=True))
    tokens = {"keys": keys, "queries": keys, "alpha": np.ones(steps)}
    if mechanism == "gated_deltanet":
        beta = single(rng.uniform(0, 0.01, size=steps))
        tokens |= {"values": np.zeros((steps, 1)), "beta": beta}
    lgssm = ssmlin.matrix_lgssm(
        mechanism,
        **tokens,
        value_dim=1,
        initial_cov=single(p0) * np.eye(DIM),
        process_noise=DiagPlusLowRank(
            jnp.full((steps, DIM), single(q)), jnp.zeros((steps, DIM, 0))
        ),
        emission_noise=single(r),
    )
    states = rng.normal(size=DIM)
    emissions = keys @ states + r**0.5 * rng.normal(size=steps)
    return lgssm, jnp.asarray(single(emissions[:, None]))


def _compare(posterior: Any, reference: tuple[np.ndarray, ...]) -> Result:
    ours = [np.asarray(getattr(posterior, name), float) for name in _COMPARED]
    (loglik, means, scales), (true_loglik, true_means, true_scales) = ours, reference
    return Result(
        float(abs(loglik - true_loglik) / abs(true_loglik)),
        float(np.max(np.abs(means - true_means)[:, 0] / np.sqrt(true_scales))),
        float(np.max(np.abs(scales / true_scales - 1))),
        sum(int(np.sum(~np.isfinite(np.asarray(x)))) for x in jax.tree.leaves(posterior)),
    )


def _print_summary(results: Results) -> None:
    harness.remark("Over the points of the grid without a NaN, median and largest:")
    table = Table("driver", "form", "log-likelihood", "means", "variances", "points with NaN")
    for (method, form), by_cell in results.items():
        sound = [result for result in by_cell.values() if not result.not_finite]
        columns = np.reshape([result[:3] for result in sound], (-1, 3)).T
        cells = [f"{_error(np.median(x))}, {_error(np.max(x))}" if sound else "–" for x in columns]
        table.row(method, form, *cells, f"{len(by_cell) - len(sound)} of {len(by_cell)}")


def _print_grid(results: Results) -> None:
    harness.remark("The error of the predictive variances at every point:")
    table = Table(
        "mechanism", "T", "P_0", "q", "r", *(f"{method}, {form}" for method, form in results)
    )
    for cell in next(iter(results.values())):
        found = [by_cell.get(cell) for by_cell in results.values()]
        texts = [None if result is None else _error(result.scales) for result in found]
        numbers = (harness.figure(x) for x in (cell.p0, cell.q, cell.r))
        table.row(cell.mechanism, harness.sizes(cell.steps), *numbers, *texts)


def _error(x: float) -> str:
    return f"{x:.0e}" if np.isfinite(x) else "NaN"
