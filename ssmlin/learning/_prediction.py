"""Predictions averaged over the draws of a posterior."""

from collections.abc import Collection
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from ssmlin._optional import require
from ssmlin._typing import AnyArray
from ssmlin.learning._datatree import (
    Axes,
    as_sequences,
    dataset,
    each_draw,
    posterior_params,
    time_labels,
)
from ssmlin.learning._log_posterior import Problem, Target
from ssmlin.learning._models import PredictiveModel, StepwiseModel, seen_by
from ssmlin.learning._samplers import Draws

if TYPE_CHECKING:
    import xarray

_OVER_TIME = ["sequence", "time"]


class Predictions(NamedTuple):
    """Of every step given those before it; the leading axes are (chain, draw, sequence).

    Attributes:
        emissions: a draw.
        log_density: of what was observed.
        means: expected emissions.
        covariances: their covariances.
    """

    emissions: Float[Array, "*N T m"]
    log_density: Float[Array, "*N T"]
    means: Float[Array, "*N T m"]
    covariances: Float[Array, "*N T m m"]


@partial(jax.jit, static_argnames=("model",))
def _predict(
    keys: Array, params: PyTree, emissions: Array, inputs: PyTree, model: PredictiveModel[PyTree]
) -> Predictions:
    """The predictions by every draw of the parameters."""

    def one(key: Array, params: PyTree) -> Predictions:
        sequence_keys = jax.random.split(key, len(emissions))
        predictions = jax.vmap(lambda k, y, u: model.predict_one_step(k, params, y, u))(
            sequence_keys, emissions, inputs
        )
        return Predictions(*predictions)

    return each_draw(one, keys, params)


def add_predictions(
    tree: "xarray.DataTree",
    key: Array,
    draws: Draws,
    target: Target,
    problem: Problem,
    axes: Axes,
) -> None:
    """Add to a DataTree a draw of every emission given those before it."""
    require("xarray")
    import xarray

    assert isinstance(target.model, PredictiveModel)
    keys = jax.random.split(key, (tree.posterior.sizes["chain"], tree.posterior.sizes["draw"]))
    params = jax.vmap(jax.vmap(lambda x: target.params(x, problem)))(draws.positions)
    predicted = _predict(keys, params, problem.emissions, problem.inputs, target.model)
    dims = {"emissions": [*_OVER_TIME, "emission"]}
    made = dataset({"emissions": predicted.emissions}, dims, axes)
    tree["posterior_predictive"] = xarray.DataTree(made)


def predict_one_step[P](
    key: Array,
    model: PredictiveModel[P],
    params: P,
    draws: "xarray.DataTree",
    emissions: Float[AnyArray, "T m"] | Float[AnyArray, "B T m"],
    inputs: PyTree = None,
    *,
    time: Collection[object] | None = None,
) -> "xarray.Dataset":
    r"""Predict every step from those before it, averaged over posterior draws of the parameters.

    $$p(y_t \mid y_{1:t-1}) \approx \frac1n \sum_i p(y_t \mid y_{1:t-1}, \theta_i)$$

    The emissions may go on beyond those the draws were made with: then the later steps are
    held-out predictions, the states learning on while the parameters' law stays.

    Args:
        key: a PRNG key.
        model: the model.
        params: the values of what was not sampled.
        draws: what :func:`sample_posterior` returned.
        emissions: one sequence or a batch; NaN means missing.
        inputs: the inputs, likewise.
        time: labels of the T steps; default 0, ..., T − 1. Those of a time zone become UTC.

    Returns:
        A Dataset with `log_density` (time), the log of the averaged density; `mean` and
        `covariance`, those of the mixture; and `emissions` (chain, draw, time, emission), a draw
        from each predictive.

    Raises:
        ValueError: an argument of the wrong shape.
        TypeError: an argument that is not of the expected type.

    Examples:
        >>> import jax, jax.numpy as jnp, ssmlin
        >>> y = jnp.sin(0.3 * jnp.arange(60.0))[:, None] + 0.1
        >>> model = ssmlin.LinearAttentionSSM("bayesian_memory", 1, 1, 2, num_lags=1)
        >>> u = model.compute_inputs(y)
        >>> params, props = model.initialize(emissions=y[:50], inputs=u[:50])
        >>> draws = ssmlin.sample_posterior(jax.random.key(0), model, params, props, y[:50],
        ...     u[:50], algorithm="laplace", num_samples=50, progress=False,
        ...     variables="process_noise")
        >>> ahead = ssmlin.predict_one_step(jax.random.key(1), model, params, draws, y, u)
        >>> ahead["log_density"].sel(time=slice(50, None)).shape
        (10,)
    """
    data = as_sequences(emissions, inputs)
    all_params = posterior_params(params, draws)
    shape = (draws.posterior.sizes["chain"], draws.posterior.sizes["draw"])
    axes = Axes(time_labels(time, data.emissions.shape[1]), data.is_batch)
    keys = jax.random.split(key, shape)
    seen = seen_by(model, data.emissions)
    predicted = _predict(keys, all_params, data.emissions, data.inputs, seen)
    mean = predicted.means.mean(axis=(0, 1))
    centred = predicted.means - mean
    between = jnp.einsum("cdbti,cdbtj->btij", centred, centred) / (shape[0] * shape[1])
    within = predicted.covariances.mean(axis=(0, 1))
    mixed = jax.nn.logsumexp(predicted.log_density, axis=(0, 1)) - np.log(shape[0] * shape[1])
    moments = dataset(
        {
            "log_density": mixed[None, None],
            "mean": mean[None, None],
            "covariance": (within + between)[None, None],
        },
        {
            "log_density": _OVER_TIME,
            "mean": [*_OVER_TIME, "emission"],
            "covariance": [*_OVER_TIME, "emission", "emission_other"],
        },
        axes,
    ).isel(chain=0, draw=0, drop=True)
    dims = {"emissions": [*_OVER_TIME, "emission"]}
    return moments.merge(dataset({"emissions": predicted.emissions}, dims, axes))


@partial(jax.jit, static_argnames=("model",))
def _log_predictive(
    all_params: PyTree, emissions: Array, inputs: PyTree, model: StepwiseModel[PyTree]
) -> Array:
    return each_draw(lambda params: model.log_predictive(params, emissions, inputs), all_params)


def pointwise_log_likelihood[P](
    model: StepwiseModel[P],
    params: P,
    draws: "xarray.DataTree",
    emissions: Float[AnyArray, "T m"],
    inputs: PyTree,
) -> "xarray.DataArray":
    """Log p(y_t | y_{1:t-1}, θ) of every draw and step, whatever steps the draws were made with.

    Args:
        model: the model.
        params: the values of what was not sampled.
        draws: what :func:`sample_posterior` returned.
        emissions: one sequence; NaN means missing.
        inputs: its inputs.

    Returns:
        An array (chain, draw, time).
    """
    (y,), inputs, _ = as_sequences(emissions, inputs)
    u = jax.tree.map(lambda x: x[0], inputs)
    terms = _log_predictive(posterior_params(params, draws), y, u, seen_by(model, y))
    axes = Axes(np.arange(len(y)), True)
    return dataset({"emissions": terms}, {"emissions": ["time"]}, axes)["emissions"]
