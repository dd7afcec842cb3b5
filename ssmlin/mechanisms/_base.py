r"""What a mechanism is: it turns tokens into the operators (A_t, B_t) of the recurrence."""

import math
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ssmlin import _checks
from ssmlin._typing import AnyArray, Broadcastable
from ssmlin.lgssm import DPLR, LowRank

#: Where a gate starts by default, as a share of its interval.
_STARTS = {"decay": 0.95, "rate": 0.3}
_AXES = {"token": (), "step": ("n_h",), "column": ("d",), "row": ("m",)}


@dataclass(frozen=True)
class Gate:
    """What a mechanism needs of each token besides key, value and query.

    Args:
        kind: "decay" for the share that is kept, or "rate" for the share that is written or
            removed: they have different starts and priors, see :class:`ssmlin.ShrinkagePrior`.
            "key" for a vector without bounds that is a linear map of the inputs, as the keys are.
        per: whether there is one number for each "token", (T,), micro-"step", (T, n_h), "column"
            of the state, (T, d), or "row" of the state, (T, m). A key is per column. Mechanisms
            with one step a token have no axis n_h.
        low: the least value.
        high: the largest value.
        signed: the wider interval (low, high) with ``negative_eigenvalues=True``; None for a gate
            whose interval stays the same.
        start: where a model starts it, between `low` and `high`; the default (NaN) is near `high`
            for a decay and nearer to `low` for a rate.
        trainable: False for a gate that is a constant of the mechanism: models keep it at `start`.

    Raises:
        ValueError: an argument out of range.

    Examples:
        >>> from ssmlin.mechanisms import Gate
        >>> Gate("decay").start, Gate("rate", low=1.0, high=3.0, start=1.5).start
        (0.95, 1.5)
    """

    kind: Literal["decay", "rate", "key"]
    per: Literal["token", "step", "column", "row"] = "token"
    low: float = 0.0
    high: float = 1.0
    signed: tuple[float, float] | None = None
    start: float = math.nan
    trainable: bool = True

    def __post_init__(self) -> None:
        _checks.one_of("kind", self.kind, (*_STARTS, "key"))
        _checks.one_of("per", self.per, tuple(_AXES))
        if self.kind == "key":
            has_bounds = (self.low, self.high) != (0.0, 1.0) or self.signed is not None
            has_start = not (math.isnan(self.start) or self.start == 0)
            if self.per != "column" or has_bounds or has_start or not self.trainable:
                raise ValueError(
                    "kind: expected no more than per='column' for a key, which has no bounds and "
                    f"no start; got {self}"
                )
            object.__setattr__(self, "start", 0.0)
            return
        for name, (low, high) in {"low": (self.low, self.high), "signed": self.range(True)}.items():
            if not (np.isfinite([low, high]).all() and low < high):
                raise ValueError(f"{name}: expected finite bounds low < high, got {low}, {high}")
        low, high = self.range(True)
        if not low <= self.low < self.high <= high:
            raise ValueError(
                f"signed: expected an interval around [{self.low}, {self.high}], got {self.signed}"
            )
        if math.isnan(self.start):
            start = self.low + _STARTS[self.kind] * (self.high - self.low)
            object.__setattr__(self, "start", start)
        if not self.low < self.start < self.high:
            raise ValueError(
                f"start: expected a number in ({self.low}, {self.high}), got {self.start}"
            )

    def range(self, signed: bool = False) -> tuple[float, float]:
        """The closed interval of its values; with `signed`, that for negative eigenvalues."""
        if self.kind == "key":
            return (-np.inf, np.inf)
        return self.signed if signed and self.signed is not None else (self.low, self.high)

    @property
    def is_per_channel(self) -> bool:
        """Whether a token has one value for each column or row of the state."""
        return self.per in ("column", "row")

    def axes(self, multi_step: bool) -> tuple[str, ...]:
        """The names of its axes after time: n_h only in a mechanism of several steps a token."""
        return tuple(axis for axis in _AXES[self.per] if axis != "n_h" or multi_step)

    def shape(self, sizes: Mapping[str, int], multi_step: bool) -> tuple[int, ...]:
        """Its shape after time.

        Args:
            sizes: the sizes of the axes n_h, d and m.
            multi_step: whether its mechanism has several steps a token.
        """
        return tuple(sizes[axis] for axis in self.axes(multi_step))


