"""Mechanisms that remove before they write: A_t has a low-rank part."""

from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Float

from ssmlin.lgssm import DPLR, LowRank
from ssmlin.mechanisms._base import Gate, Mechanism, Tokens, unit

_BETA = Gate("rate", per="step", signed=(0.0, 2.0))
_CHANNEL_DECAY = Gate("decay", per="column")


def _column(x: Float[Array, "... n"]) -> Float[Array, "... n 1"]:
    """A vector as a matrix of one column."""
    return x[..., None]


@dataclass(frozen=True)
class DeltaNet(Mechanism):
    """The delta rule: what is stored under a key is replaced, by a share β."""

    name = "deltanet"
    transition_formula = "I − β k̂k̂ᵀ"
    drift_formula = "β v k̂ᵀ"
    gates = {"beta": _BETA}
    step_rank = 1
    source = "Yang et al. 2024, arXiv 2406.06484"

    def decay(self, tokens: Tokens) -> Float[Array, "... d"]:
        """The diagonal decay D that comes before the removal, A = D (I − β k̂k̂ᵀ)."""
        return jnp.ones_like(tokens.keys)

    def transition(self, tokens: Tokens) -> DPLR:
        """Decay, then remove along the key."""
        decay, key = self.decay(tokens), unit(tokens.keys)
        return DPLR(decay, _column(decay * key), _column(tokens.beta[..., None] * key))

    def drift(self, tokens: Tokens) -> LowRank:
        """The share β of the value, under the normalised key."""
        return LowRank(_column(tokens.values), _column(tokens.beta[..., None] * unit(tokens.keys)))


@dataclass(frozen=True)
class GatedDeltaNet(DeltaNet):
    """The delta rule with a scalar decay."""

    name = "gated_deltanet"
    transition_formula = "α (I − β k̂k̂ᵀ)"
    gates = {"alpha": Gate("decay"), "beta": _BETA}
    source = "Yang et al. 2024, arXiv 2412.06464"

    def decay(self, tokens: Tokens) -> Float[Array, "... d"]:
        """The scalar decay α in every channel."""
        return jnp.broadcast_to(tokens.alpha[..., None], tokens.keys.shape)


@dataclass(frozen=True)
class KDA(DeltaNet):
    """Kimi delta attention: the delta rule with a decay for every key channel."""

    name = "kda"
    transition_formula = "diag(a) (I − β k̂k̂ᵀ)"
    gates = {"decay": _CHANNEL_DECAY, "beta": _BETA}
    source = "Kimi Linear 2025, arXiv 2510.26692"

    def decay(self, tokens: Tokens) -> Float[Array, "... d"]:
        """The channels' decays."""
        return tokens.decay


@dataclass(frozen=True)
class GatedDeltaNet2(Mechanism):
    r"""Gated DeltaNet-2: KDA with separate gates for what is erased and what is written.

    $$S_t = S_{t-1} \mathrm{diag}(a_t) \big(I - (b_t \odot \hat k_t) \hat k_t^\top\big)
      + (w_t \odot v_t) \hat k_t^\top$$

    The gate `erase`, b in [0, 1]^d, acts on the columns, and `write`, w in [0, 1]^m, on the values.
    b = β 1 and w = β 1 give KDA, and a decay that is equal in all columns gives Gated DeltaNet. The
    eigenvalues of A_t are real and in [0, 1] ([-1, 1] with negative eigenvalues, b in [0, 2]), but
    ‖A_t‖₂ may exceed 1. It is at most 2/√3 (√2 with negative eigenvalues): with c = k̂ᵀ(b ⊙ k̂), all
    but the plane of k̂ and b ⊙ k̂ is kept, and there the matrix is [[1 − c, 0], [−s, 1]] with
    s² ≤ c(1 − c), or s² ≤ c(2 − c).

    With `write_noise` an error in v_i reaches row i with the factor w_i. All rows share one Q_t,
    so it has the mean square ω² of these factors: B_t is the product of w ⊙ v / ω and ω k̂ᵀ.
    """

    name = "gated_deltanet2"
    transition_formula = "diag(a) (I − (b ⊙ k̂) k̂ᵀ)"
    drift_formula = "(w ⊙ v) k̂ᵀ"
    gates = {
        "decay": _CHANNEL_DECAY,
        "erase": Gate("rate", per="column", signed=(0.0, 2.0)),
        "write": Gate("rate", per="row"),
    }
    step_rank = 1
    source = "Hatamizadeh et al. 2026, arXiv 2605.22791"

    def transition(self, tokens: Tokens) -> DPLR:
        """Decay, then erase along the key what is read along b ⊙ k̂."""
        key = unit(tokens.keys)
        return DPLR(tokens.decay, _column(tokens.decay * tokens.erase * key), _column(key))

    def drift(self, tokens: Tokens) -> LowRank:
        """The gated value w ⊙ v, under the normalised key."""
        square = jnp.mean(tokens.write**2, axis=-1, keepdims=True)
        size = jnp.sqrt(jnp.where(square > 0, square, 1.0))
        right = jnp.where(square > 0, size, 0.0) * unit(tokens.keys)
        return LowRank(_column(tokens.write * tokens.values / size), _column(right))


