r"""Regression on the past through a causal attention: the model and its softmax form.

$$y_t = D u_t + d + \sum_{s < t} a_{ts} \, W_v y_s + \varepsilon_t, \quad
a_{ts} \propto \exp\big(d_k^{-1/2} (W_q u_t)^\top W_k u_s - \lambda (t - s)\big)$$

u holds lagged values and inputs. What followed in similar contexts is recalled, recent steps more
(λ > 0, as in ALiBi, arXiv 2108.12409). A key of zeros with the value 0 is always among the keys.
That is softmax attention; other attentions can take its place, see
:mod:`ssmlin.comparison.baselines._attention_variants`.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped
from tensorflow_probability.substrates.jax import distributions as tfd

from ssmlin._typing import AnyArray
from ssmlin.attention import softmax_attention
from ssmlin.comparison.baselines._attention_parameters import (
    OwnParams,
    ParamsAttentionRegression,
    Shapes,
    Steps,
    Tokens,
)
from ssmlin.comparison.baselines._attention_paths import draw_paths_again, draw_softmax_paths
from ssmlin.forecasting import Ahead, Observed


class AttentionRegression(ABC):
    """The model of this module, for :func:`ssmlin.learning.fit_sgd`; hashable.

    Its prior is centred at the autoregression D u_t + d.
    """

    def shapes(self, m: int, width: int, key_dim: int) -> Shapes:
        """Shapes of queries, keys and values; the width is p + 1."""
        return Shapes((key_dim, width), (key_dim, width), (m, m))

    def init_own(self, key: Array) -> OwnParams:
        """Parameters of the attention itself."""
        del key
        return ()

    def log_prior_own(self, own: OwnParams) -> Float[Array, ""]:
        """Their log prior density."""
        del own
        return jnp.zeros(())

    @abstractmethod
    def read(self, params: ParamsAttentionRegression, steps: Steps) -> Float[Array, "T m"]:
        """What attention recalls at each step from those before it, added to D u_t + d."""

    def log_prior(self, params: ParamsAttentionRegression) -> Float[Array, ""]:
        """Log prior density: keys, queries and values shrink, λ is about 0.05."""
        total: Array = (
            tfd.Normal(0.0, 1.0).log_prob(params.queries).sum()
            + tfd.Normal(0.0, 1.0).log_prob(params.keys).sum()
            + tfd.Normal(0.0, 0.1).log_prob(params.values).sum()
            + tfd.LogNormal(jnp.log(0.05), 1.5).log_prob(params.recency)
            + tfd.Normal(0.0, 1.0).log_prob(params.weights).sum()
            + self.log_prior_own(params.own)
        )
        return total

    def means(
        self,
        params: ParamsAttentionRegression,
        emissions: Float[AnyArray, "T m"],
        inputs: Float[AnyArray, "T p"],
    ) -> Float[Array, "T m"]:
        """E[y_t | y_{1:t-1}]."""
        u = jnp.concatenate([inputs, jnp.ones((len(inputs), 1), inputs.dtype)], axis=1)
        seen = jnp.isfinite(emissions).all(axis=1)
        y = jnp.where(seen[:, None], emissions, 0.0)
        return u @ params.weights.T + self.read(params, Steps(y, seen, u))

    def log_predictive(
        self,
        params: ParamsAttentionRegression,
        emissions: Float[AnyArray, "T m"],
        inputs: Float[AnyArray, "T p"],
    ) -> Float[Array, " T"]:
        """Log density of every step; 0 where it was not wholly observed."""
        seen = jnp.isfinite(emissions).all(axis=1)
        means = self.means(params, emissions, inputs)
        y = jnp.where(seen[:, None], emissions, means)
        law = tfd.MultivariateNormalTriL(means, jnp.linalg.cholesky(params.noise))
        return jnp.where(seen, law.log_prob(y), 0.0)

    def simulate(
        self, params: ParamsAttentionRegression, num_lags: int, observed: Observed, ahead: Ahead
    ) -> Float[np.ndarray, "N n H m"]:
        """Draw paths, in O(T²) a step of a path."""
        return draw_paths_again(self, params, num_lags, observed, ahead)


def shifted(x: Shaped[Array, "T ..."], first: float | bool = 0.0) -> Shaped[Array, "T ..."]:
    """Move each step one back: step t sees what was there at t − 1, and step 0 sees `first`."""
    return jnp.concatenate([jnp.full((1, *x.shape[1:]), first, x.dtype), x[:-1]])


@dataclass(frozen=True)
class SoftmaxRegression(AttentionRegression):
    """Softmax attention; steps with missing values are taken out."""

    def read(self, params: ParamsAttentionRegression, steps: Steps) -> Float[Array, "T m"]:
        """See :meth:`AttentionRegression.read`."""
        y, seen, u = steps
        times = jnp.arange(len(u))
        age = (times[:, None] - times).astype(u.dtype)
        bias = jnp.where(shifted(seen, True), -params.recency * age, -jnp.inf)
        bias = bias.at[:, 0].set(0.0)  # the key of zeros does not age
        keys, values = shifted(u @ params.keys.T), shifted(y @ params.values.T)
        return softmax_attention(u @ params.queries.T, keys, values, bias=bias)

    def simulate(
        self, params: ParamsAttentionRegression, num_lags: int, observed: Observed, ahead: Ahead
    ) -> Float[np.ndarray, "N n H m"]:
        """Draw paths, in O(T) a step."""
        return draw_softmax_paths(params, num_lags, observed, ahead)


@dataclass(frozen=True)
class TokenRegression(AttentionRegression):
    """An attention that takes nothing but queries, keys and values.

    The recency -λ (t - s) is that of two more features; the key of zeros has none of them. A step
    with missing values is a token whose value and whose key, but for the recency, are zeros.
    """

    @abstractmethod
    def attend(self, params: ParamsAttentionRegression, tokens: Tokens) -> Float[Array, "T m"]:
        """What is recalled, token t included."""

    def tokens(self, params: ParamsAttentionRegression, steps: Steps) -> Tokens:
        """The token of each step; no step is shifted."""
        y, seen, u = steps
        keys = jnp.where(seen[:, None], u @ params.keys.T, 0.0)
        return Tokens(u @ params.queries.T, keys, y @ params.values.T)

    def read(self, params: ParamsAttentionRegression, steps: Steps) -> Float[Array, "T m"]:
        """See :meth:`AttentionRegression.read`."""
        q, k, v = self.tokens(params, steps)
        q, k = _with_recency(params.recency, q, shifted(k))
        return self.attend(params, Tokens(q, k, shifted(v)))


def _with_recency(
    recency: Float[Array, ""], q: Float[Array, "T *H d"], k: Float[Array, "T *H d"]
) -> tuple[Float[Array, "T *H d+2"], Float[Array, "T *H d+2"]]:
    """Queries and keys whose scores are qᵀk / √d - λ (t - s), and zero for the key of zeros.

    Time is counted from the last step, so that what is close to it is exact in single precision.
    """
    steps, d = len(q), q.shape[-1]
    ones = jnp.ones((*q.shape[:-1], 1), q.dtype)
    time = recency * (jnp.arange(steps) - (steps - 1)).astype(q.dtype)
    time = time.reshape(steps, *(1,) * (q.ndim - 1)) * ones
    # The attention divides by the root of the new width.
    q = jnp.concatenate([q * d**-0.5, ones, -time], axis=-1) * (d + 2) ** 0.5
    return q, jnp.concatenate([k, time, ones], axis=-1).at[0].set(0.0)
