"""A whole fit against dynamax's `fit_sgd`, and effective draws of NUTS against its filter."""

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import arviz
import jax
import jax.numpy as jnp
import numpy as np
import optax
from dynamax.linear_gaussian_ssm import LinearGaussianSSM, lgssm_filter

import ssmlin

from . import harness
from .harness import Table

STEPS, QUICK_STEPS = 2_000, 20
EPOCHS, QUICK_EPOCHS = 500, 20
# T, d, m, draws of each of two chains (as many again for the warm-up), and the target.
CHAINS = ((500, 16, 1, 200, 10), (100, 8, 8, 100, 100))
QUICK_CHAINS = ((5, 2, 2, 4, 1),)


def run(quick: bool) -> None:
    """Print the tables."""
    _fits(QUICK_STEPS if quick else STEPS, QUICK_EPOCHS if quick else EPOCHS)
    jax.clear_caches()
    _chains(QUICK_CHAINS if quick else CHAINS)


def _seconds(call: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - begin


def _fits(steps: int, epochs: int) -> None:
    """Adam on one sequence, all of it at every step."""
    d = 16
    harness.remark(
        f"{epochs} steps of Adam at 0.01, T = {harness.sizes(steps)}, m = 1: a gated_deltanet with "
        f"learned projections and gates, d = {d}, and dynamax's LGSSM of {d} states. Seconds; the "
        "second call of ssmlin compiles nothing, dynamax's `fit_sgd` compiles at every call."
    )
    y = jnp.sin(0.3 * jnp.arange(steps))[:, None]
    y = y + 0.3 * jax.random.normal(jax.random.key(0), y.shape)
    optimizer = optax.adam(1e-2)
    model = ssmlin.LinearAttentionSSM("gated_deltanet", 1, 2, d, num_lags=2)
    u = model.compute_inputs(y)
    params, props = model.initialize(jax.random.key(1), emissions=y, inputs=u)
    dense = LinearGaussianSSM(d, 1)
    dense_params, dense_props = dense.initialize(jax.random.PRNGKey(1))

    def ours(num_epochs: int) -> Any:
        return model.fit_sgd(
            params, props, y, u, optimizer, num_epochs=num_epochs,
            validation_fraction=0.0, patience=None, progress=False,
        )  # fmt: skip

    def dynamax(num_epochs: int) -> Any:
        return dense.fit_sgd(
            dense_params, dense_props, y, optimizer=optimizer, num_epochs=num_epochs
        )

    table = Table("call", "ssmlin", "dynamax", "ratio", "target")
    first = _seconds(lambda: ours(epochs)), _seconds(lambda: dynamax(epochs))
    second = _seconds(lambda: ours(epochs)), _seconds(lambda: dynamax(epochs))
    for name, (a, b) in (("first", first), ("second", second)):
        ratio = b / a
        table.row(name, *map(harness.figure, (a, b)), harness.times(ratio),
                  harness.target(ratio, 10))  # fmt: skip


@dataclass(frozen=True)
class _Dense:
    """The same model with dynamax's dense filter in place of ours."""

    model: ssmlin.LinearAttentionSSM

    def log_prior(self, params: Any) -> jax.Array:
        return self.model.log_prior(params)

    def log_predictive(self, params: Any, emissions: jax.Array, inputs: Any) -> jax.Array:
        dense = self.model.to_lgssm(params, inputs).to_dynamax()
        loglik = lgssm_filter(dense, emissions).marginal_loglik
        return jnp.zeros(len(emissions)).at[0].set(loglik)


def _draw(problem: tuple[Any, ...], num: int) -> Any:
    """Two chains for the gates."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # short chains
        return ssmlin.sample_posterior(
            jax.random.key(3),
            *problem,
            variables=("alpha", "beta"),
            num_chains=2,
            num_warmup=num,
            num_samples=num,
            trajectories=False,
            progress=False,
        )


def _chains(problems: tuple[tuple[int, ...], ...]) -> None:
    """NUTS for the constant gates, the same settings and key with either filter."""
    harness.remark(
        "NUTS for constant α and β of a gated_deltanet: two chains, the settings and the key the "
        "same with either filter; time without compiling, warm-up included. Effective draws are "
        "the least of the two gates' bulk sizes."
    )
    table = Table("T, d, m", "draws", "filter", "seconds", "effective draws",
                  "effective draws a second", "ratio", "target")  # fmt: skip
    for steps, d, m, num, least in problems:
        model = ssmlin.LinearAttentionSSM("gated_deltanet", m, 2, d, gates="constant")
        keys = jax.random.split(jax.random.key(2), 3)
        u = jax.random.normal(keys[0], (steps, 2))
        params, props = model.initialize(keys[1])
        params = params._replace(
            tokens=params.tokens._replace(
                values=jax.tree.map(lambda x: 10 * x, params.tokens.values)
            )
        )
        _, y = model.sample(params, keys[2], steps, u)
        rates = {}
        for name, sampled in (("dynamax", _Dense(model)), ("ssmlin", model)):
            problem = (sampled, params, props, y, u)
            draws = _draw(problem, num)
            begin = time.perf_counter()
            _draw(problem, num)
            seconds = time.perf_counter() - begin
            sizes = arviz.ess(draws.posterior.to_dataset()[["alpha", "beta"]])
            effective = min(float(np.min(x)) for x in sizes.data_vars.values())
            rates[name] = effective / seconds
            ratio = rates[name] / rates["dynamax"]
            compared = name == "ssmlin"
            table.row(
                harness.sizes(steps, d, m), f"2 × {num}", name, harness.figure(seconds),
                harness.figure(effective), harness.figure(rates[name]),
                harness.times(ratio) if compared else None,
                harness.target(ratio, least) if compared else None,
            )  # fmt: skip
        jax.clear_caches()
