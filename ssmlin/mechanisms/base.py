r"""What a mechanism is: tokens in, the operators (A_t, B_t) of the recurrence out."""

from abc import ABC, abstractmethod
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ssmlin import _checks
from ssmlin.lgssm import DPLR, LowRank

#: Axes of every gate; n_h is the micro-step axis, which only multi-step mechanisms have.
GATE_AXES: dict[str, tuple[str, ...]] = {
    "alpha": ("T",),
    "beta": ("T", "n_h"),
    "decay": ("T", "d"),
    "removal_key": ("T", "d"),
    "removal_rate": ("T", "d"),
}


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Tokens:
    """The tokens of a sequence; what a mechanism does not use is None, and it does not look there.

    Args:
        keys: k_t, shape (T, d), or (T, n_h, d) for a multi-step mechanism.
        values: v_t, shape (T, m), or (T, n_h, m). Where the Kalman gain writes instead, only
            their shape matters.
        queries: q_t, shape (T, d).
        alpha: scalar decay α_t, shape (T,).
        beta: learning rate β_t, shape (T,), or (T, n_h).
        decay: per-channel decay (a_t or w_t), shape (T, d).
        removal_key: κ_t, shape (T, d).
        removal_rate: a_t of RWKV-7, shape (T, d).
    """

    keys: Float[Array, "..."]
    values: Float[Array, "..."]
    queries: Float[Array, "..."] = None  # type: ignore[assignment]
    alpha: Float[Array, "..."] = None  # type: ignore[assignment]
    beta: Float[Array, "..."] = None  # type: ignore[assignment]
    decay: Float[Array, "..."] = None  # type: ignore[assignment]
    removal_key: Float[Array, "..."] = None  # type: ignore[assignment]
    removal_rate: Float[Array, "..."] = None  # type: ignore[assignment]


@dataclass(frozen=True)
class Mechanism(ABC):
    r"""A member of the linear attention family: $S_t = S_{t-1} A_t + B_t$.

    A subclass says its name, formulas, gates and their ranges, and turns tokens into the
    operators. It knows nothing about inference.

    Args:
        negative_eigenvalues: let A_t have eigenvalues in [-1, 1]: α in [-1, 1] or β in [0, 2],
            for the mechanisms that have such a form (``signed_gate``).
    """

    negative_eigenvalues: bool = False

    name: ClassVar[str]
    transition_formula: ClassVar[str]
    drift_formula: ClassVar[str]
    gates: ClassVar[tuple[str, ...]] = ()
    alternative_gates: ClassVar[tuple[str, ...]] = ()
    signed_gate: ClassVar[str | None] = None
    multi_step: ClassVar[bool] = False
    writes_values: ClassVar[bool] = True
    step_rank: ClassVar[int] = 0
    source: ClassVar[str] = ""

    def __post_init__(self) -> None:
        if self.negative_eigenvalues and self.signed_gate is None:
            raise ValueError(
                f"negative_eigenvalues: expected False for {self.name!r}, which has no form "
                "with negative eigenvalues, got True"
            )

    def rank(self, num_steps: int = 1) -> int:
        """The rank of the low-rank part of A_t, for `num_steps` micro-steps a token."""
        return self.step_rank * num_steps

    def gate_range(self, gate: str) -> tuple[float, float]:
        """The closed interval that a gate's values must lie in."""
        if gate == "removal_key":
            return (-np.inf, np.inf)
        if self.negative_eigenvalues and gate == self.signed_gate:
            return (-1.0, 1.0) if gate == "alpha" else (0.0, 2.0)
        return (0.0, 1.0)

    @abstractmethod
    def transition(self, tokens: Tokens) -> DPLR:
        """The transition A_t of every token (or micro-step), over all leading axes."""

    @abstractmethod
    def drift(self, tokens: Tokens) -> LowRank:
        """The drift B_t of every token (or micro-step), over all leading axes."""


