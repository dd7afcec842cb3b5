"""Which words of a group a mechanism can track: constructed and run, or ruled out with a reason."""

import functools
import itertools
from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from ssmlin.mechanisms import MECHANISMS, linear_attention
from ssmlin.study._capabilities import Gates, transition_spectrum


class Group(NamedTuple):
    """A group of orthogonal matrices, each a product of reflections.

    Attributes:
        name: as it is known.
        elements: matrices, (n, d, d).
        reflections: for each element unit vectors whose reflections give it, fewer padded by
            zeros, (n, n_h, d).
    """

    name: str
    elements: Float[np.ndarray, "n d d"]
    reflections: Float[np.ndarray, "n n_h d"]


def reflections_of(matrix: Float[np.ndarray, "d d"], count: int) -> Float[np.ndarray, "count d"]:
    r"""Unit vectors k with $M = \prod_j (I - 2 k_j k_j^\top)$, the fewest, padded by zeros.

    By Cartan and Dieudonné: reflections that bring one basis of the moved space home after the
    other; an orthogonal matrix needs as many as the rank of M − I.

    Raises:
        ValueError: more than `count` are needed.
    """
    d = len(matrix)
    left: np.ndarray = matrix.astype(float)
    reflections: list[np.ndarray] = []
    while True:
        moved = left - np.eye(d)
        lengths = np.linalg.norm(moved, axis=0)
        if lengths.max() < 1e-9:
            break
        # The reflection that sends column j of what is left to e_j lowers the rank by one.
        rank = np.linalg.matrix_rank(moved, tol=1e-9)
        for j in np.argsort(-lengths):
            if lengths[j] < 1e-9:
                continue
            k = moved[:, j] / lengths[j]
            shorter = left - 2 * np.outer(k, k @ left)
            if np.linalg.matrix_rank(shorter - np.eye(d), tol=1e-9) < rank:
                break
        reflections.append(k)
        left = shorter
    if len(reflections) > count:
        raise ValueError(f"count: expected at least {len(reflections)}, got {count}")
    padding = [np.zeros(d)] * (count - len(reflections))
    return np.array(reflections + padding).reshape(count, d)


def _closure(generators: Sequence[Float[np.ndarray, "d d"]]) -> Float[np.ndarray, "n d d"]:
    """All products of the generators of a group of at most 120 elements."""
    elements = [np.eye(len(generators[0]))]
    for x in elements:
        for g in generators:
            y = x @ g
            if not any(np.allclose(y, z) for z in elements):
                elements.append(y)
        assert len(elements) <= 120
    return np.array(elements)


@functools.cache
def groups() -> tuple[Group, ...]:
    """Parity, S3, S4, A5 and S5 with the fewest reflections a token that make all elements."""
    golden = (1 + np.sqrt(5)) / 2
    turn = 0.5 * np.array(
        [[1, -golden, golden - 1], [golden, golden - 1, -1], [golden - 1, 1, golden]]
    )
    # Rotations of the cube, which permute its four diagonals, and of the icosahedron.
    quarter = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    cycle = np.array([[0.0, 0, 1], [1, 0, 0], [0, 1, 0]])

    def permutations(n: int) -> Float[np.ndarray, "_ {n} {n}"]:
        return np.array([np.eye(n)[list(p)] for p in itertools.permutations(range(n))])

    elements = (
        ("parity", np.array([[[1.0]], [[-1.0]]]), 1),
        ("S3", permutations(3), 2),
        ("S4", _closure([quarter, cycle]), 2),
        ("A5", _closure([turn, cycle]), 2),
        ("S5", permutations(5), 4),
    )
    return tuple(
        Group(name, x, np.array([reflections_of(element, count) for element in x]))
        for name, x, count in elements
    )