class GatesByName[G]:
    """A base of classes with a mapping `gates` whose entries can be read as attributes."""

    #: The fields are not checked, since JAX rebuilds pytrees with leaves that are no arrays.
    __no_type_check__: ClassVar[bool] = True

    gates: Mapping[str, G]

    def __getattr__(self, name: str) -> G:
        """A gate. Python calls this only for names that are not fields."""
        gates: Mapping[str, G] = self.__dict__.get("gates", {})  # not yet set during unpickling
        if name in gates:
            return gates[name]
        raise AttributeError(
            f"{type(self).__name__}: expected a field or one of the gates "
            f"({', '.join(gates) or 'none'}), got {name!r}"
        )


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Tokens(GatesByName[Float[Array, "T ..."]]):
    """The tokens of a sequence; the gates are attributes: ``tokens.alpha``.

    Args:
        keys: k_t, shape (T, d), or (T, n_h, d) for a mechanism of several steps a token.
        values: v_t, shape (T, m), or (T, n_h, m). Where the Kalman gain writes instead, only
            the shape matters.
        queries: q_t, shape (T, d), or None.
        gates: the mechanism's gates by name, each (T, ...), see :class:`Gate`.
    """

    keys: Float[Array, "T *n_h d"]
    values: Float[Array, "T *n_h m"]
    queries: Float[Array, "T d"] | None = None
    gates: Mapping[str, Float[Array, "T ..."]] = field(default_factory=dict)


@dataclass(frozen=True)
class Mechanism(ABC):
    r"""A member of the linear attention family: $S_t = S_{t-1} A_t + B_t$.

    A subclass declares its name, formulas and gates, and turns tokens into the operators. It
    knows nothing about inference. Mechanisms are hashable and equal by value. A mechanism with
    settings of its own is a frozen dataclass whose fields have defaults.

    Args:
        negative_eigenvalues: allow eigenvalues of A_t in [-1, 1] instead of [0, 1], by the wider
            interval of the gate that has one (``Gate.signed``).

    Attributes:
        name: the name that users write.
        transition_formula: the formula of A_t.
        drift_formula: the formula of B_t.
        gates: the gates by name.
        alternative_gates: gates that may be given instead.
        signed_gate: the name of the gate with a wider interval, or None; derived from `gates`.
        multi_step: whether a token has several steps, each with its own key and value.
        writes_values: False if the Kalman gain writes the values, so that B_t is zero.
        step_rank: the rank of the low-rank part of A_t, for one step.
        source: where the mechanism is described.

    Raises:
        ValueError: `negative_eigenvalues` for a mechanism without a gate that has a wider interval.

    Examples:
        >>> from ssmlin.mechanisms import MECHANISMS
        >>> cls = MECHANISMS["kda"]
        >>> kda = cls(negative_eigenvalues=True)
        >>> kda.transition_formula, kda.gate_range("beta"), kda.rank()
        ('diag(a) (I − β k̂k̂ᵀ)', (0.0, 2.0), 1)
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

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        # A wrong declaration raises where the class is used, not here.
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
        """The closed interval of a gate's values."""
        return {**self.alternative_gates, **self.gates}[gate].range(self.negative_eigenvalues)

    @abstractmethod
    def transition(self, tokens: Tokens) -> DPLR:
        """The transitions A_t, with the leading axes of the keys."""

    @abstractmethod
    def drift(self, tokens: Tokens) -> LowRank:
        """The drifts B_t, with the leading axes of the keys."""


def unit(x: Float[Array, "... d"]) -> Float[Array, "... d"]:
    """Return x/‖x‖ along the last axis; a zero vector stays zero, with a zero gradient.

    Examples:
        >>> import jax.numpy as jnp
        >>> from ssmlin.mechanisms import unit
        >>> unit(jnp.array([[3.0, 0.0], [0.0, 0.0]])).tolist()
        [[1.0, 0.0], [0.0, 0.0]]
    """
    squared = jnp.sum(x * x, axis=-1, keepdims=True)
    nonzero = squared > 0
    # The input of rsqrt is masked, not its output: an infinity there would make gradients NaN.
    return jnp.where(nonzero, x * jax.lax.rsqrt(jnp.where(nonzero, squared, 1.0)), 0.0)


