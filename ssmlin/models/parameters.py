"""Parameters of the model and the prior on them."""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from dynamax.parameters import ParameterProperties
from dynamax.utils.distributions import InverseWishart
from jaxtyping import Array, Float
from tensorflow_probability.substrates.jax import distributions as tfd

from ssmlin.models.features import ParamsGate, ParamsProjection


class ParamsAttentionInitial(NamedTuple):
    """Law of S_0, before the first transition; doubles as a container of properties.

    Attributes:
        mean: M_0, (m, d).
        variances: the diagonal of P_0, (d,).
    """

    mean: Float[Array, "m d"] | ParameterProperties
    variances: Float[Array, " d"] | ParameterProperties


class ParamsAttentionDynamics(NamedTuple):
    """Maps from inputs to tokens and gates, None where the mechanism has no such token.

    Attributes:
        keys: projection to k_t, (d,) or (n_h, d).
        queries: projection to q_t, (d,).
        values: projection to v_t, (m,) or (n_h, m).
        removal_key: projection to κ_t, (d,).
        alpha: gate, scalar.
        beta: gate, scalar or (n_h,).
        decay: gate, (d,).
        removal_rate: gate, (d,).
        process_noise: q (scalar), its diagonal (d,), or σ² of the stationary or write noise;
            None for no noise.
    """

    keys: ParamsProjection
    queries: ParamsProjection | None
    values: ParamsProjection | None
    removal_key: ParamsProjection | None
    alpha: ParamsGate | None
    beta: ParamsGate | None
    decay: ParamsGate | None
    removal_rate: ParamsGate | None
    process_noise: Float[Array, "..."] | ParameterProperties | None


class ParamsAttentionEmissions(NamedTuple):
    """y_t = S_t h_t + D u_t + d + ε_t, ε_t ~ N(0, r Σ).

    Attributes:
        input_weights: D, (m, p), or None.
        bias: d, (m,), or None.
        noise: r, scalar; fixed to 1 where Σ is learned, since only r Σ is identified.
        row_cov: Σ, its diagonal (m,) or the matrix (m, m).
    """

    input_weights: Float[Array, "m p"] | ParameterProperties | None
    bias: Float[Array, " m"] | ParameterProperties | None
    noise: Float[Array, ""] | ParameterProperties
    row_cov: Float[Array, "m m"] | Float[Array, " m"] | ParameterProperties


class ParamsLinearAttentionSSM(NamedTuple):
    """Parameters of :class:`ssmlin.LinearAttentionSSM`, or their properties.

    Attributes:
        initial: law of the first state.
        dynamics: tokens, gates and process noise.
        emissions: readout.
    """

    initial: ParamsAttentionInitial
    dynamics: ParamsAttentionDynamics
    emissions: ParamsAttentionEmissions


