"""What mechanisms can do, measured: one function a question, the same for all of them.

Gates are those that serve the question, within each mechanism's own ranges; nothing is trained.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy import stats

from ssmlin.inference import matrix_lgssm_filter, matrix_lgssm_sample
from ssmlin.mechanisms import MECHANISMS, linear_attention, matrix_lgssm
from ssmlin.mechanisms.base import make_tokens
from ssmlin.mechanisms.recurrence import token_operators
from ssmlin.mechanisms.registry import get_mechanism

_DIM = 16
_MICRO_STEPS = 2
#: Of the regression that `bayesian_memory` is: small, so that it stores what it is given.
_NOISE = 1e-4


def _gates(name: str, keys: Array, keep: float, write: float) -> dict[str, Any]:
    """Gates that keep and write so much, as far as the mechanism has them."""
    mechanism = MECHANISMS[name]
    values = {"decay": keep, "rate": write, "key": keys}
    return {name: values[gate.kind] for name, gate in mechanism.gates.items()}


def _tokens(name: str, keys: Array, values: Array, keep: float, write: float) -> dict[str, Any]:
    """Tokens of a mechanism; further micro-steps write nothing."""
    gates = _gates(name, keys, keep, write)
    if not MECHANISMS[name].multi_step:
        return {"keys": keys, "values": values, **gates}
    first = np.arange(_MICRO_STEPS) == 0

    def spread(x: Array) -> Array:
        return jnp.stack([x, *[jnp.roll(x, 1, axis=1)] * (_MICRO_STEPS - 1)], axis=1)

    rates = jnp.broadcast_to(write * jnp.asarray(first, keys.dtype), (len(keys), _MICRO_STEPS))
    per_step = [name for name, gate in MECHANISMS[name].gates.items() if gate.per == "step"]
    gates |= dict.fromkeys(per_step, rates)
    return {"keys": spread(keys), "values": spread(values), **gates}


def final_state(
    name: str,
    keys: Float[Array, "T d"],
    values: Float[Array, "T m"],
    keep: float = 1.0,
    write: float = 1.0,
) -> Float[Array, "m d"]:
    """The memory after writing pairs, from an empty one.

    Args:
        name: of the mechanism.
        keys: k, (T, d).
        values: v, (T, m).
        keep: the decays α, a and w.
        write: the learning rate β, and the removal rate of rwkv7, whose removal key is the key.

    Returns:
        S_T; for `bayesian_memory` its posterior mean.
    """
    tokens = _tokens(name, keys, values, keep, write)
    if not MECHANISMS[name].writes_values:
        noise = max(1e-12, 1 - keep**2)  # what keeps the prior variance
        lgssm = matrix_lgssm(name, **tokens, emission_noise=_NOISE, process_noise=noise)
        found: Any = matrix_lgssm_filter(lgssm, values, store="last")
        return found.filtered_means[-1]
    _, states = linear_attention(name, **tokens, queries=keys, return_states=True)
    return states[-1]


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def _pairs(rng: np.random.Generator, count: int, collision: float) -> tuple[Array, Array]:
    """Unit keys whose cosines are `collision` on average, and normal values."""
    common = _unit(rng.normal(size=_DIM))
    own = _unit(rng.normal(size=(count, _DIM)))
    own = _unit(own - (own @ common)[:, None] * common)
    keys = np.sqrt(collision) * common + np.sqrt(1 - collision) * own
    return jnp.asarray(keys), jnp.asarray(rng.normal(size=(count, _DIM)))


def _error(state: Array, keys: Array, values: Array) -> float:
    """The mean squared error of recall over the mean square of the values."""
    return float(jnp.sum((keys @ state.T - values) ** 2) / jnp.sum(values**2))


def recall_error(name: str, num_pairs: int, collision: float = 0.0, num_trials: int = 8) -> float:
    """How badly pairs are recalled, all written once: 0 is perfect, 1 is recalling nothing.

    Keys are unit vectors in R^16, their cosines `collision` on average; nothing is forgotten and
    all is written (α = β = 1).
    """
    rng = np.random.default_rng(0)
    trials = [_pairs(rng, num_pairs, collision) for _ in range(num_trials)]
    return float(np.mean([_error(final_state(name, *trial), *trial) for trial in trials]))


def overwriting_error(name: str, num_trials: int = 8) -> float:
    """How badly the second value is recalled of eight orthogonal keys that were written twice.

    With the best of the decays 1, 0.9 and 0.7.
    """
    rng = np.random.default_rng(0)
    errors = []
    for _ in range(num_trials):
        keys = jnp.asarray(np.linalg.qr(rng.normal(size=(_DIM, _DIM)))[0][:8])
        old, new = jnp.asarray(rng.normal(size=(2, 8, _DIM)))
        both = jnp.concatenate([keys, keys]), jnp.concatenate([old, new])
        states = [final_state(name, *both, keep) for keep in (1.0, 0.9, 0.7)]
        errors.append([_error(state, keys, new) for state in states])
    return float(np.mean(errors, axis=0).min())


def half_life(name: str, keep: float = 0.98, write: float = 0.5, longest: int = 512) -> float:
    """Tokens until half of the first association is forgotten, random ones written after it.

    Args:
        name: of the mechanism.
        keep: its decays.
        write: its learning rate.
        longest: look so far.

    Returns:
        The number of tokens, the median of eight trials; infinite where it is more.
    """
    rng = np.random.default_rng(0)

    def trial() -> float:
        keys = jnp.asarray(_unit(rng.normal(size=(longest + 1, _DIM))))
        # Later values are zero, so what is read with the first key is left of its value.
        values = jnp.zeros((longest + 1, _DIM)).at[0, 0].set(1.0)
        tokens = _tokens(name, keys, values, keep, write)
        if MECHANISMS[name].writes_values:
            _, states = linear_attention(name, **tokens, queries=keys, return_states=True)
        else:
            lgssm = matrix_lgssm(
                name, **tokens, emission_noise=1.0, process_noise=max(1e-12, 1 - keep**2)
            )
            found: Any = matrix_lgssm_filter(lgssm, values)
            states = found.filtered_means
        left = np.asarray(states[:, 0] @ keys[0])
        below = np.flatnonzero(left < 0.5 * left[0])
        return float(below[0]) if len(below) else np.inf

    return float(np.median([trial() for _ in range(8)]))


def random_transitions(
    name: str, num_draws: int, length: int, d: int = 2
) -> Float[np.ndarray, "num_draws length d d"]:
    """Transitions A_t of random gates over all of their widest ranges, half of them at the ends."""
    rng = np.random.default_rng(0)
    mechanism = get_mechanism(name, MECHANISMS[name].signed_gate is not None)
    steps = num_draws * length
    micro = (_MICRO_STEPS,) if mechanism.multi_step else ()
    gates: dict[str, Any] = {}
    sizes = {"n_h": _MICRO_STEPS, "d": d, "m": 1}
    for gate, declared in mechanism.gates.items():
        low, high = mechanism.gate_range(gate)
        shape = (steps, *declared.shape(sizes, mechanism.multi_step))
        if declared.kind == "key":
            gates[gate] = rng.normal(size=shape)
        else:  # extremes are at the ends of the ranges
            ends = rng.integers(0, 2, size=shape).astype(float)
            inner = rng.uniform(size=shape)
            gates[gate] = low + (high - low) * np.where(rng.uniform(size=shape) < 0.5, ends, inner)
    arrays: dict[str, Any] = {k: jnp.asarray(v) for k, v in gates.items()}
    tokens, _ = make_tokens(
        mechanism,
        arrays,
        keys=jnp.asarray(_unit(rng.normal(size=(steps, *micro, d)))),
        values=jnp.zeros((steps, *micro, 1)),
        need_queries=False,
    )
    transitions = token_operators(mechanism, tokens)[0].to_dense()
    return np.asarray(transitions, np.float64).reshape(num_draws, length, d, d)


def largest_norm(name: str, num_draws: int = 2000, length: int = 4) -> float:
    """The largest ‖A_1 ⋯ A_n‖₂ that a random search over all allowed gates finds, d = 2."""
    transitions = random_transitions(name, num_draws, length)
    product = transitions[:, 0]
    largest = float(np.linalg.norm(product, ord=2, axis=(1, 2)).max())
    for i in range(1, length):
        product = product @ transitions[:, i]
        largest = max(largest, float(np.linalg.norm(product, ord=2, axis=(1, 2)).max()))
    return largest


class Spectrum(NamedTuple):
    """The eigenvalues of single transitions, over all allowed gates.

    Attributes:
        least: the least real part.
        turn: the largest imaginary part.
    """

    least: float
    turn: float


def spectrum(name: str, num_draws: int = 8000) -> Spectrum:
    """What a random search over all allowed gates finds of the eigenvalues of A_t, d = 2."""
    eigenvalues = np.linalg.eigvals(random_transitions(name, num_draws, 1)[:, 0])
    return Spectrum(float(eigenvalues.real.min()), float(np.abs(eigenvalues.imag).max()))


def gradient_reach(name: str, steps: int = 64, keep: float = 0.98, write: float = 0.5) -> float:
    """‖∂o_T/∂v_1‖ over ‖∂o_1/∂v_1‖, reading with the first key, T random keys later."""
    rng = np.random.default_rng(0)
    keys = jnp.asarray(_unit(rng.normal(size=(steps, _DIM))))

    def read(value: Array, count: int) -> Array:
        values = jnp.zeros((count, 1)).at[0, 0].set(value)
        return (final_state(name, keys[:count], values, keep, write) @ keys[0])[0]

    slopes = [float(jax.grad(read)(1.0, count)) for count in (steps, 1)]
    return abs(slopes[0] / slopes[1])


def coverage(name: str, shift: float = 1.0, level: float = 0.95, steps: int = 20_000) -> float:
    """The share of simulated emissions inside their predictive intervals.

    Args:
        name: of the mechanism, with random keys, values and queries, and noise in its memory.
        shift: the emissions' noise has so many times the standard deviation the model thinks.
        level: of the central intervals.
        steps: how many emissions.

    Returns:
        The share; `level` for a calibrated model.
    """
    rng = np.random.default_rng(0)
    keys = jnp.asarray(_unit(rng.normal(size=(steps, 4))))
    queries = jnp.asarray(_unit(rng.normal(size=(steps, 4))))
    tokens = _tokens(name, keys, jnp.asarray(rng.normal(size=(steps, 1))), 0.9, 0.5)

    def model(noise: float) -> Any:
        return matrix_lgssm(
            name, **tokens, queries=queries, process_noise=0.05, emission_noise=noise
        )

    emissions = matrix_lgssm_sample(jax.random.key(0), model(0.2 * shift**2))[1][0]
    found: Any = matrix_lgssm_filter(model(0.2), emissions, store="loglik")
    z = (emissions - found.emission_means)[:, 0] / jnp.sqrt(found.emission_scales)
    return float(jnp.mean(jnp.abs(z) <= stats.norm.ppf(0.5 + level / 2)))


class Cost(NamedTuple):
    """What a token costs.

    Attributes:
        flops: floating point operations of one step, as XLA counts them.
        microseconds: time of a step in a long sequence.
        slope: of the logarithm of time over that of T; 1 is linear.
        memory: bytes a token that the compiled program needs beside arguments and results, and
            those of the results.
        memory_slope: of the logarithm of the memory over that of T.
    """

    flops: float
    microseconds: float
    slope: float
    memory: float
    memory_slope: float


def cost(name: str, steps: Sequence[int] = (2048, 8192), repeats: int = 5) -> Cost:
    """What a token costs in single precision, d = m = 16, by the sequential recurrence.

    For `bayesian_memory` it is a step of the filter.
    """

    def arguments(count: int) -> tuple[dict[str, Any], Array]:
        rng = np.random.default_rng(0)
        keys = jnp.asarray(_unit(rng.normal(size=(count, _DIM))), jnp.float32)
        values = jnp.asarray(rng.normal(size=(count, _DIM)), jnp.float32)
        tokens = _tokens(name, keys, values, 0.98, 0.5)
        return {k: jnp.asarray(v, jnp.float32) for k, v in tokens.items()}, keys

    def run(tokens: dict[str, Any], queries: Array) -> Any:
        if MECHANISMS[name].writes_values:
            return linear_attention(name, **tokens, queries=queries)
        lgssm = matrix_lgssm(name, **tokens, emission_noise=0.1, process_noise=0.01)
        found: Any = matrix_lgssm_filter(lgssm, tokens["values"], store="loglik")
        return found.emission_means

    function = jax.jit(run)
    lowered = function.lower(*arguments(1))
    # Once compiled, the filter's products are calls of a library, which XLA does not count.
    counted: Any = lowered.compile() if MECHANISMS[name].writes_values else lowered
    seconds, sizes = [], []
    for count in steps:
        compiled = function.lower(*arguments(count)).compile()
        memory: Any = compiled.memory_analysis()
        sizes.append(memory.temp_size_in_bytes + memory.output_size_in_bytes)
        seconds.append(median_seconds(compiled, arguments(count), repeats))

    def slope(x: list[Any]) -> float:
        return float(np.log(x[-1] / x[0]) / np.log(steps[-1] / steps[0]))

    return Cost(
        flops=float(counted.cost_analysis()["flops"]),
        microseconds=1e6 * seconds[-1] / steps[-1],
        slope=slope(seconds),
        memory=sizes[-1] / steps[-1],
        memory_slope=slope(sizes),
    )


def median_seconds(function: Callable[..., Any], arguments: Any, repeats: int) -> float:
    """The median time of a call, compiling apart."""
    jax.block_until_ready(function(*arguments))
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        jax.block_until_ready(function(*arguments))
        times.append(time.perf_counter() - begin)
    return float(np.median(times))
