"""Associative recall, learned: which memory of 16 × 16 still knows what was written last.

Pairs of a key and a value token are written one after another, and every third gives a new value to
a key that was written before; then the memory is asked for all keys, and the last value counts:
the recall of Zoology (arXiv 2312.04927) with overwriting, where a pair is one token and questions
only read. Keys, values, queries and the gates are learned rows for the 64 key and 64 value tokens,
with the same budget for all; one layer, d = m = 16. `bayesian_memory` is read with the posterior
mean of the exact filter, whose noise variances are learned too. With jumps, its process noise has a
part along the key as well, of a learned variance: it expects that a key may get a new value.
Printed is the accuracy after 4, 8, 16 and 32 keys, with the standard deviation over seeds.
Run as `python examples/associative_recall.py`, with `--figure PATH` for a figure.
"""

import argparse
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

import ssmlin

DIM, TOKENS, STEPS, SEEDS, BATCH = 16, 64, 500, 3, 16
PAIRS = (4, 8, 16, 32)
#: Gates of each mechanism, and the shape of a row.
GATES = {
    "vanilla": {},
    "mamba2": {"alpha": ()},
    "gla": {"decay": (DIM,)},
    "deltanet": {"beta": ()},
    "gated_deltanet": {"alpha": (), "beta": ()},
    "kda": {"decay": (DIM,), "beta": ()},
    "longhorn": {"beta": ()},
    "rwkv7": {"decay": (DIM,), "removal_rate": (DIM,)},
    "deltaproduct": {"beta": (2,)},
    "bayesian_memory": {"alpha": ()},
    "bayesian_memory, jumps": {"alpha": (), "jump": ()},
}


