"""What mechanisms can do, measured: one function for each question, the same for all mechanisms.

Gates are those that serve the question, within each mechanism's own ranges; nothing is trained.
Three words stand for the gates of all mechanisms: `decay` is the value of every gate of kind
"decay" (α, a, w), `rate` that of every gate of kind "rate" (β, and the removal rate of rwkv7), and
gates of kind "key" (the removal key) are the keys.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree
from scipy import special

from ssmlin.inference import matrix_lgssm_filter, matrix_lgssm_sample
from ssmlin.lgssm import MatrixLGSSM
from ssmlin.mechanisms import (
    MECHANISMS,
    get_mechanism,
    linear_attention,
    make_tokens,
    matrix_lgssm,
    token_operators,
)

_DIM = 16
_MICRO_STEPS = 2
#: Noise of the regression that `bayesian_memory` is: small, so that it stores what it is given.
_NOISE = 1e-4


#: Gates by name, numbers or arrays; Any, since mypy holds what follows ** against every argument.
Gates = dict[str, Any]


class GatedTokens(NamedTuple):
    """Tokens and gates of a mechanism.

    Attributes:
        keys: k, (T, d), or (T, n_h, d) where a token has several micro-steps.
        values: v, (T, m) or (T, n_h, m).
        gates: the gates by name.
    """

    keys: Float[Array, "T *n_h d"]
    values: Float[Array, "T *n_h m"]
    gates: Gates


def _tokens(
    name: str, keys: Float[Array, "T d"], values: Float[Array, "T m"], decay: float, rate: float
) -> GatedTokens:
    """Tokens of a mechanism, one pair of key and value each; further micro-steps write nothing."""
    declared = MECHANISMS[name].gates
    by_kind = {"decay": decay, "rate": rate, "key": keys}
    gates: Gates = {gate: by_kind[declared[gate].kind] for gate in declared}
    if not MECHANISMS[name].multi_step:
        return GatedTokens(keys, values, gates)
    first = np.arange(_MICRO_STEPS) == 0

    def spread(x: Array) -> Array:
        return jnp.stack([x, *[jnp.roll(x, 1, axis=1)] * (_MICRO_STEPS - 1)], axis=1)

    rates = jnp.broadcast_to(rate * jnp.asarray(first, keys.dtype), (len(keys), _MICRO_STEPS))
    gates |= {gate: rates for gate in declared if declared[gate].per == "step"}
    return GatedTokens(spread(keys), spread(values), gates)


def _states(
    name: str,
    tokens: GatedTokens,
    queries: Float[Array, "T d"],
    emissions: Float[Array, "T m"],
    emission_noise: float,
    process_noise: float,
) -> Float[Array, "T m d"]:
    """The memory after every token; for `bayesian_memory` its filtered mean."""
    if MECHANISMS[name].writes_values:
        _, states = linear_attention(
            name, keys=tokens.keys, values=tokens.values, queries=queries, return_states=True,
            **tokens.gates,
        )  # fmt: skip
        return states
    lgssm = matrix_lgssm(
        name, keys=tokens.keys, values=tokens.values, emission_noise=emission_noise,
        process_noise=process_noise, **tokens.gates,
    )  # fmt: skip
    means = matrix_lgssm_filter(lgssm, emissions).filtered_means
    assert means is not None
    return means


def _stationary_noise(decay: float) -> float:
    """Process noise that keeps the prior variance of 1."""
    return max(1e-12, 1 - decay**2)


def final_state(
    name: str,
    keys: Float[Array, "T d"],
    values: Float[Array, "T m"],
    decay: float = 1.0,
    rate: float = 1.0,
) -> Float[Array, "m d"]:
    """The memory after writing pairs, from an empty one.

    Args:
        name: of the mechanism.
        keys: k.
        values: v.
        decay: the decays α, a and w.
        rate: the learning rate β, and the removal rate of rwkv7, whose removal key is the key.

    Returns:
        S_T; for `bayesian_memory` its posterior mean.
    """
    tokens = _tokens(name, keys, values, decay, rate)
    return _states(name, tokens, keys, values, _NOISE, _stationary_noise(decay))[-1]


def _unit(x: Float[np.ndarray, "*n d"]) -> Float[np.ndarray, "*n d"]:
    """Vectors of length one."""
    unit: np.ndarray = x / np.linalg.norm(x, axis=-1, keepdims=True)
    return unit


class _Pairs(NamedTuple):
    """Keys and values to write."""

    keys: Float[Array, "n d"]
    values: Float[Array, "n d"]


def _random_pairs(rng: np.random.Generator, count: int, cosine: float) -> _Pairs:
    """Unit keys with this cosine on average, and normal values."""
    common = _unit(rng.normal(size=_DIM))
    own = _unit(rng.normal(size=(count, _DIM)))
    own = _unit(own - (own @ common)[:, None] * common)
    keys = np.sqrt(cosine) * common + np.sqrt(1 - cosine) * own
    return _Pairs(jnp.asarray(keys), jnp.asarray(rng.normal(size=(count, _DIM))))


def _relative_error(state: Float[Array, "m d"], pairs: _Pairs) -> float:
    """The mean squared error of recall over the mean square of the values."""
    error = pairs.keys @ state.T - pairs.values
    return float(jnp.sum(error**2) / jnp.sum(pairs.values**2))


def recall_error(name: str, num_pairs: int, cosine: float = 0.0, num_trials: int = 8) -> float:
    """How badly pairs are recalled, all written once: 0 is perfect, 1 is recalling nothing.

    Args:
        name: of the mechanism, which forgets nothing and writes all (α = β = 1).
        num_pairs: how many pairs are written.
        cosine: of the keys, unit vectors in R^16, on average.
        num_trials: the mean is over so many sets of pairs.

    Returns:
        The mean squared error over the mean square of the values.
    """
    rng = np.random.default_rng(0)
    trials = [_random_pairs(rng, num_pairs, cosine) for _ in range(num_trials)]
    return float(np.mean([_relative_error(final_state(name, *pairs), pairs) for pairs in trials]))


def overwriting_error(name: str, num_trials: int = 8) -> float:
    """How badly the second value is recalled of eight orthogonal keys that were written twice.

    Args:
        name: of the mechanism.
        num_trials: the mean is over so many sets of pairs.

    Returns:
        The error as in :func:`recall_error`, with the best of the decays 1, 0.9 and 0.7.
    """
    rng = np.random.default_rng(0)
    errors = []
    for _ in range(num_trials):
        keys = jnp.asarray(np.linalg.qr(rng.normal(size=(_DIM, _DIM)))[0][:8])
        old, new = jnp.asarray(rng.normal(size=(2, 8, _DIM)))
        both = jnp.concatenate([keys, keys]), jnp.concatenate([old, new])
        states = [final_state(name, *both, decay) for decay in (1.0, 0.9, 0.7)]
        errors.append([_relative_error(state, _Pairs(keys, new)) for state in states])
    return float(np.mean(errors, axis=0).min())


def half_life(name: str, decay: float = 0.98, rate: float = 0.5, longest: int = 512) -> float:
    """Tokens until half of the first association is forgotten, with random ones written after it.

    Args:
        name: of the mechanism.
        decay: its decays.
        rate: its learning rate.
        longest: how many tokens are tried.

    Returns:
        The number of tokens, the median of eight trials; infinite where it is above `longest`.
    """
    rng = np.random.default_rng(0)

    def trial() -> float:
        keys = jnp.asarray(_unit(rng.normal(size=(longest + 1, _DIM))))
        # Later values are zero, so what the first key reads is what is left of its value.
        values = jnp.zeros((longest + 1, _DIM)).at[0, 0].set(1.0)
        tokens = _tokens(name, keys, values, decay, rate)
        states = _states(name, tokens, keys, values, 1.0, _stationary_noise(decay))
        left = np.asarray(states[:, 0] @ keys[0])
        below = np.flatnonzero(left < 0.5 * left[0])
        return float(below[0]) if len(below) else np.inf

    return float(np.median([trial() for _ in range(8)]))


def random_transitions(
    name: str, num_draws: int, length: int, d: int = 2
) -> Float[np.ndarray, "{num_draws} {length} {d} {d}"]:
    """Transitions A_t of random gates over all of their widest ranges, half of them at the ends."""
    rng = np.random.default_rng(0)
    mechanism = get_mechanism(name, MECHANISMS[name].signed_gate is not None)
    steps = num_draws * length
    micro = (_MICRO_STEPS,) if mechanism.multi_step else ()
    gates: dict[str, Array] = {}
    sizes = {"n_h": _MICRO_STEPS, "d": d, "m": 1}
    for gate, declared in mechanism.gates.items():
        low, high = mechanism.gate_range(gate)
        shape = (steps, *declared.shape(sizes, mechanism.multi_step))
        if declared.kind == "key":
            drawn = rng.normal(size=shape)
        else:  # extremes are at the ends of the ranges
            ends = rng.integers(0, 2, size=shape).astype(float)
            inner = rng.uniform(size=shape)
            drawn = low + (high - low) * np.where(rng.uniform(size=shape) < 0.5, ends, inner)
        gates[gate] = jnp.asarray(drawn)
    tokens, _ = make_tokens(
        mechanism,
        gates,
        keys=jnp.asarray(_unit(rng.normal(size=(steps, *micro, d)))),
        values=jnp.zeros((steps, *micro, 1)),
        need_queries=False,
    )
    transitions = token_operators(mechanism, tokens)[0].to_dense()
    return np.asarray(transitions, np.float64).reshape(num_draws, length, d, d)


def largest_norm(name: str, num_draws: int = 2000, length: int = 4) -> float:
    """The largest ‖A_1 ⋯ A_n‖₂, n ≤ `length`, in a random search over all allowed gates, d = 2."""
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
        smallest_real: the smallest real part.
        largest_imaginary: the largest imaginary part.
    """

    smallest_real: float
    largest_imaginary: float