@dataclass(frozen=True)
class Longhorn(Mechanism):
    """The implicit (proximal) step of online regression; keys keep their length."""

    name = "longhorn"
    transition_formula = "I − ε kkᵀ, ε = β/(1 + β kᵀk)"
    drift_formula = "ε v kᵀ"
    gates = {"beta": Gate("rate", per="step")}
    step_rank = 1
    source = "Liu et al. 2024, arXiv 2407.14207"

    def _scaled_key(self, tokens: Tokens) -> Float[Array, "... d"]:
        """ε k."""
        length = jnp.sum(tokens.keys**2, axis=-1)
        return (tokens.beta / (1 + tokens.beta * length))[..., None] * tokens.keys

    def transition(self, tokens: Tokens) -> DPLR:
        """Remove along the key with the implicit step size ε."""
        return DPLR(
            jnp.ones_like(tokens.keys), _column(tokens.keys), _column(self._scaled_key(tokens))
        )

    def drift(self, tokens: Tokens) -> LowRank:
        """The value, under the key scaled by ε."""
        return LowRank(_column(tokens.values), _column(self._scaled_key(tokens)))


@dataclass(frozen=True)
class RWKV7(Mechanism):
    """RWKV-7: channel decay, a removal key of its own, and a removal rate per channel.

    The keys are the k̃ of the paper; ‖A_t‖ may exceed 1.
    """

    name = "rwkv7"
    transition_formula = "diag(w) − κ̂ (a ⊙ κ̂)ᵀ"
    drift_formula = "v k̃ᵀ"
    gates = {
        "decay": _CHANNEL_DECAY,
        "removal_key": Gate("key", per="column"),
        "removal_rate": Gate("rate", per="column"),
    }
    step_rank = 1
    source = "Peng et al. 2025, arXiv 2503.14456"

    def transition(self, tokens: Tokens) -> DPLR:
        """Channel decay less the removal along κ̂."""
        removal = unit(tokens.removal_key)
        return DPLR(tokens.decay, _column(removal), _column(tokens.removal_rate * removal))

    def drift(self, tokens: Tokens) -> LowRank:
        """The outer product v k̃ᵀ."""
        return LowRank(_column(tokens.values), _column(tokens.keys))


@dataclass(frozen=True)
class DeltaProduct(DeltaNet):
    """Several steps of the delta rule a token, each with its own key, value and β."""

    name = "deltaproduct"
    transition_formula = "Π_j (I − β_j k̂_j k̂_jᵀ)"
    drift_formula = "Σ_j β_j v_j k̂_jᵀ Π_{l>j} (I − β_l k̂_l k̂_lᵀ)"
    multi_step = True
    source = "Siems et al. 2025, arXiv 2502.10297"


@dataclass(frozen=True)
class GatedDeltaProduct(GatedDeltaNet):
    """DeltaProduct with a scalar decay, applied once a token at its first micro-step."""

    name = "gated_deltaproduct"
    transition_formula = "α Π_j (I − β_j k̂_j k̂_jᵀ)"
    drift_formula = DeltaProduct.drift_formula
    multi_step = True
    source = DeltaProduct.source

    def decay(self, tokens: Tokens) -> Float[Array, "... n_h d"]:
        """The scalar α at the first micro-step, 1 at the others."""
        first = jnp.arange(tokens.keys.shape[-2])[:, None] == 0
        return jnp.where(first, tokens.alpha[..., None, None], jnp.ones_like(tokens.keys))
