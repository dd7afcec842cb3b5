"""The log posterior of a choice of parameters, as a function on unconstrained space."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from dynamax.parameters import ParameterProperties
from jaxtyping import Array, Float, PyTree

from ssmlin import _checks
from ssmlin.learning._models import StepwiseModel

#: Unconstrained values of the chosen parameters, by path.
Position = dict[str, Array]


class Problem(NamedTuple):
    """What the posterior depends on besides the model.

    Attributes:
        params: constrained parameters; those that are not chosen keep these values.
        props: their properties.
        emissions: sequences of one length; NaN means missing or padding.
        inputs: None or inputs with leading axes (B, T).
    """

    params: PyTree
    props: PyTree
    emissions: Float[Array, "B T m"]
    inputs: PyTree


def check_observed(emissions: Float[Array, "..."]) -> None:
    """Raise ValueError if nothing is observed, as far as that can be seen."""
    if _checks.is_concrete(emissions) and np.isnan(np.asarray(emissions)).all():
        raise ValueError(
            "emissions: expected at least one observed value to fit, got none in shape "
            f"{tuple(emissions.shape)}"
        )


def paths(params: PyTree) -> list[str]:
    """The path of every parameter, "tokens.alpha.value" for one."""
    leaves, _ = jax.tree.flatten_with_path(params)
    return [".".join(str(getattr(k, "name", getattr(k, "key", k))) for k in p) for p, _ in leaves]


def variable_name(path: str) -> str:
    """The name in a DataTree: "tokens.alpha.value" is alpha, "regression.bias" regression_bias.

    What is the main parameter of its part has the part's name: "process_noise.scale" is
    process_noise, and "row_cov.covariance" row_cov.
    """
    parts = path.split(".")
    if parts[0] == "tokens":
        parts = parts[1:]
    if parts[-1] in ("value", "scale", "covariance"):
        parts = parts[:-1]
    return "_".join(parts)


def property_leaves(props: PyTree) -> list[ParameterProperties]:
    """The properties in the order of the parameters."""
    leaves: list[ParameterProperties] = jax.tree.leaves(
        props, is_leaf=lambda x: isinstance(x, ParameterProperties)
    )
    return leaves


def num_trainable(params: PyTree, props: PyTree) -> int:
    """How many numbers are fitted: the sizes of the trainable parameters, added up.

    Args:
        params: parameters.
        props: matching properties.

    Returns:
        A count.

    Raises:
        ValueError: properties that do not match the parameters.

    Examples:
        >>> import ssmlin
        >>> from ssmlin.learning import num_trainable
        >>> model = ssmlin.LinearAttentionSSM("mamba2", 1, 0, 2, gates="constant")
        >>> num_trainable(*model.initialize())
        11
    """
    leaves, properties = jax.tree.leaves(params), property_leaves(props)
    if len(leaves) != len(properties):
        raise ValueError(
            f"props: expected properties matching the {len(leaves)} arrays of params, got "
            f"{len(properties)}"
        )
    return sum(
        int(np.size(x)) for x, prop in zip(leaves, properties, strict=True) if prop.trainable
    )


def strong[T: PyTree](tree: T) -> T:
    """Arrays of the same values whose types a scan can carry."""
    arrays: T = jax.tree.map(lambda x: jax.lax.convert_element_type(x, x.dtype), tree)
    return arrays


def choose(params: PyTree, props: PyTree, variables: str | Sequence[str] | None) -> tuple[str, ...]:
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
        named = {path for path in trainable if path == name or name in path.split(".")}
        if not named:
            raise ValueError(
                f"variables: expected names of trainable parameters, which are "
                f"{', '.join(trainable)}; got {name!r}"
            )
        chosen |= named
    return tuple(path for path in trainable if path in chosen)


@dataclass(frozen=True)
class Target:
    """The posterior of the parameters `names` given those that are not chosen; hashable.

    With x the unconstrained and θ = f(x) the constrained parameters its log density is
    log p(y | θ) + log p(θ) + log |df/dx|.
    """

    model: StepwiseModel[PyTree]
    names: tuple[str, ...]

    def position(self, problem: Problem) -> Position:
        """Where the given parameters are."""
        return {
            path: value if prop.constrainer is None else prop.constrainer.inverse(value)
            for path, value, prop in self._leaves(problem)
            if path in self.names
        }

    def params(self, position: Position, problem: Problem) -> PyTree:
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
        terms: Array = jax.vmap(lambda y, u: self.model.log_predictive(params, y, u))(
            problem.emissions, problem.inputs
        )
        return terms

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
