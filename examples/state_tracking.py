"""Words of S3, learned: with two reflections a token a linear attention can follow permutations.

A single head of `deltaproduct` with eigenvalues in [-1, 1] reads elements of S3, the permutations
of three things; keys, values, β and q are a learned row for each element, the state starts at a
learned one, and a linear map of the output says the product of all elements so far. With one
micro-step a token (n_h = 1) A_t is a reflection at most, and two of the six elements are rotations;
with two (n_h = 2) it can be any of them, so S3 is solved, as in arXiv 2502.10297. Trained on words
of 3 to 32 elements, tested on 256; chance is 1/6, and 1/3 for who knows the sign alone.
Run as `python examples/state_tracking.py`, with `--figure PATH` for a figure.
"""

import argparse
from functools import partial
from itertools import permutations

import jax
import jax.numpy as jnp
import numpy as np
import optax

import ssmlin

DIM, TRAIN, TEST, STEPS, STARTS, BATCH = 4, 32, 256, 1500, 8, 32
LENGTHS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
ELEMENTS = tuple(permutations(range(3)))
#: The place of the product of two elements.
PRODUCT = jnp.array([[ELEMENTS.index(tuple(a[i] for i in b)) for b in ELEMENTS] for a in ELEMENTS])


def words(key, number, length):
    """Random words and the product of every prefix."""
    drawn = jax.random.randint(key, (length, number), 0, len(ELEMENTS))

    def follow(product, element):
        product = PRODUCT[product, element]
        return product, product

    _, products = jax.lax.scan(follow, jnp.zeros(number, int), drawn)
    return drawn.T, products.T


def initialize(key, num_steps):
    """A row for each element."""
    keys = jax.random.split(key, 6)
    n = len(ELEMENTS)
    shapes = {"keys": (n, num_steps, DIM), "values": (n, num_steps, DIM), "gate": (n, num_steps),
              "queries": (n, DIM), "start": (DIM, DIM), "readout": (DIM, n)}  # fmt: skip
    params = {
        name: jax.random.normal(k, shape)
        for k, (name, shape) in zip(keys, shapes.items(), strict=True)
    }
    return params | {"values": 0.1 * params["values"], "bias": jnp.zeros(n)}


def logits(params, word):
    """Of the product after each element."""
    outputs = ssmlin.linear_attention(
        "deltaproduct", **{name: params[name][word] for name in ("keys", "values", "queries")},
        beta=2 * jax.nn.sigmoid(4 * params["gate"][word]), initial_state=params["start"],
        negative_eigenvalues=True,
    )  # fmt: skip
    return outputs @ params["readout"] + params["bias"]


@partial(jax.jit, static_argnums=1)
def train(key, num_steps):
    """Train by Adam on fresh words; their lengths are drawn, and every prefix counts."""
    start_key, data_key = jax.random.split(key)
    params = initialize(start_key, num_steps)
    # What is written adds up in the state, so values decay unless they serve.
    optimizer = optax.adamw(
        optax.cosine_decay_schedule(3e-2, STEPS), weight_decay=1.0,
        mask={name: name == "values" for name in params},
    )  # fmt: skip

    def loss(params, drawn, products, lengths):
        found = jax.vmap(lambda word: logits(params, word))(drawn)
        terms = optax.softmax_cross_entropy_with_integer_labels(found, products)
        return jnp.mean(terms, where=jnp.arange(TRAIN) < lengths[:, None])

    def step(carry, key):
        params, state = carry
        word_key, length_key = jax.random.split(key)
        drawn, products = words(word_key, BATCH, TRAIN)
        lengths = jax.random.randint(length_key, (BATCH,), 3, TRAIN + 1)
        value, grad = jax.value_and_grad(loss)(params, drawn, products, lengths)
        updates, state = optimizer.update(grad, state, params)
        return (optax.apply_updates(params, updates), state), value

    start = params, optimizer.init(params)
    (params, _), losses = jax.lax.scan(step, start, jax.random.split(data_key, STEPS))
    return params, losses


@jax.jit
def accuracy(params):
    """After each of 256 elements, over many words."""
    drawn, products = words(jax.random.key(99), 512, TEST)
    found = jax.vmap(lambda word: logits(params, word))(drawn)
    return jnp.mean(found.argmax(axis=-1) == products, axis=0)


def reach(num_steps):
    """Of several starts the one with the least training loss; and how many learned the task."""
    keys = jax.random.split(jax.random.key(0), STARTS)
    params, losses = jax.vmap(lambda key: train(key, num_steps))(keys)
    losses = np.asarray(losses[:, -50:].mean(axis=1))
    chosen = jax.tree.map(lambda x: x[losses.argmin()], params)
    return np.asarray(accuracy(chosen)), int(np.sum(losses < 0.01))


def draw(path, curves):
    """Accuracy against length, in means over windows that widen with it."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    edges = np.unique(np.round(2 ** np.arange(0, np.log2(TEST) + 0.1, 0.5)).astype(int))
    axes.axvspan(1, TRAIN, color="0.93", lw=0)
    axes.text(1.1, 0.03, "trained on these lengths", color="0.35", size=9)
    axes.axhline(1 / 6, color="0.5", ls=":", lw=1.2)
    axes.text(TEST, 1 / 6 - 0.015, "chance", color="0.35", size=9, ha="right", va="top")
    axes.axhline(1 / 3, color="0.5", ls=":", lw=1.2)
    axes.text(TEST, 1 / 3 - 0.015, "the sign alone", color="0.35", size=9, ha="right", va="top")
    for (num_steps, curve), color in zip(curves.items(), ("#d55e00", "#0072b2"), strict=True):
        means = [curve[a - 1 : b - 1].mean() for a, b in zip(edges, edges[1:], strict=False)]
        places = np.sqrt(edges[:-1] * (edges[1:] - 1.0))
        axes.plot(
            places, means, color=color, marker="o", ms=4, lw=1.6, label=f"$n_h$ = {num_steps}"
        )
    axes.set_xscale("log", base=2)
    axes.set_xticks(LENGTHS, [str(n) for n in LENGTHS])
    axes.set(xlim=(1, TEST), ylim=(0, 1.04), xlabel="length of the word", ylabel="accuracy")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="center right", bbox_to_anchor=(1, 0.65))
    figure.savefig(path, dpi=110)


def main(figure):
    """Print the table."""
    print("accuracy by length: " + "".join(f"{n:7d}" for n in LENGTHS) + "   starts that learn it")
    curves = {}
    for num_steps in (1, 2):
        curves[num_steps], learned = reach(num_steps)
        shown = "".join(f"{curves[num_steps][n - 1]:7.3f}" for n in LENGTHS)
        print(f"n_h = {num_steps}             {shown}   {learned} of {STARTS}", flush=True)
    assert curves[2].min() > 0.9
    assert curves[1][TRAIN - 1 :].mean() < 0.4
    if figure:
        draw(figure, curves)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--figure", metavar="PATH", help="save a figure of the result")
    main(parser.parse_args().figure)
