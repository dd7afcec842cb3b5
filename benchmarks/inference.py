"""Time ssmlin's filter and smoother against dynamax's on the same model, and the recurrence.

All in one run, float32, compile time apart, medians with the middle half's range in parentheses.

    python benchmarks/inference.py [--quick]
"""

import argparse
import os
import platform
import time
from functools import partial
from importlib.metadata import version

import jax
import jax.numpy as jnp
import numpy as np
from dynamax.linear_gaussian_ssm import lgssm_filter, lgssm_smoother

import ssmlin

SIZES = ((1_000, 4, 1), (10_000, 16, 1), (500, 16, 16))
TARGETS = {
    ((10_000, 16, 1), "log-likelihood"): 20,
    ((10_000, 16, 1), "filter"): 12,
    ((10_000, 16, 1), "smoother"): 6,
    ((500, 16, 16), "log-likelihood"): 1500,
}


def problem(steps, d, m):
    """A gated_deltanet with process noise, and emissions drawn from it."""
    keys = jax.random.split(jax.random.key(0), 6)
    normal, uniform = jax.random.normal, jax.random.uniform
    lgssm = ssmlin.matrix_lgssm(
        "gated_deltanet",
        keys=normal(keys[0], (steps, d)),
        values=normal(keys[1], (steps, m)),
        queries=normal(keys[2], (steps, d)) / d**0.5,
        alpha=uniform(keys[3], (steps,), minval=0.9),
        beta=uniform(keys[4], (steps,)),
        process_noise=0.1,
        emission_noise=0.3,
    )
    return lgssm, ssmlin.matrix_lgssm_sample(keys[5], lgssm)[1][0]


def measure(function, *arguments, repeats):
    """Compile time, and quartiles of the run time, in seconds."""
    begin = time.perf_counter()
    compiled = jax.jit(function).lower(*arguments).compile()
    compile_time = time.perf_counter() - begin
    jax.block_until_ready(compiled(*arguments))
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        jax.block_until_ready(compiled(*arguments))
        times.append(time.perf_counter() - begin)
    return compile_time, np.percentile(times, [25, 50, 75])


WORK = {
    "log-likelihood": (
        lambda lgssm, y: ssmlin.matrix_lgssm_filter(lgssm, y, store="loglik").marginal_loglik,
        lambda params, y: lgssm_filter(params, y).marginal_loglik,
    ),
    "filter": (
        ssmlin.matrix_lgssm_filter,
        lgssm_filter,
    ),
    "smoother": (
        ssmlin.matrix_lgssm_smoother,
        lgssm_smoother,
    ),
    "gradient": (
        jax.grad(
            lambda lgssm, y: ssmlin.matrix_lgssm_filter(lgssm, y, store="loglik").marginal_loglik
        ),
        jax.grad(lambda params, y: lgssm_filter(params, y).marginal_loglik),
    ),
}


def milliseconds(quartiles):
    low, middle, high = 1e3 * quartiles
    return f"{middle:.3g} ({low:.3g}-{high:.3g})"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer repeats, no gradients")
    quick = parser.parse_args().quick
    names = ", ".join(f"{name} {version(name)}" for name in ("ssmlin", "jax", "dynamax"))
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, {jax.default_backend()}, float32; {names}"
    )
    print()
    print("| T, d, m | work | ssmlin, ms | dynamax, ms | ratio | target | compile, s |")
    print("|---|---|---|---|---|---|---|")
    for size in SIZES:
        lgssm, y = problem(*size)
        params = lgssm.to_dynamax()
        for name, (ours, theirs) in WORK.items():
            if name == "gradient" and (quick or size[2] > 1):
                continue
            our_compile, our_time = measure(ours, lgssm, y, repeats=7 if quick else 31)
            their_compile, their_time = measure(theirs, params, y, repeats=3 if quick else 5)
            ratio = their_time[1] / our_time[1]
            target = TARGETS.get((size, name))
            print(
                f"| {', '.join(f'{n:,}'.replace(',', ' ') for n in size)} | {name} "
                f"| {milliseconds(our_time)} | {milliseconds(their_time)} | {ratio:,.0f} × "
                f"| {'' if target is None else f'{target:,} ×'} "
                f"| {our_compile:.1f} / {their_compile:.1f} |",
                flush=True,
            )
    drivers(quick)


def drivers(quick):
    """The deterministic recurrence by its three drivers."""
    print()
    print("| T, d, m | driver | ms | compile, s |")
    print("|---|---|---|---|")
    for steps, d, m in ((10_000, 16, 1), (10_000, 16, 16), (2_000, 64, 64)):
        keys = jax.random.split(jax.random.key(0), 5)
        tokens = {
            "keys": jax.random.normal(keys[0], (steps, d)),
            "values": jax.random.normal(keys[1], (steps, m)),
            "queries": jax.random.normal(keys[2], (steps, d)),
            "alpha": jax.random.uniform(keys[3], (steps,)),
            "beta": jax.random.uniform(keys[4], (steps,)),
        }
        for method in ("sequential", "chunked", "associative"):
            run = partial(_attend, method)
            compile_time, quartiles = measure(run, tokens, repeats=3 if quick else 7)
            size = ", ".join(f"{n:,}".replace(",", " ") for n in (steps, d, m))
            print(f"| {size} | {method} | {1e3 * quartiles[1]:.3g} | {compile_time:.1f} |")


def _attend(method, tokens):
    return ssmlin.linear_attention("gated_deltanet", **tokens, method=method)


if __name__ == "__main__":
    jnp.zeros(()).block_until_ready()  # start the backend before anything is timed
    main()
