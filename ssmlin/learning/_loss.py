r"""The loss of :func:`ssmlin.learning.fit_sgd`: of whole sequences, or window by window.

The loss is $-\big(\log p(\theta) + \sum_t \log p(y_t \mid y_{1:t-1}, \theta)\big) / N$, where t
runs over the steps that are fitted and N is the number of their observed values.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from dynamax.parameters import from_unconstrained
from jaxtyping import Array, Bool, Float, Int, PyTree

from ssmlin import _checks
from ssmlin.learning._devices import kept_over_devices
from ssmlin.learning._models import StepwiseModel, WindowedModel


class FitData(NamedTuple):
    """All sequences, and which of their steps are fitted; the other steps are held out."""

    emissions: Float[Array, "B T m"]
    inputs: PyTree
    in_train: Bool[Array, "B T"]


class Batch(NamedTuple):
    """A minibatch: which sequences, and their weights; zero for those that only fill it up."""

    which: Int[Array, " b"]
    weights: Float[Array, " b"]


class Window(NamedTuple):
    """One window of a minibatch, and the laws of its sequences' states before it."""

    number: Int[Array, ""] | int
    laws: PyTree


class Windows(NamedTuple):
    """How sequences are cut into windows; hashable.

    Attributes:
        size: steps a window; the number of steps is a multiple of it.
        number: windows that hold steps to fit.
    """

    size: int
    number: int


class LossTerms(NamedTuple):
    """What a loss is made of.

    Attributes:
        terms: log predictive densities of the steps.
        laws: of the states after a window; None for whole sequences.
    """

    terms: Float[Array, "b T"]
    laws: PyTree


class Objective(NamedTuple):
    """The model and how its sequences are cut: what a compiled loss depends on, hashable.

    Attributes:
        model: with ``filter_window`` where there are windows.
        windows: None for whole sequences.
        prior_weight: what the log prior is multiplied by.
    """

    model: StepwiseModel[PyTree]
    windows: Windows | None
    prior_weight: float = 1.0

    @property
    def windowed(self) -> tuple[WindowedModel[PyTree, PyTree], Windows]:
        """The model that filters windows, and the windows."""
        assert isinstance(self.model, WindowedModel) and self.windows is not None
        return self.model, self.windows


def _cut(x: Array, windows: Windows, number: Array | int, axis: int) -> Array:
    """The steps of a window."""
    return jax.lax.dynamic_slice_in_dim(x, number * windows.size, windows.size, axis)


def _filter_window(
    params: PyTree, objective: Objective, data: FitData, which: Int[Array, " b"], window: Window
) -> tuple[Float[Array, "b W"], PyTree]:
    """Log predictive densities of a window's steps, and the laws of the states after it.

    The gradient is that with respect to the parameters alone, with the laws before held fixed.
    Only the model's initial law is a function of the parameters.
    """
    model, windows = objective.windowed
    laws = jax.tree.map(
        lambda first, law: jnp.where(window.number == 0, first, law),
        model.initial_law(params),
        window.laws,
    )
    emissions, inputs = jax.tree.map(
        lambda x: _cut(x, windows, window.number, 1)[which], (data.emissions, data.inputs)
    )
    return jax.vmap(model.filter_window, (None, 0, 0, 0))(params, laws, emissions, inputs)


def no_laws(params: PyTree, objective: Objective, size: int) -> PyTree:
    """Zeros where laws go; before the first window the model's initial law is used instead."""
    laws = jax.eval_shape(objective.windowed[0].initial_law, params)
    return jax.tree.map(lambda x: jnp.zeros((size, *x.shape), x.dtype), laws)


