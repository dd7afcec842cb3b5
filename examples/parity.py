"""Parity, learned: negative eigenvalues decide whether a linear attention can count modulo two.

A single head reads bits; α, β, k, v and q are learned functions of the bit, and a linear map of
the output says the parity so far. Trained on words of 3 to 40 bits, tested on 40 to 256. Printed is
the scaled accuracy, 2·accuracy − 1, beside that of arXiv 2411.12537.
Run as `python examples/parity.py`, with `--figure PATH` for a figure.
"""

import argparse
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

import ssmlin

DIM, TRAIN, TEST, STEPS, STARTS = 4, 40, 256, 1200, 16
#: Mechanism and whether eigenvalues may be negative: the gate's range and the published accuracy.
RANGES = {
    ("deltanet", False): (0, 1),
    ("deltanet", True): (0, 2),
    ("mamba2", False): (0, 1),
    ("mamba2", True): (-1, 1),
}
PUBLISHED = dict(zip(RANGES, (0.017, 1.000, 0.000, 1.000), strict=True))


def initialize(key):
    """A row for each bit."""
    keys = jax.random.split(key, 5)
    shapes = {"keys": (2, DIM), "values": (2, DIM), "queries": (2, DIM), "gate": (2,),
              "readout": (DIM,)}  # fmt: skip
    params = {
        name: jax.random.normal(k, shape)
        for k, (name, shape) in zip(keys, shapes.items(), strict=True)
    }
    return params | {"bias": jnp.zeros(())}


def logits(params, bits, mechanism, negative):
    """Of the parity after each bit."""
    tokens = {name: params[name][bits] for name in ("keys", "values", "queries")}
    low, high = RANGES[mechanism, negative]
    gate = low + (high - low) * jax.nn.sigmoid(4 * params["gate"][bits])
    name = {"deltanet": "beta", "mamba2": "alpha"}[mechanism]
    outputs = ssmlin.linear_attention(
        mechanism, **tokens, **{name: gate}, negative_eigenvalues=negative
    )
    return outputs @ params["readout"] + params["bias"]


@partial(jax.jit, static_argnums=(1, 2))
def train(key, mechanism, negative):
    """Adam on fresh words; their lengths are drawn, and every prefix counts."""
    start_key, data_key = jax.random.split(key)
    optimizer = optax.adam(optax.cosine_decay_schedule(3e-2, STEPS))
    params = initialize(start_key)

    def loss(params, bits, lengths):
        found = jax.vmap(lambda b: logits(params, b, mechanism, negative))(bits)
        terms = optax.sigmoid_binary_cross_entropy(found, jnp.cumsum(bits, axis=1) % 2)
        return jnp.mean(terms, where=jnp.arange(TRAIN) < lengths[:, None])

    def step(carry, key):
        params, state = carry
        bit_key, length_key = jax.random.split(key)
        bits = jax.random.bernoulli(bit_key, 0.5, (64, TRAIN)).astype(int)
        lengths = jax.random.randint(length_key, (64,), 3, TRAIN + 1)
        value, grad = jax.value_and_grad(loss)(params, bits, lengths)
        updates, state = optimizer.update(grad, state)
        return (optax.apply_updates(params, updates), state), value

    start = params, optimizer.init(params)
    (params, _), losses = jax.lax.scan(step, start, jax.random.split(data_key, STEPS))
    return params, losses


@partial(jax.jit, static_argnums=(1, 2))
def scaled_accuracy(params, mechanism, negative):
    """After each bit of words of 256, the state carried on."""
    bits = jax.random.bernoulli(jax.random.key(99), 0.5, (128, TEST)).astype(int)
    found = jax.vmap(lambda b: logits(params, b, mechanism, negative))(bits)
    right = (found > 0) == (jnp.cumsum(bits, axis=1) % 2 == 1)
    return 2 * jnp.mean(right, axis=0) - 1


def reach(mechanism, negative):
    """Of several starts the one with the least training loss."""
    keys = jax.random.split(jax.random.key(0), STARTS)
    params, losses = jax.vmap(lambda key: train(key, mechanism, negative))(keys)
    best = int(np.argmin(losses[:, -50:].mean(axis=1)))
    chosen = jax.tree.map(lambda x: x[best], params)
    return np.asarray(scaled_accuracy(chosen, mechanism, negative))


def span(mechanism, negative):
    """The gate and its range, in words."""
    gate = {"deltanet": "β", "mamba2": "α"}[mechanism]
    return "{} in [{}, {}]".format(gate, *RANGES[mechanism, negative])


def draw(path, curves):
    """Scaled accuracy against length, in means over eight lengths."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.axvspan(0, TRAIN, color="0.93", lw=0)
    axes.text(TRAIN + 3, 0.5, "← trained on\n    these lengths", color="0.35", size=9, va="center")
    lengths = np.arange(1, TEST + 1).reshape(-1, 8).mean(axis=1)
    styles = dict(zip(RANGES, ("--", "-", "--", "-"), strict=True))
    for (mechanism, negative), curve in curves.items():
        color, width = {"deltanet": ("#0072b2", 4.5), "mamba2": ("#e69f00", 1.6)}[mechanism]
        axes.plot(lengths, curve.reshape(-1, 8).mean(axis=1), styles[mechanism, negative],
                  color=color, lw=width if negative else 1.6,
                  label=f"{mechanism}, {span(mechanism, negative)}")  # fmt: skip
    axes.set(xlim=(0, TEST), ylim=(-0.3, 1.08), xlabel="length of the word",
             ylabel="2 · accuracy − 1")  # fmt: skip
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="center right", bbox_to_anchor=(1, 0.55))
    figure.savefig(path, dpi=110)


def main(figure):
    """Print the table."""
    curves = {}
    for case, published in PUBLISHED.items():
        curves[case] = reach(*case)
        reached = curves[case][TRAIN:].mean()
        print(f"{case[0]:9s} {span(*case):13s} {reached:6.3f}   (published {published:.3f})",
              flush=True)  # fmt: skip
        assert reached >= 0.99 if case[1] else reached <= 0.1
    if figure:
        draw(figure, curves)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--figure", metavar="PATH", help="save a figure of the result")
    main(parser.parse_args().figure)
