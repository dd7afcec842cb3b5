"""The part of a model that is the noise in its memory, one small class a kind.

A new kind is a subclass of :class:`ProcessNoise` in this file, registered under its name by
`@register`; one with a single scale is a :class:`ScaledNoise`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import jax.numpy as jnp
from dynamax.parameters import ParameterProperties
from jaxtyping import Array, Float
from tensorflow_probability.substrates.jax import bijectors as tfb

from ssmlin.lgssm import MatrixLGSSM
from ssmlin.mechanisms import Mechanism
from ssmlin.models._parts import (
    BasePart,
    Contribution,
    Expectation,
    NoParams,
    Sizes,
    Start,
    log_normal_mode,
    settled,
    statistic,
)
from ssmlin.models._priors import Prior, log_normal_prior


class ParamsProcessNoise(NamedTuple):
    """Parameters of the noise W_t, or their properties.

    Attributes:
        scale: q (scalar), its diagonal (d,), or σ² of the stationary or write noise.
    """

    scale: Float[Array, ""] | Float[Array, " d"] | ParameterProperties


@dataclass(frozen=True)
class ProcessNoise(BasePart):
    r"""$W_t \sim \mathrm{MN}(0, \Sigma, Q_t)$; a subclass says what Q_t is."""

    def check(self, mechanism: Mechanism) -> None:
        """Raise ValueError for a mechanism that cannot have this noise."""

    def rank(self, key_dim: int, num_writes: int) -> int:
        """The rank of Q_t, where a token has so many writes."""
        return key_dim


@dataclass(frozen=True)
class ScaledNoise(ProcessNoise):
    """Noise with a scale, which is its only parameter.

    Args:
        prior: median and log sd of the log-normal prior of the scale, relative to the emission
            noise; None for those of the model's prior.
    """

    prior: tuple[float, float] | None = None

    updates = (("scale",),)
    set_by_prior = {"prior": "process_noise"}

    def shape(self, sizes: Sizes) -> tuple[int, ...]:
        """The shape of the scale."""
        return ()

    def initialize(self, key: Array, sizes: Sizes, start: Start) -> ParamsProcessNoise:
        """Start at the median of the prior."""
        dtype = start.regression.covariance.dtype
        return ParamsProcessNoise(jnp.full(self.shape(sizes), settled(self.prior)[0], dtype))

    def properties(self, sizes: Sizes) -> ParamsProcessNoise:
        """The scale is positive."""
        return ParamsProcessNoise(ParameterProperties(constrainer=tfb.Softplus()))

    def priors(self, params: ParamsProcessNoise, sizes: Sizes) -> dict[str, Prior]:
        """A log-normal law of the scale."""
        return {"scale": log_normal_prior(params.scale, *settled(self.prior))}

    def contribute(
        self, params: ParamsProcessNoise, inputs: Float[Array, "T p"], sizes: Sizes
    ) -> Contribution:
        """Q_t; by default the scale in all its columns."""
        return Contribution({"process_noise": params.scale})

    def update(
        self,
        params: ParamsProcessNoise,
        score: ParamsProcessNoise,
        names: Sequence[str],
        expectation: Expectation,
    ) -> ParamsProcessNoise:
        """The closed form of the scale; see :class:`Part`."""
        counts, q = expectation.counts, params.scale
        # A scale for each column has its share of the rank.
        n = len(counts.observed) * counts.steps * counts.noise_rank / q.size
        law = self.prior if expectation.use_prior else None
        return ParamsProcessNoise(log_normal_mode(statistic(q, score.scale, n), n, law))


#: The kinds by the names that the constructor of a model takes.
PROCESS_NOISES: dict[str, ProcessNoise] = {}

ProcessNoiseName = Literal["isotropic", "diagonal", "stationary", "write", "none"]


def register[Kind: type[ProcessNoise]](name: str) -> Callable[[Kind], Kind]:
    """Let a name stand for a kind of noise with its defaults."""

    def add(kind: Kind) -> Kind:
        PROCESS_NOISES[name] = kind()
        return kind

    return add


@register("isotropic")
@dataclass(frozen=True)
class IsotropicNoise(ScaledNoise):
    """Q_t = q I."""


@register("diagonal")
@dataclass(frozen=True)
class DiagonalNoise(ScaledNoise):
    """Q_t = diag(q), a scale for every column of the state."""

    def shape(self, sizes: Sizes) -> tuple[int, ...]:
        """(d,)."""
        return (sizes.key_dim,)

    def contribute(
        self, params: ParamsProcessNoise, inputs: Float[Array, "T p"], sizes: Sizes
    ) -> Contribution:
        """Q_t, the same at every step."""
        return Contribution({"process_noise": params.scale[None, :]})


@register("stationary")
@dataclass(frozen=True)
class StationaryNoise(ScaledNoise):
    """Q_t = (1 − w_t²) σ² with w_t the diagonal of A_t: a memory that decays keeps variance σ²."""

    def check(self, mechanism: Mechanism) -> None:
        """Raise ValueError for a mechanism without a decay, whose noise would be zero."""
        if all(gate.kind != "decay" for gate in mechanism.gates.values()):
            raise ValueError(
                f"process_noise: expected another kind for {mechanism.name!r}, which has no decay, "
                "so that its stationary noise is zero; got 'stationary'"
            )

    def contribute(
        self, params: ParamsProcessNoise, inputs: Float[Array, "T p"], sizes: Sizes
    ) -> Contribution:
        """Q_t, once the transitions are there."""

        def finish(lgssm: MatrixLGSSM) -> MatrixLGSSM:
            diag = (1 - lgssm.transition.diag**2) * params.scale
            return replace(lgssm, process_noise=replace(lgssm.process_noise, diag=diag))

        return Contribution(finish=finish)


@register("write")
@dataclass(frozen=True)
class WriteNoise(ScaledNoise):
    """Q_t is σ² times what an error in the values that are written would do."""

    def check(self, mechanism: Mechanism) -> None:
        """Raise ValueError for a mechanism that writes no values."""
        if not mechanism.writes_values:
            raise ValueError(
                f"process_noise: expected another kind for {mechanism.name!r}, which writes "
                "no values; got 'write'"
            )

    def rank(self, key_dim: int, num_writes: int) -> int:
        """The number of values that are written, if it is below d."""
        return min(key_dim, num_writes)

    def contribute(
        self, params: ParamsProcessNoise, inputs: Float[Array, "T p"], sizes: Sizes
    ) -> Contribution:
        """The variance of an error in the values."""
        return Contribution({"write_noise": params.scale})


@register("none")
@dataclass(frozen=True)
class NoNoise(ProcessNoise):
    """Q_t = 0."""

    def rank(self, key_dim: int, num_writes: int) -> int:
        """Zero."""
        return 0

    def initialize(self, key: Array, sizes: Sizes, start: Start) -> NoParams:
        """No parameter."""
        return NoParams()

    def properties(self, sizes: Sizes) -> NoParams:
        """No parameter."""
        return NoParams()

    def priors(self, params: NoParams, sizes: Sizes) -> dict[str, Prior]:
        """No law."""
        return {}

    def contribute(
        self, params: NoParams, inputs: Float[Array, "T p"], sizes: Sizes
    ) -> Contribution:
        """Nothing."""
        return Contribution()
