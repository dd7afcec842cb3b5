"""Simulating a model forward, and what `forecast` returns."""

from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
from tensorflow_probability.substrates.jax import distributions as tfd

from ssmlin._typing import AnyArray
from ssmlin.inference import symmetric_root
from ssmlin.lgssm import MatrixLGSSM
from ssmlin.models._parameters import ParamsLinearAttentionSSM


class Forecast(NamedTuple):
    """Predictive distribution of the next emissions.

    Attributes:
        means: (horizon, m).
        covariances: covariance of each emission, (horizon, m, m).
        levels: the probabilities of the central intervals, (num_levels,).
        lower: lower ends, (num_levels, horizon, m).
        upper: upper ends, (num_levels, horizon, m).
        samples: sampled paths, (num_samples, horizon, m), or None.
    """

    means: Float[Array, "horizon m"]
    covariances: Float[Array, "horizon m m"]
    levels: Float[Array, " num_levels"]
    lower: Float[Array, "num_levels horizon m"]
    upper: Float[Array, "num_levels horizon m"]
    samples: Float[Array, "num_samples horizon m"] | None = None


def exact_forecast(
    means: Float[Array, "horizon m"],
    covariances: Float[Array, "horizon m m"],
    levels: Float[Array, " num_levels"],
    samples: Float[Array, "num_samples horizon m"] | None,
    student_df: Float[Array, "..."] | None = None,
) -> Forecast:
    """Intervals of a Gaussian or, given degrees of freedom above 2, Student-t predictive law.

    The degrees of freedom are the same for all emissions, or (m,).
    """
    deviations = jnp.sqrt(jnp.diagonal(covariances, axis1=-2, axis2=-1))
    upper = (0.5 + 0.5 * levels)[:, None, None]
    if student_df is None:
        width = tfd.Normal(0.0, 1.0).quantile(upper)
    else:
        standard = tfd.StudentT(student_df, jnp.zeros_like(student_df), 1.0)
        width = jnp.sqrt((student_df - 2) / student_df) * standard.quantile(upper)
    width = width * deviations
    return Forecast(means, covariances, levels, means - width, means + width, samples)


def sampled_forecast(
    samples: Float[Array, "num_samples horizon m"], levels: Float[Array, " num_levels"]
) -> Forecast:
    """Moments and intervals of sampled paths."""
    means = samples.mean(axis=0)
    centred = samples - means
    covariances = jnp.einsum("nhi,nhj->hij", centred, centred) / max(len(samples) - 1, 1)
    lower = jnp.quantile(samples, 0.5 - 0.5 * levels, axis=0)
    upper = jnp.quantile(samples, 0.5 + 0.5 * levels, axis=0)
    return Forecast(means, covariances, levels, lower, upper, samples)


@runtime_checkable
class LocalModel(Protocol):
    """What `simulate` needs of a model: its operators as a function of the inputs."""

    def to_lgssm(
        self, params: ParamsLinearAttentionSSM, inputs: Float[Array, "n p"]
    ) -> MatrixLGSSM:
        """The operators that go with each row of inputs."""


def draw_states(
    key: Array,
    mean: Float[Array, "*means m d"],
    cov: Float[Array, "d d"] | Float[Array, "m d d"] | Float[Array, "n 1 d d"],
    row_cov: Float[Array, "*row_covs m m"],
    num_samples: int,
) -> Float[Array, "n m d"]:
    """Draw states of MN(mean, Σ, cov), or with a covariance for each row where Σ is diagonal.

    The mean, the covariance and Σ are the same for all states, or there is one for each.
    """
    normal = jax.random.normal(key, (num_samples, *mean.shape[-2:]), mean.dtype)
    return mix_states(normal, mean, cov, row_cov)


def mix_states(
    normal: Float[Array, "n m d"],
    mean: Float[AnyArray, "*means m d"],
    cov: Float[AnyArray, "d d"] | Float[AnyArray, "m d d"] | Float[AnyArray, "n 1 d d"],
    row_cov: Float[AnyArray, "*row_covs m m"],
) -> Float[Array, "n m d"]:
    """States as `draw_states` draws them, from standard normal numbers."""
    mixed = symmetric_root(jnp.asarray(row_cov)) @ normal
    return jnp.asarray(mean) + jnp.einsum(
        "...de,...e->...d", symmetric_root(jnp.asarray(cov)), mixed
    )


def simulate(
    model: LocalModel,
    params: ParamsLinearAttentionSSM,
    key: Array,
    states: Float[Array, "n m d"],
    row_cov: Float[AnyArray, "*row_covs m m"],
    lags: Float[AnyArray, "n num_lags m"],
    exogenous: Float[AnyArray, "T k"] | Float[AnyArray, "G T k"],
) -> tuple[Float[Array, "n T m d"], Float[Array, "n T m"]]:
    """Run n paths forward, feeding emissions back as lagged inputs.

    Args:
        model: gives the operators for inputs (lags, exogenous).
        params: its parameters.
        key: a PRNG key.
        states: the states before the first step.
        row_cov: Σ, the same for all paths or one for each.
        lags: the emissions before the first step, the latest first; num_lags may be 0.
        exogenous: the other inputs of each step, the same for all paths; or (G, T, k), the same
            for the first n / G paths, and so on.

    Returns:
        States and emissions of every path.
    """
    n, m, _ = states.shape
    lags, outer = jnp.asarray(lags), jnp.asarray(exogenous)
    outer = outer[None] if outer.ndim == 2 else outer
    groups, root = len(outer), symmetric_root(jnp.asarray(row_cov))

    def step(
        carry: tuple[Array, Array], inputs: tuple[Array, Array]
    ) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
        state, lags = carry
        step_key, outside = inputs
        u = jnp.concatenate([lags.reshape(n, -1), jnp.repeat(outside, n // groups, axis=0)], axis=1)
        # One step of n paths looks like n steps of one sequence.
        lgssm = model.to_lgssm(params, u)
        # All of its random numbers at once, since each call takes long to compile.
        noise = lgssm.process_noise
        normal = jax.random.normal(step_key, (n, m, noise.num_sources + 1), state.dtype)
        shock = noise.mix(normal[..., 1:])
        state = lgssm.transition.apply(state) + lgssm.drift.to_dense() + root @ shock
        spread = jnp.sqrt(lgssm.emission_noise)[:, None] * (root @ normal[..., :1])[:, :, 0]
        emission = jnp.einsum("nmd,nd->nm", state, lgssm.readout) + lgssm.emission_bias + spread
        lags = jnp.concatenate([emission[:, None], lags], axis=1)[:, : lags.shape[1]]
        return (state, lags), (state, emission)

    keys = jax.random.split(key, outer.shape[1])
    _, (paths, emissions) = jax.lax.scan(step, (states, lags), (keys, outer.swapaxes(0, 1)))
    return jnp.moveaxis(paths, 0, 1), jnp.moveaxis(emissions, 0, 1)
