"""Prior laws of parameters: densities in closed form, and the same as distributions of tfp.

A fit traces the densities for every parameter. As distributions of TensorFlow Probability they
take a third of its time to trace, and their constants a part of its time to compile. So the
densities are written out, and the distributions are made when somebody asks for them.
"""

from collections.abc import Callable
from math import lgamma, log, pi
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from tensorflow_probability.substrates.jax import bijectors as tfb
from tensorflow_probability.substrates.jax import distributions as tfd

from ssmlin.models._features import ParamsProjection

type Density = Callable[[Float[Array, "..."]], Float[Array, "..."]]


class Prior(NamedTuple):
    """The prior law of one constrained parameter.

    Attributes:
        make_law: makes a distribution whose event is the whole parameter.
        density: log density of every entry, or of the whole; None for that of the distribution.
        low: the bound below; the density may not be finite there.
        high: the bound above.
    """

    make_law: Callable[[], tfd.Distribution]
    density: Density | None = None
    low: float = -np.inf
    high: float = np.inf

    def log_prob(self, value: Float[Array, "..."]) -> Float[Array, ""]:
        """Log density; a value set by hand to a bound is taken as one next to it."""
        if np.isfinite(self.high):
            margin = 2 * float(np.finfo(value.dtype).eps) * (self.high - self.low)
            value = jnp.clip(value, self.low + margin, self.high - margin)
        elif np.isfinite(self.low):
            value = jnp.maximum(value, self.low + float(np.finfo(value.dtype).tiny))
        if self.density is not None:
            return jnp.sum(self.density(value))
        law = self.make_law()
        # A new array: bijectors cache by identity, which would leak from one trace into another.
        new = value.astype(law.dtype) + jnp.zeros_like(value)
        log_density: Array = law.log_prob(new)
        return log_density


def normal_prior(
    like: Float[Array, "..."], scale: float, centre: Float[Array, "..."] | float = 0.0
) -> Prior:
    """Normal, for every entry of a parameter like this one."""

    def make_law() -> tfd.Distribution:
        one = jnp.ones_like(like)
        return _joint(tfd.Normal(centre * one, scale * one))

    return Prior(make_law, lambda x: -0.5 * ((x - centre) / scale) ** 2 - _log_norm(scale))


def log_normal_prior(like: Float[Array, "..."], median: float, spread: float) -> Prior:
    """Log-normal with this median and sd of the logarithm, for every entry."""

    def make_law() -> tfd.Distribution:
        one = jnp.ones_like(like)
        return _joint(tfd.LogNormal(jnp.log(median * one), spread * one))

    def density(x: Array) -> Array:
        y = jnp.log(x)
        return -0.5 * ((y - log(median)) / spread) ** 2 - y - _log_norm(spread)

    return Prior(make_law, density, low=0.0)


def scaled_beta_prior(
    like: Float[Array, "..."], concentrations: tuple[float, float], low: float, high: float
) -> Prior:
    """Beta on [low, high], for every entry."""
    a, b = concentrations

    def make_law() -> tfd.Distribution:
        one = jnp.ones_like(like)
        shift = tfb.Shift(jnp.asarray(low, one.dtype))
        onto = tfb.Chain([shift, tfb.Scale(high * one - low * one)])
        return _joint(tfd.TransformedDistribution(tfd.Beta(a * one, b * one), onto))

    constant = lgamma(a + b) - lgamma(a) - lgamma(b) - log(high - low)

    def density(x: Array) -> Array:
        share = (x - low) / (high - low)
        return (a - 1) * jnp.log(share) + (b - 1) * jnp.log1p(-share) + constant

    return Prior(make_law, density, low, high)


def inverse_gamma_prior(
    like: Float[Array, "..."], shape: float, scale: Float[Array, "..."] | float
) -> Prior:
    """Inverse gamma, for every entry."""

    def make_law() -> tfd.Distribution:
        one = jnp.ones_like(like)
        return _joint(tfd.InverseGamma(shape * one, scale * one))

    def density(x: Array) -> Array:
        return shape * jnp.log(scale / x) - jnp.log(x) - scale / x - lgamma(shape)

    return Prior(make_law, density)


def projection_priors(
    name: str, x: ParamsProjection, scale: float, centre: ParamsProjection | None = None
) -> dict[str, Prior]:
    """Normal laws of the weights and the bias of a projection."""
    weights, bias = (0.0, 0.0) if centre is None else centre
    return {
        f"{name}.weights": normal_prior(x.weights, scale, weights),
        f"{name}.bias": normal_prior(x.bias, scale, bias),
    }


def _log_norm(scale: float) -> float:
    """What makes a normal density integrate to one."""
    return log(scale) + 0.5 * log(2 * pi)


def _joint(law: tfd.Distribution) -> tfd.Distribution:
    """The law of all entries together."""
    return tfd.Independent(law, reinterpreted_batch_ndims=len(law.batch_shape))
