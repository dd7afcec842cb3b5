r"""The attention baselines: regression on the past through a causal attention.

$$y_t = D u_t + d + \sum_{s < t} a_{ts} \, W_v y_s + \varepsilon_t, \quad
a_{ts} \propto \exp\big(d_k^{-1/2} (W_q u_t)^\top W_k u_s - \lambda (t - s)\big)$$

u holds lagged values and inputs; what followed in similar contexts is recalled, recent steps more
(λ > 0, as in ALiBi, arXiv 2108.12409). A key of zeros with the value 0 is always there to look at.
That is softmax attention; each attention of :mod:`ssmlin.attention` can stand in its place, see
:data:`ATTENTIONS`.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from dynamax.parameters import ParameterProperties, trainable_flags
from dynamax.utils.bijectors import RealToPSDBijector
from jaxtyping import Array, Bool, Float, Int
from tensorflow_probability.substrates.jax import bijectors as tfb
from tensorflow_probability.substrates.jax import distributions as tfd

from ssmlin import _checks
from ssmlin.attention import (
    ParamsKArAt,
    ParamsMultiToken,
    grouped_attention,
    init_karat,
    init_multi_token,
    karat_weights,
    multi_token_attention,
    slim_attention,
    softmax_attention,
    xattention,
)
from ssmlin.comparison.baselines.autoregression import residual_covariance
from ssmlin.forecasting import (
    Ahead,
    Fitted,
    Observed,
    Predictive,
    known_lags,
    lags_and_inputs,
    last_values,
    least_squares,
)
from ssmlin.learning import fit_sgd

#: The scores of all pairs of steps are held at once.
MAX_STEPS = 20_000
#: Paths are sampled together as long as they have fewer pairs of steps.
_PAIRS_AT_ONCE = 2**22

Shape = tuple[int, int]


class ParamsAttentionRegression(NamedTuple):
    """Parameters.

    Attributes:
        queries: W_q and a bias, (d_k, p + 1).
        keys: W_k and a bias, (d_k, p + 1).
        values: W_v, (m, m).
        recency: λ > 0, ().
        weights: D and d, (m, p + 1).
        noise: the covariance of ε, (m, m).
        own: parameters of the attention itself; () where it has none.
    """

    queries: Any
    keys: Any
    values: Any
    recency: Any
    weights: Any
    noise: Any
    own: Any = ()


class AttentionRegression(ABC):
    """The model of this module, for :func:`ssmlin.learning.fit_sgd`; hashable.

    Its prior is centred at the autoregression D u_t + d.
    """

    def shapes(self, m: int, width: int, key_dim: int) -> tuple[Shape, Shape, Shape]:
        """Shapes of queries, keys and values; the width is p + 1."""
        return (key_dim, width), (key_dim, width), (m, m)

    def init_own(self, key: Array) -> Any:
        """Parameters of the attention itself."""
        del key
        return ()

    def log_prior_own(self, own: Any) -> Float[Array, ""] | float:
        """Their log prior density."""
        del own
        return 0.0

    @abstractmethod
    def read(
        self,
        params: ParamsAttentionRegression,
        y: Float[Array, "T m"],
        seen: Bool[Array, " T"],
        u: Float[Array, "T width"],
    ) -> Float[Array, "T m"]:
        """What attention recalls at each step from those before it.

        Args:
            params: the parameters.
            y: the emissions, zeros where they are missing.
            seen: where they are not.
            u: inputs and a one.

        Returns:
            What is added to the autoregression.
        """

    def log_prior(self, params: ParamsAttentionRegression) -> Float[Array, ""]:
        """Log prior density: keys, queries and values shrink, λ is about 0.05."""
        return (
            tfd.Normal(0.0, 1.0).log_prob(params.queries).sum()
            + tfd.Normal(0.0, 1.0).log_prob(params.keys).sum()
            + tfd.Normal(0.0, 0.1).log_prob(params.values).sum()
            + tfd.LogNormal(jnp.log(0.05), 1.5).log_prob(params.recency)
            + tfd.Normal(0.0, 1.0).log_prob(params.weights).sum()
            + self.log_prior_own(params.own)
        )

    def means(
        self,
        params: ParamsAttentionRegression,
        emissions: Float[Array, "T m"],
        inputs: Float[Array, "T p"],
    ) -> Float[Array, "T m"]:
        """E[y_t | y_{1:t-1}]."""
        u = jnp.concatenate([inputs, jnp.ones((len(inputs), 1), inputs.dtype)], axis=1)
        seen = jnp.isfinite(emissions).all(axis=1)
        y = jnp.where(seen[:, None], emissions, 0.0)
        return u @ params.weights.T + self.read(params, y, seen, u)

    def log_predictive(
        self, params: ParamsAttentionRegression, emissions: Float[Array, "T m"], inputs: Any
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
        """Paths: the steps sampled so far are put behind the series, and the next one predicted.

        All steps are predicted anew for each one that is sampled: O(T²) a step of a path.
        """
        end = int(ahead.origins.max()) + ahead.horizon  # the longest series of all; no later step
        y, u = _arrays(observed.until(end), num_lags)
        root = np.linalg.cholesky(np.asarray(params.noise, np.float64))
        size = (len(ahead.origins), ahead.num_samples, ahead.horizon, y.shape[1])
        noise = np.random.default_rng(ahead.seed).normal(size=size) @ root.T
        lags, future = last_values(observed.values, ahead, num_lags), ahead.future(observed.inputs)
        rest = (jnp.asarray(x, y.dtype) for x in (lags, future, noise))
        paths = _paths(self, params, y, u, jnp.asarray(ahead.origins), *rest)
        return np.asarray(paths, np.float64)


def _shifted(x: Array, first: float = 0.0) -> Array:
    """Step t sees what was there at t - 1; before the first step is the key of zeros."""
    return jnp.concatenate([jnp.full((1, *x.shape[1:]), first, x.dtype), x[:-1]])


@dataclass(frozen=True)
class SoftmaxRegression(AttentionRegression):
    """Softmax attention; steps with missing values are taken out."""

    def read(self, params: Any, y: Array, seen: Array, u: Array) -> Array:
        """See :meth:`AttentionRegression.read`."""
        times = jnp.arange(len(u))
        age = (times[:, None] - times).astype(u.dtype)
        bias = jnp.where(_shifted(seen, True), -params.recency * age, -jnp.inf)
        bias = bias.at[:, 0].set(0.0)  # the key of zeros does not age
        keys, values = _shifted(u @ params.keys.T), _shifted(y @ params.values.T)
        return softmax_attention(u @ params.queries.T, keys, values, bias=bias)

    def simulate(self, params: Any, num_lags: int, observed: Observed, ahead: Ahead) -> np.ndarray:
        """Paths, in O(T) a step."""
        return _simulate_softmax(params, num_lags, observed, ahead)


@dataclass(frozen=True)
class TokenRegression(AttentionRegression):
    """An attention that takes nothing but queries, keys and values.

    The recency -λ (t - s) is that of two more features; the key of zeros has none of them. A step
    with missing values is a token whose value and whose key, but for the recency, are zeros.
    """

    @abstractmethod
    def attend(self, params: Any, q: Array, k: Array, v: Array) -> Array:
        """What is recalled, (T, m)."""

    def tokens(self, params: Any, y: Array, seen: Array, u: Array) -> tuple[Array, Array, Array]:
        """Queries, keys and values, (T, d) or (T, H, d); no step is shifted."""
        keys = jnp.where(seen[:, None], u @ params.keys.T, 0.0)
        return u @ params.queries.T, keys, y @ params.values.T

    def read(self, params: Any, y: Array, seen: Array, u: Array) -> Array:
        """See :meth:`AttentionRegression.read`."""
        q, k, v = self.tokens(params, y, seen, u)
        return self.attend(params, *_with_recency(params.recency, q, _shifted(k)), _shifted(v))


def _with_recency(recency: Array, q: Array, k: Array) -> tuple[Array, Array]:
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


@dataclass(frozen=True)
class SlimRegression(TokenRegression):
    r"""Slim attention: one square W_K, and values that are linear in the keys, $V = K W_{KV}$.

    A key holds all of $x_s = (y_s, u_s, 1)$, so W_K is (D, D) with D = m + p + 1, and what is
    recalled is linear in $y_s$ and $u_s$, not in $y_s$ alone. `values` is $D W_{KV}^\top$, so that
    a priori as much is recalled as by softmax attention.
    """

    def shapes(self, m: int, width: int, key_dim: int) -> tuple[Shape, Shape, Shape]:
        """The keys' size is that of x, whatever is asked for."""
        size = m + width
        return (size, width), (size, size), (m, size)

    def tokens(self, params: Any, y: Array, seen: Array, u: Array) -> tuple[Array, Array, Array]:
        """The values are never made."""
        x = jnp.concatenate([y, u], axis=1)
        keys = jnp.where(seen[:, None], x @ params.keys.T, 0.0)
        return u @ params.queries.T, keys, keys

    def attend(self, params: Any, q: Array, k: Array, v: Array) -> Array:
        """See :func:`ssmlin.attention.slim_attention`."""
        projection = params.values.T / len(params.keys)
        projection = jnp.pad(projection, ((0, 2), (0, 0)))  # the recency is no value
        return slim_attention(q[:, None], k[:, None], projection)[:, 0]


