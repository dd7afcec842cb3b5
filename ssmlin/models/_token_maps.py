"""The part of a model that turns inputs into tokens: projections, gates and micro-steps."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from dynamax.parameters import ParameterProperties
from jaxtyping import Array, Float
from tensorflow_probability.substrates.jax import bijectors as tfb

from ssmlin import _checks
from ssmlin.mechanisms import Gate, GatesByName, Mechanism, unit
from ssmlin.models._features import ParamsGate, ParamsProjection, gate, project, standard_normals
from ssmlin.models._parts import BasePart, Contribution, Sizes, Start, settled
from ssmlin.models._priors import Prior, normal_prior, projection_priors, scaled_beta_prior


@jax.tree_util.register_pytree_with_keys_class
@dataclass(frozen=True, eq=False)
class ParamsTokens(GatesByName[Any]):
    """Maps from inputs to tokens and gates, or the properties of their parameters.

    A gate is an attribute, too: ``tokens.alpha``, and "tokens.alpha.value" is a path in the
    parameters of a model. The other tokens are None where the mechanism has none.

    Args:
        keys: projection to k_t, (d,) or (n_h, d).
        queries: projection to q_t, (d,).
        values: projection to v_t, (m,) or (n_h, m).
        gates: the mechanism's gates by name, a ParamsGate: one number, (d,) or (n_h,), see
            :class:`ssmlin.mechanisms.Gate`; or a ParamsProjection, (d,), of one that is a key.
    """

    keys: ParamsProjection
    queries: ParamsProjection | None
    values: ParamsProjection | None
    gates: Mapping[str, Any]

    def _replace(self, **changes: Any) -> "ParamsTokens":
        """The same with other values, as of a named tuple; a gate goes by its own name."""
        gates = {name: changes.pop(name, gate) for name, gate in self.gates.items()}
        return replace(self, **{"gates": gates, **changes})

    def tree_flatten_with_keys(
        self,
    ) -> tuple[list[tuple[jax.tree_util.GetAttrKey, Any]], tuple[str, ...]]:
        """The parts with their names, and the names of the gates."""
        names = ("keys", "queries", "values", *self.gates)
        parts = [(jax.tree_util.GetAttrKey(name), getattr(self, name)) for name in names]
        return parts, tuple(self.gates)

    @classmethod
    def tree_unflatten(cls, gates: tuple[str, ...], parts: Sequence[Any]) -> "ParamsTokens":
        """The container from its parts."""
        # Not by the constructor, whose types are checked: JAX fills in placeholders, too.
        new = object.__new__(cls)
        values = (*parts[:3], dict(zip(gates, parts[3:], strict=True)))
        for name, x in zip(("keys", "queries", "values", "gates"), values, strict=True):
            object.__setattr__(new, name, x)
        return new


@dataclass(frozen=True)
class TokenMaps(BasePart):
    r"""Keys, values, queries and gates as functions of the inputs u_t.

    Linear projections, of unit length for keys and queries if so chosen, and logistic gates. For a
    mechanism that writes no values the keys are the inputs themselves, and a one for an intercept.

    Args:
        mechanism: whose tokens they are.
        gates: "input": gates depend on the inputs; "constant": they do not. A gate that is a
            constant of the mechanism (``Gate(trainable=False)``) never does.
        normalization: "unit" or "none" for keys and queries.
        num_steps: n_h, the micro-steps a token of a multi-step mechanism.
        key_scale: sd of the normal prior of the weights of keys and queries, around their start;
            None, as for all that follow, for the value of the model's prior.
        value_scale: sd of the weights of values.
        gate_scale: sd of the weights of gates.
        decay_concentrations: beta prior of the gates that are decays, on (0, 1) after scaling.
        rate_concentrations: beta prior of the gates that are rates.

    Raises:
        ValueError: an argument out of range.
    """

    mechanism: Mechanism
    gates: Literal["input", "constant"] = "input"
    normalization: Literal["unit", "none"] = "unit"
    num_steps: int = 2
    key_scale: float | None = field(default=None, kw_only=True)
    value_scale: float | None = field(default=None, kw_only=True)
    gate_scale: float | None = field(default=None, kw_only=True)
    decay_concentrations: tuple[float, float] | None = field(default=None, kw_only=True)
    rate_concentrations: tuple[float, float] | None = field(default=None, kw_only=True)

    set_by_prior = {
        name: name
        for name in (
            "key_scale", "value_scale", "gate_scale", "decay_concentrations", "rate_concentrations",
        )
    }  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        _checks.one_of("gates", self.gates, ("input", "constant"))
        _checks.one_of("normalization", self.normalization, ("unit", "none"))
        _checks.positive_int("num_steps", self.num_steps)

    # ------------------------------------------------------------------------- which gates

    @property
    def scalar_gates(self) -> tuple[str, ...]:
        """The gates that have an interval; the others are keys."""
        return tuple(n for n, declared in self.mechanism.gates.items() if declared.kind != "key")

    @property
    def key_gates(self) -> tuple[str, ...]:
        """The gates that are keys."""
        return tuple(n for n, declared in self.mechanism.gates.items() if declared.kind == "key")

    @property
    def gate_ranges(self) -> dict[str, tuple[float, float]]:
        """The scalar gates and their intervals."""
        return {name: self.mechanism.gate_range(name) for name in self.scalar_gates}

    @property
    def num_writes(self) -> int:
        """How many values a token writes."""
        return self.num_steps if self.mechanism.multi_step else 1

    def _ordered(self, gates: Mapping[str, Any]) -> dict[str, Any]:
        """Gates in the order of the parameters: the keys first, each by name."""
        groups = (self.key_gates, self.scalar_gates)
        return {name: gates[name] for names in groups for name in sorted(names)}

    def _is_driven(self, declared: Gate, sizes: Sizes) -> bool:
        """Whether a gate depends on the inputs."""
        return self.gates == "input" and sizes.input_dim > 0 and declared.trainable

    def _numbers_of_driven_gates(self, sizes: Sizes) -> dict[str, int]:
        """A number for each gate that depends on the inputs, of which its weights' key is made.

        It depends on what the gate is, not on its name; more gates of a sort have more numbers.
        """
        numbers: dict[str, int] = {}
        for name in self.scalar_gates:
            declared = self.mechanism.gates[name]
            number = 2 * (declared.kind == "rate") + (declared.per == "column")
            while number in numbers.values():
                number += 4
            numbers[name] = number
        gates = self.mechanism.gates
        return {name: i for name, i in numbers.items() if self._is_driven(gates[name], sizes)}

    # ------------------------------------------------------------------------- the part

    def initialize(self, key: Array, sizes: Sizes, start: Start) -> ParamsTokens:
        """Start with small random projections, and values of zero: nothing is written yet."""
        m, p, d = sizes
        dtype = start.regression.covariance.dtype
        mechanism, scale = self.mechanism, settled(self.key_scale)
        lengths = {"n_h": self.num_steps, "d": d, "m": m}
        steps = (self.num_steps,) if mechanism.multi_step else ()
        keys = jax.random.split(key, 5)

        # What is random is drawn together, see `standard_normals`.
        maps = {"keys": (keys[0], (*steps, d)), "queries": (keys[1], (d,))}
        maps = maps if mechanism.writes_values else {}
        for i, name in enumerate(self.key_gates):
            maps[name] = (keys[3] if i == 0 else jax.random.fold_in(keys[3], i), (d,))
        shapes = {
            name: mechanism.gates[name].shape(lengths, mechanism.multi_step)
            for name in self.scalar_gates
        }
        numbers = self._numbers_of_driven_gates(sizes)
        places = [(*shape, p) for _, shape in maps.values()] + [shape for _, shape in maps.values()]
        places += [(*shapes[name], p) for name in numbers]
        sources = []
        if maps:
            pairs = jax.vmap(jax.random.split)(jnp.stack([own for own, _ in maps.values()]))
            sources += [pairs[:, 0], pairs[:, 1]]
        if numbers:
            each = jnp.asarray(list(numbers.values()))
            sources.append(jax.vmap(partial(jax.random.fold_in, keys[4]))(each))
        normals = standard_normals(jnp.concatenate(sources), places, dtype) if sources else []
        n = len(maps)
        weights = dict(zip(maps, normals[:n], strict=True))
        biases = dict(zip(maps, normals[n : 2 * n], strict=True))
        driven = dict(zip(numbers, normals[2 * n :], strict=True))

        projections = {
            name: ParamsProjection(scale * weights[name], scale * biases[name]) for name in maps
        }
        gates: dict[str, ParamsGate | ParamsProjection] = {
            name: projections[name] for name in self.key_gates
        }
        for name, shape in shapes.items():
            moves = 0.1 * settled(self.gate_scale) * driven[name] if name in driven else None
            gates[name] = ParamsGate(jnp.full(shape, mechanism.gates[name].start, dtype), moves)
        if not mechanism.writes_values:
            return ParamsTokens(identity_keys(sizes, dtype), None, None, self._ordered(gates))
        values = ParamsProjection(jnp.zeros((*steps, m, p), dtype), jnp.zeros((*steps, m), dtype))
        return ParamsTokens(
            projections["keys"], projections["queries"], values, self._ordered(gates)
        )

    def properties(self, sizes: Sizes) -> ParamsTokens:
        """Gates stay in their intervals; keys that are the inputs are fixed."""
        free, fixed = ParameterProperties(), ParameterProperties(trainable=False)
        projection = ParamsProjection(free, free)
        gates: dict[str, ParamsGate | ParamsProjection] = dict.fromkeys(self.key_gates, projection)
        for name, (low, high) in self.gate_ranges.items():
            declared = self.mechanism.gates[name]
            value = ParameterProperties(
                trainable=declared.trainable, constrainer=tfb.Sigmoid(low=low, high=high)
            )
            gates[name] = ParamsGate(value, free if self._is_driven(declared, sizes) else None)
        if self.mechanism.writes_values:
            return ParamsTokens(projection, projection, projection, self._ordered(gates))
        # Keys that are the inputs themselves, with or without an intercept, stay so.
        are_inputs = sizes.key_dim in (sizes.input_dim, sizes.input_dim + 1)
        keys = ParamsProjection(fixed, fixed) if are_inputs else projection
        return ParamsTokens(keys, None, None, self._ordered(gates))

    def priors(self, params: ParamsTokens, sizes: Sizes) -> dict[str, Prior]:
        """Normal laws of weights and biases, beta laws of gates on their intervals."""
        key_scale = settled(self.key_scale)
        dtype = params.keys.weights.dtype
        centre = None if self.mechanism.writes_values else identity_keys(sizes, dtype)
        priors = projection_priors("keys", params.keys, key_scale, centre)
        if params.queries is not None:
            priors |= projection_priors("queries", params.queries, key_scale)
        if params.values is not None:
            priors |= projection_priors("values", params.values, settled(self.value_scale))
        for name in self.key_gates:
            priors |= projection_priors(name, params.gates[name], key_scale)
        for name, bounds in self.gate_ranges.items():
            is_decay = self.mechanism.gates[name].kind == "decay"
            shape = self.decay_concentrations if is_decay else self.rate_concentrations
            own = params.gates[name]
            priors[f"{name}.value"] = scaled_beta_prior(own.value, settled(shape), *bounds)
            if own.weights is not None:
                priors[f"{name}.weights"] = normal_prior(own.weights, settled(self.gate_scale))
        return priors

    def gate_values(
        self, params: ParamsTokens, inputs: Float[Array, "T p"]
    ) -> dict[str, Float[Array, "T ..."]]:
        """The gates with an interval at every step, by name."""
        return {
            name: gate(params.gates[name], inputs, *bounds)
            for name, bounds in self.gate_ranges.items()
        }

    def contribute(
        self, params: ParamsTokens, inputs: Float[Array, "T p"], sizes: Sizes
    ) -> Contribution:
        """The tokens."""

        def direction(projection: ParamsProjection) -> Array:
            x = project(projection, inputs)
            return unit(x) if self.normalization == "unit" else x

        tokens = {"keys": direction(params.keys)}
        if params.queries is not None:
            tokens["queries"] = direction(params.queries)
        if params.values is not None:
            tokens["values"] = project(params.values, inputs)
        for name in self.key_gates:
            tokens[name] = project(params.gates[name], inputs)
        return Contribution(tokens | self.gate_values(params, inputs))


def identity_keys(sizes: Sizes, dtype: jnp.dtype) -> ParamsProjection:
    """Keys that are the inputs, then ones."""
    _, p, d = sizes
    return ParamsProjection(jnp.eye(d, p, dtype=dtype), (jnp.arange(d) >= p).astype(dtype))
