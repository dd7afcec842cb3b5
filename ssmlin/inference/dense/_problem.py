"""What the filter, the smoother and the sampler share: checked arguments, and how they are run."""

import warnings
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from dynamax.linear_gaussian_ssm.inference import (
    ParamsLGSSM,
    ParamsLGSSMDynamics,
    ParamsLGSSMEmissions,
    ParamsLGSSMInitial,
)
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Real

from ssmlin import _checks
from ssmlin._typing import AnyArray
from ssmlin.inference._methods import DENSE, Chosen, Method, choose_method
from ssmlin.inference.dense._chunked import Chunked
from ssmlin.inference.dense._driver import Driver
from ssmlin.inference.dense._model import varying_diagonal
from ssmlin.inference.dense._sequential import Sequential

DRIVERS: dict[Chosen, Driver] = {
    "sequential": Sequential(),
    "associative": Chunked(1),
    "chunked": Chunked(),
}

#: A parameter as dynamax takes it: an array, or a function of t.
type Parameter = ArrayLike | Callable[[Array], Array]


class _ArgumentError(ValueError, AssertionError):
    """A wrong argument; dynamax asserts where this package raises ValueError, so it is both."""


def _shaped(name: str, x: Array, dims: tuple[str, ...], sizes: dict[str, int]) -> Array:
    try:
        return _checks.shaped(name, x, dims, sizes)
    except ValueError as error:
        raise _ArgumentError(str(error)) from None


def _number_array(name: str, x: ArrayLike | None) -> Array:
    """Return `x` as an array of real numbers."""
    if x is None:
        raise _ArgumentError(f"{name}: expected an array, got None")
    try:
        array = jnp.asarray(x)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name}: expected an array, got {_checks.describe(x)}") from error
    if not jnp.issubdtype(array.dtype, jnp.floating) and not jnp.issubdtype(
        array.dtype, jnp.integer
    ):
        raise TypeError(f"{name}: expected real numbers, got a {_checks.describe(array)}")
    return array


class Plan(NamedTuple):
    """How a call is carried out; compiled functions are specialised to it.

    Attributes:
        driver: what runs over time.
        complete: whether no entry is known to be missing, where that makes a difference.
    """

    driver: Driver
    complete: bool


class Problem(NamedTuple):
    """The model and its data, arrays of one dtype."""

    params: ParamsLGSSM
    emissions: Float[Array, "T N"]
    inputs: Float[Array, "T p"] | None


def prepare(
    params: ParamsLGSSM,
    emissions: Real[AnyArray, "T N"],
    inputs: Real[AnyArray, "T p"] | None,
    method: Method,
) -> tuple[Problem, Plan]:
    """Check the arguments; return the problem and how it is solved."""
    initial, dynamics, emission = params.initial, params.dynamics, params.emissions
    sizes: dict[str, int] = {}
    y = _shaped("emissions", _number_array("emissions", emissions), ("T", "N"), sizes)
    steps = sizes["T"]
    if steps == 0:
        raise _ArgumentError("emissions: expected at least one time step, got none")

    def parameter(name: str, x: Parameter, times: Array, *dims: str) -> Array:
        x = _number_array(name, jax.vmap(x)(times) if callable(x) else x)
        return _shaped(name, x, ("T", *dims) if x.ndim == len(dims) + 1 else dims, sizes)

    times = jnp.arange(steps)
    # A function is not asked for the transition into the first step, which it may not define.
    into = jnp.clip(times, min(1, steps - 1))
    mean = _shaped("initial.mean", _number_array("initial.mean", initial.mean), ("D",), sizes)
    cov = _shaped("initial.cov", _number_array("initial.cov", initial.cov), ("D", "D"), sizes)
    f = parameter("dynamics.weights", dynamics.weights, into, "D", "D")
    q = parameter("dynamics.cov", dynamics.cov, into, "D", "D")
    h = parameter("emissions.weights", emission.weights, times, "N", "D")

    if callable(emission.cov):
        raise _ArgumentError("emissions.cov: expected an array, got a function")
    shape = np.shape(emission.cov)
    diagonal = len(shape) == 1 or varying_diagonal(shape, steps)
    r = parameter("emissions.cov", emission.cov, times, *("N",) if diagonal else ("N", "N"))
    if shape == (steps, steps) and steps > 1:
        warnings.warn(
            f"emissions.cov: shape {shape} with T = N = {steps} is taken as a static full "
            "covariance; give a diagonal for each step as (T, N, N)",
            stacklevel=3,
        )
    optional: dict[str, Array | None] = {}
    for name, x, dims, when in (
        ("dynamics.bias", dynamics.bias, ("D",), into),
        ("emissions.bias", emission.bias, ("N",), times),
        ("dynamics.input_weights", dynamics.input_weights, ("D", "p"), into),
        ("emissions.input_weights", emission.input_weights, ("N", "p"), times),
    ):
        optional[name] = None if x is None else parameter(name, x, when, *dims)
    u = None
    if sizes.get("p", 0) > 0 or inputs is not None:
        u = _shaped("inputs", _number_array("inputs", inputs), ("T", "p"), sizes)

    _checks.no_infinity("emissions", y)
    arrays = ParamsLGSSM(
        ParamsLGSSMInitial(mean, cov),
        ParamsLGSSMDynamics(f, optional["dynamics.bias"], optional["dynamics.input_weights"], q),
        ParamsLGSSMEmissions(h, optional["emissions.bias"], optional["emissions.input_weights"], r),
    )
    problem = Problem(arrays, y, u)
    dtype = jnp.result_type(*jax.tree.leaves(problem), float)
    problem = jax.tree.map(lambda x: x.astype(dtype), problem)
    chosen = choose_method(method, DENSE, num_timesteps=steps)
    # Only a full R makes a difference; otherwise one program serves complete and incomplete data.
    matters = sizes["N"] > 1 and not diagonal
    complete = matters and _checks.is_concrete(y) and not np.isnan(np.asarray(y)).any()
    return problem, Plan(DRIVERS[chosen], bool(complete))