@dataclass(frozen=True)
class XAttentionRegression(TokenRegression):
    """Block-sparse attention; the blocks are chosen by the steps before one's own block.

    The gradient is that of the chosen blocks; their choice has none. All scores are made, so it
    is no faster than softmax attention.
    """

    threshold: float = 0.9
    block_size: int = 16
    stride: int = 4

    def attend(self, params: Any, q: Array, k: Array, v: Array) -> Array:
        """See :func:`ssmlin.attention.xattention`."""
        return xattention(
            q, k, v, threshold=self.threshold, block_size=self.block_size, stride=self.stride,
            method="masked", choice="before",
        )  # fmt: skip


@dataclass(frozen=True)
class GroupedRegression(TokenRegression):
    """Attention to the means of groups; the key of zeros fills a group of its own."""

    group_size: int = 4

    def attend(self, params: Any, q: Array, k: Array, v: Array) -> Array:
        """See :func:`ssmlin.attention.grouped_attention`."""
        extra = self.group_size - 1
        q, k, v = (jnp.pad(x, ((extra, 0), (0, 0))) for x in (q, k, v))
        return grouped_attention(q, k, v, group_size=self.group_size)[extra:]


@dataclass(frozen=True)
class MultiTokenRegression(TokenRegression):
    """Multi-token attention; heads are mixed and added, without a norm, and start at softmax."""

    num_heads: int = 2
    query_size: int = 3
    key_size: int = 3

    def shapes(self, m: int, width: int, key_dim: int) -> tuple[Shape, Shape, Shape]:
        """Those of all heads below each other."""
        heads = self.num_heads
        return (heads * key_dim, width), (heads * key_dim, width), (heads * m, m)

    def init_own(self, key: Array | None = None) -> ParamsMultiToken:
        """The identity."""
        return init_multi_token(self.num_heads, None, self.query_size, self.key_size)

    def log_prior_own(self, own: ParamsMultiToken) -> Float[Array, ""]:
        """Centred at the identity."""
        centre = self.init_own()
        return (
            tfd.Normal(centre.kernel, 0.3).log_prob(own.kernel).sum()
            + tfd.Normal(centre.mixing, 0.3).log_prob(own.mixing).sum()
        )

    def tokens(self, params: Any, y: Array, seen: Array, u: Array) -> tuple[Array, Array, Array]:
        """Those of each head."""
        q, k, v = super().tokens(params, y, seen, u)
        shape = (len(u), self.num_heads, -1)
        return q.reshape(shape), k.reshape(shape), v.reshape(shape)

    def attend(self, params: Any, q: Array, k: Array, v: Array) -> Array:
        """See :func:`ssmlin.attention.multi_token_attention`."""
        return multi_token_attention(params.own, q, k, v).sum(axis=1)


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
        """Random; the small W_v leaves the start close to the autoregression."""
        return init_karat(key, self.window, self.rank, self.num_frequencies)

    def log_prior_own(self, own: ParamsKArAt) -> Float[Array, ""]:
        """Shrinks."""
        return sum((tfd.Normal(0.0, 1.0).log_prob(x).sum() for x in own), jnp.zeros(()))

    def read(self, params: Any, y: Array, seen: Array, u: Array) -> Array:
        """See :meth:`AttentionRegression.read`."""
        q, k, v = self.tokens(params, y, seen, u)
        return self.attend(params, q, _shifted(k), _shifted(v))

    def attend(self, params: Any, q: Array, k: Array, v: Array) -> Array:
        """See :func:`ssmlin.attention.karat_weights`; row t sees the last tokens up to t."""
        last = self.window - 1
        places = jnp.arange(self.window)
        in_window = jnp.arange(len(q))[:, None] + places
        k, v = (jnp.pad(x, ((last, 0), (0, 0)))[in_window] for x in (k, v))
        scores = jnp.einsum("td,tsd->ts", q, k) * q.shape[1] ** -0.5
        fading = jnp.exp(-params.recency * (last - places))
        return jnp.einsum(
            "ts,s,tsm->tm", karat_weights(params.own, scores, causal=False), fading, v
        )


