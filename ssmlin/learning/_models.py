"""What fitting and sampling need of a model: any object with these methods will do.

`P` stands for the model's parameters, a pytree, and `L` for the law of its state. Inputs are
pytrees whose arrays lead with time; with batches, with sequences and then time.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

from jaxtyping import Array, Float, PyTree
from numpy.typing import DTypeLike

from ssmlin._typing import AnyArray


@runtime_checkable
class StepwiseModel[P](Protocol):
    """A model with a prior that scores its data step by step."""

    def log_prior(self, params: P) -> Float[Array, ""]:
        """Log prior density of the constrained parameters."""

    def log_predictive(
        self, params: P, emissions: Float[Array, "T m"], inputs: PyTree
    ) -> Float[Array, " T"]:
        """Log p(y_t | y_{1:t-1}) of every step of one sequence, zero where nothing is observed."""


@runtime_checkable
class WindowedModel[P, L](StepwiseModel[P], Protocol):
    """A model that can score the steps of a window, given the law of the state before it."""

    def initial_law(self, params: P) -> L:
        """The law of the state before the first step, a pytree of arrays."""

    def filter_window(
        self, params: P, law: L, emissions: Float[Array, "W m"], inputs: PyTree
    ) -> tuple[Float[Array, " W"], L]:
        """Log predictive densities of the steps after a law, and the law after them."""


@runtime_checkable
class EMModel[P](StepwiseModel[P], Protocol):
    """A model with closed-form updates for some of its parameters."""

    def closed_form_blocks(self, params: P) -> Sequence[Sequence[str]]:
        """Blocks of parameters, by path, that have closed-form updates; the others have none."""

    def closed_form_update(
        self,
        params: P,
        score: P,
        names: Sequence[str],
        emissions: Float[Array, "B T m"],
        inputs: PyTree,
        *,
        use_prior: bool,
    ) -> P:
        """Maximise the expected complete-data log posterior over `names`, given the others."""


@runtime_checkable
class PredictiveModel[P](StepwiseModel[P], Protocol):
    """A model that can draw its states and emissions, given data."""

    def posterior_sample(
        self, key: Array, params: P, emissions: Float[Array, "T m"], inputs: PyTree
    ) -> Float[Array, "T ..."]:
        """One path of the states, given all emissions."""

    def predict_one_step(
        self, key: Array, params: P, emissions: Float[Array, "T m"], inputs: PyTree
    ) -> tuple[Float[Array, "T m"], Float[Array, " T"], Float[Array, "T m"], Float[Array, "T m m"]]:
        """Given the past of every step: a draw, its log density, the mean and the covariance."""


@runtime_checkable
class Distribution(Protocol):
    """The law of a parameter, as a distribution of TensorFlow Probability is."""

    @property
    def dtype(self) -> DTypeLike:
        """The precision of its draws."""

    def sample(self, sample_shape: tuple[int, ...] = (), seed: Array | None = None) -> Array:
        """Independent draws."""

    def log_prob(self, value: Array) -> Array:
        """Log density of a value."""


@runtime_checkable
class ModelWithPriors[P](Protocol):
    """A model that names the prior law of every parameter."""

    def prior_distributions(self, params: P) -> Mapping[str, Distribution]:
        """The prior laws of the parameters by path; those without a law are left out."""


@runtime_checkable
class ModelWithGates[P](Protocol):
    """A model with gates that change over time."""

    def gate_values(self, params: P, inputs: PyTree) -> Mapping[str, Float[Array, "T ..."]]:
        """The gates of every step by name."""


@runtime_checkable
class ModelOfMissingData[M](Protocol):
    """A model that must know which emissions are missing before they are traced."""

    def given_missing(self, emissions: Float[AnyArray, "..."] | None) -> M:
        """The model for data of which these are missing; None if nothing is known of them."""


def name_of(model: object) -> str:
    """What a model is called where it is fitted: its mechanism if it has one, or its class."""
    mechanism = getattr(model, "mechanism", None)
    return str(getattr(mechanism, "name", type(model).__name__))


def seen_by[M](model: M, emissions: Float[AnyArray, "..."] | None) -> M:
    """The model for these data, if it asks which are missing before they are traced."""
    if isinstance(model, ModelOfMissingData):
        seen: M = model.given_missing(emissions)
        return seen
    return model
