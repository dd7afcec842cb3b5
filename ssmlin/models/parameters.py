"""Parameters of the model and the prior on them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial, reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from dynamax.parameters import ParameterProperties
from dynamax.utils.distributions import InverseWishart
from jaxtyping import Array, Float
from tensorflow_probability.substrates.jax import bijectors as tfb
from tensorflow_probability.substrates.jax import distributions as tfd

from ssmlin import _checks
from ssmlin.inference import RowCovLaw
from ssmlin.mechanisms import GatesByName, Mechanism
from ssmlin.models.features import ParamsGate, ParamsProjection


class ParamsAttentionInitial(NamedTuple):
    """Law of S_0, before the first transition; doubles as a container of properties.

    Attributes:
        mean: M_0, (m, d).
        variances: the diagonal of P_0, (d,).
    """

    mean: Float[Array, "m d"] | ParameterProperties
    variances: Float[Array, " d"] | ParameterProperties


@jax.tree_util.register_pytree_with_keys_class
@dataclass(frozen=True, eq=False)
class ParamsAttentionDynamics(GatesByName[Any]):
    """Maps from inputs to tokens and gates; doubles as a container of properties.

    A gate is an attribute, too: ``dynamics.alpha``, and "dynamics.alpha.value" is a path in it. The
    other tokens are None where the mechanism has none.

    Args:
        keys: projection to k_t, (d,) or (n_h, d).
        queries: projection to q_t, (d,).
        values: projection to v_t, (m,) or (n_h, m).
        gates: the mechanism's gates by name, a ParamsGate: one number, (d,) or (n_h,), see
            :class:`ssmlin.mechanisms.Gate`; or a ParamsProjection, (d,), of one that is a key.
        process_noise: q (scalar), its diagonal (d,), or σ² of the stationary or write noise;
            None for no noise.
    """

    keys: ParamsProjection
    queries: ParamsProjection | None
    values: ParamsProjection | None
    gates: Mapping[str, Any]
    process_noise: Float[Array, "..."] | ParameterProperties | None

    def _replace(self, **changes: Any) -> "ParamsAttentionDynamics":
        """The same with other values, as of a named tuple; a gate goes by its own name."""
        gates = {name: changes.pop(name, gate) for name, gate in self.gates.items()}
        return replace(self, **{"gates": gates, **changes})

    def tree_flatten_with_keys(self) -> tuple[list[tuple[Any, Any]], tuple[str, ...]]:
        """The parts with their names, and the names of the gates."""
        names = ("keys", "queries", "values", *self.gates, "process_noise")
        parts = [(jax.tree_util.GetAttrKey(name), getattr(self, name)) for name in names]
        return parts, tuple(self.gates)

    @classmethod
    def tree_unflatten(
        cls, gates: tuple[str, ...], parts: Sequence[Any]
    ) -> "ParamsAttentionDynamics":
        """The container from its parts."""
        keys, queries, values, *given, process_noise = parts
        return cls(keys, queries, values, dict(zip(gates, given, strict=True)), process_noise)


class ParamsCoefficients(NamedTuple):
    """What stands for D and d where they are integrated out: the law of C_t = [D_t, d_t] W⁻¹.

    Attributes:
        basis: W, (k, k), so that W (u_t, 1) has unit second moments; fixed.
        variance: τ², scalar, of the entries of C_0 relative to Σ; fixed.
        noise: q, scalar, of their changes at every step.
    """

    basis: Float[Array, "k k"] | ParameterProperties
    variance: Float[Array, ""] | ParameterProperties
    noise: Float[Array, ""] | ParameterProperties


class ParamsAttentionEmissions(NamedTuple):
    """y_t = S_t h_t + D u_t + d + ε_t, ε_t ~ N(0, r Σ).

    Attributes:
        input_weights: D, (m, p), or None; also None where it is integrated out.
        bias: d, (m,), or None; likewise.
        noise: r, scalar; fixed to 1 where Σ is learned, since only r Σ is identified.
        row_cov: Σ, its diagonal (m,) or the matrix (m, m); fixed where it is integrated out.
        coefficients: the law of D and d where they are integrated out, or None.
    """

    input_weights: Float[Array, "m p"] | ParameterProperties | None
    bias: Float[Array, " m"] | ParameterProperties | None
    noise: Float[Array, ""] | ParameterProperties
    row_cov: Float[Array, "m m"] | Float[Array, " m"] | ParameterProperties
    coefficients: ParamsCoefficients | None = None


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
        key_scale: sd of the weights of keys (of gates, too) and queries around their safe start.
        value_scale: sd of the weights of values.
        gate_scale: sd of the weights of input-driven gates.
        skip_scale: sd of D and d.
        coefficient_noise: median and log sd of the q of their drift, where D and d are integrated
            out.
        decay_concentrations: beta prior of the gates that are decays, on (0, 1) after scaling.
        rate_concentrations: beta prior of the gates that are rates.
        process_noise: median and log sd of q, relative to the emission noise.
        initial_variance: median and log sd of the diagonal of P_0, likewise.
        noise_floor: the prior scale of the emission noise, relative to the series' variance.
        series_variance: variance of the series.
    """

    key_scale: float = 0.5
    value_scale: float = 0.1
    gate_scale: float = 0.3
    skip_scale: float = 1.0
    coefficient_noise: tuple[float, float] = (1e-5, 3.0)
    decay_concentrations: tuple[float, float] = (8.0, 1.5)
    rate_concentrations: tuple[float, float] = (1.5, 3.0)
    process_noise: tuple[float, float] = (1e-3, 1.5)
    initial_variance: tuple[float, float] = (1e-1, 1.5)
    noise_floor: float = 0.05
    series_variance: float = 1.0

    def __post_init__(self) -> None:
        # Plain numbers, which two equal priors, and models that hold them, share a hash by.
        for field in fields(ShrinkagePrior):
            if _checks.is_concrete(x := getattr(self, field.name)):
                plain = tuple(float(one) for one in x) if np.ndim(x) else float(x)
                object.__setattr__(self, field.name, plain)

    def distributions(
        self,
        params: ParamsLinearAttentionSSM,
        key_centre: ParamsProjection,
        mechanism: Mechanism,
        learns_row_cov: bool,
    ) -> dict[str, tfd.Distribution]:
        """The prior law of every constrained parameter, by its path; they are independent.

        Args:
            params: the parameters, for shapes and dtypes; and for r where Σ has a prior, since
                that is on r Σ.
            key_centre: the safe start of the keys.
            mechanism: whose gates they are.
            learns_row_cov: whether Σ is learned, or else r; the other has no law.

        Returns:
            Distributions whose event is a whole parameter. M_0 has none.
        """
        dynamics, emissions = params.dynamics, params.emissions
        laws: dict[str, tfd.Distribution] = {}

        def add(name: str, x: Array | None, law: Callable[[Array], tfd.Distribution]) -> None:
            if x is not None:
                one = law(jnp.ones_like(x))
                laws[name] = tfd.Independent(one, reinterpreted_batch_ndims=len(one.batch_shape))

        def normal(name: str, x: Array | None, scale: float, centre: Array | float = 0.0) -> None:
            add(name, x, lambda one: tfd.Normal(centre * one, scale * one))

        def log_normal(name: str, x: Array | None, median: float, spread: float) -> None:
            add(name, x, lambda one: tfd.LogNormal(jnp.log(median * one), spread * one))

        def projection(name: str, x: ParamsProjection | None, scale: float) -> None:
            if x is not None:
                centre = key_centre if name == "keys" else ParamsProjection(0.0, 0.0)
                normal(f"dynamics.{name}.weights", x.weights, scale, centre.weights)
                normal(f"dynamics.{name}.bias", x.bias, scale, centre.bias)

        projection("keys", dynamics.keys, self.key_scale)
        projection("queries", dynamics.queries, self.key_scale)
        projection("values", dynamics.values, self.value_scale)
        for name, gate in mechanism.gates.items():
            if gate.kind == "key":
                projection(name, dynamics.gates[name], self.key_scale)
        for name, gate in mechanism.gates.items():
            if gate.kind == "key":
                continue
            decays = gate.kind == "decay"
            shape = self.decay_concentrations if decays else self.rate_concentrations
            law = partial(_scaled_beta, *shape, *mechanism.gate_range(name))
            add(f"dynamics.{name}.value", dynamics.gates[name].value, law)
            normal(f"dynamics.{name}.weights", dynamics.gates[name].weights, self.gate_scale)
        log_normal("dynamics.process_noise", dynamics.process_noise, *self.process_noise)
        log_normal("initial.variances", params.initial.variances, *self.initial_variance)
        normal("emissions.input_weights", emissions.input_weights, self.skip_scale)
        normal("emissions.bias", emissions.bias, self.skip_scale)
        if (coefficients := emissions.coefficients) is not None:
            noise = coefficients.noise
            log_normal("emissions.coefficients.noise", noise, *self.coefficient_noise)
        law = self._row_cov_law(emissions) if learns_row_cov else self._noise_law(emissions.noise)
        return laws | {"emissions.row_cov" if learns_row_cov else "emissions.noise": law}

    def _noise_law(self, like: Array) -> tfd.Distribution:
        """Inverse gamma of r, shaped as `like`."""
        scale = 0.5 * self.noise_floor * self.series_variance
        return tfd.InverseGamma(jnp.full_like(like, 1.5), jnp.full_like(like, scale))

    def row_cov(self, emissions: ParamsAttentionEmissions) -> RowCovLaw:
        """The law of Σ: r Σ is inverse Wishart with m + 2 degrees of freedom.

        On a diagonal its entries are inverse gamma, which is the same with m = 1.
        """
        like, m = emissions.row_cov, emissions.row_cov.shape[0]
        scale = self.noise_floor * self.series_variance / emissions.noise
        if like.ndim == 1:
            return RowCovLaw(jnp.full_like(like, 3.0), scale * jnp.ones_like(like))
        return RowCovLaw(jnp.asarray(m + 2.0, like.dtype), scale * jnp.eye(m, dtype=like.dtype))

    def _row_cov_law(self, emissions: ParamsAttentionEmissions) -> tfd.Distribution:
        """The law of Σ as a distribution."""
        df, scale = self.row_cov(emissions)
        if scale.ndim == 1:
            single = tfd.InverseGamma(0.5 * df, 0.5 * scale)
            return tfd.Independent(single, reinterpreted_batch_ndims=1)
        # dynamax's law computes in the default precision, whatever it is given.
        dtype = jnp.result_type(float)
        return InverseWishart(df.astype(dtype), scale.astype(dtype))