#: The attentions by name, each with the model that reads by it.
ATTENTIONS: dict[str, type[AttentionRegression]] = {
    "softmax": SoftmaxRegression,
    "slim": SlimRegression,
    "xattention": XAttentionRegression,
    "grouped": GroupedRegression,
    "multi_token": MultiTokenRegression,
    "karat": KArAtRegression,
}


@partial(jax.jit, static_argnums=0)
def _means(model: Any, params: Any, emissions: Array, inputs: Array) -> Array:
    return model.means(params, emissions, inputs)


def _arrays(observed: Observed, num_lags: int) -> tuple[Array, Array]:
    """Emissions and inputs; the first steps serve as lags only.

    Raises:
        ValueError: a missing value that is a lag of a later step, since what attention recalls
            would have to be integrated over it.
    """
    observed = known_lags(observed, num_lags, "an attention regression")
    y = jnp.asarray(observed.values, jnp.float32).at[:num_lags].set(jnp.nan)
    return y, jnp.asarray(lags_and_inputs(observed, num_lags), jnp.float32)


def fit_attention_regression(
    train: Observed,
    seed: int,
    *,
    num_lags: int,
    attention: str = "softmax",
    key_dim: int = 4,
    num_epochs: int = 500,
    **settings: Any,
) -> Fitted:
    """Fit by Adam from the least-squares autoregression, stopped by the end of the training part.

    Args:
        train: the standardised training series.
        seed: for the start.
        num_lags: how many lagged values are inputs.
        attention: a name in :data:`ATTENTIONS`.
        key_dim: d_k, of each head; slim attention has its own.
        num_epochs: at most so many epochs.
        **settings: of the attention, as the class in :data:`ATTENTIONS` names them.

    Returns:
        The fitted forecaster.

    Raises:
        ValueError: an unknown attention, a series of more than 20 000 steps, or one too short for
            the autoregression.
    """
    _checks.one_of("attention", attention, tuple(ATTENTIONS))
    if len(train.values) > MAX_STEPS:
        raise ValueError(
            f"values: expected at most {MAX_STEPS} steps, since attention compares all pairs; got "
            f"{len(train.values)}"
        )
    model, m = ATTENTIONS[attention](**settings), train.values.shape[1]

    def start(part: Observed) -> ParamsAttentionRegression:
        coefficients, residuals = least_squares(part, num_lags)
        key = jax.random.key(seed)
        q, k, v = jax.random.split(key, 3)
        queries, keys, values = model.shapes(m, len(coefficients), key_dim)
        params = ParamsAttentionRegression(
            jax.random.normal(q, queries),
            jax.random.normal(k, keys),
            0.03 * jax.random.normal(v, values),
            0.05,
            coefficients.T,
            residual_covariance(coefficients, residuals),
            model.init_own(jax.random.fold_in(key, 3)),
        )
        return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params)

    y, u = _arrays(train, num_lags)
    steps = len(train.values)
    params = start(train.until(steps - int(0.2 * steps)))
    props: Any = jax.tree.map(lambda _: ParameterProperties(), params)._replace(
        recency=ParameterProperties(constrainer=tfb.Softplus()),
        noise=ParameterProperties(constrainer=RealToPSDBijector()),
    )
    options: dict[str, Any] = {"progress": False, "inputs": u[None]}
    params, history = fit_sgd(model, params, props, y[None], num_epochs=num_epochs, **options)
    params = start(train)
    if history.best_epoch > 0:
        params, _ = fit_sgd(
            model, params, props, y[None], num_epochs=history.best_epoch + 1,
            validation_fraction=0.0, patience=None, **options,
        )  # fmt: skip
    noise = np.asarray(params.noise, np.float64)

    def predict(observed: Observed) -> Predictive:
        means = _means(model, params, *_arrays(observed, num_lags))
        return Predictive.gaussian(np.asarray(means, np.float64), noise)

    def simulate(observed: Observed, ahead: Ahead) -> np.ndarray:
        return model.simulate(params, num_lags, observed, ahead)

    sizes = [int(np.size(x)) for x in jax.tree.leaves(params)]
    flags: list[Any] = trainable_flags(props)
    validation = -float(history.scores[history.best_epoch]) * m
    count = sum(size for size, is_free in zip(sizes, flags, strict=True) if is_free)
    return Fitted(predict, count, simulate, validation)


