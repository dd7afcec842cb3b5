"""Attentions of :mod:`ssmlin.attention` in the place of softmax in the attention regression."""

from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Float
from tensorflow_probability.substrates.jax import distributions as tfd

from ssmlin.attention import (
    ParamsKArAt,
    ParamsMultiToken,
    grouped_attention,
    init_karat,
    init_multi_token,
    karat_weights,
    multi_token_attention,
    slim_attention,
    xattention,
)
from ssmlin.comparison.baselines._attention_models import (
    AttentionRegression,
    SoftmaxRegression,
    TokenRegression,
    shifted,
)
from ssmlin.comparison.baselines._attention_parameters import (
    OwnParams,
    ParamsAttentionRegression,
    Shapes,
    Steps,
    Tokens,
)


@dataclass(frozen=True)
class SlimRegression(TokenRegression):
    r"""Slim attention: one square W_K, and values that are linear in the keys, $V = K W_{KV}$.

    A key holds all of $x_s = (y_s, u_s, 1)$, so W_K is (D, D) with D = m + p + 1, and what is
    recalled is linear in $y_s$ and $u_s$, not in $y_s$ alone. `values` is $D W_{KV}^\top$, so that
    a priori as much is recalled as by softmax attention.
    """

    def shapes(self, m: int, width: int, key_dim: int) -> Shapes:
        """The size of the keys is that of x; `key_dim` is not used."""
        size = m + width
        return Shapes((size, width), (size, size), (m, size))

    def tokens(self, params: ParamsAttentionRegression, steps: Steps) -> Tokens:
        """The keys stand in for the values, which are never computed."""
        y, seen, u = steps
        x = jnp.concatenate([y, u], axis=1)
        keys = jnp.where(seen[:, None], x @ params.keys.T, 0.0)
        return Tokens(u @ params.queries.T, keys, keys)

    def attend(self, params: ParamsAttentionRegression, tokens: Tokens) -> Float[Array, "T m"]:
        """See :func:`ssmlin.attention.slim_attention`."""
        projection = params.values.T / len(params.keys)
        projection = jnp.pad(projection, ((0, 2), (0, 0)))  # the recency is no value
        q, k = tokens.queries[:, None], tokens.keys[:, None]
        return slim_attention(q, k, projection)[:, 0]


@dataclass(frozen=True)
class XAttentionRegression(TokenRegression):
    """Block-sparse attention; the blocks are chosen by the steps before one's own block.

    The gradient is that of the chosen blocks; their choice has none. All scores are computed, so
    it is no faster than softmax attention.
    """

    threshold: float = 0.9
    block_size: int = 16
    stride: int = 4

    def attend(self, params: ParamsAttentionRegression, tokens: Tokens) -> Float[Array, "T m"]:
        """See :func:`ssmlin.attention._xattention`."""
        return xattention(
            *tokens, threshold=self.threshold, block_size=self.block_size, stride=self.stride,
            method="masked", choice="before",
        )  # fmt: skip


@dataclass(frozen=True)
class GroupedRegression(TokenRegression):
    """Attention to the means of groups; the key of zeros fills a group of its own."""

    group_size: int = 4

    def attend(self, params: ParamsAttentionRegression, tokens: Tokens) -> Float[Array, "T m"]:
        """See :func:`ssmlin.attention.grouped_attention`."""
        extra = self.group_size - 1
        q, k, v = (jnp.pad(x, ((extra, 0), (0, 0))) for x in tokens)
        return grouped_attention(q, k, v, group_size=self.group_size)[extra:]


@dataclass(frozen=True)
class MultiTokenRegression(TokenRegression):
    """Multi-token attention; heads are mixed and added, without a norm, and start at softmax."""

    num_heads: int = 2
    query_size: int = 3
    key_size: int = 3

    def shapes(self, m: int, width: int, key_dim: int) -> Shapes:
        """Those of all heads, one below the other."""
        heads = self.num_heads
        return Shapes((heads * key_dim, width), (heads * key_dim, width), (heads * m, m))

    def init_own(self, key: Array | None = None) -> ParamsMultiToken:
        """The identity."""
        del key
        return init_multi_token(self.num_heads, None, self.query_size, self.key_size)

    def log_prior_own(self, own: OwnParams) -> Float[Array, ""]:
        """Centred at the identity."""
        assert isinstance(own, ParamsMultiToken)
        centre = self.init_own()
        total: Array = (
            tfd.Normal(centre.kernel, 0.3).log_prob(own.kernel).sum()
            + tfd.Normal(centre.mixing, 0.3).log_prob(own.mixing).sum()
        )
        return total

    def tokens(self, params: ParamsAttentionRegression, steps: Steps) -> Tokens:
        """Those of each head."""
        shape = (len(steps.u), self.num_heads, -1)
        return Tokens(*(x.reshape(shape) for x in super().tokens(params, steps)))

    def attend(self, params: ParamsAttentionRegression, tokens: Tokens) -> Float[Array, "T m"]:
        """See :func:`ssmlin.attention.multi_token_attention`."""
        assert isinstance(params.own, ParamsMultiToken)
        return multi_token_attention(params.own, *tokens).sum(axis=1)


@dataclass(frozen=True)
class KArAtRegression(TokenRegression):
    r"""Kolmogorov-Arnold attention to a window of the last steps, each at its own place.

    Weights need not be positive nor sum to one; that of the place s steps back fades as
    $e^{-\lambda s}$, as it does in softmax attention. Before the first step are tokens of zeros.
    """

    window: int = 8
    rank: int = 2
    num_frequencies: int = 2

    def init_own(self, key: Array) -> ParamsKArAt:
        """Random; W_v is small, so the start is close to the autoregression."""
        return init_karat(key, self.window, self.rank, self.num_frequencies)

    def log_prior_own(self, own: OwnParams) -> Float[Array, ""]:
        """Shrinks."""
        return sum((tfd.Normal(0.0, 1.0).log_prob(x).sum() for x in own), jnp.zeros(()))

    def read(self, params: ParamsAttentionRegression, steps: Steps) -> Float[Array, "T m"]:
        """See :meth:`AttentionRegression.read`; each place has its weight, so no recency."""
        q, k, v = self.tokens(params, steps)
        return self.attend(params, Tokens(q, shifted(k), shifted(v)))

    def attend(self, params: ParamsAttentionRegression, tokens: Tokens) -> Float[Array, "T m"]:
        """See :func:`ssmlin.attention.karat_weights`; row t sees the last tokens up to t."""
        assert isinstance(params.own, ParamsKArAt)
        last = self.window - 1
        places = jnp.arange(self.window)
        in_window = jnp.arange(len(tokens.queries))[:, None] + places
        k, v = (jnp.pad(x, ((last, 0), (0, 0)))[in_window] for x in tokens[1:])
        scores = jnp.einsum("td,tsd->ts", tokens.queries, k) * tokens.queries.shape[1] ** -0.5
        fading = jnp.exp(-params.recency * (last - places))
        weights = karat_weights(params.own, scores, causal=False)
        read: Array = jnp.einsum("ts,s,tsm->tm", weights, fading, v)
        return read


#: The attentions by name, each with the model that reads by it.
ATTENTIONS: dict[str, type[AttentionRegression]] = {
    "softmax": SoftmaxRegression,
    "slim": SlimRegression,
    "xattention": XAttentionRegression,
    "grouped": GroupedRegression,
    "multi_token": MultiTokenRegression,
    "karat": KArAtRegression,
}
