"""The attention baselines: their fit, by gradient steps from the least-squares autoregression."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from dynamax.parameters import ParameterProperties
from dynamax.utils.bijectors import RealToPSDBijector
from jaxtyping import Array, Float, Int
from tensorflow_probability.substrates.jax import bijectors as tfb

from ssmlin import _checks
from ssmlin._buckets import in_bucket
from ssmlin.comparison.baselines._attention_models import AttentionRegression
from ssmlin.comparison.baselines._attention_parameters import ParamsAttentionRegression
from ssmlin.comparison.baselines._attention_paths import regression_arrays
from ssmlin.comparison.baselines._attention_variants import ATTENTIONS
from ssmlin.comparison.baselines._autoregression import residual_covariance
from ssmlin.comparison.baselines._baseline import Baseline, SharedRegression, regression
from ssmlin.forecasting import Ahead, Fitted, Observed, Predictive, least_squares
from ssmlin.learning import fit_sgd, num_trainable

#: The scores of all pairs of steps are held at once.
MAX_STEPS = 20_000
#: Up to so many steps a fit takes less time than to compile it.
_FEW_STEPS = 512
#: The share of the training part, at its end, that stops the fit.
_VALIDATION_FRACTION = 0.2


@partial(jax.jit, static_argnums=0)
def _means(
    model: AttentionRegression,
    params: ParamsAttentionRegression,
    emissions: Float[Array, "T m"],
    inputs: Float[Array, "T p"],
) -> Float[Array, "T m"]:
    return model.means(params, emissions, inputs)


@partial(jax.jit, static_argnums=(0, 2, 3, 4))
def _random_start(
    model: AttentionRegression, seed: Int[Array, ""], m: int, width: int, key_dim: int
) -> ParamsAttentionRegression:
    """An attention that recalls little, added to nothing."""
    key = jax.random.key(seed)
    query_key, key_key, value_key = jax.random.split(key, 3)
    shapes = model.shapes(m, width, key_dim)
    params = ParamsAttentionRegression(
        queries=jax.random.normal(query_key, shapes.queries),
        keys=jax.random.normal(key_key, shapes.keys),
        values=0.03 * jax.random.normal(value_key, shapes.values),
        recency=jnp.asarray(0.05),
        weights=jnp.zeros((m, width)),
        noise=jnp.eye(m),
        own=model.init_own(jax.random.fold_in(key, 3)),
    )
    single: ParamsAttentionRegression = jax.tree.map(lambda x: x.astype(jnp.float32), params)
    return single


def _start(
    model: AttentionRegression, train: Observed, seed: int, num_lags: int, key_dim: int
) -> ParamsAttentionRegression:
    """The autoregression, with an attention that recalls little."""
    coefficients, residuals = least_squares(train, num_lags)
    covariance = residual_covariance(coefficients, residuals)
    start: ParamsAttentionRegression = _random_start(
        model, seed, *coefficients.shape[::-1], key_dim
    )
    return start._replace(
        weights=jnp.asarray(coefficients.T, jnp.float32),
        noise=jnp.asarray(covariance, jnp.float32),
    )


def _arrays(observed: Observed, num_lags: int) -> tuple[Float[Array, "T m"], Float[Array, "T p"]]:
    """Emissions and inputs; of short series padded, so that those of nearby lengths share programs.

    Padded steps are missing and last, so nothing that is observed attends to them.
    """
    y, u = regression_arrays(observed, num_lags)
    if len(y) <= _FEW_STEPS:
        y, u = in_bucket(y, np.nan), in_bucket(u, 0.0)
    arrays: tuple[Array, Array] = jax.device_put((y, u))
    return arrays


def fit_attention_regression(
    train: Observed,
    seed: int,
    *,
    num_lags: int,
    attention: str | AttentionRegression = "softmax",
    key_dim: int = 4,
    num_epochs: int = 500,
) -> Fitted:
    """Fit by Adam from the least-squares autoregression, stopped by the end of the training part.

    Args:
        train: the standardised training series.
        seed: for the start.
        num_lags: how many lagged values are inputs.
        attention: a name in :data:`ATTENTIONS`, or a model with settings of its own.
        key_dim: d_k, of each head; slim attention has its own.
        num_epochs: at most so many epochs.

    Returns:
        The fitted forecaster.

    Raises:
        ValueError: an unknown attention, a series of more than 20 000 steps, or one too short for
            the autoregression.
    """
    if isinstance(attention, AttentionRegression):
        model = attention
    else:
        model = ATTENTIONS[_checks.one_of("attention", attention, tuple(ATTENTIONS))]()
    steps, m = train.values.shape
    if steps > MAX_STEPS:
        raise ValueError(
            f"values: expected at most {MAX_STEPS} steps, since attention compares all pairs; got "
            f"{steps}"
        )
    y, u = _arrays(train, num_lags)
    fitted_part = train.until(steps - int(_VALIDATION_FRACTION * steps))
    params = _start(model, fitted_part, seed, num_lags, key_dim)
    props: ParamsAttentionRegression = jax.tree.map(lambda _: ParameterProperties(), params)
    props = props._replace(
        recency=ParameterProperties(constrainer=tfb.Softplus()),
        noise=ParameterProperties(constrainer=RealToPSDBijector()),
    )
    params, history = fit_sgd(
        model, params, props, y[None], u[None], num_epochs=num_epochs, progress=False,
        validation_fraction=_VALIDATION_FRACTION,
    )  # fmt: skip
    params = _start(model, train, seed, num_lags, key_dim)
    if history.best_epoch > 0:
        params, _ = fit_sgd(
            model, params, props, y[None], u[None], num_epochs=history.best_epoch + 1,
            validation_fraction=0.0, patience=None, progress=False,
        )  # fmt: skip
    noise = np.asarray(params.noise, np.float64)

    def predict(observed: Observed) -> Predictive:
        means = np.asarray(_means(model, params, *_arrays(observed, num_lags)), np.float64)
        return Predictive.gaussian(means[: len(observed.values)], noise)

    def simulate(observed: Observed, ahead: Ahead) -> Float[np.ndarray, "N n H m"]:
        return model.simulate(params, num_lags, observed, ahead)

    # Scores are per value; log densities are per step of m values.
    validation = -float(history.scores[history.best_epoch]) * m
    return Fitted(predict, num_trainable(params, props), simulate, validation)


#: The name of each attention regression, and its attention.
ATTENTION_REGRESSIONS = {
    name if name.endswith("attention") else f"{name}_attention": name for name in ATTENTIONS
}
BASELINES = tuple(
    Baseline(
        name,
        regression(partial(fit_attention_regression, attention=attention)),
        SharedRegression.grid,
        by_default=attention == "softmax",
    )
    for name, attention in ATTENTION_REGRESSIONS.items()
)
