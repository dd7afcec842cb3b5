"""Mechanisms that decay the memory and add to it: A_t has no low-rank part."""

from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Float

from ssmlin.lgssm import DPLR, LowRank
from ssmlin.mechanisms._base import Gate, Mechanism, Tokens


def diagonal_transition(diag: Float[Array, "... d"]) -> DPLR:
    """Return diag(w) as a DPLR of rank 0.

    Args:
        diag: w, shape (..., d).

    Examples:
        >>> import jax.numpy as jnp
        >>> from ssmlin.mechanisms import diagonal_transition
        >>> diagonal_transition(jnp.array([0.5, 1.0])).to_dense().tolist()
        [[0.5, 0.0], [0.0, 1.0]]
    """
    none = jnp.zeros((*diag.shape, 0), diag.dtype)
    return DPLR(diag, none, none)


def _constant_columns(
    gate: Float[Array, "..."], like: Float[Array, "... d"]
) -> Float[Array, "... d"]:
    """Repeat a scalar gate over the d columns."""
    return jnp.broadcast_to(gate[..., None], like.shape)


@dataclass(frozen=True)
class Vanilla(Mechanism):
    """Linear attention: the memory adds up all associations."""

    name = "vanilla"
    transition_formula = "I"
    drift_formula = "v kᵀ"
    source = "Katharopoulos et al. 2020, arXiv 2006.16236"

    def transition(self, tokens: Tokens) -> DPLR:
        """The identity."""
        return diagonal_transition(jnp.ones_like(tokens.keys))

    def drift(self, tokens: Tokens) -> LowRank:
        """The outer product v kᵀ."""
        return LowRank(tokens.values[..., None], tokens.keys[..., None])


@dataclass(frozen=True)
class ScalarDecay(Vanilla):
    """Linear attention with one decay for the whole memory."""

    gates = {"alpha": Gate("decay")}

    def transition(self, tokens: Tokens) -> DPLR:
        """The scaled identity α I."""
        return diagonal_transition(_constant_columns(tokens.alpha, tokens.keys))


@dataclass(frozen=True)
class RetNet(ScalarDecay):
    """RetNet: a fixed decay γ, the same at every token."""

    name = "retnet"
    transition_formula = "γ I"
    gates = {"alpha": Gate("decay", start=1 - 2.0**-5, trainable=False)}
    source = "Sun et al. 2023, arXiv 2307.08621"


@dataclass(frozen=True)
class Mamba2(ScalarDecay):
    """Mamba-2: a scalar decay that depends on the token."""

    name = "mamba2"
    transition_formula = "α I"
    gates = {"alpha": Gate("decay", signed=(-1.0, 1.0))}
    source = "Dao and Gu 2024, arXiv 2405.21060"


@dataclass(frozen=True)
class GLA(Vanilla):
    """Gated linear attention: a decay for every key channel."""

    name = "gla"
    transition_formula = "diag(a)"
    gates = {"decay": Gate("decay", per="column")}
    source = "Yang et al. 2023, arXiv 2312.06635"

    def transition(self, tokens: Tokens) -> DPLR:
        """The diagonal matrix of the channels' decays."""
        return diagonal_transition(tokens.decay)


@dataclass(frozen=True)
class BayesianMemory(Mechanism):
    """The memory as a regression of values on keys: the Kalman gain writes the value.

    Here h_t = k_t and y_t = v_t, and the recurrence itself adds nothing.
    """

    name = "bayesian_memory"
    transition_formula = "α I or diag(a)"
    drift_formula = "0 (the Kalman gain writes y)"
    gates = {"alpha": Gate("decay")}
    alternative_gates = {"decay": Gate("decay", per="column")}
    writes_values = False
    source = "Quintana and West 1987; test-time regression, arXiv 2501.12352"

    def transition(self, tokens: Tokens) -> DPLR:
        """The decay of the memory: α in all columns, or one for each column."""
        if "decay" in tokens.gates:
            return diagonal_transition(tokens.decay)
        return diagonal_transition(_constant_columns(tokens.alpha, tokens.keys))

    def drift(self, tokens: Tokens) -> LowRank:
        """Zero: a drift of rank 0."""
        return LowRank(tokens.values[..., None][..., :0], tokens.keys[..., None][..., :0])