def transition_spectrum(name: str, num_draws: int = 8000) -> Spectrum:
    """The extreme eigenvalues of A_t in a random search over all allowed gates, d = 2."""
    eigenvalues = np.linalg.eigvals(random_transitions(name, num_draws, 1)[:, 0])
    return Spectrum(float(eigenvalues.real.min()), float(np.abs(eigenvalues.imag).max()))


def gradient_reach(name: str, steps: int = 64, decay: float = 0.98, rate: float = 0.5) -> float:
    """‖∂o_T/∂v_1‖ over ‖∂o_1/∂v_1‖, reading with the first key, T random keys later."""
    rng = np.random.default_rng(0)
    keys = jnp.asarray(_unit(rng.normal(size=(steps, _DIM))))

    def read(value: Array, count: int) -> Array:
        values = jnp.zeros((count, 1)).at[0, 0].set(value)
        return (final_state(name, keys[:count], values, decay, rate) @ keys[0])[0]

    slopes = [float(jax.grad(read)(jnp.ones(()), count)) for count in (steps, 1)]
    return abs(slopes[0] / slopes[1])


def simulated_coverage(
    name: str, noise_scale: float = 1.0, level: float = 0.95, steps: int = 20_000
) -> float:
    """The share of simulated emissions inside their predictive intervals.

    Args:
        name: of the mechanism, with random keys, values and queries, and noise in its memory.
        noise_scale: the emissions' noise has so many times the standard deviation of the model.
        level: of the central intervals.
        steps: how many emissions.

    Returns:
        The share; `level` for a calibrated model.
    """
    rng = np.random.default_rng(0)
    keys = jnp.asarray(_unit(rng.normal(size=(steps, 4))))
    queries = jnp.asarray(_unit(rng.normal(size=(steps, 4))))
    tokens = _tokens(name, keys, jnp.asarray(rng.normal(size=(steps, 1))), 0.9, 0.5)

    def model(noise: float) -> MatrixLGSSM:
        return matrix_lgssm(
            name, keys=tokens.keys, values=tokens.values, queries=queries, process_noise=0.05,
            emission_noise=noise, **tokens.gates,
        )  # fmt: skip

    emissions = matrix_lgssm_sample(jax.random.key(0), model(0.2 * noise_scale**2))[1][0]
    posterior = matrix_lgssm_filter(model(0.2), emissions, store="loglik")
    z = (emissions - posterior.emission_means)[:, 0] / jnp.sqrt(posterior.emission_scales)
    return float(jnp.mean(jnp.abs(z) <= special.ndtri(0.5 + level / 2)))