def make_tokens(
    mechanism: Mechanism,
    gates: Mapping[str, Broadcastable | None],
    *,
    keys: Float[AnyArray, "T *n_h d"],
    values: Float[AnyArray, "T *n_h m"] | None = None,
    queries: Float[AnyArray, "T d"] | None = None,
    value_dim: int | None = None,
    need_queries: bool = True,
) -> tuple[Tokens, dict[str, int]]:
    """Check a mechanism's tokens and gates, and broadcast the gates over time.

    Args:
        mechanism: the mechanism that the tokens are for.
        gates: the gates by name; None for those that are not given. Scalars are broadcast.
        keys: see :class:`Tokens`.
        values: see :class:`Tokens`.
        queries: see :class:`Tokens`.
        value_dim: m, if there are no values.
        need_queries: whether missing queries are an error.

    Returns:
        The tokens and the sizes of their axes (T, d, m and n_h).

    Raises:
        ValueError: an argument is missing, superfluous, or has a wrong shape or range.
        TypeError: an argument is not a floating point array.
    """
    sizes: dict[str, int] = {}
    steps = ("n_h",) if mechanism.multi_step else ()

    def take(name: str, x: object, *dims: str) -> Array:
        array = _checks.shaped(name, _checks.float_array(name, x), dims, sizes)
        return _checks.finite(name, array)

    arrays = {"keys": take("keys", keys, "T", *steps, "d")}
    for dim in ("T", *steps, "d"):
        if sizes[dim] == 0:
            raise ValueError(f"keys: expected {dim} >= 1, got shape {arrays['keys'].shape}")
    if values is not None:
        arrays["values"] = take("values", values, "T", *steps, "m")
    elif mechanism.writes_values:
        raise ValueError(f"values: expected an array, {mechanism.name!r} writes them; got None")
    if value_dim is not None:
        _checks.positive_int("value_dim", value_dim)
        if sizes.setdefault("m", value_dim) != value_dim:
            raise ValueError(f"value_dim: expected {sizes['m']} as in values, got {value_dim}")
    if values is None:
        if "m" not in sizes:
            raise ValueError(
                f"value_dim: expected the number of rows of the state, since {mechanism.name!r} "
                "has no values that tell it; got None"
            )
        arrays["values"] = jnp.zeros((sizes["T"], sizes["m"]), arrays["keys"].dtype)
    if queries is not None:
        arrays["queries"] = take("queries", queries, "T", "d")
    elif need_queries and mechanism.writes_values:
        raise ValueError(
            f"queries: expected an array, {mechanism.name!r} is read with them; got None"
        )
    by_name = _check_gates(mechanism, gates, sizes)
    dtype = jnp.result_type(*arrays.values(), *by_name.values())
    arrays, by_name = jax.tree.map(lambda x: x.astype(dtype), (arrays, by_name))
    tokens = Tokens(arrays["keys"], arrays["values"], arrays.get("queries"), by_name)
    return tokens, sizes


def _check_gates(
    mechanism: Mechanism, gates: Mapping[str, Broadcastable | None], sizes: dict[str, int]
) -> dict[str, Array]:
    """The gates that a mechanism expects, checked and broadcast."""
    given = {name for name, x in gates.items() if x is not None}
    expected = expected_gates(mechanism, given)
    arrays = {}
    for name, gate in expected.items():
        if gates.get(name) is None:
            raise ValueError(f"{name}: expected an array for {mechanism.name!r}, got None")
        dims = ("T", *gate.axes(mechanism.multi_step))
        array = _checks.broadcast(name, _checks.float_array(name, gates[name]), dims, sizes)
        low, high = gate.range(mechanism.negative_eigenvalues)
        arrays[name] = _checks.between(name, _checks.finite(name, array), low, high)
    if superfluous := given - set(expected):
        used = ", ".join(expected_gates(mechanism, ())) or "no gates"
        raise ValueError(
            f"{min(superfluous)}: expected nothing, {mechanism.name!r} uses {used}; got a value"
        )
    return arrays


def expected_gates(mechanism: Mechanism, given: Collection[str]) -> Mapping[str, Gate]:
    """The gates that a mechanism expects: its alternative ones, if the caller gave one of these."""
    if mechanism.alternative_gates and set(given) & set(mechanism.alternative_gates):
        return mechanism.alternative_gates
    return mechanism.gates