def tracking_error(group: Group, num_steps: int, length: int = 4096, seed: int = 0) -> float:
    """How far `deltaproduct` strays from a random word of a group, run as a recurrence.

    Each token is an element; its reflections are its keys, with β = 2, and nothing is written. The
    memory starts as the identity, and after each token it should be the product so far.

    Args:
        group: the group.
        num_steps: n_h; `deltanet` is n_h = 1.
        length: of the word.
        seed: of the word.

    Returns:
        The largest error of an entry of the memory at any step, in single precision.

    Raises:
        ValueError: elements that need more reflections than n_h.
    """
    needed = int((np.linalg.norm(group.reflections, axis=2) > 0).sum(axis=1).max())
    if needed > num_steps:
        raise ValueError(f"num_steps: expected at least {needed}, got {num_steps}")
    word = np.random.default_rng(seed).integers(0, len(group.elements), size=length)
    d = group.elements.shape[1]
    keys = np.zeros((length, num_steps, d))
    keys[:, : group.reflections.shape[1]] = group.reflections[word][:, :num_steps]
    _, states = linear_attention(
        "deltaproduct",
        keys=jnp.asarray(keys, jnp.float32),
        values=jnp.zeros((length, num_steps, d), jnp.float32),
        queries=jnp.zeros((length, d), jnp.float32),
        beta=2.0,
        negative_eigenvalues=True,
        initial_state=jnp.eye(d, dtype=jnp.float32),
        return_states=True,
    )
    product, largest = np.eye(d), 0.0
    for element, state in zip(group.elements[word], np.asarray(states), strict=True):
        product = product @ element
        largest = max(largest, float(np.abs(product - state).max()))
    return largest


def parity_error(name: str, length: int = 4096, seed: int = 0) -> float:
    """How far a mechanism strays from the parity of random bits, in a memory of one number.

    The memory starts at 1 and is multiplied by −1 at each bit that is 1; nothing is written.

    Args:
        name: of a mechanism whose transitions have the eigenvalue −1.
        length: of the word.
        seed: of the word.

    Returns:
        The largest error of the memory at any step, in single precision.

    Raises:
        ValueError: a mechanism without negative eigenvalues, or without a construction here.
    """
    mechanism = MECHANISMS[name]
    bits = jnp.asarray(np.random.default_rng(seed).integers(0, 2, size=length), jnp.float32)
    column, ones = bits[:, None], jnp.ones((length, 1), jnp.float32)
    gates: Gates
    if (signed := mechanism.signed_gate) is not None:
        decays = [name for name, gate in mechanism.gates.items() if gate.kind == "decay"]
        axes = mechanism.gates[signed].axes(mechanism.multi_step)
        turns = 2 * (column if axes else bits)
        gates = dict.fromkeys(mechanism.gates, 1.0)
        gates[signed] = 1 - turns if signed in decays else turns
    elif "removal_rate" in mechanism.gates:
        gates = {"decay": 1 - column, "removal_rate": column, "removal_key": ones}
    else:
        raise ValueError(f"name: expected one with negative eigenvalues, got {name!r}")
    keys = values = ones
    if mechanism.multi_step:
        keys = values = ones[:, None]
    _, states = linear_attention(
        name,
        keys=keys,
        values=jnp.zeros_like(values),
        queries=ones,
        **gates,
        negative_eigenvalues=mechanism.signed_gate is not None,
        # What rwkv7 writes are its keys times the values, which are zero.
        initial_state=jnp.ones((1, 1), jnp.float32),
        return_states=True,
    )
    signs = np.cumprod(1 - 2 * np.asarray(bits, np.float64))
    return float(np.abs(np.asarray(states)[:, 0, 0] - signs).max())


def tracked_groups(name: str) -> dict[str, str]:
    """Which groups a mechanism tracks in one layer, and why not the others.

    A word is tracked by transitions that permute finitely many states, so their eigenvalues there
    have modulus one, and are not all 1 where a letter changes something. The arguments, with the
    eigenvalues of :func:`transition_spectrum`:

    * no eigenvalue of −1: at finite precision a letter of order two has no transition, and there
      is no counting modulo two (arXiv 2411.12537, theorem 1);
    * no eigenvalue that is not real: a letter of order three has none. One step of rank one has
      real ones, since it is similar to a symmetric matrix;
    * a product of n_h reflections differs from the identity by rank n_h at most, so a letter wants
      as many steps as the rank of its matrix less the identity.

    Returns:
        For each group "yes" with what it takes, or "no" with the argument.
    """
    mechanism, spectrum = MECHANISMS[name], transition_spectrum(name)
    answers = {}
    for group in groups():
        # A letter of order three or more turns a plane.
        turns = np.abs(np.linalg.eigvals(group.elements).imag).max() > 1e-6
        needed = int((np.linalg.norm(group.reflections, axis=2) > 0).sum(axis=1).max())
        if spectrum.smallest_real > -1 + 1e-6:
            answers[group.name] = "no (−1)"
        elif turns and spectrum.largest_imaginary < 1e-6:
            answers[group.name] = "no (real)"
        else:
            answers[group.name] = f"yes, n_h = {needed}" if mechanism.multi_step else "yes"
    return answers