_DRIFT = ["coefficients", "noise"]


def log_density(
    laws: dict[str, tfd.Distribution],
    params: ParamsLinearAttentionSSM,
    gate_ranges: dict[str, tuple[float, float]],
) -> Float[Array, ""]:
    """Log density of parameters under laws for each of them, by path."""
    terms = [jnp.zeros((), params.initial.variances.dtype)]
    for name, law in laws.items():
        value: Any = reduce(getattr, name.split("."), params)
        # A new array: bijectors cache by identity, which would leak from one trace into another.
        value = value + jnp.zeros_like(value)
        terms.append(law.log_prob(_inside(value, name, gate_ranges).astype(law.dtype)))
    return sum(terms[1:], terms[0])


def _scaled_beta(a: float, b: float, low: float, high: float, one: Array) -> tfd.Distribution:
    """Beta on [low, high]."""
    onto = tfb.Chain([tfb.Shift(jnp.asarray(low, one.dtype)), tfb.Scale(high * one - low * one)])
    return tfd.TransformedDistribution(tfd.Beta(a * one, b * one), onto)


def _inside(value: Array, name: str, gate_ranges: dict[str, tuple[float, float]]) -> Array:
    """Keep off a bound, where a value may have been set by hand but the density is not finite."""
    parts = name.split(".")
    if parts[-1] == "value":
        low, high = gate_ranges[parts[-2]]
        margin = 2 * float(jnp.finfo(value.dtype).eps) * (high - low)
        return jnp.clip(value, low + margin, high - margin)
    if parts[-1] in ("process_noise", "variances") or parts[-2:] == _DRIFT:
        return jnp.maximum(value, jnp.finfo(value.dtype).tiny)
    return value


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
