"""Arrays of the attention regressions: parameters, and what is known of each step."""

from typing import NamedTuple

from jaxtyping import Array, Bool, Float

from ssmlin.attention import ParamsKArAt, ParamsMultiToken

#: Parameters of the attention itself; most have none.
OwnParams = tuple[()] | ParamsMultiToken | ParamsKArAt


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

    queries: Float[Array, "d_k p+1"]
    keys: Float[Array, "d_k p+1"]
    values: Float[Array, "m m"]
    recency: Float[Array, ""]
    weights: Float[Array, "m p+1"]
    noise: Float[Array, "m m"]
    own: OwnParams = ()


class Shapes(NamedTuple):
    """Shapes of the projections of an attention."""

    queries: tuple[int, int]
    keys: tuple[int, int]
    values: tuple[int, int]


class Steps(NamedTuple):
    """What is known of each step of a series.

    Attributes:
        y: the emissions, zeros where they are missing.
        seen: which steps are wholly observed.
        u: lagged values, inputs and a one.
    """

    y: Float[Array, "T m"]
    seen: Bool[Array, " T"]
    u: Float[Array, "T p+1"]


class Tokens(NamedTuple):
    """Queries, keys and values, (T, d), or (T, H, d) with heads."""

    queries: Float[Array, "T *H d"]
    keys: Float[Array, "T *H d"]
    values: Float[Array, "T *H v"]