@partial(jax.jit, static_argnums=0)
def _paths(
    model: Any,
    params: Any,
    emissions: Float[Array, "T m"],
    inputs: Float[Array, "T p"],
    origins: Int[Array, " N"],
    lags: Float[Array, "N num_lags m"],
    future: Float[Array, "N H k"],
    noise: Float[Array, "N n H m"],
) -> Float[Array, "N n H m"]:
    """Paths, whose steps stand behind those of the series; what comes after them is missing."""
    steps = jnp.arange(len(emissions))
    horizon = noise.shape[2]
    at_once = max(1, _PAIRS_AT_ONCE // len(emissions) ** 2)

    def from_origin(one: tuple[Array, Array, Array, Array]) -> Array:
        origin, lags, future, noise = one
        known = (steps < origin)[:, None]
        start = (jnp.where(known, emissions, jnp.nan), jnp.where(known, inputs, 0.0), lags)

        def step(carry: Any, now: tuple[Array, Array, Array]) -> tuple[Any, Array]:
            (y, u, lags), (t, outside, noise) = carry, now
            u = u.at[t].set(jnp.concatenate([lags.ravel(), outside]))
            new = model.means(params, y, u)[t] + noise
            y = y.at[t].set(new)
            return (y, u, jnp.concatenate([new[None], lags])[: len(lags)]), new

        def path(noise: Array) -> Array:
            return jax.lax.scan(step, start, (origin + jnp.arange(horizon), future, noise))[1]

        return jax.lax.map(path, noise, batch_size=at_once)

    return jax.lax.map(from_origin, (origins, lags, future, noise))


def _simulate_softmax(
    params: ParamsAttentionRegression, num_lags: int, observed: Observed, ahead: Ahead
) -> np.ndarray:
    """Paths, whose steps are looked at as those before them."""
    queries, keys, values, recency, weights, noise = (np.asarray(x, np.float64) for x in params[:6])
    rng, n, horizon = np.random.default_rng(ahead.seed), ahead.num_samples, ahead.horizon
    m = known_lags(observed, num_lags, "an attention regression").values.shape[1]
    root = np.linalg.cholesky(noise)
    u = np.column_stack([lags_and_inputs(observed, num_lags), np.ones(len(observed.values))])
    seen = np.isfinite(observed.values).all(axis=1)
    seen[:num_lags] = False
    future = ahead.future(observed.inputs)
    lags = last_values(observed.values, ahead, num_lags)
    paths = np.empty((len(ahead.origins), n, horizon, m))
    for i, origin in enumerate(ahead.origins):
        there = np.flatnonzero(seen[:origin])
        known_keys, known_values = u[there] @ keys.T, observed.values[there] @ values.T
        history = np.broadcast_to(lags[i], (n, num_lags, m))
        new_keys = np.zeros((n, 0, len(keys)))
        new_values = np.zeros((n, 0, m))
        for h in range(horizon):
            outside = np.broadcast_to(future[i, h], (n, future.shape[-1]))
            now = np.concatenate([history.reshape(n, -1), outside, np.ones((n, 1))], axis=1)
            q = now @ queries.T / np.sqrt(len(keys))
            # Step s stands in the place after it, so its age is one less than t - s.
            old = q @ known_keys.T - recency * (origin + h - there - 1)
            new = np.einsum("nd,nhd->nh", q, new_keys) - recency * np.arange(h - 1, -1, -1)
            scores = np.concatenate([np.zeros((n, 1)), old, new], axis=1)
            share = np.exp(scores - scores.max(axis=1, keepdims=True))
            share /= share.sum(axis=1, keepdims=True)
            read = share[:, 1 : 1 + len(there)] @ known_values
            read += np.einsum("nh,nhm->nm", share[:, 1 + len(there) :], new_values)
            y = now @ weights.T + read + rng.normal(size=(n, m)) @ root.T
            paths[i, :, h] = y
            new_keys = np.concatenate([new_keys, (now @ keys.T)[:, None]], axis=1)
            new_values = np.concatenate([new_values, (y @ values.T)[:, None]], axis=1)
            history = np.concatenate([y[:, None], history], axis=1)[:, :num_lags]
    return paths