def log_predictive(
    params: PyTree, objective: Objective, data: FitData, which: Int[Array, " b"]
) -> Float[Array, "b T"]:
    """Log predictive density of every step; by windows, so that memory does not grow with T."""
    if objective.windows is None:
        chosen = jax.tree.map(lambda x: x[which], (data.emissions, data.inputs))
        if getattr(objective.model, "mesh", None) is None:  # else time is spread
            chosen = kept_over_devices(chosen, len(which))
        emissions, inputs = chosen
        return jax.vmap(partial(objective.model.log_predictive, params))(emissions, inputs)

    def step(laws: PyTree, number: Array) -> tuple[PyTree, Array]:
        terms, laws = _filter_window(params, objective, data, which, Window(number, laws))
        return laws, terms

    numbers = jnp.arange(data.emissions.shape[1] // objective.windows.size)
    _, terms = jax.lax.scan(step, no_laws(params, objective, len(which)), numbers)
    return jnp.moveaxis(terms, 0, 1).reshape(len(which), -1)


def count_values(emissions: Float[Array, "B T m"], chosen: Bool[Array, "B T"]) -> Int[Array, ""]:
    """How many values are observed at the chosen steps."""
    return jnp.sum(~jnp.isnan(emissions) & chosen[..., None])


def loss(
    unconstrained: PyTree,
    objective: Objective,
    props: PyTree,
    data: FitData,
    batch: Batch,
    window: Window | None,
) -> tuple[Float[Array, ""], LossTerms]:
    """The loss of a minibatch, or of one window of it.

    The losses of the windows are scaled so that their mean is the loss of the whole.
    """
    params = from_unconstrained(unconstrained, props)
    count, in_train = count_values(data.emissions, data.in_train), data.in_train
    share: Array | int = 1
    laws, num_windows = None, 1
    if window is None:
        terms = log_predictive(params, objective, data, batch.which)
    else:
        _, windows = objective.windowed
        terms, laws = _filter_window(params, objective, data, batch.which, window)
        in_train = _cut(in_train, windows, window.number, 1)
        here = count_values(_cut(data.emissions, windows, window.number, 1), in_train)
        share, num_windows = here / jnp.maximum(count, 1), windows.number
    scale = len(data.emissions) / jnp.sum(batch.weights)
    in_train = in_train[batch.which]
    fitted = jnp.sum(jnp.where(in_train, terms, 0.0) * batch.weights[:, None]) * scale
    prior = share * objective.prior_weight * objective.model.log_prior(params)
    value = -(prior + fitted) * num_windows / jnp.maximum(count, 1)
    # Parameters may be wider than the data; what the fit carries has the data's precision.
    dtype = data.emissions.dtype
    return value.astype(dtype), LossTerms(terms.astype(dtype), laws)


def padded(data: FitData, extra: int) -> FitData:
    """The data with so many missing steps more."""

    def pad(x: Array, value: float = 0.0) -> Array:
        widths = [(0, 0), (0, extra)] + [(0, 0)] * (x.ndim - 2)
        return jnp.pad(x, widths, constant_values=value)

    # They are fitted where no steps are held out, so that still all are.
    in_train = jnp.pad(data.in_train, ((0, 0), (0, extra)), mode="edge")
    return FitData(pad(data.emissions, jnp.nan), jax.tree.map(pad, data.inputs), in_train)


def num_train_steps(
    emissions: Float[Array, "B T m"], validation_fraction: float
) -> Int[np.ndarray, " B"]:
    """How many steps at the start of every sequence are fitted.

    What is missing at the end of a sequence is no part of it.

    Raises:
        TypeError: emissions that are being traced.
    """
    if not _checks.is_concrete(emissions):
        raise TypeError(
            "emissions: expected an array of known values, got one that is being traced; which "
            "steps are fitted, and when a fit stops, depends on values, so that fit and fit_sgd "
            "do not work inside jit, vmap or grad"
        )
    seen = ~np.isnan(np.asarray(emissions)).all(axis=-1)
    lengths = np.where(seen, np.arange(1, seen.shape[-1] + 1), 0).max(axis=-1, initial=0)
    steps: np.ndarray = lengths - (validation_fraction * lengths).astype(int)
    return steps


def train_part(
    emissions: Float[Array, "B T m"], validation_fraction: float
) -> Float[Array, "B T m"]:
    """The sequences with all but the steps to fit missing."""
    ends = num_train_steps(emissions, validation_fraction)[..., None]
    fitted = np.arange(emissions.shape[-2]) < ends
    # In NumPy, where nothing is compiled.
    first: Array = jax.device_put(
        np.where(fitted[..., None], emissions, np.nan).astype(emissions.dtype)
    )
    return first