def words(key, number):
    """Keys and values written, the keys in the order of their first writing, and the answers.

    After 3n/2 writes n keys are known; answers are the places of the values that count then.
    """
    last, writes = PAIRS[-1], 3 * PAIRS[-1] // 2
    keys = jax.random.split(key, 3)
    time = jnp.arange(writes)
    seen = 2 * (time // 3 + 1)
    repeats = jax.random.randint(keys[0], (number, writes), 0, seen)
    places = jnp.where(time % 3 < 2, 2 * (time // 3) + time % 3, repeats)
    order = jax.vmap(lambda k: jax.random.permutation(k, TOKENS)[:last])(
        jax.random.split(keys[1], number)
    )
    values = jax.random.randint(keys[2], (number, writes), 0, TOKENS)
    known = jnp.where(places[:, :, None] == jnp.arange(last), time[:, None], -1)
    latest = jax.lax.cummax(known, axis=1)[:, np.array(PAIRS) * 3 // 2 - 1]
    answers = jax.vmap(lambda v, i: v[i])(values, latest)
    return jnp.take_along_axis(order, places, axis=1), values, order, answers


def initialize(key, mechanism):
    """A row for each token; queries begin as the keys."""
    keys = jax.random.split(key, 3)
    steps = (2,) if mechanism == "deltaproduct" else ()
    rows = jax.random.normal(keys[0], (TOKENS, *steps, DIM)) / jnp.sqrt(DIM)
    params = {
        "keys": rows,
        "queries": rows[:, 0] if steps else rows,
        "values": jax.random.normal(keys[1], (TOKENS, *steps, DIM)),
        "readout": jax.random.normal(keys[2], (DIM, TOKENS)) / jnp.sqrt(DIM),
    }
    params |= {name: jnp.full((TOKENS, *shape), 3.0) for name, shape in GATES[mechanism].items()}
    if mechanism == "rwkv7":
        params["removal_key"] = rows
    if mechanism.startswith("bayesian_memory"):
        params |= {"process_noise": jnp.array(-3.0), "emission_noise": jnp.array(-3.0)}
    return params


def states(params, mechanism, keys, values):
    """The memory after each write."""
    gates = {name: jax.nn.sigmoid(params[name][keys]) for name in GATES[mechanism]}
    rows = {name: params[name][keys] for name in ("keys", "queries")}
    rows["values"] = params["values"][values]
    if mechanism.startswith("bayesian_memory"):
        jump = jnp.sqrt(gates.pop("jump", jnp.zeros(len(keys))))
        noise = ssmlin.lgssm.DiagPlusLowRank(
            jnp.full_like(rows["keys"], jnp.exp(params["process_noise"])),
            (jump[:, None] * rows["keys"])[:, :, None],
        )
        lgssm = ssmlin.matrix_lgssm(
            "bayesian_memory", keys=rows["keys"], value_dim=DIM, process_noise=noise,
            emission_noise=jnp.exp(params["emission_noise"]), **gates,
        )  # fmt: skip
        return ssmlin.matrix_lgssm_filter(lgssm, rows["values"], store="means").filtered_means
    if mechanism == "rwkv7":
        gates["removal_key"] = params["removal_key"][keys]
    return ssmlin.linear_attention(mechanism, **rows, **gates, return_states=True)[1]


def logits(params, mechanism, keys, values, order):
    """Of the value of every key, at the times when 4, 8, 16 and 32 are known."""
    known = states(params, mechanism, keys, values)[np.array(PAIRS) * 3 // 2 - 1]
    return jnp.einsum("tmd,kd->tkm", known, params["queries"][order]) @ params["readout"]


def over_known(x):
    """The mean over words and the keys known at each time."""
    return jnp.mean(x, axis=(0, 2), where=jnp.arange(PAIRS[-1]) < np.array(PAIRS)[:, None])


@partial(jax.jit, static_argnums=1)
def reach(key, mechanism):
    """Train by Adam on fresh words; the accuracy for each number of keys."""
    start_key, data_key, test_key = jax.random.split(key, 3)
    optimizer = optax.adam(optax.cosine_decay_schedule(2e-2, STEPS))
    params = initialize(start_key, mechanism)

    def read(params, word):
        return jax.vmap(lambda *one: logits(params, mechanism, *one))(*word[:3])

    def loss(params, word):
        terms = optax.softmax_cross_entropy_with_integer_labels(read(params, word), word[3])
        return over_known(terms).mean()

    def step(carry, key):
        params, state = carry
        value, grad = jax.value_and_grad(loss)(params, words(key, BATCH))
        updates, state = optimizer.update(grad, state)
        return (optax.apply_updates(params, updates), state), value

    start = params, optimizer.init(params)
    (params, _), _ = jax.lax.scan(step, start, jax.random.split(data_key, STEPS))
    word = words(test_key, 256)
    return over_known(read(params, word).argmax(axis=-1) == word[3])


#: Panels of the figure.
FAMILIES = {
    "additive": ("vanilla", "mamba2", "gla"),
    "delta rule": ("deltanet", "gated_deltanet", "kda", "longhorn", "rwkv7", "deltaproduct"),
    "exact filter": ("bayesian_memory", "bayesian_memory, jumps"),
}
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#000000")


def draw(path, found):
    """Accuracy against the number of keys, a panel for each family, the others in grey."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    panels = figure.subplots(1, len(FAMILIES), sharey=True)
    for axes, (family, members) in zip(panels, FAMILIES.items(), strict=True):
        for name, (mean, _) in found.items():
            if name not in members:
                axes.plot(PAIRS, mean, color="0.85", lw=1)
        for name, color, marker in zip(members, COLORS, "osD^vP", strict=False):
            mean, spread = found[name]
            axes.errorbar(PAIRS, mean, spread, color=color, marker=marker, ms=4.5, lw=1.5,
                          capsize=2, label=name)  # fmt: skip
        axes.set_xscale("log", base=2)
        axes.set_xticks(PAIRS, [str(n) for n in PAIRS])
        axes.set(title=family, xlabel="keys in memory", ylim=(0, 1.03))
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, loc="lower left", fontsize=9)
    panels[0].set_ylabel("accuracy")
    figure.savefig(path, dpi=110)


def main(figure):
    """Print the table."""
    print("accuracy after keys:    " + "".join(f"{n:15d}" for n in PAIRS))
    found = {}
    for mechanism in GATES:
        keys = jax.random.split(jax.random.key(0), SEEDS)
        reached = np.asarray(jax.vmap(lambda key, name=mechanism: reach(key, name))(keys))
        found[mechanism] = mean, spread = reached.mean(axis=0), reached.std(axis=0, ddof=1)
        shown = "".join(f"  {m:.3f} ± {s:.3f}" for m, s in zip(mean, spread, strict=True))
        print(f"{mechanism:24s}{shown}", flush=True)
    for name in FAMILIES["delta rule"]:
        assert (found[name][0] > found["vanilla"][0] + 0.04).all()
    jumps = found["bayesian_memory, jumps"][0]
    assert (jumps > found["bayesian_memory"][0]).all()
    assert (jumps > found["deltanet"][0] + 0.01)[2:].all()
    if figure:
        draw(figure, found)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--figure", metavar="PATH", help="save a figure of the result")
    main(parser.parse_args().figure)
