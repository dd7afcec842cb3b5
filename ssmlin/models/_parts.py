"""What a model is made of: the interface of a part, and what its methods take and return.

A part owns its parameters, which are one field of :class:`ssmlin.models.ParamsLinearAttentionSSM`:
their start, their properties, their prior, their closed-form update, and what they add to the
:class:`ssmlin.lgssm.MatrixLGSSM`. A new parameter of a part touches the part alone.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ssmlin import _checks
from ssmlin.lgssm import MatrixLGSSM
from ssmlin.models._priors import Prior


class Sizes(NamedTuple):
    """The sizes that parameters depend on.

    Attributes:
        emission_dim: m.
        input_dim: p.
        key_dim: d.
    """

    emission_dim: int
    input_dim: int
    key_dim: int


class LeastSquares(NamedTuple):
    """The least-squares regression of emissions on inputs, where a model starts.

    Attributes:
        weights: D, (m, p).
        bias: d, (m,).
        covariance: of the residuals, (m, m).
    """

    weights: Float[Array, "m p"]
    bias: Float[Array, " m"]
    covariance: Float[Array, "m m"]


class Start(NamedTuple):
    """What a part may look at where it starts.

    Attributes:
        regression: the least-squares regression of the data.
        emissions: y, with the axes (B, T) or (T,) in front, or None without data.
        inputs: u, likewise.
    """

    regression: LeastSquares
    emissions: Float[Array, "... m"] | None
    inputs: Float[Array, "... p"] | None


#: A named tuple of arrays, or of their properties. Each part has one of its own.
PartParams = Any


class NoParams(NamedTuple):
    """The parameters of a part that has none."""


@dataclass(frozen=True)
class Contribution:
    """What a part adds to the model of a sequence.

    Args:
        arguments: of :func:`ssmlin.matrix_lgssm`.
        finish: changes the model that was made of the arguments of all parts, or None.
    """

    arguments: Mapping[str, Array] = field(default_factory=dict)
    finish: Callable[[MatrixLGSSM], MatrixLGSSM] | None = None


class Counts(NamedTuple):
    """Degrees of freedom.

    Attributes:
        sequences: B.
        steps: transitions up to the last observation of each sequence.
        observed: observed values in every row, (m,).
        noise_rank: the rank of Q_t.
    """

    sequences: Float[Array, ""]
    steps: Float[Array, ""]
    observed: Float[Array, " m"]
    noise_rank: int


class Expectation(NamedTuple):
    """What a closed-form update depends on besides a part's own parameters and their score.

    Attributes:
        emissions: all sequences; NaN means missing.
        inputs: all inputs.
        counts: degrees of freedom.
        row_cov: Σ, its diagonal (m,) or the matrix.
        emission_noise: r.
        key_dim: d.
        use_prior: maximise the posterior; False for the likelihood.
    """

    emissions: Float[Array, "B T m"]
    inputs: Float[Array, "B T p"]
    counts: Counts
    row_cov: Float[Array, "m m"] | Float[Array, " m"]
    emission_noise: Float[Array, ""]
    key_dim: int
    use_prior: bool


@runtime_checkable
class Part(Protocol):
    """A part of a model, with a named tuple of parameters of its own.

    Parts are frozen dataclasses, hashable and equal by value.
    """

    #: The names of the parameters that have closed-form updates. All in the first tuple are
    #: updated with one expectation, those in the second with the next one, and so on.
    updates: ClassVar[tuple[tuple[str, ...], ...]]

    def with_prior(self, prior: object) -> "Part":
        """The part with the hyperparameters that are None taken from a ShrinkagePrior."""

    def initialize(self, key: Array, sizes: Sizes, start: Start) -> PartParams:
        """The parameters that the model starts at. Every part is given the same key."""

    def properties(self, sizes: Sizes) -> PartParams:
        """What is trainable, and how it is constrained."""

    def priors(self, params: PartParams, sizes: Sizes) -> Mapping[str, Prior]:
        """The prior laws of the parameters by name, for parameters of these shapes and types."""

    def contribute(
        self, params: PartParams, inputs: Float[Array, "T p"], sizes: Sizes
    ) -> Contribution:
        """What the parameters add to the model of T steps."""

    def check_em(self) -> None:
        """Raise ValueError where expectation maximisation cannot fit the part."""

    def update(
        self, params: PartParams, score: PartParams, names: Sequence[str], expectation: Expectation
    ) -> PartParams:
        """Maximise the expected complete-data log posterior over some of the parameters.

        Args:
            params: of the part, where the expectation is taken.
            score: the gradient of the log likelihood with respect to them.
            names: what to move, all of one tuple in `updates`.
            expectation: what else it depends on.

        Returns:
            The new parameters of the part.
        """


@dataclass(frozen=True)
class BasePart(Part):
    """What most parts share: no closed-form update, and hyperparameters by default from a prior."""

    updates: ClassVar[tuple[tuple[str, ...], ...]] = ()
    #: Of each hyperparameter the field of a ShrinkagePrior that sets it where it is None.
    set_by_prior: ClassVar[Mapping[str, str]] = {}

    def __post_init__(self) -> None:
        # Plain numbers, so that equal parts, and the models that hold them, have equal hashes.
        make_plain(self)

    def with_prior(self, prior: object) -> "BasePart":
        """The part with the hyperparameters that are None taken from a ShrinkagePrior."""
        values = {
            own: getattr(prior, theirs)
            for own, theirs in self.set_by_prior.items()
            if getattr(self, own) is None
        }
        return replace(self, **values)

    def check_em(self) -> None:
        """Do nothing: expectation maximisation can fit the part."""

    def update(
        self, params: PartParams, score: PartParams, names: Sequence[str], expectation: Expectation
    ) -> PartParams:
        """Return the parameters as they are, since none of them has a closed-form update."""
        return params


def make_plain(part: Any) -> None:
    """Turn the numbers in the fields of a frozen dataclass into plain ones, in place."""
    for one in fields(part):
        x = getattr(part, one.name)
        if x is None or isinstance(x, (bool, str)) or not _is_number(x):
            continue
        plain = tuple(float(number) for number in x) if np.ndim(x) else float(x)
        object.__setattr__(part, one.name, plain)


def _is_number(x: object) -> bool:
    """Whether this is a known number, or an array or a sequence of numbers."""
    if isinstance(x, (int, float, np.ndarray, np.generic, jax.Array)):
        return _checks.is_concrete(x) and not isinstance(x, int)
    return isinstance(x, (list, tuple)) and all(isinstance(y, (int, float)) for y in x)


def settled[Value](x: Value | None) -> Value:
    """A hyperparameter that a prior has set."""
    if x is None:
        raise ValueError(
            "prior: expected a part whose hyperparameters are set, got None for one; "
            "call `with_prior` of the part first"
        )
    return x


# ------------------------------------------------------------------------ closed-form updates


def count(emissions: Float[Array, "B T m"], noise_rank: int) -> Counts:
    """Count what was observed; what comes after the last observation says nothing."""
    seen = ~jnp.isnan(emissions)
    any_seen = seen.any(axis=-1)
    num_steps = emissions.shape[1]
    last = jnp.where(any_seen, jnp.arange(1, num_steps + 1), 0).max(axis=1)
    dtype = emissions.dtype
    sequences = jnp.sum(any_seen.any(axis=1)).astype(dtype)
    observed = seen.sum(axis=(0, 1)).astype(dtype)
    return Counts(sequences, last.sum().astype(dtype), observed, noise_rank)


def statistic(
    scale: Float[Array, "..."], score: Float[Array, "..."], n: Float[Array, "..."]
) -> Float[Array, "..."]:
    r"""S of a covariance scale with n degrees of freedom, from the score of the likelihood.

    The expected complete-data log likelihood of the scale q is $-\frac n2 \log q - \frac{S}{2q}$,
    and by Fisher's identity its derivative at the old q is that of the log likelihood. So
    $S = q (n + 2 q \, \partial_q \log p(y))$, which is n times the scale at a fixed point; it is
    kept above what rounding leaves of it. A statistic with more degrees of freedom than the noise
    has, where it is singular, makes the step shorter, never wrong.
    """
    return scale * jnp.maximum(n + 2 * scale * score, float(np.finfo(scale.dtype).eps) * n)


def log_normal_mode(
    statistic: Float[Array, "..."], n: Float[Array, "..."], law: tuple[float, float] | None
) -> Float[Array, "..."]:
    """The mode of q, with a log-normal prior of that median and log sd, or without a prior."""
    if law is None:
        return statistic / n
    median, spread = law
    tiny = float(np.finfo(statistic.dtype).tiny)
    # d/dx of the objective in x = log q falls through zero between these two.
    without = jnp.log(jnp.maximum(statistic, tiny)) - jnp.log(n + 2)
    centre = jnp.broadcast_to(jnp.log(jnp.asarray(median, statistic.dtype)), without.shape)

    def slope(x: Array) -> Array:
        return 0.5 * statistic * jnp.exp(-x) - 0.5 * n - 1 - (x - centre) / spread**2

    def halve(_: Array, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        middle = 0.5 * (low + high)
        rises = slope(middle) > 0
        return jnp.where(rises, middle, low), jnp.where(rises, high, middle)

    ends = jnp.minimum(without, centre), jnp.maximum(without, centre)
    low, high = jax.lax.fori_loop(0, 60, halve, ends)
    return jnp.exp(0.5 * (low + high))
