r"""What a mechanism is: tokens in, the operators (A_t, B_t) of the recurrence out."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ssmlin import _checks
from ssmlin.lgssm import DPLR, LowRank

#: Where a gate starts that does not say it, as a share of its interval.
_STARTS = {"decay": 0.95, "rate": 0.3}
_AXES = {"token": (), "step": ("n_h",), "column": ("d",)}


@dataclass(frozen=True)
class Gate:
    """A gate: what a mechanism wants of each token besides key, value and query.

    Args:
        kind: "decay" for what is kept and "rate" for what is written or removed: they have
            different starts and priors, see :class:`ssmlin.ShrinkagePrior`. "key" for a vector
            without bounds that is a linear map of the inputs, as the keys are.
        per: one number a "token", (T,), a micro-"step", (T, n_h), or a "column" of the state,
            (T, d). A key is per column. Mechanisms of one step a token have no axis n_h.
        low: the least value.
        high: the largest value.
        signed: the wider interval (low, high) with ``negative_eigenvalues=True``; None where the
            gate has no such form.
        start: where a model starts it, between `low` and `high`; default near `high` for a decay
            and nearer to `low` for a rate.
        trainable: False for a gate that is a constant of the mechanism: models keep it at `start`.

    Raises:
        ValueError: an argument out of range.

    Example:
        >>> from ssmlin.mechanisms import Gate
        >>> Gate("decay").start, Gate("rate", low=1.0, high=3.0, start=1.5).start
        (0.95, 1.5)
    """

    kind: Literal["decay", "rate", "key"]
    per: Literal["token", "step", "column"] = "token"
    low: float = 0.0
    high: float = 1.0
    signed: tuple[float, float] | None = None
    start: float = None  # type: ignore[assignment]
    trainable: bool = True

    def __post_init__(self) -> None:
        _checks.one_of("kind", self.kind, (*_STARTS, "key"))
        _checks.one_of("per", self.per, tuple(_AXES))
        if self.kind == "key":
            given = (self.per, self.low, self.high, self.signed, self.start, self.trainable)
            if given != ("column", 0.0, 1.0, None, None, True):
                raise ValueError(
                    "kind: expected no more than per='column' for a key, which has no bounds and "
                    f"no start; got {self}"
                )
            return
        for name, (low, high) in {"low": (self.low, self.high), "signed": self.range(True)}.items():
            if not (np.isfinite([low, high]).all() and low < high):
                raise ValueError(f"{name}: expected finite bounds low < high, got {low}, {high}")
        low, high = self.range(True)
        if not low <= self.low < self.high <= high:
            raise ValueError(
                f"signed: expected an interval around [{self.low}, {self.high}], got {self.signed}"
            )
        if self.start is None:
            start = self.low + _STARTS[self.kind] * (self.high - self.low)
            object.__setattr__(self, "start", start)
        if not self.low < self.start < self.high:
            raise ValueError(
                f"start: expected a number in ({self.low}, {self.high}), got {self.start}"
            )

    def range(self, signed: bool = False) -> tuple[float, float]:
        """The closed interval that its values must lie in."""
        if self.kind == "key":
            return (-np.inf, np.inf)
        return self.signed if signed and self.signed is not None else (self.low, self.high)

    def axes(self, multi_step: bool) -> tuple[str, ...]:
        """Its axes after time, in a mechanism of one or several steps a token."""
        return tuple(axis for axis in _AXES[self.per] if axis != "n_h" or multi_step)


class GatesByName:
    """What holds gates by name, each of which is an attribute, too."""

    gates: Any

    def __getattr__(self, name: str) -> Any:
        """A gate; Python asks here only for what is no field."""
        gates = self.__dict__.get("gates", {})  # none yet while it is unpickled
        if name in gates:
            return gates[name]
        raise AttributeError(
            f"{type(self).__name__}: expected a field or one of the gates "
            f"({', '.join(gates) or 'none'}), got {name!r}"
        )


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Tokens(GatesByName):
    """The tokens of a sequence; the gates are attributes: ``tokens.alpha``.

    Args:
        keys: k_t, shape (T, d), or (T, n_h, d) for a multi-step mechanism.
        values: v_t, shape (T, m), or (T, n_h, m). Where the Kalman gain writes instead, only
            their shape matters.
        queries: q_t, shape (T, d), or None.
        gates: the mechanism's gates by name, each (T, ...), see :class:`Gate`.
    """

    keys: Float[Array, "..."]
    values: Float[Array, "..."]
    queries: Float[Array, "..."] | None = None
    gates: Mapping[str, Float[Array, "T ..."]] = field(default_factory=dict)


@dataclass(frozen=True)
class Mechanism(ABC):
    r"""A member of the linear attention family: $S_t = S_{t-1} A_t + B_t$.

    A subclass says its name, formulas and gates, and turns tokens into the operators. It knows
    nothing about inference. Mechanisms are hashable and equal by value; one with settings of its
    own is a frozen dataclass whose fields have defaults.

    Args:
        negative_eigenvalues: let A_t have eigenvalues in [-1, 1], by the wider interval of the
            gate that has one (``Gate.signed``).

    Attributes:
        name: as users write it.
        transition_formula: of A_t.
        drift_formula: of B_t.
        gates: the gates by name.
        alternative_gates: gates that may be given in place of those.
        signed_gate: the name of the gate with a wider interval, or None; found in `gates`.
        multi_step: whether a token has several steps, each with its own key and value.
        writes_values: False where the Kalman gain writes, and B_t is zero.
        step_rank: the rank of the low-rank part of A_t, a step.
        source: where it is described.
    """

    negative_eigenvalues: bool = False

    name: ClassVar[str]
    transition_formula: ClassVar[str]
    drift_formula: ClassVar[str]
    gates: ClassVar[Mapping[str, Gate]] = {}
    alternative_gates: ClassVar[Mapping[str, Gate]] = {}
    signed_gate: ClassVar[str | None] = None
    multi_step: ClassVar[bool] = False
    writes_values: ClassVar[bool] = True
    step_rank: ClassVar[int] = 0
    source: ClassVar[str] = ""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        # Whether the declaration is right is asked where the class is used.
        gates = dict(cls.gates) if isinstance(cls.gates, Mapping) else {}
        signed = [name for name, gate in gates.items() if getattr(gate, "signed", None)]
        cls.signed_gate = signed[0] if signed else None

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
        return {**self.alternative_gates, **self.gates}[gate].range(self.negative_eigenvalues)

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
    gates: Mapping[str, Any],
    *,
    keys: Any,
    values: Any = None,
    queries: Any = None,
    value_dim: int | None = None,
    need_queries: bool = True,
) -> tuple[Tokens, dict[str, int]]:
    """Check a mechanism's tokens and gates and broadcast the gates over time.

    Args:
        mechanism: the mechanism that the tokens are for.
        gates: the gates by name; None where not given. A scalar is broadcast.
        keys: see :class:`Tokens`.
        values: see :class:`Tokens`.
        queries: see :class:`Tokens`.
        value_dim: m, where no values give it.
        need_queries: whether missing queries are an error.

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

    given = {name for name, x in gates.items() if x is not None}
    expected = expected_gates(mechanism, given)
    for name, gate in expected.items():
        if gates.get(name) is None:
            raise ValueError(f"{name}: expected an array for {mechanism.name!r}, got None")
        dims = ("T", *gate.axes(mechanism.multi_step))
        array = _checks.broadcast(name, _checks.float_array(name, gates[name]), dims, sizes)
        low, high = gate.range(mechanism.negative_eigenvalues)
        arrays[name] = _checks.between(name, _checks.finite(name, array), low, high)
        given.discard(name)
    if given:
        used = ", ".join(expected_gates(mechanism, ())) or "no gates"
        raise ValueError(
            f"{min(given)}: expected nothing, {mechanism.name!r} uses {used}; got a value"
        )

    dtype = jnp.result_type(*arrays.values())
    arrays = {name: array.astype(dtype) for name, array in arrays.items()}
    by_name = {name: arrays.pop(name) for name in expected}
    return Tokens(**arrays, gates=by_name), sizes


def expected_gates(mechanism: Mechanism, given: Collection[str]) -> Mapping[str, Gate]:
    """The gates that a mechanism wants, minding the alternative that the caller may have taken."""
    if mechanism.alternative_gates and set(given) & set(mechanism.alternative_gates):
        return mechanism.alternative_gates
    return mechanism.gates