def unit(x: Float[Array, "... d"]) -> Float[Array, "... d"]:
    """Return x/‖x‖ along the last axis; a zero vector stays zero, with a zero gradient."""
    squared = jnp.sum(x * x, axis=-1, keepdims=True)
    nonzero = squared > 0
    # The inputs of rsqrt are masked, not its output: an infinity there would poison gradients.
    return jnp.where(nonzero, x * jax.lax.rsqrt(jnp.where(nonzero, squared, 1.0)), 0.0)


def make_tokens(
    mechanism: Mechanism,
    *,
    keys: Any,
    values: Any = None,
    queries: Any = None,
    value_dim: int | None = None,
    need_queries: bool = True,
    **gates: Any,
) -> tuple[Tokens, dict[str, int]]:
    """Check a mechanism's tokens and gates and broadcast the gates over time.

    Args:
        mechanism: the mechanism that the tokens are for.
        keys: see :class:`Tokens`.
        values: see :class:`Tokens`.
        queries: see :class:`Tokens`.
        value_dim: m, where no values give it.
        need_queries: whether missing queries are an error.
        **gates: the gates of :class:`Tokens`; None where not given. A scalar is broadcast.

    Returns:
        The tokens and the sizes of their axes (T, d, m and n_h).

    Raises:
        ValueError: an argument is missing, superfluous, or of the wrong shape or range.
        TypeError: an argument is not a floating point array.
    """
    sizes: dict[str, int] = {}
    steps = ("n_h",) if mechanism.multi_step else ()
    arrays: dict[str, Array] = {}

    def take(name: str, x: Any, *dims: str) -> None:
        array = _checks.shaped(name, _checks.float_array(name, x), dims, sizes)
        arrays[name] = _checks.finite(name, array)

    take("keys", keys, "T", *steps, "d")
    for dim in ("T", *steps, "d"):
        if sizes[dim] == 0:
            raise ValueError(f"keys: expected {dim} >= 1, got shape {arrays['keys'].shape}")
    if values is not None:
        take("values", values, "T", *steps, "m")
    elif mechanism.writes_values:
        raise ValueError(f"values: expected an array, {mechanism.name!r} writes them; got None")
    if value_dim is not None:
        _checks.positive_int("value_dim", value_dim)
        if sizes.setdefault("m", value_dim) != value_dim:
            raise ValueError(f"value_dim: expected {sizes['m']} as in values, got {value_dim}")
    if values is None:
        if "m" not in sizes:
            raise ValueError(
                f"value_dim: expected the number of rows of the state, {mechanism.name!r} has no "
                "values to take it from; got None"
            )
        arrays["values"] = jnp.zeros((sizes["T"], sizes["m"]), arrays["keys"].dtype)
    if queries is not None:
        take("queries", queries, "T", "d")
    elif need_queries and mechanism.writes_values:
        raise ValueError(
            f"queries: expected an array, {mechanism.name!r} is read with them; got None"
        )

    given = {gate for gate, x in gates.items() if x is not None}
    for gate in expected_gates(mechanism, given):
        if gates.get(gate) is None:
            raise ValueError(f"{gate}: expected an array for {mechanism.name!r}, got None")
        dims = tuple(dim for dim in GATE_AXES[gate] if dim != "n_h" or steps)
        array = _checks.broadcast(gate, _checks.float_array(gate, gates[gate]), dims, sizes)
        low, high = mechanism.gate_range(gate)
        arrays[gate] = _checks.between(gate, _checks.finite(gate, array), low, high)
        given.discard(gate)
    if given:
        used = ", ".join(expected_gates(mechanism, ())) or "no gates"
        raise ValueError(
            f"{min(given)}: expected nothing, {mechanism.name!r} uses {used}; got a value"
        )

    dtype = jnp.result_type(*arrays.values())
    return Tokens(**{name: array.astype(dtype) for name, array in arrays.items()}), sizes


def expected_gates(mechanism: Mechanism, given: Collection[str]) -> tuple[str, ...]:
    """The gates that a mechanism wants, minding the alternative that the caller may have taken."""
    if mechanism.alternative_gates and set(given) & set(mechanism.alternative_gates):
        return mechanism.alternative_gates
    return mechanism.gates
