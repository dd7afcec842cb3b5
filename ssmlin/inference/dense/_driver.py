"""The interface of the drivers, which run the recursions over time, and what these return."""

from typing import NamedTuple, Protocol, runtime_checkable

from jaxtyping import Array, Float

from ssmlin.inference.dense._model import Model


class Forward(NamedTuple):
    """The result of the filter: laws after every step, and the scalar updates inside it."""

    means: Float[Array, "T D"]
    covariances: Float[Array, "T D D"]
    residuals: Float[Array, "T N"]
    scales: Float[Array, "T N"]
    gains: Float[Array, "T N D"]


class Backward(NamedTuple):
    """Adjoints λ of the filtered laws and FᵀΛ, with Λ the information of the predicted ones."""

    adjoints: Float[Array, "T D"]
    carried: Float[Array, "T D D"]


@runtime_checkable
class Driver(Protocol):
    """A way to run over time. Drivers are hashable: compiled functions are specialised to them."""

    def forward(self, model: Model) -> Forward:
        """Kalman filter."""

    def backward(self, model: Model, run: Forward) -> Backward:
        """Modified Bryson-Frazier recursion."""

    def states(self, model: Model, shocks: Float[Array, "T D"]) -> Float[Array, "T D"]:
        """The states z_t = F_t z_{t-1} + shock_t from z_0 = 0."""