@dataclass(frozen=True)
class ShrinkagePrior:
    r"""The default prior: towards a linear autoregression with a small, slowly changing memory.

    Made for series standardised to unit variance; set `series_variance` for others. Weights are
    normal, gates beta on their interval, variances log-normal or inverse Wishart (inverse gamma
    for single variances), which keeps the emission noise off zero.

    Args:
        key_scale: sd of the weights of keys, queries and removal keys around their safe start.
        value_scale: sd of the weights of values.
        gate_scale: sd of the weights of input-driven gates.
        skip_scale: sd of D and d.
        decay_concentrations: beta prior of alpha and decay, on (0, 1) after scaling.
        rate_concentrations: beta prior of beta and the removal rate.
        process_noise: median and log sd of q, relative to the emission noise.
        initial_variance: median and log sd of the diagonal of P_0, likewise.
        noise_floor: the prior scale of the emission noise, relative to the series' variance.
        series_variance: variance of the series.
    """

    key_scale: float = 0.5
    value_scale: float = 0.1
    gate_scale: float = 0.3
    skip_scale: float = 1.0
    decay_concentrations: tuple[float, float] = (8.0, 1.5)
    rate_concentrations: tuple[float, float] = (1.5, 3.0)
    process_noise: tuple[float, float] = (1e-3, 1.5)
    initial_variance: tuple[float, float] = (1e-1, 1.5)
    noise_floor: float = 0.05
    series_variance: float = 1.0

    def log_prob(
        self,
        params: ParamsLinearAttentionSSM,
        key_centre: Float[Array, "..."],
        gate_ranges: dict[str, tuple[float, float]],
    ) -> Float[Array, ""]:
        """Log density of constrained parameters.

        Args:
            params: the parameters.
            key_centre: the safe start of the keys' weights.
            gate_ranges: the interval of every gate.

        Returns:
            The log density, a scalar.
        """
        dynamics, emissions = params.dynamics, params.emissions
        terms = [jnp.zeros(())]

        def normal(x: Array | None, scale: float, centre: Array | float = 0.0) -> None:
            if x is not None:
                terms.append(tfd.Normal(centre, jnp.asarray(scale, x.dtype)).log_prob(x).sum())

        def log_normal(x: Array | None, median: float, spread: float) -> None:
            if x is not None:
                # A variance set to zero by hand is a choice, not a draw: keep it finite.
                x = jnp.maximum(x, jnp.finfo(x.dtype).tiny)
                law = tfd.LogNormal(jnp.log(jnp.asarray(median, x.dtype)), spread)
                terms.append(law.log_prob(x).sum())

        normal(dynamics.keys.weights, self.key_scale, key_centre)
        for projection in (dynamics.queries, dynamics.removal_key):
            if projection is not None:
                normal(projection.weights, self.key_scale)
                normal(projection.bias, self.key_scale)
        if dynamics.values is not None:
            normal(dynamics.values.weights, self.value_scale)
            normal(dynamics.values.bias, self.value_scale)
        for name, (low, high) in gate_ranges.items():
            params_gate: ParamsGate = getattr(dynamics, name)
            normal(params_gate.weights, self.gate_scale)
            a, b = (
                self.decay_concentrations
                if name in ("alpha", "decay")
                else self.rate_concentrations
            )
            terms.append(self._log_beta(params_gate.value, a, b, low, high))
        log_normal(dynamics.process_noise, *self.process_noise)
        log_normal(params.initial.variances, *self.initial_variance)
        normal(emissions.input_weights, self.skip_scale)
        normal(emissions.bias, self.skip_scale)
        terms.append(self._log_noise(emissions))
        return sum(terms[1:], terms[0])

    @staticmethod
    def _log_beta(value: Array, a: float, b: float, low: float, high: float) -> Array:
        """Beta density on [low, high], finite at the bounds."""
        margin = jnp.finfo(value.dtype).eps
        share = jnp.clip((value - low) / (high - low), margin, 1 - margin)
        return (tfd.Beta(a, b).log_prob(share) - jnp.log(high - low)).sum()

    def _log_noise(self, emissions: ParamsAttentionEmissions) -> Array:
        """Inverse Wishart of r Σ, with m + 2 degrees of freedom."""
        floor = self.noise_floor * self.series_variance
        total = emissions.noise * emissions.row_cov
        if total.ndim == 1:
            return (
                tfd.InverseGamma(
                    jnp.asarray(1.5, total.dtype), jnp.asarray(0.5 * floor, total.dtype)
                )
                .log_prob(total)
                .sum()
            )
        # dynamax's law computes in the default precision, whatever it is given.
        total = total.astype(jnp.result_type(float))
        m = total.shape[0]
        return InverseWishart(
            jnp.asarray(m + 2.0, total.dtype), floor * jnp.eye(m, dtype=total.dtype)
        ).log_prob(total)


def make_gate(
    key: Array,
    value: Float[Array, "..."],
    input_dim: int,
    weight_scale: float | None,
) -> ParamsGate:
    """A gate at `value`; input-driven with small random weights unless `weight_scale` is None."""
    if weight_scale is None:
        return ParamsGate(value, None)
    shape = (*value.shape, input_dim)
    return ParamsGate(value, weight_scale * jax.random.normal(key, shape, value.dtype))
