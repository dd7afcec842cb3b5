"""Exact draws of the states given the emissions, and draws from the model."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ssmlin import _checks
from ssmlin._precision import in_full_precision
from ssmlin._typing import AnyArray
from ssmlin.inference._methods import Method
from ssmlin.inference._missing import Length
from ssmlin.inference._roots import symmetric_root
from ssmlin.inference.matrix._driver import Driver, Keep, kept, smoothed_means
from ssmlin.inference.matrix._filter import centred
from ssmlin.inference.matrix._layouts import Problem
from ssmlin.inference.matrix._problem import Form, Missing, Plan, prepare
from ssmlin.inference.matrix._sequential import SEQUENTIAL
from ssmlin.lgssm import MatrixLGSSM


def matrix_lgssm_posterior_sample(
    key: Array,
    lgssm: MatrixLGSSM,
    emissions: Float[AnyArray, "*B T m"],
    num_samples: int = 1,
    *,
    mask: Bool[AnyArray, "*B T"] | None = None,
    length: Length | None = None,
    missing: Missing = "auto",
    method: Method = "auto",
    covariance_form: Form = "plain",
) -> Float[Array, "*B num_samples T m d"]:
    r"""Draw state paths from $p(S_{1:T} \mid y_{1:T})$, exactly also where Q_t is singular.

    Mean correction: simulate (S⁺, y⁺) from the model, smooth the mean of y − y⁺, add S⁺. All draws
    share one covariance recursion, so a further draw costs O(T m d).

    Args:
        key: a PRNG key.
        lgssm: the model.
        emissions: y, (T, m); NaN means missing.
        num_samples: how many paths.
        mask: see :func:`matrix_lgssm_filter`.
        length: see :func:`matrix_lgssm_filter`.
        missing: see :func:`matrix_lgssm_filter`.
        method: see :func:`matrix_lgssm_filter`.
        covariance_form: see :func:`matrix_lgssm_filter`.

    Returns:
        The paths, (num_samples, T, m, d).

    Raises:
        ValueError: an argument of the wrong shape or value.
        TypeError: an argument that is not of the expected type.

    Examples:
        >>> import jax, jax.numpy as jnp, ssmlin
        >>> lgssm = ssmlin.matrix_lgssm("bayesian_memory", keys=jnp.ones((4, 2)), alpha=1.0,
        ...     value_dim=3, emission_noise=1.0)
        >>> draws = ssmlin.matrix_lgssm_posterior_sample(
        ...     jax.random.key(0), lgssm, jnp.zeros((4, 3)), 10)
        >>> draws.shape
        (10, 4, 3, 2)

    Source: Durbin and Koopman (2002), Biometrika 89.
    """
    _checks.positive_int("num_samples", num_samples)
    problem, plan = prepare(
        lgssm, emissions, mask, length, missing, method, covariance_form, key=key
    )
    states: Array = _posterior_sample(problem, num_samples=num_samples, plan=plan)
    return states


@partial(jax.jit, static_argnames=("num_samples", "plan"))
@in_full_precision
def _posterior_sample(
    problem: Problem, *, num_samples: int, plan: Plan
) -> Float[Array, "*B num_samples T m d"]:
    core = partial(_posterior_sample_core, num_samples=num_samples, plan=plan)
    return plan.layout.run(core, problem, _join_rows)


def _join_rows(rows: Float[Array, "m n T 1 d"]) -> Float[Array, "n T m d"]:
    """The states from those of the single rows."""
    return jnp.moveaxis(rows[:, :, :, 0], 0, 2)


def _posterior_sample_core(
    problem: Problem, *, num_samples: int, plan: Plan
) -> Float[Array, "num_samples T m d"]:
    """Draw by mean correction; the draws are stacked as further rows of one state."""
    lgssm, driver, (y, seen) = problem.lgssm, plan.driver, centred(problem)
    n, m, steps, d = num_samples, lgssm.value_dim, lgssm.num_timesteps, lgssm.key_dim
    run = driver.forward(lgssm, y, seen, form=plan.form, keep=Keep(gains=True))
    gains = kept(run.gains)
    states, simulated = _sample_core(kept(problem.key), lgssm, n, driver)
    difference = (y[:, None] - simulated).reshape(steps, n * m) * seen[:, None]
    zero_mean = jnp.zeros((n * m, d), lgssm.dtype)
    predicted = driver.forward_means(lgssm, zero_mean, difference, gains).emission_means
    residuals = (difference - predicted) * seen[:, None]
    precisions = seen / jnp.where(seen > 0, run.scales, 1.0)
    back = driver.backward(lgssm, gains, precisions, residuals)
    means = smoothed_means(driver, lgssm, zero_mean, back, with_drift=False)
    return jnp.moveaxis(states + means.reshape(steps, n, m, d), 1, 0)


def matrix_lgssm_sample(
    key: Array, lgssm: MatrixLGSSM, num_samples: int = 1
) -> tuple[Float[Array, "num_samples T m d"], Float[Array, "num_samples T m"]]:
    r"""Draw states and emissions from the model (the prior predictive).

    Args:
        key: a PRNG key.
        lgssm: the model; singular P_0 and Q_t are fine.
        num_samples: how many sequences.

    Returns:
        States (num_samples, T, m, d) and emissions (num_samples, T, m).

    Raises:
        ValueError: `num_samples` below 1.
        TypeError: `num_samples` not an integer.

    Examples:
        >>> import jax, jax.numpy as jnp, ssmlin
        >>> lgssm = ssmlin.matrix_lgssm("bayesian_memory", keys=jnp.ones((4, 2)), alpha=1.0,
        ...     value_dim=3, emission_noise=1.0)
        >>> states, emissions = ssmlin.matrix_lgssm_sample(jax.random.key(0), lgssm)
        >>> states.shape, emissions.shape
        ((1, 4, 3, 2), (1, 4, 3))
    """
    _checks.positive_int("num_samples", num_samples)
    draws: tuple[Array, Array] = _sample(key, lgssm, num_samples)
    return draws


@partial(jax.jit, static_argnames=("num_samples",))
@in_full_precision
def _sample(key: Array, lgssm: MatrixLGSSM, num_samples: int) -> tuple[Array, Array]:
    states, emissions = _sample_core(key, lgssm, num_samples, SEQUENTIAL)
    emissions = emissions + lgssm.emission_bias[:, None]
    return jnp.moveaxis(states, 1, 0), jnp.moveaxis(emissions, 1, 0)


def _sample_core(
    key: Array, lgssm: MatrixLGSSM, num_samples: int, driver: Driver
) -> tuple[Float[Array, "T n m d"], Float[Array, "T n m"]]:
    """States and emissions less their bias, time first."""
    n, m, d, steps = num_samples, lgssm.value_dim, lgssm.key_dim, lgssm.num_timesteps
    keys = jax.random.split(key, 3)
    root = symmetric_root(lgssm.row_cov)

    def mix(rows: Array) -> Array:
        """Give the rows of every draw the covariance Σ."""
        return jnp.einsum("ij,...njd->...nid", root, rows)

    start = jax.random.normal(keys[0], (n, m, d), lgssm.dtype)
    start = lgssm.initial_mean + mix(start @ symmetric_root(lgssm.initial_cov).T)
    shocks = mix(lgssm.process_noise.sample(keys[1], n * m).reshape(steps, n, m, d))
    shifts = (shocks + lgssm.drift.to_dense()[:, None]).reshape(steps, n * m, d)
    states = driver.carried_means(lgssm, start.reshape(n * m, d), shifts, with_drift=False)
    noise = mix(jax.random.normal(keys[2], (steps, n, m, 1), lgssm.dtype))[..., 0]
    noise = noise * jnp.sqrt(lgssm.emission_noise)[:, None, None]
    states = states.reshape(steps, n, m, d)
    return states, jnp.einsum("tnmd,td->tnm", states, lgssm.readout) + noise