class TokenCost(NamedTuple):
    """What a token costs.

    Attributes:
        flops: floating point operations of one step, as XLA counts them.
        microseconds: time of a step in a long sequence.
        time_slope: of the logarithm of time over that of T; 1 is linear.
        memory: bytes per token that the compiled program needs, results included and arguments
            not.
        memory_slope: of the logarithm of the memory over that of T.
    """

    flops: float
    microseconds: float
    time_slope: float
    memory: float
    memory_slope: float


def token_cost(name: str, steps: Sequence[int] = (2048, 8192), repeats: int = 5) -> TokenCost:
    """What a token costs in single precision, d = m = 16, by the sequential recurrence.

    Args:
        name: of the mechanism; for `bayesian_memory` it is a step of the filter.
        steps: lengths T, of which the slopes are; time and memory are those of the last.
        repeats: the time is the median of so many.

    Returns:
        The cost.
    """

    def arguments(count: int) -> tuple[GatedTokens, Array]:
        rng = np.random.default_rng(0)
        keys = jnp.asarray(_unit(rng.normal(size=(count, _DIM))), jnp.float32)
        values = jnp.asarray(rng.normal(size=(count, _DIM)), jnp.float32)
        tokens = _tokens(name, keys, values, 0.98, 0.5)
        single: GatedTokens = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), tokens)
        return single, keys

    def run(tokens: GatedTokens, queries: Array) -> Array:
        keys, values, gates = tokens
        if MECHANISMS[name].writes_values:
            outputs = linear_attention(name, keys=keys, values=values, queries=queries, **gates)
            assert not isinstance(outputs, tuple)
            return outputs
        lgssm = matrix_lgssm(
            name, keys=keys, values=values, emission_noise=0.1, process_noise=0.01, **gates
        )
        return matrix_lgssm_filter(lgssm, values, store="loglik").emission_means

    function = jax.jit(run)
    lowered = function.lower(*arguments(1))
    # Once compiled, the filter's products are calls of a library, which XLA does not count.
    counted = lowered.compile() if MECHANISMS[name].writes_values else lowered
    analysis = counted.cost_analysis()
    assert isinstance(analysis, dict)
    seconds, sizes = [], []
    for count in steps:
        compiled = function.lower(*arguments(count)).compile()
        memory = compiled.memory_analysis()
        assert memory is not None
        sizes.append(float(memory.temp_size_in_bytes + memory.output_size_in_bytes))
        seconds.append(median_seconds(compiled, arguments(count), repeats))

    def slope(x: list[float]) -> float:
        return float(np.log(x[-1] / x[0]) / np.log(steps[-1] / steps[0]))

    return TokenCost(
        flops=float(analysis["flops"]),
        microseconds=1e6 * seconds[-1] / steps[-1],
        time_slope=slope(seconds),
        memory=sizes[-1] / steps[-1],
        memory_slope=slope(sizes),
    )


def median_seconds[*Arguments](
    function: Callable[[*Arguments], PyTree], arguments: tuple[*Arguments], repeats: int
) -> float:
    """The median time of a call, without the time to compile."""

    def run() -> None:
        for x in jax.tree.leaves(function(*arguments)):
            x.block_until_ready()

    run()
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        run()
        times.append(time.perf_counter() - begin)
    return float(np.median(times))
