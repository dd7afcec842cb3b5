"""The log posterior of a choice of parameters, as a function on unconstrained space."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from dynamax.parameters import ParameterProperties
from jaxtyping import Array, Float

from ssmlin import _checks

#: Unconstrained values of the chosen parameters, by path.
Position = dict[str, Array]


@runtime_checkable
class StepwiseModel(Protocol):
    """What fitting and sampling need of a model."""

    def log_prior(self, params: Any) -> Array:
        """Log prior density of the constrained parameters."""

    def log_predictive(self, params: Any, emissions: Array, inputs: Any) -> Float[Array, " T"]:
        """Log p(y_t | y_{1:t-1}) of every step of one sequence, zero where nothing is observed."""


class Problem(NamedTuple):
    """What the posterior depends on besides the model.

    Attributes:
        params: constrained parameters; those that are not chosen keep these values.
        props: their properties.
        emissions: sequences of one length; NaN means missing or padding.
        inputs: None or inputs with leading axes (B, T).
    """

    params: Any
    props: Any
    emissions: Float[Array, "B T m"]
    inputs: Any


def seen_by(model: Any, emissions: Any) -> Any:
    """The model for these data, if it asks what is missing of them before they are traced."""
    return model.given_missing(emissions) if hasattr(model, "given_missing") else model


def check_observed(emissions: Float[Array, "..."]) -> None:
    """Raise ValueError if nothing is observed, as far as that can be seen."""
    if _checks.is_concrete(emissions) and np.isnan(np.asarray(emissions)).all():
        raise ValueError(
            "emissions: expected at least one observed value to fit, got none in shape "
            f"{tuple(emissions.shape)}"
        )


def paths(params: Any) -> list[str]:
    """The path of every parameter, "tokens.alpha.value" for one."""
    leaves, _ = jax.tree.flatten_with_path(params)
    return [".".join(str(getattr(k, "name", getattr(k, "key", k))) for k in p) for p, _ in leaves]


def property_leaves(props: Any) -> list[ParameterProperties]:
    """The properties in the order of the parameters."""
    return jax.tree.leaves(props, is_leaf=lambda x: isinstance(x, ParameterProperties))


def strong(tree: Any) -> Any:
    """Arrays of the same values whose types a scan can carry."""
    return jax.tree.map(lambda x: jax.lax.convert_element_type(x, x.dtype), tree)


def choose(params: Any, props: Any, variables: Sequence[str] | None) -> tuple[str, ...]:
    """Paths of the trainable parameters that are named, or of all.

    A name is a path, or any part of it: "alpha" is the gate α with its weights, "tokens" all
    projections and gates.

    Raises:
        ValueError: a name that no trainable parameter has, or nothing to choose from.
    """
    flags = [prop.trainable for prop in property_leaves(props)]
    trainable = [path for path, flag in zip(paths(params), flags, strict=True) if flag]
    if not trainable:
        raise ValueError("props: expected at least one trainable parameter, got none")
    if variables is None:
        return tuple(trainable)
    chosen: set[str] = set()
    for name in [variables] if isinstance(variables, str) else variables:
        found = {path for path in trainable if path == name or name in path.split(".")}
        if not found:
            raise ValueError(
                f"variables: expected names of trainable parameters, which are "
                f"{', '.join(trainable)}; got {name!r}"
            )
        chosen |= found
    return tuple(path for path in trainable if path in chosen)


@dataclass(frozen=True)
class Target:
    """The posterior of the parameters `names` given those that are not chosen; hashable.

    With x the unconstrained and θ = f(x) the constrained parameters its log density is
    log p(y | θ) + log p(θ) + log |df/dx|.
    """

    model: StepwiseModel
    names: tuple[str, ...]

    def position(self, problem: Problem) -> Position:
        """Where the given parameters are."""
        return {
            path: value if prop.constrainer is None else prop.constrainer.inverse(value)
            for path, value, prop in self._leaves(problem)
            if path in self.names
        }

    def params(self, position: Position, problem: Problem) -> Any:
        """The constrained parameters at a position."""
        leaves = [
            self._constrain(prop, position[path]) if path in position else value
            for path, value, prop in self._leaves(problem)
        ]
        return jax.tree.unflatten(jax.tree.structure(problem.params), leaves)

    def log_jacobian(self, position: Position, problem: Problem) -> Float[Array, ""]:
        """Log |df/dx|."""
        terms = [
            jnp.sum(prop.constrainer.forward_log_det_jacobian(position[path]))
            for path, _, prop in self._leaves(problem)
            if path in position and prop.constrainer is not None
        ]
        return sum(terms, jnp.zeros((), problem.emissions.dtype))

    def log_prior(self, position: Position, problem: Problem) -> Float[Array, ""]:
        """Log prior density on unconstrained space, up to what other parameters add."""
        params = self.params(position, problem)
        return self.model.log_prior(params) + self.log_jacobian(position, problem)

    def log_predictive(self, position: Position, problem: Problem) -> Float[Array, "B T"]:
        """Log predictive density of every step."""
        params = self.params(position, problem)
        return jax.vmap(lambda y, u: self.model.log_predictive(params, y, u))(
            problem.emissions, problem.inputs
        )

    def log_likelihood(self, position: Position, problem: Problem) -> Float[Array, ""]:
        """Log p(y | θ), the states integrated out."""
        return self.log_predictive(position, problem).sum()

    def log_density(self, position: Position, problem: Problem) -> Float[Array, ""]:
        """Log posterior density on unconstrained space, up to a constant."""
        return self.log_likelihood(position, problem) + self.log_prior(position, problem)

    @staticmethod
    def _constrain(prop: ParameterProperties, value: Array) -> Array:
        return value if prop.constrainer is None else prop.constrainer(value)

    @staticmethod
    def _leaves(problem: Problem) -> list[tuple[str, Array, ParameterProperties]]:
        return list(
            zip(
                paths(problem.params),
                jax.tree.leaves(problem.params),
                property_leaves(problem.props),
                strict=True,
            )
        )
